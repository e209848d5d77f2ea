//! The module `docker` against a real Docker Engine, at `$DOCKER_HOST` or the usual place.
//!
//! Images are made `FROM scratch` with the host's static busybox, so that no registry is needed. All
//! that a test makes carries a random label of its own and is removed, also when it fails.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    panic::{AssertUnwindSafe, resume_unwind},
    path::{Path, PathBuf},
    pin::pin,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use mistry::docker::{ContainerSpec, Docker, Error, Exit, ImageSpec, Limits, Stream};
use tokio::sync::mpsc;

use crate::support::{environment, word};

// The fast tests use more of it.
#[allow(dead_code)]
#[path = "../it/support/context.rs"]
pub(crate) mod context;
use context::Context;

const LABEL: &str = "mistry.instance";

/// A Docker Engine, and what one test has on it.
struct TestEngine {
    docker: Docker,
    socket: PathBuf,
    instance: String,
    data: tempfile::TempDir,
}

/// Runs a test and removes whatever it has made.
async fn with_engine(test: impl AsyncFnOnce(&TestEngine)) {
    let socket = crate::support::engine::socket();
    let engine = TestEngine {
        docker: Docker::new(&socket).unwrap(),
        socket,
        instance: format!("test-{}", word()),
        data: tempfile::tempdir().unwrap(),
    };
    engine.docker.ping().await.expect("a Docker Engine runs");
    let ended = AssertUnwindSafe(test(&engine)).catch_unwind().await;
    engine.sweep().await;
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
}

impl TestEngine {
    fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(LABEL.to_owned(), self.instance.clone())])
    }

    async fn sweep(&self) {
        for found in self.docker.containers(&self.labels()).await.unwrap() {
            self.docker.remove(&found.id).await.unwrap();
        }
        let socket = self.socket.to_str().unwrap();
        let raw = bollard::Docker::connect_with_unix(socket, 120, bollard::API_DEFAULT_VERSION);
        let raw = raw.unwrap();
        let filter = vec![format!("{LABEL}={}", self.instance)];
        let options = bollard::query_parameters::ListImagesOptions {
            filters: Some(HashMap::from([("label".to_owned(), filter)])),
            ..Default::default()
        };
        for image in raw.list_images(Some(options)).await.unwrap() {
            let options = bollard::query_parameters::RemoveImageOptions {
                force: true,
                ..Default::default()
            };
            // One may have gone with another whose layer it was.
            let _ = raw.remove_image(&image.id, Some(options), None).await;
        }
    }

    fn image(&self) -> ImageSpec {
        ImageSpec {
            tag: mistry::docker::tag_for(&self.instance),
            labels: self.labels(),
            build_args: BTreeMap::from([("uid".to_owned(), "1000".to_owned())]),
            optional_args: vec!["uid".to_owned()],
            target: String::new(),
            registries: mistry::docker::Registries::default(),
            network: "none".to_owned(),
            fresh: false,
            builder: mistry::docker::Builder::Auto,
            dockerfile: mistry::docker::Dockerfile::default(),
            secrets: mistry::docker::BuildSecrets::default(),
            scratch: std::path::PathBuf::new(),
        }
    }

    fn container(&self, image: &str) -> ContainerSpec {
        ContainerSpec {
            name: format!("mistry-{}", self.instance),
            image: image.to_owned(),
            labels: self.labels(),
            user: "0:0".to_owned(),
            cap_drop: Vec::new(),
            data: self.data.path().to_owned(),
            mounts: BTreeMap::new(),
            network: "none".to_owned(),
            limits: Limits::default(),
            options: mistry::docker::RunOptions::default(),
            environment: Vec::new(),
            log_bytes: 1 << 20,
            slice: None,
        }
    }

    async fn build(&self, spec: &ImageSpec, context: &Context) -> (Result<String, Error>, String) {
        context.build(&self.docker, spec).await
    }

    /// An image that runs this script.
    async fn script(&self, script: &str) -> String {
        let dockerfile = "FROM scratch\nCOPY bin /bin\nCOPY run.sh /run.sh\n\
            ARG uid\nENV UID_GIVEN=$uid\nENTRYPOINT [\"/run.sh\"]\n";
        let context = busybox(Context::of(dockerfile)).script("run.sh", script);
        let (image, output) = self.build(&self.image(), &context).await;
        image.unwrap_or_else(|e| panic!("{e}: {output}"))
    }

    /// What a container has written, to its end.
    async fn output(&self, id: &str) -> Vec<u8> {
        let pieces: Vec<_> = self
            .docker
            .logs(id, Default::default())
            .try_collect()
            .await
            .unwrap();
        pieces.iter().flat_map(|p| p.bytes.to_vec()).collect()
    }

    /// Runs an image to its end: exit, standard output, standard error.
    async fn run(&self, image: &str) -> (Exit, Vec<u8>, Vec<u8>) {
        let id = self.docker.create(&self.container(image)).await.unwrap();
        self.docker.start(&id).await.unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let read = self
            .docker
            .logs(&id, Default::default())
            .try_for_each(|piece| {
                match piece.stream {
                    Stream::Stdout => out.extend_from_slice(&piece.bytes),
                    Stream::Stderr => err.extend_from_slice(&piece.bytes),
                }
                std::future::ready(Ok(()))
            });
        let (read, exit) = tokio::join!(read, self.docker.wait(&id));
        read.unwrap();
        self.docker.remove(&id).await.unwrap();
        (exit.unwrap(), out, err)
    }
}

