//! How a build is made: it is recorded and prepared, its image is found, its container runs, its result is
//! put in place. The steps are in the order in which they run.
//!
//! Each build has one task, from acceptance to the end. When the daemon stops, the task leaves the record in
//! `pending` and the container running, for the next process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::active_job::ActiveJob;
use super::blocking::blocking;
use super::build_task::{BuildTask, StageDeadline};
use super::config::SchedulerConfig;
use super::container::{SLICE, settings_of, user};
use super::ending::{
    ContainerRemoval, container_end, end_after_panic, end_interrupted, remove_container,
};
use super::error::Error;
use super::event::{Event, publish};
use super::images::{ImageCache, Images};
use super::interruption::{Interruption, MAX_LOST_CONTAINERS};
use super::output::{log_image_build, masked_note};
use super::recipe::Recipe;
use super::shared::Shared;
use super::sweep::ensure_swept;
use super::{ending, stop};
use crate::build::{BaseUse, BuildLimits, ImageRecord, PendingBuild, Requested};
use crate::docker::{self, ProcessWatch};
use crate::faults;
use crate::job::Phase;
use crate::project::{self, Settings};

/// Records an admitted job and builds it; the owners of handles are notified of both.
pub(super) async fn accept_and_run(
    shared: Arc<Shared>,
    active: Arc<ActiveJob>,
    recipe: Arc<Recipe>,
) {
    match accept(&shared, &active, &recipe).await {
        Ok(Some(pending)) => {
            let start = StartPoint::Beginning(recipe);
            run_build(shared, active, pending, start).await;
        }
        // Another request's build became ready between the lookup and the admission.
        Ok(None) => shared.leave_queue(&active),
        Err(error) => {
            if let Error::Store(_)
            | Error::Lost
            | Error::Project(project::Error::Read(..) | project::Error::List(_)) = error
            {
                tracing::error!(mistry_job = %active.id, error = &error as &dyn std::error::Error, "could not accept a job");
            }
            shared.leave_queue(&active);
            active.end_rejected(error);
        }
    }
}

async fn accept(
    shared: &Arc<Shared>,
    active: &Arc<ActiveJob>,
    recipe: &Arc<Recipe>,
) -> Result<Option<PendingBuild>, Error> {
    // Without an Engine nothing is recorded: the client gets the error at once.
    tokio::select! {
        there = shared.engine_there() => there?,
        () = shared.stop.cancelled() => return Err(Error::Ending),
    }
    let (shared_there, active_there) = (shared.clone(), active.clone());
    let recipe = recipe.clone();
    let accepted = blocking(move || {
        let (shared, active) = (shared_there, active_there);
        if !active.origin.ignores_cache()
            && let Some(answer) = shared.store.cached(&recipe.job.project, active.id)?
        {
            active.end_built(answer);
            return Ok(None);
        }
        if shared.stop.is_cancelled() {
            return Err(Error::Ending);
        }
        // Invalid settings of a project are refused before anything is recorded.
        settings_of(&recipe, &shared.config.load())?;
        let origin = &active.origin;
        let requested = Requested {
            rebuild: origin.rebuild,
            cold: origin.cold,
            asker: origin.asker.clone(),
        };
        let Recipe {
            job, id, context, ..
        } = &*recipe;
        let pending = shared.store.accept(job, *id, context, requested)?;
        faults::point("accepted");
        Ok(Some(pending))
    });
    let pending: Result<Option<PendingBuild>, Error> = accepted.await?;
    let mut pending = pending?;
    if let Some(pending) = &mut pending {
        publish(shared, active.subject(), &Event::Accepted);
        // This comes first: a client that sees the job accepted may follow its log.
        active.publish_log(pending.log().progress());
        active.publish_state(pending.info());
        shared
            .broadcast
            .job_begun(active.observer(shared.stop.clone()));
    }
    Ok(pending)
}

/// The point where a build starts.
pub(super) enum StartPoint {
    /// From the beginning.
    Beginning(Arc<Recipe>),
    /// With a container that an earlier process made. The recipe is still being looked up; it is `None` if
    /// the project has changed since.
    Container(String, JoinHandle<Option<Arc<Recipe>>>),
}

