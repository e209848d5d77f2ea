//! The program `mistry`: one file per verb, all of them told in the words of [`crate::client`].
//!
//! What a script reads goes to standard output; what a person reads goes to standard error.
//! Text that a server or a build wrote is never given to a terminal as it is, see [`screen`].
//! The environment is read here and nowhere else in the client (`MISTRY_URL`,
//! `MISTRY_TOKEN_FILE`).
//!
//! | exit status | means |
//! | --- | --- |
//! | 0 | built (or cached) and fetched; asked and answered |
//! | 1 | the build failed, or its image could not be built |
//! | 2 | the command line is wrong |
//! | 3 | refused: overloaded, unknown project or id, not allowed |
//! | 4 | the artifacts could not be fetched |
//! | 5 | `--timeout` ran out |
//! | 6 | the build was cancelled, or stopped by its deadline |
//! | 7 | the server could not be reached, or answered nonsense |
//! | 130 | interrupted by Ctrl-C; a build goes on |

mod build;
mod cancel;
mod completions;
mod fetch;
mod gc;
mod list;
mod logs;
mod params;
mod pin;
mod progress;
mod projects;
mod queue;
mod rebuild;
mod status;
mod transport;
mod wait;

#[cfg(any(test, fuzzing))]
pub use transport::fuzzing;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::client::{self, Address, Client, DEFAULT_PORT, DEFAULT_SOCKET, Filter};
use crate::job::JobId;
use crate::project::ProjectName;
use crate::screen;

/// Digits of an id that are shown: enough that two builds of one server never share them.
const SHOWN_DIGITS: usize = 12;
/// Candidates named when an id is ambiguous.
const MAX_CANDIDATES: usize = 10;

const EXIT_STATUS: &str = "\
Exit status:
    0  built (or cached) and fetched; asked and answered
    1  the build failed, or its image could not be built
    2  the command line is wrong
    3  refused: overloaded, unknown project or id, not allowed
    4  the artifacts could not be fetched
    5  --timeout ran out (the build goes on)
    6  the build was cancelled, or stopped by its deadline
    7  the server could not be reached, or answered nonsense
  130  interrupted by Ctrl-C (the build goes on)";

/// Has things built by a mistry server and brings the results home.
#[derive(Debug, Parser)]
#[command(name = "mistry", version, after_help = EXIT_STATUS)]
pub struct Arguments {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    verb: Verb,
}

/// Where the server is and how it knows us.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
struct Server {
    /// Server's name or IP address [default: the socket of this host's mistryd, else 127.0.0.1]
    #[arg(long, global = true)]
    host: Option<String>,
    /// Server's TCP port [default: 8462]
    #[arg(long, short, global = true, value_name = "N")]
    port: Option<u16>,
    /// Server's unix socket, instead of host and port
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Server's address where none is named above: http://HOST:PORT or unix:///PATH
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "MISTRY_URL",
        hide_env_values = true
    )]
    url: Option<String>,
    /// File that holds the token to show to the server
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "MISTRY_TOKEN_FILE",
        hide_env_values = true
    )]
    token_file: Option<PathBuf>,
    /// What of this stood on the command line.
    #[arg(skip)]
    again: Again,
}

/// How the command line named the server, for hints that can be copied: what came from the
/// environment is there next time, too.
#[derive(Clone, Debug, Default)]
struct Again(String);

impl Again {
    /// What stands in `matches` and is not from the environment.
    fn of(server: &Server, matches: &ArgMatches) -> Again {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
        let mut words = String::new();
        for (name, value) in [
            ("host", server.host.clone()),
            ("port", server.port.map(|port| port.to_string())),
            ("socket", path(&server.socket)),
            ("url", server.url.clone()),
            ("token_file", path(&server.token_file)),
        ] {
            if let Some(value) = value
                && matches.value_source(name) == Some(ValueSource::CommandLine)
            {
                let flag = name.replace('_', "-");
                words.push_str(&format!(" --{flag} {}", quoted(&value)));
            }
        }
        Again(words)
    }

    /// `mistry VERB ID` and how to meet the same server.
    fn hint(&self, verb: &str, id: &str) -> String {
        format!("mistry {verb} {}{}", short(id), self.0)
    }
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./:@%+,=".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    Build(build::Build),
    List(list::List),
    Status(status::Status),
    Logs(logs::Logs),
    Cancel(cancel::Cancel),
    Fetch(fetch::Fetch),
    Projects(projects::Projects),
    Rebuild(rebuild::Rebuild),
    Pin(pin::Pin),
    Unpin(pin::Unpin),
    Pause(queue::Pause),
    Resume(queue::Resume),
    Gc(gc::Gc),
    Completions(completions::Completions),
}

