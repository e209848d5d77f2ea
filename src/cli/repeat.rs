//! The command that requests a build again.

use std::ffi::OsString;

use super::server::ServerFlags;
use crate::api::BuildView;
use crate::build_command::BuildCommand;
use crate::project::is_opaque_param;

/// Longest command that is suggested: a longer one cannot be read, and is in the history of the shell.
const MAX_CHARS: usize = 400;

/// The command of these arguments. Values of secret params are left out; a file is named.
pub(super) fn repeat_command(arguments: &[OsString]) -> Option<BuildCommand> {
    let words = arguments.iter().skip(1).map(|word| word.to_string_lossy());
    let words: Vec<String> = words.map(|word| word.into_owned()).collect();
    let end = words.iter().position(|word| word == "--");
    let (options, params) = words.split_at(end.unwrap_or(words.len()));
    let params = without_secrets(params.get(1..).unwrap_or_default());
    if_short(BuildCommand::of_words(options, &params))
}

/// The command for the build of a job that was requested by another command.
pub(super) fn command_of_build(info: &BuildView, flags: &ServerFlags) -> Option<BuildCommand> {
    let params = info.params.iter();
    let params = params.map(|(name, value)| (name.as_str(), value.as_deref()));
    let command = BuildCommand::of_job(&info.project, &info.group, params);
    if_short(
        flags
            .options()
            .fold(command, |command, option| command.with_option(&option)),
    )
}

fn if_short(command: BuildCommand) -> Option<BuildCommand> {
    (command.to_string().chars().count() <= MAX_CHARS).then_some(command)
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
        repeat_command(&words).map(|command| command.to_string())
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
        info.params.insert("_t".to_owned(), None);
        let flags = ServerFlags::of([("port", "1".to_owned())]);
        let command = command_of_build(&info, &flags).unwrap().to_string();
        let expected = "mistry build --project=p --group=g --port=1 -- --_t=@FILE";
        assert_eq!(command, expected);
        info.group = "x".repeat(500);
        assert!(command_of_build(&info, &flags).is_none());
    }
}
