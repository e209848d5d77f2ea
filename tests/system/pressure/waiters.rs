//! Clients that wait for one build, each with all of its params in the request.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use super::readers::{From, Reader, open};

/// Bytes of the param.
const PARAM: usize = 8 << 20;
/// A request that is refused is refused by then; what has no answer waits for the build.
const REFUSED_BY: Duration = Duration::from_secs(5);

/// The job that all of them ask for.
pub fn job() -> serde_json::Value {
    json!({"project": "slow", "params": {"large": "x".repeat(PARAM)}})
}

/// `count` of them; with `events` those whose answer is a stream that has begun.
pub async fn wait(server: SocketAddr, count: usize, events: bool) -> Vec<Reader> {
    let body = job().to_string();
    let accepted = match events {
        true => "text/event-stream",
        false => "application/json",
    };
    let mut request = format!(
        "POST /jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         accept: {accepted}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body.as_bytes());
    open(server, From::Many, count, &request, REFUSED_BY).await
}
