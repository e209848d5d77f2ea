//! The memory that is held for one client.

use std::time::Duration;

use super::error::ApiError;
use crate::budget::{Budget, Client, Held};

/// How long a response that has begun waits for memory: until clients that read nothing are disconnected,
/// and some time more. It also ends two responses that wait for each other.
const WAIT_TIMEOUT: Duration = Duration::from_secs(90);

/// A budget, and the client whose share of it is used.
#[derive(Clone, Debug)]
pub(super) struct ClientBudget {
    budget: Budget,
    client: Client,
}

impl ClientBudget {
    pub(super) fn new(budget: Budget, client: Client) -> ClientBudget {
        ClientBudget { budget, client }
    }

    /// Holds `bytes` for the client, until the value is dropped.
    ///
    /// # Errors
    /// 503 if the server holds as much as it may.
    pub(super) fn hold(&self, bytes: u64) -> Result<Held, ApiError> {
        let held = self.budget.hold(self.client, bytes);
        held.ok_or_else(ApiError::over_budget)
    }

    /// Holds `bytes` for a response that has begun. It waits until other clients release theirs, for
    /// [`WAIT_TIMEOUT`] at most.
    ///
    /// # Errors
    /// 503 if that takes longer, or if `bytes` is more than the client can ever hold.
    pub(super) async fn wait(&self, bytes: u64) -> Result<Held, ApiError> {
        let waiting = self.budget.wait(self.client, bytes);
        let held = tokio::time::timeout(WAIT_TIMEOUT, waiting).await;
        held.ok().flatten().ok_or_else(ApiError::over_budget)
    }

    /// Holds `bytes` that are useful but not necessary, if half of the budget is free.
    pub(super) fn hold_where_plenty(&self, bytes: u64) -> Option<Held> {
        let is_plenty = self.budget.held() < self.budget.limit() / 2;
        is_plenty.then(|| self.budget.hold(self.client, bytes))?
    }
}
