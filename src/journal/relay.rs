//! Passes records to a reader that may stall.
//!
//! The thread that logs a record puts it into a bounded queue and continues, whatever the reader does. One
//! thread takes records out and passes them to the sink, which may block. Records that do not fit are
//! counted, and the count is logged as one record when there is space again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tracing::Level;

use super::record::{Content, Place, Record};

/// Queued records: some seconds of the busiest hour, in about two megabytes.
const QUEUE_CAPACITY: usize = 4096;

/// How long the exit of the process waits for its last records. A working journal takes a full queue in a
/// fraction of it; a stalled journal must not delay the daemon.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Shared {
    lost: AtomicU64,
    ending: AtomicBool,
}

/// The sending side. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    /// `None` only wakes the thread.
    queue: SyncSender<Option<Record>>,
    shared: Arc<Shared>,
}

/// The thread behind a [`Relay`]. Dropping it waits briefly for the queued records.
#[derive(Debug)]
pub(super) struct Flush {
    relay: Relay,
    /// Nothing is ever sent: a disconnected sender means that the thread is done.
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
    timeout: Duration,
}

impl Relay {
    /// Starts the thread that hands records to `sink`.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(
        sink: impl FnMut(&Record) + Send + 'static,
    ) -> std::io::Result<(Relay, Flush)> {
        Relay::with(QUEUE_CAPACITY, FLUSH_TIMEOUT, sink)
    }

    fn with(
        bound: usize,
        timeout: Duration,
        sink: impl FnMut(&Record) + Send + 'static,
    ) -> std::io::Result<(Relay, Flush)> {
        let (queue, waiting) = sync_channel(bound);
        let (alive, done) = sync_channel(1);
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = Builder::new().name("journal".to_owned()).spawn(move || {
            forward(&waiting, &theirs, sink);
            drop(alive);
        })?;
        let relay = Relay { queue, shared };
        let flush = Flush {
            relay: relay.clone(),
            done,
            thread: Some(thread),
            timeout,
        };
        Ok((relay, flush))
    }

    /// Enqueues a record, or counts it as lost. Never blocks.
    pub(super) fn enqueue(&self, record: Record) {
        if self.queue.try_send(Some(record)).is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Passes records on until the end is requested and none is left.
fn forward(waiting: &Receiver<Option<Record>>, shared: &Shared, mut sink: impl FnMut(&Record)) {
    loop {
        // Loaded before the queue is read: records that were queued before the end was requested are seen.
        let ending = shared.ending.load(Ordering::Acquire);
        let next = match waiting.try_recv() {
            Ok(next) => next,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                // The lost records came after all queued ones.
                let lost = shared.lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    sink(&loss_record(lost));
                    continue;
                }
                if ending {
                    return;
                }
                match waiting.recv() {
                    Ok(next) => next,
                    Err(_) => return,
                }
            }
        };
        if let Some(record) = next {
            sink(&record);
        }
    }
}

