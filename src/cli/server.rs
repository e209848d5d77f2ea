//! The options that name the server: its address, and the token that is sent to it.

use std::ffi::OsString;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

use super::Error;
use super::format::short_id;
use crate::build_command::quote_for_shell;
use crate::client::{self, Address, Client, DEFAULT_PORT, DEFAULT_SOCKET};

/// The server's address, and the token that is sent to it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct ServerOptions {
    /// Server's name or IP address [default: the socket of this host's mistryd, else 127.0.0.1]
    #[arg(long, global = true)]
    host: Option<String>,
    /// Server's TCP port [default: 8462]
    #[arg(long, short, global = true, value_name = "N")]
    port: Option<u16>,
    /// Server's unix socket, instead of host and port
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Server's address if no option above names one: http://HOST:PORT, HOST:PORT or unix:///PATH
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "MISTRY_URL",
        hide_env_values = true
    )]
    url: Option<String>,
    /// File with the token to send to the server; without it, the token is MISTRY_TOKEN
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "MISTRY_TOKEN_FILE",
        hide_env_values = true
    )]
    token_file: Option<PathBuf>,
    /// The options among these that stood on the command line.
    #[arg(skip)]
    pub(super) flags: ServerFlags,
}

/// The options on the command line that name the server, for suggested commands that can be copied: names and
/// values. Options from the environment are left out, since the next command gets them as well.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerFlags(Vec<(&'static str, String)>);

impl ServerFlags {
    /// The options in `matches` that are not from the environment.
    pub(super) fn new(server: &ServerOptions, matches: &ArgMatches) -> ServerFlags {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
        let given = [
            ("host", "host", server.host.clone()),
            ("port", "port", server.port.map(|port| port.to_string())),
            ("socket", "socket", path(&server.socket)),
            ("url", "url", server.url.clone()),
            ("token_file", "token-file", path(&server.token_file)),
        ];
        let is_on_command_line =
            |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        ServerFlags::of(given.into_iter().filter_map(|(id, name, value)| {
            value
                .filter(|_| is_on_command_line(id))
                .map(|value| (name, value))
        }))
    }

    pub(super) fn of(flags: impl IntoIterator<Item = (&'static str, String)>) -> ServerFlags {
        ServerFlags(flags.into_iter().collect())
    }

    /// Each option as one word, not quoted.
    pub(super) fn options(&self) -> impl Iterator<Item = String> + use<'_> {
        self.0
            .iter()
            .map(|(name, value)| format!("--{name}={value}"))
    }

    /// `mistry VERB ID` with the options that name the same server.
    pub(super) fn suggest_command(&self, verb: &str, id: &str) -> String {
        format!("mistry {verb} {}{self}", short_id(id))
    }

    /// Says that a build continues without this program, with the commands to control it.
    pub(super) fn suggest_control(&self, id: &str) -> String {
        let logs = self.suggest_command("logs -f", id);
        let cancel = self.suggest_command("cancel", id);
        let wait = self.suggest_command("wait", id);
        format!(
            "the build goes on; follow it with: {logs}; get the result with: {wait} --target DIR; cancel it with: {cancel}"
        )
    }
}

/// The options, each after a space, quoted for a shell.
impl Display for ServerFlags {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        let mut flags = self.0.iter();
        flags.try_for_each(|(name, value)| write!(to, " --{name} {}", quote_for_shell(value)))
    }
}

impl ServerOptions {
    /// A client of the server that was named.
    pub(super) fn client(&self) -> Result<Client, Error> {
        let address = self.address(|| Address::of_this_host(Path::new(DEFAULT_SOCKET)))?;
        Ok(Client::new(address, self.token()?))
    }

    pub(super) fn address(&self, of_this_host: impl FnOnce() -> Address) -> Result<Address, Error> {
        let invalid = |error: client::AddressError| Error::Usage(error.to_string());
        let has_host_or_port = self.host.is_some() || self.port.is_some();
        match (&self.socket, &self.url) {
            (Some(_), _) if has_host_or_port => Err(Error::Usage(
                "--socket cannot be used with --host or --port".to_owned(),
            )),
            (Some(path), _) => std::path::absolute(path)
                .map(Address::Unix)
                .map_err(|_| Error::Usage("socket cannot be empty".to_owned())),
            (None, Some(url)) if !has_host_or_port && !url.is_empty() => {
                url.parse().map_err(invalid)
            }
            _ if !has_host_or_port => Ok(of_this_host()),
            _ => {
                let host = self.host.as_deref().unwrap_or(client::DEFAULT_HOST);
                Address::tcp(host, self.port.unwrap_or(DEFAULT_PORT)).map_err(invalid)
            }
        }
    }

    pub(super) fn token(&self) -> Result<Option<String>, Error> {
        let Some(file) = self
            .token_file
            .as_ref()
            .filter(|f| !f.as_os_str().is_empty())
        else {
            return token_of_environment(std::env::var_os("MISTRY_TOKEN"));
        };
        let shown = file.display();
        let text = std::fs::read_to_string(file).map_err(|error| {
            Error::Usage(format!("could not read token file '{shown}': {error}"))
        })?;
        match one_word(&text) {
            Some(token) => Ok(Some(token)),
            None => Err(Error::Usage(format!(
                "token file '{shown}' holds no token: expected one line without spaces"
            ))),
        }
    }
}

/// The token in `MISTRY_TOKEN`; an empty variable is not set. CI systems pass secrets as variables. clap does not
/// read it, because an option would have its value in the list of processes.
fn token_of_environment(value: Option<OsString>) -> Result<Option<String>, Error> {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    match value.to_str().and_then(one_word) {
        Some(token) => Ok(Some(token)),
        None => Err(Error::Usage(
            "MISTRY_TOKEN holds no token: expected one word".to_owned(),
        )),
    }
}

fn one_word(text: &str) -> Option<String> {
    let token = text.trim();
    let is_word = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    is_word.then(|| token.to_owned())
}
