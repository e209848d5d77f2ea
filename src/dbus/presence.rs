//! On the bus, as long as there is one: connected, served, named; and back after it was lost.
//!
//! The name is asked for when everything that may be asked under it is there. Without the bus, or
//! without the name, the daemon goes on for HTTP.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zbus::Connection;
use zbus::fdo::{
    DBusProxy, NameOwnerChangedStream, ObjectManager, RequestNameFlags, RequestNameReply,
};

use super::manager::Manager;
use super::{Bus, Dbus, NAME, PATH};

/// When a bus that is away is looked for again: nobody tells that its socket is back.
const AGAIN: Duration = Duration::from_secs(1);
/// What is being answered when we leave the bus has this long; a call that takes longer is told that
/// we are gone, by the bus.
const GRACE: Duration = Duration::from_secs(5);

const NAMED: &str = "5c1d0ea2a9c846c1a7d63b9c8f0e2d71";
const LOST: &str = "b7e94d3f60c14f7d9b2a8c5e1f03a6d4";

/// The face from outside: how much it has in hand, and whether it may be there.
#[derive(Clone, Debug)]
pub struct Door {
    is_wanted: watch::Sender<bool>,
    is_there: watch::Sender<bool>,
    busy: watch::Sender<usize>,
}

impl Door {
    pub(super) fn new() -> Door {
        Door {
            is_wanted: watch::channel(true).0,
            is_there: watch::channel(false).0,
            busy: watch::channel(0).0,
        }
    }

    /// Calls that are not answered and jobs whose end is not told, now and from now on.
    pub fn busy(&self) -> watch::Receiver<usize> {
        self.busy.subscribe()
    }

    /// Leaves the bus; returns when what had come by then is answered. Who calls after that finds
    /// nobody, and has us started again.
    pub async fn close(&self) {
        self.is_wanted.send_replace(false);
        let mut is_there = self.is_there.subscribe();
        // The sender is ours.
        let _ = is_there.wait_for(|is_there| !is_there).await;
    }

    /// Comes back.
    pub fn open(&self) {
        self.is_wanted.send_replace(true);
    }
}

/// Why we are not on the bus any more.
enum Left {
    /// The bus is gone, or never was there.
    Lost(zbus::Error),
    /// It will not have us: that does not change by itself.
    Refused(zbus::Error),
    /// It was time.
    Ours,
}

/// Keeps the face on the bus until it is told to stop. It returns for nothing else.
pub async fn serve(face: Dbus, stop: CancellationToken) {
    let door = face.0.door.clone();
    let mut is_wanted = door.is_wanted.subscribe();
    let mut is_told = false;
    let counting = count(&face);
    let staying = async {
        loop {
            tokio::select! {
                // The sender is the door's.
                _ = is_wanted.wait_for(|is_wanted| *is_wanted) => {}
                () = stop.cancelled() => return,
            }
            let left = stay(&face, &stop, &mut is_told).await;
            door.is_there.send_replace(false);
            match left {
                Left::Ours if stop.is_cancelled() => return,
                Left::Ours => {}
                Left::Lost(error) => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(
                            message_id = LOST,
                            mistry_event = "bus-lost",
                            error = &error as &dyn std::error::Error,
                            "not on the bus: HTTP is served, and the bus again when it is there"
                        );
                    }
                    tokio::select! {
                        () = tokio::time::sleep(AGAIN) => {}
                        () = stop.cancelled() => return,
                    }
                }
                Left::Refused(error) => {
                    tracing::warn!(
                        message_id = LOST,
                        mistry_event = "bus-lost",
                        error = &error as &dyn std::error::Error,
                        "not on the bus: it does not let us be '{NAME}', which its policy allows root and the user 'mistry'. HTTP is served"
                    );
                    stop.cancelled().await;
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = counting => {}
        () = staying => {}
    }
    face.0.tasks.close();
    // A log that nobody reads is no reason to stay.
    let _ = tokio::time::timeout(GRACE, face.0.tasks.wait()).await;
}

/// Counts what is in hand; never returns.
async fn count(face: &Dbus) {
    let (mut calls, mut jobs) = (face.0.calls.in_hand(), face.0.objects.count());
    loop {
        let busy = *calls.borrow_and_update() + *jobs.borrow_and_update();
        face.0.door.busy.send_replace(busy);
        // The senders live in the face.
        tokio::select! {
            _ = calls.changed() => {}
            _ = jobs.changed() => {}
        }
    }
}

/// One connection, from its beginning to its end.
async fn stay(face: &Dbus, stop: &CancellationToken, is_told: &mut bool) -> Left {
    let mut is_wanted = face.0.door.is_wanted.subscribe();
    face.0.door.is_there.send_replace(true);
    let connected = match face.0.bus {
        Bus::System => zbus::connection::Builder::system(),
        Bus::User => zbus::connection::Builder::session(),
    };
    let connection = tokio::select! {
        connected = connected.build() => match connected {
            Ok(connection) => connection,
            Err(error) => return Left::Lost(error),
        },
        () = stop.cancelled() => return Left::Ours,
        _ = is_wanted.wait_for(|is_wanted| !is_wanted) => return Left::Ours,
    };
    let left = tokio::select! {
        left = serve_on(face, &connection, is_told) => left,
        () = connection.closed() => {
            Left::Lost(zbus::Error::Failure("the connection to the bus ended".to_owned()))
        }
        () = stop.cancelled() => Left::Ours,
        _ = is_wanted.wait_for(|is_wanted| !is_wanted) => Left::Ours,
    };
    // Who calls from now on starts the next life, or is told that nobody is there.
    if let Left::Ours = left {
        let released = connection.release_name(NAME).await;
        if let Err(error) = released {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "could not give the name back, ignoring"
            );
        }
    }
    face.0.objects.forget().await;
    face.0.departures.all_left();
    // It waits for the answers to what came before.
    if tokio::time::timeout(GRACE, connection.graceful_shutdown())
        .await
        .is_err()
    {
        tracing::debug!("a call on the bus was not answered in time");
    }
    left
}

