//! Follows a started container to its end, across failures of the Engine and restarts of the daemon.
//!
//! The build's log says how much of the output is known; each time following begins, the Engine sends all of
//! it, it is masked from the beginning, and the known part is skipped. An end that was watched is the build's
//! own, whatever its exit code, unless the Engine was going down by then: an Engine that stops kills its
//! containers. Then the attempt is lost and made again. An attempt is also lost if its container ended unwatched with an exit code that a
//! stopping Engine leaves, or while the Engine was away, unless the Engine that answers now remembers that it
//! started the container.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{BoxFuture, OptionFuture};
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::build_task::BuildTask;
use super::deadlines::Deadlines;
use super::engine::ENGINE_RETRY_INTERVAL;
use super::interruption::Interruption;
use super::output::MaskedOutput;
use super::stop;
use crate::docker::{self, ContainerEvent, ContainerStatus, Docker, Exit, Output, Watch};
use crate::faults;

/// Pieces of a container's output that are written to the log in one batch, if they are available.
const MAX_PIECES_AT_ONCE: usize = 64;

/// How long a container that is being stopped is followed: it has 10 s before it is killed, and a host with a
/// saturated disk takes some more. After that it is removed by force.
const STOPPING_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of a build's output that the Engine may store for each byte of its `log_limit`. This stops output of
/// lines of a few bytes, which need most storage, before it reaches the limit.
const MAX_STORED_PER_LOG_BYTE: u64 = 8;

/// Bytes that the Engine may store in addition: a log of a megabyte is complete whatever its lines are.
const STORED_ALLOWANCE_BYTES: u64 = 32 << 20;

/// Exit codes of containers that a stopping Engine has killed: by SIGKILL, by SIGTERM, and the code of one
/// whose end it did not see. A build may end with them as well, so the Engine is asked.
const ENGINE_KILL_CODES: [i64; 3] = [137, 143, 255];

/// An Engine that stops gives containers 10 s, then kills them, and exits itself within 15 s.
const ENGINE_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(16);

/// The result of the supervision of a container.
enum Supervision {
    Over(Result<Exit, Interruption>),
    /// The Engine did not answer in time; the limit that the build has passed meanwhile, if it is not
    /// stopped.
    TimedOut(Option<Duration>),
}

impl BuildTask {
    /// Follows a container to its end; its output goes into the log. `is_watched` says that this process has
    /// just started it.
    pub(super) async fn supervise(
        &mut self,
        container: &str,
        is_watched: bool,
    ) -> Result<Exit, Interruption> {
        let result = match self.supervise_in_time(container, is_watched).await {
            Supervision::Over(result) => result,
            Supervision::TimedOut(limit) => {
                // A step that did not end may still have the record.
                self.wait_for_worker().await?;
                if let Some(limit) = limit {
                    self.decide_stop(stop::timed_out(limit)).await?;
                }
                Err(Interruption::ContainerLost(
                    "the Docker Engine did not answer",
                ))
            }
        };
        match self.stopped() {
            None => result,
            Some(_) if self.shared.stop.is_cancelled() => Err(Interruption::Stopping),
            // The build ends as was decided, whatever happened to its container or the Engine.
            Some(stopped) => Err(Interruption::Stopped(stopped)),
        }
    }

