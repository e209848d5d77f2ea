//! Bounds the threads that read for clients, and the clients that wait for such a thread.
//!
//! Each short disk read blocks a thread. On a disk that hangs the thread stays blocked, and builds need
//! threads as well. So each read for a client first takes a permit of its kind; builds take none. Further
//! reads wait in order of arrival, each in a place; when no place is free, a read is refused at once. Only an
//! answer whose transfer has begun waits without a place, because it can no longer be refused: it holds bytes
//! of a [budget](crate::budget) instead. Some permits and places are reserved for clients of this host.
//!
//! A permit belongs to the thread that reads and not to the client: it is released when the thread is done,
//! whether or not the client is still connected. A granted permit does not wait for the client either: an
//! answer whose client reads nothing is not polled, so the wait is a separate task.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::task::AbortOnDropHandle;

use crate::budget::{Budget, Client, Held};

/// The daemon's limit of blocking threads.
pub const THREADS: usize = 512;

/// The numbers of permits and of waiting clients, for one kind of reads.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    /// Permits for all clients.
    max: usize,
    /// Additional permits for clients of this host alone.
    local: usize,
    /// Most clients that wait for a permit.
    max_waiting: usize,
}

/// The number of waiting clients, for most kinds. Each uses a connection: with all clients that wait for the
/// larger kinds, more than half of the connections stay free.
const MAX_WAITING_CLIENTS: usize = 256;

/// Short disk reads: every read that has no kind below.
pub const READS: ReadLimit = ReadLimit {
    max: 128,
    local: 8,
    max_waiting: MAX_WAITING_CLIENTS,
};
/// Short reads for clients that wait for a build, mostly of its log: other readers cannot block them. None is
/// refused.
pub const BUILDERS: ReadLimit = ReadLimit {
    max: 32,
    local: 4,
    max_waiting: 0,
};
/// Walks through the index. One walk over a hundred thousand builds takes some milliseconds of CPU: however
/// many clients ask at once, builds and answers get their CPU time.
pub const INDEX_WALKS: ReadLimit = ReadLimit {
    max: 4,
    local: 1,
    max_waiting: MAX_WAITING_CLIENTS,
};
/// Reads of records: each may hold 16 MiB of params, as text and as values.
pub const RECORDS: ReadLimit = ReadLimit {
    max: 2,
    local: 1,
    max_waiting: MAX_WAITING_CLIENTS,
};
/// Listings of artifact directories: one with a million names takes a second of CPU.
pub const DIRECTORIES: ReadLimit = ReadLimit {
    max: 2,
    local: 1,
    max_waiting: 64,
};
/// Scans of logs, for each of the two queries: each uses a core while it runs, and builds need cores too. A
/// client that waits has a log open.
pub const SCANS: ReadLimit = ReadLimit {
    max: 2,
    local: 1,
    max_waiting: 32,
};
/// Transfers of artifacts: each starts a process that takes some milliseconds.
pub const ARTIFACT_TRANSFERS: ReadLimit = ReadLimit {
    max: 4,
    local: 0,
    max_waiting: MAX_WAITING_CLIENTS,
};
/// Reads of the tokens file, which builders need as well: none is refused. The reads are serialized in any
/// case.
pub const TOKENS: ReadLimit = ReadLimit {
    max: 2,
    local: 0,
    max_waiting: 0,
};

/// Every kind, once for each limiter of it.
const ALL: [ReadLimit; 9] = [
    READS,
    BUILDERS,
    INDEX_WALKS,
    RECORDS,
    DIRECTORIES,
    SCANS,
    SCANS,
    ARTIFACT_TRANSFERS,
    TOKENS,
];

/// Half of the threads stay available to builds, whatever readers do.
const _: () = assert!(threads(&ALL) <= THREADS / 2);

const fn threads(limits: &[ReadLimit]) -> usize {
    match limits {
        [] => 0,
        [first, rest @ ..] => first.max + first.local + threads(rest),
    }
}

/// Permits of one kind. Clones share them.
#[derive(Clone, Debug)]
pub struct ReadLimiter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// A place per client that has a permit or waits for it.
    places: Budget,
    permits: Arc<Semaphore>,
    local: Arc<Semaphore>,
}

