//! Responses: bodies, and the headers that they share. The bytes of a body are counted until the client
//! has read them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::StatusCode;
use hyper::body::{Frame, SizeHint};
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderName, HeaderValue, LOCATION, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use serde::Serialize;

use super::client_budget::ClientBudget;
use super::error::{ApiError, MAX_MESSAGE};
use crate::api::ErrorView;

/// Only the client's own browser may store the response, and must revalidate it each time.
pub(super) const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");
/// `Vary` of pages and their parts.
pub(super) const VARIES: HeaderValue = HeaderValue::from_static("accept, accept-encoding");

/// Bytes of a body that need not be counted: a connection itself costs about as much, and the number of
/// connections is bounded. So errors can always be sent.
pub(super) const SMALL: usize = 4 << 10;
// An error with its longest message is small, also as JSON.
const _: () = assert!(MAX_MESSAGE <= SMALL / 2);

/// What is sent to a client.
pub(super) type Response = hyper::Response<Body>;

/// The body of every response; an error in it ends the connection, so that it never looks complete. It is
/// made only here, so that the memory held for the client is counted: [`full`], [`parts`], or a stream that
/// counts its own memory.
#[derive(Debug)]
pub(super) struct Body(UnsyncBoxBody<Bytes, io::Error>);

impl Body {
    /// Drops `held` when the body was sent, or is dropped earlier.
    pub(super) fn holding(self, held: impl Send + 'static) -> Body {
        let owner = move |error| {
            let _ = &held;
            error
        };
        Body(self.0.map_err(owner).boxed_unsync())
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A body in memory, counted until the client has read it.
pub(super) fn full(budget: &ClientBudget, bytes: Vec<u8>) -> Result<Body, ApiError> {
    let held = budget.hold(bytes.len() as u64)?;
    // No more than what is counted.
    Ok(whole(held.count_bytes(bytes.into_boxed_slice())))
}

/// A body of at most [`SMALL`] bytes, which are not counted.
fn small(text: String) -> Body {
    whole(text.into())
}

/// A body that is part of the program.
pub(super) fn fixed(bytes: &'static [u8]) -> Body {
    whole(Bytes::from_static(bytes))
}

/// A body of bytes that are counted elsewhere, or not at all.
fn whole(bytes: Bytes) -> Body {
    Body(
        Full::new(bytes)
            .map_err(|never| match never {})
            .boxed_unsync(),
    )
}

/// A body of parts that are counted where they come from.
pub(super) fn parts(parts: impl IntoIterator<Item = Bytes>) -> Body {
    struct Parts(VecDeque<Bytes>);

    impl hyper::body::Body for Parts {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            let lengths = self.0.iter().map(|part| part.len() as u64);
            SizeHint::with_exact(lengths.sum())
        }
    }

    Body(Parts(parts.into_iter().collect()).boxed_unsync())
}

/// No body.
pub(super) fn empty() -> Body {
    Body(Empty::new().map_err(|never| match never {}).boxed_unsync())
}

/// A body that is a stream, which counts its own memory: [`super::paced`].
pub(super) fn streamed(bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    Body(StreamBody::new(bytes.map_ok(Frame::data).boxed()).boxed_unsync())
}

/// A response with a body of the type `media`.
pub(super) fn typed(status: StatusCode, media: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// JSON, at an address that may send a page to a browser.
pub(super) fn json(
    budget: &ClientBudget,
    status: StatusCode,
    value: &impl Serialize,
) -> Result<Response, ApiError> {
    let text = serde_json::to_vec(value)?;
    Ok(of_json(status, full(budget, text)?))
}

/// JSON of at most [`SMALL`] bytes; `None` where it cannot be written.
pub(super) fn small_json(status: StatusCode, value: &impl Serialize) -> Option<Response> {
    let text = serde_json::to_string(value).ok()?;
    Some(of_json(status, small(text)))
}

/// A response whose body is JSON.
pub(super) fn of_json(status: StatusCode, body: Body) -> Response {
    let mut response = typed(status, "application/json", body);
    of_now(&mut response);
    response
}

/// Marks a response as valid only for this request and now: a cache must not give it to a browser that wants
/// a page, or to a client that may not read.
pub(super) fn of_now(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept"));
    headers.insert(CACHE_CONTROL, PRIVATE);
}

/// Plain text of at most [`SMALL`] bytes.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response {
    typed(status, "text/plain; charset=utf-8", small(text.into()))
}

/// The response to the request `id` that `error` refuses. Its cause goes to the journal, under the same id.
pub(super) fn of_error(error: ApiError, id: &str, as_json: bool) -> Response {
    if let Some(cause) = &error.cause {
        tracing::error!(
            mistry_request = id,
            error = &**cause as &dyn std::error::Error,
            "{}",
            error.message
        );
    }
    let view = ErrorView {
        error: error.message(),
        request: id.to_owned(),
        job: error.job.as_ref().map(|(_, id)| id.clone()),
    };
    let as_json = as_json.then(|| small_json(error.status, &view)).flatten();
    let mut response = as_json.unwrap_or_else(|| text(error.status, format!("{}\n", view.error)));
    of_now(&mut response);
    let headers = response.headers_mut();
    if let Some(seconds) = error.retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if error.status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some((project, id)) = error.job {
        set(&mut response, LOCATION, &format!("/job/{project}/{id}"));
    }
    if let Some(allow) = error.allow {
        set(&mut response, ALLOW, &allow);
    }
    response
}

/// Text for a client, compressed if the client accepts that: `gzipped` makes it, `plain` is the same.
pub(super) fn compressible(
    asked: &HeaderMap,
    media: &'static str,
    plain: Bytes,
    gzipped: impl FnOnce() -> Bytes,
    body: impl FnOnce(Bytes) -> Result<Body, ApiError>,
) -> Result<Response, ApiError> {
    let is_taken = takes_coding(asked, "gzip");
    let text = if is_taken { gzipped() } else { plain };
    let mut response = typed(StatusCode::OK, media, body(text)?);
    let headers = response.headers_mut();
    headers.insert(VARY, VARIES);
    if is_taken {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// The fastest level: half a millisecond for a page, a fifth of its size.
pub(super) fn gzip(text: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 4), Compression::fast());
    // Writing to memory cannot fail.
    let written = encoder.write_all(text).and_then(|()| encoder.finish());
    written.unwrap_or_default().into()
}

/// No content.
pub(super) fn no_content() -> Response {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// 304: the client has the content of `etag`.
pub(super) fn not_modified(etag: &str) -> Response {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    set(&mut response, ETAG, etag);
    response
}

/// Sets a header whose value is made by the server and contains only valid characters.
pub(super) fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}

/// Thousandths of weight of what is named without one (RFC 9110 §12.4.2).
const FULL_WEIGHT: u16 = 1_000;

/// The elements of a list of the kind of `Accept`: names, and weights in thousandths.
fn weighted(headers: &HeaderMap, header: HeaderName) -> impl Iterator<Item = (&str, u16)> {
    headers
        .get_all(header)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|element| {
            let mut parts = element.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let weight = parts.filter_map(|part| part.split_once('='));
            let mut weight = weight.filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
            let weight = weight.find_map(|(_, weight)| weight.trim().parse::<f32>().ok());
            let thousandths = weight.map(|weight| weight.clamp(0.0, 1.0) * f32::from(FULL_WEIGHT));
            // Of 0 to 1,000, so nothing is cut off.
            let thousandths = thousandths.map(|weight| weight.round() as u16);
            (name, thousandths.unwrap_or(FULL_WEIGHT))
        })
}

