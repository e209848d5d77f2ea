//! The cookie with which a browser may read: a browser cannot send a token when it opens a page.
//!
//! The cookie is not the token. It allows to read only, and only requests that come from our own pages. It
//! expires, and becomes invalid with its token: it is signed with the hash that the tokens file holds and a
//! secret of the build path, so that neither of the two is enough to make a cookie. The server stores no
//! sessions, so cookies stay valid when it restarts. Browsers send a cookie to every port of a host, so
//! another server on the same host sees this one; that is why it allows no more than reading.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use hyper::header::{COOKIE, HeaderMap, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::error::ApiError;
use super::tokens::{self, Scope, Token};
use crate::build::Secret;

const NAME: &str = "mistry-read";
/// The version of the value's format.
const VERSION: &str = "v1";
/// The first line of the signed text. No other text signed with a token's hash begins with it.
const PURPOSE: &str = "mistry: a browser may read, until ";
/// How long a cookie is valid.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Cookies of our name that are checked; another server on the same host may have set some.
const MAX_VALUES: usize = 4;

/// The value for a client that has sent `token`.
pub(super) fn value(secret: &Secret, token: &Token, now: SystemTime) -> String {
    let expiry = seconds(now).saturating_add(LIFETIME.as_secs());
    let name = utf8_percent_encode(&token.name, NON_ALPHANUMERIC);
    format!(
        "{VERSION}.{name}.{expiry}.{}",
        signature(secret, token, expiry)
    )
}

/// The signed text is unambiguous: the number is the end of the first line, the name is the rest.
fn signature(secret: &Secret, token: &Token, expiry: u64) -> String {
    // The first part always has the same length, so two different pairs never make the same key. HMAC takes
    // keys of any length.
    let key = [token.hash(), secret.as_bytes()].concat();
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else {
        return String::new();
    };
    mac.update(format!("{PURPOSE}{expiry}\n{}", token.name).as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// The token for which `value` was made, while both are valid.
pub(super) fn token_of<'a>(
    secret: &Secret,
    mut tokens: impl Iterator<Item = &'a Token>,
    value: &str,
    now: SystemTime,
) -> Option<&'a Token> {
    let mut parts = value.split('.');
    let (Some(VERSION), Some(name), Some(expiry), Some(signed), None) = (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) else {
        return None;
    };
    let name = percent_decode_str(name).decode_utf8().ok()?;
    let expiry: u64 = expiry.parse().ok()?;
    if expiry <= seconds(now) {
        return None;
    }
    tokens.find(|token| {
        let expected = signature(secret, token, expiry);
        token.name == name
            && !expected.is_empty()
            && expected.as_bytes().ct_eq(signed.as_bytes()).into()
            && tokens::allows(token, Scope::Read)
    })
}

/// The values of our cookie in `headers`.
pub(super) fn values(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == NAME)
        .map(|(_, value)| value)
        .take(MAX_VALUES)
}

/// True for a request that reads and has our cookie, valid or not.
pub(super) fn is_present(request: &Parts) -> bool {
    matches!(request.method, Method::GET | Method::HEAD)
        && values(&request.headers).next().is_some()
}

/// The token for which the cookie of `request` was made.
pub(super) fn find<'a>(
    secret: &Secret,
    tokens: &[&'a [Token]],
    request: &Parts,
) -> Option<&'a Token> {
    let now = SystemTime::now();
    values(&request.headers)
        .find_map(|value| token_of(secret, tokens.iter().copied().flatten(), value, now))
}

/// Refuses a page of another origin that would read with our cookie or embed our content. A link on such a
/// page may be followed.
pub(super) fn check_site(request: &Parts) -> Result<(), ApiError> {
    let header = |name: &str| {
        request
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let is_ours = matches!(
        header("sec-fetch-site"),
        None | Some("same-origin" | "none")
    );
    let is_followed = request.method == Method::GET
        && header("sec-fetch-mode") == Some("navigate")
        && matches!(header("sec-fetch-dest"), None | Some("document"));
    if is_ours || is_followed {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "a page of another site may not read anything here",
    ))
}

/// `Set-Cookie` for a client that has sent `token`.
pub(super) fn given(secret: &Secret, token: &Token, headers: &HeaderMap) -> String {
    set_cookie(&value(secret, token, SystemTime::now()), LIFETIME, headers)
}

/// `Set-Cookie` that removes the cookie.
pub(super) fn removed(headers: &HeaderMap) -> String {
    set_cookie("", Duration::ZERO, headers)
}

fn set_cookie(value: &str, lifetime: Duration, headers: &HeaderMap) -> String {
    let secure = if is_secure(headers) { "; Secure" } else { "" };
    let seconds = lifetime.as_secs();
    format!("{NAME}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Lax{secure}")
}

