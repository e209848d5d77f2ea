//! Errors of the command line, as they are printed.
//!
//! clap counts an option that the environment gives as one that was used, and so its usage line would say that
//! `--url` is required. And params of a build are not options of this program.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

use super::repeat::without_secrets;
use crate::project::ProjectName;

/// The error with the usage of the subcommand, and with the place of params.
pub(super) fn improve(mut error: Error, mut command: Command, arguments: &[OsString]) -> Error {
    command.build();
    if is_init(&error) {
        error.remove(ContextKind::SuggestedSubcommand);
        suggest(&mut error, NO_INIT.to_owned());
    }
    let words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    let words: Vec<&str> = words.take_while(|word| *word != "--").collect();
    let verb = words
        .iter()
        .find_map(|word| command.find_subcommand(word).cloned());
    let Some(mut verb) = verb else {
        return error;
    };
    if error.get(ContextKind::Usage).is_some() {
        let usage = ContextValue::StyledStr(verb.render_usage());
        error.insert(ContextKind::Usage, usage);
    }
    if verb.get_name() == "build"
        && error.kind() == ErrorKind::UnknownArgument
        && let Some(param) = words.iter().find(|word| is_param(&error, word))
    {
        error.remove(ContextKind::SuggestedArg);
        let param = without_secrets(&[(*param).to_owned()]).join(" ");
        suggest(
            &mut error,
            format!("params go after '--': mistry build ... -- {param}"),
        );
    } else if verb.get_name() == "build"
        && let Some(project) = project_without_option(&error, &words)
    {
        error.remove(ContextKind::SuggestedArg);
        suggest(
            &mut error,
            format!("a project is named with --project: mistry build --project {project}"),
        );
    }
    if is_project_in_place_of_port(&error, &words) {
        let tip = "-p is --port; a project is named with --project";
        suggest(&mut error, tip.to_owned());
    }
    error
}

/// What stands for the verb `init`, which other programs have.
const NO_INIT: &str = "a project is a directory with a Dockerfile below the server's projects_path; README.md and mistryd(8) have a first one";

fn is_init(error: &Error) -> bool {
    let unknown = error.get(ContextKind::InvalidSubcommand);
    error.kind() == ErrorKind::InvalidSubcommand
        && matches!(unknown, Some(ContextValue::String(word)) if word == "init")
}

/// Replaces the tips of clap.
fn suggest(error: &mut Error, tip: String) {
    let tips = vec![StyledStr::from(tip)];
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
}

/// The unknown argument, if it is the one word that names a project: other verbs take it so.
fn project_without_option<'a>(error: &Error, words: &[&'a str]) -> Option<&'a str> {
    if error.kind() != ErrorKind::UnknownArgument
        || words.iter().any(|word| word.starts_with("--project"))
    {
        return None;
    }
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let is_name = !unknown.starts_with('-') && unknown.parse::<ProjectName>().is_ok();
    let mut words = words.iter().copied();
    words.find(|word| is_name && word == unknown)
}

/// Whether `-p` has a value that is no port: `mistryd rebuild -p` takes a project.
fn is_project_in_place_of_port(error: &Error, words: &[&str]) -> bool {
    let is_about_port = matches!(
        error.get(ContextKind::InvalidArg),
        Some(ContextValue::String(option)) if option.starts_with("--port ")
    );
    let is_short = |word: &&str| word.starts_with("-p");
    error.kind() == ErrorKind::ValueValidation && is_about_port && words.iter().any(is_short)
}

/// Whether this word is the unknown argument, and has a value as a param has.
fn is_param(error: &Error, word: &str) -> bool {
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else {
        return false;
    };
    let name = unknown.split('=').next().unwrap_or_default();
    word.strip_prefix(name)
        .is_some_and(|rest| rest.starts_with('='))
}