    /// The same with a time limit, for an Engine that answers pings, but no request about the container.
    async fn supervise_in_time(&mut self, container: &str, is_watched: bool) -> Supervision {
        let decided = self.stop_decided.clone();
        let stopping = async {
            decided.wait().await;
            tokio::time::sleep(STOPPING_TIMEOUT).await;
        };
        let limit = self.limits().job_timeout;
        let limit = limit.map(Duration::from_millis);
        // An Engine that went away has a separate time limit to come back.
        let slack = self.shared.config.load().engine_wait + STOPPING_TIMEOUT;
        // It counts from the container's start, maybe in an earlier process.
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
            result = self.supervise_across_restarts(container, is_watched) => {
                Supervision::Over(result)
            }
            () = stopping => Supervision::TimedOut(None),
            () = running => Supervision::TimedOut(limit),
        }
    }

    async fn supervise_across_restarts(
        &mut self,
        container: &str,
        mut is_watched: bool,
    ) -> Result<Exit, Interruption> {
        let mut was_away = false;
        loop {
            let followed = match is_watched || self.is_stopped() {
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
                }) => return Err(Interruption::ContainerLost("its container was removed")),
                ended => return ended,
            };
            (is_watched, was_away) = (false, true);
            self.wait_for_engine(gone).await?;
        }
    }

    /// Finds out what happened to a container while it was not watched. If the Engine `was_away`, it may
    /// have ended the container while stopping, whatever the exit code: a build may end normally on SIGTERM.
    async fn reconcile(&mut self, container: &str, was_away: bool) -> Result<(), Interruption> {
        let docker = self.shared.docker.clone();
        let status = self.cancellable(docker.container_status(container)).await?;
        match status.map_err(container_failed)? {
            ContainerStatus::Gone => Err(Interruption::ContainerLost("its container is gone")),
            ContainerStatus::Ended(exit, _)
                if (is_engine_kill(&exit) || was_away) && !self.is_own_end(container).await? =>
            {
                Err(Interruption::ContainerLost("its container was taken down"))
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
                self.active.set_container(container.to_owned(), deadline);
                let started = self.cancellable(docker.start(container)).await?;
                // Of one that is unreachable, it is not known whether it has started it.
                if started.as_ref().is_err_and(|error| !error.is_unreachable()) {
                    self.pending()?.not_started();
                }
                started.map_err(container_failed)
            }
        }
    }

    /// Whether a container that ended unwatched did so by itself: the Engine that started it still runs, and
    /// is not stopping.
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
            // An Engine that does not confirm it may have killed the container.
            answer => Ok(answer.unwrap_or(false)),
        }
    }

    /// Whether the Engine is stopping, and so ended the container. Decided at once if it accepts new
    /// connections; otherwise this waits until it has stopped.
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
                    // Polled first: where systemd keeps the socket, the next Engine may answer, but not
                    // before this one has exited.
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

    /// Waits until the Engine answers again, for at most the configured time.
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

    /// Follows a container until it has ended, by itself or because the build is stopped.
    async fn stream_until_exit(&mut self, container: &str) -> Result<Exit, Interruption> {
        let docker = self.shared.docker.clone();
        self.stderr.clear();
        self.pending()?.log().forget_origins();
        let mut followed = FollowedContainer::new(&docker, container, Deadlines::of(self)?);
        if self.is_stopped() {
            followed.stop();
        }
        self.stream_output(&mut followed).await?;
        let mut exit = match followed.exit {
            Some(exit) => exit,
            None => {
                let exit = self.cancellable(&mut followed.ended).await?;
                exit.map_err(container_failed)?
            }
        };
        followed.note_last_events();
        exit.oom_killed |=
            followed.is_out_of_memory || self.was_oom_killed(container, &exit).await?;
        // It received a signal, which a stopping Engine sends; then its exit code means nothing, since a
        // build may end normally on SIGTERM.
        let may_be_killed = followed.is_signalled || ENGINE_KILL_CODES.contains(&exit.code);
        if may_be_killed && !self.is_stopped() {
            let gone = match followed.engine_gone {
                Some((source, _)) => Some(source),
                None => self.engine_goes_down(&mut followed.watch).await?,
            };
            if let Some(source) = gone {
                return Err(container_failed(source));
            }
        }
        // It may have ended before the deadline was checked.
        let deadlines = &followed.deadlines;
        if !self.is_stopped()
            && let Some(stopped) = self
                .cancellable(deadlines.was_exceeded(&docker, container))
                .await?
        {
            self.decide_stop(stopped).await?;
        }
        Ok(exit)
    }

    /// Follows the output of a container to its end, and stops the container when that is decided.
    async fn stream_output(
        &mut self,
        followed: &mut FollowedContainer<'_>,
    ) -> Result<(), Interruption> {
        let (shared, active) = (self.shared.clone(), self.active.clone());
        let (docker, container) = (followed.docker, followed.container);
        let deadlines = followed.deadlines.clone();
        let mut exceeded = pin!(deadlines.clone().exceeded(docker, container));
        // All of its output is read, from the beginning.
        let mut stored = 0;
        let pending = self.pending()?;
        let (known, at) = (pending.known(), pending.internal().log_offset);
        self.output = MaskedOutput::new(pending.masks(), known, at);
        let over = CancellationToken::new();
        let pieces = docker.logs(container, over.clone());
        let mut pieces = pin!(pieces.ready_chunks(MAX_PIECES_AT_ONCE));
        loop {
            // A build that has ended or is being stopped is not stopped again.
            let may_stop = !self.is_stopped() && followed.exit.is_none();
            let stop = tokio::select! {
                pieces = pieces.next() => {
                    let Some(pieces) = pieces else { return Ok(()) };
                    deadlines.note_output();
                    if let Some(processes) = &mut self.processes {
                        processes.read_count();
                    }
                    self.write_output(pieces, &mut stored, container).await?;
                    continue;
                }
                // The wait begins at once, so that the result is there when the output ends; if it fails, it
                // must be repeated while the container runs.
                exit = &mut followed.ended, if followed.exit.is_none() => {
                    followed.exit = Some(exit.map_err(container_failed)?);
                    over.cancel();
                    continue;
                }
                event = followed.watch.next(), if followed.engine_gone.is_none() => {
                    followed.note(event);
                    continue;
                }
                // The Engine does not stop: only the connection broke.
                () = engine_shutdown(&followed.engine_gone) => {
                    followed.engine_gone = None;
                    continue;
                }
                Some(stopped) = &mut followed.stopping => {
                    followed.stopping = None.into();
                    stopped.map_err(container_failed)?;
                    continue;
                }
                cancelled = active.cancelled(), if may_stop => stop::cancelled(cancelled),
                stopped = &mut exceeded, if may_stop => stopped.map_err(container_failed)?,
                () = shared.stop.cancelled() => return Err(Interruption::Stopping),
            };
            self.decide_stop(stop).await?;
            followed.stop();
        }
    }

    /// Whether a container that succeeded lost a process for want of memory without an event: asked only
    /// where the event was likely missed. A failed container was asked already.
    async fn was_oom_killed(&mut self, container: &str, exit: &Exit) -> Result<bool, Interruption> {
        if exit.code != 0 || exit.oom_killed || !self.may_run_out_of_memory {
            return Ok(false);
        }
        let docker = self.shared.docker.clone();
        let status = self.cancellable(docker.container_status(container)).await?;
        // If the Engine does not answer, the build counts as succeeded.
        Ok(matches!(status, Ok(ContainerStatus::Ended(exit, _)) if exit.oom_killed))
    }

    /// Writes output into the log, without the part that the log has already, and stops a build that prints
    /// too much or makes the Engine store too much.
    async fn write_output(
        &mut self,
        pieces: Vec<Result<Output, docker::Error>>,
        stored: &mut u64,
        container: &str,
    ) -> Result<(), Interruption> {
        let limit = self.limits().log_limit;
        let is_stopped = self.is_stopped();
        let (mut bytes, mut lost) = (Vec::new(), None);
        for piece in pieces {
            match piece {
                Ok(piece) => {
                    *stored = stored.saturating_add(piece.stored());
                    self.output.pass(&piece, &mut bytes, &mut self.stderr);
                }
                Err(error) => lost = Some(error),
            }
        }
        let has_fitted = self.append_output(&bytes).await?;
        faults::point("log");
        let stopped = match has_fitted {
            false => Some(stop::log_limit_exceeded(limit)),
            true if stores_too_much(*stored, limit) => Some(stop::line_limit_exceeded(limit)),
            true => None,
        };
        if let Some(stopped) = stopped.filter(|_| !is_stopped) {
            self.decide_stop(stopped.clone()).await?;
            // Killed at once: later output is not stored.
            let docker = self.shared.docker.clone();
            let killed = self.cancellable(docker.kill(container)).await?;
            killed.map_err(container_failed)?;
            return Err(Interruption::Stopped(stopped));
        }
        match lost {
            Some(source) => Err(Interruption::Container { source }),
            None => Ok(()),
        }
    }

    /// Writes what was held back of the output, which is over.
    pub(super) async fn finish_output(&mut self) -> Result<(), Interruption> {
        let mut rest = Vec::new();
        self.output.finish(&mut rest, &mut self.stderr);
        self.append_output(&rest).await.map(|_| ())
    }

    /// Appends masked output to the log, as far as its limit allows. Returns whether that is all of it.
    async fn append_output(&mut self, bytes: &[u8]) -> Result<bool, Interruption> {
        let limit = self.limits().log_limit;
        let stderr = self.output.take_stderr_ranges();
        let times = self.output.take_times();
        let id = self.active.id;
        let log = self.pending()?.log();
        let room = limit.saturating_sub(log.bytes());
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        log.append_timed(&bytes[..fits], times)
            .await
            .map_err(Interruption::Log)?;
        if let Some(error) = log.take_times_error() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(mistry_job = %id, error, "could not write the times of a log; its later lines have none");
        }
        // What does not fit is not in the log.
        let end = log.bytes();
        for range in stderr {
            log.mark_stderr(range.start..range.end.min(end));
        }
        Ok(fits == bytes.len())
    }
}

