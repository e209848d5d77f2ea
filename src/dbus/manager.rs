//! `org.mistry.Mistry1.Manager`: the daemon's main D-Bus interface.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use zbus::fdo::DBusProxy;
use zbus::message::Header;
use zbus::names::BusName;
use zbus::object_server::{ResponseDispatchListener, ResponseDispatchNotifier, SignalEmitter};
use zbus::{Connection, ObjectPath, OwnedFd, OwnedObjectPath, interface};

use super::authority::Action;
use super::calls::Call;
use super::error::{Error, Kind};
use super::logs;
use super::objects::{Hold, Objects};
use super::options::{self, Options, Submit};
use super::permissions::{parse_id, stopping};
use super::shared::Dbus;
use crate::api::{IndexItem, JobRequest, JobView, MAX_REQUEST, Named};
use crate::budget::Client;
use crate::build::Listing;
use crate::job::{MAX_PARAMS, Params};
use crate::project::ProjectName;
use crate::scheduler::{Submission, SubmitRequest};

/// Bytes of one page of builds. The bus disconnects a client that sends a message of more than 32 MiB.
const MAX_PAGE_BYTES: usize = 4 << 20;
/// The object path of a job that is over already.
const NO_JOB: &str = "/";

/// How a request was handled; notifies when the answer, whose last part it is, is sent.
type Disposition = ResponseDispatchNotifier<&'static str>;

/// The object.
#[derive(Debug)]
pub(super) struct Manager {
    pub(super) dbus: Dbus,
    pub(super) objects: Arc<Objects>,
}

/// Holds values until an answer is sent.
fn release_when_sent(tasks: &TaskTracker, sent: ResponseDispatchListener, held: (Hold, Call)) {
    tasks.spawn(async move {
        sent.await;
        drop(held);
    });
}

fn object_path(path: String) -> Result<OwnedObjectPath, Error> {
    OwnedObjectPath::try_from(path).map_err(|error| Error::ours("could not name a job", &error))
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::ours("could not write the answer", &error)
}

