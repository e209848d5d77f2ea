//! The private parsers of HTTP requests, for the fuzz targets in `fuzz/`; not in any program.

use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, COOKIE, FORWARDED, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};

use super::caller::Peer;
use super::conditions::{self, Verdict};
use super::forwarded::{self, Proxies, ProxyHeader};
use super::query::Query;
use super::ranges::{self, Part};
use super::tokens::{Scope, Token};
use super::{authority, cookie, filter, format, media, response};
use crate::build::{Filter, Secret};

/// The builds that a query selects, and the same query as the server writes it into the next address; else
/// the error message.
///
/// # Errors
/// The error message.
pub fn query(text: &str) -> Result<(Filter, String), String> {
    let message = |error: super::error::ApiError| error.message();
    let query = Query::parse(text).map_err(message)?;
    for name in ["wait", "json", "async"] {
        query.flag(name).map_err(message)?;
    }
    let found = filter::filter(&query).map_err(message)?;
    Ok((found, filter::query(&query).finish()))
}

/// A header map of the given values that are valid; empty ones are omitted.
fn headers(given: &[(HeaderName, &[u8])]) -> HeaderMap {
    let valid = given
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(name, value)| Some((name.clone(), HeaderValue::from_bytes(value).ok()?)));
    HeaderMap::from_iter(valid)
}

/// The part of `length` bytes that a range requests: the first and the last byte, `Some(None)` where it
/// begins after the end, `None` where all is sent.
pub fn range(range: &[u8], if_range: &[u8], etag: &str, length: u64) -> Option<Option<(u64, u64)>> {
    let headers = headers(&[(RANGE, range), (IF_RANGE, if_range)]);
    match ranges::part(&Method::GET, &headers, etag, length) {
        Part::Whole => None,
        Part::Of(first, last) => Some(Some((first, last))),
        Part::Beyond => Some(None),
    }
}

/// The status that the conditions of a request decide: 200, 304 or 412.
pub fn conditions(if_match: &[u8], if_none_match: &[u8], etag: &str) -> u16 {
    let headers = headers(&[(IF_MATCH, if_match), (IF_NONE_MATCH, if_none_match)]);
    match conditions::evaluate(&headers, etag) {
        Verdict::Proceed => 200,
        Verdict::NotModified => 304,
        Verdict::Failed => 412,
    }
}

/// The name in an authority, and whether it is an address.
pub fn authority(text: &str) -> Option<(String, bool)> {
    let authority = authority::Authority::parse(text)?;
    Some((authority.name(), authority.is_address()))
}

/// Whether `origin` is a page of the server that `host` names; `None` where that is no authority.
pub fn is_origin(host: &str, origin: &str) -> Option<bool> {
    Some(authority::Authority::parse(host)?.is_origin(origin))
}

/// The name that a request is addressed to, where its target or its `Host` names one.
pub fn addressee(target: &str, host: &[u8]) -> Option<String> {
    let host = HeaderValue::from_bytes(host).ok()?;
    let request = Request::builder().uri(target).header("host", host);
    let parts = request.body(()).ok()?.into_parts().0;
    match authority::addressee(&parts) {
        authority::Addressee::Named(authority) => Some(authority.name()),
        authority::Addressee::Unnamed | authority::Addressee::Invalid => None,
    }
}

/// Whether `Accept` or `Accept-Encoding` takes a page, prefers one, takes JSON, takes gzip.
pub fn accepts(value: &[u8]) -> [bool; 4] {
    let headers = headers(&[(ACCEPT, value), (ACCEPT_ENCODING, value)]);
    [
        response::accepts(&headers, "text/html"),
        response::prefers(&headers, "text/html", "application/json"),
        response::takes_json(&headers),
        response::takes_coding(&headers, "gzip"),
    ]
}

/// The one token that the cookies of [`cookie`] may be made of.
fn token() -> Token {
    Token::of("ci", vec![Scope::Read], "secret")
}

/// Whether a `Cookie` header of a request at `now`, in seconds since 1970, reads.
pub fn cookie(header: &[u8], now: u64) -> bool {
    let now = UNIX_EPOCH + Duration::from_secs(now);
    let headers = headers(&[(COOKIE, header)]);
    let (secret, token) = (Secret::of("0123"), token());
    cookie::values(&headers)
        .any(|value| cookie::token_of(&secret, [&token].into_iter(), value, now).is_some())
}

/// The cookie that reads until 30 days after `now`.
pub fn good_cookie(now: u64) -> String {
    let now = UNIX_EPOCH + Duration::from_secs(now);
    cookie::value(&Secret::of("0123"), &token(), now)
}

/// A `Content-Disposition` that suggests `name`.
pub fn disposition(name: &[u8]) -> String {
    media::disposition("attachment", name)
}

/// Untrusted text on one line of a page.
pub fn visible(text: &str) -> String {
    format::visible(text)
}

/// The client whose request the trusted proxy 127.0.0.1 forwards with these headers; `None` where they are
/// refused.
pub fn client_of(forwarded: &[u8], x_forwarded_for: &[u8]) -> Option<IpAddr> {
    let proxy = IpAddr::from([127, 0, 0, 1]);
    let name = HeaderName::from_static("x-forwarded-for");
    let headers = headers(&[(FORWARDED, forwarded), (name, x_forwarded_for)]);
    let proxies = Proxies::new(vec![proxy.into()]);
    match proxies.client_of(&headers, Peer::Tcp(proxy)).ok()? {
        Peer::Tcp(address) | Peer::Proxy(address) => Some(address),
        Peer::Unix(_) => None,
    }
}

/// The length of the header of the PROXY protocol with which a connection begins, and the client that it
/// names; `None` where there is none, or not all of it.
pub fn proxy_header(bytes: &[u8]) -> Option<(usize, Option<IpAddr>)> {
    match forwarded::proxy_header(bytes) {
        ProxyHeader::Header(length, client) => Some((length, client)),
        ProxyHeader::Unfinished | ProxyHeader::Request => None,
    }
}
