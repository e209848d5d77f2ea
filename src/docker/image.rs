//! Images: built from a tar stream, found by their labels, pruned by their labels.
//!
//! An image is known by its id alone. What the Engine prints while it builds is handed on as it comes.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use bollard::{
    errors::Error as Bollard,
    models::BuildInfo,
    query_parameters::{BuildImageOptions, ListImagesOptions, PruneImagesOptions},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::{Docker, Error, Labels, label_filter, refusal};

/// How often a build is begun whose cached layers are taken away: each time somebody must remove
/// images at just that moment.
const TRIES: usize = 3;

/// What to build, beside the context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// The reference that the image is given, from [`tag_for`](super::tag_for).
    pub tag: String,
    /// Labels of the image; what it is found by.
    pub labels: BTreeMap<String, String>,
    /// Values for the Dockerfile's `ARG`s.
    pub build_args: BTreeMap<String, String>,
    /// Network mode of the `RUN` steps; empty for the Engine's default.
    pub network: String,
    /// Pull the bases anew and use no cached step.
    pub fresh: bool,
}

/// What an image says of the containers that are made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The paths of its `VOLUME`s, as the Engine has them.
    pub volumes: Vec<String>,
    /// Its `WORKDIR`, or "".
    pub working_dir: String,
    /// Its variables, as `NAME=value`.
    pub environment: Vec<String>,
}

/// What [`Docker::prune_images`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images and layers removed.
    pub count: usize,
    /// Bytes of disk freed.
    pub bytes: u64,
}

