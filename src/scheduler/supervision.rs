//! A started container, followed to its end, whatever happens to the Engine or to the process of the
//! daemon that started it.
//!
//! The log says how much of the output is known; each time that following begins, the Engine is
//! asked for all of it and as much is passed over. An end that was watched is the build's own,
//! whatever its exit code, unless the Engine says by then that it is going down: an Engine kills its
//! containers on its way. The attempt is lost then, and made again. So is one that ended unwatched
//! with an exit code that an Engine which goes down leaves, or while the Engine was away, unless the
//! Engine that is there remembers that it started it.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::OptionFuture;
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::build_task::BuildTask;
use super::interruption::Interruption;
use super::{ENGINE_RETRY_INTERVAL, keep_tail, stop};
use crate::build::{Since, Stopped};
use crate::docker::{self, ContainerEvent, ContainerStatus, Docker, Exit, Output, Stream, Watch};
use crate::faults;

/// Pieces of a container's output that are written to the log at once, when they are there.
const PIECES_AT_ONCE: usize = 64;

/// How long a container that is told to end is followed: it has 10 s before it is killed, and a host whose
/// disk is saturated takes some more. After that it is removed by force.
const STOPPING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the Engine may take to say whether a container had ended at its deadline. Without an answer the
/// container counts as running.
const CONTAINER_STATUS_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that the Engine may store of a build's output for each byte of its `log_limit`. Lines of a few
/// bytes, which need most, are stopped by it before they are as many as the limit.
const STORED_PER_BYTE: u64 = 8;

/// What the Engine may store beside that: logs of a megabyte are whole whatever their lines are.
const STORED_ANYWAY: u64 = 32 << 20;

/// Exit codes of containers that an Engine has taken down with it: by SIGKILL, by SIGTERM, and that
/// of one whose end it did not see. A build may end with them as well, so the Engine is asked.
const ENGINE_KILL_CODES: [i64; 3] = [137, 143, 255];

/// An Engine that goes down gives containers 10 s, then kills them, and ends itself within 15 s.
const ENGINE_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(16);

impl BuildTask {
    /// Follows a container to its end; its output goes into the log. `is_watched` says that it was
    /// started by this process just now.
    pub(super) async fn supervise(
        &mut self,
        container: &str,
        is_watched: bool,
    ) -> Result<Exit, Interruption> {
        let supervised = match self.supervise_in_time(container, is_watched).await {
            Ok(supervised) => supervised,
            Err(limit) => {
                // A step that did not end may have had the record.
                self.wait_for_worker().await?;
                if let Some(limit) = limit {
                    self.decide_stop(stop::timed_out(limit)).await?;
                }
                Err(Interruption::AttemptLost(
                    "the Docker Engine did not answer",
                ))
            }
        };
        match self.stopped()? {
            None => supervised,
            Some(_) if self.shared.stop.is_cancelled() => Err(Interruption::Stopping),
            // It ends as was decided, whatever became of its container or the Engine.
            Some(stopped) => Err(Interruption::Stopped(stopped)),
        }
    }

