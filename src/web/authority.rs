//! The host to which a request is addressed, and the page from which it comes: `Host`, the target, `Origin`.

use std::net::{IpAddr, Ipv6Addr};

use hyper::header::HOST;
use hyper::http::request::Parts;

/// A host and perhaps a port, in every form that RFC 3986 §3.2 has without a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Authority<'a> {
    /// Unchanged, an IPv6 address with its brackets.
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// `None` if it breaks the grammar, or names no host.
    pub(super) fn parse(text: &'a str) -> Option<Authority<'a>> {
        let (host, after) = if text.starts_with('[') {
            let (host, after) = text.split_at(text.find(']')? + 1);
            address_in(host)?;
            (host, after)
        } else {
            let end = text.find(':').unwrap_or(text.len());
            let (host, after) = text.split_at(end);
            (!host.is_empty() && host.bytes().all(is_in_name)).then_some(())?;
            (host, after)
        };
        let port = match after.strip_prefix(':') {
            None if after.is_empty() => None,
            None => return None,
            // An empty port counts as none (RFC 3986 §3.2.3).
            Some("") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(port.parse().ok()?)
            }
            Some(_) => return None,
        };
        Some(Authority { host, port })
    }

    /// The name in lower case, without the dot of a name that is written in full.
    pub(super) fn name(&self) -> String {
        let name = self.host.strip_suffix('.').unwrap_or(self.host);
        name.to_ascii_lowercase()
    }

    /// True for an address. Any owner of a domain can bind a name to this server, but not an address.
    pub(super) fn is_address(&self) -> bool {
        address_in(self.host).is_some() || self.name().parse::<IpAddr>().is_ok()
    }

    /// True when `origin`, a browser's `Origin`, names a page of this host and port. Without a port, the
    /// default of the origin's scheme counts: whether a proxy used TLS is not known here.
    pub(super) fn is_origin(&self, origin: &str) -> bool {
        let Some((scheme, authority)) = origin.split_once("://") else {
            return false;
        };
        let usual = match scheme.to_ascii_lowercase().as_str() {
            "http" => 80,
            "https" => 443,
            _ => return false,
        };
        Authority::parse(authority).is_some_and(|origin| {
            origin.name() == self.name()
                && origin.port.unwrap_or(usual) == self.port.unwrap_or(usual)
        })
    }
}

/// The characters of a registered name: unreserved letters, escapes and sub-delimiters.
fn is_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte)
}

/// The IPv6 address in brackets; a zone after it matters to the client only.
fn address_in(host: &str) -> Option<Ipv6Addr> {
    let inside = host.strip_prefix('[')?.strip_suffix(']')?;
    let (address, zone) = inside.split_once('%').unwrap_or((inside, ""));
    zone.bytes().all(is_in_name).then_some(())?;
    address.parse().ok()
}

/// The host to which a request is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addressee<'a> {
    /// The host of its target where that has one (RFC 9112 §3.2.2), else of its `Host`.
    Named(Authority<'a>),
    /// HTTP/1.0 without a `Host`.
    Unnamed,
    /// No `Host` in HTTP/1.1, two of them, or one that breaks the grammar (RFC 9112 §3.2).
    Invalid,
}

/// The host to which `request` is addressed.
pub(super) fn addressee(request: &Parts) -> Addressee<'_> {
    let mut given = request.headers.get_all(HOST).iter();
    let host = match (given.next(), given.next()) {
        (None, _) if request.version < hyper::Version::HTTP_11 => Addressee::Unnamed,
        (Some(only), None) => match Authority::parse(only.to_str().unwrap_or_default().trim()) {
            Some(authority) => Addressee::Named(authority),
            None => Addressee::Invalid,
        },
        _ => Addressee::Invalid,
    };
    match (host, request.uri.authority()) {
        (Addressee::Invalid, _) | (_, None) => host,
        (_, Some(target)) => match Authority::parse(target.as_str()) {
            Some(authority) => Addressee::Named(authority),
            None => Addressee::Invalid,
        },
    }
}