/// True if the browser or a proxy reports that the browser uses TLS. A client gains nothing by a false
/// report: its browser would send the cookie less often.
pub(super) fn is_secure(headers: &HeaderMap) -> bool {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    header("x-forwarded-proto").is_some_and(|proto| proto.eq_ignore_ascii_case("https"))
        || header(ORIGIN.as_str()).is_some_and(|origin| origin.starts_with("https://"))
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, secret: &str) -> Token {
        Token::of(name, vec![Scope::Build], secret)
    }

    fn secret() -> Secret {
        Secret::of("0123")
    }

    fn reads(tokens: &[Token], value: &str, now: SystemTime) -> bool {
        token_of(&secret(), tokens.iter(), value, now).is_some()
    }

    #[test]
    fn a_cookie_is_valid_until_it_expires_or_its_token_is_removed() {
        let now = SystemTime::now();
        let all = [token("other", "x"), token("ci", "secret")];
        let given = value(&secret(), &all[1], now);
        assert_eq!(token_of(&secret(), all.iter(), &given, now), Some(&all[1]));
        assert!(reads(&all, &given, now + LIFETIME - Duration::from_secs(1)));
        assert!(!reads(&all, &given, now + LIFETIME));
        assert!(!reads(&all[..1], &given, now), "removed");
        assert!(!reads(&[token("cd", "secret")], &given, now), "renamed");
        assert!(!reads(&[token("ci", "new")], &given, now), "made anew");
        let elsewhere = Secret::of("0124");
        assert_eq!(token_of(&elsewhere, all.iter(), &given, now), None);
        // Two lines of one name are both tried.
        assert!(reads(&[token("ci", "new"), all[1].clone()], &given, now));
    }

    #[test]
    fn a_cookie_cannot_be_changed() {
        let now = SystemTime::now();
        let all = [token("ci", "secret"), token("root", "other")];
        let given = value(&secret(), &all[0], now);
        for at in 0..given.len() {
            let mut bytes = given.clone().into_bytes();
            bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(!reads(&all, &changed, now), "{changed}");
            assert!(!reads(&all, &given[..at], now));
        }
        for wrong in [
            given.replace("ci", "root"),
            format!("{given}0"),
            format!("{given}.1"),
            given.replace("v1.", "v2."),
            given.to_uppercase(),
            "v1.ci.99999999999.".to_owned(),
            "v1.ci.99999999999999999999999.00".to_owned(),
            "secret".to_owned(),
            "...".to_owned(),
            String::new(),
        ] {
            assert!(!reads(&all, &wrong, now), "{wrong}");
        }
    }

    #[test]
    fn the_signature_is_that_of_the_standard() {
        // HMAC-SHA256 of the message below with SHA-256("secret") and "0123" as key, by another program.
        let expected = "bb4f1f22a851e3b8905fa6f0f99c13e730d8fc6ba6ae7fffb001e24d1dd706b4";
        assert_eq!(
            signature(&secret(), &token("ci", "secret"), 1_800_000_000),
            expected
        );
    }

    #[test]
    fn a_name_cannot_break_the_header() {
        for name in ["a;b", "a.b", "a,b=\"c\"", "dépôt\u{7}", "%41"] {
            let token = token(name, "secret");
            let now = SystemTime::now();
            let given = value(&secret(), &token, now);
            let letters = |byte: u8| byte.is_ascii_alphanumeric() || b".%".contains(&byte);
            assert!(given.bytes().all(letters), "{given}");
            assert_eq!(given.split('.').count(), 4);
            assert!(reads(&[token], &given, now), "{name}");
        }
    }

    #[test]
    fn a_page_of_another_site_cannot_read_but_its_links_can_be_followed() {
        let allowed = |method: &str, site: &str, mode: &str, target: &str| {
            let request = hyper::Request::builder()
                .method(method)
                .header("sec-fetch-site", site)
                .header("sec-fetch-mode", mode)
                .header("sec-fetch-dest", target);
            check_site(&request.body(()).unwrap().into_parts().0).is_ok()
        };
        assert!(allowed("GET", "same-origin", "cors", "empty"));
        assert!(allowed("GET", "none", "navigate", "document"));
        assert!(allowed("GET", "cross-site", "navigate", "document"));
        for site in ["cross-site", "same-site"] {
            assert!(!allowed("HEAD", site, "navigate", "document"));
            assert!(!allowed("GET", site, "navigate", "iframe"));
            assert!(!allowed("GET", site, "no-cors", "image"));
            assert!(!allowed("GET", site, "no-cors", "script"));
            assert!(!allowed("GET", site, "cors", "empty"));
        }
    }
}
