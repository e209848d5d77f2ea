//! Params as they are written on a command line after `--`, and from variables of the environment.
//!
//! `--name=value`, `name=value`, `--name value`, `name value`: dashes before a name are ignored, and a name
//! ends at the first `=`, so `--a=b=c` gives `a` the value `b=c`. A value `@FILE` is the unchanged content of
//! that file, `@-` that of standard input; `@@x` is the text `@x`.
//!
//! A variable `MISTRY_PARAM_name` gives the param `name` its value as it is. If the command line gives the
//! param, too, the variable is ignored.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};

use crate::job::{MAX_PARAMS, ParamName};
use crate::project::is_opaque_param;

/// Largest file that may be a value: a server's limit for a whole request.
const MAX_FILE: u64 = 16 << 20;

/// The beginning of the names of variables that give params.
const VARIABLE_PREFIX: &str = "MISTRY_PARAM_";

/// An error in the params.
#[derive(Debug, thiserror::Error)]
pub enum ParamsError {
    /// It has no value.
    #[error("param '{0}' has no value: write --{0}={place}", place = place_of_value(.0))]
    NoValue(String),
    /// An argument that begins no param.
    #[error("'{0}' is no param: expected --NAME=VALUE")]
    NoName(String),
    /// A name that breaks its rule.
    #[error(transparent)]
    Name(#[from] crate::project::NameError),
    /// It is given twice.
    #[error("param '{0}' is given twice")]
    Twice(String),
    /// There are too many.
    #[error("more than {MAX_PARAMS} params are given")]
    TooMany,
    /// Its file cannot be read.
    #[error("param '{name}': could not read file '{file}': {source}")]
    Read {
        /// The param.
        name: String,
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// Its file is too large.
    #[error("param '{name}': file '{file}' is larger than 16 MiB")]
    TooLarge {
        /// The param.
        name: String,
        /// The file.
        file: String,
    },
    /// Its file is no text.
    #[error("param '{name}': file '{file}' is not UTF-8 text")]
    NotText {
        /// The param.
        name: String,
        /// The file.
        file: String,
    },
    /// Standard input is the value of another.
    #[error(
        "param '{1}': standard input was read for param '{0}' already; give one of them another way"
    )]
    InputTwice(String, String),
    /// Its variable is no text.
    #[error("param '{0}': the variable {VARIABLE_PREFIX}{0} is not UTF-8 text")]
    VariableNotText(String),
}

/// What stands for a value on the command line, where other users can read it: a secret is given as a file.
fn place_of_value(name: &str) -> &'static str {
    match is_opaque_param(name) {
        true => "@FILE",
        false => "VALUE",
    }
}

/// Reads all params: those of the command line in the order given, then those of variables. `input` is
/// standard input.
///
/// # Errors
/// Names the param.
pub fn parse_params(
    arguments: &[String],
    variables: impl Iterator<Item = (OsString, OsString)>,
    input: impl Read,
) -> Result<Vec<(String, String)>, ParamsError> {
    let mut params: Vec<(String, String)> = Vec::new();
    let mut names = HashSet::new();
    let mut files = Files {
        input,
        read_for: None,
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let text = argument.trim_start_matches('-');
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        if name.is_empty() {
            return Err(ParamsError::NoName(argument.clone()));
        }
        name.parse::<ParamName>()?;
        let value = match value.or_else(|| rest.next().map(String::as_str)) {
            Some(value) => files.resolve(name, value)?,
            None => return Err(ParamsError::NoValue(name.to_owned())),
        };
        if !names.insert(name.to_owned()) {
            return Err(ParamsError::Twice(name.to_owned()));
        }
        if params.len() == MAX_PARAMS {
            return Err(ParamsError::TooMany);
        }
        params.push((name.to_owned(), value));
    }
    for (name, value) in from_variables(variables)? {
        if names.contains(&name) {
            continue;
        }
        if params.len() == MAX_PARAMS {
            return Err(ParamsError::TooMany);
        }
        params.push((name, value));
    }
    Ok(params)
}

/// A command line of the verb `rebuild` with its params `--_NAME=VALUE` behind `--`, which may be left out there: no
/// option begins with `--_`.
pub fn with_params_last(arguments: Vec<OsString>) -> Vec<OsString> {
    let end = arguments.iter().position(|argument| argument == "--");
    let (before, after) = arguments.split_at(end.unwrap_or(arguments.len()));
    let is_param = |argument: &&OsString| {
        let bytes = argument.as_encoded_bytes();
        bytes.starts_with(b"--_") && bytes.contains(&b'=')
    };
    let (params, others): (Vec<_>, Vec<_>) = before.iter().partition(is_param);
    if params.is_empty() || !others.iter().any(|word| *word == "rebuild") {
        return arguments;
    }
    let end = OsString::from("--");
    let ordered = others.into_iter().chain([&end]).chain(params);
    ordered.chain(after.iter().skip(1)).cloned().collect()
}

