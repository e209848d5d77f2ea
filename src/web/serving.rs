//! One connection: begun, served, and ended in order.

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
use super::connection::{Connection, DiscardLimits, HalfClosed};
use super::connection_limits::{ConnectionLimits, TOO_MANY_CONNECTIONS};
use super::error::BUSY_RETRY_AFTER;
use super::forwarded::{self, MAX_PROXY_HEADER, ProxyHeader};
use super::head::{HeadCounter, HttpState};
use super::pace::Paced;
use super::response::Response;
use crate::budget::{Client, Held};

/// How long a client may take to send the head of a request, also of the next one on its connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client without a place may take to send the head of its request.
const REFUSED_HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a head that are read. A target or headers that are only a little too long are refused with a
/// message that says which of them it was; for longer heads hyper sends 431. It also bounds what is read
/// ahead and what waits to be written.
const MAX_BUFFER: usize = 128 << 10;
/// For a client that gets its response before its whole request was read: enough for the largest request over
/// a slow connection.
const DISCARD: DiscardLimits = DiscardLimits {
    idle: Duration::from_secs(2),
    total: Duration::from_secs(30),
    bytes: 32 << 20,
};
/// For a client that was refused, whose place other clients wait for. When the daemon stops, only its idle
/// time applies.
const REFUSED_DISCARD: DiscardLimits = DiscardLimits {
    idle: Duration::from_secs(1),
    total: Duration::from_secs(3),
    bytes: 32 << 20,
};
/// How long a client that was accepted before the daemon stops has to send its first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// The message of the 503 to a client with large headers.
const TOO_MANY_LARGE_HEADERS: &str =
    "too many requests with large headers at once; try again later";

/// Answers the requests of one server.
pub(super) trait Service: Clone + Send + Sync + 'static {
    /// True for the address of a proxy that is trusted to name its clients.
    fn is_trusted(&self, address: IpAddr) -> bool;

    /// Answers a request.
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response> + Send;

    /// The response to a request without a place.
    fn refuse(&self, request: &Request<Incoming>) -> Response;
}

/// A connection that is being served.
pub(super) struct Serving {
    pub(super) connection: Connection,
    pub(super) peer: Peer,
    /// Its place among the connections, or among those that are refused.
    pub(super) place: Held,
    pub(super) is_refused: bool,
    pub(super) limits: ConnectionLimits,
    pub(super) stop: CancellationToken,
}

impl Serving {
    /// Serves until the client or the server ends the connection.
    pub(super) async fn serve(mut self, service: impl Service) {
        let begun = tokio::select! {
            biased;
            begun = tokio::time::timeout(self.header_timeout(), self.begin(&service)) => begun,
            // An accepted client gets a response: its first request may be on its way.
            () = async {
                self.stop.cancelled().await;
                tokio::time::sleep(FIRST_REQUEST_TIMEOUT).await;
            } => return,
        };
        // Otherwise the client has sent nothing in time, or has disconnected.
        if let Ok(Ok((before, named))) = begun {
            if let Some(address) = named
                && !self.assign_to(address, &service)
            {
                return refuse_at_once(&self.connection);
            }
            // On the heap, so that a connection without data costs little.
            Box::pin(self.serve_requests(before, service)).await;
        }
    }

