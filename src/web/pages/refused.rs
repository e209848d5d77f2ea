//! The page of an error for a browser: the message that programs get, and links.

use askama::Template;
use hyper::{HeaderMap, StatusCode};

use super::page::small_page;
use crate::web::error::ApiError;
use crate::web::format;
use crate::web::response::{self, Response};

#[derive(Template)]
#[template(path = "refused.html")]
struct Page<'a> {
    title: &'a str,
    sentence: String,
    request: &'a str,
    /// The error is the server's fault.
    is_ours: bool,
}

/// What a status means, for people.
fn title(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 | 422 => "This address is not valid",
        401 | 403 => "This is not allowed",
        404 | 410 => "There is no such page",
        405 | 406 | 415 => "This address cannot be opened in this way",
        409 => "This is not possible now",
        429 | 503 | 507 => "The server is busy",
        500..=599 => "Something went wrong on the server",
        _ => "The server refused this request",
    }
}

/// The error as a page; as text if no page can be written.
pub(in crate::web) fn render(error: ApiError, request: &str, headers: &HeaderMap) -> Response {
    let told = Page {
        title: title(error.status),
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
