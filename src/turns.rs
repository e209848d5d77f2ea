//! Turns bound the threads that read for clients, and the clients that wait for such a thread.
//!
//! Each short disk read blocks a thread. On a disk that hangs the thread stays blocked, and builds need
//! threads as well. So each read for a client first takes a turn of its kind; builds take none. Further reads
//! wait in order of arrival, each in a place; when no place is free, a read is refused at once. Only an
//! answer whose transfer has begun waits without a place, because it can no longer be refused: it holds bytes
//! of a [budget](crate::budget) instead. Some turns and places are reserved for clients of this host.
//!
//! A turn belongs to the thread that reads and not to the client: it is released when the thread is done,
//! whether or not the client is still connected. A granted turn does not wait for the client either: an
//! answer whose client reads nothing is not polled, so the wait is a separate task.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::task::AbortOnDropHandle;

use crate::budget::{Budget, Client, Held};

/// The daemon's limit of blocking threads.
pub const THREADS: usize = 512;

/// The number of turns of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Turns for all clients.
    most: usize,
    /// Additional turns for clients of this host alone.
    local: usize,
    /// Most clients that wait for a turn.
    waiting: usize,
}

/// The number of waiting clients, for most kinds. Each uses a connection: with all clients that wait for the
/// larger kinds, more than half of the connections stay free.
const MAX_WAITING_CLIENTS: usize = 256;

/// Short disk reads: every read that has no kind below.
pub const READS: Bound = Bound {
    most: 128,
    local: 8,
    waiting: MAX_WAITING_CLIENTS,
};
/// Short reads for clients that wait for a build, mostly of its log: other readers cannot block them. None is
/// refused.
pub const BUILDERS: Bound = Bound {
    most: 32,
    local: 4,
    waiting: 0,
};
/// Walks through the index. One walk over a hundred thousand builds takes some milliseconds of CPU: however
/// many clients ask at once, builds and answers get their CPU time.
pub const WALKS: Bound = Bound {
    most: 4,
    local: 1,
    waiting: MAX_WAITING_CLIENTS,
};
/// Reads of records: each may hold 16 MiB of params, as text and as values.
pub const RECORDS: Bound = Bound {
    most: 2,
    local: 1,
    waiting: MAX_WAITING_CLIENTS,
};
/// Listings of artifact directories: one with a million names takes a second of CPU.
pub const DIRECTORIES: Bound = Bound {
    most: 2,
    local: 1,
    waiting: 64,
};
/// Scans of logs, for each of the two queries: each uses a core while it runs, and builds need cores too. A
/// client that waits has a log open.
pub const SCANS: Bound = Bound {
    most: 2,
    local: 1,
    waiting: 32,
};
/// Transfers of artifacts: each starts a process that takes some milliseconds.
pub const HANDING_OUT: Bound = Bound {
    most: 4,
    local: 0,
    waiting: MAX_WAITING_CLIENTS,
};
/// Reads of the tokens file, which builders need as well: none is refused. The reads are serialized in any
/// case.
pub const TOKENS: Bound = Bound {
    most: 2,
    local: 0,
    waiting: 0,
};

/// Every kind, once for each of its [`Turns`].
const ALL: [Bound; 9] = [
    READS,
    BUILDERS,
    WALKS,
    RECORDS,
    DIRECTORIES,
    SCANS,
    SCANS,
    HANDING_OUT,
    TOKENS,
];

/// Half of the threads stay available to builds, whatever readers do.
const _: () = assert!(threads(&ALL) <= THREADS / 2);

const fn threads(bounds: &[Bound]) -> usize {
    match bounds {
        [] => 0,
        [first, rest @ ..] => first.most + first.local + threads(rest),
    }
}

/// Turns of one kind. Clones share them.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// A place per client that has a turn or waits for it.
    places: Budget,
    turns: Arc<Semaphore>,
    local: Arc<Semaphore>,
}

impl Turns {
    /// Creates the turns.
    pub fn new(bound: Bound) -> Turns {
        Turns(Arc::new(Shared {
            places: Budget::new((bound.most + bound.waiting) as u64, reserve(bound)),
            turns: Arc::new(Semaphore::new(bound.most)),
            local: Arc::new(Semaphore::new(bound.local)),
        }))
    }

    /// The same turns, as `client` takes them.
    pub fn of(&self, client: Client) -> ClientTurns {
        ClientTurns {
            turns: self.clone(),
            client,
        }
    }
}

/// Places reserved for clients of this host: as many of them may wait as of other clients.
fn reserve(bound: Bound) -> u64 {
    let waiting = bound.waiting * bound.local / bound.most;
    (bound.local + waiting) as u64
}

/// Turns of one kind, as one client takes them.
#[derive(Clone, Debug)]
pub struct ClientTurns {
    turns: Turns,
    client: Client,
}

impl ClientTurns {
    /// Runs `work` in a turn, on a blocking thread; returns `None` at once when no waiting place is free. The
    /// turn ends when `work` drops it.
    pub async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(Turn) -> T + Send + 'static,
    ) -> Option<Result<T, JoinError>> {
        let place = self.turns.0.places.hold(self.client, 1)?;
        Some(self.run(Some(place), work).await)
    }

    /// Like `ask`, but for a started answer: it waits however many wait.
    ///
    /// # Errors
    /// When `work` panicked.
    pub async fn wait<T: Send + 'static>(
        &self,
        work: impl FnOnce(Turn) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        self.run(None, work).await
    }

    async fn run<T: Send + 'static>(
        &self,
        place: Option<Held>,
        work: impl FnOnce(Turn) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let begin = |permit| {
            let turn = Turn {
                _place: place,
                _permit: permit,
            };
            spawn_blocking(move || work(turn))
        };
        if let Ok(permit) = self.turns.0.turns.clone().try_acquire_owned() {
            return begin(Some(permit)).await;
        }
        let next = self.turns.clone().next(self.client);
        let waiting = tokio::spawn(async move { begin(next.await).await });
        AbortOnDropHandle::new(waiting).await?
    }
}

