//! Who may do what: root may, and users whom polkit allows.
//!
//! What we know of a caller comes from the bus, never from the caller. Where there is no polkit
//! daemon, root and the group `mistry` may, and no other user; on a user's bus, that user.

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
/// A person is asked for a password; polkit's own agents give up after some minutes.
const PERSON_TIMEOUT: Duration = Duration::from_secs(300);
/// No person is asked: polkit has its rules to read.
const RULES_TIMEOUT: Duration = Duration::from_secs(25);

/// What may be allowed; `packaging/dbus/org.mistry.mistry1.policy` describes them to people.
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
    /// As polkit knows it.
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

    /// As a person says it.
    fn deed(self) -> &'static str {
        match self {
            Action::Submit => "start a build",
            Action::Cancel => "cancel a build of another user",
            Action::Rebuild => "build an image anew",
            Action::Gc => "remove old builds",
            Action::Pause => "pause or resume the queue",
            Action::Reload => "reload the configuration",
            Action::Read => "see builds",
            Action::ReadOutput => "read what builds have left",
        }
    }
}

/// Calls of one user that may wait for a password at once: there is one person to ask, and more prompts
/// would only annoy. Other users are not kept out by them.
const MAX_PROMPTS_PER_USER: usize = 4;

/// Whom to ask.
#[derive(Debug)]
pub(super) struct Authority {
    /// On a user's own bus: that user.
    owner: Option<u32>,
    /// How often each user is being asked just now. Held for a count.
    asked: Mutex<HashMap<u32, usize>>,
    /// Names the questions, so that they can be taken back.
    questions: AtomicU64,
}

/// A person who is being asked, as long as this is held.
struct Asking<'a>(&'a Authority, u32);

impl Drop for Asking<'_> {
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

/// Who calls, by the bus's word.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    uid: u32,
    groups: Vec<u32>,
}

impl Caller {
    /// Asks the bus who sent a call.
    pub(super) async fn of(connection: &Connection, header: &Header<'_>) -> Result<Caller, Error> {
        let unknown = || Error::new(Kind::AccessDenied, "the bus does not say who calls");
        let sender = header.sender().ok_or_else(unknown)?.to_owned();
        let bus = DBusProxy::new(connection).await;
        let bus = bus.map_err(|error| Error::ours("could not ask the bus who calls", &error))?;
        // A caller that is gone by now needs no answer.
        let known = bus
            .get_connection_credentials(BusName::Unique(sender))
            .await;
        let known = known.map_err(|_| unknown())?;
        Ok(Caller {
            uid: known.unix_user_id().ok_or_else(unknown)?,
            groups: known.unix_group_ids().cloned().unwrap_or_default(),
        })
    }

    /// Whether they are the one whom a job names.
    pub(super) fn is(&self, asker: Option<&str>) -> bool {
        user_of(asker) == Some(self.uid)
    }

    /// As jobs name who asked for them, whichever interface they came through.
    pub(super) fn asker(&self) -> String {
        format!("uid {}", self.uid)
    }
}

/// The user that an asker is, where it is one.
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

    /// Counts a prompt for a password, or fails where there are too many.
    fn begin_asking(&self, uid: u32) -> Result<Asking<'_>, Error> {
        let mut asked = self.asked();
        let count = asked.entry(uid).or_default();
        if *count >= MAX_PROMPTS_PER_USER {
            return Err(Error::new(
                Kind::LimitsExceeded,
                format!("you are being asked for a password {MAX_PROMPTS_PER_USER} times already"),
            ));
        }
        *count += 1;
        Ok(Asking(self, uid))
    }

    /// Lets a caller do something, or says why not. May take as long as a person takes to find a
    /// password, where the call allows to ask for one.
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
            // It lives on the system's bus, and knows no client here.
            Some(_) => None,
            None => self.ask(connection, header, action, false).await,
        };
        // A user whom the rules allow is not asked.
        let asked = match asked {
            Some(Answer::AfterAsking) if may_ask => {
                let _asking = self.begin_asking(caller.uid)?;
                self.ask(connection, header, action, true).await
            }
            asked => asked,
        };
        match asked {
            Some(Answer::Yes) => Ok(()),
            Some(Answer::AfterAsking) if !may_ask => Err(Error::new(
                Kind::InteractiveAuthorizationRequired,
                format!(
                    "you may not {} without a password; allow the call to ask for it (busctl --allow-interactive-authorization=yes), or be in group '{GROUP}'",
                    action.deed()
                ),
            )),
            Some(_) => Err(denied(action)),
            None => match is_member(&caller.groups).await {
                true => Ok(()),
                false => Err(denied(action)),
            },
        }
    }

    /// What polkit says; `None` where there is no polkit.
    async fn ask(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        action: Action,
        may_ask: bool,
    ) -> Option<Answer> {
        let (flags, limit) = match may_ask {
            true => (
                CheckAuthorizationFlags::ALLOW_USER_INTERACTION,
                PERSON_TIMEOUT,
            ),
            false => (CheckAuthorizationFlags::empty(), RULES_TIMEOUT),
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
                    action.deed()
                );
                Some(Answer::No)
            }
            Err(_) => {
                tracing::warn!("polkit did not say in time who may {}", action.deed());
                // The answer is not waited for any more, so no person should be asked for one.
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
    let deed = action.deed();
    Error::new(
        Kind::AccessDenied,
        format!("you may not {deed}: that is for root and group '{GROUP}' (adduser NAME {GROUP})"),
    )
}

enum Answer {
    Yes,
    AfterAsking,
    No,
}

/// There is no polkit, or none that can be started.
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

/// Whether one of `groups` is ours. A host without that group has no members of it.
async fn is_member(groups: &[u32]) -> bool {
    // Where groups are kept elsewhere, this asks over the network.
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
        // It panicked, and who may is not known.
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_user_of_this_host_has_a_number() {
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
