//! Builds an image from a tar stream, with the classic builder or with BuildKit. The output of the classic builder
//! is passed on as it comes.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::PathBuf,
    pin::pin,
    sync::Arc,
};

use bollard::{errors::Error as Bollard, query_parameters::BuildImageOptions};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::build_secrets::BuildSecrets;
use super::dockerfile::{Dockerfile, Frontend, Patch};
use super::engine::{Docker, Labels, refusal};
use super::error::Error;
use super::registries::Registries;
use super::steps::{Fetching, Progress, Steps};

/// Most attempts of a build whose cached layers are removed meanwhile: each time another program must
/// remove images at just that moment.
const MAX_BUILD_ATTEMPTS: usize = 3;

/// Images that are pulled one by one; no real Dockerfile names more.
pub(super) const MAX_PULLED: usize = 100;

/// The inputs other than the context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// The reference that the image gets, from [`tag_for`](super::tag_for).
    pub tag: String,
    /// Labels of the image, by which it is found.
    pub labels: BTreeMap<String, String>,
    /// Values for the Dockerfile's `ARG`s.
    pub build_args: BTreeMap<String, String>,
    /// Names of those that the Dockerfile need not declare.
    pub optional_args: Vec<String>,
    /// The stage that is built; empty for the last.
    pub target: String,
    /// Network mode of the `RUN` steps; empty for the Engine's default.
    pub network: String,
    /// Pull the images that the Dockerfile names again, and use no cached step.
    pub fresh: bool,
    /// The builder.
    pub builder: Builder,
    /// Credentials for the images that the Dockerfile names.
    pub registries: Registries,
    /// What the Dockerfile needs. The images that it names are pulled one by one if the builder cannot pull one
    /// of them.
    pub dockerfile: Dockerfile,
    /// What the build is given and the image does not have.
    pub secrets: BuildSecrets,
    /// Where docker-buildx may have files of its own, while it builds. It holds nothing else.
    pub scratch: PathBuf,
}

/// What builds an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Builder {
    /// BuildKit if the Dockerfile needs it, or if the classic builder says so; else the classic builder.
    #[default]
    Auto,
    /// The classic builder, whatever the Dockerfile needs.
    Classic,
    /// BuildKit.
    BuildKit,
}

