//! On the bus, as long as there is one: connected, served, named; and back after it was lost.
//!
//! The name is asked for when everything that may be asked under it is there. Without the bus, or
//! without the name, the daemon goes on for HTTP. When it is time to go, the name is given back
//! first, and what had come by then is answered.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zbus::Connection;
use zbus::fdo::{
    DBusProxy, NameOwnerChangedStream, ObjectManager, RequestNameFlags, RequestNameReply,
};

use super::bus::{Bus, NAME, PATH};
use super::error::name_of;
use super::manager::Manager;
use super::objects::Objects;
use super::shared::Dbus;
use crate::scheduler::Activity;

/// When a bus that is away is looked for again: no event tells that its socket is back.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long a bus may take to let us on it, which is milliseconds. One that accepts connections and then
/// says nothing is as good as away; without this bound it would pass for a bus that is about to come.
const JOINING_TIMEOUT: Duration = Duration::from_secs(5);
/// What is being answered when we leave the bus has this long; a call that takes longer is told that
/// we are gone, by the bus.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

const NAMED: &str = "5c1d0ea2a9c846c1a7d63b9c8f0e2d71";
const LOST: &str = "b7e94d3f60c14f7d9b2a8c5e1f03a6d4";

/// Why we are not on the bus any more.
enum LeaveReason {
    /// The bus is gone, or never was there.
    Lost(zbus::Error),
    /// Its policy does not allow us our name: that does not change by itself.
    Refused(zbus::Error),
    /// The daemon ends.
    Ending,
}

/// Keeps the interface on the bus until it is closed or told to stop, and returns when it is told to stop.
pub async fn serve(dbus: Dbus, stop: CancellationToken) {
    let ending = dbus.0.ending.clone();
    let staying = async {
        // A caller that waits for something long is told that the daemon ends.
        let ends = async {
            stop.cancelled().await;
            ending.cancel();
        };
        tokio::join!(keep_joined(&dbus, &stop), ends);
    };
    tokio::select! {
        never = count(&dbus) => match never {},
        () = staying => {}
    }
    dbus.0.tasks.close();
    // Answers that are on their way.
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, dbus.0.tasks.wait()).await;
}

/// Joins the bus as often as it takes.
async fn keep_joined(dbus: &Dbus, stop: &CancellationToken) {
    let control = &dbus.0.control;
    let mut is_closed = control.is_closed.subscribe();
    let mut is_reported = false;
    let left = async {
        tokio::select! {
            () = stop.cancelled() => {}
            // The sender is the control's.
            _ = is_closed.wait_for(|is_closed| *is_closed) => {}
        }
    };
    let mut left = pin!(left.shared());
    loop {
        control.is_joined.send_replace(true);
        let why = join(dbus, left.clone(), &mut is_reported).await;
        control.settle();
        control.is_joined.send_replace(false);
        match why {
            LeaveReason::Ending => return,
            LeaveReason::Lost(error) => {
                if !std::mem::replace(&mut is_reported, true) {
                    tracing::warn!(
                        message_id = LOST,
                        mistry_event = "bus-lost",
                        error = &error as &dyn std::error::Error,
                        "not on the bus: HTTP is served, and the bus again when it is there"
                    );
                }
                tokio::select! {
                    () = tokio::time::sleep(RETRY_INTERVAL) => {}
                    () = &mut left => return,
                }
            }
            LeaveReason::Refused(error) => {
                tracing::warn!(
                    message_id = LOST,
                    mistry_event = "bus-lost",
                    error = &error as &dyn std::error::Error,
                    "not on the bus: it does not let us be '{NAME}', which its policy allows root and the user 'mistry'. HTTP is served"
                );
                return;
            }
        }
    }
}

