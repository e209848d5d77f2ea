//! A command of `mistry` that requests a build, for people to copy into a shell.

use std::fmt::{self, Display, Formatter};

/// The command: its words before and after `--`, each quoted for a shell.
#[derive(Clone, Debug)]
pub(crate) struct BuildCommand {
    options: Vec<String>,
    params: Vec<String>,
}

impl BuildCommand {
    /// The command with these words before and after `--`.
    pub(crate) fn of_words(options: &[String], params: &[String]) -> BuildCommand {
        let quoted = |words: &[String]| words.iter().map(|word| quote_for_shell(word)).collect();
        BuildCommand {
            options: quoted(options),
            params: quoted(params),
        }
    }

    /// The command for a job. A param without a value is read from a file that the user names.
    pub(crate) fn of_job<'a>(
        project: &str,
        group: &str,
        params: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    ) -> BuildCommand {
        // A value of its own word could be taken for an option.
        let mut options = vec!["build".to_owned(), format!("--project={project}")];
        if !group.is_empty() {
            options.push(format!("--group={group}"));
        }
        let params = params.into_iter().map(|(name, value)| match value {
            // `@@` stands for the text `@`, `@` for a file.
            Some(value) if value.starts_with('@') => format!("--{name}=@{value}"),
            Some(value) => format!("--{name}={value}"),
            None => format!("--{name}=@FILE"),
        });
        BuildCommand::of_words(&options, &params.collect::<Vec<_>>())
    }

    /// The same command with one more option.
    pub(crate) fn with_option(mut self, option: &str) -> BuildCommand {
        self.options.push(quote_for_shell(option));
        self
    }

    /// The same command for a build that starts empty.
    pub(crate) fn cold(self) -> BuildCommand {
        match self.options.iter().any(|option| option == "--cold") {
            true => self,
            false => self.with_option("--cold"),
        }
    }

    /// All words, as they are written in a shell.
    pub(crate) fn words(&self) -> Vec<&str> {
        let mut words = vec!["mistry"];
        words.extend(self.options.iter().map(String::as_str));
        if !self.params.is_empty() {
            words.push("--");
            words.extend(self.params.iter().map(String::as_str));
        }
        words
    }
}

impl Display for BuildCommand {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.write_str(&self.words().join(" "))
    }
}

/// A word as it is written in a shell. (The crate `shlex` also quotes words that need it not, such as `--a=b`.)
pub(crate) fn quote_for_shell(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+,=".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_of_a_job_has_its_values_as_a_shell_reads_them() {
        let params = [
            ("_t", None),
            ("a", Some("@x")),
            ("b", Some("it's")),
            ("c", Some("two\nlines $HOME")),
            ("d", Some("")),
        ];
        let command = BuildCommand::of_job("p", "-g h", params);
        let params = "-- --_t=@FILE --a=@@x '--b=it'\\''s' '--c=two\nlines $HOME' --d=";
        let expected = format!("mistry build --project=p '--group=-g h' {params}");
        assert_eq!(command.to_string(), expected);
        let cold = command.cold();
        let expected = format!("mistry build --project=p '--group=-g h' --cold {params}");
        assert_eq!(cold.to_string(), expected);
        assert_eq!(cold.cold().to_string(), expected);
        let plain = BuildCommand::of_job("p", "", []);
        assert_eq!(plain.to_string(), "mistry build --project=p");
    }

    #[test]
    fn a_shell_reads_each_quoted_word_as_it_was() {
        let words = [
            "",
            "a",
            "a b",
            "it's",
            "$x `y` \\ \" * ~ # ! =",
            "ü\n-",
            "~",
            "a=~",
        ];
        let quoted = words.map(quote_for_shell).join(" ");
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", &format!("printf '%s\\0' {quoted}")]);
        let printed = String::from_utf8(shell.output().unwrap().stdout).unwrap();
        let read: Vec<&str> = printed.split_terminator('\0').collect();
        assert_eq!(read, words);
    }
}