fn busybox(context: Context) -> Context {
    let binary = std::fs::read(environment("MISTRY_TEST_BUSYBOX")).unwrap();
    context
        .file("bin/busybox", 0o755, binary)
        .link("bin/sh", "busybox")
}

#[tokio::test]
async fn a_context_becomes_an_image_and_the_image_runs() {
    with_engine(async |engine| {
        let image = engine
            .script(
                "busybox printf 'out\\377\\n'; echo err >&2; busybox printf tail
                 echo \"$UID_GIVEN\" > /data/kept; exit 7",
            )
            .await;
        assert!(
            image.starts_with("sha256:") && image.len() == 7 + 64,
            "{image}"
        );
        let found = engine
            .docker
            .labelled_images(&engine.labels())
            .await
            .unwrap();
        assert_eq!(found, std::slice::from_ref(&image));
        let others = BTreeMap::from([(LABEL.to_owned(), "another".to_owned())]);
        assert_eq!(
            engine.docker.labelled_images(&others).await.unwrap(),
            [""; 0]
        );

        let (exit, out, err) = engine.run(&image).await;
        assert_eq!((exit.code, exit.oom_killed), (7, false));
        assert_eq!((&out[..], &err[..]), (&b"out\xff\ntail"[..], &b"err\n"[..]));
        let kept = std::fs::read_to_string(engine.data.path().join("kept")).unwrap();
        assert_eq!(kept, "1000\n");
    })
    .await;
}

#[tokio::test]
async fn an_image_that_cannot_be_built_reports_the_reason() {
    with_engine(async |engine| {
        let spec = engine.image();
        for (dockerfile, reason) in [
            (
                "FROM scratch\nCOPY bin /bin\nRUN echo so far && false\n",
                "non-zero code: 1",
            ),
            ("FROM scratch\nNONSENSE\n", "unknown instruction"),
            ("", "cannot be empty"),
            ("FROM scratch\nCOPY nothing /\n", "nothing"),
        ] {
            let context = busybox(Context::of(dockerfile));
            let (built, output) = engine.build(&spec, &context).await;
            let Err(Error::Build(said)) = built else {
                panic!("{built:?} {output}")
            };
            let said = said.to_lowercase();
            // The second words are podman's.
            let is_failed_step = reason.starts_with("non-zero") && said.contains("exit status 1");
            let is_empty = reason.contains("empty") && said.contains("no contents in");
            assert!(
                said.contains(reason) || is_failed_step || is_empty,
                "{said}"
            );
            assert_eq!(
                output.contains("so far"),
                dockerfile.contains("RUN"),
                "{output}"
            );
        }
        let (output, _text) = mpsc::channel(64);
        let context = |_: &[mistry::docker::Patch]| {
            stream::iter([Ok(Bytes::new()), Err(io::Error::other("torn"))])
        };
        let error = engine
            .docker
            .build_image(&spec, context, output)
            .await
            .unwrap_err();
        let Error::Context(source) = error else {
            panic!("{error:?}")
        };
        assert_eq!(source.to_string(), "torn");
    })
    .await;
}

