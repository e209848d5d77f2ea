//! Logs looked through from end to end: where their lines begin, which of them hold a text.
//!
//! What is told holds for the log as it is now. A scan is stopped when nobody waits for it any
//! more, only a few go on at a time, and only so many wait for their turn.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Error, Scheduler, blocking};
use crate::build::LogFollower;
use crate::build::lines::{self, Found, Index, Needle};

/// Logs that are looked through at once, for each of both questions: each takes a core while it
/// lasts, and builds want cores, too.
const SCANNING: usize = 2;
/// Who may wait for a turn, for each of both: more would wait longer than they care, each with a log
/// open.
const WAITING: usize = 32;

/// The turns of those who ask one question. Where lines begin is asked when a page is opened, and a
/// text when somebody types: neither waits for the other.
#[derive(Debug)]
pub(super) struct Turns {
    running: Arc<Semaphore>,
    /// Those who have a turn or wait for one.
    here: Arc<Semaphore>,
}

/// A turn, and the place where it was waited for.
#[derive(Debug)]
struct Turn {
    _running: OwnedSemaphorePermit,
    _here: OwnedSemaphorePermit,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            running: Arc::new(Semaphore::new(SCANNING)),
            here: Arc::new(Semaphore::new(SCANNING + WAITING)),
        }
    }
}

impl Turns {
    async fn take(&self) -> Result<Turn, Error> {
        let here = self.here.clone().try_acquire_owned();
        let here = here.map_err(|_| Error::ScansFull)?;
        let running = self.running.clone().acquire_owned().await;
        Ok(Turn {
            _running: running.map_err(|_| Error::Lost)?,
            _here: here,
        })
    }
}

/// Whoever waits for a scan; when it is dropped, the scan stops.
#[derive(Debug, Default)]
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Scheduler {
    /// Where the lines of a log begin, as it was when it was opened.
    ///
    /// # Errors
    /// [`Error::ScansFull`], [`Error::Log`].
    pub async fn log_index(&self, log: LogFollower) -> Result<Index, Error> {
        scan(&self.0.indexing, log, lines::index).await
    }

    /// Which lines of a log hold a text, as it was when it was opened.
    ///
    /// # Errors
    /// [`Error::ScansFull`], [`Error::Log`].
    pub async fn log_find(&self, log: LogFollower, needle: Needle) -> Result<Found, Error> {
        scan(&self.0.finding, log, move |log, length, stop| {
            lines::find(log, length, &needle, stop)
        })
        .await
    }
}

async fn scan<T: Send + 'static>(
    turns: &Turns,
    log: LogFollower,
    scan: impl FnOnce(File, u64, &AtomicBool) -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let turn = turns.take().await?;
    let (log, length) = log.into_now().map_err(Error::Log)?;
    let waiting = Waiting::default();
    let stop = waiting.0.clone();
    let told = blocking(move || {
        // Whoever asks may be gone before the scan is.
        let _turn = turn;
        scan(log, length, &stop)
    });
    told.await?.map_err(Error::Log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_told_when_nobody_waits_any_more() {
        let waiting = Waiting::default();
        let stop = waiting.0.clone();
        assert!(!stop.load(Ordering::Relaxed));
        drop(waiting);
        assert!(stop.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn so_many_wait_for_a_turn_and_more_are_refused() {
        let turns = Turns::default();
        let mut held = Vec::new();
        for _ in 0..SCANNING {
            held.push(turns.take().await.unwrap());
        }
        let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(turns.take())).collect();
        for turn in &mut waiting {
            assert!(futures_util::poll!(turn).is_pending());
        }
        assert!(matches!(turns.take().await, Err(Error::ScansFull)));
        // Whoever leaves makes room, and the first in the row is next.
        waiting.pop();
        let mut late = Box::pin(turns.take());
        assert!(futures_util::poll!(&mut late).is_pending());
        held.pop();
        assert!(waiting.remove(0).await.is_ok());
    }
}
