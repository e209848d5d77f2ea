//! Limits of concurrent calls, for one client and for all of them.
//!
//! The bus limits what it stores for clients that do not read. This module limits what calls cost the daemon:
//! a client that floods gets an error at once, and no other client waits for it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use zbus::message::Header;

use parking_lot::{Mutex, MutexGuard};

use super::error::{Error, Kind};
use crate::api::MAX_REQUEST;

/// Unanswered calls of one client: an applet has one, a script that submits in parallel some tens.
pub(super) const MAX_CALLS_PER_CLIENT: usize = 64;
/// From this many calls in total, each client may have only [`MAX_CALLS_PER_CLIENT_WHEN_CROWDED`]: a user
/// with many connections (256 are allowed on the system bus) cannot take all places.
const CROWDED_CALLS: usize = 1_024;
const MAX_CALLS_PER_CLIENT_WHEN_CROWDED: usize = 4;
/// Calls of all clients: more than one user can have under the two limits above.
const MAX_CALLS: usize = 4_096;
/// Bytes of one call: the limit of an HTTP request, and some more for its frame.
pub(super) const MAX_CALL_BYTES: usize = MAX_REQUEST + (64 << 10);
/// Bytes of concurrent large calls, the same as for HTTP.
const MAX_LARGE_BYTES: usize = 64 << 20;
/// Smaller calls, which most are, are not counted.
const SMALL_CALL_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
struct Counts {
    /// Calls by the unique name of the client; a client without calls has no entry.
    clients: HashMap<String, usize>,
    calls: usize,
    large: usize,
}

/// Unanswered calls.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    /// Locked for a count.
    counts: Arc<Mutex<Counts>>,
    unanswered: watch::Sender<usize>,
}

impl Default for Calls {
    fn default() -> Calls {
        Calls {
            counts: Arc::default(),
            unanswered: watch::channel(0).0,
        }
    }
}

/// A call that counts as unanswered until this is dropped.
#[derive(Debug)]
pub(super) struct Call {
    calls: Calls,
    /// The unique name of the caller.
    pub(super) client: String,
    bytes: usize,
}

impl Calls {
    /// Admits a call, or fails if the limit is reached.
    pub(super) fn admit(&self, header: &Header<'_>) -> Result<Call, Error> {
        let too_much = |sentence: &str| Err(Error::new(Kind::LimitsExceeded, sentence));
        let client = header
            .sender()
            .map_or_else(String::new, ToString::to_string);
        let bytes = usize::try_from(header.primary().body_len()).unwrap_or(usize::MAX);
        if bytes > MAX_CALL_BYTES {
            return too_much("the call is too large: expected at most 16 MiB");
        }
        let bytes = if bytes > SMALL_CALL_BYTES { bytes } else { 0 };
        let mut counts = self.counts();
        if counts.large + bytes > MAX_LARGE_BYTES {
            return too_much("too many large calls at once; try again later");
        }
        if counts.calls >= MAX_CALLS {
            return too_much("too many calls at once; try again later");
        }
        let own = counts.clients.get(&client).copied().unwrap_or(0);
        let most = match counts.calls {
            0..CROWDED_CALLS => MAX_CALLS_PER_CLIENT,
            _ => MAX_CALLS_PER_CLIENT_WHEN_CROWDED,
        };
        if own >= most {
            return too_much(&format!(
                "too many calls at once: wait for answers after {most} of them"
            ));
        }
        counts.clients.insert(client.clone(), own + 1);
        counts.calls += 1;
        counts.large += bytes;
        self.unanswered.send_replace(counts.calls);
        drop(counts);
        Ok(Call {
            calls: self.clone(),
            client,
            bytes,
        })
    }

    /// The number of unanswered calls, as it changes.
    pub(super) fn unanswered(&self) -> watch::Receiver<usize> {
        self.unanswered.subscribe()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut counts = self.calls.counts();
        counts.calls -= 1;
        counts.large -= self.bytes;
        if let Some(own) = counts.clients.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                counts.clients.remove(&self.client);
            }
        }
        self.calls.unanswered.send_replace(counts.calls);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(calls: &Calls, client: &str) -> Result<Call, Error> {
        let message = zbus::Message::method_call("/", "M")
            .sender(client)
            .build(&())
            .unwrap();
        calls.admit(&message.header())
    }

    #[test]
    fn only_the_client_with_too_many_calls_gets_an_error() {
        let calls = Calls::default();
        let mut held: Vec<Call> = (0..MAX_CALLS_PER_CLIENT)
            .map(|_| call(&calls, ":1.1").unwrap())
            .collect();
        assert!(call(&calls, ":1.1").is_err());
        drop(call(&calls, ":1.2").unwrap());
        held.pop();
        drop(call(&calls, ":1.1").unwrap());
        drop(held);
        assert_eq!(*calls.unanswered().borrow(), 0);
        assert!(calls.counts().clients.is_empty());
    }

    #[test]
    fn under_load_a_client_with_few_calls_is_still_served() {
        let calls = Calls::default();
        let clients = CROWDED_CALLS / MAX_CALLS_PER_CLIENT;
        let crowd: Vec<Call> = (0..CROWDED_CALLS)
            .map(|n| call(&calls, &format!(":1.{}", n % clients)).unwrap())
            .collect();
        assert!(call(&calls, ":1.0").is_err());
        let few: Vec<Call> = (0..MAX_CALLS_PER_CLIENT_WHEN_CROWDED)
            .map(|_| call(&calls, ":1.999").unwrap())
            .collect();
        assert!(call(&calls, ":1.999").is_err());
        drop((crowd, few));
    }

    #[test]
    fn the_calls_of_all_clients_together_are_bounded() {
        let calls = Calls::default();
        let held: Vec<Call> = (0..MAX_CALLS)
            .map(|n| {
                call(
                    &calls,
                    &format!(":1.{}", n / MAX_CALLS_PER_CLIENT_WHEN_CROWDED),
                )
                .unwrap()
            })
            .collect();
        assert!(call(&calls, ":1.9999").is_err());
        drop(held);
    }
}
