//! The interfaces of `docs/dbus-api.md`, as they are called.

use std::collections::HashMap;

use zbus::{OwnedFd, OwnedObjectPath, Variant, proxy};

/// `a{sv}`.
pub type Options<'a> = HashMap<&'a str, Variant<'a>>;

/// A live job: id, project, group, phase, object.
pub type LiveJob = (String, String, String, String, OwnedObjectPath);

/// The daemon.
#[proxy(
    interface = "org.mistry.Mistry1.Manager",
    default_service = "org.mistry.Mistry1",
    default_path = "/org/mistry/Mistry1"
)]
pub trait Manager {
    #[zbus(allow_interactive_auth)]
    fn submit_job(
        &self,
        project: &str,
        group: &str,
        params: &HashMap<&str, &str>,
        options: &Options<'_>,
    ) -> zbus::Result<(String, OwnedObjectPath, String)>;
    fn list_jobs(&self) -> zbus::Result<Vec<LiveJob>>;
    fn get_job(&self, id: &str) -> zbus::Result<OwnedObjectPath>;
    fn describe_build(&self, id: &str) -> zbus::Result<String>;
    fn list_builds(&self, filter: &Options<'_>) -> zbus::Result<(Vec<String>, String)>;
    #[zbus(allow_interactive_auth)]
    fn cancel_job(&self, id: &str, reason: &str) -> zbus::Result<()>;
    fn list_projects(&self) -> zbus::Result<Vec<String>>;
    #[zbus(allow_interactive_auth)]
    fn rebuild_image(&self, project: &str) -> zbus::Result<()>;
    #[zbus(allow_interactive_auth)]
    fn pause_queue(&self) -> zbus::Result<()>;
    #[zbus(allow_interactive_auth)]
    fn resume_queue(&self) -> zbus::Result<()>;
    #[zbus(allow_interactive_auth)]
    fn collect_garbage(&self, policy: &Options<'_>) -> zbus::Result<(u64, u64)>;
    #[zbus(allow_interactive_auth)]
    fn reload(&self) -> zbus::Result<()>;
    #[zbus(allow_interactive_auth)]
    fn open_log(&self, id: &str) -> zbus::Result<OwnedFd>;
    #[zbus(allow_interactive_auth)]
    fn open_artifacts(&self, id: &str) -> zbus::Result<OwnedFd>;

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "const"))]
    fn build_path(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "const"))]
    fn file_system(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn job_concurrency(&self) -> zbus::Result<u32>;
    #[zbus(property, name = "NRunning")]
    fn n_running(&self) -> zbus::Result<u32>;
    #[zbus(property, name = "NQueued")]
    fn n_queued(&self) -> zbus::Result<u32>;
    #[zbus(property)]
    fn paused(&self) -> zbus::Result<bool>;

    #[zbus(signal)]
    fn job_new(&self, id: String, job: OwnedObjectPath) -> zbus::Result<()>;
    #[zbus(signal)]
    fn job_removed(&self, id: String, job: OwnedObjectPath, outcome: String) -> zbus::Result<()>;
}

/// A job that is not over.
#[proxy(
    interface = "org.mistry.Mistry1.Job",
    default_service = "org.mistry.Mistry1"
)]
pub trait Job {
    #[zbus(allow_interactive_auth)]
    fn cancel(&self, reason: &str) -> zbus::Result<()>;

    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "const"))]
    fn project(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "const"))]
    fn group(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "const"))]
    fn params(&self) -> zbus::Result<HashMap<String, String>>;
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn stopping(&self) -> zbus::Result<bool>;
    #[zbus(property(emits_changed_signal = "const"))]
    fn queued_at(&self) -> zbus::Result<u64>;
    #[zbus(property)]
    fn started_at(&self) -> zbus::Result<u64>;
    #[zbus(property)]
    fn deadline(&self) -> zbus::Result<u64>;
    #[zbus(property(emits_changed_signal = "const"), name = "StartedByUID")]
    fn started_by_uid(&self) -> zbus::Result<u32>;
    #[zbus(property)]
    fn container_id(&self) -> zbus::Result<String>;
}
