//! The signals of the manager about jobs.

use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath};

use super::bus::PATH;
use crate::job::{JobId, Outcome};

/// The interface of the signals; `manager.rs` declares them.
const MANAGER: &str = "org.mistry.Mistry1.Manager";

/// Emits that a job has an object now.
pub(super) async fn emit_job_new(
    connection: &Connection,
    id: JobId,
    path: &str,
) -> zbus::Result<()> {
    let emitter = SignalEmitter::new(connection, PATH)?;
    let body = (id.to_string(), ObjectPath::try_from(path)?);
    emitter.emit(MANAGER, "JobNew", &body).await
}

/// Emits that a job is over and its object removed.
pub(super) async fn emit_job_removed(
    connection: &Connection,
    id: JobId,
    path: &str,
    outcome: Outcome,
) -> zbus::Result<()> {
    let emitter = SignalEmitter::new(connection, PATH)?;
    let body = (
        id.to_string(),
        ObjectPath::try_from(path)?,
        outcome.as_str(),
    );
    emitter.emit(MANAGER, "JobRemoved", &body).await
}
