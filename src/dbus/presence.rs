//! The connection to the bus: connects, serves, owns the name, and reconnects when it is lost.
//!
//! The name is requested when all objects are registered. Without the bus, or without the name, the daemon
//! still serves HTTP. When the daemon stops, it releases the name first, and then answers the calls that came
//! before.

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

/// How often a lost bus is tried again: no event says that its socket is back.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The same, at most, for a bus that refuses the name: it logs each refusal.
const LONGEST_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// How long connecting to a bus may take, which is normally milliseconds. A bus that accepts connections and
/// then says nothing counts as absent; without this bound it would count as about to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long calls under way may take when we leave the bus; a caller that waits longer gets an error from the
/// bus that we have disconnected.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

const NAME_ACQUIRED: &str = "5c1d0ea2a9c846c1a7d63b9c8f0e2d71";
const BUS_LOST: &str = "b7e94d3f60c14f7d9b2a8c5e1f03a6d4";

/// Why the connection to the bus ended.
enum LeaveReason {
    /// The bus is gone, or never was there.
    Lost(zbus::Error),
    /// The bus policy does not allow the name: right after an installation, it may not be read yet.
    Refused(zbus::Error),
    /// The daemon stops.
    Ending,
}

/// The last record about the connection.
#[derive(Clone, Copy)]
enum Reported {
    Nothing,
    Joined,
    Lost,
    Refused,
}

impl Reported {
    /// Logs the loss of the connection, once. A host that has no bus loses nothing.
    fn log_loss(self, error: &zbus::Error) {
        match self {
            Reported::Nothing => tracing::info!(
                message_id = BUS_LOST,
                mistry_event = "bus-lost",
                error = error as &dyn std::error::Error,
                "not on the bus, which is optional: HTTP is served, and mistryd tries again"
            ),
            Reported::Joined => tracing::warn!(
                message_id = BUS_LOST,
                mistry_event = "bus-lost",
                error = error as &dyn std::error::Error,
                "not on the bus any more: HTTP is served, and mistryd tries to reconnect to the bus"
            ),
            Reported::Lost | Reported::Refused => {}
        }
    }

    /// Logs that the bus refuses the name, once.
    fn log_refusal(self, error: &zbus::Error) {
        if !matches!(self, Reported::Refused) {
            tracing::warn!(
                message_id = BUS_LOST,
                mistry_event = "bus-lost",
                error = error as &dyn std::error::Error,
                "not on the bus: it refuses the name '{NAME}', which its policy allows only to root and the user 'mistry'. HTTP is served, and mistryd asks for the name again"
            );
        }
    }
}

/// Keeps the interface on the bus until it is closed or `stop` is cancelled; returns when it is cancelled.
pub async fn serve(dbus: Dbus, stop: CancellationToken) {
    let ending = dbus.0.ending.clone();
    let staying = async {
        // A caller that waits for a long operation gets the error that the daemon stops.
        let ends = async {
            stop.cancelled().await;
            ending.cancel();
        };
        tokio::join!(stay_connected(&dbus, &stop), ends);
    };
    tokio::select! {
        never = update_busy(&dbus) => match never {},
        () = staying => {}
    }
    dbus.0.tasks.close();
    // Waits for answers that are being sent.
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, dbus.0.tasks.wait()).await;
}

/// Connects to the bus as often as necessary.
async fn stay_connected(dbus: &Dbus, stop: &CancellationToken) {
    let control = &dbus.0.control;
    let mut is_closed = control.is_closed.subscribe();
    let mut reported = Reported::Nothing;
    let mut refused_interval = RETRY_INTERVAL;
    let left = async {
        tokio::select! {
            () = stop.cancelled() => {}
            // The control has the sender.
            _ = is_closed.wait_for(|is_closed| *is_closed) => {}
        }
    };
    let mut left = pin!(left.shared());
    loop {
        control.is_joined.send_replace(true);
        let why = connect_and_serve(dbus, left.clone(), &mut reported).await;
        control.mark_connection_known();
        control.is_joined.send_replace(false);
        let interval = match why {
            LeaveReason::Ending => return,
            LeaveReason::Lost(error) => {
                std::mem::replace(&mut reported, Reported::Lost).log_loss(&error);
                refused_interval = RETRY_INTERVAL;
                RETRY_INTERVAL
            }
            LeaveReason::Refused(error) => {
                std::mem::replace(&mut reported, Reported::Refused).log_refusal(&error);
                refused_interval = (2 * refused_interval).min(LONGEST_RETRY_INTERVAL);
                refused_interval
            }
        };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = &mut left => return,
        }
    }
}

/// Updates the count of pending work.
async fn update_busy(dbus: &Dbus) -> Infallible {
    let control = &dbus.0.control;
    let (mut calls, mut jobs) = (dbus.0.calls.unanswered(), control.jobs.subscribe());
    let mut is_connection_known = control.is_connection_known.subscribe();
    loop {
        let connecting = usize::from(!*is_connection_known.borrow_and_update());
        let busy = connecting + *calls.borrow_and_update() + *jobs.borrow_and_update();
        control
            .busy
            .send_if_modified(|known| std::mem::replace(known, busy) != busy);
        // `dbus` has the senders.
        tokio::select! {
            _ = calls.changed() => {}
            _ = jobs.changed() => {}
            _ = is_connection_known.changed() => {}
        }
    }
}