impl Docker {
    /// Builds an image and returns its id (`sha256:…`).
    ///
    /// `context` makes the tar stream, with these changes of the Dockerfile; it is called again when a fresh build cannot pull an image and uses
    /// the one that is on this host, and when a layer that the build was based on was removed meanwhile: the
    /// Engine shares layers between all builds. `output` gets the builder's text as it comes, and is dropped
    /// at the end; the build waits while the channel is full, and continues when its receiver is dropped.
    /// Dropping the future cancels the build.
    ///
    /// # Errors
    /// [`Error::Build`] with the Engine's message when the image cannot be built; [`Error::Context`] when the
    /// context stream fails; [`Error::Unreachable`]; [`Error::Api`].
    pub async fn build_image<F, S>(
        &self,
        spec: &ImageSpec,
        context: F,
        output: mpsc::Sender<Progress>,
    ) -> Result<String, Error>
    where
        F: Fn(&[Patch]) -> S,
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        let spec = &ImageSpec {
            network: self.network_of_steps(&spec.network).await?,
            ..spec.clone()
        };
        if self.traits().await?.dialect.has_one_builder() {
            // podman would run the step without it, and report nothing.
            if let Some(mount) = spec.dockerfile.session_mounts.first() {
                return Err(Error::Build(format!(
                    "line {} of the Dockerfile has {}, which podman does not take from its Docker-compatible API: use Docker, or give the value to the build as a param, --_name=@FILE, which is no part of the image",
                    mount.line,
                    mount.instruction()
                )));
            }
            return self.build_with_classic(spec, &context, &output).await;
        }
        if !(spec.secrets.is_empty() && spec.dockerfile.session_mounts.is_empty()) {
            if spec.builder == Builder::Classic {
                return Err(Error::Build(NO_CLASSIC_SECRETS.to_owned()));
            }
            return self.build_with_buildx(spec, &context, &output).await;
        }
        let is_for_buildkit = match spec.builder {
            Builder::Auto => needs_buildkit(spec),
            Builder::Classic => false,
            Builder::BuildKit => true,
        };
        if is_for_buildkit {
            return self.build_with_buildkit(spec, &context, &output).await;
        }
        if let Some(document) = spec.dockerfile.here_document() {
            return Err(Error::Build(format!(
                "line {} of the Dockerfile has {}, which only BuildKit knows, and \"builder\" is \"classic\"",
                document.line, document.name
            )));
        }
        match self.build_with_classic(spec, &context, &output).await {
            Err(Error::Build(message))
                if spec.builder == Builder::Auto && is_about_buildkit(&message) =>
            {
                let _ = output.send(Progress::Restarted).await;
                let note = format!(
                    "\nmistry: {}; building with BuildKit.\n",
                    message.trim_end()
                );
                send_note(&output, note).await;
                self.build_with_buildkit(spec, &context, &output).await
            }
            built => built,
        }
    }

    async fn build_with_classic<F, S>(
        &self,
        spec: &ImageSpec,
        context: &F,
        output: &mpsc::Sender<Progress>,
    ) -> Result<String, Error>
    where
        F: Fn(&[Patch]) -> S,
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        let mut pull = spec.fresh;
        let mut missing = Vec::new();
        // The builder would ask with credentials that the client library encodes in a form that Engines do not read.
        if spec
            .dockerfile
            .images
            .iter()
            .any(|image| spec.registries.has(image))
        {
            missing = self.ensure_images(spec, output).await?;
            pull = false;
        }
        let mut attempts = 1;
        loop {
            let note = match self.build_once(spec, pull, context(&[]), output).await {
                Ok(image) => return Ok(image),
                Err(Failure {
                    error: Error::Build(message),
                    fetching,
                }) if pull
                    && (is_pull(fetching, &message) || self.dialect().is_failed_pull(&message)) =>
                {
                    pull = false;
                    self.pull_each(spec, fetching, &message).await
                }
                Err(Failure {
                    error: Error::Build(message),
                    ..
                }) if attempts < MAX_BUILD_ATTEMPTS
                    && (is_lost_layer(&message) || self.dialect().is_lost_layer(&message)) =>
                {
                    attempts += 1;
                    format!("\nA layer was removed meanwhile ({message}); building again.\n")
                }
                Err(failure) => return Err(with_missing(failure.error, &missing)),
            };
            let _ = output.send(Progress::Restarted).await;
            send_note(output, note).await;
        }
    }

    /// The network of `RUN` steps. An Engine that remaps users refuses the host's network, except to
    /// containers that are not remapped; the steps then use the Engine's default.
    async fn network_of_steps(&self, network: &str) -> Result<String, Error> {
        let is_refused = network == "host" && self.traits().await?.remaps_users();
        Ok(if is_refused { "" } else { network }.to_owned())
    }

    /// After the builder could not pull an image: pulls all images of the Dockerfile, one by one, and returns
    /// the log lines about those that cannot be pulled.
    async fn pull_each(&self, spec: &ImageSpec, fetching: Fetching, message: &str) -> String {
        let mut note = String::from("\n");
        let mut add_line = |what: &str, why: &str| {
            note.push_str(&format!(
                "{what} could not be pulled ({}); building with the one on this host.\n",
                why.trim_end()
            ));
        };
        for image in spec.dockerfile.images.iter().take(MAX_PULLED) {
            if let Err(why) = self.pull(image, &spec.registries).await {
                add_line(&format!("The image '{image}'"), &why);
            }
        }
        if spec.dockerfile.images.is_empty() {
            let what = match fetching {
                Fetching::Base => "The base image",
                _ => "An image that is copied from",
            };
            add_line(what, message);
        }
        note
    }

    async fn build_once<S>(
        &self,
        spec: &ImageSpec,
        pull: bool,
        context: S,
        output: &mpsc::Sender<Progress>,
    ) -> Result<String, Failure>
    where
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        let client = self.client(BUILDING_IMAGE).await?;
        let broken = Broken::default();
        let body = bollard::body_try_stream(broken.clone().watch(context));
        let mut progress = pin!(client.build_image(options(spec, pull), None, Some(body)));
        let mut steps = Steps::new(&spec.labels, &spec.optional_args);
        while let Some(item) = progress.next().await {
            let item = item.map_err(|error| Failure {
                error: self.build_failed(error, &broken),
                fetching: steps.fetching(),
            })?;
            for progress in steps.take(item) {
                let _ = output.send(progress).await;
            }
        }
        // An Engine whose context stream broke off may still end its answer normally.
        if let Some(error) = broken.take() {
            return Err(Error::Context(error).into());
        }
        match (steps.image, steps.short_id) {
            (Some(id), _) => Ok(id),
            (None, Some(short)) => {
                let image = self.call(BUILDING_IMAGE, async |d| d.inspect_image(&short).await);
                let image = image.await?.map_err(|e| self.failed(BUILDING_IMAGE, e))?;
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
            // An error that the builder finds before its first step (an invalid or missing Dockerfile) is the
            // status of the answer.
            error => match refusal(&error) {
                Some((_, message)) if !message.contains("client version") => {
                    Error::Build(message.to_owned())
                }
                _ => self.failed(BUILDING_IMAGE, error),
            },
        }
    }
}

