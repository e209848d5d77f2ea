//! Turns of those who read for clients: how many threads they take, and how many may wait.
//!
//! Short reads of the disk block a thread each. On a disk that hangs they keep it, and builds need threads
//! as well. So each read for a client first takes a turn of its kind; builds take none. Further reads wait
//! in the order in which they came, each in a place; where no place is free, a read is refused at once. Only
//! answers that are under way wait without a place, because they cannot be refused any more: each holds
//! bytes of a [budget](crate::budget) instead. Clients of this host have some turns and places to
//! themselves.
//!
//! A turn belongs to the thread that reads and not to the client: it is given back when the thread is done,
//! whether or not the client is still there. Nor does a turn that has come wait for the client: an answer
//! whose client takes nothing is not polled, so the wait is a task of its own.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::task::AbortOnDropHandle;

use crate::budget::{Budget, Client, Held};

/// The threads of the daemon that may block.
pub const THREADS: usize = 512;

/// How many turns of a kind there are.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// For all clients.
    most: usize,
    /// For clients of this host alone, on top.
    local: usize,
    /// Clients that may wait for a turn.
    waiting: usize,
}

/// Clients that may wait, for most kinds. Each takes a connection: with all that wait for the larger
/// kinds, more than half of the connections are left.
const MAX_WAITING_CLIENTS: usize = 256;

/// Short reads of the disk: all that is not named below.
pub const READS: Bound = Bound {
    most: 128,
    local: 8,
    waiting: MAX_WAITING_CLIENTS,
};
/// The same for those who wait for a build, mostly of its log: readers cannot keep them out. None is
/// refused.
pub const BUILDERS: Bound = Bound {
    most: 32,
    local: 4,
    waiting: 0,
};
/// Walks through the index. One through a hundred thousand builds takes some milliseconds of a
/// processor: however many clients ask at once, builds and answers get theirs.
pub const WALKS: Bound = Bound {
    most: 4,
    local: 1,
    waiting: MAX_WAITING_CLIENTS,
};
/// Records: each may hold 16 MiB of params, as text and as values.
pub const RECORDS: Bound = Bound {
    most: 2,
    local: 1,
    waiting: MAX_WAITING_CLIENTS,
};
/// Directories of artifacts: one of a million names takes a processor for a second.
pub const DIRECTORIES: Bound = Bound {
    most: 2,
    local: 1,
    waiting: 64,
};
/// Logs that are looked through, for each of both questions: each takes a core while it lasts, and builds
/// want cores, too. Who waits has a log open.
pub const SCANS: Bound = Bound {
    most: 2,
    local: 1,
    waiting: 32,
};
/// Artifacts that are handed out: each takes a process of some milliseconds.
pub const HANDING_OUT: Bound = Bound {
    most: 4,
    local: 0,
    waiting: MAX_WAITING_CLIENTS,
};
/// Looks at the tokens file, which builders need as well: none is refused. One waits for the other in any
/// case.
pub const TOKENS: Bound = Bound {
    most: 2,
    local: 0,
    waiting: 0,
};

/// All kinds, as often as there are turns of them.
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

/// Half of the threads are left to builds, whatever readers do.
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
    /// Of those who have a turn or wait for one.
    places: Budget,
    turns: Arc<Semaphore>,
    local: Arc<Semaphore>,
}

impl Turns {
    /// So many turns.
    pub fn new(bound: Bound) -> Turns {
        Turns(Arc::new(Shared {
            places: Budget::new((bound.most + bound.waiting) as u64, reserve(bound)),
            turns: Arc::new(Semaphore::new(bound.most)),
            local: Arc::new(Semaphore::new(bound.local)),
        }))
    }

    /// The same, as `client` takes them.
    pub fn of(&self, client: Client) -> ClientTurns {
        ClientTurns {
            turns: self.clone(),
            client,
        }
    }
}

/// Places for clients of this host alone: as many of them may wait for their turns as others for theirs.
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
    /// Does `work` in a turn, on a thread that may block; `None`, at once, where no place is left to wait
    /// in. The work says when the turn ends: when it drops it.
    pub async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(Turn) -> T + Send + 'static,
    ) -> Option<Result<T, JoinError>> {
        let place = self.turns.0.places.hold(self.client, 1)?;
        Some(self.run(Some(place), work).await)
    }

    /// The same for an answer that is under way, however many wait.
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
    /// The next turn. There is always one, because the semaphores are never closed.
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

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    // Given back before the turn: then the next one who has the turn finds a free place behind it.
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

    /// A read that hangs until the sender is dropped.
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
        // Also again and again: it is given back.
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
        // All can be had once the thread is done.
        let all = turns
            .0
            .turns
            .acquire_many(SMALL_BOUND.most as u32)
            .await
            .unwrap();
        assert_eq!(turns.0.places.held(), 0);
        // A client that leaves while it waits gives the place back as well.
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
        // Who is of this host has places of their own.
        let _local = turn(&turns, Client::Local).await;
        let mut rest: Vec<_> = (0..SMALL_BOUND.waiting / 2)
            .map(|_| ask(&turns, Client::Local))
            .collect();
        for asking in &mut rest {
            assert!(poll!(asking).is_pending());
        }
        assert!(ask(&turns, Client::Local).await.is_none());
        // A client that leaves makes room, and the first in the row is next.
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
        // None of them is polled again, and the one behind them has a turn.
        turn(&turns, client(3)).await;
    }
}