    /// The same, with a time limit: for an Engine that answers pings, but no request about the container.
    /// The error says which limit the build has passed meanwhile, if it is not stopped.
    async fn supervise_in_time(
        &mut self,
        container: &str,
        is_watched: bool,
    ) -> Result<Result<Exit, Interruption>, Option<Duration>> {
        let decided = self.stop_decided.clone();
        let stopping = async {
            decided.wait().await;
            tokio::time::sleep(STOPPING_TIMEOUT).await;
        };
        let limit = self.bounds().ok().and_then(|bounds| bounds.job_timeout);
        let limit = limit.map(Duration::from_millis);
        // An Engine that went away has its own time to come back.
        let slack = self.shared.config.load().engine_wait + STOPPING_TIMEOUT;
        // From its beginning, which may have been in an earlier process.
        let since = self.pending().ok().and_then(|pending| pending.running());
        let ran = since.map_or(Duration::ZERO, |since| since.elapsed());
        let running = async {
            match limit {
                Some(limit) => {
                    let left = limit.saturating_sub(ran);
                    tokio::time::sleep(left.saturating_add(slack)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            supervised = self.supervise_across_restarts(container, is_watched) => Ok(supervised),
            () = stopping => Err(None),
            () = running => Err(limit),
        }
    }

    async fn supervise_across_restarts(
        &mut self,
        container: &str,
        mut is_watched: bool,
    ) -> Result<Exit, Interruption> {
        let mut was_away = false;
        loop {
            let followed = match is_watched || self.is_stopped()? {
                true => self.stream_until_exit(container).await,
                false => match self.reconcile(container, was_away).await {
                    Ok(()) => self.stream_until_exit(container).await,
                    Err(interruption) => Err(interruption),
                },
            };
            let gone = match followed {
                Err(Interruption::Container { source }) if source.is_unreachable() => source,
                Err(Interruption::Container {
                    source: docker::Error::NoSuchContainer(_),
                }) => return Err(Interruption::AttemptLost("its container was removed")),
                ended => return ended,
            };
            (is_watched, was_away) = (false, true);
            self.wait_for_engine(gone).await?;
        }
    }

    /// What became of a container while it was not watched. Where it `was_away`, the Engine that we saw go
    /// may have ended it, whatever its exit code: a build may take SIGTERM for a good reason to end.
    async fn reconcile(&mut self, container: &str, was_away: bool) -> Result<(), Interruption> {
        let docker = self.shared.docker.clone();
        let failed = |source| Interruption::Container { source };
        let status = self.cancellable(docker.container_status(container)).await?;
        match status.map_err(failed)? {
            ContainerStatus::Gone => Err(Interruption::AttemptLost("its container is gone")),
            ContainerStatus::Ended(exit, _)
                if (is_engine_kill(&exit) || was_away) && !self.is_own_end(container).await? =>
            {
                Err(Interruption::AttemptLost("its container was taken down"))
            }
            ContainerStatus::Ended(_, at) => {
                self.found_ended = at;
                Ok(())
            }
            ContainerStatus::Running => Ok(()),
            ContainerStatus::Created => {
                self.on_disk(|pending| {
                    pending.start_clock();
                    Ok(pending.save()?)
                })
                .await?;
                let deadline = self.pending()?.internal().deadline;
                self.active.own(Some(container.to_owned()), deadline);
                let started = self.cancellable(docker.start(container)).await?;
                started.map_err(failed)
            }
        }
    }

    /// Whether a container that ended unwatched did so by itself: the Engine that started it is there,
    /// and stays.
    async fn is_own_end(&mut self, container: &str) -> Result<bool, Interruption> {
        let docker = self.shared.docker.clone();
        let asking = async {
            match docker.has_started(container).await {
                Ok(true) => docker.accepts().await.map(|()| true),
                other => other,
            }
        };
        match self.cancellable(asking).await? {
            Err(source) if source.is_unreachable() => Err(Interruption::Container { source }),
            // An Engine that does not say so may have taken it down.
            answer => Ok(answer.unwrap_or(false)),
        }
    }

    /// Whether the Engine is going down, which ended the container on its way. Decided at once where it
    /// takes new connections. Else this takes as long as it takes to go.
    async fn engine_goes_down(
        &mut self,
        watch: &mut Watch,
    ) -> Result<Option<docker::Error>, Interruption> {
        let docker = self.shared.docker.clone();
        let asking = async {
            let gone = async {
                loop {
                    if let Err(source) = watch.next().await {
                        return source;
                    }
                }
            };
            let mut gone = pin!(gone);
            let until = Instant::now() + ENGINE_SHUTDOWN_TIMEOUT;
            loop {
                let refused = tokio::select! {
                    // First: where systemd keeps the socket, the next Engine may answer, but not
                    // before this one has gone.
                    biased;
                    source = &mut gone => return Some(source),
                    answer = docker.accepts() => match answer {
                        Err(error) if error.is_unreachable() => error,
                        _ => return None,
                    }
                };
                if Instant::now() >= until {
                    return Some(refused);
                }
                tokio::select! {
                    source = &mut gone => return Some(source),
                    () = tokio::time::sleep(ENGINE_RETRY_INTERVAL) => {}
                }
            }
        };
        self.cancellable(asking).await
    }

    /// Waits until the Engine answers again, as long as the configuration says.
    pub(super) async fn wait_for_engine(
        &mut self,
        source: docker::Error,
    ) -> Result<(), Interruption> {
        let shared = self.shared.clone();
        let timeout = shared.config.load().engine_wait;
        let back = async {
            loop {
                // An Engine that comes back sends no event.
                tokio::time::sleep(ENGINE_RETRY_INTERVAL).await;
                if shared.engine_there().await.is_ok() {
                    return;
                }
            }
        };
        let back = tokio::time::timeout(timeout, back);
        match self.cancellable(back).await? {
            Ok(()) => Ok(()),
            Err(_) => Err(Interruption::EngineAway { timeout, source }),
        }
    }

    /// Follows a container until it has ended, by itself or because we stop it.
    async fn stream_until_exit(&mut self, container: &str) -> Result<Exit, Interruption> {
        let (shared, active) = (self.shared.clone(), self.active.clone());
        let mut known = self.pending()?.known();
        // Of all its output, which is read from the beginning.
        let mut stored = 0;
        self.stderr.clear();
        let deadlines = Deadlines::of(self)?;
        let mut exceeded = pin!(deadlines.clone().exceeded(&shared.docker, container));
        // Its end is waited for by the log; this only brings it about.
        let mut stopping = pin!(OptionFuture::from(None));
        if self.is_stopped()? {
            stopping.set(Some(shared.docker.stop(container)).into());
        }
        let mut ended = pin!(shared.docker.wait(container));
        let mut exit = None;
        // From the beginning: who is asked at the end may be the next Engine already.
        let mut watch = shared.docker.watch(container);
        let (mut is_told, mut is_short_of_memory) = (false, false);
        let mut gone = None::<(docker::Error, Instant)>;
        {
            let over = CancellationToken::new();
            let pieces = shared.docker.logs(container, over.clone());
            let pieces = pieces.ready_chunks(PIECES_AT_ONCE);
            let mut pieces = pin!(pieces);
            loop {
                let is_stopped = self.is_stopped()?;
                // Where the Engine has gone, it goes on ending containers for so long.
                let gone_at = gone.as_ref().map_or_else(Instant::now, |(_, at)| *at);
                let stop = tokio::select! {
                    pieces = pieces.next() => match pieces {
                        Some(pieces) => {
                            deadlines.note_output();
                            if let Some(processes) = &mut self.processes {
                                processes.look();
                            }
                            self.write_output(pieces, &mut known, &mut stored, container).await?;
                            continue;
                        }
                        None => break,
                    },
                    // SubmitRequest for at once, so that the answer is there when the output ends; one that
                    // is not to come must be asked for again while the container runs.
                    result = &mut ended, if exit.is_none() => {
                        exit = Some(result.map_err(|source| Interruption::Container { source })?);
                        over.cancel();
                        continue;
                    }
                    happening = watch.next(), if gone.is_none() => {
                        match happening {
                            Ok(ContainerEvent::Signal) => is_told = true,
                            Ok(ContainerEvent::OutOfMemory) => is_short_of_memory = true,
                            Err(source) => gone = Some((source, Instant::now())),
                        }
                        continue;
                    }
                    // After that, whatever broke was not the Engine.
                    () = tokio::time::sleep_until(gone_at + ENGINE_SHUTDOWN_TIMEOUT), if gone.is_some() => {
                        gone = None;
                        continue;
                    }
                    Some(stopped) = &mut stopping => {
                        stopping.set(None.into());
                        stopped.map_err(|source| Interruption::Container { source })?;
                        continue;
                    }
                    // Nothing more is decided about what has ended or is being stopped.
                    cancelled = active.cancelled(), if !is_stopped && exit.is_none() => {
                        stop::cancelled(cancelled)
                    }
                    stopped = &mut exceeded, if !is_stopped && exit.is_none() => {
                        stopped.map_err(|source| Interruption::Container { source })?
                    }
                    () = shared.stop.cancelled() => return Err(Interruption::Stopping),
                };
                self.decide_stop(stop).await?;
                stopping.set(Some(shared.docker.stop(container)).into());
            }
        }
        let mut exit = match exit {
            Some(exit) => exit,
            None => {
                let exit = self.cancellable(ended).await?;
                exit.map_err(|source| Interruption::Container { source })?
            }
        };
        // What happened last may have come with the end of the output.
        while gone.is_none() {
            match watch.next().now_or_never() {
                Some(Ok(ContainerEvent::Signal)) => is_told = true,
                Some(Ok(ContainerEvent::OutOfMemory)) => is_short_of_memory = true,
                Some(Err(_)) | None => break,
            }
        }
        exit.oom_killed |= is_short_of_memory || self.was_short_of_memory(container, &exit).await?;
        // It was told to end, which an Engine does on its way; then its exit code means nothing, since
        // a build may take SIGTERM for a good reason to end.
        if (is_told || ENGINE_KILL_CODES.contains(&exit.code)) && !self.is_stopped()? {
            let gone = match gone {
                Some((source, _)) => Some(source),
                None => self.engine_goes_down(&mut watch).await?,
            };
            if let Some(source) = gone {
                return Err(Interruption::Container { source });
            }
        }
        // It may have been over before anybody looked at the time.
        if !self.is_stopped()?
            && let Some(stopped) = self
                .cancellable(deadlines.was_exceeded(&shared.docker, container))
                .await?
        {
            self.decide_stop(stopped).await?;
        }
        Ok(exit)
    }

    /// Whether a container that succeeded lost a process for want of memory, where no event said so:
    /// asked only where that is likely to be missed. A failure was asked for it by now.
    async fn was_short_of_memory(
        &mut self,
        container: &str,
        exit: &Exit,
    ) -> Result<bool, Interruption> {
        if exit.code != 0 || exit.oom_killed || !self.may_run_out_of_memory {
            return Ok(false);
        }
        let docker = self.shared.docker.clone();
        let status = self.cancellable(docker.container_status(container)).await?;
        // An Engine that does not say leaves it at that: the build succeeded.
        Ok(matches!(status, Ok(ContainerStatus::Ended(exit, _)) if exit.oom_killed))
    }

    /// Writes output into the log but for what it has already, and stops a build that prints too
    /// much, or has the Engine store too much of it.
    async fn write_output(
        &mut self,
        pieces: Vec<Result<Output, docker::Error>>,
        known: &mut u64,
        stored: &mut u64,
        container: &str,
    ) -> Result<(), Interruption> {
        let limit = self.bounds()?.log_limit;
        let is_stopped = self.is_stopped()?;
        let mut bytes = Vec::new();
        let mut lost = None;
        for piece in pieces {
            match piece {
                Ok(piece) => {
                    if piece.stream == Stream::Stderr {
                        keep_tail(&mut self.stderr, &piece.bytes);
                    }
                    let length = piece.bytes.len() as u64;
                    *stored = stored.saturating_add(piece.stored());
                    // No more than the length of the piece, which is in memory.
                    let exceeded = (*known).min(length);
                    *known -= exceeded;
                    bytes.extend_from_slice(&piece.bytes[exceeded as usize..]);
                }
                Err(error) => lost = Some(error),
            }
        }
        let log = self.pending()?.log();
        let room = limit.saturating_sub(log.bytes());
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        log.append(&bytes[..fits])
            .await
            .map_err(Interruption::Log)?;
        faults::point("log");
        let stopped = match fits < bytes.len() {
            true => Some(stop::too_loud(limit)),
            false if stores_too_much(*stored, limit) => Some(stop::too_many_lines(limit)),
            false => None,
        };
        if let Some(stopped) = stopped.filter(|_| !is_stopped) {
            self.decide_stop(stopped.clone()).await?;
            // At once: what it prints from now on is not kept.
            let docker = self.shared.docker.clone();
            let killed = self.cancellable(docker.kill(container)).await?;
            killed.map_err(|source| Interruption::Container { source })?;
            return Err(Interruption::Stopped(stopped));
        }
        match lost {
            Some(source) => Err(Interruption::Container { source }),
            None => Ok(()),
        }
    }
}

/// Whether the Engine stores more of a build's output than the limit of its log allows.
fn stores_too_much(stored: u64, limit: u64) -> bool {
    let most = limit.saturating_mul(STORED_PER_BYTE);
    stored > most.saturating_add(STORED_ANYWAY)
}

/// How long a container may go on, and be silent. Both are counted by a clock that is never set.
#[derive(Clone)]
struct Deadlines {
    /// Since when it runs.
    running: Since,
    /// How long it may run.
    deadline: Option<Duration>,
    /// How long it may print nothing.
    silence: Option<Duration>,
    /// When a piece of its output came last, as far as we were there.
    last_output: Arc<Mutex<Option<Since>>>,
}

impl Deadlines {
    fn of(task: &mut BuildTask) -> Result<Deadlines, Interruption> {
        let bounds = task.bounds()?;
        let running = task.pending()?.running();
        Ok(Deadlines {
            running: running.unwrap_or_else(Since::now),
            deadline: bounds.job_timeout.map(Duration::from_millis),
            silence: bounds.silence_timeout.map(Duration::from_millis),
            last_output: Arc::default(),
        })
    }

    /// Notes that output has come.
    fn note_output(&self) {
        let mut last_output = self
            .last_output
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last_output = Some(Since::now());
    }

    fn last_output(&self) -> Option<Since> {
        *self
            .last_output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a limit is passed: what is to be done about it. Each is waited for by itself, so that an
    /// Engine that does not say when something was printed does not hold the deadline back.
    async fn exceeded(self, docker: &Docker, container: &str) -> Result<Stopped, docker::Error> {
        tokio::select! {
            exceeded = self.clone().deadline_exceeded(docker, container) => exceeded,
            exceeded = self.silence_exceeded(docker, container) => exceeded,
        }
    }

    async fn deadline_exceeded(
        self,
        docker: &Docker,
        container: &str,
    ) -> Result<Stopped, docker::Error> {
        wait_until_elapsed(self.running, self.deadline).await;
        match self.check_deadline(docker, container).await? {
            Some(stopped) => Ok(stopped),
            // It had ended before.
            None => std::future::pending().await,
        }
    }

    async fn silence_exceeded(
        self,
        docker: &Docker,
        container: &str,
    ) -> Result<Stopped, docker::Error> {
        // Since when it is silent, as far as was looked, and the last line that was seen then.
        let (mut silent, mut seen) = (self.running, None);
        loop {
            wait_until_elapsed(silent, self.silence).await;
            // The log's own times count: it may be read long after it was printed. So it is
            // asked once in so long a time, and not with each line.
            let last = docker.last_line(container).await?;
            if let Some(last) = last.filter(|last| Some(*last) != seen) {
                seen = Some(last);
                silent = match self.running.until(last) {
                    Some(ran) => self.running.later(ran),
                    // The clock by which that was told was set meanwhile.
                    None => self.last_output().unwrap_or_else(Since::now),
                };
            }
            if let Some(limit) = self.silence.filter(|limit| silent.elapsed() >= *limit) {
                return Ok(stop::silent(limit));
            }
        }
    }

    /// What there is to say about a container that has ended.
    async fn was_exceeded(&self, docker: &Docker, container: &str) -> Option<Stopped> {
        if self.running.elapsed() < self.deadline? {
            return None;
        }
        // An Engine that does not say when it ended leaves it at that: it was watched.
        self.check_deadline(docker, container).await.ok().flatten()
    }

    /// The deadline is there. A container that ended before stands, and one that may have.
    async fn check_deadline(
        &self,
        docker: &Docker,
        container: &str,
    ) -> Result<Option<Stopped>, docker::Error> {
        let Some(limit) = self.deadline else {
            return Ok(None);
        };
        let is_late = match tokio::time::timeout(
            CONTAINER_STATUS_TIMEOUT,
            docker.container_status(container),
        )
        .await
        {
            Ok(status) => match status? {
                ContainerStatus::Ended(_, at) => at
                    .and_then(|at| self.running.until(at))
                    .is_some_and(|ran| ran > limit),
                _ => true,
            },
            Err(_) => true,
        };
        Ok(is_late.then(|| stop::timed_out(limit)))
    }
}

/// Waits until something has gone on for so long; for ever without a limit.
async fn wait_until_elapsed(since: Since, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    loop {
        let left = limit.saturating_sub(since.elapsed());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

fn is_engine_kill(exit: &Exit) -> bool {
    ENGINE_KILL_CODES.contains(&exit.code) && !exit.oom_killed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is stored for a log that is as long as its limit, of lines of so many bytes.
    fn stored(limit: u64, line: u64) -> u64 {
        let output = Output {
            stream: Stream::Stdout,
            bytes: vec![b'x'; line as usize].into(),
        };
        limit / line * output.stored()
    }

    #[test]
    fn only_a_long_log_of_very_short_lines_is_too_much_for_the_engine() {
        for (limit, line, is_too_much) in [
            (1 << 20, 1, false),
            (256 << 20, 1, true),
            (256 << 20, 2, true),
            (256 << 20, 10, false),
            (64 << 30, 10, false),
        ] {
            let stored = stored(limit, line);
            assert_eq!(
                stores_too_much(stored, limit),
                is_too_much,
                "{limit} {line}"
            );
        }
        assert!(!stores_too_much(u64::MAX, u64::MAX));
    }
}