/// What ends the program early. The kind decides the exit status, in one place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The build failed; what it printed has been shown.
    #[error("{0}")]
    BuildFailed(String),
    /// The server, or we in its stead, said no.
    #[error("{0}")]
    Refused(String),
    /// The artifacts are not here.
    #[error("could not fetch the artifacts")]
    Fetch(#[source] transport::Error),
    /// `--timeout` ran out.
    #[error("{0}")]
    TimedOut(String),
    /// A user or a deadline stopped the build.
    #[error("{0}")]
    Stopped(String),
    /// No sense could be made of the server.
    #[error(transparent)]
    Server(client::Error),
    /// Ctrl-C.
    #[error("{0}")]
    Interrupted(String),
    /// Standard output cannot be written to.
    #[error("could not write to standard output")]
    Output(#[source] io::Error),
}

impl Error {
    /// The exit status, as the table in the head says.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::BuildFailed(_) => 1,
            Error::Usage(_) => 2,
            Error::Refused(_) => 3,
            Error::Fetch(_) => 4,
            Error::TimedOut(_) => 5,
            Error::Stopped(_) => 6,
            Error::Server(error) => match error {
                client::Error::Response(no) if (400..500).contains(&no.status) => 3,
                client::Error::Response(no) if no.status == 503 => 3,
                client::Error::Forbidden { .. } => 3,
                client::Error::Response(_)
                | client::Error::Connect { .. }
                | client::Error::Broken(_)
                | client::Error::InvalidResponse(_) => 7,
            },
            Error::Interrupted(_) => 130,
            // `mistry list | head` is no mistake.
            Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Error::Output(_) => 4,
        }
    }

    /// All that went wrong in one line, causes behind colons.
    fn line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            if !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        line
    }
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Error {
        Error::Server(error)
    }
}

impl From<transport::Error> for Error {
    fn from(error: transport::Error) -> Error {
        Error::Fetch(error)
    }
}

/// Reads the command line and the environment.
///
/// # Errors
/// What to print, which may be the help text, and the exit status.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, clap::Error> {
    let matches = Arguments::command().try_get_matches_from(arguments)?;
    let mut parsed = Arguments::from_arg_matches(&matches)?;
    parsed.server.again = Again::of(&parsed.server, &matches);
    Ok(parsed)
}

/// Prints what [`parse`] returned instead of arguments: help goes to standard output, mistakes to
/// standard error. A mistake quotes what was typed, which may come from elsewhere.
pub fn print_usage(error: &clap::Error) {
    let text = error.render();
    // Where one of the two cannot be written to, there is no reader.
    match error.use_stderr() && screen::is_steering(&text.ansi().to_string()) {
        true => say(text.to_string().trim_end()),
        false => _ = error.print(),
    }
}

/// Does what was asked; says what went wrong on standard error. Returns the exit status.
pub async fn run(arguments: Arguments) -> u8 {
    match perform(arguments).await {
        Ok(()) => 0,
        Err(error) => {
            let status = error.exit_status();
            if status != 0 {
                say(&error.line());
            }
            status
        }
    }
}

async fn perform(arguments: Arguments) -> Result<(), Error> {
    if let Verb::Completions(verb) = &arguments.verb {
        return verb.run();
    }
    let client = arguments.server.client()?;
    let again = &arguments.server.again;
    match arguments.verb {
        Verb::Build(verb) => verb.run(&client, again).await,
        Verb::List(verb) => verb.run(&client).await,
        Verb::Status(verb) => verb.run(&client).await,
        Verb::Logs(verb) => verb.run(&client).await,
        Verb::Cancel(verb) => verb.run(&client, again).await,
        Verb::Fetch(verb) => verb.run(&client, again).await,
        Verb::Projects(verb) => verb.run(&client).await,
        Verb::Rebuild(verb) => verb.run(&client).await,
        Verb::Pin(verb) => verb.run(&client).await,
        Verb::Unpin(verb) => verb.run(&client).await,
        Verb::Pause(verb) => verb.run(&client).await,
        Verb::Resume(verb) => verb.run(&client).await,
        Verb::Gc(verb) => verb.run(&client).await,
        Verb::Completions(_) => Ok(()),
    }
}

impl Server {
    fn client(&self) -> Result<Client, Error> {
        let address = self.address(|| Address::of_this_host(Path::new(DEFAULT_SOCKET)))?;
        Ok(Client::new(address, self.token()?))
    }

    fn address(&self, of_this_host: impl FnOnce() -> Address) -> Result<Address, Error> {
        let wrong = |error: client::AddressError| Error::Usage(error.to_string());
        let named = self.host.is_some() || self.port.is_some();
        match (&self.socket, &self.url) {
            (Some(_), _) if named => Err(Error::Usage(
                "--socket cannot be used with --host or --port".to_owned(),
            )),
            (Some(path), _) => std::path::absolute(path)
                .map(Address::Unix)
                .map_err(|_| Error::Usage("socket cannot be empty".to_owned())),
            (None, Some(url)) if !named && !url.is_empty() => url.parse().map_err(wrong),
            _ if !named => Ok(of_this_host()),
            _ => {
                let host = self.host.as_deref().unwrap_or(client::DEFAULT_HOST);
                Address::tcp(host, self.port.unwrap_or(DEFAULT_PORT)).map_err(wrong)
            }
        }
    }

