//! A command line as clap knows it, in a page: synopsis, options, subcommands, environment.
//!
//! Options of all subcommands are described once, with the program.

use clap::{Arg, ArgAction, Command};
use clap_mangen::roff::{Inline, bold, italic, roman};

use super::page::Page;

/// One line for each way to call it, without the options that ask for help.
pub fn synopsis(page: &mut Page, command: &Command) {
    let everywhere: Vec<&Arg> = shown(command).filter(|arg| arg.is_global_set()).collect();
    if !command.is_subcommand_required_set() {
        let all = shown(command).collect();
        page.line(usage(&[command.get_name()], all));
    }
    walk(&mut Vec::new(), command, &mut |path, leaf| {
        if path.len() > 1 {
            let few = everywhere.len() <= 1;
            let more = if few { everywhere.as_slice() } else { &[] };
            let own = shown(leaf).filter(|arg| !arg.is_global_set());
            page.line(usage(path, more.iter().copied().chain(own).collect()));
        }
    });
}

/// The options of the program itself.
pub fn options(page: &mut Page, command: &Command) {
    command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .for_each(|arg| entry(page, arg));
}

/// Each subcommand that does something: what it does, how it is called, its options.
pub fn subcommands(page: &mut Page, command: &Command) {
    walk(&mut Vec::new(), command, &mut |path, leaf| {
        if path.len() < 2 {
            return;
        }
        page.subsection(&path.join(" "));
        let own = || shown(leaf).filter(|arg| !arg.is_global_set());
        page.line(usage(path, own().collect()));
        if let Some(about) = leaf.get_long_about().or_else(|| leaf.get_about()) {
            paragraphs(page, &format!("{about}."));
        }
        own().for_each(|arg| entry(page, arg));
        if let Some(after) = leaf.get_after_help() {
            paragraphs(page, &after.to_string());
        }
    });
}

/// The variables that options read.
pub fn environment(page: &mut Page, command: &Command) {
    for arg in shown(command) {
        if let Some(variable) = arg.get_env() {
            let name = variable.to_string_lossy().into_owned();
            let option = arg.get_long().unwrap_or_default();
            let said = format!("In place of `--{option}`. {}.", help(arg));
            page.entry(vec![bold(name)], &said);
        }
    }
}

/// Calls `each` for every command that is more than a name for others.
fn walk<'a>(
    path: &mut Vec<&'a str>,
    command: &'a Command,
    each: &mut dyn FnMut(&[&'a str], &'a Command),
) {
    path.push(command.get_name());
    if !command.is_subcommand_required_set() {
        each(path, command);
    }
    let verbs = command.get_subcommands();
    for verb in verbs.filter(|verb| verb.get_name() != "help" && !verb.is_hide_set()) {
        walk(path, verb, each);
    }
    path.pop();
}

fn shown(command: &Command) -> impl Iterator<Item = &Arg> {
    let hidden = |arg: &Arg| arg.is_hide_set() || arg.get_id() == "help";
    command.get_arguments().filter(move |arg| !hidden(arg))
}

/// `mistry fetch [--target DIR] ID`
fn usage(path: &[&str], arguments: Vec<&Arg>) -> Vec<Inline> {
    let mut line = vec![bold(path.join(" "))];
    let (positional, options): (Vec<&Arg>, Vec<&Arg>) =
        arguments.into_iter().partition(|arg| arg.is_positional());
    for arg in options
        .into_iter()
        .filter(|arg| !ends(arg))
        .chain(positional)
    {
        let required = arg.is_required_set();
        line.push(roman(if required { " " } else { " [" }));
        if arg.is_positional() {
            line.push(roman(if arg.is_last_set() { "-- " } else { "" }));
            line.push(italic(values(arg)));
        } else {
            line.push(bold(spelled(arg)));
            if takes_value(arg) {
                line.extend([roman(" "), italic(values(arg))]);
            }
        }
        if arg.is_last_set() || matches!(arg.get_action(), ArgAction::Append) {
            line.push(roman("…"));
        }
        line.push(roman(if required { "" } else { "]" }));
    }
    line
}

/// Options that only print something about the program.
fn ends(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Version | ArgAction::Help)
}

fn spelled(arg: &Arg) -> String {
    match (arg.get_long(), arg.get_short()) {
        (Some(long), _) => format!("--{long}"),
        (None, Some(short)) => format!("-{short}"),
        (None, None) => String::new(),
    }
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// The names of its values, which clap gives to all that have none.
fn values(arg: &Arg) -> String {
    match arg.get_value_names() {
        Some(names) => names
            .iter()
            .map(|n| n.as_str())
            .collect::<Vec<_>>()
            .join(" "),
        None => arg.get_id().as_str().to_uppercase(),
    }
}

fn entry(page: &mut Page, arg: &Arg) {
    let mut tag = Vec::new();
    if arg.is_positional() {
        tag.push(italic(values(arg)));
    } else {
        if let Some(short) = arg.get_short() {
            tag.extend([bold(format!("-{short}")), roman(", ")]);
        }
        tag.push(bold(spelled(arg)));
        for alias in arg.get_visible_aliases().unwrap_or_default() {
            tag.extend([roman(", "), bold(format!("--{alias}"))]);
        }
        if takes_value(arg) {
            tag.extend([roman(" "), italic(values(arg))]);
        }
    }
    let mut said = format!("{}.", help(arg));
    let possible = arg.get_possible_values();
    if takes_value(arg) && !possible.is_empty() {
        let names: Vec<String> = possible
            .iter()
            .map(|v| format!("`{}`", v.get_name()))
            .collect();
        said.push_str(&format!(" One of {}.", names.join(", ")));
    }
    let defaults = arg.get_default_values();
    if takes_value(arg) && !defaults.is_empty() && !arg.is_hide_default_value_set() {
        let defaults: Vec<_> = defaults.iter().map(|v| v.to_string_lossy()).collect();
        said = format!(
            "{} (default: `{}`).",
            said.trim_end_matches('.'),
            defaults.join(",")
        );
    }
    page.entry(tag, &said);
}

/// Help as it was written, backticks included; a default at its end becomes a sentence.
fn help(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    match help.trim_end_matches(']').rsplit_once(" [default: ") {
        Some((said, default)) => format!("{said} (default: {default})"),
        None => help.trim_end_matches('.').to_owned(),
    }
}

/// Empty lines divide.
fn paragraphs(page: &mut Page, text: &str) {
    for paragraph in text.split("\n\n") {
        page.words(&paragraph.replace('\n', " "));
    }
}
