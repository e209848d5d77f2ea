//! A server for tests: answers each connection with the next text of a script and closes it.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::Address;

pub(crate) struct Scripted {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Scripted {
    /// Serves the script, one response per connection; after its end connections are refused.
    pub(crate) async fn start(script: Vec<impl Into<Vec<u8>>>) -> Scripted {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        Scripted::serve(listener, script)
    }

    /// The same on an existing listener.
    pub(crate) fn serve(listener: TcpListener, script: Vec<impl Into<Vec<u8>>>) -> Scripted {
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let script: Vec<Vec<u8>> = script.into_iter().map(Into::into).collect();
        let task = tokio::spawn(async move {
            for answer in script {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                loop {
                    let text = String::from_utf8_lossy(&request).into_owned();
                    if let Some((head, body)) = text.split_once("\r\n\r\n") {
                        let length = head
                            .lines()
                            .find_map(|line| line.strip_prefix("content-length: "))
                            .map_or(0, |n| n.parse().unwrap());
                        if body.len() >= length {
                            log.lock().unwrap().push(text);
                            break;
                        }
                    }
                    let mut piece = [0; 4096];
                    match stream.read(&mut piece).await.unwrap() {
                        0 => break,
                        n => request.extend_from_slice(&piece[..n]),
                    }
                }
                // The client may have closed the connection.
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            }
        });
        Scripted {
            port,
            asked,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// A complete response.
    pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// A stream of events that is truncated.
    pub(crate) fn torn_events(events: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{events}\r\n",
            events.len()
        )
    }

    /// A complete stream of events.
    pub(crate) fn events(events: &str) -> String {
        format!("{}0\r\n\r\n", Scripted::torn_events(events))
    }

    pub(crate) fn address(&self) -> Address {
        Address::Tcp("127.0.0.1".to_owned(), self.port)
    }

    /// The requests so far, heads and bodies.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}
