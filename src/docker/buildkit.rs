//! Builds an image with BuildKit, over the Engine's own API and without a session.
//!
//! Without a session BuildKit cannot ask for credentials, so each image that is missing is pulled first.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::dockerfile::Patch;
use super::engine::{Docker, refusal};
use super::error::Error;
use super::image_build::{
    BUILDING_IMAGE, Broken, ImageSpec, MAX_PULLED, network_of_steps, no_image, send_note,
    with_missing,
};
use super::steps::Progress;
use super::trace::Trace;

/// Bytes of a line of the answer. BuildKit cuts a step's output at 2 MiB.
const MAX_LINE: usize = 16 << 20;

/// A line of the answer.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default)]
    id: String,
    #[serde(default)]
    aux: Option<Aux>,
    #[serde(default)]
    error: Option<String>,
    /// Of an engine that is not BuildKit.
    #[serde(default)]
    stream: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Aux {
    Image {
        #[serde(rename = "ID")]
        id: String,
    },
    /// A message in base64.
    Trace(String),
}

/// What is known before BuildKit builds.
pub(super) struct Prepared {
    /// The network of its steps.
    pub(super) network: String,
    patches: Vec<Patch>,
    /// Why images are missing.
    missing: Vec<String>,
}

impl Prepared {
    /// The changes of the Dockerfile.
    pub(super) fn patches(&self) -> &[Patch] {
        &self.patches
    }

    /// The outcome of a build. If its context broke off, that is the error; else an error says why images are
    /// missing, because a stage that the image does not need may name one that cannot be pulled.
    pub(super) fn outcome(
        &self,
        broken: &Broken,
        built: Result<String, Error>,
    ) -> Result<String, Error> {
        match broken.take() {
            Some(error) => Err(Error::Context(error)),
            None => built.map_err(|error| with_missing(error, &self.missing)),
        }
    }
}

impl Docker {
    /// Builds an image with BuildKit; see [`Docker::build_image`]. `context` gets the changes of the
    /// Dockerfile.
    pub(super) async fn build_with_buildkit<F, S>(
        &self,
        spec: &ImageSpec,
        context: &F,
        output: &mpsc::Sender<Progress>,
    ) -> Result<String, Error>
    where
        F: Fn(&[Patch]) -> S,
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        let prepared = self.prepare_buildkit(spec, output).await?;
        let broken = Broken::default();
        let body = broken.clone().watch(context(prepared.patches()));
        let body = StreamBody::new(body.map_ok(Frame::data));
        let request = hyper::Request::post(format!("/build?{}", query(spec, &prepared.network)))
            .header("host", "docker")
            .header("content-type", "application/x-tar")
            .body(Box::pin(body))
            .map_err(|error| Error::Api {
                operation: BUILDING_IMAGE.to_owned(),
                source: error.into(),
            })?;
        let built = self.exchange(request, output).await;
        prepared.outcome(&broken, built)
    }

    /// Finds out what BuildKit needs, and pulls the images that are missing.
    pub(super) async fn prepare_buildkit(
        &self,
        spec: &ImageSpec,
        output: &mpsc::Sender<Progress>,
    ) -> Result<Prepared, Error> {
        let network = network_of_steps(&spec.network).ok_or_else(|| {
            Error::Build(format!(
                "BuildKit cannot build with the network '{}': it knows only host, none and bridge",
                spec.network
            ))
        })?;
        let mut patches = Vec::new();
        if self.uses_own_frontend(spec, output).await? {
            self.check_level(spec).await?;
            if let Some(frontend) = &spec.dockerfile.frontend {
                patches.clone_from(&frontend.without);
            }
        }
        Ok(Prepared {
            network: network.to_owned(),
            patches,
            missing: self.ensure_images(spec, output).await?,
        })
    }

    /// Sends the request and reads the answer to its end. Dropping the future closes the connection, which
    /// cancels the build.
    async fn exchange<B>(
        &self,
        request: hyper::Request<B>,
        output: &mpsc::Sender<Progress>,
    ) -> Result<String, Error>
    where
        B: hyper::body::Body<Data = Bytes, Error = io::Error> + Send + Unpin + 'static,
    {
        let mut answer = match self.send(BUILDING_IMAGE, MAX_LINE, request).await? {
            Ok(answer) => answer,
            Err(Some(message)) => return Err(Error::Build(message)),
            Err(None) => return Err(unreadable("an error without a message")),
        };
        let mut trace = Trace::default();
        let mut image = None;
        while let Some(line) = answer.next_line().await {
            let text = read_line(line?.as_bytes(), &mut trace, &mut image)?;
            if !text.is_empty() {
                // A build continues without a receiver of its output.
                let _ = output.send(Progress::Text(text.into())).await;
            }
        }
        image.ok_or_else(no_image)
    }

    /// Whether the program that is built into the Engine reads the Dockerfile. Pulls the program that the
    /// Dockerfile names.
    async fn uses_own_frontend(
        &self,
        spec: &ImageSpec,
        output: &mpsc::Sender<Progress>,
    ) -> Result<bool, Error> {
        let Some(frontend) = &spec.dockerfile.frontend else {
            return Ok(true);
        };
        let image = &frontend.image;
        let is_there = self.has_image(image).await?;
        if is_there && !spec.fresh {
            return Ok(false);
        }
        let may_wait = frontend.is_built_in() && !spec.fresh;
        let known = self.failed_pulls().why(image).filter(|_| may_wait);
        let why = match known {
            Some(why) => why,
            None => {
                send_note(output, format!("mistry: pulling '{image}' (# syntax=)\n")).await;
                let Err(why) = self.pull(image, &spec.registries).await else {
                    return Ok(false);
                };
                self.failed_pulls().add(image, &why);
                why
            }
        };
        let why = why.trim_end();
        if !is_there && !frontend.is_built_in() {
            return Err(Error::Build(format!(
                "the first line of the Dockerfile says that '{image}' reads it (# syntax=); this image is not on this host and could not be pulled: {why}"
            )));
        }
        let instead = match is_there {
            true => "the one on this host",
            false => "the version that is built into this Docker Engine",
        };
        let note = format!(
            "mistry: '{image}' could not be pulled ({why}); {instead} reads the Dockerfile.\n"
        );
        send_note(output, note).await;
        Ok(!is_there)
    }

    /// Refuses what the version of the Dockerfile language that is built into the Engine does not know.
    async fn check_level(&self, spec: &ImageSpec) -> Result<(), Error> {
        let mut newer = spec
            .dockerfile
            .features
            .iter()
            .filter_map(|feature| Some((feature, feature.since?)));
        let Some((feature, since)) = newer.next() else {
            return Ok(());
        };
        let version = self.version().await?;
        let major = version
            .split('.')
            .next()
            .and_then(|major| major.parse::<u32>().ok());
        if major.is_some_and(|major| major < since) {
            return Err(Error::Build(format!(
                "line {} of the Dockerfile has {}, which Docker Engine {version} on this host does not know: this needs version {since} or later, or an image docker/dockerfile:1 on this host and the first line '# syntax=docker/dockerfile:1'",
                feature.line, feature.name
            )));
        }
        Ok(())
    }

    /// Pulls the images that the Dockerfile names and that are missing; all of them for a fresh build. Returns why
    /// some are missing.
    pub(super) async fn ensure_images(
        &self,
        spec: &ImageSpec,
        output: &mpsc::Sender<Progress>,
    ) -> Result<Vec<String>, Error> {
        let mut missing = Vec::new();
        for image in spec.dockerfile.images.iter().take(MAX_PULLED) {
            let is_there = self.has_image(image).await?;
            if is_there && !spec.fresh {
                continue;
            }
            send_note(output, format!("mistry: pulling the image '{image}'\n")).await;
            let Err(why) = self.pull(image, &spec.registries).await else {
                continue;
            };
            let why = format!(
                "the image '{image}' could not be pulled: {}",
                why.trim_end()
            );
            if is_there {
                send_note(
                    output,
                    format!("mistry: {why}; building with the one on this host.\n"),
                )
                .await;
            } else {
                send_note(output, format!("mistry: {why}\n")).await;
                missing.push(why);
            }
        }
        Ok(missing)
    }

    /// Whether an image with this name is on the host.
    async fn has_image(&self, image: &str) -> Result<bool, Error> {
        let operation = "looking at an image";
        let found = self.call(operation, async |docker| docker.inspect_image(image).await);
        match found.await? {
            Ok(_) => Ok(true),
            Err(error) => match refusal(&error) {
                Some((404 | 400, _)) => Ok(false),
                _ => Err(self.failed(operation, error)),
            },
        }
    }
}

