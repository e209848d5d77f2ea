//! Builds an image with BuildKit, over the Engine's own API and without a session.
//!
//! Without a session BuildKit cannot ask for credentials, so each image that is missing is pulled first. The request
//! is sent by hyper: bollard does not read the answers of BuildKit.

use std::io;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::engine::{Docker, refusal};
use super::error::Error;
use super::image_build::{BUILDING_IMAGE, Broken, ImageSpec, MAX_PULLED, no_image, send_note};
use super::steps::Progress;
use super::trace::Trace;

/// Bytes of a line of the answer. BuildKit cuts a step's output at 2 MiB.
const MAX_LINE: usize = 16 << 20;
/// Bytes of an error's body.
const MAX_ERROR: usize = 64 << 10;

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

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl Docker {
    /// Builds an image with BuildKit; see [`Docker::build_image`]. `context` gets the bytes of the Dockerfile
    /// that are to be blank.
    pub(super) async fn build_with_buildkit<F, S>(
        &self,
        spec: &ImageSpec,
        context: &F,
        output: &mpsc::Sender<Progress>,
    ) -> Result<String, Error>
    where
        F: Fn(Option<Range<u64>>) -> S,
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        let network = network_of_steps(&spec.network)?;
        let blank = self.ensure_frontend(spec, output).await?;
        if spec.dockerfile.frontend.is_none() || blank.is_some() {
            self.check_level(spec).await?;
        }
        self.ensure_images(spec, output).await?;
        let broken = Broken::default();
        let body = broken.clone().watch(context(blank));
        let body = StreamBody::new(body.map_ok(Frame::data));
        let request = hyper::Request::post(format!("/build?{}", query(spec, network)))
            .header("host", "docker")
            .header("content-type", "application/x-tar")
            .body(Box::pin(body))
            .map_err(|error| Error::Api {
                operation: BUILDING_IMAGE.to_owned(),
                source: error.into(),
            })?;
        let built = self.exchange(request, output).await;
        match broken.take() {
            Some(error) => Err(Error::Context(error)),
            None => built,
        }
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
        let lost = |error: super::Cause| self.unreachable(BUILDING_IMAGE, error);
        let stream = UnixStream::connect(self.socket()).await;
        let stream = stream.map_err(|error| lost(error.into()))?;
        let made = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = made.map_err(|error| lost(error.into()))?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| lost(error.into()))?;
        let status = answer.status();
        let mut body = answer.into_body();
        if !status.is_success() {
            return Err(self.refused(body).await);
        }
        let mut trace = Trace::default();
        let mut image = None;
        let mut rest = BytesMut::new();
        while let Some(data) = next_data(&mut body)
            .await
            .map_err(|error| lost(error.into()))?
        {
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = rest.split_to(end + 1);
                let text = read_line(&line, &mut trace, &mut image)?;
                if !text.is_empty() {
                    // A build continues without a receiver of its output.
                    let _ = output.send(Progress::Text(text.into())).await;
                }
            }
            if rest.len() > MAX_LINE {
                return Err(unreadable("a line of more than 16 MiB"));
            }
        }
        image.ok_or_else(no_image)
    }

    /// The error of an answer with an error status.
    async fn refused(&self, mut body: Incoming) -> Error {
        let mut text = Vec::new();
        while let Ok(Some(data)) = next_data(&mut body).await {
            text.extend_from_slice(&data);
            if text.len() > MAX_ERROR {
                break;
            }
        }
        match serde_json::from_slice::<Refusal>(&text) {
            Ok(refusal) => Error::Build(refusal.message),
            Err(_) => unreadable("an error without a message"),
        }
    }

    /// Makes sure that the program that reads the Dockerfile is on the host. Returns the bytes of the line that
    /// names it if the Engine's own is used instead.
    async fn ensure_frontend(
        &self,
        spec: &ImageSpec,
        output: &mpsc::Sender<Progress>,
    ) -> Result<Option<Range<u64>>, Error> {
        let Some(frontend) = &spec.dockerfile.frontend else {
            return Ok(None);
        };
        let image = &frontend.image;
        if !spec.fresh && self.has_image(image).await? {
            return Ok(None);
        }
        let Err(why) = self.pull(image).await else {
            return Ok(None);
        };
        if spec.fresh && self.has_image(image).await? {
            return Ok(None);
        }
        if !frontend.is_built_in() {
            return Err(Error::Build(format!(
                "the first line of the Dockerfile says that '{image}' reads it (# syntax=); this image is not on this host and could not be pulled: {}",
                why.trim_end()
            )));
        }
        let note = format!(
            "mistry: '{image}' (# syntax=) could not be pulled ({}); the version that is built into this Docker Engine reads the Dockerfile.\n",
            why.trim_end()
        );
        send_note(output, note).await;
        Ok(Some(frontend.line.clone()))
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

    /// Pulls the images that the Dockerfile names and that are missing; all of them for a fresh build.
    async fn ensure_images(
        &self,
        spec: &ImageSpec,
        output: &mpsc::Sender<Progress>,
    ) -> Result<(), Error> {
        for image in spec.dockerfile.images.iter().take(MAX_PULLED) {
            let is_there = self.has_image(image).await?;
            if is_there && !spec.fresh {
                continue;
            }
            if !is_there {
                send_note(output, format!("mistry: pulling the image '{image}'\n")).await;
            }
            let Err(why) = self.pull(image).await else {
                continue;
            };
            let why = why.trim_end();
            if !is_there {
                return Err(Error::Build(format!(
                    "the image '{image}' is not on this host and could not be pulled: {why}"
                )));
            }
            let note = format!(
                "mistry: the image '{image}' could not be pulled ({why}); building with the one on this host.\n"
            );
            send_note(output, note).await;
        }
        Ok(())
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

/// The network of `RUN` steps, as BuildKit names it.
fn network_of_steps(network: &str) -> Result<&str, Error> {
    match network {
        "" | "default" | "bridge" => Ok(""),
        "host" | "none" => Ok(network),
        other => Err(Error::Build(format!(
            "BuildKit cannot build with the network '{other}': it knows only host, none and bridge"
        ))),
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
    if !network.is_empty() {
        query.append_pair("networkmode", network);
    }
    if spec.fresh {
        query.append_pair("nocache", "true");
    }
    query.finish()
}

async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
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

    #[test]
    fn only_networks_that_buildkit_knows_are_taken() {
        for (network, expected) in [("host", "host"), ("bridge", ""), ("none", "none"), ("", "")] {
            assert_eq!(network_of_steps(network).unwrap(), expected);
        }
        assert!(network_of_steps("builds").is_err());
    }
}