/// A container whose output is followed, and its state as far as it is known.
struct FollowedContainer<'a> {
    docker: &'a Docker,
    container: &'a str,
    deadlines: Deadlines,
    /// Stops the container; `ended` and the end of the output show that it has ended.
    stopping: OptionFuture<BoxFuture<'a, Result<(), docker::Error>>>,
    ended: BoxFuture<'a, Result<Exit, docker::Error>>,
    watch: Watch,
    exit: Option<Exit>,
    /// It received a signal.
    is_signalled: bool,
    /// It ran out of memory.
    is_out_of_memory: bool,
    /// Why the Engine was gone, and since when.
    engine_gone: Option<(docker::Error, Instant)>,
}

impl<'a> FollowedContainer<'a> {
    fn new(docker: &'a Docker, container: &'a str, deadlines: Deadlines) -> FollowedContainer<'a> {
        FollowedContainer {
            docker,
            container,
            deadlines,
            stopping: None.into(),
            ended: docker.wait(container).boxed(),
            // The watch begins first: at the end, the next Engine may answer already.
            watch: docker.watch(container),
            exit: None,
            is_signalled: false,
            is_out_of_memory: false,
            engine_gone: None,
        }
    }

    fn stop(&mut self) {
        self.stopping = Some(self.docker.stop(self.container).boxed()).into();
    }

    fn note(&mut self, event: Result<ContainerEvent, docker::Error>) {
        match event {
            Ok(ContainerEvent::Signal) => self.is_signalled = true,
            Ok(ContainerEvent::OutOfMemory) => self.is_out_of_memory = true,
            Err(source) => self.engine_gone = Some((source, Instant::now())),
        }
    }

    /// The last event may have come with the end of the output.
    fn note_last_events(&mut self) {
        while self.engine_gone.is_none()
            && let Some(Ok(event)) = self.watch.next().now_or_never()
        {
            self.note(Ok(event));
        }
    }
}