impl Turns {
    /// Waits for the next turn. This never fails, because the semaphores are never closed.
    async fn next(self, client: Client) -> Option<OwnedSemaphorePermit> {
        let Shared { turns, local, .. } = &*self.0;
        let common = turns.clone().acquire_owned();
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

/// A turn, released on drop.
#[derive(Debug)]
pub struct Turn {
    // Released before the turn, so that the next client that gets the turn finds a free place.
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

    const SMALL_BOUND: Bound = Bound {
        most: 2,
        local: 1,
        waiting: 30,
    };

    type Asking<T> = Pin<Box<dyn Future<Output = Option<Result<T, JoinError>>>>>;

    fn client(last: u8) -> Client {
        Client::of(IpAddr::from([192, 0, 2, last]))
    }

    fn ask(turns: &Turns, client: Client) -> Asking<Turn> {
        let turns = turns.of(client);
        Box::pin(async move { turns.ask(|turn| turn).await })
    }

    async fn turn(turns: &Turns, client: Client) -> Turn {
        ask(turns, client).await.unwrap().unwrap()
    }

    /// Starts a read that blocks until the sender is dropped.
    async fn hang(turns: &Turns, client: Client) -> (Asking<()>, Sender<()>) {
        let (go_on, until) = channel::<()>();
        let (begun, beginning) = oneshot::channel();
        let turns = turns.of(client);
        let asking = async move {
            let work = move |_turn| {
                let _ = begun.send(());
                let _ = until.recv();
            };
            turns.ask(work).await
        };
        let mut asking: Asking<()> = Box::pin(asking);
        assert!(poll!(&mut asking).is_pending());
        beginning.await.unwrap();
        (asking, go_on)
    }

    #[tokio::test]
    async fn a_client_of_this_host_reads_while_all_turns_are_taken_by_readers_that_hang() {
        let turns = Turns::new(SMALL_BOUND);
        let _first = hang(&turns, client(1)).await;
        let _second = hang(&turns, Client::Proxy).await;
        let mut client_turn = ask(&turns, client(1));
        assert!(poll!(&mut client_turn).is_pending());
        // Repeated turns work: each one is released.
        drop(turn(&turns, Client::Local).await);
        let local = turn(&turns, Client::Local).await;
        let mut third = ask(&turns, Client::Local);
        assert!(poll!(&mut third).is_pending());
        drop(local);
        third.await.unwrap().unwrap();
        assert!(poll!(&mut client_turn).is_pending());
    }

    #[tokio::test]
    async fn an_asker_who_leaves_gives_the_turn_and_the_place_back_when_the_thread_is_done() {
        let turns = Turns::new(SMALL_BOUND);
        let (asking, go_on) = hang(&turns, client(1)).await;
        drop(asking);
        assert_eq!(turns.0.turns.available_permits(), SMALL_BOUND.most - 1);
        assert_eq!(turns.0.places.held(), 1);
        drop(go_on);
        // All turns are available once the thread is done.
        let all = turns
            .0
            .turns
            .acquire_many(SMALL_BOUND.most as u32)
            .await
            .unwrap();
        assert_eq!(turns.0.places.held(), 0);
        // A client that disconnects while it waits releases its place as well.
        let mut waiting = ask(&turns, client(1));
        assert!(poll!(&mut waiting).is_pending());
        assert_eq!(turns.0.places.held(), 1);
        drop(waiting);
        while turns.0.places.held() > 0 {
            yield_now().await;
        }
        drop(all);
        turn(&turns, client(1)).await;
    }

    #[tokio::test]
    async fn so_many_wait_and_further_ones_are_refused_at_once_but_for_answers_under_way() {
        let turns = Turns::new(SMALL_BOUND);
        let mut held = vec![
            turn(&turns, Client::Proxy).await,
            turn(&turns, Client::Proxy).await,
        ];
        let mut waiting: Vec<_> = (0..SMALL_BOUND.waiting)
            .map(|_| ask(&turns, Client::Proxy))
            .collect();
        for asking in &mut waiting {
            assert!(poll!(asking).is_pending());
        }
        assert!(ask(&turns, Client::Proxy).await.is_none());
        assert!(ask(&turns, client(1)).await.is_none());
        let own = turns.of(Client::Proxy);
        let mut under_way = Box::pin(own.wait(drop));
        assert!(poll!(&mut under_way).is_pending());
        // Clients of this host have reserved places.
        let _local = turn(&turns, Client::Local).await;
        let mut rest: Vec<_> = (0..SMALL_BOUND.waiting / 2)
            .map(|_| ask(&turns, Client::Local))
            .collect();
        for asking in &mut rest {
            assert!(poll!(asking).is_pending());
        }
        assert!(ask(&turns, Client::Local).await.is_none());
        // A client that disconnects frees a place, and the first in the queue is next.
        waiting.pop();
        let mut late = loop {
            let mut late = ask(&turns, Client::Proxy);
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
    async fn a_client_who_takes_nothing_does_not_keep_the_turn_for_which_it_waited() {
        let turns = Turns::new(SMALL_BOUND);
        let held = [turn(&turns, client(1)).await, turn(&turns, client(1)).await];
        let own = turns.of(client(2));
        let mut slow: Vec<_> = (0..5).map(|_| Box::pin(own.wait(drop))).collect();
        for asking in &mut slow {
            assert!(poll!(asking).is_pending());
        }
        drop(held);
        // None of them is polled again, and the client queued behind them still gets a turn.
        turn(&turns, client(3)).await;
    }
}
