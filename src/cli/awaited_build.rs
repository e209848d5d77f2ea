//! A build that is awaited: its job, once the server has accepted it, and what is printed meanwhile.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use super::Error;
use super::build_facts::{describe_joined, refresh};
use super::build_progress::BuildProgress;
use super::format::short_id;
use super::log_follower::LogFollower;
use super::output::print_line;
use super::server::ServerFlags;
use crate::api::JobState;
use crate::client::{self, Client};
use crate::job::JobId;
use crate::project::ProjectName;

/// What is printed while the build is awaited.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitOptions {
    /// Print the log to standard error.
    pub print_log: bool,
    /// Print to standard output where the log can be found.
    pub print_log_location: bool,
    /// The request asked for cancellation on disconnect; messages say so.
    pub cancel_on_disconnect: bool,
    /// How long a server that is busy is asked again before it has accepted the job.
    pub busy_timeout: Option<Duration>,
}

/// The build, and what was printed about it.
#[derive(Debug)]
pub(super) struct AwaitedBuild<'a> {
    pub(super) client: &'a Client,
    flags: &'a ServerFlags,
    pub(super) project: ProjectName,
    pub(super) options: WaitOptions,
    pub(super) progress: Rc<BuildProgress>,
    /// Set when the server has accepted the job.
    pub(super) job: Option<LogFollower>,
    /// The lost connection was reported to the user.
    pub(super) reported_lost: bool,
    /// That another client had requested the build was reported.
    reported_joined: bool,
}

impl<'a> AwaitedBuild<'a> {
    pub(super) fn new(
        client: &'a Client,
        flags: &'a ServerFlags,
        project: ProjectName,
        options: WaitOptions,
    ) -> AwaitedBuild<'a> {
        AwaitedBuild {
            client,
            flags,
            project,
            options,
            progress: Rc::new(BuildProgress::new(options.print_log)),
            job: None,
            reported_lost: false,
            reported_joined: false,
        }
    }

    /// The id of the job, once it is accepted.
    pub(super) fn accepted_id(&self) -> Option<JobId> {
        self.job.as_ref().map(|job| job.id)
    }

    /// Reports the progress until it is dropped.
    pub(super) fn report(&self) -> impl Future<Output = Infallible> + use<'a> {
        let (client, project) = (self.client, self.project.clone());
        let progress = self.progress.clone();
        async move {
            let refresh = async || refresh(client, &project, &progress).await;
            progress
                .report(refresh, |text| progress.message(text))
                .await
        }
    }

    /// Takes a state of the job, as the server sends it.
    pub(super) async fn update_state(&mut self, state: &JobState) -> Result<(), Error> {
        let id = state.id.parse();
        let id =
            id.map_err(|_| client::Error::InvalidResponse("a job without an id".to_owned()))?;
        self.accept(id)?;
        self.progress.set_job_phase(state.phase, state.stopping);
        if state.coalesced && !std::mem::replace(&mut self.reported_joined, true) {
            let text = describe_joined(self.client, &self.project, id).await;
            self.progress.message(&text);
        }
        Ok(())
    }

    /// Stores the id of the accepted job; prints the location of its log if this is new.
    pub(super) fn accept(&mut self, id: JobId) -> Result<(), Error> {
        if self.job.is_some() {
            return Ok(());
        }
        self.job = Some(LogFollower::new(self.project.clone(), id));
        self.progress.accepted.set(Some(id));
        if !self.options.print_log_location {
            return Ok(());
        }
        let page = format!("job/{}/{id}", self.project);
        let line = match self.client.address().page(&page) {
            Some(url) => format!("Logs can be found at {url}"),
            None => {
                let command = self.flags.suggest_command("logs", &id.to_string());
                format!("Logs can be found with: {command}")
            }
        };
        self.progress.suspend(|| print_line(&line))
    }

    /// Prints once that the connection was lost.
    pub(super) fn report_lost_connection(&mut self) {
        if std::mem::replace(&mut self.reported_lost, true) {
            return;
        }
        let id = self
            .accepted_id()
            .map_or_else(String::new, |id| id.to_string());
        let id = short_id(&id);
        let consequence = match self.options.cancel_on_disconnect {
            true => {
                "the build is cancelled unless another client wants it or the server was restarted"
            }
            false => "the build goes on",
        };
        self.progress.set_phase("connecting");
        self.progress.message(&format!(
            "The connection to the server was lost; {consequence}; reconnecting to {id}"
        ));
    }
}