/// Builds projects with parameters and stores the results. Calls that change something, and calls that
/// read the output of builds, are authorized by polkit. Any user of the host may make the others, unless
/// the configuration has public: none. Then seeing builds needs org.mistry.mistry1.read, except for the
/// user who requested a job first.
#[interface(name = "org.mistry.Mistry1.Manager")]
impl Manager {
    /// Requests a build of a project with params. An empty group means none. Options: rebuild (b)
    /// makes a new image and a new build, whatever is cached; cold (b) makes a build that starts
    /// empty, whatever is cached and whatever the group's base is; cancel_on_disconnect (b) cancels
    /// the build when the caller leaves the bus and no other client wants it. The disposition is
    /// queued, coalesced (an earlier request had started the same job) or cached (the result exists,
    /// and the job is "/"). For one job, JobNew is sent before the answer and JobRemoved after it.
    /// Needs org.mistry.mistry1.submit.
    #[zbus(out_args("id", "job", "disposition"))]
    #[allow(clippy::too_many_arguments)]
    async fn submit_job(
        &self,
        project: String,
        group: String,
        params: HashMap<String, String>,
        options: Options,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(String, OwnedObjectPath, Disposition), Error> {
        let dbus = &self.dbus;
        let call = dbus.0.calls.admit(&header)?;
        let named = requested(project, group, params)?;
        let options = Submit::read(&options)?;
        let caller = dbus.allow(connection, &header, Action::Submit).await?;
        let held = dbus.0.scheduler.hold_params(Client::Local, &named.params)?;
        let request = SubmitRequest {
            project: named.project,
            group: named.group,
            params: named.params,
            rebuild: options.rebuild,
            cold: options.cold,
            cancel_on_disconnect: options.cancel_on_disconnect,
            asker: Some(caller.asker()),
            request: None,
            held,
        };
        let mut handle = match dbus.0.scheduler.submit(request).await? {
            Submission::Cached(answer) => return Ok(cached(answer.info().id.to_string())),
            Submission::Pending(handle) => handle,
        };
        let id = handle.id();
        let hold = self.objects.hold(&handle.observer());
        handle.accepted().await?;
        if handle.is_cached() {
            return Ok(cached(id.to_string()));
        }
        let disposition = match handle.coalesced() {
            true => "coalesced",
            false => "queued",
        };
        let published = self.objects.publish(dbus, connection, handle.observer());
        let path = published.await?;
        if options.cancel_on_disconnect {
            dbus.0.client_handles.hold(&call.client, handle);
            // It may have disconnected before it was recorded.
            if !is_there(connection, &call.client).await {
                dbus.0.client_handles.client_left(&call.client);
            }
        }
        let path = object_path(path)?;
        let (disposition, sent) = ResponseDispatchNotifier::new(disposition);
        release_when_sent(&dbus.0.tasks, sent, (hold, call));
        Ok((id.to_string(), path, disposition))
    }

    /// The jobs that are not over: id, project, group, phase and object of each.
    #[zbus(out_args("jobs"))]
    async fn list_jobs(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<(String, String, String, String, OwnedObjectPath)>, Error> {
        let _call = self.dbus.0.calls.admit(&header)?;
        self.dbus.allow_reading(connection, &header).await?;
        let mut jobs = Vec::new();
        for job in self.dbus.0.scheduler.active_jobs().await {
            let found = self.objects.find(job.id()).await;
            if let (Some(info), Some((path, _))) = (job.now(), found) {
                let phase = info.phase().map_or("", |phase| phase.as_str());
                jobs.push((
                    info.id.to_string(),
                    info.project.to_string(),
                    info.group_name().to_owned(),
                    phase.to_owned(),
                    object_path(path)?,
                ));
            }
        }
        Ok(jobs)
    }

    /// The object of a job that is not over. JobRemoved is sent after the answer.
    #[zbus(out_args("job"))]
    async fn get_job(
        &self,
        id: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<ResponseDispatchNotifier<OwnedObjectPath>, Error> {
        let dbus = &self.dbus;
        let call = dbus.0.calls.admit(&header)?;
        let id = parse_id(&id)?;
        let job = dbus.0.scheduler.active_job(id).await;
        let asker = job.as_ref().and_then(|job| job.asker());
        dbus.allow_reading_of(connection, &header, asker).await?;
        let (path, hold) = match self.objects.find(id).await {
            Some(found) => found,
            None => {
                let over = || {
                    let sentence =
                        format!("no job '{id}' is under way; DescribeBuild tells what is over");
                    Error::new(Kind::NoSuchJob, sentence)
                };
                let job = dbus.0.scheduler.active_job(id).await.ok_or_else(over)?;
                let hold = self.objects.hold(&job);
                (self.objects.publish(dbus, connection, job).await?, hold)
            }
        };
        let (path, sent) = ResponseDispatchNotifier::new(object_path(path)?);
        release_when_sent(&dbus.0.tasks, sent, (hold, call));
        Ok(path)
    }

    /// The description of a build, pending or over, as JSON: the answer of GET /job/P/ID over HTTP
    /// without the log, with long params cut as in lists.
    #[zbus(out_args("build"))]
    async fn describe_build(
        &self,
        id: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Error> {
        let dbus = &self.dbus;
        let _call = dbus.0.calls.admit(&header)?;
        let found = async {
            let (project, id) = dbus.locate(&id).await?;
            let info = dbus.0.reader.find(&project, id).await?;
            Ok::<_, Error>((project, id, info))
        };
        let found = found.await;
        let asker = found.as_ref().ok();
        let asker = asker.and_then(|(_, _, info)| info.asked_by.as_deref());
        dbus.allow_reading_of(connection, &header, asker).await?;
        let (project, id, info) = found?;
        let view = JobView {
            id: id.to_string(),
            project: project.to_string(),
            state: info.state(),
            pinned: dbus.0.reader.is_pinned(&project, id).await?,
            build_info: info.view(),
        };
        serde_json::to_string(&view).map_err(unwritable)
    }

    /// Builds, newest first, each as JSON: an item of GET /index/ over HTTP. Filter: project (s),
    /// group (s), state (s, pending or ready), limit (t, default 100, at most 1000), before (s). A
    /// page of large items may hold fewer than the limit. If next is not empty, there is another page:
    /// pass it as before.
    #[zbus(out_args("builds", "next"))]
    async fn list_builds(
        &self,
        filter: Options,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(Vec<String>, String), Error> {
        let dbus = &self.dbus;
        let _call = dbus.0.calls.admit(&header)?;
        dbus.allow_reading(connection, &header).await?;
        let (filter, limit) = options::filter(&filter)?;
        let (builds, mut next) = dbus.0.reader.list(filter, limit).await?;
        let mut room = MAX_PAGE_BYTES;
        let mut page: Vec<String> = Vec::new();
        for (at, build) in builds.iter().enumerate() {
            let item = build.json(IndexItem::written).map_err(unwritable)?.get();
            if item.len() > room && at > 0 {
                next = builds.get(at - 1).map(Listing::place);
                break;
            }
            room = room.saturating_sub(item.len());
            page.push(item.to_owned());
        }
        Ok((
            page,
            next.map_or_else(String::new, |place| place.to_string()),
        ))
    }

    /// Cancels a job's build. Answered when the cancellation is on stable storage; JobRemoved follows
    /// when the container has ended. The reason is one line, for the clients that wait. The user who
    /// requested the job first may do this; others need org.mistry.mistry1.cancel.
    async fn cancel_job(
        &self,
        id: String,
        reason: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        let dbus = &self.dbus;
        let _call = dbus.0.calls.admit(&header)?;
        let id = parse_id(&id)?;
        dbus.cancel(connection, &header, id, reason).await
    }

    /// The names of all projects.
    #[zbus(out_args("projects"))]
    async fn list_projects(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<String>, Error> {
        let _call = self.dbus.0.calls.admit(&header)?;
        self.dbus.allow_reading(connection, &header).await?;
        let projects = self.dbus.0.reader.projects().await?;
        let names = projects.into_iter().map(|(name, ..)| name.to_string());
        Ok(names.collect())
    }

    /// Builds a project's image without a cache and with its base pulled, and waits for that. Needs
    /// org.mistry.mistry1.rebuild.
    async fn rebuild_image(
        &self,
        project: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        let dbus = &self.dbus;
        let _call = dbus.0.calls.admit(&header)?;
        let project = project.parse::<ProjectName>()?;
        dbus.allow(connection, &header, Action::Rebuild).await?;
        let params = Params::new();
        dbus.0.scheduler.rebuild_image(&project, params).await?;
        Ok(())
    }

    /// No new build starts from now on, also after a restart; running builds continue. Needs
    /// org.mistry.mistry1.pause.
    async fn pause_queue(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        let dbus = &self.dbus;
        let _call = dbus.0.calls.admit(&header)?;
        let caller = dbus.allow(connection, &header, Action::Pause).await?;
        dbus.0.scheduler.pause(&caller.asker()).await?;
        Ok(())
    }

    /// Waiting builds start. Needs org.mistry.mistry1.pause.
    async fn resume_queue(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        let dbus = &self.dbus;
        let _call = dbus.0.calls.admit(&header)?;
        let caller = dbus.allow(connection, &header, Action::Pause).await?;
        dbus.0.scheduler.resume(&caller.asker()).await?;
        Ok(())
    }

    /// Removes old builds, and returns their number and the freed bytes. Policy: max_age (t, seconds),
    /// max_bytes (t), min_free (t), keep_last (t) replace the configured rules; dry_run (b) removes
    /// nothing. Needs org.mistry.mistry1.gc.
    #[zbus(out_args("builds", "bytes"))]
    async fn collect_garbage(
        &self,
        policy: Options,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(u64, u64), Error> {
        let dbus = &self.dbus;
        let _call = dbus.0.calls.admit(&header)?;
        let (policy, dry_run) = options::policy(&policy)?;
        dbus.allow(connection, &header, Action::Gc).await?;
        let collection = dbus.0.scheduler.collect(policy, dry_run).await?;
        let plan = &collection.plan;
        Ok((plan.removals.len() as u64, plan.bytes))
    }

    /// Reads the configuration again, and waits until it is in force. Needs
    /// org.mistry.mistry1.reload.
    async fn reload(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        let dbus = &self.dbus;
        let _call = dbus.0.calls.admit(&header)?;
        dbus.allow(connection, &header, Action::Reload).await?;
        let (reply, done) = oneshot::channel();
        dbus.0.reloads.send(reply).await.map_err(|_| stopping())?;
        let done = done.await.map_err(|_| stopping())?;
        done.map_err(|sentence| Error::new(Kind::BadConfiguration, sentence))
    }

    /// A build's log as a file descriptor to read from the first byte. For a pending build it follows
    /// the log to its end. Needs org.mistry.mistry1.read-output.
    #[zbus(out_args("log"))]
    async fn open_log(
        &self,
        id: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedFd, Error> {
        let dbus = &self.dbus;
        let call = dbus.0.calls.admit(&header)?;
        let located = dbus
            .locate_output(&id, connection, &header, Action::ReadOutput)
            .await;
        let (project, id) = located?;
        let log = dbus.0.reader.follow(&project, id, 0).await?;
        Ok(logs::hand_out(dbus, call, log).await?.into())
    }

    /// A build's artifacts as the file descriptor of a directory from which nothing else can be
    /// reached: neither its parent nor the targets of links. Needs org.mistry.mistry1.read-output.
    #[zbus(out_args("artifacts"))]
    async fn open_artifacts(
        &self,
        id: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedFd, Error> {
        let dbus = &self.dbus;
        let _call = dbus.0.calls.admit(&header)?;
        let located = dbus
            .locate_output(&id, connection, &header, Action::ReadOutput)
            .await;
        let (project, id) = located?;
        let directory = dbus.0.reader.hand_out_artifacts(&project, id).await?;
        Ok(directory.into())
    }

    /// mistryd's version.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Where projects are.
    #[zbus(property(emits_changed_signal = "const"))]
    fn projects_path(&self) -> String {
        self.dbus.0.static_info.projects_path.display().to_string()
    }

    /// Where builds are.
    #[zbus(property(emits_changed_signal = "const"))]
    fn build_path(&self) -> String {
        self.dbus.0.static_info.build_path.display().to_string()
    }

    /// The kind of filesystem that builds are on: btrfs or plain.
    #[zbus(property(emits_changed_signal = "const"))]
    fn file_system(&self) -> &'static str {
        self.dbus.0.static_info.filesystem
    }

    /// Builds that may run in parallel.
    #[zbus(property)]
    fn job_concurrency(&self) -> u32 {
        saturated(self.dbus.0.scheduler.activity().borrow().slots)
    }

    /// Jobs that may wait for a slot.
    #[zbus(property)]
    fn job_backlog(&self) -> u32 {
        saturated(self.dbus.0.scheduler.activity().borrow().backlog)
    }

    /// Builds that hold a slot.
    #[zbus(property, name = "NRunning")]
    fn n_running(&self) -> u32 {
        saturated(self.dbus.0.scheduler.activity().borrow().building)
    }

    /// Jobs that wait for a slot.
    #[zbus(property, name = "NQueued")]
    fn n_queued(&self) -> u32 {
        saturated(self.dbus.0.scheduler.activity().borrow().queued)
    }

    /// No build starts until ResumeQueue.
    #[zbus(property)]
    fn paused(&self) -> bool {
        self.dbus.0.scheduler.activity().borrow().paused
    }

    /// A job was accepted, or taken over from an earlier process of the daemon.
    #[zbus(signal)]
    pub(super) async fn job_new(
        emitter: &SignalEmitter<'_>,
        id: &str,
        job: ObjectPath<'_>,
    ) -> zbus::Result<()>;

    /// A job is over, and its object gone. The outcome is succeeded, failed, errored, cancelled or
    /// timed-out.
    #[zbus(signal)]
    pub(super) async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: &str,
        job: ObjectPath<'_>,
        outcome: &str,
    ) -> zbus::Result<()>;
}

/// Validates the arguments of `SubmitJob`.
fn requested(
    project: String,
    group: String,
    params: HashMap<String, String>,
) -> Result<Named, Error> {
    let too_large = |sentence| Error::new(Kind::LimitsExceeded, sentence);
    if params.len() > MAX_PARAMS {
        let sentence = format!("params: expected at most {MAX_PARAMS}");
        return Err(too_large(sentence));
    }
    let request = JobRequest {
        project,
        params: params.into_iter().collect(),
        group,
        ..JobRequest::default()
    };
    if request.is_too_large() {
        let sentence =
            format!("the job is too large: expected at most {MAX_REQUEST} bytes as JSON");
        return Err(too_large(sentence));
    }
    Ok(request.names()?)
}

fn saturated(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The answer for a build that is ready already.
fn cached(id: String) -> (String, OwnedObjectPath, Disposition) {
    let nowhere = ObjectPath::from_static_str_unchecked(NO_JOB).into();
    (id, nowhere, ResponseDispatchNotifier::new("cached").0)
}

/// Whether a client is still on the bus.
async fn is_there(connection: &Connection, client: &str) -> bool {
    let asking = async {
        let name = BusName::try_from(client)?;
        let bus = DBusProxy::new(connection).await?;
        Ok::<bool, zbus::Error>(bus.name_has_owner(name).await?)
    };
    asking.await.unwrap_or(false)
}
