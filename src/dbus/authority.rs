//! Authorisation: root may do everything, other users what polkit allows.
//!
//! The caller's identity comes from the bus, never from the caller. Without a polkit daemon, root and members
//! of the group `mistry` are allowed, no other user; on a user's bus, only that user.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::unistd::Group;
use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::message::{Flags, Header};
use zbus::names::BusName;
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use parking_lot::{Mutex, MutexGuard};

use super::bus::Bus;
use super::error::{Error, Kind, name_of};

/// Its members may use the daemon.
const GROUP: &str = "mistry";
/// Time for a user to enter a password; polkit's own agents give up after some minutes.
const PERSON_TIMEOUT: Duration = Duration::from_secs(300);
/// Time for polkit to evaluate its rules, without a password prompt.
const RULES_TIMEOUT: Duration = Duration::from_secs(25);

/// The actions that can be allowed; `packaging/dbus/org.mistry.mistry1.policy` describes them to users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Submit,
    Cancel,
    Rebuild,
    Gc,
    Pause,
    Reload,
    Read,
    ReadOutput,
}

impl Action {
    /// The polkit action id.
    fn id(self) -> &'static str {
        match self {
            Action::Submit => "org.mistry.mistry1.submit",
            Action::Cancel => "org.mistry.mistry1.cancel",
            Action::Rebuild => "org.mistry.mistry1.rebuild",
            Action::Gc => "org.mistry.mistry1.gc",
            Action::Pause => "org.mistry.mistry1.pause",
            Action::Reload => "org.mistry.mistry1.reload",
            Action::Read => "org.mistry.mistry1.read",
            Action::ReadOutput => "org.mistry.mistry1.read-output",
        }
    }

    /// Its name in error texts.
    fn description(self) -> &'static str {
        match self {
            Action::Submit => "start a build",
            Action::Cancel => "cancel a build of another user",
            Action::Rebuild => "rebuild an image",
            Action::Gc => "remove old builds",
            Action::Pause => "pause or resume the queue",
            Action::Reload => "reload the configuration",
            Action::Read => "see builds",
            Action::ReadOutput => "read what builds have left",
        }
    }
}

/// Calls of one user that may wait for a password at once: there is one person to ask, and more prompts would
/// only annoy. The limit is per user, so other users are not affected.
const MAX_PROMPTS_PER_USER: usize = 4;

/// The authority.
#[derive(Debug)]
pub(super) struct Authority {
    /// On a user's own bus: the uid of that user.
    owner: Option<u32>,
    /// The open prompts of each user. Locked for a count.
    asked: Mutex<HashMap<u32, usize>>,
    /// Numbers the requests to polkit, so that they can be cancelled.
    questions: AtomicU64,
}

/// An open password prompt of a user; closed when dropped.
struct PromptCount<'a>(&'a Authority, u32);

impl Drop for PromptCount<'_> {
    fn drop(&mut self) {
        let mut asked = self.0.asked();
        if let Some(count) = asked.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                asked.remove(&self.1);
            }
        }
    }
}

/// A caller as the bus identifies it.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    uid: u32,
    groups: Vec<u32>,
}

impl Caller {
    /// Asks the bus for the sender of a call.
    pub(super) async fn of(connection: &Connection, header: &Header<'_>) -> Result<Caller, Error> {
        let unknown = || Error::new(Kind::AccessDenied, "the bus does not say who calls");
        let sender = header.sender().ok_or_else(unknown)?.to_owned();
        let bus = DBusProxy::new(connection).await;
        let bus = bus.map_err(|error| Error::ours("could not ask the bus who calls", &error))?;
        // A caller that has disconnected by now needs no answer.
        let known = bus
            .get_connection_credentials(BusName::Unique(sender))
            .await;
        let known = known.map_err(|_| unknown())?;
        Ok(Caller {
            uid: known.unix_user_id().ok_or_else(unknown)?,
            groups: known.unix_group_ids().cloned().unwrap_or_default(),
        })
    }

    /// Whether the caller is the user that a job names.
    pub(super) fn is(&self, asker: Option<&str>) -> bool {
        user_of(asker) == Some(self.uid)
    }

    /// The form in which jobs name their user, the same for all interfaces.
    pub(super) fn asker(&self) -> String {
        format!("uid {}", self.uid)
    }
}

/// The uid of a job's user, if it is a user of the host.
pub(super) fn user_of(asker: Option<&str>) -> Option<u32> {
    asker?.strip_prefix("uid ")?.parse().ok()
}

impl Authority {
    pub(super) fn of(bus: Bus) -> Authority {
        Authority {
            owner: (bus == Bus::User).then(|| rustix::process::geteuid().as_raw()),
            asked: Mutex::default(),
            questions: AtomicU64::new(0),
        }
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.asked.lock()
    }