impl ReadLimiter {
    /// Creates the permits of one kind.
    pub fn new(limit: ReadLimit) -> ReadLimiter {
        ReadLimiter(Arc::new(Shared {
            places: Budget::new((limit.max + limit.max_waiting) as u64, reserve(limit)),
            permits: Arc::new(Semaphore::new(limit.max)),
            local: Arc::new(Semaphore::new(limit.local)),
        }))
    }

    /// The same permits, as `client` takes them.
    pub fn for_client(&self, client: Client) -> ClientReadLimiter {
        ClientReadLimiter {
            limiter: self.clone(),
            client,
        }
    }
}

/// Places reserved for clients of this host: as many of them may wait as of other clients.
fn reserve(limit: ReadLimit) -> u64 {
    let waiting = limit.max_waiting * limit.local / limit.max;
    (limit.local + waiting) as u64
}

/// Permits of one kind, as one client takes them.
#[derive(Clone, Debug)]
pub struct ClientReadLimiter {
    limiter: ReadLimiter,
    client: Client,
}

impl ClientReadLimiter {
    /// Runs `work` with a permit, on a blocking thread; returns `None` at once when no waiting place is free.
    /// The permit is released when `work` drops it.
    pub async fn try_run<T: Send + 'static>(
        &self,
        work: impl FnOnce(ReadPermit) -> T + Send + 'static,
    ) -> Option<Result<T, JoinError>> {
        let place = self.limiter.0.places.hold(self.client, 1)?;
        Some(self.run_in_place(Some(place), work).await)
    }

    /// Like `try_run`, but for a started answer: it waits however many wait.
    ///
    /// # Errors
    /// When `work` panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(ReadPermit) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        self.run_in_place(None, work).await
    }

    async fn run_in_place<T: Send + 'static>(
        &self,
        place: Option<Held>,
        work: impl FnOnce(ReadPermit) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let begin = |permit| {
            let permit = ReadPermit {
                _place: place,
                _permit: permit,
            };
            spawn_blocking(move || work(permit))
        };
        if let Ok(permit) = self.limiter.0.permits.clone().try_acquire_owned() {
            return begin(Some(permit)).await;
        }
        let next = self.limiter.clone().acquire(self.client);
        let waiting = tokio::spawn(async move { begin(next.await).await });
        AbortOnDropHandle::new(waiting).await?
    }
}

impl ReadLimiter {
    /// Waits for the next permit. This never fails, because the semaphores are never closed.
    async fn acquire(self, client: Client) -> Option<OwnedSemaphorePermit> {
        let Shared { permits, local, .. } = &*self.0;
        let common = permits.clone().acquire_owned();
        let permit = match client {
            Client::Local => tokio::select! {
                biased;
                permit = common => permit,
                permit = local.clone().acquire_owned() => permit,
            },
            Client::Proxy | Client::Address(_) => common.await,
        };
        permit.ok()
    }
}

/// A permit, released on drop.
#[derive(Debug)]
pub struct ReadPermit {
    // Released before the permit, so that the next client that gets the permit finds a free place.
    _place: Option<Held>,
    _permit: Option<OwnedSemaphorePermit>,
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::pin::Pin;
    use std::sync::mpsc::{Sender, channel};

    use futures_util::poll;
    use tokio::sync::oneshot;
    use tokio::task::yield_now;

    use super::*;

    const SMALL_LIMIT: ReadLimit = ReadLimit {
        max: 2,
        local: 1,
        max_waiting: 30,
    };

    type Asking<T> = Pin<Box<dyn Future<Output = Option<Result<T, JoinError>>>>>;

    fn client(last: u8) -> Client {
        Client::of(IpAddr::from([192, 0, 2, last]))
    }

    fn ask(limiter: &ReadLimiter, client: Client) -> Asking<ReadPermit> {
        let limiter = limiter.for_client(client);
        Box::pin(async move { limiter.try_run(|permit| permit).await })
    }

    async fn permit(limiter: &ReadLimiter, client: Client) -> ReadPermit {
        ask(limiter, client).await.unwrap().unwrap()
    }

    /// Starts a read that blocks until the sender is dropped.
    async fn hang(limiter: &ReadLimiter, client: Client) -> (Asking<()>, Sender<()>) {
        let (go_on, until) = channel::<()>();
        let (begun, beginning) = oneshot::channel();
        let limiter = limiter.for_client(client);
        let asking = async move {
            let work = move |_permit| {
                let _ = begun.send(());
                let _ = until.recv();
            };
            limiter.try_run(work).await
        };
        let mut asking: Asking<()> = Box::pin(asking);
        assert!(poll!(&mut asking).is_pending());
        beginning.await.unwrap();
        (asking, go_on)
    }

