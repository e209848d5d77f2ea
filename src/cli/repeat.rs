//! The command line of a build, to be copied and run again.

use std::ffi::OsString;

use super::server::{ServerFlags, quote_for_shell};
use crate::api::BuildView;
use crate::project::is_opaque_param;

/// Longest command that is suggested: a longer one cannot be read, and is in the history of the shell.
const MAX_CHARS: usize = 400;

/// A command that requests a build: its words before and after `--`, quoted for a shell.
#[derive(Clone, Debug)]
pub(super) struct RepeatCommand {
    options: Vec<String>,
    params: Vec<String>,
}

impl RepeatCommand {
    /// The command of these arguments. Values of secret params are left out; a file is named.
    pub(super) fn of(arguments: &[OsString]) -> Option<RepeatCommand> {
        let words = arguments.iter().skip(1).map(|word| word.to_string_lossy());
        let words: Vec<String> = words.map(|word| word.into_owned()).collect();
        let end = words.iter().position(|word| word == "--");
        let (options, params) = words.split_at(end.unwrap_or(words.len()));
        let params = params.get(1..).unwrap_or_default();
        RepeatCommand::new(options.to_vec(), without_secrets(params))
    }

    /// The command for the build of a job that was requested by another command.
    pub(super) fn of_build(info: &BuildView, flags: &ServerFlags) -> Option<RepeatCommand> {
        let mut options = vec!["build".to_owned(), format!("--project={}", info.project)];
        if !info.group.is_empty() {
            options.push(format!("--group={}", info.group));
        }
        let params = info.params.iter().map(|(name, value)| match value {
            Some(value) if value.starts_with('@') => format!("--{name}=@{value}"),
            Some(value) => format!("--{name}={value}"),
            None => format!("--{name}=@FILE"),
        });
        let command = RepeatCommand::new(options, params.collect());
        command.map(|mut command| {
            // They are quoted already.
            command.options[0].push_str(&flags.0);
            command
        })
    }

    fn new(options: Vec<String>, params: Vec<String>) -> Option<RepeatCommand> {
        let quoted = |words: Vec<String>| words.iter().map(|word| quote_for_shell(word)).collect();
        let command = RepeatCommand {
            options: quoted(options),
            params: quoted(params),
        };
        (command.command().chars().count() <= MAX_CHARS).then_some(command)
    }

    /// The same command.
    pub(super) fn command(&self) -> String {
        self.with(&[])
    }

    /// The same for a build that starts empty.
    pub(super) fn cold(&self) -> String {
        match self.options.iter().any(|option| option == "--cold") {
            true => self.command(),
            false => self.with(&["--cold"]),
        }
    }

    fn with(&self, more: &[&str]) -> String {
        let options = self.options.iter().map(String::as_str);
        let mut words: Vec<&str> = ["mistry"].into_iter().chain(options).collect();
        words.extend(more);
        if !self.params.is_empty() {
            words.push("--");
            words.extend(self.params.iter().map(String::as_str));
        }
        words.join(" ")
    }
}

/// Params as they were written, without the values of secret ones: a terminal's history is read by others.
pub(super) fn without_secrets(params: &[String]) -> Vec<String> {
    let mut shown = Vec::new();
    let mut rest = params.iter();
    let is_file = |value: &str| value.starts_with('@') && !value.starts_with("@@");
    while let Some(param) = rest.next() {
        let text = param.trim_start_matches('-');
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        match value {
            Some(value) if is_opaque_param(name) && !is_file(value) => {
                shown.push(format!("--{name}=@FILE"));
            }
            Some(_) => shown.push(param.clone()),
            None => {
                let value = rest.next().map_or("", String::as_str);
                match is_opaque_param(name) && !is_file(value) {
                    true => shown.push(format!("--{name}=@FILE")),
                    false => shown.extend([param.clone(), value.to_owned()]),
                }
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Option<String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        RepeatCommand::of(&words).map(|command| command.command())
    }

    #[test]
    fn a_command_is_repeated_as_it_was_written_without_secrets() {
        for (words, expected) in [
            (
                &["/usr/bin/mistry", "build", "--project", "p"][..],
                "mistry build --project p",
            ),
            (
                &["mistry", "build", "-g", "a b", "--", "--x=1 2", "y", "-3"],
                "mistry build -g 'a b' -- '--x=1 2' y -3",
            ),
            (
                &[
                    "mistry",
                    "build",
                    "--",
                    "--_t=hush",
                    "_u",
                    "hush",
                    "--_v=@f",
                    "--_w",
                    "@f",
                ],
                "mistry build -- --_t=@FILE --_u=@FILE --_v=@f --_w @f",
            ),
            (
                &["mistry", "build", "--", "--_t=@@hush"],
                "mistry build -- --_t=@FILE",
            ),
            (&["mistry", "build", "--"], "mistry build"),
        ] {
            assert_eq!(command(words).as_deref(), Some(expected));
        }
        assert_eq!(command(&["mistry", "build", "--", &"x".repeat(500)]), None);
    }

    #[test]
    fn the_command_of_a_build_is_made_from_its_params() {
        let mut info = BuildView {
            project: "p".to_owned(),
            group: "g".to_owned(),
            ..BuildView::default()
        };
        for (name, value) in [("a", Some("@x")), ("b", Some("it's")), ("_t", None)] {
            info.params.insert(name.to_owned(), value.map(Into::into));
        }
        let command = RepeatCommand::of_build(&info, &ServerFlags(" --port 1".to_owned())).unwrap();
        let params = r"-- --_t=@FILE --a=@@x '--b=it'\''s'";
        let expected = format!("mistry build --port 1 --project=p --group=g {params}");
        assert_eq!(command.command(), expected);
        let cold = format!("mistry build --port 1 --project=p --group=g --cold {params}");
        assert_eq!(command.cold(), cold);
    }
}