impl Docker {
    /// The id of the newest image that carries all these labels, if there is one.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn find_image(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> Result<Option<String>, Error> {
        let doing = "looking for an image";
        let options = ListImagesOptions {
            filters: Some(HashMap::from([("label".to_owned(), label_filter(labels))])),
            ..ListImagesOptions::default()
        };
        let found = self.call(doing, async |docker| {
            docker.list_images(Some(options)).await
        });
        let found = found.await?.map_err(|e| self.failed(doing, e))?;
        let newest = found.into_iter().max_by_key(|image| image.created);
        Ok(newest.map(|image| image.id))
    }

    /// What an image says of its containers.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Unreachable`], [`Error::Api`].
    pub async fn image_config(&self, image: &str) -> Result<ImageConfig, Error> {
        let doing = "looking at an image";
        let found = self.call(doing, async |docker| docker.inspect_image(image).await);
        let found = found.await?.map_err(|error| match refusal(&error) {
            Some((404, _)) => Error::NoSuchImage(image.to_owned()),
            _ => self.failed(doing, error),
        })?;
        let config = found.config.unwrap_or_default();
        Ok(ImageConfig {
            volumes: config.volumes.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            environment: config.env.unwrap_or_default(),
        })
    }

    /// Builds an image and returns its id (`sha256:…`).
    ///
    /// `context` makes the tar stream; it is called again when a fresh build cannot pull its base and
    /// goes on with the one that is on this host, and when somebody who removes images has taken a
    /// layer that the build was to stand on: the Engine shares them between all builds. `output` gets the builder's text as it
    /// comes, and is dropped at the end; the build waits while it is full, and goes on when nobody
    /// listens. A dropped future cancels the build.
    ///
    /// # Errors
    /// [`Error::Build`] with the Engine's words when the image cannot be built; [`Error::Context`]
    /// when the context stream fails; [`Error::Unreachable`]; [`Error::Api`].
    pub async fn build_image<F, S>(
        &self,
        spec: &ImageSpec,
        context: F,
        output: mpsc::Sender<Bytes>,
    ) -> Result<String, Error>
    where
        F: Fn() -> S,
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        let spec = &ImageSpec {
            network: self.network_of_steps(&spec.network).await?,
            ..spec.clone()
        };
        let mut pull = spec.fresh;
        let mut tries = 1;
        loop {
            let note = match self.build_once(spec, pull, context(), &output).await {
                Ok(image) => return Ok(image),
                Err(Failure {
                    error: Error::Build(message),
                    at_base: true,
                }) if pull => {
                    pull = false;
                    format!(
                        "\nThe base image could not be pulled ({message}); \
                         building with the one on this host.\n"
                    )
                }
                Err(Failure {
                    error: Error::Build(message),
                    ..
                }) if tries < TRIES && is_lost_layer(&message) => {
                    tries += 1;
                    format!("\nA layer was removed meanwhile ({message}); building again.\n")
                }
                Err(failure) => return Err(failure.error),
            };
            say(&output, note).await;
        }
    }

    /// The network of `RUN` steps. Where an Engine remaps users, it refuses them the host's, which only
    /// a container may ask for that is not remapped; then they have the Engine's default.
    async fn network_of_steps(&self, network: &str) -> Result<String, Error> {
        let is_refused = network == "host" && self.traits().await?.remaps_users;
        Ok(if is_refused { "" } else { network }.to_owned())
    }

    async fn build_once<S>(
        &self,
        spec: &ImageSpec,
        pull: bool,
        context: S,
        output: &mpsc::Sender<Bytes>,
    ) -> Result<String, Failure>
    where
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        let client = self.client(DOING_BUILD).await?;
        let broken = Broken::default();
        let body = bollard::body_try_stream(broken.clone().watch(context));
        let mut progress = pin!(client.build_image(options(spec, pull), None, Some(body)));
        let mut steps = Steps::default();
        while let Some(item) = progress.next().await {
            let item = item.map_err(|error| Failure {
                error: self.build_failed(error, &broken),
                at_base: steps.at_base,
            })?;
            if let Some(text) = steps.take(item) {
                say(output, text).await;
            }
        }
        // An Engine that was cut off in the middle of the context may end its answer in good order.
        if let Some(error) = broken.take() {
            return Err(Error::Context(error).into());
        }
        match (steps.image, steps.short_id) {
            (Some(id), _) => Ok(id),
            (None, Some(short)) => {
                let image = self.call(DOING_BUILD, async |d| d.inspect_image(&short).await);
                let image = image.await?.map_err(|e| self.failed(DOING_BUILD, e))?;
                image.id.ok_or_else(|| no_image().into())
            }
            (None, None) => Err(no_image().into()),
        }
    }

    fn build_failed(&self, error: Bollard, broken: &Broken) -> Error {
        if let Some(error) = broken.take() {
            return Error::Context(error);
        }
        match error {
            Bollard::DockerStreamError { error } => Error::Build(error),
            // What the builder finds before its first step (a Dockerfile that does not parse, or
            // none) is the status of the answer.
            error => match refusal(&error) {
                Some((_, message)) if !message.contains("client version") => {
                    Error::Build(message.to_owned())
                }
                _ => self.failed(DOING_BUILD, error),
            },
        }
    }

    /// Removes the dangling images that carry all these labels, and the layers that only they need;
    /// nothing else on the host.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Api`].
    pub async fn prune_images(&self, labels: &BTreeMap<String, String>) -> Result<Pruned, Error> {
        let doing = "pruning images";
        // Without a label the Engine would take every dangling image on the host.
        if labels.is_empty() {
            return Ok(Pruned::default());
        }
        let options = PruneImagesOptions {
            filters: Some(HashMap::from([
                ("dangling".to_owned(), vec!["true".to_owned()]),
                ("label".to_owned(), label_filter(labels)),
            ])),
        };
        let pruned = self.call(doing, async |docker| {
            docker.prune_images(Some(options)).await
        });
        let pruned = pruned.await?.map_err(|e| self.failed(doing, e))?;
        let items = pruned.images_deleted.unwrap_or_default();
        Ok(Pruned {
            count: items.iter().filter(|item| item.deleted.is_some()).count(),
            bytes: pruned.space_reclaimed.unwrap_or(0).try_into().unwrap_or(0),
        })
    }
}

const DOING_BUILD: &str = "building an image";

/// What the classic builder says of a layer that it has just made or found in its cache, and that is
/// there no more. A base has a name; only layers are spoken of by digest.
fn is_lost_layer(message: &str) -> bool {
    let gone = [
        "unable to find image",
        "No such image",
        "unknown parent image",
        "layer does not exist",
    ];
    gone.iter().any(|gone| message.contains(gone)) && message.contains("sha256:")
}

fn no_image() -> Error {
    Error::Build("the Engine ended the build without an image".to_owned())
}

fn options(spec: &ImageSpec, pull: bool) -> BuildImageOptions {
    let owned = |map: &Labels| map.clone().into_iter().collect::<HashMap<_, _>>();
    BuildImageOptions {
        t: Some(spec.tag.clone()),
        labels: Some(owned(&spec.labels)),
        buildargs: Some(owned(&spec.build_args)),
        networkmode: (!spec.network.is_empty()).then(|| spec.network.clone()),
        nocache: spec.fresh,
        pull: pull.then(|| "true".to_owned()),
        rm: true,
        // Leaves no container of a failed step behind.
        forcerm: true,
        ..BuildImageOptions::default()
    }
}

