//! Which clients may send which requests: decided before a handler sees the request.
//!
//! - Over TCP the host that a request names must be one of this server's, so that no other name can be bound
//!   to it (DNS rebinding).
//! - A request that changes something must be JSON and must not come from a page of another site.
//! - With a tokens file, changing something over TCP needs a token, and reading, too, unless it is public.
//!   The unix socket is protected by its mode and group.
//! - Over TCP, a trusted proxy names its client ([`Proxies`]).
//! - A browser's cookie is enough for reading.

use std::sync::Arc;

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use super::authority::{self, Addressee};
use super::caller::{Caller, Peer};
use super::cookie;
use super::error::ApiError;
use super::forwarded::Proxies;
use super::response;
use super::tokens::{self, Scope, Token, TokensFile};
use crate::build::Secret;

/// The requests that need no token over TCP, if there is a tokens file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Public {
    /// Reading.
    Read,
    /// Only `/healthz`.
    Nothing,
}

/// The rules.
#[derive(Debug)]
pub struct Access {
    /// Names by which clients may address the server; lower case.
    pub hosts: Vec<String>,
    /// Without one, everything is allowed.
    pub tokens: Option<Arc<TokensFile>>,
    /// Requests without a token.
    pub public: Public,
    /// The token of this process, for programs that may read its lock file.
    pub local: Option<Token>,
    /// Proxies that may name their clients.
    pub proxies: Proxies,
}

impl Access {
    /// The caller of a request that needs `scope`; an error where it may not be sent. Cookies are signed with
    /// `secret`.
    pub(super) async fn check(
        &self,
        request: &Parts,
        peer: Peer,
        scope: Option<Scope>,
        secret: &Secret,
    ) -> Result<Caller, ApiError> {
        self.check_host(request, peer)?;
        // With OPTIONS a browser asks whether a page of another site may send a request. It may not.
        if !is_safe(&request.method) || request.method == Method::OPTIONS {
            check_origin(request)?;
        }
        match (peer, scope) {
            (Peer::Tcp(_) | Peer::Proxy(_), Some(scope)) => {
                let token = self.check_token(request, peer, scope, secret).await?;
                Ok(token.unwrap_or_else(|| Caller {
                    is_anonymous: self.tokens.is_some(),
                    ..peer.caller()
                }))
            }
            (Peer::Unix(_), _) | (_, None) => Ok(peer.caller()),
        }
    }

    /// Over a unix socket the name does not matter, but there must be exactly one (RFC 9112 §3.2).
    fn check_host(&self, request: &Parts, peer: Peer) -> Result<(), ApiError> {
        let invalid = || ApiError::bad_request("one Host header that names a host was expected");
        if let Peer::Unix(_) = peer {
            return match authority::is_host_missing_or_repeated(request) {
                true => Err(invalid()),
                false => Ok(()),
            };
        }
        let host = match authority::addressee(request) {
            Addressee::Invalid => return Err(invalid()),
            // No browser speaks HTTP/1.0.
            Addressee::Unnamed => return Ok(()),
            Addressee::Named(host) => host,
        };
        let name = host.name();
        if host.is_address() || name == "localhost" || self.hosts.contains(&name) {
            Ok(())
        } else {
            Err(ApiError::new(
                StatusCode::MISDIRECTED_REQUEST,
                "this server does not answer to that Host; use its address, or have its name added to 'hosts' in its configuration",
            ))
        }
    }

    /// The caller that the token or the cookie of the request names; `None` where none is needed.
    async fn check_token(
        &self,
        request: &Parts,
        peer: Peer,
        scope: Scope,
        secret: &Secret,
    ) -> Result<Option<Caller>, ApiError> {
        let Some(file) = &self.tokens else {
            return Ok(None);
        };
        let local = self.local.as_slice();
        if let Some(given) = bearer(&request.headers) {
            let current = current(file, peer).await?;
            let token = tokens::find(&current, &given).or_else(|| tokens::find(local, &given));
            return match token {
                Some(token) if tokens::allows(token, scope) => Ok(Some(Caller {
                    name: format!("token {}", token.name),
                    is_admin: tokens::allows(token, Scope::Admin),
                    is_anonymous: false,
                    token: Some(token.clone()),
                })),
                Some(_) => Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    format!(
                        "this token does not allow that: scope '{scope}' is needed ('mistryd token new NAME --scope {scope}' on the server)"
                    ),
                )),
                None => Err(ApiError::unauthorized(
                    "this token is not known: 'mistryd token new NAME' on the server makes one",
                )),
            };
        }
        if scope == Scope::Read && self.public == Public::Read {
            return Ok(None);
        }
        if scope == Scope::Read && cookie::is_present(request) {
            let current = current(file, peer).await?;
            if let Some(token) = cookie::find(secret, &[&current, local], request) {
                cookie::check_site(request)?;
                return Ok(Some(Caller {
                    name: format!("token {}", token.name),
                    is_admin: false,
                    is_anonymous: false,
                    token: None,
                }));
            }
        }
        Err(ApiError::unauthorized(
            "a token is needed over TCP. 'mistryd token new NAME' on the server makes one: pass it with --token-file, or as 'Authorization: Bearer …'. On the server's own host, its unix socket needs none",
        ))
    }
}

