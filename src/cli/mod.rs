//! The program `mistry`: one file per verb, each a caller of [`crate::client`].
//!
//! Results for scripts go to standard output, messages for users to standard error. Text from a server or a
//! build is never passed to a terminal unchanged, see [`screen`]. clap reads the environment for some options
//! (`MISTRY_URL`, `MISTRY_TOKEN_FILE`, `MISTRY_VERBOSE`); `server` reads `MISTRY_TOKEN`, and `build` the
//! params (`MISTRY_PARAM_…`).
//!
//! | exit status | means |
//! | --- | --- |
//! | 0 | built (or cached) and fetched; any other command succeeded |
//! | 1 | the build failed, or its image could not be built |
//! | 2 | the command line is wrong |
//! | 3 | refused: overloaded, unknown project or id, not allowed |
//! | 4 | the artifacts could not be fetched, or the output not be written |
//! | 5 | `--timeout` ran out |
//! | 6 | the build was cancelled, or stopped by its deadline |
//! | 7 | the server could not be reached, or sent an invalid response |
//! | 130 | interrupted by Ctrl-C; a build goes on |

mod advice;
mod attempts;
mod awaited_build;
mod build;
mod build_facts;
mod build_progress;
mod build_ref;
mod build_waiter;
mod cancel;
mod completions;
mod error;
mod excerpt;
mod fetch;
mod format;
mod gc;
mod group;
mod json_result;
mod line_times;
mod list;
mod log_follower;
mod logs;
mod outcome;
mod output;
mod pin;
mod progress;
mod projects;
mod queue;
mod rebuild;
mod repeat;
mod retry;
mod rm;
mod server;
mod server_status;
mod status;
mod timeout;
mod transport;
mod usage;
mod wait;

#[cfg(any(test, fuzzing))]
pub use transport::fuzzing;

pub use error::{EXIT_NO_SERVER, Error};

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{client, screen};
use json_result::Document;
use output::print_message;
use repeat::repeat_command;
use server::{ServerFlags, ServerOptions};

const EXIT_STATUS: &str = "\
Exit status:
    0  built (or cached) and fetched; any other command succeeded
    1  the build failed, or its image could not be built
    2  the command line is wrong
    3  refused: overloaded, unknown project or id, not allowed
    4  the artifacts could not be fetched, or the output not be written
    5  --timeout ran out (the build goes on)
    6  the build was cancelled, or stopped by its deadline
    7  the server could not be reached, or sent an invalid response
  130  interrupted by Ctrl-C (the build goes on)";

/// Client of the build server mistry: submits builds and fetches their artifacts.
#[derive(Debug, Parser)]
#[command(name = "mistry", version, after_help = EXIT_STATUS)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerOptions,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Build(build::Build),
    List(list::List),
    Status(status::Status),
    Logs(logs::Logs),
    Cancel(cancel::Cancel),
    Wait(wait::Wait),
    Fetch(fetch::Fetch),
    Projects(projects::Projects),
    Rebuild(rebuild::Rebuild),
    Group(group::Group),
    Rm(rm::Rm),
    Pin(pin::Pin),
    Unpin(pin::Unpin),
    Pause(queue::Pause),
    Resume(queue::Resume),
    Gc(gc::Gc),
    Completions(completions::Completions),
}

/// Reads the command line and the environment.
///
/// # Errors
/// A usage error, or the help text, which clap reports as an error.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, clap::Error> {
    let arguments = client::with_params_last(arguments.into_iter().collect());
    let matches = Arguments::command()
        .try_get_matches_from(&arguments)
        .map_err(|error| usage::improve(error, Arguments::command(), &arguments))?;
    let mut parsed = Arguments::from_arg_matches(&matches)?;
    parsed.server.flags = ServerFlags::new(&parsed.server, &matches);
    if let Verb::Build(verb) = &mut parsed.verb {
        verb.repeat = repeat_command(&arguments);
    }
    Ok(parsed)
}

/// Prints the help text or usage error that [`parse`] returned for these arguments: help to standard output,
/// errors to standard error, and where JSON was asked for also as a document to standard output. An error quotes
/// the arguments, whose control characters a terminal must not get.
pub fn print_usage(error: &clap::Error, arguments: &[OsString]) {
    if error.use_stderr() && json_result::is_asked_for(arguments) {
        let text = error.render().to_string();
        let first = text.lines().next().unwrap_or_default();
        let first = first.strip_prefix("error: ").unwrap_or(first);
        // A closed output has no reader.
        let _ = json_result::print_error_document(&Error::Usage(first.to_owned()), None);
    }
    let text = error.render();
    // A closed output has no reader.
    match error.use_stderr() && screen::is_steering(&text.ansi().to_string()) {
        true => print_message(text.to_string().trim_end()),
        false => _ = error.print(),
    }
}

/// Runs the verb, prints its error to standard error, and returns the exit status.
pub async fn run(arguments: Arguments) -> u8 {
    let flags = arguments.server.flags.clone();
    match perform(arguments).await {
        Ok(()) => 0,
        Err(error) => {
            let status = error.exit_status();
            if status != 0 {
                print_message(&error.line());
                if let Some(advice) = advice::advice(&error, &flags) {
                    print_message(&advice);
                }
            }
            status
        }
    }
}

async fn perform(arguments: Arguments) -> Result<(), Error> {
    if let Verb::Completions(verb) = &arguments.verb {
        return verb.run(Arguments::command());
    }
    let mut document = Document::new(arguments.verb.wants_document());
    let result = perform_request(arguments, &mut document).await;
    document.finish(result)
}

async fn perform_request(arguments: Arguments, document: &mut Document) -> Result<(), Error> {
    let client = arguments.server.client()?;
    let flags = &arguments.server.flags;
    match arguments.verb {
        Verb::Build(verb) => verb.run(&client, flags, document).await,
        Verb::List(verb) => verb.run(&client, document).await,
        Verb::Status(verb) => verb.run(&client, document).await,
        Verb::Logs(verb) => verb.run(&client).await,
        Verb::Cancel(verb) => verb.run(&client, flags).await,
        Verb::Wait(verb) => verb.run(&client, flags, document).await,
        Verb::Fetch(verb) => verb.run(&client, flags).await,
        Verb::Projects(verb) => verb.run(&client, document).await,
        Verb::Rebuild(verb) => verb.run(&client).await,
        Verb::Group(verb) => verb.run(&client).await,
        Verb::Rm(verb) => verb.run(&client).await,
        Verb::Pin(verb) => verb.run(&client).await,
        Verb::Unpin(verb) => verb.run(&client).await,
        Verb::Pause(verb) => verb.run(&client).await,
        Verb::Resume(verb) => verb.run(&client).await,
        Verb::Gc(verb) => verb.run(&client, document).await,
        Verb::Completions(_) => Ok(()),
    }
}

impl Verb {
    /// Whether standard output must get one JSON document.
    fn wants_document(&self) -> bool {
        match self {
            Verb::Build(verb) => verb.json_result,
            Verb::Wait(verb) => verb.json_result,
            Verb::List(verb) => verb.json,
            Verb::Status(verb) => verb.json,
            Verb::Projects(verb) => verb.json,
            Verb::Gc(verb) => verb.json,
            Verb::Logs(_)
            | Verb::Cancel(_)
            | Verb::Fetch(_)
            | Verb::Rebuild(_)
            | Verb::Group(_)
            | Verb::Rm(_)
            | Verb::Pin(_)
            | Verb::Unpin(_)
            | Verb::Pause(_)
            | Verb::Resume(_)
            | Verb::Completions(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