const NO_CLASSIC_SECRETS: &str = "build secrets and ssh need BuildKit, and the configuration says that the classic builder builds this project: set \"builder\" to \"auto\" in mistry.json";

pub(super) const BUILDING_IMAGE: &str = "building an image";

/// True for the classic builder's message that a layer, just made or found in its cache, is missing. A base
/// has a name; only layers are named by digest.
fn is_lost_layer(message: &str) -> bool {
    let gone = [
        "unable to find image",
        "No such image",
        "unknown parent image",
        "layer does not exist",
        // The containerd image store.
        "failed to get destination image",
    ];
    gone.iter().any(|gone| message.contains(gone)) && message.contains("sha256:")
}

/// Whether only BuildKit can build it. A line that merely names Docker's own frontend does not need BuildKit where
/// that does not know the network.
fn needs_buildkit(spec: &ImageSpec) -> bool {
    let dockerfile = &spec.dockerfile;
    let is_only_named = dockerfile.features.is_empty()
        && dockerfile
            .frontend
            .as_ref()
            .is_some_and(Frontend::is_built_in);
    dockerfile.needs_buildkit() && !(is_only_named && network_of_steps(&spec.network).is_none())
}

/// The network of `RUN` steps, as BuildKit names it; `None` for one that it does not know.
pub(super) fn network_of_steps(network: &str) -> Option<&str> {
    match network {
        "" | "default" | "bridge" => Some(""),
        "host" | "none" => Some(network),
        _ => None,
    }
}

/// An error of a build, and why images that it may have needed are missing.
pub(super) fn with_missing(error: Error, missing: &[String]) -> Error {
    match error {
        Error::Build(message) if !missing.is_empty() => {
            Error::Build(format!("{message}; {}", missing.join("; ")))
        }
        other => other,
    }
}

/// Whether the classic builder refuses an instruction of the Dockerfile because only BuildKit knows it; the words
/// are those of Engines before 23 and since.
pub fn is_about_buildkit(message: &str) -> bool {
    // The message about a failed step quotes its command, which may contain anything.
    let is_of_a_step = message.starts_with("The command '") || message.contains("exit code: ");
    !is_of_a_step
        && (message.contains("requires BuildKit")
            || message.contains("classic builder") && message.contains("does not support"))
}

pub(super) fn no_image() -> Error {
    Error::Build("the Engine ended the build without an image".to_owned())
}

