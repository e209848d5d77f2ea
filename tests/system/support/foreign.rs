//! Objects of another user of the same Engine that look like ours: an image with our labels, but of
//! another instance; a running and an ended container of it; and a container with an unknown label.
//! mistryd may touch none of them. All are removed when [`ForeignObjects`] is dropped.

use std::collections::BTreeMap;

use mistry::docker::{ContainerSpec, Docker, ImageSpec, Limits, tag_for};

use super::engine::{Engine, socket};
use super::http::within_timeout;
use super::{environment, word};

/// A label that means nothing to mistry.
const OWN: &str = "mistry-test.foreign";

pub struct ForeignObjects {
    engine: Engine,
    labels: [String; 2],
    image: String,
    /// Id of each, and whether it runs.
    containers: Vec<(String, bool)>,
}

impl ForeignObjects {
    /// With an image that carries the labels of a project.
    pub fn with_image_like(project: &str) -> ForeignObjects {
        let label = word();
        let own = BTreeMap::from([(OWN.to_owned(), label.clone())]);
        let ours = BTreeMap::from([
            ("mistry.instance".to_owned(), format!("foreign-{label}")),
            ("mistry.job".to_owned(), "0".repeat(64)),
            ("mistry.project".to_owned(), project.to_owned()),
        ]);
        let busybox = std::fs::read(environment("MISTRY_TEST_BUSYBOX")).unwrap();
        let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\n\
            ENTRYPOINT [\"/bin/busybox\", \"tail\", \"-f\", \"/dev/null\"]\n";
        let context =
            crate::docker::context::Context::of(dockerfile).file("busybox", 0o755, busybox);
        let (image, containers) = within_timeout(async {
            let docker = Docker::new(&socket()).unwrap();
            let spec = ImageSpec {
                tag: tag_for(&format!("foreign-{label}")),
                labels: ours.clone(),
                build_args: BTreeMap::new(),
                optional_args: vec!["uid".to_owned()],
                target: String::new(),
                registries: mistry::docker::Registries::default(),
                network: "none".to_owned(),
                fresh: false,
                builder: mistry::docker::Builder::Auto,
                dockerfile: mistry::docker::Dockerfile::default(),
                secrets: mistry::docker::BuildSecrets::default(),
                scratch: std::path::PathBuf::new(),
            };
            let (output, _) = tokio::sync::mpsc::channel(1);
            let image = docker
                .build_image(&spec, |_| context.stream(), output)
                .await
                .unwrap();
            let mut containers = Vec::new();
            for (number, (labels, runs)) in [(&ours, true), (&ours, false), (&own, true)]
                .into_iter()
                .enumerate()
            {
                let spec = ContainerSpec {
                    name: format!("mistry-foreign-{label}-{number}"),
                    image: image.clone(),
                    labels: labels.clone(),
                    user: "0:0".to_owned(),
                    cap_drop: Vec::new(),
                    data: std::env::temp_dir(),
                    mounts: BTreeMap::new(),
                    network: "none".to_owned(),
                    limits: Limits::default(),
                    options: mistry::docker::RunOptions::default(),
                    environment: Vec::new(),
                    log_bytes: 1 << 20,
                    slice: None,
                };
                let container = docker.create(&spec).await.unwrap();
                docker.start(&container).await.unwrap();
                if !runs {
                    docker.kill(&container).await.unwrap();
                    docker.wait(&container).await.unwrap();
                }
                containers.push((container, runs));
            }
            (image, containers)
        });
        ForeignObjects {
            engine: Engine::new(),
            labels: [
                format!("mistry.instance=foreign-{label}"),
                format!("{OWN}={label}"),
            ],
            image,
            containers,
        }
    }

    #[track_caller]
    pub fn assert_unchanged(&self) {
        for (container, runs) in &self.containers {
            let state = self.engine.container(container).state.unwrap();
            assert_eq!(state.running, Some(*runs));
        }
        assert_eq!(
            self.engine.image(&self.image).id.as_ref(),
            Some(&self.image)
        );
    }
}

impl Drop for ForeignObjects {
    fn drop(&mut self) {
        for label in &self.labels {
            self.engine.sweep(label);
        }
    }
}
