//! One connection: begun, served, ended in order.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use super::caller::Peer;
use super::connection::{Connection, Farewell, HalfClosed};
use super::error::BUSY_RETRY_AFTER;
use super::forwarded::{self, Beginning, MAX_PROXY_HEADER};
use super::head::{Heads, Told};
use super::pace::Paced;
use super::places::{NO_PLACE, Places};
use super::response::Response;
use crate::budget::{Client, Held};

/// A request's headers must be here by then, and the next one on a connection kept alive.
const HEADER_PATIENCE: Duration = Duration::from_secs(30);
/// The same where there is no place for it.
const REFUSED_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a request's head that are read: a target or headers that are too long, but not by far, are
/// refused by [`routes`], which tells which it was; past this hyper says 431. It also bounds what is
/// read ahead and what waits to be written.
const MAX_BUFFER: usize = 128 << 10;
/// What a client that is answered before all of its request was read still sends: the largest request,
/// over a slow line.
const FAREWELL: Farewell = Farewell {
    quiet: Duration::from_secs(2),
    longest: Duration::from_secs(30),
    bytes: 32 << 20,
};
/// The same where others wait for the room; its quiet time is all that there is when the daemon ends.
const SHORT_FAREWELL: Farewell = Farewell {
    quiet: Duration::from_secs(1),
    longest: Duration::from_secs(3),
    bytes: 32 << 20,
};
/// A client that was accepted when the daemon ends has this long to say what it wants.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// The message of the 503 to a client with large headers.
const TOO_MANY_LARGE_HEADERS: &str =
    "too many requests with large headers at once; try again later";

/// What answers the requests of one server.
pub(super) trait Service: Clone + Send + Sync + 'static {
    /// True for the address of a proxy that is trusted to name its clients.
    fn is_trusted(&self, address: IpAddr) -> bool;

    /// Answers a request.
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response> + Send;

    /// Answers a request for which there is no place.
    fn refuse(&self, request: &Request<Incoming>) -> Response;
}

/// A connection that is served.
pub(super) struct Serving {
    pub(super) connection: Connection,
    pub(super) peer: Peer,
    /// A place for a connection, or for one that is refused.
    pub(super) place: Held,
    pub(super) is_refused: bool,
    pub(super) places: Places,
    pub(super) stop: CancellationToken,
}

impl Serving {
    /// Serves until the client or the server ends the connection.
    pub(super) async fn serve(mut self, service: impl Service) {
        let patience = match self.is_refused {
            true => REFUSED_PATIENCE,
            false => HEADER_PATIENCE,
        };
        let begun = tokio::select! {
            biased;
            begun = tokio::time::timeout(patience, self.begin(&service)) => begun,
            // A client that was accepted is answered: its first request may be on its way.
            () = async {
                self.stop.cancelled().await;
                tokio::time::sleep(FIRST_REQUEST).await;
            } => return,
        };
        // Otherwise it has sent nothing in time, or is gone.
        if let Ok(Ok((before, named))) = begun {
            if let Some(address) = named
                && !self.speaks_for(address, &service)
            {
                return refuse_at_once(&self.connection);
            }
            // On the heap, so that a connection on which nothing has come yet costs little.
            Box::pin(self.talk(before, service)).await;
        }
    }