/// Keeps the count of what is in hand.
async fn count(dbus: &Dbus) -> Infallible {
    let control = &dbus.0.control;
    let (mut calls, mut jobs) = (dbus.0.calls.in_hand(), control.jobs.subscribe());
    let mut is_settled = control.is_settled.subscribe();
    loop {
        let unsettled = usize::from(!*is_settled.borrow_and_update());
        let busy = unsettled + *calls.borrow_and_update() + *jobs.borrow_and_update();
        control
            .busy
            .send_if_modified(|known| std::mem::replace(known, busy) != busy);
        // The senders live in `dbus`.
        tokio::select! {
            _ = calls.changed() => {}
            _ = jobs.changed() => {}
            _ = is_settled.changed() => {}
        }
    }
}

/// One connection, from its beginning to its end; `left` ends it.
async fn join(dbus: &Dbus, left: impl Future<Output = ()>, is_reported: &mut bool) -> LeaveReason {
    let mut left = pin!(left);
    let connecting = match dbus.0.bus {
        Bus::System => zbus::connection::Builder::system(),
        Bus::User => zbus::connection::Builder::session(),
    };
    let connection = tokio::select! {
        connected = in_time(connecting.build()) => match connected {
            Ok(connection) => connection,
            Err(error) => return LeaveReason::Lost(error),
        },
        () = &mut left => return LeaveReason::Ending,
    };
    let objects = Objects::new(dbus.0.control.jobs.clone());
    let why = tokio::select! {
        why = serve_on(dbus, &connection, &objects, is_reported) => why,
        () = connection.closed() => {
            LeaveReason::Lost(zbus::Error::Failure("the connection to the bus ended".to_owned()))
        }
        () = &mut left => LeaveReason::Ending,
    };
    match why {
        LeaveReason::Ending => {
            // Each within its time: a bus that stands must not hold our end.
            let given_back =
                tokio::time::timeout(2 * ANSWER_TIMEOUT, give_name_back(dbus, &connection)).await;
            if let Ok(Err(error)) = given_back {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "left the bus without knowing whether all calls were answered"
                );
            }
            let gone = async {
                objects.leave().await;
                // It waits for answers that are being sent.
                connection.graceful_shutdown().await;
            };
            let _ = tokio::time::timeout(ANSWER_TIMEOUT, gone).await;
        }
        LeaveReason::Lost(_) | LeaveReason::Refused(_) => {
            objects.leave().await;
            // No client is on it any more.
            dbus.0.departures.all_left();
        }
    }
    why
}

/// A step on the way onto the bus, which fails where it takes longer than [`JOINING_TIMEOUT`].
async fn in_time<T>(step: impl Future<Output = zbus::Result<T>>) -> zbus::Result<T> {
    let silent = || Err(zbus::Error::Failure("the bus does not answer".to_owned()));
    let done = tokio::time::timeout(JOINING_TIMEOUT, step).await;
    done.unwrap_or_else(|_| silent())
}

/// Gives the name back and answers what had come before that.
async fn give_name_back(dbus: &Dbus, connection: &Connection) -> zbus::Result<()> {
    // A call from now on starts the next process.
    connection.release_name(NAME).await?;
    let returned = ping_ourselves(connection).await;
    let mut calls = dbus.0.calls.in_hand();
    let answered = calls.wait_for(|calls| *calls == 0);
    // One that waits for a person, or for an image, is told by the bus that we are gone.
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, answered).await;
    returned
}

/// Returns when all calls that came under the name have been taken up: what comes back to us by way of the
/// bus came after them. The policy in `packaging/dbus` allows it.
async fn ping_ourselves(connection: &Connection) -> zbus::Result<()> {
    let Some(own) = connection.unique_name() else {
        return Ok(());
    };
    let peer = zbus::fdo::PeerProxy::builder(connection)
        .destination(own.clone())
        .path("/")
        .build()
        .await?;
    peer.ping().await
}

