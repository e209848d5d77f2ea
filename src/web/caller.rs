//! The sender of a request: the peer of its connection, and the caller that it is identified as.

use std::net::IpAddr;

use super::tokens::Token;
use crate::budget::Client;

/// The origin of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Over TCP, from its own address or one that a trusted proxy has named.
    Tcp(IpAddr),
    /// Over TCP from a trusted proxy that has named no client.
    Proxy(IpAddr),
    /// Over the unix socket, from this user, if the kernel knows it.
    Unix(Option<u32>),
}

/// The client of a request that was admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// `token NAME`, `uid N`, or an address. It is recorded with the jobs that the caller submits.
    pub(super) name: String,
    /// It may also change the jobs of other callers.
    pub(super) is_admin: bool,
    /// It has sent no token although there are tokens: it may only read.
    pub(super) is_anonymous: bool,
    /// The token that was sent, if any.
    pub(super) token: Option<Token>,
}

impl Peer {
    /// The client whose budgets a request uses.
    pub(super) fn client(self) -> Client {
        match self {
            Peer::Tcp(address) => Client::of(address),
            Peer::Proxy(_) => Client::Proxy,
            Peer::Unix(_) => Client::Local,
        }
    }

    /// A client that has sent no token.
    pub(super) fn caller(self) -> Caller {
        Caller {
            name: match self {
                Peer::Tcp(address) | Peer::Proxy(address) => address.to_string(),
                Peer::Unix(Some(user)) => format!("uid {user}"),
                Peer::Unix(None) => "the unix socket".to_owned(),
            },
            is_admin: true,
            is_anonymous: false,
            token: None,
        }
    }
}
