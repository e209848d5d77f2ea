//! Which name and sentence an error has on the bus: the one place.
//!
//! Strangers get the sentence; what is our fault goes to the journal with its cause.

use zbus::message::Header;
use zbus::names::ErrorName;

use crate::build;
use crate::project::{self, NameError};
use crate::scheduler::Error as Heart;

/// Errors of ours, below the name on the bus.
const OURS: &str = "org.mistry.Mistry1.Error.";
/// Errors that every service has.
const COMMON: &str = "org.freedesktop.DBus.Error.";

/// A call that is not answered as asked.
#[derive(Debug)]
pub(super) struct Error {
    kind: Kind,
    sentence: String,
}

/// What went wrong, as callers tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is no such project, or nothing to build it by.
    NoSuchProject,
    /// The project cannot be built as it is.
    BadProject,
    /// There is no such job or build; or none that is live, where only that would do.
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
    /// The daemon ends; a job that was accepted goes on in its next process.
    Stopping,
    /// The image cannot be built.
    ImageFailed,
    /// No rule says what garbage is.
    NoPolicy,
    /// The configuration was not reloaded.
    BadConfiguration,
    /// This host cannot do what was asked.
    NotSupported,
    /// Ours.
    Failed,
    /// An argument or option that cannot be.
    InvalidArgs,
    /// Too much, or too many at once.
    LimitsExceeded,
    /// Not allowed.
    AccessDenied,
    /// Allowed perhaps, once a person has been asked for a password.
    InteractiveAuthorizationRequired,
}

impl Kind {
    /// As on the bus.
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

    /// Ours: the cause goes to the journal.
    pub(super) fn ours(sentence: &'static str, cause: &(dyn std::error::Error + 'static)) -> Error {
        tracing::error!(error = cause, "on the bus: {sentence}");
        Error::new(Kind::Failed, sentence)
    }
}

/// The name of the error that a call of ours was answered with; `None` where there was no answer.
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

impl From<Heart> for Error {
    fn from(error: Heart) -> Error {
        let kind = kind(&error);
        // Why a job was rejected the scheduler has told, once for all who wait.
        if kind == Kind::Failed && !matches!(error, Heart::Rejected(_)) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a call on the bus failed"
            );
        }
        Error::new(kind, error.to_string())
    }
}

/// No `_` arm: a new variant must be given a name by a person.
fn kind(error: &Heart) -> Kind {
    match error {
        Heart::Project(project) => match project {
            project::Error::Unknown(_) | project::Error::NoDockerfile(_) => Kind::NoSuchProject,
            project::Error::Unbuildable(..)
            | project::Error::Settings(..)
            | project::Error::Changed(_) => Kind::BadProject,
            project::Error::Read(..) | project::Error::List(_) => Kind::Failed,
        },
        Heart::UnknownJob(..) | Heart::NoBuild(_) | Heart::NoRecord(..) => Kind::NoSuchJob,
        Heart::NoLog(..) => Kind::NoLog,
        Heart::NoArtifacts(..) => Kind::NoArtifacts,
        Heart::Store(build::Error::Confine(..)) => Kind::NotSupported,
        Heart::Over(..) => Kind::JobOver,
        Heart::NotYours(..) => Kind::AccessDenied,
        Heart::Held(..) => Kind::JobBusy,
        Heart::BacklogFull => Kind::BacklogFull,
        Heart::ReadersFull | Heart::ScansFull | Heart::BodiesFull => Kind::LimitsExceeded,
        Heart::EngineAway(_) => Kind::EngineUnavailable,
        Heart::Image(..) => Kind::ImageFailed,
        Heart::Ending | Heart::Stopping(..) => Kind::Stopping,
        Heart::NoPolicy => Kind::NoPolicy,
        Heart::Engine(..) | Heart::Store(_) | Heart::Log(_) | Heart::Lost => Kind::Failed,
        Heart::Rejected(inner) => self::kind(inner),
    }
}