/// Waits as long as a stopping Engine may still end containers; for ever if no Engine stops.
async fn engine_shutdown(gone: &Option<(docker::Error, Instant)>) {
    match gone {
        Some((_, at)) => tokio::time::sleep_until(*at + ENGINE_SHUTDOWN_TIMEOUT).await,
        None => std::future::pending().await,
    }
}

fn container_failed(source: docker::Error) -> Interruption {
    Interruption::Container { source }
}

/// Whether the Engine stores more of a build's output than its log limit allows.
fn stores_too_much(stored: u64, limit: u64) -> bool {
    let most = limit.saturating_mul(MAX_STORED_PER_LOG_BYTE);
    stored > most.saturating_add(STORED_ALLOWANCE_BYTES)
}

fn is_engine_kill(exit: &Exit) -> bool {
    ENGINE_KILL_CODES.contains(&exit.code) && !exit.oom_killed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::Stream;

    /// The bytes stored for a log as long as its limit, of lines of this many bytes.
    fn stored(limit: u64, line: u64) -> u64 {
        let output = Output {
            stream: Stream::Stdout,
            bytes: vec![b'x'; line as usize].into(),
            at: None,
        };
        limit / line * output.stored()
    }

    #[test]
    fn only_a_long_log_of_very_short_lines_exceeds_the_limit_of_the_engine() {
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
