//! The page of an error for a browser: the message that programs get, and links.

use askama::Template;
use hyper::HeaderMap;

use super::page::small_page;
use crate::web::error::ApiError;
use crate::web::format;
use crate::web::response::{self, Response};

#[derive(Template)]
#[template(path = "refused.html")]
struct Page<'a> {
    status: &'a str,
    sentence: String,
    request: &'a str,
    /// The error is the server's fault.
    is_ours: bool,
}

/// The error as a page; as text if no page can be written.
pub(in crate::web) fn render(error: ApiError, request: &str, headers: &HeaderMap) -> Response {
    let told = Page {
        status: error.status.canonical_reason().unwrap_or("Refused"),
        sentence: format::visible(&error.message()),
        request,
        is_ours: error.status.is_server_error(),
    };
    let page = small_page(headers, &told);
    let mut response = response::of_error(error, request, false);
    if let Ok(page) = page {
        let (parts, body) = page.into_parts();
        response.headers_mut().extend(parts.headers);
        *response.body_mut() = body;
    }
    response
}