fn query(spec: &ImageSpec, network: &str) -> String {
    let json = |pairs: &super::engine::Labels| serde_json::json!(pairs).to_string();
    let mut query = form_urlencoded::Serializer::new(String::new());
    query
        .append_pair("version", "2")
        .append_pair("t", &spec.tag)
        .append_pair("labels", &json(&spec.labels))
        .append_pair("buildargs", &json(&spec.build_args))
        .append_pair("rm", "true");
    if !spec.target.is_empty() {
        query.append_pair("target", &spec.target);
    }
    if !network.is_empty() {
        query.append_pair("networkmode", network);
    }
    if spec.fresh {
        query.append_pair("nocache", "true");
    }
    query.finish()
}

/// Reads one line of the answer, and returns the text that it adds to the log.
pub(super) fn read_line(
    line: &[u8],
    trace: &mut Trace,
    image: &mut Option<String>,
) -> Result<Vec<u8>, Error> {
    if line.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let line: Line = serde_json::from_slice(line).map_err(unreadable)?;
    if let Some(error) = line.error {
        return Err(Error::Build(error));
    }
    match line.aux {
        Some(Aux::Image { id }) => *image = Some(id),
        Some(Aux::Trace(encoded)) if line.id == "moby.buildkit.trace" => {
            let message = STANDARD.decode(encoded).map_err(unreadable)?;
            return trace.read(&message).map_err(unreadable);
        }
        _ => {}
    }
    Ok(line.stream.unwrap_or_default().into_bytes())
}

fn unreadable(why: impl Into<super::Cause>) -> Error {
    Error::Api {
        operation: BUILDING_IMAGE.to_owned(),
        source: why.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_text_an_image_or_an_error() {
        let (mut trace, mut image) = (Trace::default(), None);
        let mut read = |line: &str| read_line(line.as_bytes(), &mut trace, &mut image);
        assert_eq!(read("\r\n").unwrap(), b"");
        assert_eq!(
            read(r#"{"id":"moby.buildkit.trace","aux":""}"#).unwrap(),
            b""
        );
        assert_eq!(read(r#"{"stream":"hello"}"#).unwrap(), b"hello");
        assert_eq!(
            read(r#"{"id":"moby.image.id","aux":{"ID":"sha256:0"}}"#).unwrap(),
            b""
        );
        let failed = read(r#"{"errorDetail":{"message":"no"},"error":"failed to solve: no"}"#);
        assert!(matches!(failed, Err(Error::Build(why)) if why == "failed to solve: no"));
        for nonsense in ["{", "7", r#"{"id":"moby.buildkit.trace","aux":"?"}"#] {
            assert!(
                matches!(read(nonsense), Err(Error::Api { .. })),
                "{nonsense}"
            );
        }
        assert_eq!(image.unwrap(), "sha256:0");
    }
}