#[tokio::test]
async fn a_fresh_build_falls_back_to_the_base_on_this_host() {
    with_engine(async |engine| {
        let base = engine.image();
        let context = busybox(Context::of("FROM scratch\nCOPY bin /bin\n"));
        engine.build(&base, &context).await.0.unwrap();
        let spec = ImageSpec {
            tag: format!("{}-child", base.tag),
            fresh: true,
            ..engine.image()
        };
        let context = Context::of(&format!("FROM {}\nRUN echo anew\n", base.tag));
        let (built, output) = engine.build(&spec, &context).await;
        let first = built.unwrap_or_else(|e| panic!("{e}: {output}"));
        assert!(output.contains("could not be pulled"), "{output}");
        // Nothing came from the cache, so the image is another, and the first has lost its tag.
        let (second, output) = engine.build(&spec, &context).await;
        assert_ne!(first, second.unwrap());
        assert!(output.contains("anew"), "{output}");
        let (key, value) = engine.labels().into_iter().next().unwrap();
        let images = engine.docker.images().await.unwrap();
        let dangling = images.iter().filter(|image| {
            image.names.is_empty() && image.labels.get(&key) == Some(&value) && image.id == first
        });
        for image in dangling {
            assert!(
                engine
                    .docker
                    .remove_image_and_layers(&image.id)
                    .await
                    .unwrap()
            );
        }
        let left = engine.docker.images().await.unwrap();
        assert!(left.iter().all(|image| image.id != first));
        let nowhere = Context::of("FROM mistry-test-is-nowhere\n");
        let (built, _) = engine.build(&spec, &nowhere).await;
        assert!(matches!(built, Err(Error::Build(_))), "{built:?}");
    })
    .await;
}