/// Nobody listening is no reason to end a build.
async fn say(output: &mpsc::Sender<Bytes>, text: String) {
    let _ = output.send(Bytes::from(text)).await;
}

/// A failed attempt, and whether it failed while it fetched a base.
struct Failure {
    error: Error,
    at_base: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure {
            error,
            at_base: false,
        }
    }
}

/// Keeps the error of a context stream, which the HTTP client would only show as a broken body.
#[derive(Clone, Default)]
struct Broken(Arc<Mutex<Option<io::Error>>>);

impl Broken {
    fn watch<S>(self, context: S) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static
    where
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        context.map(move |item| {
            item.map_err(|error| {
                let kind = error.kind();
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                io::Error::from(kind)
            })
        })
    }

    fn take(&self) -> Option<io::Error> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.take()
    }
}

/// What is read out of the classic builder's progress.
#[derive(Default)]
struct Steps {
    /// The last step begun is a `FROM` that has not succeeded.
    at_base: bool,
    image: Option<String>,
    short_id: Option<String>,
}

impl Steps {
    /// Notes what the item says, and returns what there is to show of it.
    fn take(&mut self, item: BuildInfo) -> Option<String> {
        if let Some(id) = item.aux.and_then(|aux| aux.id) {
            self.image = Some(id);
        }
        if let Some(text) = item.stream {
            self.read(&text);
            return Some(text);
        }
        let status = item.status?;
        // The bars of a pull, many times a second, are for terminals.
        if item
            .progress_detail
            .is_some_and(|bar| bar.current.is_some())
        {
            return None;
        }
        Some(match item.id {
            Some(id) => format!("{id}: {status}\n"),
            None => format!("{status}\n"),
        })
    }

    fn read(&mut self, text: &str) {
        for line in text.lines() {
            if line.starts_with(" ---> ") {
                self.at_base = false;
            } else if let Some(id) = line.strip_prefix("Successfully built ") {
                self.short_id = Some(id.trim().to_owned());
            } else if let Some(step) = line.strip_prefix("Step ") {
                let instruction = step.split_once(" : ").map_or("", |(_, rest)| rest);
                let word = instruction.split_whitespace().next().unwrap_or("");
                self.at_base = word.eq_ignore_ascii_case("from");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lines: &[&str]) -> Steps {
        let mut steps = Steps::default();
        for line in lines {
            steps.read(line);
        }
        steps
    }

    #[test]
    fn only_a_from_that_has_not_succeeded_is_a_failed_base() {
        assert!(!after(&[]).at_base);
        assert!(after(&["Step 1/2 : FROM bbox", "\n"]).at_base);
        assert!(after(&["Step 1/2 : from bbox AS one", "\n"]).at_base);
        assert!(!after(&["Step 1/2 : FROM bbox", "\n", " ---> 04bde878d3aa\n"]).at_base);
        assert!(!after(&["Step 1/2 : FROM bbox", "\n", "Step 2/2 : RUN false\n"]).at_base);
    }

    #[test]
    fn the_bars_of_a_pull_are_not_shown_but_its_words_are() {
        let bar = r#"{"status":"Downloading","progressDetail":{"current":1,"total":9},"id":"a"}"#;
        let done = r#"{"status":"Pull complete","progressDetail":{},"id":"a"}"#;
        let shown = |json: &str| Steps::default().take(serde_json::from_str(json).unwrap());
        assert_eq!(shown(bar), None);
        assert_eq!(shown(done).unwrap(), "a: Pull complete\n");
    }

    #[test]
    fn a_layer_that_was_taken_away_is_told_from_a_base_that_never_was() {
        assert!(is_lost_layer("unable to find image \"sha256:4464a8\""));
        assert!(is_lost_layer("No such image: sha256:4464a8"));
        assert!(!is_lost_layer("No such image: debian:12"));
        assert!(!is_lost_layer("unknown instruction: COPIE"));
    }

    #[test]
    fn the_id_is_what_the_builder_said_last() {
        let mut steps = Steps::default();
        for id in ["sha256:one", "sha256:two"] {
            let item = format!(r#"{{"aux":{{"ID":"{id}"}}}}"#);
            assert_eq!(steps.take(serde_json::from_str(&item).unwrap()), None);
        }
        assert_eq!(steps.image.unwrap(), "sha256:two");
    }
}