/// One connection, from start to end; `left` ends it.
async fn connect_and_serve(
    dbus: &Dbus,
    left: impl Future<Output = ()>,
    reported: &mut Reported,
) -> LeaveReason {
    let mut left = pin!(left);
    let connecting = match dbus.0.bus {
        Bus::System => zbus::connection::Builder::system(),
        Bus::User => zbus::connection::Builder::session(),
    };
    let connection = tokio::select! {
        connected = with_connect_timeout(connecting.build()) => match connected {
            Ok(connection) => connection,
            Err(error) => return LeaveReason::Lost(error),
        },
        () = &mut left => return LeaveReason::Ending,
    };
    let objects = Objects::new(dbus.0.control.jobs.clone());
    let why = tokio::select! {
        why = serve_on(dbus, &connection, &objects, reported) => why,
        () = connection.closed() => {
            LeaveReason::Lost(zbus::Error::Failure("the connection to the bus ended".to_owned()))
        }
        () = &mut left => LeaveReason::Ending,
    };
    match why {
        LeaveReason::Ending => {
            // Each step has its own time limit: a bus that hangs must not delay our end.
            let released =
                tokio::time::timeout(2 * ANSWER_TIMEOUT, release_name(dbus, &connection)).await;
            if let Ok(Err(error)) = released {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "left the bus without knowing whether all calls were answered"
                );
            }
            let gone = async {
                objects.leave().await;
                // This waits for answers that are being sent.
                connection.graceful_shutdown().await;
            };
            let _ = tokio::time::timeout(ANSWER_TIMEOUT, gone).await;
        }
        LeaveReason::Lost(_) | LeaveReason::Refused(_) => {
            objects.leave().await;
            // All its clients have disconnected.
            dbus.0.client_handles.bus_lost();
        }
    }
    why
}

/// Runs a step of connecting, which fails if it takes longer than [`CONNECT_TIMEOUT`].
async fn with_connect_timeout<T>(step: impl Future<Output = zbus::Result<T>>) -> zbus::Result<T> {
    let silent = || Err(zbus::Error::Failure("the bus does not answer".to_owned()));
    let done = tokio::time::timeout(CONNECT_TIMEOUT, step).await;
    done.unwrap_or_else(|_| silent())
}

/// Releases the name and answers the calls that came before.
async fn release_name(dbus: &Dbus, connection: &Connection) -> zbus::Result<()> {
    // A later call starts the next process.
    connection.release_name(NAME).await?;
    let returned = wait_for_earlier_calls(connection).await;
    let mut calls = dbus.0.calls.unanswered();
    let answered = calls.wait_for(|calls| *calls == 0);
    // A call that waits for a person or an image gets an error from the bus.
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, answered).await;
    returned
}

/// Returns when all calls that came under the name were received: a message that we send to ourselves over
/// the bus comes after them. The policy in `packaging/dbus` allows it.
async fn wait_for_earlier_calls(connection: &Connection) -> zbus::Result<()> {
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
    reported: &mut Reported,
) -> LeaveReason {
    // Signals after the name is acquired are changes against this state.
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
        // Clients that disconnect: their unique names have no owner any more.
        let leavers = bus.receive_name_owner_changed_with_args(&[(2, "")]).await?;
        let flags = RequestNameFlags::empty();
        let reply = connection.request_name_with_flags(NAME, flags).await?;
        Ok::<_, zbus::Error>((leavers, reply))
    };
    let (leavers, reply) = match with_connect_timeout(prepared).await {
        Ok(prepared) => prepared,
        Err(error) if is_refusal(&error) => return LeaveReason::Refused(error),
        Err(error) => return LeaveReason::Lost(error),
    };
    *reported = Reported::Joined;
    dbus.0.control.mark_connection_known();
    match reply {
        RequestNameReply::InQueue | RequestNameReply::Exists => tracing::warn!(
            message_id = BUS_LOST,
            mistry_event = "bus-lost",
            "another program has the name '{NAME}' on the bus: mistryd waits until the name is free"
        ),
        RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner => tracing::info!(
            message_id = NAME_ACQUIRED,
            mistry_event = "bus-named",
            "on the bus as '{NAME}'"
        ),
    }
    // They all end with the connection.
    let (never, _, _) = tokio::join!(
        publish_jobs(dbus, connection, objects),
        emit_changes(connection, activity, before),
        drop_handles_of_leavers(dbus, leavers)
    );
    match never {}
}

/// Publishes the existing jobs and those that begin.
async fn publish_jobs(dbus: &Dbus, connection: &Connection, objects: &Arc<Objects>) -> Infallible {
    let mut new_jobs = dbus.0.scheduler.new_jobs();
    let mut begun = dbus.0.scheduler.active_jobs().await;
    loop {
        for job in begun {
            // `publish` has logged an error.
            let _ = objects.publish(dbus, connection, job).await;
        }
        begun = match new_jobs.next().await {
            Some(job) => vec![job],
            None => dbus.0.scheduler.active_jobs().await,
        };
    }
}

/// Emits changes of the manager's properties.
async fn emit_changes(
    connection: &Connection,
    mut activity: watch::Receiver<Activity>,
    mut before: Activity,
) -> Infallible {
    let manager = connection.object_server().interface::<_, Manager>(PATH);
    let Ok(manager) = manager.await else {
        // It was registered before this began, so the connection is ending.
        return std::future::pending().await;
    };
    let emitter = manager.signal_emitter();
    loop {
        // The scheduler has the sender.
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

/// Drops the handles of clients that disconnect: their builds were wanted only while they were connected.
async fn drop_handles_of_leavers(dbus: &Dbus, mut leavers: NameOwnerChangedStream) -> Infallible {
    while let Some(leaver) = leavers.next().await {
        if let Ok(leaver) = leaver.args() {
            dbus.0.client_handles.client_left(leaver.name());
        }
    }
    // This stream ends with the connection, whose end is handled elsewhere and releases all handles.
    std::future::pending().await
}

/// True when the bus is there, but its policy does not allow the name.
fn is_refusal(error: &zbus::Error) -> bool {
    name_of(error).as_deref() == Some("org.freedesktop.DBus.Error.AccessDenied")
}
