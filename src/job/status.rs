//! What a build is doing, and how it ended.

use serde::{Deserialize, Serialize};

/// Where a build's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Accepted and not finished.
    Pending,
    /// Finished, whatever its outcome.
    Ready,
}

impl State {
    /// Name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Ready => "ready",
        }
    }
}

/// What a pending build is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It waits for a slot.
    Queued,
    /// Its directory is created or cloned.
    Preparing,
    /// Its image is looked up or built.
    Imaging,
    /// Its container runs.
    Running,
    /// Its result is put in place.
    Finishing,
}

impl Phase {
    /// Name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Queued => "queued",
            Phase::Preparing => "preparing",
            Phase::Imaging => "imaging",
            Phase::Running => "running",
            Phase::Finishing => "finishing",
        }
    }
}

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Its container exited with 0.
    Succeeded,
    /// Its container exited with another code.
    Failed,
    /// It could not be run to its end; `err` gives the cause.
    Errored,
    /// It was stopped on request.
    Cancelled,
    /// A deadline stopped it.
    TimedOut,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Outcome; 5] = [
        Outcome::Succeeded,
        Outcome::Failed,
        Outcome::Errored,
        Outcome::Cancelled,
        Outcome::TimedOut,
    ];

    /// Name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
            Outcome::Errored => "errored",
            Outcome::Cancelled => "cancelled",
            Outcome::TimedOut => "timed-out",
        }
    }
}

/// The origin and reason of a cancellation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct Cancelled {
    /// Requesting client.
    pub by: String,
    /// The reason given.
    pub reason: String,
}

/// The duration of each phase in milliseconds; null for a phase that did not happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase", default)]
pub struct Phases {
    /// From acceptance to a slot, or to the end of a build that ended before it had one.
    pub waiting: Option<u64>,
    /// Creating or cloning the directory.
    pub snapshot: Option<u64>,
    /// Finding or building the image.
    pub image: Option<u64>,
    /// The container, from its creation to its end.
    pub run: Option<u64>,
    /// From then on: the container's end examined, the result put in place.
    pub finish: Option<u64>,
}

/// What a build is doing, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is not over.
    Pending(Phase),
    /// It is over.
    Ready(Outcome),
}

impl Status {
    /// Pending or ready.
    pub fn state(self) -> State {
        match self {
            Status::Pending(_) => State::Pending,
            Status::Ready(_) => State::Ready,
        }
    }

    /// What it is doing; `None` once it is over.
    pub fn phase(self) -> Option<Phase> {
        match self {
            Status::Pending(phase) => Some(phase),
            Status::Ready(_) => None,
        }
    }

    /// How it ended; `None` before.
    pub fn outcome(self) -> Option<Outcome> {
        match self {
            Status::Pending(_) => None,
            Status::Ready(outcome) => Some(outcome),
        }
    }

    /// Phase or outcome, by its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending(phase) => phase.as_str(),
            Status::Ready(outcome) => outcome.as_str(),
        }
    }
}
