//! Images: found by their labels, pulled, listed and removed one by one.
//!
//! An image is identified by its id alone.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;

use bollard::{
    models::ImageSummary,
    query_parameters::{ListImagesOptions, RemoveImageOptions, TagImageOptions},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use serde::Deserialize;

use super::dialect::Dialect;
use super::engine::{Docker, label_filter, refusal};
use super::error::Error;
use super::registries::Registries;

/// Bytes of a line about the progress of a pull; the Engine's have some hundred.
const MAX_LINE: usize = 1 << 20;

/// Most listings of images of podman that are tried while other images are removed.
const MAX_LISTINGS: usize = 10;

/// The settings of an image for the containers made from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The paths of its `VOLUME`s, as the Engine reports them.
    pub volumes: Vec<String>,
    /// Its `WORKDIR`, or "".
    pub working_dir: String,
    /// Its variables, as `NAME=value`.
    pub environment: Vec<String>,
}

/// An image or a layer on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundImage {
    /// Its id (`sha256:…`).
    pub id: String,
    /// The id of the image that it is based on, if the Engine knows it.
    pub parent: Option<String>,
    /// Its names, as `repository:tag`.
    pub names: Vec<String>,
    /// Its labels, including inherited ones.
    pub labels: BTreeMap<String, String>,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// Its size in bytes, including its parent.
    pub size: u64,
}

/// The result of a removal of images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images and layers removed.
    pub count: usize,
    /// Bytes of disk freed.
    pub bytes: u64,
}