/// A container that was started.
struct Started {
    container: String,
    /// This process saw the start.
    is_watched: bool,
}

/// Waits for the slot, runs the build and ends it.
pub(super) async fn run_build(
    shared: Arc<Shared>,
    active: Arc<ActiveJob>,
    pending: PendingBuild,
    start: StartPoint,
) {
    active.publish_state(pending.info());
    let mut task = BuildTask::new(shared.clone(), active.clone(), pending);
    let made = match task.wait_for_slot(&start).await {
        // The state of a running build is allocated when it has its slot: most active jobs wait.
        Ok(()) => Box::pin(task.run_with_retries(start)).await,
        Err(interruption) => Err(interruption),
    };
    let stderr = std::mem::take(&mut task.stderr);
    let Some(pending) = task.into_pending().await else {
        return end_after_panic(shared, active).await;
    };
    match made {
        Ok(exit) => ending::end_build(shared, active, pending, container_end(&exit, &stderr)).await,
        Err(Interruption::Stopping) => {}
        Err(why) => end_interrupted(shared, active, pending, why, &stderr).await,
    }
}

/// The line that is logged before a container retry.
pub(super) fn retry_note(why: &str) -> String {
    format!("the build was interrupted ({why}) and is made again")
}

impl BuildTask {
    /// Waits for its slot.
    async fn wait_for_slot(&mut self, start: &StartPoint) -> Result<(), Interruption> {
        let (active, accepted) = (self.active.clone(), Instant::now());
        // When the daemon stops, the job stays in `pending`, accepted as before.
        self.cancellable(active.slot.notified()).await?;
        faults::point("slot");
        if let StartPoint::Beginning(_) = start {
            publish(&self.shared, active.subject(), &Event::Started);
            self.pending()?.record_mut().info.phases.waiting = Some(elapsed_milliseconds(accepted));
        }
        Ok(())
    }

    /// Runs the build, and again when its container is lost.
    async fn run_with_retries(
        &mut self,
        mut start: StartPoint,
    ) -> Result<docker::Exit, Interruption> {
        loop {
            let (made, recipe) = match start {
                StartPoint::Container(container, recipe) => {
                    self.enter(Phase::Running)?;
                    let made = self
                        .run(&Started {
                            container,
                            is_watched: false,
                        })
                        .await;
                    let recipe = match &made {
                        Err(Interruption::ContainerLost(_)) => {
                            self.cancellable(recipe).await?.ok().flatten()
                        }
                        _ => None,
                    };
                    (made, recipe)
                }
                StartPoint::Beginning(recipe) => {
                    let made = match self.start_container(&recipe).await {
                        Ok(started) => self.run(&started).await,
                        Err(interruption) => Err(interruption),
                    };
                    (made, Some(recipe))
                }
            };
            let why = match made {
                Err(Interruption::ContainerLost(why)) => why,
                made => return made,
            };
            let recipe = recipe.ok_or(Interruption::ProjectChanged(why))?;
            self.begin_container_retry(why).await?;
            start = StartPoint::Beginning(recipe);
        }
    }

    /// Starts again from the beginning after a lost container, with a note in the log.
    async fn begin_container_retry(&mut self, why: &'static str) -> Result<(), Interruption> {
        let internal = &mut self.pending()?.record_mut().internal;
        internal.lost += 1;
        let (lost, container) = (internal.lost, internal.container.clone());
        self.active.clear_container();
        if lost >= MAX_LOST_CONTAINERS {
            // Its container is still in the record: it is removed, or the data set aside, when the build
            // ends.
            return Err(Interruption::TooManyLostContainers(why));
        }
        let (shared, active) = (self.shared.clone(), self.active.clone());
        let removal = match &container {
            Some(container) => {
                self.cancellable(remove_container(&shared, &active, container))
                    .await?
            }
            None => ContainerRemoval::Done,
        };
        let is_clear = match removal {
            ContainerRemoval::Done => true,
            ContainerRemoval::Pending => false,
            ContainerRemoval::ShuttingDown => return Err(Interruption::Stopping),
        };
        self.on_disk(move |pending| {
            let begun = match is_clear {
                true => Ok(()),
                // It may still run: what it writes must not be in the data of the retry.
                false => pending.put_data_aside(),
            };
            let begun = begun.and_then(|()| pending.begin_container_retry());
            if begun.is_err() {
                // The end of the build has to remove it again.
                pending.record_mut().internal.container = container;
            }
            Ok(begun?)
        })
        .await?;
        let log = self.pending()?.log();
        log.note(retry_note(why)).await.map_err(Interruption::Log)?;
        let tries = self.pending()?.info().container_tries;
        let event = Event::ContainerRetry { tries, why };
        publish(&self.shared, self.active.subject(), &event);
        Ok(())
    }