    /// Counts a password prompt, or fails if the user has too many.
    fn count_prompt(&self, uid: u32) -> Result<PromptCount<'_>, Error> {
        let mut asked = self.asked();
        let count = asked.entry(uid).or_default();
        if *count >= MAX_PROMPTS_PER_USER {
            return Err(Error::new(
                Kind::LimitsExceeded,
                format!("you are being asked for a password {MAX_PROMPTS_PER_USER} times already"),
            ));
        }
        *count += 1;
        Ok(PromptCount(self, uid))
    }

    /// Checks that a caller may do an action. If the call allows a password prompt, this may take as long as
    /// a person takes to enter one.
    pub(super) async fn check(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        caller: &Caller,
        action: Action,
    ) -> Result<(), Error> {
        if caller.uid == 0 || self.owner == Some(caller.uid) {
            return Ok(());
        }
        let may_ask = header
            .primary()
            .flags()
            .contains(Flags::ALLOW_INTERACTIVE_AUTH);
        let asked = match self.owner {
            // polkit is on the system's bus, and does not know the clients of this bus.
            Some(_) => None,
            None => self.ask(connection, header, action, Prompt::Never).await,
        };
        // A user whom the rules allow gets no prompt.
        let asked = match asked {
            Some(Answer::AfterAsking) if may_ask => {
                let _prompt = self.count_prompt(caller.uid)?;
                self.ask(connection, header, action, Prompt::Allowed).await
            }
            asked => asked,
        };
        match asked {
            Some(Answer::Yes) => Ok(()),
            Some(Answer::AfterAsking) if !may_ask => Err(Error::new(
                Kind::InteractiveAuthorizationRequired,
                format!(
                    "you may not {} without a password; allow the call to ask for it (busctl --allow-interactive-authorization=yes), or be in group '{GROUP}'",
                    action.description()
                ),
            )),
            Some(_) => Err(denied(action)),
            None => match is_member(&caller.groups).await {
                true => Ok(()),
                false => Err(denied(action)),
            },
        }
    }

    /// Asks polkit; `None` where there is no polkit.
    async fn ask(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        action: Action,
        prompt: Prompt,
    ) -> Option<Answer> {
        let (flags, limit) = match prompt {
            Prompt::Allowed => (
                CheckAuthorizationFlags::ALLOW_USER_INTERACTION,
                PERSON_TIMEOUT,
            ),
            Prompt::Never => (CheckAuthorizationFlags::empty(), RULES_TIMEOUT),
        };
        let question = self.questions.fetch_add(1, Ordering::Relaxed).to_string();
        let asking = async {
            let authority = AuthorityProxy::new(connection).await?;
            let subject = Subject::new_for_message_header(header)
                .map_err(|error| zbus::Error::Failure(error.to_string()))?;
            let nothing = HashMap::new();
            authority
                .check_authorization(&subject, action.id(), &nothing, flags, &question)
                .await
        };
        match tokio::time::timeout(limit, asking).await {
            Ok(Ok(result)) if result.is_authorized => Some(Answer::Yes),
            Ok(Ok(result)) if result.is_challenge => Some(Answer::AfterAsking),
            Ok(Ok(_)) => Some(Answer::No),
            Ok(Err(error)) if is_absent(&error) => None,
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "polkit cannot say who may {}: no user but root may",
                    action.description()
                );
                Some(Answer::No)
            }
            Err(_) => {
                tracing::warn!(
                    "polkit did not say in time who may {}",
                    action.description()
                );
                // The answer is not waited for any more, so the prompt should be closed.
                if let Ok(authority) = AuthorityProxy::new(connection).await {
                    let taken_back = authority.cancel_check_authorization(&question);
                    let _ = tokio::time::timeout(RULES_TIMEOUT, taken_back).await;
                }
                Some(Answer::No)
            }
        }
    }
}

fn denied(action: Action) -> Error {
    let description = action.description();
    Error::new(
        Kind::AccessDenied,
        format!(
            "you may not {description}: that is for root and group '{GROUP}' (adduser NAME {GROUP})"
        ),
    )
}

/// Whether polkit may show a password prompt.
enum Prompt {
    Allowed,
    Never,
}

enum Answer {
    Yes,
    AfterAsking,
    No,
}

/// True when polkit is missing or cannot be started.
fn is_absent(error: &zbus::Error) -> bool {
    let Some(name) = name_of(error) else {
        return false;
    };
    let is_started = "org.freedesktop.DBus.Error.Spawn.";
    name == "org.freedesktop.DBus.Error.ServiceUnknown"
        || name == "org.freedesktop.DBus.Error.NameHasNoOwner"
        || name == "org.freedesktop.systemd1.NoSuchUnit"
        || name == "org.freedesktop.systemd1.UnitMasked"
        || name.starts_with(is_started)
}

/// Whether one of `groups` is the group `mistry`. On a host without that group no user is a member.
async fn is_member(groups: &[u32]) -> bool {
    // If groups are kept in a directory service, this sends a request over the network.
    match tokio::task::spawn_blocking(|| Group::from_name(GROUP)).await {
        Ok(Ok(Some(group))) => groups.contains(&group.gid.as_raw()),
        Ok(Ok(None)) => false,
        Ok(Err(error)) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not look up group '{GROUP}'"
            );
            false
        }
        // The thread panicked, so membership is unknown.
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_user_of_this_host_has_a_uid() {
        assert_eq!(user_of(Some("uid 1000")), Some(1000));
        for other in [
            None,
            Some("token uid 5"),
            Some("127.0.0.1"),
            Some("uid "),
            Some("uid -1"),
        ] {
            assert_eq!(user_of(other), None, "{other:?}");
        }
    }
}
