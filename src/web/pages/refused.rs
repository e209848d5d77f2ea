//! The page for a browser that is refused: the sentence that programs get, and ways on.

use askama::Template;
use hyper::{HeaderMap, Response};

use super::small_page;
use crate::web::answer::Body;
use crate::web::error::Refusal;
use crate::web::words;

#[derive(Template)]
#[template(path = "refused.html")]
struct Page<'a> {
    status: &'a str,
    sentence: String,
    request: &'a str,
    /// The fault is the server's.
    is_ours: bool,
}

/// The refusal as a page; where no page can be written, as text.
pub(in crate::web) fn show(refusal: Refusal, request: &str, headers: &HeaderMap) -> Response<Body> {
    let told = Page {
        status: refusal.status.canonical_reason().unwrap_or("Refused"),
        sentence: words::visible(refusal.sentence()),
        request,
        is_ours: refusal.status.is_server_error(),
    };
    let page = small_page(headers, &told);
    let mut response = refusal.answer(request, false);
    if let Ok(page) = page {
        let (parts, body) = page.into_parts();
        response.headers_mut().extend(parts.headers);
        *response.body_mut() = body;
    }
    response
}
