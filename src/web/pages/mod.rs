//! The web view: builds as they happen, each of them, their artifacts, projects, the host.
//!
//! Works without JavaScript, is better with it, and loads nothing from elsewhere. Everything that a client or a
//! container wrote goes through the templates' escaping.

pub(super) mod directory;
pub(super) mod file;
mod host;
mod job;
mod overview;
mod plot;
mod project;
pub(super) mod refused;
mod row;
pub(super) mod signin;
mod timeline;

pub(super) use host::host;
pub(super) use job::{JOB, job};
pub(super) use overview::overview;
pub(super) use project::{project, projects};
pub(super) use row::row_of;

use askama::Template;
use bytes::Bytes;
use hyper::Response;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderValue, REFERRER_POLICY,
};

use super::answer::{self, Body, Room};
use super::error::Refusal;

/// What a page may load, and who may show it: nothing but our own files, and no page in a frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// A page, compressed for who takes it; a browser asks for it again each time.
pub(super) fn page(
    room: &Room,
    headers: &HeaderMap,
    template: &impl Template,
) -> Result<Response<Body>, Refusal> {
    written(headers, template, |text| answer::full(room, text.into()))
}

/// A page that stands in the place of an error: small, and not counted.
fn small_page(headers: &HeaderMap, template: &impl Template) -> Result<Response<Body>, Refusal> {
    written(headers, template, |text| Ok(answer::parts([text])))
}

fn written(
    headers: &HeaderMap,
    template: &impl Template,
    body: impl FnOnce(Bytes) -> Result<Body, Refusal>,
) -> Result<Response<Body>, Refusal> {
    let text = template
        .render()
        .map_err(|error| Refusal::caused("the server could not write the page", error))?;
    let text = Bytes::from(text);
    let plain = text.clone();
    let gzipped = || answer::gzip(&text);
    let media = "text/html; charset=utf-8";
    let mut response = answer::compressible(headers, media, plain, gzipped, body)?;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(CACHE_CONTROL, answer::PRIVATE);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    Ok(response)
}
