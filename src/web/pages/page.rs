//! The response with a page, from its template.

use askama::Template;
use bytes::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderValue, REFERRER_POLICY,
};

use crate::web::client_budget::ClientBudget;
use crate::web::error::ApiError;
use crate::web::response::{self, Body, Response};

/// A page may load the server's own files only, and may not be shown in a frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// A page, compressed if the client accepts that. A browser revalidates it each time.
pub(super) fn page(
    budget: &ClientBudget,
    headers: &HeaderMap,
    template: &impl Template,
) -> Result<Response, ApiError> {
    written(headers, template, |text| {
        response::full(budget, text.into())
    })
}

/// A page for an error: small, and not counted.
pub(super) fn small_page(
    headers: &HeaderMap,
    template: &impl Template,
) -> Result<Response, ApiError> {
    written(headers, template, |text| Ok(response::parts([text])))
}

fn written(
    headers: &HeaderMap,
    template: &impl Template,
    body: impl FnOnce(Bytes) -> Result<Body, ApiError>,
) -> Result<Response, ApiError> {
    let text = template
        .render()
        .map_err(|error| ApiError::with_cause("the server could not write the page", error))?;
    let text = Bytes::from(text);
    let plain = text.clone();
    let gzipped = || response::gzip(&text);
    let media = "text/html; charset=utf-8";
    let mut response = response::compressible(headers, media, plain, gzipped, body)?;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(CACHE_CONTROL, response::PRIVATE);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    Ok(response)
}
