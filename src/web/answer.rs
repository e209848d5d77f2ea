//! Answers: bodies and the headers that they share.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::error::Refusal;

/// The body of every answer; an error in it ends the connection, so that it never looks whole.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What a handler comes to.
#[derive(Debug)]
pub(super) enum Answer {
    Given(Response<Body>),
    Refused(Refusal),
}

impl<E: Into<Refusal>> From<Result<Response<Body>, E>> for Answer {
    fn from(result: Result<Response<Body>, E>) -> Answer {
        match result {
            Ok(response) => Answer::Given(response),
            Err(error) => Answer::Refused(error.into()),
        }
    }
}

/// A body that is there.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// No body.
pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes.
pub(super) fn streamed(bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(bytes.map_ok(Frame::data).boxed()).boxed_unsync()
}

/// An answer of one media type.
pub(super) fn typed(status: StatusCode, media: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>, Refusal> {
    let text = serde_json::to_vec(value).map_err(unwritable)?;
    Ok(typed(status, "application/json", full(text)))
}

/// An answer that cannot be written as JSON.
pub(super) fn unwritable(cause: serde_json::Error) -> Refusal {
    Refusal::caused("the server could not write its answer", cause)
}

/// Plain text.
pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", full(text))
}

/// No content.
pub(super) fn no_content() -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// True when `Accept` names `media`, in whatever place.
pub(super) fn accepts(headers: &HeaderMap, media: &str) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|range| range.split(';').next())
        .any(|range| range.trim().eq_ignore_ascii_case(media))
}

/// True when JSON may be sent: it is named, or anything is, or nothing is said.
pub(super) fn takes_json(headers: &HeaderMap) -> bool {
    !headers.contains_key(ACCEPT)
        || ["application/json", "application/*", "*/*"]
            .iter()
            .any(|media| accepts(headers, media))
}
