//! Somebody on the bus who asks the daemon, and what they hear meanwhile.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;
use zbus::fdo::{DBusProxy, NameOwnerChangedStream};
use zbus::proxy::CacheProperties;
use zbus::{Connection, connection};

use super::proxy::{JobRemovedStream, ManagerProxy};
use super::{Scope, error};
use crate::client::Error;

/// The name of the daemon.
const NAME: &str = "org.mistry.Mistry1";
/// One attempt to connect: a bus is on this host, and there or not.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take that waits for no build and no person. The bus gives a daemon that it
/// starts 25 s, and a list of many builds is written in some.
const ANSWER: Duration = Duration::from_secs(60);
/// Ends that are remembered while a call is answered: of the job that it names there is one, and
/// nothing is lost when it is not among them.
const LATELY: usize = 64;

/// A connection, and the daemon at the other end of it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) scope: Scope,
    pub(super) connection: Connection,
    pub(super) manager: ManagerProxy<'static>,
}

impl Session {
    /// Connects, and has the daemon answer, which starts it where it does not run. So calls that wait
    /// for a person have no bound but the person's patience, and yet nobody waits for a daemon that
    /// is not there.
    pub(super) async fn begin(scope: Scope) -> Result<Session, Error> {
        let builder = match scope {
            Scope::System => connection::Builder::system(),
            Scope::User => connection::Builder::session(),
        };
        let connection = timeout(CONNECT, builder.build())
            .await
            .map_err(|_| error::silent(scope))?
            .map_err(|error| error::no_bus(scope, &error))?;
        let manager = ManagerProxy::builder(&connection)
            // Nothing is asked often enough to be worth listening to every change of it.
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(|error| error::told(scope, error))?;
        timeout(ANSWER, manager.version())
            .await
            .map_err(|_| error::silent(scope))?
            .map_err(|error| error::told(scope, error))?;
        Ok(Session {
            scope,
            connection,
            manager,
        })
    }

    /// The answer of a call that may wait for a build or a person.
    pub(super) async fn answer<T>(
        &self,
        call: impl Future<Output = zbus::Result<T>>,
    ) -> Result<T, Error> {
        call.await.map_err(|error| error::told(self.scope, error))
    }

    /// The answer of a call that waits for neither.
    pub(super) async fn soon<T>(
        &self,
        call: impl Future<Output = zbus::Result<T>>,
    ) -> Result<T, Error> {
        match timeout(ANSWER, self.answer(call)).await {
            Ok(answer) => answer,
            Err(_) => {
                let seconds = ANSWER.as_secs();
                Err(Error::Broken(
                    format!("no answer within {seconds} s").into(),
                ))
            }
        }
    }
}

/// Jobs that end, and the daemon's own end. To be begun before a job is asked for.
#[derive(Debug)]
pub(super) struct Ends {
    removed: JobRemovedStream,
    owners: NameOwnerChangedStream,
    /// Ids and outcomes.
    lately: VecDeque<(String, String)>,
    /// The daemon has left.
    is_alone: bool,
}

impl Ends {
    pub(super) async fn of(session: &Session) -> Result<Ends, Error> {
        let listening = async {
            let bus = DBusProxy::new(&session.connection).await?;
            let owners = bus
                .receive_name_owner_changed_with_args(&[(0, NAME)])
                .await?;
            let removed = session.manager.receive_job_removed().await?;
            Ok(Ends {
                removed,
                owners,
                lately: VecDeque::new(),
                is_alone: false,
            })
        };
        session.soon(listening).await
    }

    /// Hears the next thing; ends that were told before the daemon left count.
    pub(super) async fn hear(&mut self) -> Result<(), Error> {
        let left = || Error::Broken("the server has left the bus".into());
        if self.is_alone {
            return Err(left());
        }
        loop {
            tokio::select! {
                biased;
                end = self.removed.next() => {
                    let end = end.ok_or_else(left)?;
                    let Ok(end) = end.args() else { continue };
                    if self.lately.len() == LATELY {
                        self.lately.pop_front();
                    }
                    self.lately.push_back((end.id.clone(), end.outcome.clone()));
                    return Ok(());
                }
                change = self.owners.next() => {
                    let change = change.ok_or_else(left)?;
                    // It was there when we began to listen: whatever changes is its end.
                    if change.args().is_ok_and(|change| change.old_owner.is_some()) {
                        return Err(left());
                    }
                }
            }
        }
    }

    /// Hears what comes until a call is answered: a stream that nobody reads holds up all others. A
    /// daemon that leaves answers what had come before; where it does not, the bus does.
    pub(super) async fn during<T>(
        &mut self,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut call = pin!(call);
        loop {
            tokio::select! {
                biased;
                answer = &mut call => return answer,
                heard = self.hear(), if !self.is_alone => self.is_alone |= heard.is_err(),
            }
        }
    }

    /// How a job ended, if that was heard since this was last asked.
    pub(super) fn outcome(&mut self, id: &str) -> Option<String> {
        let mut heard = self.lately.drain(..);
        let of_it = heard.rfind(|(ended, _)| ended == id);
        of_it.map(|(_, outcome)| outcome)
    }
}
