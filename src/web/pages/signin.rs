//! The page for a browser that may not read yet: it asks for a token. It is the same for all clients, and
//! reveals nothing about the server.

use askama::Template;
use hyper::header::{CACHE_CONTROL, HeaderValue, WWW_AUTHENTICATE};
use hyper::{HeaderMap, StatusCode};

use crate::web::error::ApiError;
use crate::web::response::Response;

#[derive(Template)]
#[template(path = "signin.html")]
struct Page;

/// Asks for a token, instead of any page.
pub(in crate::web) fn render(headers: &HeaderMap) -> Result<Response, ApiError> {
    let mut response = super::page::small_page(headers, &Page)?;
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