impl Docker {
    /// The ids of the images that carry all these labels. An image that a user made from one of ours carries
    /// its labels too.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn labelled_images(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, Error> {
        // Some engines find images by one label only.
        let first = labels.iter().take(1);
        let first = first.map(|(key, value)| (key.clone(), value.clone()));
        let filter = label_filter(&first.collect());
        let found = self
            .list_images(ListImagesOptions {
                filters: Some(HashMap::from([("label".to_owned(), filter)])),
                ..ListImagesOptions::default()
            })
            .await?;
        let mut found: Vec<FoundImage> = found.into_iter().map(found_image).collect();
        found.retain(|image| {
            labels
                .iter()
                .all(|(key, value)| image.labels.get(key) == Some(value))
        });
        Ok(found.into_iter().map(|image| image.id).collect())
    }

    /// All images on the host, and all layers of the classic builder.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn images(&self) -> Result<Vec<FoundImage>, Error> {
        let found = self
            .list_images(ListImagesOptions {
                all: true,
                ..ListImagesOptions::default()
            })
            .await?;
        Ok(found.into_iter().map(found_image).collect())
    }

    async fn list_images(&self, options: ListImagesOptions) -> Result<Vec<ImageSummary>, Error> {
        let operation = "looking for images";
        let mut attempts = 1;
        loop {
            let found = self.call(operation, async |docker| {
                docker.list_images(Some(options.clone())).await
            });
            match found.await? {
                Err(error) if attempts < MAX_LISTINGS && self.is_lost_image(&error) => {
                    attempts += 1
                }
                found => return found.map_err(|error| self.failed(operation, error)),
            }
        }
    }

    /// podman lists no image if one is removed meanwhile.
    fn is_lost_image(&self, error: &bollard::errors::Error) -> bool {
        let is_lost =
            |(status, said): (u16, &str)| status == 500 && said.contains("image not known");
        self.dialect() == Dialect::Podman && refusal(error).is_some_and(is_lost)
    }

    /// The instruction that made the newest layer of an image, as the Engine reports it; empty if it is
    /// unknown.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn newest_instruction(&self, image: &str) -> Result<String, Error> {
        let operation = "reading the history of an image";
        let history = self.call(operation, async |docker| docker.image_history(image).await);
        let history = history.await?.map_err(|e| self.failed(operation, e))?;
        let newest = history.into_iter().next();
        Ok(newest.map(|layer| layer.created_by).unwrap_or_default())
    }

    /// Gives an image one more name, which another image loses if it has it.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn tag_image(&self, image: &str, name: &str) -> Result<(), Error> {
        let operation = "naming an image";
        let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
        let options = TagImageOptions {
            repo: Some(repository.to_owned()),
            tag: Some(tag.to_owned()),
        };
        let tagged = self.call(operation, async |docker| {
            docker.tag_image(image, Some(options)).await
        });
        tagged.await?.map_err(|e| self.failed(operation, e))
    }

    /// Removes an image, or one of its names while it has others. Returns false if a container, another image or,
    /// where `image` is an id, a second name needs it.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn remove_image(&self, image: &str) -> Result<bool, Error> {
        let options = RemoveImageOptions {
            noprune: true,
            ..RemoveImageOptions::default()
        };
        self.remove_image_with(image, options).await
    }

    /// The same; layers that only this image needed are removed as well.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn remove_image_and_layers(&self, image: &str) -> Result<bool, Error> {
        self.remove_image_with(image, RemoveImageOptions::default())
            .await
    }

    async fn remove_image_with(
        &self,
        image: &str,
        options: RemoveImageOptions,
    ) -> Result<bool, Error> {
        let operation = "removing an image";
        let removed = self.call(operation, async |docker| {
            docker.remove_image(image, Some(options), None).await
        });
        match removed.await? {
            Ok(_) => Ok(true),
            Err(error) => match refusal(&error) {
                Some((404, _)) => Ok(true),
                Some((409, _)) => Ok(false),
                _ => Err(self.failed(operation, error)),
            },
        }
    }

    /// The settings of an image for its containers.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Unreachable`], [`Error::Api`].
    pub async fn image_config(&self, image: &str) -> Result<ImageConfig, Error> {
        let operation = "looking at an image";
        let found = self.call(operation, async |docker| docker.inspect_image(image).await);
        let found = found.await?.map_err(|error| match refusal(&error) {
            Some((404, _)) => Error::NoSuchImage(image.to_owned()),
            _ => self.failed(operation, error),
        })?;
        let config = found.config.unwrap_or_default();
        Ok(ImageConfig {
            volumes: config.volumes.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            environment: config.env.unwrap_or_default(),
        })
    }

    /// Pulls one image, with the credentials of its registry if there are any; the error is a message, from the
    /// Engine or from us.
    pub(super) async fn pull(&self, image: &str, registries: &Registries) -> Result<(), String> {
        let operation = "pulling an image";
        let mut request = hyper::Request::post(address(image)).header("host", "docker");
        if let Some(credentials) = registries.header(image) {
            request = request.header("x-registry-auth", credentials);
        }
        let body =
            Empty::<Bytes>::new().map_err(|never: Infallible| -> io::Error { match never {} });
        // The credentials are ASCII; what cannot be in a request is the name of the image.
        let request = request.body(body).map_err(|error| error.to_string())?;
        let lost = |_| "the Docker Engine went away".to_owned();
        let answer = self
            .send(operation, MAX_LINE, request)
            .await
            .map_err(lost)?;
        let mut answer = answer.map_err(|message| {
            message.unwrap_or_else(|| "the Docker Engine failed without a message".to_owned())
        })?;
        while let Some(line) = answer.next_line().await {
            if let Some(error) = error_of(&line.map_err(lost)?) {
                return Err(error);
            }
        }
        Ok(())
    }
}

/// The address of a pull.
fn address(image: &str) -> String {
    // Without a tag the Engine would pull all tags.
    let name = image.rsplit('/').next().unwrap_or(image);
    let tag = (!name.contains([':', '@'])).then_some(("tag", "latest"));
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("fromImage", image).extend_pairs(tag);
    format!("/images/create?{}", query.finish())
}

/// The error in a line about the progress of a pull.
fn error_of(line: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        error: Option<String>,
    }
    serde_json::from_str::<Line>(line).ok()?.error
}

fn found_image(summary: ImageSummary) -> FoundImage {
    let is_name = |name: &String| !name.starts_with("<none>");
    FoundImage {
        names: summary.repo_tags.into_iter().filter(is_name).collect(),
        id: summary.id,
        parent: Some(summary.parent_id).filter(|parent| !parent.is_empty()),
        labels: summary.labels.into_iter().collect(),
        created: summary.created,
        size: u64::try_from(summary.size).unwrap_or(0),
    }
}
