//! The bodies of requests: read whole, bounded in size and time, counted while they are held.

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use super::error::ApiError;
use super::pace::Pace;
use crate::budget::{Budget, Client, Held};
use crate::scheduler;

/// Bytes of an ordinary body. Handlers that need only a few keys accept no more.
pub(super) const SMALL: usize = 64 << 10;

/// A body that was read whole.
#[derive(Debug)]
pub(super) struct ReceivedBody {
    pub(super) bytes: Vec<u8>,
    /// The budget that it uses.
    pub(super) held: Held,
}

/// Reads a body of at most `limit` bytes, which are counted in `budget` as they arrive. One that announces
/// more, or for which the budget is exhausted, is not read at all, so that a client that waits for
/// `100 Continue` does not send it.
///
/// # Errors
/// 413, 503, 408 for a client that sends too slowly, and 400 for a body that ends too early.
pub(super) async fn read(
    mut body: Incoming,
    limit: usize,
    budget: &Budget,
    client: Client,
) -> Result<ReceivedBody, ApiError> {
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request is too large: expected at most {limit} bytes"),
        )
    };
    let length = body.size_hint().lower();
    if length > limit as u64 {
        return Err(too_large());
    }
    let mut held = budget.hold(client, length).ok_or_else(bodies_full)?;
    // A length that is only announced is not counted: it takes nothing from other clients.
    held.shrink_to(0);
    let (mut bytes, mut pace) = (Vec::new(), Pace::default());
    loop {
        let late = pace.wait(Instant::now());
        let frame = match tokio::time::timeout_at(late, body.frame()).await {
            Ok(None) => return Ok(ReceivedBody { bytes, held }),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => {
                return Err(ApiError::bad_request("the request did not come whole"));
            }
            Err(_) => {
                return Err(ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "the request comes too slowly: expected its end, or at least 64 KiB in each minute",
                ));
            }
        };
        // Trailers are ignored.
        let data = frame.into_data().unwrap_or_default();
        pace.moved(Instant::now(), data.len());
        let needed = bytes.len() + data.len();
        if needed > limit {
            return Err(too_large());
        }
        let capacity = bytes.capacity();
        if needed > capacity {
            let expected = usize::try_from(length).unwrap_or(usize::MAX);
            let larger = needed.max((2 * capacity).min(expected.max(SMALL)));
            if !held.grow((larger - capacity) as u64) {
                return Err(bodies_full());
            }
            bytes.reserve_exact(larger - bytes.len());
        }
        bytes.extend_from_slice(&data);
    }
}

pub(super) fn bodies_full() -> ApiError {
    ApiError::from(scheduler::Error::BodiesFull)
}
