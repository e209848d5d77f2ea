//! Checks before a call is answered: the caller, its permission, and the build that is meant.

use zbus::Connection;
use zbus::message::Header;

use super::authority::{Action, Caller};
use super::error::{Error, Kind};
use super::shared::Dbus;
use crate::api::{CancelRequest, MAX_REASON};
use crate::budget::Client;
use crate::job::{Cancelled, JobId};
use crate::project::ProjectName;
use crate::scheduler;

impl Dbus {
    /// Cancels a build on behalf of the caller.
    pub(super) async fn cancel(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        id: JobId,
        reason: String,
    ) -> Result<(), Error> {
        let reason = CancelRequest { reason }.reason().ok_or_else(|| {
            let expected = format!("reason: expected one line of at most {MAX_REASON} bytes");
            Error::new(Kind::InvalidArgs, expected)
        })?;
        let scheduler = &self.0.scheduler;
        let Some(live) = scheduler.active_job(id).await else {
            // A user who may see builds may know whether it is over, and gets no password prompt.
            self.allow_reading(connection, header).await?;
            let (project, id) = scheduler.locate(None, &id.into()).await?;
            return Err(scheduler::Error::Over(project, id).into());
        };
        let project = live.project();
        let caller = Caller::of(connection, header).await?;
        let cancelled = Cancelled {
            by: caller.asker(),
            reason,
        };
        if live.asker() == Some(&cancelled.by) {
            let own = scheduler.cancel(project, id, cancelled.clone(), true, Client::Local);
            match own.await {
                // It is over, and another client has requested it again since.
                Err(scheduler::Error::NotYours(..)) => {}
                answer => return Ok(answer.map(drop)?),
            }
        }
        self.check(connection, header, &caller, Action::Cancel)
            .await?;
        let cancelling = scheduler.cancel(project, id, cancelled, false, Client::Local);
        Ok(cancelling.await.map(drop)?)
    }

    async fn check(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        caller: &Caller,
        action: Action,
    ) -> Result<(), Error> {
        let authority = &self.0.authority;
        tokio::select! {
            answer = authority.check(connection, header, caller, action) => answer,
            () = self.0.ending.cancelled() => Err(stopping()),
        }
    }

    /// Checks that the caller may do an action.
    pub(super) async fn allow(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        action: Action,
    ) -> Result<Caller, Error> {
        let caller = Caller::of(connection, header).await?;
        self.check(connection, header, &caller, action).await?;
        Ok(caller)
    }

    /// Checks that the caller may see builds.
    pub(super) async fn allow_reading(
        &self,
        connection: &Connection,
        header: &Header<'_>,
    ) -> Result<(), Error> {
        match self.is_closed() {
            true => self.allow(connection, header, Action::Read).await.map(drop),
            false => Ok(()),
        }
    }

    /// The same for one job, which the user who requested it first may see as well.
    pub(super) async fn allow_reading_of(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        asker: Option<&str>,
    ) -> Result<(), Error> {
        if !self.is_closed() || Caller::of(connection, header).await?.is(asker) {
            return Ok(());
        }
        self.allow_reading(connection, header).await
    }

    /// Finds the build whose output an id names, for a caller who may read it.
    pub(super) async fn locate_output(
        &self,
        id: &str,
        connection: &Connection,
        header: &Header<'_>,
        action: Action,
    ) -> Result<(ProjectName, JobId), Error> {
        // If builds are not public, neither is their existence.
        let is_closed = self.is_closed();
        if is_closed {
            self.allow(connection, header, action).await?;
        }
        let located = self.locate(id).await?;
        if !is_closed {
            self.allow(connection, header, action).await?;
        }
        Ok(located)
    }

    /// Finds the build that an id names.
    pub(super) async fn locate(&self, id: &str) -> Result<(ProjectName, JobId), Error> {
        let id = parse_id(id)?;
        Ok(self.0.scheduler.locate(None, &id.into()).await?)
    }
}

pub(super) fn stopping() -> Error {
    Error::new(Kind::Stopping, "the server is stopping; call again")
}

pub(super) fn parse_id(id: &str) -> Result<JobId, Error> {
    id.parse()
        .map_err(|_| Error::new(Kind::InvalidName, "id: expected the 64 hex digits of a job"))
}