/// Serves until the connection ends.
async fn serve_on(
    dbus: &Dbus,
    connection: &Connection,
    objects: &Arc<Objects>,
    is_reported: &mut bool,
) -> LeaveReason {
    // What is told from the name on are changes against this.
    let mut activity = dbus.0.scheduler.activity();
    let before = activity.borrow_and_update().clone();
    let prepared = async {
        let server = connection.object_server();
        server.at(PATH, ObjectManager).await?;
        let manager = Manager {
            dbus: dbus.clone(),
            objects: objects.clone(),
        };
        server.at(PATH, manager).await?;
        let bus = DBusProxy::new(connection).await?;
        // Clients that leave for good: their unique names have no owner any more.
        let leavers = bus.receive_name_owner_changed_with_args(&[(2, "")]).await?;
        let flags = RequestNameFlags::empty();
        let reply = connection.request_name_with_flags(NAME, flags).await?;
        Ok::<_, zbus::Error>((leavers, reply))
    };
    let (leavers, reply) = match in_time(prepared).await {
        Ok(prepared) => prepared,
        Err(error) if is_refusal(&error) => return LeaveReason::Refused(error),
        Err(error) => return LeaveReason::Lost(error),
    };
    *is_reported = false;
    dbus.0.control.settle();
    match reply {
        RequestNameReply::InQueue | RequestNameReply::Exists => tracing::warn!(
            message_id = LOST,
            mistry_event = "bus-lost",
            "another program on the bus is '{NAME}': when it leaves, we are"
        ),
        RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner => tracing::info!(
            message_id = NAMED,
            mistry_event = "bus-named",
            "on the bus as '{NAME}'"
        ),
    }
    // The connection ends them all.
    let (never, _, _) = tokio::join!(
        publish_jobs(dbus, connection, objects),
        emit_changes(connection, activity, before),
        release_departed(dbus, leavers)
    );
    match never {}
}

/// Publishes the jobs that there are and those that begin.
async fn publish_jobs(dbus: &Dbus, connection: &Connection, objects: &Arc<Objects>) -> Infallible {
    let mut feed = dbus.0.scheduler.new_jobs();
    let mut begun = dbus.0.scheduler.active_jobs().await;
    loop {
        for job in begun {
            // An error was logged there.
            let _ = objects.publish(dbus, connection, job).await;
        }
        begun = match feed.next().await {
            Some(job) => vec![job],
            None => dbus.0.scheduler.active_jobs().await,
        };
    }
}

/// Emits what changes of the manager.
async fn emit_changes(
    connection: &Connection,
    mut activity: watch::Receiver<Activity>,
    mut before: Activity,
) -> Infallible {
    let manager = connection.object_server().interface::<_, Manager>(PATH);
    let Ok(manager) = manager.await else {
        // It was put there before this began, so the connection is at its end.
        return std::future::pending().await;
    };
    let emitter = manager.signal_emitter();
    loop {
        // The sender lives in the scheduler.
        let _ = activity.changed().await;
        let now = activity.borrow_and_update().clone();
        let object = manager.get().await;
        let emitted = async {
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
        match emitted.await {
            Ok(()) => before = now,
            // Emitted with the next change, unless the connection is at its end.
            Err(error) => tracing::debug!(
                error = &error as &dyn std::error::Error,
                "could not emit what has changed on the bus, ignoring"
            ),
        }
    }
}

/// Drops the handles of clients that leave: those builds were wanted only while they were there.
async fn release_departed(dbus: &Dbus, mut leavers: NameOwnerChangedStream) -> Infallible {
    while let Some(leaver) = leavers.next().await {
        if let Ok(leaver) = leaver.args() {
            dbus.0.departures.left(leaver.name());
        }
    }
    // Its end is that of the connection, which is told at the same time, and with which all have left.
    std::future::pending().await
}

/// The bus is there, and its policy does not allow us our name.
fn is_refusal(error: &zbus::Error) -> bool {
    name_of(error).as_deref() == Some("org.freedesktop.DBus.Error.AccessDenied")
}
