//! The params of a build, as written after `--`.
//!
//! `--name=value`, `name=value`, `--name value`, `name value`: dashes before a name are ignored, and a name
//! ends at the first `=`, so `--a=b=c` gives `a` the value `b=c`. A value `@FILE` is the unchanged content of
//! that file; `@@x` is the text `@x`.

use std::fs::File;
use std::io::{self, Read};

use crate::job::{MAX_PARAMS, ParamName};

/// Largest file that may be a value: a server's limit for a whole request.
const MAX_FILE: u64 = 16 << 20;

/// An error in the params.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("param '{0}' has no value: write --{0}=VALUE")]
    NoValue(String),
    #[error("'{0}' is no param: expected --NAME=VALUE")]
    NoName(String),
    #[error(transparent)]
    Name(#[from] crate::project::NameError),
    #[error("param '{0}' is given twice")]
    Twice(String),
    #[error("more than {MAX_PARAMS} params are given")]
    TooMany,
    #[error("param '{name}': could not read file '{file}': {source}")]
    Read {
        name: String,
        file: String,
        source: io::Error,
    },
    #[error("param '{name}': file '{file}' is larger than 16 MiB")]
    TooLarge { name: String, file: String },
    #[error("param '{name}': file '{file}' is not UTF-8 text")]
    NotText { name: String, file: String },
}

/// Reads all params, in the order given.
pub(super) fn parse(arguments: &[String]) -> Result<Vec<(String, String)>, Error> {
    let mut params: Vec<(String, String)> = Vec::new();
    let mut names = std::collections::HashSet::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let text = argument.trim_start_matches('-');
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        if name.is_empty() {
            return Err(Error::NoName(argument.clone()));
        }
        name.parse::<ParamName>()?;
        let value = match value.or_else(|| rest.next().map(String::as_str)) {
            Some(value) => resolve(name, value)?,
            None => return Err(Error::NoValue(name.to_owned())),
        };
        if !names.insert(name) {
            return Err(Error::Twice(name.to_owned()));
        }
        if params.len() == MAX_PARAMS {
            return Err(Error::TooMany);
        }
        params.push((name.to_owned(), value));
    }
    Ok(params)
}

fn resolve(name: &str, value: &str) -> Result<String, Error> {
    let Some(file) = value.strip_prefix('@') else {
        return Ok(value.to_owned());
    };
    if file.starts_with('@') {
        return Ok(file.to_owned());
    }
    let (name, file) = (name.to_owned(), file.to_owned());
    let mut bytes = Vec::new();
    // The file is read up to the limit, not by its size: a pipe has none.
    let read = File::open(&file).and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut bytes));
    match read {
        Err(source) => Err(Error::Read { name, file, source }),
        Ok(_) if bytes.len() as u64 > MAX_FILE => Err(Error::TooLarge { name, file }),
        Ok(_) => String::from_utf8(bytes).map_err(|_| Error::NotText { name, file }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[&str]) -> Result<String, String> {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let params = parse(&arguments).map_err(|e| e.to_string())?;
        let shown: Vec<String> = params.iter().map(|(n, v)| format!("{n}:{v}")).collect();
        Ok(shown.join(","))
    }

    #[test]
    fn params_are_parsed_as_written() {
        for (arguments, params) in [
            (&[][..], ""),
            (&["--a=b"], "a:b"),
            (&["a=b"], "a:b"),
            (&["-a=b"], "a:b"),
            (&["---a", "b"], "a:b"),
            (&["a", "b"], "a:b"),
            (&["--a=b=c"], "a:b=c"),
            (&["--a="], "a:"),
            (&["--a", ""], "a:"),
            (&["--a", "-O2", "--b", "--c=d"], "a:-O2,b:--c=d"),
            (&["--b=1", "--a=2"], "b:1,a:2"),
            (&["--a=@@x"], "a:@x"),
            (&["--a", "@@@x"], "a:@@x"),
            (&["--_token=x"], "_token:x"),
            (&["--a=x@y"], "a:x@y"),
        ] {
            assert_eq!(check(arguments).as_deref(), Ok(params), "{arguments:?}");
        }
    }

    #[test]
    fn a_wrong_param_is_named() {
        for (arguments, part) in [
            (&["--a"][..], "param 'a' has no value"),
            (&["--a=b", "c"], "param 'c' has no value"),
            (&["--", "x"], "'--' is no param"),
            (&["--=x"], "'--=x' is no param"),
            (&["--a=1", "--a=2"], "param 'a' is given twice"),
            (&["--a/b=1"], "param name 'a/b' is not allowed"),
            (
                &["--a=@/does/not/exist"],
                "could not read file '/does/not/exist'",
            ),
            (&["--a=@"], "could not read file ''"),
            (&["--a=@/"], "could not read file '/'"),
            (
                &["--_token=@/no/secret"],
                "param '_token': could not read file '/no/secret'",
            ),
        ] {
            let error = check(arguments).unwrap_err();
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn a_file_is_a_value_without_changes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let argument = format!("--a=@{}", file.path().display());
        std::fs::write(file.path(), "x\n@y\n").unwrap();
        assert_eq!(check(&[&argument]).as_deref(), Ok("a:x\n@y\n"));
        std::fs::write(file.path(), b"\xff").unwrap();
        assert!(
            check(&[&argument])
                .unwrap_err()
                .contains("is not UTF-8 text")
        );
        std::fs::write(file.path(), "").unwrap();
        file.as_file().set_len(MAX_FILE).unwrap();
        assert!(check(&[&argument]).is_ok());
        file.as_file().set_len(MAX_FILE + 1).unwrap();
        assert!(
            check(&[&argument])
                .unwrap_err()
                .contains("larger than 16 MiB")
        );
    }

    #[test]
    fn params_are_bounded() {
        let many: Vec<String> = (0..=MAX_PARAMS).map(|n| format!("--p{n}=x")).collect();
        assert!(parse(&many[1..]).is_ok());
        assert!(matches!(parse(&many), Err(Error::TooMany)));
    }
}
