//! A started container, followed to its end, whatever happens to the Engine or to the life of the
//! daemon that started it.
//!
//! The log says how much of the output is known; each time that following begins, the Engine is
//! asked for all of it and as much is passed over. An end that somebody watched is the build's
//! own. One that nobody watched may have been the Engine's, which kills containers when it goes
//! down: then the attempt is lost, and made again. So is one that ended by a
//! signal just before the Engine went.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;

use super::pipeline::{Halt, Making, unless_stopping};
use super::{ENGINE_AGAIN, keep_tail};
use crate::docker::{self, Exit, Fate, Output, Stream};

/// Pieces of a container's output that are written to the log at once, when they are there.
const PIECES_AT_ONCE: usize = 64;

/// Exit codes of containers that an Engine has taken down with it: by SIGKILL, by SIGTERM, and that
/// of one whose end it did not see.
const TAKEN_DOWN: [i64; 3] = [137, 143, 255];

/// An Engine that goes down gives containers 10 s, then kills them, and ends itself within 15 s.
const GOING_DOWN: Duration = Duration::from_secs(16);

impl Making {
    /// Follows a container to its end; its output goes into the log. `is_watched` says that it was
    /// started by this life just now.
    pub(super) async fn attend(
        &mut self,
        container: &str,
        mut is_watched: bool,
    ) -> Result<Exit, Halt> {
        let mut was_away = false;
        loop {
            let followed = match is_watched {
                true => self.follow(container).await,
                false => match self.look(container, was_away).await {
                    Ok(()) => self.follow(container).await,
                    Err(halt) => Err(halt),
                },
            };
            let gone = match followed {
                // The API of an Engine that goes down outlives its containers.
                Ok(exit) if is_taken_down(&exit) => match self.engine_gone().await? {
                    Some(source) => source,
                    None => return Ok(exit),
                },
                Err(Halt::Container { source }) if source.is_unreachable() => source,
                Err(Halt::Container {
                    source: docker::Error::NoSuchContainer(_),
                }) => return Err(Halt::Attempt("its container was removed")),
                ended => return ended,
            };
            (is_watched, was_away) = (false, true);
            self.engine_back(gone).await?;
        }
    }

    /// What became of a container while nobody watched. Where it `was_away`, the Engine that we saw go
    /// may have ended it, whatever its exit code: a build may take SIGTERM for a good reason to end.
    async fn look(&mut self, container: &str, was_away: bool) -> Result<(), Halt> {
        let shared = self.shared.clone();
        let failed = |source| Halt::Container { source };
        let fate = unless_stopping(&shared, shared.docker.fate(container)).await?;
        match fate.map_err(failed)? {
            Fate::Gone => Err(Halt::Attempt("its container is gone")),
            Fate::Ended(exit) if is_taken_down(&exit) || was_away => {
                Err(Halt::Attempt("its container was taken down"))
            }
            Fate::Ended(_) | Fate::Running => Ok(()),
            Fate::Created => {
                let started = unless_stopping(&shared, shared.docker.start(container)).await?;
                started.map_err(failed)
            }
        }
    }

    /// Why the Engine is gone, if it went down with the container that has just ended. That takes as
    /// long as an Engine takes to go: a build that really ended by such a signal is told of it later.
    async fn engine_gone(&mut self) -> Result<Option<docker::Error>, Halt> {
        let shared = self.shared.clone();
        unless_stopping(&shared, shared.docker.goes_away(GOING_DOWN)).await
    }

    /// Waits until the Engine answers again, as long as the configuration says.
    pub(super) async fn engine_back(&mut self, source: docker::Error) -> Result<(), Halt> {
        let shared = self.shared.clone();
        let patience = shared.rules.load().engine_wait;
        let back = async {
            loop {
                // An Engine that comes back tells nobody.
                tokio::time::sleep(ENGINE_AGAIN).await;
                if shared.engine_there().await.is_ok() {
                    return;
                }
            }
        };
        let back = tokio::time::timeout(patience, back);
        match unless_stopping(&shared, back).await? {
            Ok(()) => Ok(()),
            Err(_) => Err(Halt::EngineAway { patience, source }),
        }
    }

    async fn follow(&mut self, container: &str) -> Result<Exit, Halt> {
        let shared = self.shared.clone();
        let mut known = self.pending()?.known();
        self.stderr.clear();
        let mut ended = pin!(shared.docker.wait(container));
        let mut exit = None;
        {
            let pieces = shared.docker.logs(container).ready_chunks(PIECES_AT_ONCE);
            let mut pieces = pin!(pieces);
            loop {
                tokio::select! {
                    pieces = pieces.next() => match pieces {
                        Some(pieces) => self.keep(pieces, &mut known, container).await?,
                        None => break,
                    },
                    // Asked for at once, so that the answer is there when the output ends.
                    result = &mut ended, if exit.is_none() => exit = Some(result),
                    () = shared.stop.cancelled() => return Err(Halt::Stopping),
                }
            }
        }
        let exit = match exit {
            Some(exit) => exit,
            None => unless_stopping(&shared, ended).await?,
        };
        exit.map_err(|source| Halt::Container { source })
    }

    /// Writes output into the log but for what it has already, and stops a build that prints too
    /// much.
    async fn keep(
        &mut self,
        pieces: Vec<Result<Output, docker::Error>>,
        known: &mut u64,
        container: &str,
    ) -> Result<(), Halt> {
        let limit = self.log_limit;
        let mut bytes = Vec::new();
        let mut lost = None;
        for piece in pieces {
            match piece {
                Ok(piece) => {
                    if piece.stream == Stream::Stderr {
                        keep_tail(&mut self.stderr, &piece.bytes);
                    }
                    let length = piece.bytes.len() as u64;
                    // No more than the length of the piece, which is in memory.
                    let passed = (*known).min(length);
                    *known -= passed;
                    bytes.extend_from_slice(&piece.bytes[passed as usize..]);
                }
                Err(error) => lost = Some(error),
            }
        }
        let log = self.pending()?.log();
        let room = limit.saturating_sub(log.bytes());
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        log.append(&bytes[..fits]).await.map_err(Halt::Log)?;
        if fits < bytes.len() {
            self.shared
                .docker
                .kill(container)
                .await
                .map_err(|source| Halt::Container { source })?;
            return Err(Halt::LogLimit(limit));
        }
        match lost {
            Some(source) => Err(Halt::Container { source }),
            None => Ok(()),
        }
    }
}

fn is_taken_down(exit: &Exit) -> bool {
    TAKEN_DOWN.contains(&exit.code) && !exit.oom_killed
}
