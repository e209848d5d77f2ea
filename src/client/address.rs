//! Where a server is: `http://HOST:PORT` or `unix:///PATH`.

use std::fmt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The default host.
pub const DEFAULT_HOST: &str = "127.0.0.1";
/// The default port.
pub const DEFAULT_PORT: u16 = 8462;

/// The socket on which an installed server listens for the users of its host.
pub const DEFAULT_SOCKET: &str = "/run/mistry/mistryd.sock";

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host name or IP address (IPv6 without brackets), and port.
    Tcp(String, u16),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// The error for a text that is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(String);

impl Address {
    /// The address of `host`, which must be a host name or an IP address and nothing else, because it
    /// is copied into requests and into the arguments of transports.
    ///
    /// # Errors
    /// Says what a host must look like.
    pub fn tcp(host: &str, port: u16) -> Result<Address, AddressError> {
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inner) => inner,
            None => host,
        };
        let has_plain_chars = !host.starts_with('-')
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-:%".contains(&b));
        let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok()
            || host.split_once('%').is_some_and(|(a, _)| a.contains(':'));
        if host.is_empty() {
            Err(AddressError("host cannot be empty".to_owned()))
        } else if !has_plain_chars || (host.contains([':', '%']) && !is_v6) {
            let shown: String = host.chars().take(80).flat_map(char::escape_debug).collect();
            Err(AddressError(format!(
                "'{shown}' is no host: expected a name or an IP address"
            )))
        } else {
            Ok(Address::Tcp(host.to_owned(), port))
        }
    }

    /// The server on this host: by `socket` where that is a socket that the caller may write to, else
    /// by TCP, which every local user may connect to.
    pub fn of_this_host(socket: &Path) -> Address {
        let is_socket = socket.metadata().is_ok_and(|f| f.file_type().is_socket());
        if is_socket && rustix::fs::access(socket, rustix::fs::Access::WRITE_OK).is_ok() {
            Address::Unix(socket.to_owned())
        } else {
            Address::Tcp(DEFAULT_HOST.to_owned(), DEFAULT_PORT)
        }
    }

    /// The value of the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self {
            Address::Tcp(host, port) if host.contains(':') => {
                // The IPv6 zone means something on this host only.
                let host = host.split('%').next().unwrap_or_default();
                format!("[{host}]:{port}")
            }
            Address::Tcp(host, port) => format!("{host}:{port}"),
            Address::Unix(_) => "localhost".to_owned(),
        }
    }

    /// The host for transports that open connections of their own; a unix socket is on this host.
    pub fn host(&self) -> &str {
        match self {
            Address::Tcp(host, _) => host,
            Address::Unix(_) => DEFAULT_HOST,
        }
    }

    /// Whether the server runs on this host, so that its paths are of use here.
    pub fn is_of_this_host(&self) -> bool {
        match self {
            Address::Unix(_) => true,
            Address::Tcp(host, _) => {
                let address = host.parse::<std::net::IpAddr>();
                host == "localhost" || address.is_ok_and(|address| address.is_loopback())
            }
        }
    }

    /// The URL of one of the server's web pages; `None` for a unix socket.
    pub fn page(&self, path: &str) -> Option<String> {
        match self {
            Address::Tcp(..) => Some(format!("http://{}/{path}", self.authority())),
            Address::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(..) => write!(f, "http://{}", self.authority()),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(url: &str) -> Result<Address, AddressError> {
        let invalid = || {
            AddressError(format!(
                "'{}' is no server address: expected http://HOST:PORT, HOST:PORT or unix:///PATH",
                url.escape_debug()
            ))
        };
        if let Some(path) = url.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Address::Unix(path.into()))
            } else {
                Err(invalid())
            };
        }
        if url.starts_with("https://") {
            return Err(AddressError(
                "https is not supported: expected http://HOST:PORT, HOST:PORT or unix:///PATH"
                    .to_owned(),
            ));
        }
        let rest = match url.strip_prefix("http://") {
            Some(rest) => rest,
            // HOST:PORT: without a port it could be a misspelt URL.
            None if !url.contains("//") && url.contains(':') => url,
            None => return Err(invalid()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().map_err(|_| invalid())?)
            }
            _ => (rest, DEFAULT_PORT),
        };
        Address::tcp(host, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_of_this_host_is_reached_over_its_socket_if_there_is_one() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for (name, to) in [("link", "socket"), ("loop", "loop"), ("astray", "none")] {
            std::os::unix::fs::symlink(to, at(name)).unwrap();
        }
        for name in ["socket", "link"] {
            assert_eq!(Address::of_this_host(&at(name)), Address::Unix(at(name)));
        }
        let tcp = Address::Tcp("127.0.0.1".to_owned(), 8462);
        for name in ["none", "file", "", "loop", "astray", "file/socket"] {
            assert_eq!(Address::of_this_host(&at(name)), tcp, "{name}");
        }
    }

    #[test]
    fn addresses_are_parsed_as_written() {
        for (text, shown) in [
            ("http://h:1", "http://h:1"),
            ("http://h/", "http://h:8462"),
            ("http://10.0.0.1:80/", "http://10.0.0.1:80"),
            ("http://[::1]:9", "http://[::1]:9"),
            ("http://[::1]", "http://[::1]:8462"),
            ("unix:///run/m.sock", "unix:///run/m.sock"),
            ("h:1", "http://h:1"),
            ("127.0.0.1:18462", "http://127.0.0.1:18462"),
            ("[::1]:9", "http://[::1]:9"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for wrong in [
            "",
            "h",
            "h:x",
            "unix:/run/m.sock",
            "https://h",
            "http://",
            "http://-oProxyCommand=x",
            "http://u@h",
            "http://h:99999",
            "http://h/x",
            "http://a b",
            "unix://rel",
            "ftp://h",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
