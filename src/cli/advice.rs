//! What can be done about an error: a second line on standard error, for people.

use super::Error;
use super::server::ServerFlags;
use super::transport;
use crate::client;

/// The next step after an error, if there is one that the error itself does not name.
pub(super) fn advice(error: &Error, flags: &ServerFlags) -> Option<String> {
    match error {
        Error::Server(client::Error::Connect { .. }) => Some(
            "Is mistryd running there? --url or MISTRY_URL names another server; 'mistryd' starts one"
                .to_owned(),
        ),
        Error::Server(client::Error::Response(response)) if response.status == 404 => {
            names_unknown_project(&response.message).then(|| see_projects(flags))
        }
        Error::Refused(text) => names_unknown_project(text).then(|| see_projects(flags)),
        Error::Fetch(transport::Error::Child(..) | transport::Error::Spawn(..)) => Some(
            "scp needs an ssh login on the server's host, rsync an rsync daemon there; --transport http needs neither"
                .to_owned(),
        ),
        _ => None,
    }
}

fn names_unknown_project(sentence: &str) -> bool {
    sentence.starts_with("unknown project")
}

fn see_projects(flags: &ServerFlags) -> String {
    format!("See the projects of this server: mistry projects{flags}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_project_and_an_absent_server_have_a_next_step() {
        let flags = ServerFlags::of([("port", "1".to_owned())]);
        let unknown = Error::Refused("unknown project 'x'".to_owned());
        let see = "See the projects of this server: mistry projects --port 1";
        assert_eq!(advice(&unknown, &flags).as_deref(), Some(see));
        let away = Error::Server(client::Error::Connect {
            address: "http://h:1".parse().unwrap(),
            source: std::io::ErrorKind::ConnectionRefused.into(),
        });
        assert!(advice(&away, &flags).unwrap().contains("MISTRY_URL"));
        let other = Error::Refused("no build has id 'a'".to_owned());
        assert_eq!(advice(&other, &flags), None);
    }
}
