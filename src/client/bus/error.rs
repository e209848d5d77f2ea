//! What an error of the bus is to whoever asked.
//!
//! An error that has a name of the daemon's becomes the refusal that HTTP has for it, so that
//! nobody who reads it need know which way it came. The sentence is the daemon's.

use std::io;

use zbus::fdo;

use super::Scope;
use crate::client::{Error, Refusal};

/// Errors of the daemon, below its name.
const OURS: &str = "org.mistry.Mistry1.Error.";
/// The build is not over, or left no artifacts.
pub(super) const NO_ARTIFACTS: &str = "org.mistry.Mistry1.Error.NoArtifacts";

/// The name and the sentence of an error that somebody on the bus has answered with.
pub(super) fn named(error: &zbus::Error) -> Option<(String, String)> {
    use zbus::DBusError;
    match error {
        zbus::Error::MethodError(name, sentence, _) => {
            Some((name.to_string(), sentence.clone().unwrap_or_default()))
        }
        zbus::Error::FDO(error) => match &**error {
            fdo::Error::ZBus(inner) => named(inner),
            known => Some((
                known.name().to_string(),
                known.description().unwrap_or_default().to_owned(),
            )),
        },
        _ => None,
    }
}

/// The error as those have it who do not know the bus.
pub(super) fn told(scope: Scope, error: zbus::Error) -> Error {
    match named(&error) {
        Some((name, sentence)) => answered(scope, &name, sentence),
        None => match error {
            zbus::Error::InputOutput(source) => Error::Broken(Box::new(source)),
            other => Error::Nonsense(other.to_string()),
        },
    }
}

/// There is no bus, or we are not let on it.
pub(super) fn no_bus(scope: Scope, error: &zbus::Error) -> Error {
    let kind = match error {
        zbus::Error::InputOutput(source) | zbus::Error::Connection(source, _) => source.kind(),
        _ => io::ErrorKind::Other,
    };
    Error::NotOnBus {
        scope,
        source: io::Error::new(kind, error.to_string()),
    }
}

/// Nobody answers in time.
pub(super) fn silent(scope: Scope) -> Error {
    Error::NotOnBus {
        scope,
        source: io::ErrorKind::TimedOut.into(),
    }
}

fn answered(scope: Scope, name: &str, sentence: String) -> Error {
    let refused = |status| {
        Error::Refused(Refusal {
            status,
            sentence: match sentence.as_str() {
                "" => format!("the server answered with {name}"),
                sentence => sentence.to_owned(),
            },
            request: String::new(),
            job: None,
            retry_after: None,
        })
    };
    if let Some(kind) = name.strip_prefix(OURS) {
        // What it had accepted goes on, and who asks for it again joins it.
        if kind == "Stopping" {
            return Error::Broken(sentence.into());
        }
        return refused(match kind {
            "NoSuchProject" | "NoSuchJob" | "NoArtifacts" => 404,
            "JobOver" | "JobBusy" => 409,
            "BadProject" | "NoPolicy" | "BadConfiguration" => 422,
            "InvalidName" => 400,
            "BacklogFull" | "EngineUnavailable" => 503,
            "NotSupported" => 501,
            // An image that cannot be built, what is the daemon's own fault, and what a later
            // one may say.
            _ => 500,
        });
    }
    let kind = name.strip_prefix("org.freedesktop.DBus.Error.");
    match kind.unwrap_or_default() {
        "AccessDenied" | "InteractiveAuthorizationRequired" | "AuthFailed" => refused(403),
        "LimitsExceeded" => refused(429),
        "InvalidArgs" => refused(400),
        // What the bus says when the daemon ends with a call in hand.
        "NoReply" | "Disconnected" => Error::Broken(sentence.into()),
        "ServiceUnknown" | "NameHasNoOwner" | "NoServer" | "NoNetwork" => Error::NotOnBus {
            scope,
            source: io::Error::new(io::ErrorKind::NotFound, sentence),
        },
        // The bus has tried to start the daemon.
        "Timeout" | "TimedOut" => Error::NotOnBus {
            scope,
            source: io::Error::new(io::ErrorKind::TimedOut, sentence),
        },
        other if other.starts_with("Spawn.") => Error::NotOnBus {
            scope,
            source: io::Error::other(sentence),
        },
        _ => Error::Nonsense(format!("{name}: {sentence}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Error {
        answered(Scope::System, name, "a sentence".to_owned())
    }

    #[test]
    fn an_error_of_the_daemon_is_a_refusal_in_its_own_words() {
        for (name, status, passing) in [
            ("NoSuchProject", 404, false),
            ("NoSuchJob", 404, false),
            ("InvalidName", 400, false),
            ("BadProject", 422, false),
            ("JobOver", 409, false),
            ("BacklogFull", 503, true),
            ("EngineUnavailable", 503, true),
            ("ImageFailed", 500, false),
            ("NotSupported", 501, false),
            ("Novelty", 500, false),
        ] {
            let error = of(&format!("{OURS}{name}"));
            assert_eq!(error.is_passing(), passing, "{name}");
            assert_eq!(error.to_string(), "a sentence");
            assert!(matches!(error, Error::Refused(no) if no.status == status));
        }
        // Whoever asks again joins what was accepted.
        let error = of(&format!("{OURS}Stopping"));
        assert!(matches!(&error, Error::Broken(_)) && error.is_passing());
    }

    #[test]
    fn errors_that_every_service_has_are_told_apart() {
        let common = |name: &str| of(&format!("org.freedesktop.DBus.Error.{name}"));
        for (name, status) in [
            ("AccessDenied", 403),
            ("InteractiveAuthorizationRequired", 403),
            ("LimitsExceeded", 429),
            ("InvalidArgs", 400),
        ] {
            assert!(matches!(common(name), Error::Refused(no) if no.status == status));
        }
        for name in ["NoReply", "Disconnected"] {
            assert!(matches!(common(name), Error::Broken(_)), "{name}");
        }
        for name in ["ServiceUnknown", "TimedOut", "Spawn.ChildExited"] {
            let error = common(name);
            assert!(error.is_passing(), "{name}");
            let told = error.to_string();
            assert_eq!(told, "could not reach the server on the system bus");
        }
        for name in ["UnknownMethod", "Whatever"] {
            assert!(matches!(common(name), Error::Nonsense(_)), "{name}");
        }
        assert!(matches!(of("com.example.Odd"), Error::Nonsense(_)));
    }

    #[test]
    fn a_sentence_is_never_empty() {
        let error = answered(Scope::User, &format!("{OURS}JobBusy"), String::new());
        assert!(error.to_string().ends_with("JobBusy"));
    }

    #[test]
    fn what_the_library_knows_is_told_by_its_name() {
        let error = zbus::Error::from(fdo::Error::AccessDenied("not you".to_owned()));
        let told = told(Scope::System, error);
        assert!(matches!(&told, Error::Refused(no) if no.status == 403));
        assert_eq!(told.to_string(), "not you");
        let gone = zbus::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(super::told(Scope::System, gone), Error::Broken(_)));
    }
}