#[tokio::test]
async fn a_container_is_found_killed_and_removed() {
    with_engine(async |engine| {
        let image = engine.script("echo up; exec busybox sleep 600").await;
        let spec = engine.container(&image);
        let id = engine.docker.create(&spec).await.unwrap();
        let taken = engine.docker.create(&spec).await.unwrap_err();
        assert!(matches!(taken, Error::NameTaken(_)), "{taken:?}");
        let found = engine.docker.containers(&engine.labels()).await.unwrap();
        assert_eq!((found.len(), found[0].running), (1, false));

        engine.docker.start(&id).await.unwrap();
        let mut logs = pin!(engine.docker.logs(&id, Default::default()));
        assert_eq!(&logs.next().await.unwrap().unwrap().bytes[..], b"up\n");
        let found = engine.docker.containers(&engine.labels()).await.unwrap();
        assert_eq!((&found[0].id, found[0].running), (&id, true));

        let (exit, killed) = tokio::join!(engine.docker.wait(&id), engine.docker.kill(&id));
        killed.unwrap();
        assert_eq!(exit.unwrap().code, 137);
        assert!(logs.next().await.is_none());
        engine.docker.kill(&id).await.unwrap();
        engine.docker.remove(&id).await.unwrap();
        engine.docker.remove(&id).await.unwrap();
        for error in [
            engine.docker.start(&id).await.unwrap_err(),
            engine.docker.kill(&id).await.unwrap_err(),
            engine.docker.wait(&id).await.unwrap_err(),
            pin!(engine.docker.logs(&id, Default::default()))
                .next()
                .await
                .unwrap()
                .unwrap_err(),
        ] {
            assert!(matches!(error, Error::NoSuchContainer(_)), "{error:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_spec_that_cannot_be_met_creates_nothing() {
    with_engine(async |engine| {
        let missing = format!("sha256:{}", "0".repeat(64));
        let error = engine
            .docker
            .create(&engine.container(&missing))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::NoSuchImage(_)), "{error:?}");
        let image = engine.script("true").await;
        let spec = ContainerSpec {
            cap_drop: Vec::new(),
            data: engine.data.path().join("missing"),
            ..engine.container(&image)
        };
        let error = engine.docker.create(&spec).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        assert!(!Path::exists(&spec.data));
        assert!(
            engine
                .docker
                .containers(&engine.labels())
                .await
                .unwrap()
                .is_empty()
        );
    })
    .await;
}

#[tokio::test]
async fn a_user_that_is_not_root_has_no_capabilities_and_limits_hold() {
    with_engine(async |engine| {
        let image = engine
            .script("busybox id -u; busybox grep -E 'CapBnd|NoNewPrivs' /proc/self/status")
            .await;
        let spec = ContainerSpec {
            user: "1234:1234".to_owned(),
            limits: Limits {
                memory: Some(64 << 20),
                cpus: Some(0.5),
                pids: Some(50),
            },
            ..engine.container(&image)
        };
        let id = engine.docker.create(&spec).await.unwrap();
        engine.docker.start(&id).await.unwrap();
        let text = String::from_utf8(engine.output(&id).await).unwrap();
        assert!(text.starts_with("1234\n"), "{text}");
        assert!(text.contains("CapBnd:\t0000000000000000"), "{text}");
        assert!(text.contains("NoNewPrivs:\t1"), "{text}");
    })
    .await;
}

#[tokio::test]
async fn a_hundred_megabytes_in_one_line_are_read_in_bounded_memory() {
    const BYTES: u64 = 100 << 20;
    with_engine(async |engine| {
        let image = engine
            .script("busybox head -c 104857600 /dev/zero | busybox tr '\\000' x")
            .await;
        let spec = ContainerSpec {
            environment: Vec::new(),
            log_bytes: BYTES,
            ..engine.container(&image)
        };
        let id = engine.docker.create(&spec).await.unwrap();
        engine.docker.start(&id).await.unwrap();
        let (mut total, mut largest) = (0, 0);
        let mut logs = pin!(engine.docker.logs(&id, Default::default()));
        while let Some(piece) = logs.next().await {
            let bytes = piece.unwrap().bytes;
            assert!(bytes.iter().all(|&b| b == b'x'));
            total += bytes.len() as u64;
            largest = largest.max(bytes.len());
        }
        assert_eq!(total, BYTES);
        assert!(largest <= 4 << 20, "one piece of {largest} bytes");
        assert_eq!(engine.docker.wait(&id).await.unwrap().code, 0);
    })
    .await;
}

#[tokio::test]
async fn no_byte_of_many_short_lines_is_rotated_away() {
    const LINES: u64 = 300_000;
    with_engine(async |engine| {
        let image = engine
            .script("busybox yes '' | busybox head -n 300000; echo end >&2")
            .await;
        let spec = ContainerSpec {
            environment: Vec::new(),
            log_bytes: LINES + 4,
            ..engine.container(&image)
        };
        let id = engine.docker.create(&spec).await.unwrap();
        engine.docker.start(&id).await.unwrap();
        engine.docker.wait(&id).await.unwrap();
        // Read after the end, as after a restart: the Engine still has it from the first byte.
        assert_eq!(engine.output(&id).await.len() as u64, LINES + 4);
    })
    .await;
}

#[tokio::test]
async fn the_log_of_a_container_that_ends_at_once_is_whole() {
    with_engine(async |engine| {
        // What is written just before the end, and is no line, is what followers of old Engines lose.
        let image = engine
            .script("busybox seq 1 200; busybox printf tail; busybox sleep 0.1")
            .await;
        let whole: String = (1..=200)
            .map(|n| format!("{n}\n"))
            .chain(["tail".to_owned()])
            .collect();
        for _ in 0..10 {
            let (exit, out, _) = engine.run(&image).await;
            assert_eq!(exit.code, 0);
            assert_eq!(String::from_utf8(out).unwrap(), whole);
        }
    })
    .await;
}
