//! From an HTTP request to its response: checked, routed, handled, and errors formatted for the client.

use hyper::body::Incoming;
use hyper::header::{
    ALLOW, EXPECT, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, StatusCode, Version};

use super::access;
use super::caller::Peer;
use super::client_budget::ClientBudget;
use super::connection_limits::TOO_MANY_CONNECTIONS;
use super::error::ApiError;
use super::pages;
use super::query::Query;
use super::request::Request;
use super::response::{self, Response};
use super::routes;
use super::short_id;
use super::state::Web;
use super::tokens::Scope;
use crate::budget::Held;

/// Bytes of a target: twice what the longest path that Linux opens takes when each byte is escaped.
const MAX_TARGET: usize = 32 << 10;

/// Bytes of all headers of one request.
const MAX_HEADERS: usize = 64 << 10;

const NO_ADDRESS: &str = "there is nothing at this address: builds are at /, and /openapi.json lists the addresses for programs";

/// How a client reads errors.
struct ErrorFormat {
    as_json: bool,
    /// The headers of a browser, which gets a page.
    browser: Option<HeaderMap>,
}

impl ErrorFormat {
    fn of(headers: &HeaderMap) -> ErrorFormat {
        ErrorFormat {
            as_json: response::takes_json(headers),
            browser: response::accepts(headers, "text/html").then(|| headers.clone()),
        }
    }

    /// The response to the request `id` that fails with `error`.
    fn write(&self, error: ApiError, id: &str) -> Response {
        match &self.browser {
            Some(headers) if error.status == StatusCode::UNAUTHORIZED => {
                pages::signin::render(headers)
                    .unwrap_or_else(|error| response::of_error(error, id, self.as_json))
            }
            Some(headers) => pages::refused::render(error, id, headers),
            None => response::of_error(error, id, self.as_json),
        }
    }
}

/// Answers one request.
pub(super) async fn respond(web: &Web, http: hyper::Request<Incoming>, peer: Peer) -> Response {
    let id = web.next_request();
    let errors = ErrorFormat::of(http.headers());
    let (result, place) = match admit(web, http.headers(), peer) {
        Ok((peer, place)) => (handle(web, http, peer, &id).await, place),
        Err(error) => (Err(error), None),
    };
    let response = result.unwrap_or_else(|error| errors.write(error, &id));
    let response = with_id(response, id);
    match place {
        Some(place) => response.map(|body| body.holding(place)),
        None => response,
    }
}

/// Responds to any request with `error`.
pub(super) fn refuse(web: &Web, http: &hyper::Request<Incoming>, error: ApiError) -> Response {
    let id = web.next_request();
    let response = ErrorFormat::of(http.headers()).write(error, &id);
    with_id(response, id)
}

fn with_id(mut response: Response, id: String) -> Response {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::try_from(id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    response
}

/// The peer that a trusted proxy names, and the place of a request whose connection is counted for the proxy.
fn admit(web: &Web, headers: &HeaderMap, peer: Peer) -> Result<(Peer, Option<Held>), ApiError> {
    let named = web.access.load().proxies.client_of(headers, peer)?;
    let place = match named {
        Peer::Tcp(_) if named != peer => {
            let place = web.limits.requests.hold(named.client(), 1);
            Some(place.ok_or_else(|| ApiError::busy(TOO_MANY_CONNECTIONS))?)
        }
        _ => None,
    };
    Ok((named, place))
}

/// Admits a request, and calls the handler of its route.
async fn handle(
    web: &Web,
    http: hyper::Request<Incoming>,
    peer: Peer,
    id: &str,
) -> Result<Response, ApiError> {
    check_framing(&http)?;
    let query = Query::parse(http.uri().query().unwrap_or_default())?;
    let (parts, body) = http.into_parts();
    // hyper answers a HEAD like a GET, without the body.
    let method = match parts.method {
        Method::HEAD => Method::GET,
        ref method => method.clone(),
    };
    let found = routes::find(&method, parts.uri.path());
    let scope = match &found.route {
        Some((route, _)) => route.scope,
        None if access::is_safe(&method) => Some(Scope::Read),
        None => Some(Scope::Admin),
    };
    let access = web.access.load_full();
    let secret = web.scheduler.secret();
    let caller = access.check(&parts, peer, scope, secret).await?;
    let Some(allow) = found.allow else {
        return Err(ApiError::not_found(NO_ADDRESS));
    };
    if method == Method::OPTIONS {
        let mut response = response::no_content();
        response::set(&mut response, ALLOW, &allow);
        return Ok(response);
    }
    if !found.takes_method {
        return Err(ApiError::method_not_allowed(allow));
    }
    if !access::is_safe(&method) {
        access::check_content_type(&parts.headers)?;
    }
    let Some((route, path)) = found.route else {
        // A target without a path is the whole server: it accepts the method, and has no content.
        return Err(ApiError::not_found(NO_ADDRESS));
    };
    let mut request = Request {
        id: id.to_owned(),
        http: hyper::Request::from_parts(parts, body),
        path,
        query,
        caller,
        client: peer.client(),
        budget: ClientBudget::new(web.held.clone(), peer.client()),
        reader: web.scheduler.reader(peer.client()),
    };
    if let Some(redirect) = short_id::complete(web, route, &mut request).await? {
        return Ok(redirect);
    }
    (route.handler)(web, request).await
}

/// Refuses requests that are invalid at any address, before a body is read: a target or headers that are too
/// long, unknown expectations (RFC 9110 §10.1.1), unknown codings (RFC 9112 §6.1).
fn check_framing(request: &hyper::Request<Incoming>) -> Result<(), ApiError> {
    let target = request.uri().path_and_query();
    if target.is_some_and(|target| target.as_str().len() > MAX_TARGET) {
        return Err(ApiError::new(
            StatusCode::URI_TOO_LONG,
            format!("the address is too long: expected at most {MAX_TARGET} bytes"),
        ));
    }
    let is = |value: &HeaderValue, word: &str| {
        let text = value.to_str().unwrap_or_default();
        text.trim().eq_ignore_ascii_case(word)
    };
    let headers = request.headers();
    // With the colon, the space and the end of each line.
    let lengths = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    if lengths.sum::<usize>() > MAX_HEADERS {
        return Err(ApiError::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!("the headers are too long: expected at most {MAX_HEADERS} bytes"),
        ));
    }
    let mut expectations = headers.get_all(EXPECT).iter();
    // HTTP/1.0 has no expectations, and the header is ignored.
    if request.version() >= Version::HTTP_11 && !expectations.all(|said| is(said, "100-continue")) {
        return Err(ApiError::new(
            StatusCode::EXPECTATION_FAILED,
            "Expect: 100-continue is all that can be expected",
        ));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if is(only, "chunked") => Ok(()),
        _ => Err(ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            "Transfer-Encoding: chunked is all that is understood",
        )),
    }
}