    fn token(&self) -> Result<Option<String>, Error> {
        let Some(file) = self
            .token_file
            .as_ref()
            .filter(|f| !f.as_os_str().is_empty())
        else {
            return Ok(None);
        };
        let shown = file.display();
        let text = std::fs::read_to_string(file).map_err(|error| {
            Error::Usage(format!("could not read token file '{shown}': {error}"))
        })?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::Usage(format!(
                "token file '{shown}' holds no token: expected one line without spaces"
            )));
        }
        Ok(Some(token.to_owned()))
    }
}

/// Which build is meant: `[PROJECT/]ID`, the id cut to any unambiguous prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Which {
    project: Option<ProjectName>,
    prefix: String,
}

impl std::str::FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Which, String> {
        let (project, prefix) = match text.rsplit_once('/') {
            Some((project, id)) => (Some(project), id),
            None => (None, text),
        };
        let project = project.map(|p| p.parse().map_err(|e| format!("{e}")));
        let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if (1..=64).contains(&prefix.len()) && prefix.bytes().all(is_hex) {
            Ok(Which {
                project: project.transpose()?,
                prefix: prefix.to_owned(),
            })
        } else {
            Err("an id is 1 to 64 digits of 0-9 a-f, the first of them will do".to_owned())
        }
    }
}

impl Which {
    /// Finds the one build that is meant.
    async fn resolve(&self, client: &Client) -> Result<(ProjectName, JobId), Error> {
        if let (Some(project), Ok(id)) = (&self.project, self.prefix.parse()) {
            return Ok((project.clone(), id));
        }
        let filter = Filter {
            project: self
                .project
                .as_ref()
                .map_or(String::new(), ToString::to_string),
            ..Filter::default()
        };
        let found = client.find_by_prefix(&filter, &self.prefix).await?;
        let one = match found.as_slice() {
            [] => {
                let of = match &self.project {
                    Some(project) => format!(" of project '{project}'"),
                    None => String::new(),
                };
                let prefix = &self.prefix;
                return Err(Error::Refused(format!("no build{of} has id '{prefix}'")));
            }
            [one] => one,
            many => {
                let mut text = format!("id '{}' is ambiguous; it may be", self.prefix);
                for item in many.iter().take(MAX_CANDIDATES) {
                    text.push_str(&format!("\n  {}/{}", item.project, item.id));
                }
                if many.len() > MAX_CANDIDATES {
                    text.push_str(&format!("\n  and {} more", many.len() - MAX_CANDIDATES));
                }
                return Err(Error::Usage(text));
            }
        };
        match (one.project.parse(), one.id.parse()) {
            (Ok(project), Ok(id)) => Ok((project, id)),
            _ => Err(Error::Server(client::Error::InvalidResponse(
                "an index with impossible names".to_owned(),
            ))),
        }
    }
}

/// The digits of an id that are shown.
fn short(id: &str) -> &str {
    id.get(..SHOWN_DIGITS).unwrap_or(id)
}

/// One line for a person. A standard error that is gone is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{}", screen::line(line));
}

/// One line for programs that read standard output.
fn tell(line: &str) -> Result<(), Error> {
    writeln!(io::stdout(), "{}", screen::line(line)).map_err(Error::Output)
}

/// One JSON document on standard output.
fn tell_json(value: &serde_json::Value) -> Result<(), Error> {
    tell(&screen::json(value))
}

/// `41 s`, `1 m 5 s`, `2 h 3 m`, `180 ms`: nanoseconds for a person; "" for none.
fn spent(nanos: i64) -> String {
    let Ok(nanos) = u64::try_from(nanos) else {
        return String::new();
    };
    let millis = nanos / 1_000_000;
    let seconds = millis / 1_000;
    match seconds {
        0 => format!("{millis} ms"),
        1..=9 => format!("{}.{} s", seconds, millis % 1_000 / 100),
        10..=59 => format!("{seconds} s"),
        60..=3_599 => format!("{} m {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} m", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// `0 B`, `980 B`, `1.5 MiB`, `120 GiB`: bytes for a person.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1 << 10 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // What would be shown as 1024 is 1.0 of the next.
        if value < 1_023.5 {
            break;
        }
        value /= 1_024.0;
        unit = next;
    }
    if value < 9.95 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// A time for a person, in the time zone of this host.
fn moment(at: jiff::Timestamp) -> String {
    let at = at.to_zoned(jiff::tz::TimeZone::system());
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Rows under a head, columns as wide as they must be.
fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Result<(), Error> {
    let clean: Vec<[String; N]> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| screen::cell(cell)))
        .collect();
    let width = |column: usize| {
        let cells = clean.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(head[column].len())
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let print = |row: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        tell(line.trim_end())
    };
    print(head)?;
    clean
        .iter()
        .try_for_each(|row| print(row.each_ref().map(String::as_str)))
}

#[cfg(test)]
mod tests;