/// Created here, bypassing the collector, which would enqueue it again.
fn loss_record(lost: u64) -> Record {
    Record {
        place: Place {
            level: Level::WARN,
            target: module_path!(),
            file: Some(file!()),
            line: Some(line!()),
        },
        content: Content {
            message: match lost {
                1 => "1 record was lost while the journal was stalled".to_owned(),
                lost => format!("{lost} records were lost while the journal was stalled"),
            },
            fields: Vec::new(),
        },
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.relay.shared.ending.store(true, Ordering::Release);
        // When the queue is full, the thread checks by itself after emptying it.
        let _ = self.relay.queue.try_send(None);
        if self.done.recv_timeout(self.timeout) == Err(RecvTimeoutError::Disconnected)
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Instant;

    use super::*;

    /// Longer than anything here takes in a working system.
    const LONG: Duration = Duration::from_secs(20);

    fn record(message: &str) -> Record {
        let mut record = loss_record(0);
        record.content.message = message.to_owned();
        record
    }

    /// A sink that reports each record, and blocks until it is released.
    fn stalled() -> (impl FnMut(&Record) + Send, Receiver<String>, Sender<()>) {
        let (said, heard) = channel();
        let (go, gate) = channel();
        let sink = move |record: &Record| {
            let _ = said.send(record.content.message.clone());
            // A gate without a sender is open.
            let _ = gate.recv();
        };
        (sink, heard, go)
    }

    #[test]
    fn a_stalled_journal_blocks_no_caller_and_lost_records_are_counted() {
        let (sink, heard, go) = stalled();
        let (relay, flush) = Relay::with(4, LONG, sink).unwrap();
        relay.enqueue(record("first"));
        // The sink has taken it, so the queue is empty again.
        assert_eq!(heard.recv_timeout(LONG).unwrap(), "first");
        let begun = Instant::now();
        let tellers: Vec<_> = (0..4)
            .map(|_| {
                let relay = relay.clone();
                std::thread::spawn(move || (0..250).for_each(|_| relay.enqueue(record("flood"))))
            })
            .collect();
        for teller in tellers {
            teller.join().unwrap();
        }
        assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
        drop(go);
        drop(flush);
        let rest: Vec<String> = heard.iter().collect();
        assert_eq!(rest[..4], ["flood"; 4]);
        assert_eq!(
            rest[4..],
            ["996 records were lost while the journal was stalled"]
        );
    }

    #[test]
    fn a_single_lost_record_is_reported_once() {
        let (sink, heard, go) = stalled();
        let (relay, flush) = Relay::with(1, LONG, sink).unwrap();
        relay.enqueue(record("a"));
        assert_eq!(heard.recv_timeout(LONG).unwrap(), "a");
        relay.enqueue(record("b"));
        relay.enqueue(record("c"));
        drop(go);
        let loss = "1 record was lost while the journal was stalled";
        assert_eq!(heard.recv_timeout(LONG).unwrap(), "b");
        assert_eq!(heard.recv_timeout(LONG).unwrap(), loss);
        relay.enqueue(record("d"));
        drop(flush);
        assert_eq!(heard.iter().collect::<Vec<_>>(), ["d"]);
    }

    #[test]
    fn the_end_waits_for_the_last_records() {
        let gate = Arc::new(Barrier::new(2));
        let (ours, (said, heard)) = (gate.clone(), channel());
        let mut first = true;
        let sink = move |record: &Record| {
            if std::mem::take(&mut first) {
                ours.wait();
            }
            said.send(record.content.message.clone()).unwrap();
        };
        let (relay, flush) = Relay::with(QUEUE_CAPACITY, LONG, sink).unwrap();
        (0..QUEUE_CAPACITY / 2).for_each(|n| relay.enqueue(record(&n.to_string())));
        let ending = std::thread::spawn(move || drop(flush));
        gate.wait();
        ending.join().unwrap();
        assert_eq!(heard.iter().count(), QUEUE_CAPACITY / 2);
        // The reader is gone, which blocks nothing.
        relay.enqueue(record("late"));
    }

    #[test]
    fn the_end_waits_for_a_stalled_journal_up_to_its_timeout() {
        for waiting in [0, 1, 2] {
            let (sink, heard, go) = stalled();
            let timeout = Duration::from_millis(50);
            let (relay, flush) = Relay::with(2, timeout, sink).unwrap();
            relay.enqueue(record("first"));
            assert_eq!(heard.recv_timeout(LONG).unwrap(), "first");
            (0..waiting).for_each(|_| relay.enqueue(record("more")));
            let begun = Instant::now();
            drop(flush);
            assert!(begun.elapsed() >= timeout);
            assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
            drop(go);
        }
        assert!(FLUSH_TIMEOUT <= Duration::from_secs(1));
    }

    #[test]
    fn an_end_without_records_does_not_wait() {
        let (_relay, flush) = Relay::with(1, LONG, |_| {}).unwrap();
        let begun = Instant::now();
        drop(flush);
        assert!(begun.elapsed() < LONG / 2);
    }
}
