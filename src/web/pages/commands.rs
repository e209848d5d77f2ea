//! Commands that build a job, for users to copy: with `mistry`, which speaks no TLS, and with `curl`.

use super::super::cookie;
use super::super::request::Request;
use super::super::state::Web;
use crate::build_command::{BuildCommand, quote_for_shell};
use crate::project::ProjectName;

/// Characters of a value that a command contains; longer ones are in a file.
const MAX_VALUE: usize = 200;
/// Params in a command.
const MAX_PARAMS: usize = 50;
/// The directory that the artifacts go to.
const TARGET: &str = "out";

/// Said of commands with words in capitals.
const HINT: &str = "The words in capitals stand for values that are not shown here.";

/// A command.
#[derive(Debug)]
pub(super) struct Command {
    /// Its words, quoted for a shell.
    pub(super) words: Vec<String>,
    /// Shown where it does not have all values.
    pub(super) hint: Option<&'static str>,
}

/// The job that a command builds.
pub(super) struct Job<'a> {
    pub(super) project: &'a ProjectName,
    pub(super) group: &'a str,
    /// Values by name; `None` of those that are not known.
    pub(super) params: Vec<(&'a str, Option<&'a str>)>,
}

/// Where the server is reached, and whether it asks for tokens.
pub(super) struct Server {
    address: String,
    is_secure: bool,
    has_tokens: bool,
}

impl Server {
    /// The server as the client of the request knows it.
    pub(super) fn of(web: &Web, request: &Request) -> Server {
        let is_secure = cookie::is_secure(request.headers());
        let scheme = if is_secure { "https" } else { "http" };
        Server {
            address: format!("{scheme}://{}", host(request)),
            is_secure,
            has_tokens: web.access.load().tokens.is_some(),
        }
    }

    /// The command with `mistry`; `None` over TLS.
    pub(super) fn mistry(&self, job: &Job<'_>) -> Option<Command> {
        if self.is_secure {
            return None;
        }
        let mut has_places = self.has_tokens || !fits(job.group);
        let params = job.params.iter().take(MAX_PARAMS).map(|(name, value)| {
            let value = value.filter(|value| fits(value));
            has_places |= value.is_none();
            (*name, value)
        });
        let command = BuildCommand::of_job(job.project.as_str(), shown(job.group), params)
            .with_option(&format!("--target={TARGET}"))
            .with_option(&format!("--url={}", self.address));
        let command = match self.has_tokens {
            true => command.with_option("--token-file=FILE"),
            false => command,
        };
        let words = command.words().into_iter().map(str::to_owned);
        Some(Command {
            words: words.collect(),
            hint: has_places.then_some(HINT),
        })
    }

    /// The command with `curl`.
    pub(super) fn curl(&self, job: &Job<'_>) -> Command {
        let mut has_places = self.has_tokens;
        let params = job.params.iter().take(MAX_PARAMS).map(|(name, value)| {
            let value = value.filter(|value| fits(value)).unwrap_or_else(|| {
                has_places = true;
                "VALUE"
            });
            ((*name).to_owned(), serde_json::Value::from(value))
        });
        let params: serde_json::Map<_, _> = params.collect();
        let mut body = serde_json::Map::new();
        body.insert("project".to_owned(), job.project.as_str().into());
        if !job.group.is_empty() {
            has_places |= !fits(job.group);
            body.insert("group".to_owned(), shown(job.group).into());
        }
        body.insert("params".to_owned(), params.into());
        let body = serde_json::Value::from(body).to_string();
        let mut words = vec!["curl".to_owned()];
        let mut push = |more: &[&str]| words.extend(more.iter().map(|word| quote_for_shell(word)));
        if self.has_tokens {
            push(&["-H", "Authorization: Bearer TOKEN"]);
        }
        push(&["-H", "Content-Type: application/json", "-d", &body]);
        push(&[&format!("{}/jobs", self.address)]);
        Command {
            words,
            hint: has_places.then_some(HINT),
        }
    }
}

/// A value that a command line can hold.
fn fits(value: &str) -> bool {
    value.len() <= MAX_VALUE
        && !value
            .chars()
            .any(|letter| letter.is_control() || crate::build::lines::misleads(letter))
}

/// A group as a command names it.
fn shown(group: &str) -> &str {
    if fits(group) { group } else { "GROUP" }
}

/// The host that the request names. It was checked before, except for requests over the unix socket, which
/// may have any value: only a valid host is shown.
fn host(request: &Request) -> String {
    let given = request.headers().get(hyper::header::HOST);
    let given = given
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    match given.is_empty() || !given.bytes().all(is_plain) {
        true => "127.0.0.1:8462".to_owned(),
        false => given.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(is_secure: bool, has_tokens: bool) -> Server {
        Server {
            address: "http://h:1".to_owned(),
            is_secure,
            has_tokens,
        }
    }

    #[test]
    fn a_command_has_the_group_and_the_values_as_a_shell_reads_them() {
        let project = "web".parse().unwrap();
        let long = "x".repeat(MAX_VALUE + 1);
        let job = Job {
            project: &project,
            group: "it's",
            params: vec![
                ("rev", Some("a1")),
                ("text", Some("two words $HOME")),
                ("lock", Some(&long)),
                ("name", Some("@file")),
                ("lines", Some("a\nb")),
                ("_token", None),
            ],
        };
        let command = server(false, false).mistry(&job).unwrap();
        assert_eq!(
            command.words.join(" "),
            r"mistry build --project=web '--group=it'\''s' --target=out --url=http://h:1 -- --rev=a1 '--text=two words $HOME' --lock=@FILE --name=@@file --lines=@FILE --_token=@FILE"
        );
        assert!(command.hint.is_some());
        assert!(server(true, false).mistry(&job).is_none());
        let curl = server(false, true).curl(&job).words.join(" ");
        assert!(
            curl.contains("Bearer TOKEN") && curl.contains("\"_token\":\"VALUE\""),
            "{curl}"
        );
        assert!(curl.contains(r#""group":"it'\''s""#), "{curl}");
    }

    #[test]
    fn a_command_without_unknown_values_needs_no_hint() {
        let project = "web".parse().unwrap();
        let job = Job {
            project: &project,
            group: "",
            params: Vec::new(),
        };
        let command = server(false, false).mistry(&job).unwrap();
        assert_eq!(
            command.words.join(" "),
            "mistry build --project=web --target=out --url=http://h:1"
        );
        assert!(command.hint.is_none());
    }
}
