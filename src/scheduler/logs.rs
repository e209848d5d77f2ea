//! Scans of whole logs: where their lines begin, which of them contain a text.
//!
//! A result is valid for the log at the time of the request. A scan is stopped when its client has
//! disconnected, and the numbers of running and waiting scans are limited.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::Error;
use super::reading::Reader;
use crate::build::lines::{self, Found, Index, Needle};
use crate::build::{LineTime, LogFollower};
use crate::read_limiter::ReadLimiter;

/// A client that waits for a scan; when it is dropped, the scan stops.
#[derive(Debug, Default)]
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Reader {
    /// The offsets of lines in a log, as it was when it was opened.
    ///
    /// # Errors
    /// [`Error::ScansFull`], [`Error::Log`].
    pub async fn log_index(&self, log: LogFollower) -> Result<Index, Error> {
        let limiter = &self.scheduler.0.readers.indexing;
        self.scan(limiter, log, lines::index).await
    }

    /// The lines of a log that contain a text, as it was when it was opened.
    ///
    /// # Errors
    /// [`Error::ScansFull`], [`Error::Log`].
    pub async fn log_find(&self, log: LogFollower, needle: Needle) -> Result<Found, Error> {
        let limiter = &self.scheduler.0.readers.finding;
        let find = move |log, length, stop: &_| lines::find(log, length, &needle, stop);
        self.scan(limiter, log, find).await
    }

    /// When a log was written; `None` if the build was moved since the log was opened.
    ///
    /// # Errors
    /// [`Error::ReadersFull`], [`Error::Log`].
    pub async fn log_times(&self, log: LogFollower) -> Result<Option<Vec<LineTime>>, Error> {
        let reading = self.read(move || log.times());
        reading.await?.map_err(Error::Log)
    }

    async fn scan<T: Send + 'static>(
        &self,
        limiter: &ReadLimiter,
        log: LogFollower,
        scan: impl FnOnce(File, u64, &AtomicBool) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let waiting = Waiting::default();
        let stop = waiting.0.clone();
        let scanning = self.run_limited(limiter, move |_permit| {
            let (log, length) = log.into_now()?;
            scan(log, length, &stop)
        });
        let scanned = scanning.await.map_err(|error| match error {
            Error::ReadersFull => Error::ScansFull,
            other => other,
        });
        scanned?.map_err(Error::Log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_cancelled_when_no_client_waits_for_it() {
        let waiting = Waiting::default();
        let stop = waiting.0.clone();
        assert!(!stop.load(Ordering::Relaxed));
        drop(waiting);
        assert!(stop.load(Ordering::Relaxed));
    }
}