    /// All steps until the container runs. If the Engine goes away, this waits for it.
    async fn start_container(&mut self, recipe: &Recipe) -> Result<Started, Interruption> {
        self.pending()?.begin();
        self.enter(Phase::Preparing)?;
        let config = self.shared.config.load_full();
        let settings = settings_of(recipe, &config)?;
        self.set_limits(build_limits(settings, &config))?;
        self.begin_stage();
        self.prepare(recipe, settings).await?;

        self.enter(Phase::Imaging)?;
        self.begin_stage();
        let rebuild = self.active.origin.rebuild || self.pending()?.internal().rebuild;
        let cache = match rebuild {
            true => ImageCache::Ignore,
            false => ImageCache::Use,
        };
        let image = loop {
            match self.image(recipe, settings, cache).await {
                Err(Interruption::Image { source, .. }) if source.is_unreachable() => {
                    self.wait_for_engine(source).await?;
                }
                image => break image?,
            }
        };
        faults::point("image");
        self.pending()?.time(Phase::Preparing);
        self.begin_stage();
        self.reconsider(recipe, settings, &image).await?;

        self.enter(Phase::Running)?;
        self.begin_stage();
        loop {
            match self.create(recipe, settings, &image.id).await {
                Err(Interruption::Container { source }) if source.is_unreachable() => {
                    self.wait_for_engine(source).await?;
                }
                created => return created,
            }
        }
    }

    async fn prepare(&mut self, recipe: &Recipe, settings: &Settings) -> Result<(), Interruption> {
        let (params, context) = (recipe.params(settings), recipe.context.clone());
        let (user, artifacts) = (user(settings), settings.artifacts);
        let shared = self.shared.clone();
        self.cancellable(shared.make_room()).await?;
        let secrets = recipe.secrets(settings);
        let (masked, base_use) = self
            .on_disk_interruptible(move |pending| {
                let masked = pending.mask(secrets);
                let base_use = pending.prepare(&params, &user, &context, artifacts)?;
                faults::point("prepared");
                Ok((masked, base_use))
            })
            .await?;
        let (note, log) = (masked_note(&masked), self.pending()?.log());
        // The try before has written it otherwise.
        if log.bytes() == 0 && !note.is_empty() {
            let written = log.append(note.as_bytes()).await;
            written.map_err(Interruption::Log)?;
        }
        self.log_base(base_use).await
    }

    /// Notes in the log where the build began, if that is not what was requested.
    async fn log_base(&mut self, base_use: BaseUse) -> Result<(), Interruption> {
        let text = match base_use {
            BaseUse::NoBase | BaseUse::Latest => &[][..],
            BaseUse::Cold => COLD_NOTE,
            BaseUse::Unreadable => BASE_UNREADABLE_NOTE,
            BaseUse::Foreign => BASE_FOREIGN_NOTE,
            BaseUse::Newer => BASE_NEWER_NOTE,
            BaseUse::Earlier => EARLIER_BASE_NOTE,
        };
        if !text.is_empty() {
            let log = self.pending()?.log();
            log.append(text).await.map_err(Interruption::Log)?;
        }
        let active = self.active.clone();
        active.publish_state(self.pending()?.info());
        Ok(())
    }

