//! The Docker Engine as its owner uses it: list objects by label, inspect and remove them.

use std::collections::HashMap;
use std::path::PathBuf;

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, ContainerSummary, ImageInspect, ImageSummary};
use bollard::query_parameters as query;

/// Runs questions to the Engine one by one.
#[derive(Debug)]
pub struct Engine {
    runtime: tokio::runtime::Runtime,
    docker: Docker,
}

/// Where the Engine listens.
pub fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").ok();
    let path = host
        .as_deref()
        .and_then(|host| host.strip_prefix("unix://"));
    PathBuf::from(path.unwrap_or(mistry::docker::DEFAULT_SOCKET))
}

impl Engine {
    pub fn new() -> Engine {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let socket = socket();
        let docker = runtime.block_on(async {
            let path = socket.to_str().unwrap();
            let docker = Docker::connect_with_unix(path, 120, bollard::API_DEFAULT_VERSION).ok()?;
            docker.negotiate_version().await.ok()
        });
        let Some(docker) = docker else {
            panic!(
                "no Docker Engine answers at '{}': `make environment` starts one",
                socket.display()
            )
        };
        Engine { runtime, docker }
    }

    /// All containers with a label, such as `mistry.instance=x`, whether they run or not.
    pub fn containers(&self, label: &str) -> Vec<ContainerSummary> {
        let options = query::ListContainersOptions {
            all: true,
            filters: Some(labelled(label)),
            ..Default::default()
        };
        let listed = self.docker.list_containers(Some(options));
        self.runtime.block_on(listed).unwrap()
    }

    /// All images with a label, those that are only layers of others too.
    pub fn images(&self, label: &str) -> Vec<ImageSummary> {
        let options = query::ListImagesOptions {
            all: true,
            filters: Some(labelled(label)),
            ..Default::default()
        };
        let listed = || {
            let listed = self.docker.list_images(Some(options.clone()));
            self.runtime.block_on(listed)
        };
        // podman lists none if another test removes one meanwhile.
        let mut tries = (0..20).map(|_| listed());
        tries.find_map(Result::ok).expect("a list of images")
    }

    pub fn container(&self, id: &str) -> ContainerInspectResponse {
        let inspected = self
            .docker
            .inspect_container(id, None::<query::InspectContainerOptions>);
        self.runtime.block_on(inspected).unwrap()
    }

    pub fn image(&self, id: &str) -> ImageInspect {
        self.runtime
            .block_on(self.docker.inspect_image(id))
            .unwrap()
    }

    pub fn remove_container(&self, id: &str) {
        let options = query::RemoveContainerOptions {
            force: true,
            v: true,
            ..Default::default()
        };
        // It may be removed by others as well.
        let _ = self
            .runtime
            .block_on(self.docker.remove_container(id, Some(options)));
    }

    pub fn remove_image(&self, id: &str) {
        let options = query::RemoveImageOptions {
            force: true,
            ..Default::default()
        };
        // It may have gone with another whose layer it was.
        let _ = self
            .runtime
            .block_on(self.docker.remove_image(id, Some(options), None));
    }

    /// Removes every container and image with a label.
    pub fn sweep(&self, label: &str) {
        for container in self.containers(label) {
            self.remove_container(&container.id.unwrap_or_default());
        }
        // Layers go with the last image that is made of them, so the order does not matter.
        for image in self.images(label) {
            self.remove_image(&image.id);
        }
    }
}

fn labelled(label: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![label.to_owned()])])
}