/// True where there is no `Host` or more than one, whatever their values.
pub(super) fn is_host_missing_or_repeated(request: &Parts) -> bool {
    match request.headers.get_all(HOST).iter().count() {
        0 => request.version >= hyper::Version::HTTP_11,
        count => count > 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_valid_form_of_a_host_is_parsed() {
        for (text, name, port) in [
            ("localhost", "localhost", None),
            ("localhost:8462", "localhost", Some(8462)),
            ("localhost:", "localhost", None),
            ("localhost.", "localhost", None),
            ("LocalHost.:1", "localhost", Some(1)),
            ("127.0.0.1:0080", "127.0.0.1", Some(80)),
            ("127.0.0.1.", "127.0.0.1", None),
            ("[::1]", "[::1]", None),
            ("[::1]:8462", "[::1]", Some(8462)),
            ("[::FFFF:127.0.0.1]:1", "[::ffff:127.0.0.1]", Some(1)),
            ("[fe80::1%25eth0]:1", "[fe80::1%25eth0]", Some(1)),
            ("xn--e1a_-.example", "xn--e1a_-.example", None),
            ("a%20b", "a%20b", None),
        ] {
            let read = Authority::parse(text).map(|read| (read.name(), read.port));
            assert_eq!(read, Some((name.to_owned(), port)), "{text}");
        }
        for text in [
            "",
            ":8462",
            "::1",
            "[::1",
            "[::1]x",
            "[localhost]",
            "[127.0.0.1]",
            "[]",
            "[fe80::1%a b]",
            "[fe80::1%/]",
            "localhost:x",
            "localhost:-1",
            "localhost:65536",
            "localhost:1:2",
            "user@localhost",
            "localhost/",
            "local host",
            "localhost, localhost",
            "dépôt",
        ] {
            assert_eq!(Authority::parse(text), None, "{text}");
        }
        for (text, is) in [
            ("10.1.2.3", true),
            ("10.1.2.3.:1", true),
            ("[::1]:1", true),
            ("[fe80::1%25eth0]", true),
            ("010.1.2.3", false),
            ("0x7f000001", false),
            ("1.2.3.4.example", false),
            ("localhost", false),
        ] {
            assert_eq!(Authority::parse(text).unwrap().is_address(), is, "{text}");
        }
    }

    #[test]
    fn the_origin_of_our_own_page_has_our_name_and_port() {
        for (host, origin, is) in [
            ("builds:8443", "https://builds:8443", true),
            ("BUILDS.:8443", "https://builds:8443", true),
            ("builds", "https://builds", true),
            ("builds:443", "https://builds", true),
            ("builds", "https://builds:443", true),
            ("builds", "http://builds", true),
            ("builds:80", "http://builds", true),
            ("[::1]:8462", "http://[::1]:8462", true),
            ("builds:8443", "https://builds", false),
            ("builds", "https://builds:8443", false),
            ("builds:443", "http://builds", false),
            ("builds:80", "https://builds", false),
            ("builds", "https://builds.example", false),
            ("builds", "https://builds.evil.example", false),
            ("builds", "https://user@builds", false),
            ("builds", "null", false),
            ("builds", "builds", false),
            ("builds", "ftp://builds", false),
            ("builds", "https://", false),
            ("builds", "", false),
        ] {
            assert_eq!(
                Authority::parse(host).unwrap().is_origin(origin),
                is,
                "{host} {origin}"
            );
        }
    }

    #[test]
    fn the_host_of_the_target_overrides_the_header() {
        let read = |uri: &str, hosts: &[&str], version| {
            let mut request = hyper::Request::builder().uri(uri).version(version);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            let parts = request.body(()).unwrap().into_parts().0;
            match addressee(&parts) {
                Addressee::Named(authority) => authority.name(),
                other => format!("{other:?}"),
            }
        };
        let (old, new) = (hyper::Version::HTTP_10, hyper::Version::HTTP_11);
        assert_eq!(read("/x", &["a:1"], new), "a");
        assert_eq!(read("http://b:1/x", &["a"], new), "b");
        assert_eq!(read("http://b/x", &[], old), "b");
        assert_eq!(read("/x", &[], old), "Unnamed");
        for (uri, hosts, version) in [
            ("/x", &[][..], new),
            ("http://b/x", &[], new),
            ("/x", &["a", "a"], new),
            ("/x", &["a", "b"], old),
            ("http://b/x", &["a", "b"], new),
            ("/x", &[""], new),
            ("/x", &["a b"], new),
            ("http://u@b/x", &["a"], new),
        ] {
            assert_eq!(read(uri, hosts, version), "Invalid", "{uri} {hosts:?}");
        }
    }
}
