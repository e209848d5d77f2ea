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
    /// Asks for a build; may ask a person for a password.
    #[zbus(allow_interactive_auth)]
    fn submit_job(
        &self,
        project: &str,
        group: &str,
        params: &HashMap<&str, &str>,
        options: &Options<'_>,
    ) -> zbus::Result<(String, OwnedObjectPath, String)>;
    /// Jobs that are not over.
    fn list_jobs(&self) -> zbus::Result<Vec<LiveJob>>;
    /// The object of a job that is not over.
    fn get_job(&self, id: &str) -> zbus::Result<OwnedObjectPath>;
    /// All about a build, as JSON.
    fn describe_build(&self, id: &str) -> zbus::Result<String>;
    /// Builds as JSON, and where the next page begins.
    fn list_builds(&self, filter: &Options<'_>) -> zbus::Result<(Vec<String>, String)>;
    /// Has a build stopped.
    #[zbus(allow_interactive_auth)]
    fn cancel_job(&self, id: &str, reason: &str) -> zbus::Result<()>;
    /// All projects.
    fn list_projects(&self) -> zbus::Result<Vec<String>>;
    /// A new image.
    #[zbus(allow_interactive_auth)]
    fn rebuild_image(&self, project: &str) -> zbus::Result<()>;
    /// Nothing new begins.
    #[zbus(allow_interactive_auth)]
    fn pause_queue(&self) -> zbus::Result<()>;
    /// What waits begins.
    #[zbus(allow_interactive_auth)]
    fn resume_queue(&self) -> zbus::Result<()>;
    /// Removes old builds: how many, and how many bytes.
    #[zbus(allow_interactive_auth)]
    fn collect_garbage(&self, policy: &Options<'_>) -> zbus::Result<(u64, u64)>;
    /// Reads the configuration again.
    #[zbus(allow_interactive_auth)]
    fn reload(&self) -> zbus::Result<()>;
    /// A build's log.
    #[zbus(allow_interactive_auth)]
    fn open_log(&self, id: &str) -> zbus::Result<OwnedFd>;
    /// A build's artifacts.
    #[zbus(allow_interactive_auth)]
    fn open_artifacts(&self, id: &str) -> zbus::Result<OwnedFd>;

    /// mistryd's version.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> zbus::Result<String>;
    /// Where projects are.
    #[zbus(property(emits_changed_signal = "const"))]
    fn projects_path(&self) -> zbus::Result<String>;
    /// Where builds are.
    #[zbus(property(emits_changed_signal = "const"))]
    fn build_path(&self) -> zbus::Result<String>;
    /// What they are on.
    #[zbus(property(emits_changed_signal = "const"))]
    fn file_system(&self) -> zbus::Result<String>;
    /// Builds that may run in parallel.
    #[zbus(property)]
    fn job_concurrency(&self) -> zbus::Result<u32>;
    /// Jobs that may wait.
    #[zbus(property)]
    fn job_backlog(&self) -> zbus::Result<u32>;
    /// Builds that run.
    #[zbus(property, name = "NRunning")]
    fn n_running(&self) -> zbus::Result<u32>;
    /// Jobs that wait.
    #[zbus(property, name = "NQueued")]
    fn n_queued(&self) -> zbus::Result<u32>;
    /// Nothing new begins.
    #[zbus(property)]
    fn paused(&self) -> zbus::Result<bool>;

    /// A job began.
    #[zbus(signal)]
    fn job_new(&self, id: String, job: OwnedObjectPath) -> zbus::Result<()>;
    /// A job is over.
    #[zbus(signal)]
    fn job_removed(&self, id: String, job: OwnedObjectPath, outcome: String) -> zbus::Result<()>;
}

/// A job that is not over.
#[proxy(
    interface = "org.mistry.Mistry1.Job",
    default_service = "org.mistry.Mistry1"
)]
pub trait Job {
    /// Has the build stopped.
    #[zbus(allow_interactive_auth)]
    fn cancel(&self, reason: &str) -> zbus::Result<()>;

    /// The job's id.
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> zbus::Result<String>;
    /// The project.
    #[zbus(property(emits_changed_signal = "const"))]
    fn project(&self) -> zbus::Result<String>;
    /// The group, or "".
    #[zbus(property(emits_changed_signal = "const"))]
    fn group(&self) -> zbus::Result<String>;
    /// The params.
    #[zbus(property(emits_changed_signal = "const"))]
    fn params(&self) -> zbus::Result<HashMap<String, String>>;
    /// What it is doing.
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    /// When it was accepted.
    #[zbus(property(emits_changed_signal = "const"))]
    fn queued_at(&self) -> zbus::Result<u64>;
    /// When it got its slot.
    #[zbus(property)]
    fn started_at(&self) -> zbus::Result<u64>;
    /// When it must have ended.
    #[zbus(property)]
    fn deadline(&self) -> zbus::Result<u64>;
    /// Who asked for it.
    #[zbus(property(emits_changed_signal = "const"), name = "StartedByUID")]
    fn started_by_uid(&self) -> zbus::Result<u32>;
    /// Its container.
    #[zbus(property)]
    fn container_id(&self) -> zbus::Result<String>;
}