    /// Finds or builds the image of the context; the output of an image build goes into the log.
    async fn image(
        &mut self,
        recipe: &Recipe,
        settings: &Settings,
        cache: ImageCache,
    ) -> Result<Arc<ImageRecord>, Interruption> {
        let shared = self.shared.clone();
        let params = recipe.params(settings);
        let wanted = shared.wanted(recipe.context.clone(), settings, &params);
        let (output, pieces) = Images::output();
        let active = self.active.clone();
        let limits = self.limits();
        let (limit, stage_deadline) = (limits.log_limit, self.stage_deadline);
        self.pending()?.image_begins();
        let masks = self.pending()?.masks();
        let log = self.pending()?.log();
        let ensuring = async {
            match cache {
                ImageCache::Ignore => shared.images.renew(&wanted, output).await,
                ImageCache::Use => shared.images.ensure(&wanted, output).await,
            }
        };
        let logging = log_image_build(log, masks, pieces, limit);
        // A log that fails stops the image build, but an image build that failed still has its last lines
        // logged.
        let ensuring = async { Ok(ensuring.await) };
        let both = async { tokio::try_join!(ensuring, logging) };
        // A step that hangs must not hold its slot for ever. The container's time is counted separately.
        let ended = async {
            match stage_deadline {
                Some(StageDeadline { at, limit }) => tokio::time::timeout_at(at, both)
                    .await
                    .unwrap_or_else(|_| Err(Interruption::Stopped(stop::image_timed_out(limit)))),
                None => both.await,
            }
        };
        // `cancellable` cannot be used, since the log is borrowed here.
        let (image, ()) = tokio::select! {
            ended = ended => ended?,
            () = shared.stop.cancelled() => return Err(Interruption::Stopping),
            cancelled = active.cancelled() => return Err(self.stop(stop::cancelled(cancelled)).await),
        };
        let pending = self.pending()?;
        let image = image.map_err(|source| Interruption::Image {
            project: recipe.job.project.to_string(),
            source: match source {
                // It quotes what a step has printed.
                docker::Error::Build(said) => docker::Error::Build(pending.masked(said)),
                source => source,
            },
        })?;
        self.pending()?.image_found(image.id.clone());
        Ok(image)
    }

    /// Starts again if the image shows that the base cannot be used.
    async fn reconsider(
        &mut self,
        recipe: &Recipe,
        settings: &Settings,
        image: &Arc<ImageRecord>,
    ) -> Result<(), Interruption> {
        let (params, context) = (recipe.params(settings), recipe.context.clone());
        let image = image.clone();
        let (user, artifacts) = (user(settings), settings.artifacts);
        let base_use = self
            .on_disk_interruptible(move |pending| {
                Ok(pending.reconsider(&image, &params, &user, &context, artifacts)?)
            })
            .await?;
        match base_use {
            Some(base_use) => self.log_base(base_use).await,
            None => Ok(()),
        }
    }

    /// Creates a container of the image, records it and starts it.
    async fn create(
        &mut self,
        recipe: &Recipe,
        settings: &Settings,
        image: &str,
    ) -> Result<Started, Interruption> {
        let mut image = image.to_owned();
        let failed = |source| Interruption::Container { source };
        let shared = self.shared.clone();
        self.cancellable(ensure_swept(&shared))
            .await?
            .map_err(failed)?;
        let container = match self.make_container(recipe, settings, &image).await? {
            Err(docker::Error::NoSuchImage(_)) => {
                // Another program removed the image: it must be looked up or built again.
                self.shared.images.forget(recipe.context.digest());
                image = self
                    .image(recipe, settings, ImageCache::Use)
                    .await?
                    .id
                    .clone();
                let created = self.make_container(recipe, settings, &image).await?;
                created.map_err(failed)?
            }
            created => created.map_err(failed)?,
        };
        faults::point("container-made");
        self.start(container, image).await
    }

