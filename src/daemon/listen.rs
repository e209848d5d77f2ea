//! The daemon's listening sockets: those that systemd holds for it, else one at an address.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use super::args::DEFAULT_ADDRESS;
use super::error::Error;
use crate::systemd::Socket;
use crate::web::Listener;

/// The sockets that are served.
pub(super) struct Listening {
    pub(super) listeners: Vec<Listener>,
    /// The TCP addresses.
    pub(super) tcp: Vec<SocketAddr>,
    /// The URLs for users: `http://HOST:PORT`, `unix:///PATH`.
    pub(super) shown: Vec<String>,
    /// systemd holds them, so a client that connects when no daemon runs starts one.
    pub(super) inherited: bool,
}

impl Listening {
    /// Listens at `sockets` if there are any, else at `address`.
    pub(super) async fn begin(
        sockets: Vec<Socket>,
        address: Option<&str>,
    ) -> Result<Listening, Error> {
        let inherited = !sockets.is_empty();
        if inherited && address.is_some() {
            tracing::warn!("--addr has no effect: systemd holds the sockets");
        }
        let listeners = if inherited {
            let taken: io::Result<_> = sockets.into_iter().map(listener).collect();
            taken.map_err(|error| Error::System("serve the inherited sockets", error))?
        } else {
            vec![Listener::Tcp(
                bind(address.unwrap_or(DEFAULT_ADDRESS)).await?,
            )]
        };
        let (mut tcp, mut shown) = (Vec::new(), Vec::new());
        for listener in &listeners {
            match listener {
                Listener::Tcp(socket) => {
                    let address = socket
                        .local_addr()
                        .map_err(|error| Error::System("learn where it listens", error))?;
                    tcp.push(address);
                    shown.push(format!("http://{address}"));
                }
                Listener::Unix(socket) => {
                    let address = socket.local_addr().ok();
                    let path = address.as_ref().and_then(|address| address.as_pathname());
                    shown.push(match path {
                        Some(path) => format!("unix://{}", path.display()),
                        None => "a unix socket without a name".to_owned(),
                    });
                }
            }
        }
        Ok(Listening {
            listeners,
            tcp,
            shown,
            inherited,
        })
    }

    /// The address for programs on this host: the unix socket if there is one, because a service may be
    /// isolated from every network.
    pub(super) fn address(&self) -> Option<String> {
        let unix = self.shown.iter().find(|at| at.starts_with("unix:///"));
        let tcp = self.tcp.first().map(ToString::to_string);
        unix.cloned().or(tcp)
    }
}

/// Must be called where a runtime is current.
pub(super) fn listener(socket: Socket) -> io::Result<Listener> {
    Ok(match socket {
        Socket::Tcp(socket) => Listener::Tcp(tokio::net::TcpListener::from_std(socket)?),
        Socket::Unix(socket) => Listener::Unix(tokio::net::UnixListener::from_std(socket)?),
    })
}

async fn bind(address: &str) -> Result<tokio::net::TcpListener, Error> {
    let failed = |error| Error::Listen(address.to_owned(), error);
    let named = address.to_owned();
    let resolved = tokio::task::spawn_blocking(move || {
        named.to_socket_addrs().map(Iterator::collect::<Vec<_>>)
    });
    let resolved = resolved
        .await
        .map_err(|error| failed(io::Error::other(error)))?;
    let resolved = resolved.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => Error::Address(address.to_owned()),
        _ => failed(error),
    })?;
    tokio::net::TcpListener::bind(&*resolved)
        .await
        .map_err(failed)
}