/// Serves until the connection ends.
async fn serve_on(face: &Dbus, connection: &Connection, is_told: &mut bool) -> Left {
    let prepared = async {
        let server = connection.object_server();
        server.at(PATH, ObjectManager).await?;
        server.at(PATH, Manager(face.clone())).await?;
        let bus = DBusProxy::new(connection).await?;
        // Those who leave for good: their unique names have no owner any more.
        let leavers = bus.receive_name_owner_changed_with_args(&[(2, "")]).await?;
        let flags = RequestNameFlags::empty();
        let reply = connection.request_name_with_flags(NAME, flags).await?;
        Ok::<_, zbus::Error>((leavers, reply))
    };
    let (leavers, reply) = match prepared.await {
        Ok(prepared) => prepared,
        Err(error) if is_refusal(&error) => return Left::Refused(error),
        Err(error) => return Left::Lost(error),
    };
    *is_told = false;
    match reply {
        RequestNameReply::InQueue | RequestNameReply::Exists => tracing::warn!(
            message_id = LOST,
            mistry_event = "bus-lost",
            "somebody else on the bus is '{NAME}': when they leave, we are"
        ),
        RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner => tracing::info!(
            message_id = NAMED,
            mistry_event = "bus-named",
            "on the bus as '{NAME}'"
        ),
    }
    // None of them ends before the connection does.
    tokio::join!(
        tell_jobs(face, connection),
        tell_changes(face, connection),
        see_off(face, leavers)
    );
    Left::Lost(zbus::Error::Failure("the bus is silent".to_owned()))
}

/// Shows the jobs that there are and those that begin.
async fn tell_jobs(face: &Dbus, connection: &Connection) {
    let mut feed = face.0.scheduler.feed();
    let mut begun = face.0.scheduler.live().await;
    loop {
        for job in begun {
            let id = job.id();
            if let Err(error) = face.0.objects.show(face, connection, job).await {
                tracing::debug!(
                    mistry_job = %id,
                    error = &error as &dyn std::error::Error,
                    "the bus does not hear of a job, ignoring"
                );
            }
        }
        begun = match feed.next().await {
            Some(job) => vec![job],
            None => face.0.scheduler.live().await,
        };
    }
}

/// Tells what changes of the manager.
async fn tell_changes(face: &Dbus, connection: &Connection) {
    let manager = connection.object_server().interface::<_, Manager>(PATH);
    let Ok(manager) = manager.await else { return };
    let emitter = manager.signal_emitter();
    let mut activity = face.0.scheduler.activity();
    let mut before = activity.borrow_and_update().clone();
    loop {
        // The sender lives in the scheduler.
        let _ = activity.changed().await;
        let now = activity.borrow_and_update().clone();
        let object = manager.get().await;
        let told = async {
            if now.building != before.building {
                object.n_running_changed(emitter).await?;
            }
            if now.queued != before.queued {
                object.n_queued_changed(emitter).await?;
            }
            if now.paused != before.paused {
                object.paused_changed(emitter).await?;
            }
            if now.slots != before.slots {
                object.job_concurrency_changed(emitter).await?;
            }
            if now.backlog != before.backlog {
                object.job_backlog_changed(emitter).await?;
            }
            Ok::<(), zbus::Error>(())
        };
        if told.await.is_err() {
            return;
        }
        before = now;
    }
}

/// Lets go of what those who leave wanted only while they were there.
async fn see_off(face: &Dbus, mut leavers: NameOwnerChangedStream) {
    while let Some(leaver) = leavers.next().await {
        if let Ok(leaver) = leaver.args() {
            face.0.departures.left(leaver.name());
        }
    }
}

/// The bus is there, and will not have us.
fn is_refusal(error: &zbus::Error) -> bool {
    use zbus::DBusError;
    let name = match error {
        zbus::Error::MethodError(name, ..) => name.as_str().to_owned(),
        zbus::Error::FDO(error) => error.name().to_string(),
        _ => return false,
    };
    name == "org.freedesktop.DBus.Error.AccessDenied"
}
