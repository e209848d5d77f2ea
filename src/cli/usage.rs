//! Errors of the command line, as they are printed.
//!
//! clap counts an option that the environment gives as one that was used, and so its usage line would say that
//! `--url` is required. And params of a build are not options of this program.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

use super::repeat::without_secrets;

/// The error with the usage of the subcommand, and with the place of params.
pub(super) fn improve(mut error: Error, mut command: Command, arguments: &[OsString]) -> Error {
    command.build();
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
        let tip = StyledStr::from(format!("params go after '--': mistry build ... -- {param}"));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    if is_project_in_place_of_port(&error, &words) {
        let tip = StyledStr::from("-p is --port; a project is named with --project");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
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
