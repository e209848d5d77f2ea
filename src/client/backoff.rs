//! Growing pauses between retries.

use std::time::Duration;

/// A restart of a server takes about this long.
const FIRST_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// A waiting user notices within two seconds that the server is back.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Exponential backoff from 100 ms to 2 s; a refused connection gives no event to wait for.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff(FIRST_RETRY_INTERVAL)
    }
}

impl Backoff {
    /// Returns how long to wait now; the next pause is twice as long.
    pub fn next_pause(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(MAX_RETRY_INTERVAL);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stop_growing() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..7).map(|_| backoff.next_pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000]);
    }
}