    /// Waits until something comes, and reads whom a trusted proxy speaks for. Returns what was read
    /// besides.
    async fn begin(&self, service: &impl Service) -> io::Result<(Bytes, Option<IpAddr>)> {
        let is_proxy = matches!(self.peer, Peer::Tcp(address) if service.is_trusted(address));
        let mut read = Vec::new();
        loop {
            self.connection.readable().await?;
            if !is_proxy {
                return Ok((Bytes::new(), None));
            }
            match self.connection.try_append(&mut read, MAX_PROXY_HEADER) {
                Ok(0) => return Ok((read.into(), None)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            match forwarded::beginning(&read) {
                Beginning::Unfinished => {}
                Beginning::Request => return Ok((read.into(), None)),
                Beginning::Header(length, named) => {
                    return Ok((Bytes::from(read).split_off(length), named));
                }
            }
        }
    }

    /// The client at `address` is behind this connection, and has its place from now on. False where the
    /// client has no place, and none to be refused with patience.
    fn speaks_for(&mut self, address: IpAddr, service: &impl Service) -> bool {
        self.peer = Peer::Tcp(address);
        if service.is_trusted(address) {
            return true;
        }
        let client = Client::of(address);
        // In one step, so that it needs no second place while it has its first.
        let is_passed = self.place.pass_to(client);
        if is_passed || self.is_refused {
            return is_passed;
        }
        self.is_refused = true;
        let refusal = self.places.refusals.hold(client, 1);
        refusal.map(|refusal| self.place = refusal).is_some()
    }

    /// Reads requests and answers them.
    async fn talk(self, before: Bytes, service: impl Service) {
        let (connection, peer, is_refused) = (&self.connection, self.peer, self.is_refused);
        let told = Arc::new(Told::default());
        let ended = {
            let (asked, half_closed) = (CancellationToken::new(), HalfClosed::default());
            let heads = self.places.heads.clone();
            let heads = Heads::new(told.clone(), heads, client(&service, peer));
            let paced = Paced::new(connection.clone(), before, heads);
            let (asking, closed, telling) = (asked.clone(), half_closed.clone(), told.clone());
            let answering = service_fn(move |mut request: Request<Incoming>| {
                asking.cancel();
                let is_length_known = telling.asked(&request);
                request.extensions_mut().insert(closed.clone());
                let (service, giving) = (service.clone(), telling.clone().giving());
                // On the heap only while there is something to answer.
                Box::pin(async move {
                    let mut response = match is_refused {
                        true => service.refuse(&request),
                        false => service.answer(request, peer).await,
                    };
                    if !is_length_known {
                        let close = HeaderValue::from_static("close");
                        response.headers_mut().insert(CONNECTION, close);
                    }
                    Ok::<_, Infallible>(response.map(|body| body.holding(giving)))
                })
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .half_close(true)
                .keep_alive(!is_refused)
                .header_read_timeout(match is_refused {
                    true => REFUSED_PATIENCE,
                    false => HEADER_PATIENCE,
                })
                .max_buf_size(MAX_BUFFER)
                .serve_connection(TokioIo::new(paced), answering);
            let gone = async {
                connection.gone(&half_closed.0).await;
                // What it has sent before it left is read all the same.
                asked.cancelled().await;
            };
            self.until_end(pin!(served), pin!(gone), &asked).await
        };
        let Some(served) = ended else {
            return;
        };
        if told.is_refused() && !told.is_answering() {
            // hyper has read a part of a head, and answers nothing before the rest.
            connection.send_at_once(busy(TOO_MANY_LARGE_HEADERS).as_bytes());
        }
        if served.is_err() || told.had_body() || is_refused {
            let ending = async {
                self.stop.cancelled().await;
                tokio::time::sleep(SHORT_FAREWELL.quiet).await;
            };
            let farewell = match is_refused {
                true => SHORT_FAREWELL,
                false => FAREWELL,
            };
            tokio::select! {
                () = connection.discard(farewell) => {}
                () = ending => {}
            }
        }
    }

    /// How serving ended; `None` where the client was gone before.
    async fn until_end<S, B>(
        &self,
        mut served: Pin<&mut http1::Connection<TokioIo<Paced>, S>>,
        mut gone: Pin<&mut impl Future<Output = ()>>,
        asked: &CancellationToken,
    ) -> Option<hyper::Result<()>>
    where
        S: hyper::service::HttpService<Incoming, ResBody = B, Error = Infallible>,
        B: hyper::body::Body<Error = io::Error> + 'static,
    {
        tokio::select! {
            // First, so that the handler learns that a client has left before clients that came after
            // that are answered.
            biased;
            () = gone.as_mut() => return None,
            // Where the client breaks off, nothing is to be done.
            served = served.as_mut() => return Some(served),
            () = self.stop.cancelled() => {}
        }
        // A client that was accepted is answered: its first request may be on its way, and hyper would
        // close a connection on which nothing has come yet.
        tokio::select! {
            biased;
            () = gone.as_mut() => return None,
            served = served.as_mut() => return Some(served),
            () = asked.cancelled() => {}
            () = tokio::time::sleep(FIRST_REQUEST) => {}
        }
        served.as_mut().graceful_shutdown();
        tokio::select! {
            biased;
            () = gone => None,
            served = served => Some(served),
        }
    }
}

/// Tells a client that there is no place, without waiting until it asks or has read that: what it sends
/// meanwhile may make its kernel discard the answer.
pub(super) fn refuse_at_once(connection: &Connection) {
    connection.discard_at_once();
    connection.send_at_once(busy(NO_PLACE).as_bytes());
}

/// A whole answer, for where hyper gives none.
fn busy(sentence: &str) -> String {
    let length = sentence.len() + 1;
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {BUSY_RETRY_AFTER}\r\nConnection: close\r\n\
        Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{sentence}\n"
    )
}

/// For whom a connection of `peer` is counted.
pub(super) fn client(service: &impl Service, peer: Peer) -> Client {
    match peer {
        Peer::Tcp(address) if service.is_trusted(address) => Client::Proxy,
        peer => peer.client(),
    }
}
