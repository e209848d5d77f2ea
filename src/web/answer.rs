//! Answers: bodies and the headers that they share.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, VARY,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::error::Refusal;

/// Kept by the reader's own browser at most, and asked for again each time.
pub(super) const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");
/// What a text depends on that is a page or a part of one.
pub(super) const VARIES: HeaderValue = HeaderValue::from_static("accept, accept-encoding");

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

/// JSON, at an address that may answer a browser by a page.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>, Refusal> {
    let text = serde_json::to_vec(value).map_err(unwritable)?;
    let mut response = typed(status, "application/json", full(text));
    of_now(&mut response);
    Ok(response)
}

/// For an answer that is right for whoever asks so, and now: no cache gives it to a browser that asks
/// for a page, or to somebody who may not read.
pub(super) fn of_now(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept"));
    headers.insert(CACHE_CONTROL, PRIVATE);
}

/// An answer that cannot be written as JSON.
pub(super) fn unwritable(cause: serde_json::Error) -> Refusal {
    Refusal::caused("the server could not write its answer", cause)
}

/// Plain text.
pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", full(text))
}

/// Text that is sent compressed to who takes it: `gzipped` makes it, `plain` is the same.
pub(super) fn compressible(
    asked: &HeaderMap,
    media: &'static str,
    plain: Bytes,
    gzipped: impl FnOnce() -> Bytes,
) -> Response<Body> {
    let is_taken = takes_coding(asked, "gzip");
    let body = if is_taken { gzipped() } else { plain };
    let mut response = typed(StatusCode::OK, media, full(body));
    let headers = response.headers_mut();
    headers.insert(VARY, VARIES);
    if is_taken {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// The fastest level: half a millisecond for a page, a fifth of its size.
pub(super) fn gzip(text: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 4), Compression::fast());
    // Memory takes everything.
    let written = encoder.write_all(text).and_then(|()| encoder.finish());
    written.unwrap_or_default().into()
}

/// No content.
pub(super) fn no_content() -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Sets a header whose value is made here and holds nothing that a header may not.
pub(super) fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
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

/// True when `Accept-Encoding` names `coding`, and does not refuse it by `q=0`.
pub(super) fn takes_coding(headers: &HeaderMap, coding: &str) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|taken| {
            let (name, weight) = taken.split_once(';').unwrap_or((taken, ""));
            let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
            name.trim().eq_ignore_ascii_case(coding) && weight.parse() != Ok(0.0)
        })
}