fn options(spec: &ImageSpec, pull: bool) -> BuildImageOptions {
    let owned = |map: &Labels| map.clone().into_iter().collect::<HashMap<_, _>>();
    BuildImageOptions {
        t: Some(spec.tag.clone()),
        labels: Some(owned(&spec.labels)),
        buildargs: Some(owned(&spec.build_args)),
        target: spec.target.clone(),
        networkmode: (!spec.network.is_empty()).then(|| spec.network.clone()),
        nocache: spec.fresh,
        pull: pull.then(|| "true".to_owned()),
        rm: true,
        // Removes the container of a failed step.
        forcerm: true,
        ..BuildImageOptions::default()
    }
}

/// Sends a note of mistry to the log. A build continues without a receiver of its output.
pub(super) async fn send_note(output: &mpsc::Sender<Progress>, text: String) {
    let _ = output.send(Progress::Text(Bytes::from(text))).await;
}

/// True when a step has failed because an image could not be pulled.
fn is_pull(fetching: Fetching, message: &str) -> bool {
    match fetching {
        Fetching::Nothing => false,
        // Other errors of a `FROM` would occur without a pull, too.
        Fetching::Base => !["should not be blank", "platform", "invalid reference"]
            .iter()
            .any(|words| message.contains(words)),
        // The image, or a file in it, does not exist.
        Fetching::Source => ["invalid from flag value", "pull access denied", "manifest"]
            .iter()
            .any(|words| message.contains(words)),
    }
}

/// A failed attempt, and the image that it was fetching then.
struct Failure {
    error: Error,
    fetching: Fetching,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure {
            error,
            fetching: Fetching::Nothing,
        }
    }
}

/// Stores the error of a context stream, which the HTTP client would only report as a broken body.
#[derive(Clone, Default)]
pub(super) struct Broken(Arc<Mutex<Option<io::Error>>>);

impl Broken {
    pub(super) fn watch<S>(
        self,
        context: S,
    ) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static
    where
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        context.map(move |item| {
            item.map_err(|error| {
                let kind = error.kind();
                *self.0.lock() = Some(error);
                io::Error::from(kind)
            })
        })
    }

    pub(super) fn take(&self) -> Option<io::Error> {
        let mut slot = self.0.lock();
        slot.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_layer_is_distinguished_from_a_missing_base() {
        assert!(is_lost_layer("unable to find image \"sha256:4464a8\""));
        assert!(is_lost_layer("No such image: sha256:4464a8"));
        assert!(is_lost_layer(
            "failed to get destination image \"sha256:ed4896\": unexpected media type  for : not found"
        ));
        assert!(!is_lost_layer("No such image: debian:12"));
        assert!(!is_lost_layer("unknown instruction: COPIE"));
    }

    #[test]
    fn a_dockerfile_that_the_classic_builder_does_not_know_is_recognised() {
        for message in [
            "the --mount option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/ to learn how to build images with BuildKit enabled",
            "dockerfile parse error on line 2: classic builder RUN currently does not support any flags, got: --mount",
        ] {
            assert!(is_about_buildkit(message));
        }
        for message in [
            "dockerfile parse error line 2: unknown instruction: COPIE",
            "The command '/bin/sh -c echo requires BuildKit' returned a non-zero code: 1",
        ] {
            assert!(!is_about_buildkit(message), "{message}");
        }
    }

    #[test]
    fn a_failed_pull_is_distinguished_from_other_failures() {
        for (fetching, message) in [
            (
                Fetching::Base,
                "pull access denied for x, repository does not exist",
            ),
            (
                Fetching::Base,
                "Get \"https://r/v2/\": dial tcp: lookup r: no such host",
            ),
            (
                Fetching::Source,
                "invalid from flag value tools:1: pull access denied for tools",
            ),
            (
                Fetching::Source,
                "invalid from flag value r/t: manifest for r/t not found",
            ),
        ] {
            assert!(is_pull(fetching, message), "{message}");
        }
        for (fetching, message) in [
            (Fetching::Nothing, "pull access denied for x"),
            (Fetching::Base, "base name ($X) should not be blank"),
            (Fetching::Base, "failed to parse platform x"),
            (Fetching::Base, "invalid reference format"),
            (
                Fetching::Source,
                "COPY failed: stat /a: file does not exist",
            ),
        ] {
            assert!(!is_pull(fetching, message), "{message}");
        }
    }
}