    /// Waits until something arrives. Of a trusted proxy it reads the client that the proxy names. Returns
    /// what was read besides, and that client.
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
            match forwarded::proxy_header(&read) {
                ProxyHeader::Unfinished => {}
                ProxyHeader::Request => return Ok((read.into(), None)),
                ProxyHeader::Header(length, named) => {
                    return Ok((Bytes::from(read).split_off(length), named));
                }
            }
        }
    }

    /// Transfers the place of this connection to the client at `address`. False if the client can get no
    /// place, not even among the connections that are refused.
    fn assign_to(&mut self, address: IpAddr, service: &impl Service) -> bool {
        self.peer = Peer::Tcp(address);
        if service.is_trusted(address) {
            return true;
        }
        let client = Client::of(address);
        // In one step, so that it never needs two places.
        let is_transferred = self.place.transfer_to(client);
        if is_transferred || self.is_refused {
            return is_transferred;
        }
        self.is_refused = true;
        let refusal = self.limits.refusals.hold(client, 1);
        refusal.map(|refusal| self.place = refusal).is_some()
    }

    /// Reads requests and answers them, and ends the connection in order.
    async fn serve_requests(self, before: Bytes, service: impl Service) {
        let state = Arc::new(HttpState::default());
        let Some(served) = self.exchange(before, service, &state).await else {
            return;
        };
        if state.is_head_refused() && !state.is_response_incomplete() {
            // hyper has read a part of a head, and sends no response before it has the rest.
            self.connection
                .send_at_once(busy(TOO_MANY_LARGE_HEADERS).as_bytes());
        }
        if served.is_err() || state.had_body() || self.is_refused {
            let stopping = async {
                self.stop.cancelled().await;
                tokio::time::sleep(REFUSED_DISCARD.idle).await;
            };
            let limits = match self.is_refused {
                true => REFUSED_DISCARD,
                false => DISCARD,
            };
            tokio::select! {
                () = self.connection.discard(limits) => {}
                () = stopping => {}
            }
        }
    }

    /// Reads requests and answers them. Returns the result; `None` if the client disconnected before.
    async fn exchange(
        &self,
        before: Bytes,
        service: impl Service,
        state: &Arc<HttpState>,
    ) -> Option<hyper::Result<()>> {
        let (peer, is_refused) = (self.peer, self.is_refused);
        let (received, half_closed) = (CancellationToken::new(), HalfClosed::default());
        let heads = self.limits.heads.clone();
        let heads = HeadCounter::new(state.clone(), heads, client(&service, peer));
        let paced = Paced::new(self.connection.clone(), before, heads);
        let (first, closed, state) = (received.clone(), half_closed.clone(), state.clone());
        let answering = service_fn(move |mut request: Request<Incoming>| {
            first.cancel();
            let is_length_known = state.request_received(&request);
            request.extensions_mut().insert(closed.clone());
            let (service, guard) = (service.clone(), state.clone().response_guard());
            // On the heap only while there is a request to answer.
            Box::pin(async move {
                let mut response = match is_refused {
                    true => service.refuse(&request),
                    false => service.answer(request, peer).await,
                };
                if !is_length_known {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(response.map(|body| body.holding(guard)))
            })
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .half_close(true)
            .keep_alive(!is_refused)
            .header_read_timeout(self.header_timeout())
            .max_buf_size(MAX_BUFFER)
            .serve_connection(TokioIo::new(paced), answering);
        let gone = async {
            self.connection.gone(&half_closed.0).await;
            // The request that the client sent before it disconnected is read nevertheless.
            received.cancelled().await;
        };
        self.until_end(pin!(served), pin!(gone), &received).await
    }

    /// How long the head of a request may take.
    fn header_timeout(&self) -> Duration {
        match self.is_refused {
            true => REFUSED_HEADER_TIMEOUT,
            false => HEADER_TIMEOUT,
        }
    }

    /// Returns the result of serving; `None` if the client disconnected before.
    async fn until_end<S, B>(
        &self,
        mut served: Pin<&mut http1::Connection<TokioIo<Paced>, S>>,
        mut gone: Pin<&mut impl Future<Output = ()>>,
        received: &CancellationToken,
    ) -> Option<hyper::Result<()>>
    where
        S: hyper::service::HttpService<Incoming, ResBody = B, Error = Infallible>,
        B: hyper::body::Body<Error = io::Error> + 'static,
    {
        tokio::select! {
            // It comes first, so that a handler learns that its client has disconnected before later clients
            // get responses.
            biased;
            () = gone.as_mut() => return None,
            // Where the client disconnects, nothing is to be done.
            served = served.as_mut() => return Some(served),
            () = self.stop.cancelled() => {}
        }
        // A client that was accepted gets a response: its first request may be on its way, and hyper would
        // close a connection on which nothing has arrived yet.
        tokio::select! {
            biased;
            () = gone.as_mut() => return None,
            served = served.as_mut() => return Some(served),
            () = received.cancelled() => {}
            () = tokio::time::sleep(FIRST_REQUEST_TIMEOUT) => {}
        }
        served.as_mut().graceful_shutdown();
        tokio::select! {
            biased;
            () = gone => None,
            served = served => Some(served),
        }
    }
}

/// Sends a client the 503 without waiting until it has sent a request or read the response. Bytes that it
/// sends meanwhile may make its kernel discard the response.
pub(super) fn refuse_at_once(connection: &Connection) {
    connection.discard_at_once();
    connection.send_at_once(busy(TOO_MANY_CONNECTIONS).as_bytes());
}

/// A complete response, for cases in which hyper sends none.
fn busy(sentence: &str) -> String {
    let length = sentence.len() + 1;
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {BUSY_RETRY_AFTER}\r\nConnection: close\r\n\
        Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{sentence}\n"
    )
}

/// The client for which a connection of `peer` is counted.
pub(super) fn client(service: &impl Service, peer: Peer) -> Client {
    match peer {
        Peer::Tcp(address) if service.is_trusted(address) => Client::Proxy,
        peer => peer.client(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;
    use crate::web::response;

    /// The server's end of a connection, and the client's.
    fn pair(limits: ConnectionLimits) -> (Serving, UnixStream) {
        let (stream, client) = UnixStream::pair().unwrap();
        let place = limits.connections.hold(crate::budget::Client::Local, 1);
        let serving = Serving {
            connection: Connection::unix(stream),
            peer: Peer::Unix(None),
            place: place.unwrap(),
            is_refused: false,
            limits,
            stop: CancellationToken::new(),
        };
        (serving, client)
    }

    /// Answers with more than a socket takes, and keeps the request.
    #[derive(Clone, Default)]
    struct Large(Arc<Mutex<Option<Request<Incoming>>>>);

    const LARGE: &[u8] = &[b'x'; 1 << 20];

    impl Service for Large {
        fn is_trusted(&self, _: IpAddr) -> bool {
            false
        }

        async fn answer(&self, request: Request<Incoming>, _: Peer) -> Response {
            *self.0.lock().unwrap() = Some(request);
            Response::new(response::fixed(LARGE))
        }

        fn refuse(&self, _: &Request<Incoming>) -> Response {
            response::no_content()
        }
    }

    #[tokio::test]
    async fn a_refused_request_head_does_not_interrupt_an_answer() {
        let limits = ConnectionLimits {
            heads: crate::budget::Budget::new(16 << 10, 0),
            ..ConnectionLimits::of_connections(1)
        };
        let (serving, mut client) = pair(limits);
        let large = Large::default();
        let serving = tokio::spawn(serving.serve(large.clone()));
        let first = b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n";
        client.write_all(first).await.unwrap();
        let mut received = Vec::with_capacity(2 * LARGE.len());
        client.read_buf(&mut received).await.unwrap();
        // Before the server runs again, its socket can be written, and the end of the body and the next head
        // have arrived.
        while client.try_read_buf(&mut received).is_ok() {}
        let second = format!("xGET / HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(30_000));
        client.try_write(second.as_bytes()).unwrap();
        // The server may close it before it has read all.
        let _ = client.read_to_end(&mut received).await;
        drop(client);
        serving.await.unwrap();
        let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let body = &received[end.unwrap() + 4..];
        let (of_first, refusal) = body.split_at(body.len().min(LARGE.len()));
        assert!(received.starts_with(b"HTTP/1.1 200 "));
        assert!(of_first.iter().all(|byte| *byte == b'x'), "it was torn");
        assert!(refusal.is_empty() || refusal.starts_with(b"HTTP/1.1 503 "));
    }

    #[tokio::test]
    async fn an_idle_connection_takes_little_memory() {
        let (serving, _client) = pair(ConnectionLimits::of_connections(1));
        let bytes = size_of_val(&serving.serve(Large::default()));
        assert!(bytes < 2 << 10, "{bytes} bytes");
    }
}