    /// Starts a created container, after recording it.
    async fn start(&mut self, container: String, image: String) -> Result<Started, Interruption> {
        let shared = self.shared.clone();
        let (name, ran) = (container.clone(), image.clone());
        self.on_disk(move |pending| Ok(pending.start(name, ran)?))
            .await?;
        let active = self.active.clone();
        let pending = self.pending()?;
        active.set_container(container.clone(), pending.internal().deadline);
        active.publish_state(pending.info());
        faults::point("container-known");
        let failed = |source| Interruption::Container { source };
        // It begins before the start: the end may follow within ms.
        self.processes = Some(ProcessWatch::begin(&container, SLICE));
        let started = self.cancellable(shared.docker.start(&container)).await?;
        match started {
            // The container may run nevertheless: its supervision finds out.
            Err(error) if error.is_unreachable() => {
                return Ok(Started {
                    container,
                    is_watched: false,
                });
            }
            started => {
                if started.is_err() {
                    self.pending()?.not_started();
                }
                started.map_err(failed)?;
            }
        }
        faults::point("container-started");
        let running = Event::Running {
            container: &container,
            image: &image,
        };
        publish(&shared, self.active.subject(), &running);
        Ok(Started {
            container,
            is_watched: true,
        })
    }

    /// Follows a started container to its end.
    async fn run(&mut self, started: &Started) -> Result<docker::Exit, Interruption> {
        let Started {
            container,
            is_watched,
        } = started;
        self.stage_deadline = None;
        if self.processes.is_none() {
            self.processes = Some(ProcessWatch::begin(container, SLICE));
        }
        let mut supervised = self.supervise(container, *is_watched).await;
        if !matches!(supervised, Err(Interruption::Stopping))
            && let Err(interruption) = self.finish_output().await
        {
            supervised = supervised.and(Err(interruption));
        }
        let processes = self.processes.take();
        faults::point("container-ended");
        if !matches!(supervised, Err(Interruption::Stopping)) {
            let at = self.found_ended.take();
            self.pending()?.container_ended(at);
            if let Some(processes) = processes
                && processes.was_refused().await
            {
                self.pending()?.record_mut().info.pids_limit_reached = true;
                // If the note cannot be written, the record still has it.
                let _ = self.pending()?.log().note(OUT_OF_PROCESSES_NOTE).await;
            }
        }
        if let Ok(exit) = &supervised
            && exit.oom_killed
        {
            self.pending()?.record_mut().info.oom_killed = true;
            // If the note cannot be written, the record still has it.
            let _ = self.pending()?.log().note(OUT_OF_MEMORY_NOTE).await;
        }
        supervised
    }
}

/// The limits of a build: from the project's settings, else from the configuration.
fn build_limits(settings: &Settings, config: &SchedulerConfig) -> BuildLimits {
    let in_milliseconds = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let job_timeout = settings.job_timeout.or(config.job_timeout);
    let silence_timeout = settings.silence_timeout.or(config.silence_timeout);
    BuildLimits {
        job_timeout: job_timeout.map(in_milliseconds),
        silence_timeout: silence_timeout.map(in_milliseconds),
        log_limit: settings.log_limit.unwrap_or(config.log_limit),
    }
}

fn elapsed_milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The first line of a log of a cold build.
const COLD_NOTE: &[u8] = b"mistry: a cold build was requested; starting empty\n";

/// The first line of a log when the last build of the group could not be used as the base.
const BASE_UNREADABLE_NOTE: &[u8] =
    b"mistry: the latest build of the group holds files that mistryd may not read; starting empty\n";
/// The same, if that build was another user's.
const BASE_FOREIGN_NOTE: &[u8] =
    b"mistry: the latest build of the group belongs to another user, and mistryd may not give its files away; starting empty\n";

/// The line in a log when the kernel killed a process of the build for want of memory.
const OUT_OF_MEMORY_NOTE: &str =
    "the kernel killed a process of the build, which had no memory left";

/// The line in a log when the build reached its limit of processes.
const OUT_OF_PROCESSES_NOTE: &str = "a process of the build could not be started, because the build had as many processes and threads as it may (limits.pids)";

/// The line in a log when the last build of the group could not be used as the base because of the
/// modification times of files.
const BASE_NEWER_NOTE: &[u8] =
    b"mistry: the project has changed since the latest build of the group, and a changed file \
    or a new layer of the image may be older than that build; starting empty\n";
const EARLIER_BASE_NOTE: &[u8] =
    b"mistry: the project has changed since the latest build of the group, and a changed file \
    or a new layer of the image may be older than that build; starting from an earlier build of the same files\n";
