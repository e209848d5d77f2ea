//! The client that a trusted proxy names: `Forwarded` (RFC 7239), `X-Forwarded-For`, the PROXY protocol.
//!
//! Each proxy appends the address of its client. Everything before that may have been written by a client. So
//! lists are read from their end, and the first address that is not one of a trusted proxy is the client's.
//! What other clients than trusted proxies send is not read at all.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use ppp::{HeaderResult, PartialResult, v1, v2};

use super::caller::Peer;
use super::error::ApiError;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Bytes of a header of the PROXY protocol, with all that a proxy may add about TLS.
pub(super) const MAX_PROXY_HEADER: usize = 4 << 10;
/// The beginning of its first version, whose longest header has [`MAX_PROXY_V1_BYTES`] bytes.
const PROXY_V1_PREFIX: &[u8] = b"PROXY ";
const MAX_PROXY_V1_BYTES: usize = 107;

/// Proxies that are trusted to name their clients.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Those in any of these networks.
    pub fn new(networks: Vec<IpNet>) -> Proxies {
        Proxies(networks)
    }

    /// True if it is the address of a trusted proxy.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client of a request that `peer` has sent with `headers`.
    ///
    /// # Errors
    /// 400 where both headers are there and name two clients: a client may have sent one of them, and
    /// the proxy has let it pass.
    pub(super) fn client_of(&self, headers: &HeaderMap, peer: Peer) -> Result<Peer, ApiError> {
        let proxy = match peer {
            Peer::Tcp(address) | Peer::Proxy(address) if self.has(address) => address,
            Peer::Proxy(address) => return Ok(Peer::Tcp(address)),
            Peer::Tcp(_) | Peer::Unix(_) => return Ok(peer),
        };
        let named = |name: HeaderName, form: Form| {
            let lines = headers.get_all(name).iter().rev();
            let mut named = lines.flat_map(|line| addresses(line, form)).peekable();
            named.peek()?;
            Some(self.last(proxy, named))
        };
        let forwarded = named(FORWARDED, Form::Pairs);
        let x_forwarded_for = named(X_FORWARDED_FOR, Form::Addresses);
        match (forwarded, x_forwarded_for) {
            (Some(one), Some(other)) if one != other => Err(ApiError::bad_request(
                "Forwarded and X-Forwarded-For name two clients: the proxy must set one of them and remove the other",
            )),
            (Some(named), _) | (None, Some(named)) => Ok(named),
            (None, None) => Ok(Peer::Proxy(proxy)),
        }
    }

    /// The client, of addresses that are read from the end of a list.
    fn last(&self, proxy: IpAddr, addresses: impl Iterator<Item = Option<IpAddr>>) -> Peer {
        let mut nearest = proxy;
        for address in addresses {
            match address {
                Some(address) if self.has(address) => nearest = address,
                Some(address) => return Peer::Tcp(address),
                // It may be any client.
                None => return Peer::Proxy(nearest),
            }
        }
        // No other client is named: the first of the proxies is the client.
        match nearest == proxy {
            true => Peer::Proxy(proxy),
            false => Peer::Tcp(nearest),
        }
    }
}

/// The content of a header's list.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// `X-Forwarded-For`.
    Addresses,
    /// `Forwarded`: names and values, some in quotes.
    Pairs,
}

/// The addresses of one line, from its end; `None` for an element that is no address. Empty elements are
/// ignored (RFC 9110 §5.6.1.2).
fn addresses(line: &HeaderValue, form: Form) -> impl Iterator<Item = Option<IpAddr>> {
    // A header that is not text names no client.
    let mut rest = Some(line.to_str().unwrap_or("?"));
    std::iter::from_fn(move || {
        loop {
            let line = rest?;
            let comma = match form {
                Form::Addresses => line.rfind(','),
                Form::Pairs => last_outside_quotes(line, b','),
            };
            let (before, element) = split_at_separator(line, comma);
            rest = before;
            return Some(match (element.trim(), form) {
                ("", _) => continue,
                (element, Form::Addresses) => address(element),
                (element, Form::Pairs) => forwarded_for(element).and_then(address),
            });
        }
    })
}

/// The text before and after the separator at `at`.
fn split_at_separator(line: &str, at: Option<usize>) -> (Option<&str>, &str) {
    match at {
        Some(at) => (Some(&line[..at]), &line[at + 1..]),
        None => (None, line),
    }
}

