//! A browser's session: it exchanges its token for a cookie, and later removes the cookie.

use hyper::header::SET_COOKIE;

use super::access::Public;
use super::cookie;
use super::error::ApiError;
use super::request::Request;
use super::response::{self, Response};
use super::state::Web;

/// `POST /session`: a client with a valid token gets a cookie for reading, if reading needs one.
pub(super) async fn begin(web: &Web, request: Request) -> Result<Response, ApiError> {
    let mut response = response::no_content();
    if web.access.load().public == Public::Nothing
        && let Some(token) = &request.caller.token
    {
        let cookie = cookie::given(web.scheduler.secret(), token, request.headers());
        response::set(&mut response, SET_COOKIE, &cookie);
    }
    Ok(response)
}

/// `DELETE /session`: removes the cookie.
pub(super) async fn end(_: &Web, request: Request) -> Result<Response, ApiError> {
    let mut response = response::no_content();
    response::set(
        &mut response,
        SET_COOKIE,
        &cookie::removed(request.headers()),
    );
    Ok(response)
}