    #[tokio::test]
    async fn a_local_client_can_read_while_blocked_readers_hold_all_permits() {
        let limiter = ReadLimiter::new(SMALL_LIMIT);
        let _first = hang(&limiter, client(1)).await;
        let _second = hang(&limiter, Client::Proxy).await;
        let mut client_permit = ask(&limiter, client(1));
        assert!(poll!(&mut client_permit).is_pending());
        // Repeated permits work: each one is released.
        drop(permit(&limiter, Client::Local).await);
        let local = permit(&limiter, Client::Local).await;
        let mut third = ask(&limiter, Client::Local);
        assert!(poll!(&mut third).is_pending());
        drop(local);
        third.await.unwrap().unwrap();
        assert!(poll!(&mut client_permit).is_pending());
    }

    #[tokio::test]
    async fn a_disconnected_client_releases_permit_and_place_when_its_thread_ends() {
        let limiter = ReadLimiter::new(SMALL_LIMIT);
        let (asking, go_on) = hang(&limiter, client(1)).await;
        drop(asking);
        assert_eq!(limiter.0.permits.available_permits(), SMALL_LIMIT.max - 1);
        assert_eq!(limiter.0.places.held(), 1);
        drop(go_on);
        // All permits are available once the thread is done.
        let all = limiter
            .0
            .permits
            .acquire_many(SMALL_LIMIT.max as u32)
            .await
            .unwrap();
        assert_eq!(limiter.0.places.held(), 0);
        // A client that disconnects while it waits releases its place as well.
        let mut waiting = ask(&limiter, client(1));
        assert!(poll!(&mut waiting).is_pending());
        assert_eq!(limiter.0.places.held(), 1);
        drop(waiting);
        while limiter.0.places.held() > 0 {
            yield_now().await;
        }
        drop(all);
        permit(&limiter, client(1)).await;
    }

    #[tokio::test]
    async fn waiting_reads_are_bounded_except_for_answers_that_have_begun() {
        let limiter = ReadLimiter::new(SMALL_LIMIT);
        let mut held = vec![
            permit(&limiter, Client::Proxy).await,
            permit(&limiter, Client::Proxy).await,
        ];
        let mut waiting: Vec<_> = (0..SMALL_LIMIT.max_waiting)
            .map(|_| ask(&limiter, Client::Proxy))
            .collect();
        for asking in &mut waiting {
            assert!(poll!(asking).is_pending());
        }
        assert!(ask(&limiter, Client::Proxy).await.is_none());
        assert!(ask(&limiter, client(1)).await.is_none());
        let own = limiter.for_client(Client::Proxy);
        let mut under_way = Box::pin(own.run(drop));
        assert!(poll!(&mut under_way).is_pending());
        // Clients of this host have reserved places.
        let _local = permit(&limiter, Client::Local).await;
        let mut rest: Vec<_> = (0..SMALL_LIMIT.max_waiting / 2)
            .map(|_| ask(&limiter, Client::Local))
            .collect();
        for asking in &mut rest {
            assert!(poll!(asking).is_pending());
        }
        assert!(ask(&limiter, Client::Local).await.is_none());
        // A client that disconnects frees a place, and the first in the queue is next.
        waiting.pop();
        let mut late = loop {
            let mut late = ask(&limiter, Client::Proxy);
            if poll!(&mut late).is_pending() {
                break late;
            }
            yield_now().await;
        };
        held.pop();
        let _next = waiting.remove(0).await.unwrap();
        assert!(poll!(&mut waiting[0]).is_pending());
        assert!(poll!(&mut late).is_pending());
    }

    #[tokio::test]
    async fn a_client_that_does_not_use_its_permit_does_not_keep_it() {
        let limiter = ReadLimiter::new(SMALL_LIMIT);
        let held = [
            permit(&limiter, client(1)).await,
            permit(&limiter, client(1)).await,
        ];
        let own = limiter.for_client(client(2));
        let mut slow: Vec<_> = (0..5).map(|_| Box::pin(own.run(drop))).collect();
        for asking in &mut slow {
            assert!(poll!(asking).is_pending());
        }
        drop(held);
        // None of them is polled again, and the client queued behind them still gets a permit.
        permit(&limiter, client(3)).await;
    }
}