/// The params that variables give, by name.
fn from_variables(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<BTreeMap<String, String>, ParamsError> {
    let mut params = BTreeMap::new();
    for (variable, value) in variables {
        let name = variable
            .to_str()
            .and_then(|name| name.strip_prefix(VARIABLE_PREFIX));
        let Some(name) = name else {
            continue;
        };
        name.parse::<ParamName>()?;
        let value = value.into_string();
        let value = value.map_err(|_| ParamsError::VariableNotText(name.to_owned()))?;
        params.insert(name.to_owned(), value);
    }
    Ok(params)
}

/// Values that are read from files.
struct Files<R> {
    input: R,
    /// The param that is the content of standard input.
    read_for: Option<String>,
}

impl<R: Read> Files<R> {
    fn resolve(&mut self, name: &str, value: &str) -> Result<String, ParamsError> {
        let Some(file) = value.strip_prefix('@') else {
            return Ok(value.to_owned());
        };
        if file.starts_with('@') {
            return Ok(file.to_owned());
        }
        // The file is read up to the limit, not by its size: a pipe has none.
        let mut bytes = Vec::new();
        let read = match file {
            "-" => {
                if let Some(first) = self.read_for.replace(name.to_owned()) {
                    return Err(ParamsError::InputTwice(first, name.to_owned()));
                }
                let input = &mut self.input;
                input.take(MAX_FILE + 1).read_to_end(&mut bytes)
            }
            file => File::open(file).and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut bytes)),
        };
        let (name, file) = (name.to_owned(), file.to_owned());
        match read {
            Err(source) => Err(ParamsError::Read { name, file, source }),
            Ok(_) if bytes.len() as u64 > MAX_FILE => Err(ParamsError::TooLarge { name, file }),
            Ok(_) => String::from_utf8(bytes).map_err(|_| ParamsError::NotText { name, file }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[&str]) -> Result<String, String> {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let variables = [
            ("MISTRY_PARAM__env", "@-"),
            ("MISTRY_PARAM_b", "from the environment"),
            ("MISTRY_PARAMS", "x"),
            ("MISTRY_URL", "x"),
        ];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let variables = variables
            .into_iter()
            .filter(|_| arguments.contains(&"--v=".to_owned()));
        let params =
            parse_params(&arguments, variables, &b"typed\n"[..]).map_err(|e| e.to_string())?;
        let shown: Vec<String> = params.iter().map(|(n, v)| format!("{n}:{v}")).collect();
        Ok(shown.join(","))
    }

    #[test]
    fn a_rebuild_takes_its_params_without_dashes_before_them() {
        let ordered = |line: &str| {
            let words = line.split(' ').map(OsString::from).collect();
            let words = with_params_last(words).into_iter();
            let words: Vec<String> = words.map(|word| word.into_string().unwrap()).collect();
            words.join(" ")
        };
        for (line, expected) in [
            ("m rebuild P --_a=@f -v", "m rebuild P -v -- --_a=@f"),
            (
                "m rebuild --_a=@f P --_b=-- -- --c=d",
                "m rebuild P -- --_a=@f --_b=-- --c=d",
            ),
        ] {
            assert_eq!(ordered(line), expected);
        }
        for same in [
            "m rebuild P -- --_a=@f",
            "m rebuild P --verbose",
            "m rebuild P --_a",
            "m build --project P --_a=@f",
            "m build -- rebuild --_a=@f",
        ] {
            assert_eq!(ordered(same), same);
        }
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
            (&["--a=@-"], "a:typed\n"),
            (&["--v="], "v:,_env:@-,b:from the environment"),
            (&["--v=", "--b=x"], "v:,b:x,_env:@-"),
        ] {
            assert_eq!(check(arguments).as_deref(), Ok(params), "{arguments:?}");
        }
    }

    #[test]
    fn a_wrong_param_is_named() {
        for (arguments, part) in [
            (&["--a"][..], "param 'a' has no value: write --a=VALUE"),
            (&["--_pw"], "param '_pw' has no value: write --_pw=@FILE"),
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
            (
                &["--a=@-", "--b=@-"],
                "param 'b': standard input was read for param 'a' already",
            ),
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
        let parse = |arguments, name: &str| {
            let variable = (name.into(), "x".into());
            super::parse_params(arguments, std::iter::once(variable), io::empty())
        };
        assert!(parse(&many[1..], "OTHER").is_ok());
        assert!(parse(&many[1..], "MISTRY_PARAM_p1").is_ok());
        assert!(matches!(
            parse(&many[1..], "MISTRY_PARAM_q"),
            Err(ParamsError::TooMany)
        ));
        assert!(matches!(parse(&many, "OTHER"), Err(ParamsError::TooMany)));
        assert!(matches!(
            parse(&[], "MISTRY_PARAM_"),
            Err(ParamsError::Name(_))
        ));
        assert!(matches!(
            parse(&[], "MISTRY_PARAM_a b"),
            Err(ParamsError::Name(_))
        ));
    }
}