/// The weight with which a list names `wanted` itself, in any letter case; `None` where it does not.
fn weight_of(headers: &HeaderMap, header: HeaderName, wanted: &str) -> Option<u16> {
    weighted(headers, header)
        .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
        .map(|(_, weight)| weight)
        .max()
}

/// True when `Accept` names `media` itself, and does not refuse it by `q=0`.
pub(super) fn accepts(headers: &HeaderMap, media: &str) -> bool {
    weight_of(headers, ACCEPT, media).is_some_and(|weight| weight > 0)
}

/// True when `Accept` names `media`, and not `other` with more weight.
pub(super) fn prefers(headers: &HeaderMap, media: &str, other: &str) -> bool {
    let weight = weight_of(headers, ACCEPT, media).unwrap_or(0);
    weight > 0 && weight >= weight_of(headers, ACCEPT, other).unwrap_or(0)
}

/// True when JSON may be sent: `Accept` names it or a range that includes it, or is absent. The most specific
/// element decides (RFC 9110 §12.5.1).
pub(super) fn takes_json(headers: &HeaderMap) -> bool {
    !headers.contains_key(ACCEPT)
        || ["application/json", "application/*", "*/*"]
            .iter()
            .find_map(|media| weight_of(headers, ACCEPT, media))
            .is_some_and(|weight| weight > 0)
}

