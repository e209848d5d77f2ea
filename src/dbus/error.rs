//! Maps each error to its name and message on the bus. No other module does that.
//!
//! Clients get the message; the cause of an internal error goes to the journal.

use zbus::message::Header;
use zbus::names::ErrorName;

use crate::build;
use crate::project::{self, NameError};
use crate::scheduler::Error as SchedulerError;

/// Prefix of mistry's own errors.
const OURS: &str = "org.mistry.Mistry1.Error.";
/// Prefix of the standard D-Bus errors.
const COMMON: &str = "org.freedesktop.DBus.Error.";

/// The error reply to a call.
#[derive(Debug)]
pub(super) struct Error {
    kind: Kind,
    sentence: String,
}

/// The kinds of errors that callers can distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is no such project, or it has no Dockerfile.
    NoSuchProject,
    /// The project cannot be built as it is.
    BadProject,
    /// There is no such job or build; or no active one, where the call needs one.
    NoSuchJob,
    /// The build is not over, or left no artifacts.
    NoArtifacts,
    /// The build's log was removed.
    NoLog,
    /// The job is over, so it cannot be cancelled.
    JobOver,
    /// The build is not over, or its directory is in use.
    JobBusy,
    /// Every slot and every place in the queue is taken.
    BacklogFull,
    /// A name breaks its rule.
    InvalidName,
    /// No Docker Engine answers.
    EngineUnavailable,
    /// The daemon stops; the next process continues accepted jobs.
    Stopping,
    /// The image cannot be built.
    ImageFailed,
    /// No rule for garbage is configured.
    NoPolicy,
    /// The configuration was not reloaded.
    BadConfiguration,
    /// This host cannot do what was asked.
    NotSupported,
    /// Internal.
    Failed,
    /// An invalid argument or option.
    InvalidArgs,
    /// A size or count exceeds its limit.
    LimitsExceeded,
    /// Not allowed.
    AccessDenied,
    /// The action may be allowed after a password prompt.
    InteractiveAuthorizationRequired,
}

impl Kind {
    /// Prefix and name.
    pub(super) fn name(self) -> (&'static str, &'static str) {
        match self {
            Kind::NoSuchProject => (OURS, "NoSuchProject"),
            Kind::BadProject => (OURS, "BadProject"),
            Kind::NoSuchJob => (OURS, "NoSuchJob"),
            Kind::NoArtifacts => (OURS, "NoArtifacts"),
            Kind::NoLog => (OURS, "NoLog"),
            Kind::JobOver => (OURS, "JobOver"),
            Kind::JobBusy => (OURS, "JobBusy"),
            Kind::BacklogFull => (OURS, "BacklogFull"),
            Kind::InvalidName => (OURS, "InvalidName"),
            Kind::EngineUnavailable => (OURS, "EngineUnavailable"),
            Kind::Stopping => (OURS, "Stopping"),
            Kind::ImageFailed => (OURS, "ImageFailed"),
            Kind::NoPolicy => (OURS, "NoPolicy"),
            Kind::BadConfiguration => (OURS, "BadConfiguration"),
            Kind::NotSupported => (OURS, "NotSupported"),
            Kind::Failed => (OURS, "Failed"),
            Kind::InvalidArgs => (COMMON, "InvalidArgs"),
            Kind::LimitsExceeded => (COMMON, "LimitsExceeded"),
            Kind::AccessDenied => (COMMON, "AccessDenied"),
            Kind::InteractiveAuthorizationRequired => (COMMON, "InteractiveAuthorizationRequired"),
        }
    }
}

impl Error {
    pub(super) fn new(kind: Kind, sentence: impl Into<String>) -> Error {
        Error {
            kind,
            sentence: sentence.into(),
        }
    }

    /// An internal error: the cause goes to the journal.
    pub(super) fn ours(sentence: &'static str, cause: &(dyn std::error::Error + 'static)) -> Error {
        tracing::error!(error = cause, "on the bus: {sentence}");
        Error::new(Kind::Failed, sentence)
    }
}

/// The error name of a reply to a call that we made; `None` where there was no reply.
pub(super) fn name_of(error: &zbus::Error) -> Option<String> {
    use zbus::DBusError;
    match error {
        zbus::Error::MethodError(name, ..) => Some(name.to_string()),
        zbus::Error::FDO(error) => Some(error.name().to_string()),
        _ => None,
    }
}

impl zbus::DBusError for Error {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<zbus::Message> {
        zbus::Message::error(call, self.name()).build(&self.sentence)
    }

    fn name(&self) -> ErrorName<'_> {
        let (space, name) = self.kind.name();
        ErrorName::from_string_unchecked(format!("{space}{name}"))
    }

    fn description(&self) -> Option<&str> {
        Some(&self.sentence)
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Error {
        Error::new(Kind::InvalidName, error.to_string())
    }
}

impl From<SchedulerError> for Error {
    fn from(error: SchedulerError) -> Error {
        let kind = kind(&error);
        // The scheduler has logged why a job was rejected, once for all waiters.
        if kind == Kind::Failed && !matches!(error, SchedulerError::Rejected(_)) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a call on the bus failed"
            );
        }
        Error::new(kind, error.to_string())
    }
}

/// There is no `_` arm: each new variant must be given a name.
fn kind(error: &SchedulerError) -> Kind {
    match error {
        SchedulerError::Project(project) => match project {
            project::Error::Unknown(..) | project::Error::NoDockerfile(_) => Kind::NoSuchProject,
            project::Error::Unbuildable(..)
            | project::Error::Settings(..)
            | project::Error::Changed(_) => Kind::BadProject,
            project::Error::Params(..) => Kind::InvalidArgs,
            project::Error::Read(..) | project::Error::List(_) => Kind::Failed,
        },
        SchedulerError::UnknownJob(..)
        | SchedulerError::NoAttempt(..)
        | SchedulerError::NoBuild(_)
        | SchedulerError::AmbiguousId(..)
        | SchedulerError::UnknownGroup(..)
        | SchedulerError::NoRecord(..) => Kind::NoSuchJob,
        SchedulerError::NoLog(..) => Kind::NoLog,
        SchedulerError::NoArtifacts(..) => Kind::NoArtifacts,
        SchedulerError::Store(build::Error::Confine(..)) => Kind::NotSupported,
        SchedulerError::Over(..) => Kind::JobOver,
        SchedulerError::NotYours(..) => Kind::AccessDenied,
        SchedulerError::Kept(..) => Kind::JobBusy,
        SchedulerError::BacklogFull => Kind::BacklogFull,
        SchedulerError::ReadersFull | SchedulerError::ScansFull | SchedulerError::BodiesFull => {
            Kind::LimitsExceeded
        }
        SchedulerError::EngineAway(_) => Kind::EngineUnavailable,
        SchedulerError::Image(..) | SchedulerError::ImageLeft(..) => Kind::ImageFailed,
        SchedulerError::NotOfTheImage(..) => Kind::InvalidArgs,
        SchedulerError::Ending | SchedulerError::Stopping(..) => Kind::Stopping,
        SchedulerError::NoPolicy => Kind::NoPolicy,
        SchedulerError::Engine(..)
        | SchedulerError::Store(_)
        | SchedulerError::Log(_)
        | SchedulerError::Lost => Kind::Failed,
        SchedulerError::Rejected(inner) => self::kind(inner),
    }
}