/// Where `separator` last stands outside quoted strings. Read from the end, so that a quote that a client
/// leaves open does not swallow what a proxy adds.
fn last_outside_quotes(line: &str, separator: u8) -> Option<usize> {
    let bytes = line.as_bytes();
    let mut is_quoted = false;
    for (at, byte) in bytes.iter().enumerate().rev() {
        let escapes = || {
            bytes[..at]
                .iter()
                .rev()
                .take_while(|b| **b == b'\\')
                .count()
        };
        match *byte {
            b'"' if escapes() % 2 == 0 => is_quoted = !is_quoted,
            byte if byte == separator && !is_quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// The value of `for` in an element of `Forwarded`, without quotes.
fn forwarded_for(element: &str) -> Option<&str> {
    let mut rest = Some(element);
    let mut found = None;
    while let Some(pairs) = rest {
        let (before, pair) = split_at_separator(pairs, last_outside_quotes(pairs, b';'));
        rest = before;
        if let Some((name, value)) = pair.split_once('=')
            && name.trim().eq_ignore_ascii_case("for")
        {
            // Each name occurs once (RFC 7239 §4).
            if found.is_some() {
                return None;
            }
            found = Some(value.trim());
        }
    }
    let value = found?;
    match value.strip_prefix('"') {
        // No address contains a character that needs an escape.
        Some(quoted) => quoted.strip_suffix('"'),
        None => Some(value),
    }
}

/// An address as proxies write it: with or without a port, IPv6 in brackets or, without a port, bare.
fn address(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address
        .or_else(bracketed)
        .map(|ip: IpAddr| ip.to_canonical())
}

/// The kind of the first bytes of a connection from a trusted proxy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProxyHeader {
    /// More bytes are needed to know.
    Unfinished,
    /// No header of the PROXY protocol, or one that breaks its rules: a request, and perhaps a bad one.
    Request,
    /// A header of this many bytes, and the client that it names; `None` if the proxy is the client.
    Header(usize, Option<IpAddr>),
}

/// Reads the first bytes of a connection.
pub(super) fn proxy_header(bytes: &[u8]) -> ProxyHeader {
    let begins = |magic: &[u8]| {
        let known = magic.len().min(bytes.len());
        magic[..known] == bytes[..known]
    };
    if !begins(PROXY_V1_PREFIX) && !begins(v2::PROTOCOL_PREFIX) {
        return ProxyHeader::Request;
    }
    let is_v1 = begins(PROXY_V1_PREFIX);
    let is_unfinished = match is_v1 {
        true => !bytes.contains(&b'\n') && bytes.len() < MAX_PROXY_V1_BYTES,
        false => bytes.len() < MAX_PROXY_HEADER,
    };
    if is_v1 && is_unfinished {
        return ProxyHeader::Unfinished;
    }
    let header = HeaderResult::parse(bytes);
    if header.is_incomplete() && is_unfinished {
        return ProxyHeader::Unfinished;
    }
    match header {
        HeaderResult::V1(Ok(header)) => {
            let named = match header.addresses {
                v1::Addresses::Tcp4(of) => Some(IpAddr::V4(of.source_address)),
                v1::Addresses::Tcp6(of) => Some(IpAddr::V6(of.source_address)),
                v1::Addresses::Unknown => None,
            };
            ProxyHeader::Header(header.header.len(), named.map(|ip| ip.to_canonical()))
        }
        HeaderResult::V2(Ok(header)) => {
            let named = match (header.command, header.addresses) {
                (v2::Command::Proxy, v2::Addresses::IPv4(of)) => {
                    Some(IpAddr::V4(of.source_address))
                }
                (v2::Command::Proxy, v2::Addresses::IPv6(of)) => {
                    Some(IpAddr::V6(of.source_address))
                }
                _ => None,
            };
            ProxyHeader::Header(header.len(), named.map(|ip| ip.to_canonical()))
        }
        _ => ProxyHeader::Request,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn proxies() -> Proxies {
        let networks = ["10.0.0.0/8", "2001:db8:1::/48"];
        Proxies::new(networks.map(|network| network.parse().unwrap()).to_vec())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn client_named_by(lines: &[(&'static str, &str)]) -> Peer {
        proxies()
            .client_of(&headers(lines), Peer::Tcp(PROXY))
            .unwrap()
    }

    fn client(text: &str) -> Peer {
        Peer::Tcp(ip(text))
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_trusted_proxy() {
        let unknown = Peer::Proxy(PROXY);
        for (line, expected) in [
            ("192.0.2.1", client("192.0.2.1")),
            ("192.0.2.1:4711", client("192.0.2.1")),
            ("2001:db8::7", client("2001:db8::7")),
            ("[2001:db8::7]", client("2001:db8::7")),
            ("[2001:db8::7]:4711", client("2001:db8::7")),
            ("::ffff:192.0.2.1", client("192.0.2.1")),
            ("198.51.100.9, 192.0.2.1", client("192.0.2.1")),
            ("evil, 192.0.2.1 , 10.1.1.1", client("192.0.2.1")),
            ("192.0.2.1, 2001:db8:1::3,10.1.1.1,", client("192.0.2.1")),
            ("192.0.2.1, 10.1.1.1, unknown", unknown),
            ("192.0.2.1, unknown, 10.1.1.1", Peer::Proxy(ip("10.1.1.1"))),
            ("10.1.1.1", client("10.1.1.1")),
            ("10.0.0.1", unknown),
            ("", unknown),
            (",,", unknown),
            ("192.0.2.256", unknown),
        ] {
            assert_eq!(
                client_named_by(&[("x-forwarded-for", line)]),
                expected,
                "{line}"
            );
        }
        for (line, expected) in [
            ("for=192.0.2.1", client("192.0.2.1")),
            ("For=\"192.0.2.1:80\";proto=https", client("192.0.2.1")),
            (
                "proto=http; FOR = \"[2001:db8::7]:80\" ;by=_x",
                client("2001:db8::7"),
            ),
            ("for=\"2001:db8::7\"", client("2001:db8::7")),
            ("for=198.51.100.9, for=192.0.2.1", client("192.0.2.1")),
            (
                "for=192.0.2.1, for=10.1.1.1;host=\"a,b\\\";for=x\"",
                client("192.0.2.1"),
            ),
            ("for=unknown", unknown),
            ("for=_hidden, for=10.1.1.1", Peer::Proxy(ip("10.1.1.1"))),
            ("proto=https", unknown),
            ("for=192.0.2.1;for=192.0.2.2", unknown),
            // A quote that a client leaves open does not swallow what a proxy adds.
            ("for=\"198.51.100.9, for=192.0.2.1", client("192.0.2.1")),
            ("for=\"\\, for=192.0.2.1", client("192.0.2.1")),
        ] {
            assert_eq!(client_named_by(&[("forwarded", line)]), expected, "{line}");
        }
        // Lines are one list, in their order.
        let lines = [
            ("x-forwarded-for", "198.51.100.9"),
            ("x-forwarded-for", "192.0.2.1"),
        ];
        assert_eq!(client_named_by(&lines), client("192.0.2.1"));
    }

    #[test]
    fn headers_of_untrusted_peers_are_ignored() {
        let peer = client("192.0.2.77");
        for lines in [
            [("x-forwarded-for", "198.51.100.9")],
            [("forwarded", "for=198.51.100.9")],
        ] {
            let found = proxies().client_of(&headers(&lines), peer).unwrap();
            assert_eq!(found, client("192.0.2.77"));
        }
        let found = Proxies::default().client_of(&headers(&[("forwarded", "for=10.0.0.1")]), peer);
        assert_eq!(found.unwrap(), client("192.0.2.77"));
    }

    #[test]
    fn a_header_that_a_proxy_passes_on_cannot_name_another_client() {
        let both = |forwarded| {
            let lines = [("forwarded", forwarded), ("x-forwarded-for", "192.0.2.1")];
            proxies().client_of(&headers(&lines), Peer::Proxy(PROXY))
        };
        assert_eq!(
            both("for=192.0.2.1;proto=https").unwrap(),
            client("192.0.2.1")
        );
        assert_eq!(both("").unwrap(), client("192.0.2.1"));
        assert!(both("for=198.51.100.9").is_err());
        assert!(both("for=unknown").is_err());
    }

    #[test]
    fn headers_of_the_proxy_protocol_name_the_client() {
        let v1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 51000 8462\r\nGET";
        assert_eq!(
            proxy_header(v1),
            ProxyHeader::Header(v1.len() - 3, Some(ip("192.0.2.1")))
        );
        let v6 = b"PROXY TCP6 2001:db8::7 ::1 51000 8462\r\n";
        assert_eq!(
            proxy_header(v6),
            ProxyHeader::Header(v6.len(), Some(ip("2001:db8::7")))
        );
        let unknown = b"PROXY UNKNOWN\r\n";
        assert_eq!(
            proxy_header(unknown),
            ProxyHeader::Header(unknown.len(), None)
        );
        for known in 0..v6.len() {
            assert_eq!(
                proxy_header(&v6[..known]),
                ProxyHeader::Unfinished,
                "{known}"
            );
        }
        for request in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 192.0.2.1\r\n",
            b"PROXY / HTTP/1.1\r\n",
            b"PROXY TCP4 192.0.2.999 198.51.100.2 1 1\r\n",
            b"PROPFIND",
            b"\r\nGET / HTTP/1.1\r\n",
            &[b"PROXY ", &[b'x'; MAX_PROXY_V1_BYTES][..]].concat(),
        ] {
            assert_eq!(proxy_header(request), ProxyHeader::Request);
        }
    }

    /// A header of the second version: its command, its family and what follows.
    fn v2_header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[command, family], &length, rest].concat()
    }

    #[test]
    fn binary_headers_name_the_client() {
        let addresses = [192, 0, 2, 1, 198, 51, 100, 2, 0, 80, 1, 187, 4, 0, 1, 42];
        let named = v2_header(0x21, 0x11, &addresses);
        let with_rest = [&named[..], b"GET"].concat();
        let expected = ProxyHeader::Header(named.len(), Some(ip("192.0.2.1")));
        assert_eq!(proxy_header(&with_rest), expected);
        for known in 0..named.len() {
            assert_eq!(
                proxy_header(&named[..known]),
                ProxyHeader::Unfinished,
                "{known}"
            );
        }
        // The proxy is the client; another family.
        let local = v2_header(0x20, 0x11, &addresses);
        assert_eq!(proxy_header(&local), ProxyHeader::Header(local.len(), None));
        let unix = v2_header(0x21, 0x31, &[0; 216]);
        assert_eq!(proxy_header(&unix), ProxyHeader::Header(unix.len(), None));
        // A header that is invalid, or longer than a proxy would send.
        assert_eq!(
            proxy_header(&v2_header(0x31, 0x11, &addresses)),
            ProxyHeader::Request
        );
        assert_eq!(
            proxy_header(&v2_header(0x21, 0x11, &[1, 2])),
            ProxyHeader::Request
        );
        let long = v2_header(0x21, 0x11, &[0; MAX_PROXY_HEADER]);
        assert_eq!(
            proxy_header(&long[..MAX_PROXY_HEADER - 1]),
            ProxyHeader::Unfinished
        );
        assert_eq!(
            proxy_header(&long[..MAX_PROXY_HEADER]),
            ProxyHeader::Request
        );
    }

    fn written(address: IpAddr, form: u8) -> String {
        match (address, form) {
            (IpAddr::V6(_), 0) => format!("[{address}]"),
            (IpAddr::V6(_), 1) => format!("[{address}]:4711"),
            (IpAddr::V4(_), 1) => format!("{address}:4711"),
            _ => address.to_string(),
        }
    }

    proptest! {
        #[test]
        fn the_address_that_a_proxy_appends_counts_whatever_the_client_sends(
            before in "[ -~]{0,60}",
            client in any::<IpAddr>(),
            form in 0_u8..3,
            hops in 0_usize..3,
        ) {
            let client = client.to_canonical();
            prop_assume!(!proxies().has(client));
            let written = written(client, form);
            let hops = ", 10.7.7.7".repeat(hops);
            let list = format!("{before}, {written}{hops}");
            prop_assert_eq!(client_named_by(&[("x-forwarded-for", &list)]), Peer::Tcp(client));
            let pairs = format!("{before}, for=\"{written}\"{}", hops.replace("10.", "for=10."));
            prop_assert_eq!(client_named_by(&[("forwarded", &pairs)]), Peer::Tcp(client));
        }

        #[test]
        fn any_bytes_can_be_parsed_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            magic in 0_u8..3,
        ) {
            let magic = [&b""[..], PROXY_V1_PREFIX, v2::PROTOCOL_PREFIX][usize::from(magic)];
            let bytes = [magic, &bytes].concat();
            if let ProxyHeader::Header(length, _) = proxy_header(&bytes) {
                prop_assert!(length <= bytes.len());
            }
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                for name in [FORWARDED, X_FORWARDED_FOR] {
                    let headers = HeaderMap::from_iter([(name, value.clone())]);
                    let _ = proxies().client_of(&headers, Peer::Proxy(PROXY));
                }
            }
        }
    }
}