/// True when `Accept-Encoding` names `coding`, and does not refuse it by `q=0`. A wildcard (`*`) does not
/// request it.
pub(super) fn takes_coding(headers: &HeaderMap, coding: &str) -> bool {
    weight_of(headers, ACCEPT_ENCODING, coding).is_some_and(|weight| weight > 0)
}

/// True for a media type that is JSON, with or without parameters.
pub(super) fn is_json(media: Option<&HeaderValue>) -> bool {
    let media = media.and_then(|media| media.to_str().ok());
    let name = media.and_then(|media| media.split(';').next());
    name.is_some_and(|name| name.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn a_type_of_weight_zero_is_not_accepted() {
        for (value, page, json) in [
            ("text/html", true, false),
            ("text/html,*/*;q=0.8", true, true),
            ("text/html;q=0, */*", false, true),
            ("text/html; q=0.000", false, false),
            ("TEXT/HTML;level=1;Q=0.1", true, false),
            ("*/*", false, true),
            ("*/*;q=0", false, false),
            ("application/*", false, true),
            ("application/json;q=0, */*", false, false),
            ("application/*;q=0, application/json", false, true),
            ("text/plain", false, false),
            ("", false, false),
        ] {
            let headers = headers(ACCEPT, value);
            assert_eq!(accepts(&headers, "text/html"), page, "{value}");
            assert_eq!(takes_json(&headers), json, "{value}");
        }
        assert!(takes_json(&HeaderMap::new()));
    }

    #[test]
    fn the_greater_weight_is_preferred() {
        let prefers = |value| prefers(&headers(ACCEPT, value), "text/html", "application/json");
        assert!(prefers("text/html"));
        assert!(prefers("application/json, text/html"));
        assert!(prefers("application/json;q=0.5, text/html;q=0.6"));
        assert!(!prefers("application/json, text/html;q=0.9"));
        assert!(!prefers("application/json"));
        assert!(!prefers("text/html;q=0"));
    }

    #[test]
    fn a_coding_is_used_if_it_is_accepted_with_a_positive_weight() {
        let takes = |value| takes_coding(&headers(ACCEPT_ENCODING, value), "gzip");
        for value in [
            "gzip",
            "br, GZIP;q=0.1",
            "gzip ; q=1.0",
            "identity;q=0, gzip",
        ] {
            assert!(takes(value), "{value}");
        }
        for value in [
            "",
            "gzip;q=0",
            "gzip; Q=0.0",
            "identity;q=0",
            "*",
            "*;q=0",
            "br",
            "gzipped",
        ] {
            assert!(!takes(value), "{value}");
        }
        assert!(!takes_coding(&HeaderMap::new(), "gzip"));
    }
}