/// The file of tokens is wrong, or cannot be read: an operator must correct it.
const CANNOT_CHECK: &str = "the server cannot read its file of tokens, and refuses every token until it is corrected; the server's log says what is wrong";

/// The token in a request.
fn bearer(headers: &HeaderMap) -> Option<String> {
    headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, secret)| secret.trim().to_owned())
}

/// The current tokens of the file.
async fn current(file: &Arc<TokensFile>, peer: Peer) -> Result<Arc<[Token]>, ApiError> {
    // No read is refused, so that clients that read do not keep out clients that build. The number of
    // connections is the limit.
    let (limiter, file) = (file.limiter.for_client(peer.client()), file.clone());
    match limiter.run(move |_permit| file.current()).await {
        Ok(Ok(current)) => Ok(current),
        Ok(Err(error)) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the file of tokens cannot be used: every token is refused"
            );
            Err(ApiError::internal(CANNOT_CHECK))
        }
        Err(_) => Err(ApiError::internal(CANNOT_CHECK)),
    }
}

/// True for methods that change nothing.
pub(super) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// A browser sends the origin of the page that makes a request. Other clients send none, and are accepted.
fn check_origin(request: &Parts) -> Result<(), ApiError> {
    let headers = &request.headers;
    let site = headers.get("sec-fetch-site");
    let is_other_site = site.is_some_and(|site| site != "same-origin" && site != "none");
    let mut origins = headers.get_all(ORIGIN).iter();
    let is_ours = origins.all(
        |origin| match (origin.to_str(), authority::addressee(request)) {
            (Ok(origin), Addressee::Named(host)) => host.is_origin(origin),
            _ => false,
        },
    );
    if is_ours && !is_other_site {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "a page of another site may not change anything here",
    ))
}

/// A request that changes something must be JSON, which no form of another site can send.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    if response::is_json(headers.get(CONTENT_TYPE)) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "expected a header Content-Type: application/json, also without a body (web pages of other sites cannot send it)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = hyper::Request::builder().method(method).uri("/jobs");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn access() -> Access {
        Access {
            hosts: vec!["build.example".to_owned()],
            tokens: None,
            public: Public::Read,
            local: None,
            proxies: Proxies::default(),
        }
    }

    async fn status(request: Parts) -> u16 {
        let peer = Peer::Tcp([127, 0, 0, 1].into());
        match access()
            .check(&request, peer, Some(Scope::Read), &Secret::of(""))
            .await
        {
            Ok(_) => 200,
            Err(error) => error.status.as_u16(),
        }
    }

    #[tokio::test]
    async fn another_host_is_refused() {
        for host in [
            "127.0.0.1:8462",
            "[::1]:8462",
            "[::1]",
            "localhost",
            "localhost.",
            "localhost:",
            "LOCALHOST:1",
            "build.example.:80",
            "build.example:80",
            "0.0.0.0:8462",
        ] {
            assert_eq!(status(parts("GET", &[("host", host)])).await, 200, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8462",
            "evil.example.",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
        ] {
            assert_eq!(status(parts("GET", &[("host", host)])).await, 421, "{host}");
        }
        for invalid in [
            "",
            "::1",
            "[::1",
            "localhost:port",
            "user@localhost",
            "localhost/x",
        ] {
            let request = parts("GET", &[("host", invalid)]);
            assert_eq!(status(request).await, 400, "{invalid}");
        }
        assert_eq!(status(parts("GET", &[])).await, 400);
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(status(parts("GET", &twice)).await, 400);
    }

    #[tokio::test]
    async fn a_page_of_another_site_cannot_change_anything() {
        let ours = [
            ("host", "localhost:1"),
            ("content-type", "application/json; charset=utf-8"),
        ];
        let with = |more: &[(&'static str, &'static str)]| {
            let mut all = ours.to_vec();
            all.extend_from_slice(more);
            parts("POST", &all)
        };
        assert_eq!(status(with(&[])).await, 200);
        assert_eq!(
            status(with(&[
                ("sec-fetch-site", "same-origin"),
                ("origin", "http://localhost:1")
            ]))
            .await,
            200
        );
        for foreign in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://localhost:2"),
        ] {
            assert_eq!(status(with(&[foreign])).await, 403, "{foreign:?}");
        }
        for (media, is_taken) in [
            ("application/json", true),
            ("Application/JSON ; charset=utf-8", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("multipart/form-data; boundary=x", false),
            ("application/jsonp", false),
        ] {
            let request = parts("POST", &[("content-type", media)]);
            let checked = check_content_type(&request.headers);
            assert_eq!(checked.is_ok(), is_taken, "{media}");
        }
        assert!(check_content_type(&parts("POST", &[]).headers).is_err());
    }
}
