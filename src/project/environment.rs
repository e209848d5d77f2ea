//! Variables of a build's container: `env` in `mistry.json`, whose values may contain params.
//!
//! Only params that are part of the job id may be used, so that the id still says what was built.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::name::{PARAM_NAME_RULE, is_param_name};
use super::param_schema::{ParamSchema, ParamsError, is_opaque_param, quoted};

/// Most variables; a program reads a few.
const MAX_VARIABLES: usize = 200;
/// Longest name in bytes.
const MAX_NAME: usize = 128;
/// Longest `NAME=value` in bytes: Linux starts no program with a longer one.
const MAX_VARIABLE: usize = (128 << 10) - 1;
/// Most bytes of all: Linux gives a program with usual limits 2 MiB for variables and arguments.
const MAX_ENVIRONMENT: usize = 1 << 20;

/// Variables that mistryd sets unless the image does.
pub(crate) const OWN_VARIABLES: [&str; 6] = [
    "HOME",
    "XDG_CACHE_HOME",
    "npm_config_cache",
    "YARN_CACHE_FOLDER",
    "YARN_GLOBAL_FOLDER",
    "BUNDLE_USER_CACHE",
];

/// Variables of a container by their names: `--env`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Environment(BTreeMap<String, Vec<Part>>);

/// A part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Param(String),
}

impl TryFrom<BTreeMap<String, String>> for Environment {
    type Error = String;

    fn try_from(written: BTreeMap<String, String>) -> Result<Environment, String> {
        if written.len() > MAX_VARIABLES {
            let count = written.len();
            return Err(format!(
                "expected at most {MAX_VARIABLES} variables, found {count}"
            ));
        }
        let variables = written.into_iter().map(|(name, value)| {
            check_name(&name)?;
            let parts = parse(&value).map_err(|wrong| format!("{name}: {wrong}"))?;
            Ok((name, parts))
        });
        Ok(Environment(variables.collect::<Result<_, String>>()?))
    }
}

impl Environment {
    /// Whether it sets this variable.
    pub fn sets(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns the first variable that has a param which the project does not describe, or which may have no
    /// value, as an error.
    pub(super) fn check(&self, params: Option<&ParamSchema>) -> Result<(), String> {
        let Some(params) = params else {
            return Ok(());
        };
        for (name, param) in self.params() {
            let Some(rule) = params.find(param) else {
                return Err(format!("env.{name}: {}", params.unknown(param)));
            };
            if !rule.required && rule.default.is_none() {
                return Err(format!(
                    "env.{name}: param '{param}' may have no value: expected \"required\": true or a \"default\" in params.{param}"
                ));
            }
        }
        Ok(())
    }

    /// Each variable with `NAME=value`, given the values of the params.
    ///
    /// # Errors
    /// Params that are missing; variables that no program could be started with.
    pub fn expand<'a>(
        &self,
        value_of: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Vec<String>, ParamsError> {
        let mut bytes = 0;
        let mut variables = Vec::with_capacity(self.0.len());
        for (name, parts) in &self.0 {
            let mut variable = format!("{name}=");
            for part in parts {
                variable.push_str(match part {
                    Part::Text(text) => text,
                    Part::Param(param) => value(name, param, value_of(param))?,
                });
                if variable.len() > MAX_VARIABLE {
                    return Err(ParamsError::new(format!(
                        "the variable '{name}' in its mistry.json would have more than {MAX_VARIABLE} bytes"
                    )));
                }
            }
            bytes += variable.len();
            variables.push(variable);
        }
        match bytes > MAX_ENVIRONMENT {
            true => Err(ParamsError::new(
                "the variables in its mistry.json would have more than 1 MiB".to_owned(),
            )),
            false => Ok(variables),
        }
    }

    /// The name of each variable that has a param, with that param.
    fn params(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(name, parts)| {
            parts.iter().filter_map(move |part| match part {
                Part::Param(param) => Some((name.as_str(), param.as_str())),
                Part::Text(_) => None,
            })
        })
    }
}

fn value<'a>(name: &str, param: &str, value: Option<&'a str>) -> Result<&'a str, ParamsError> {
    let Some(value) = value else {
        return Err(ParamsError::new(format!(
            "param '{param}' is missing (the variable '{name}' in its mistry.json takes its value)"
        )));
    };
    match value.contains('\0') {
        true => Err(ParamsError::new(format!(
            "param '{param}': expected a text without NUL bytes, since the variable '{name}' in its mistry.json takes its value"
        ))),
        false => Ok(value),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let is_name = (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'=');
    if !is_name {
        return Err(format!(
            "expected names of 1 to {MAX_NAME} printable ASCII characters other than space and =, found {}",
            quoted(name)
        ));
    }
    // npm reads its own in upper or lower case.
    let own = OWN_VARIABLES
        .iter()
        .find(|own| name == **own || own.starts_with("npm") && name.eq_ignore_ascii_case(own));
    match own {
        Some(own) => Err(format!(
            "'{own}' cannot be set here, since mistryd sets it: set it with ENV in the Dockerfile, which has precedence"
        )),
        None => Ok(()),
    }
}

fn parse(text: &str) -> Result<Vec<Part>, String> {
    if text.contains('\0') {
        return Err("expected a text without NUL bytes".to_owned());
    }
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            literal.push('$');
            rest = after;
            continue;
        }
        let braced = after.strip_prefix('{');
        let Some((param, after)) = braced.and_then(|braced| braced.split_once('}')) else {
            let found = quoted(&rest[before.len()..]);
            return Err(format!(
                "expected ${{param}}, or $$ for a dollar sign, found {found}"
            ));
        };
        if !is_param_name(param) {
            let found = quoted(param);
            return Err(format!(
                "expected the name of a param in ${{…}}, {PARAM_NAME_RULE}; found {found}"
            ));
        }
        if is_opaque_param(param) {
            return Err(format!(
                "param '{param}' cannot be used here, since it is not part of the job id; a build reads it from /data/params/{param}"
            ));
        }
        parts.push(Part::Text(std::mem::take(&mut literal)));
        parts.push(Part::Param(param.to_owned()));
        rest = after;
    }
    literal.push_str(rest);
    parts.push(Part::Text(literal));
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Environment, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    fn expanded(text: &str) -> Result<Vec<String>, String> {
        let params = BTreeMap::from([("a", "1"), ("b.c", "$x ${a}"), ("nul", "\0")]);
        let environment = read(text).unwrap();
        let expanded = environment.expand(|name| params.get(name).copied());
        expanded.map_err(|error| error.to_string())
    }

    #[test]
    fn params_are_replaced_once_and_two_dollars_are_one() {
        for (text, variable) in [
            (r#"{"X":"${a}"}"#, "X=1"),
            (r#"{"X":"<${a}-${b.c}>"}"#, "X=<1-$x ${a}>"),
            (r#"{"X":"$$${a}$$$${a}$$"}"#, "X=$1$${a}$"),
            (r#"{"X":""}"#, "X="),
            (r#"{"X":"a\nb"}"#, "X=a\nb"),
            (
                r#"{"npm_config_@s:registry":"http://r"}"#,
                "npm_config_@s:registry=http://r",
            ),
        ] {
            assert_eq!(expanded(text).unwrap(), [variable]);
        }
        let missing = expanded(r#"{"X":"${z}"}"#).unwrap_err();
        assert!(
            missing.contains("param 'z' is missing (the variable 'X'"),
            "{missing}"
        );
        let nul = expanded(r#"{"X":"${nul}"}"#).unwrap_err();
        assert!(
            nul.contains("param 'nul': expected a text without NUL"),
            "{nul}"
        );
    }

    #[test]
    fn a_variable_that_cannot_be_set_is_refused_with_the_reason() {
        for (text, said) in [
            (r#"{"":"x"}"#, "found ''"),
            (r#"{"A B":"x"}"#, "found 'A B'"),
            (r#"{"A\nB":"x"}"#, "found 'A\\nB'"),
            (r#"{"A=B":"x"}"#, "found 'A=B'"),
            (r#"{"A":"x\u0000"}"#, "A: expected a text without NUL bytes"),
            (
                r#"{"A":"x$y"}"#,
                "A: expected ${param}, or $$ for a dollar sign, found '$y'",
            ),
            (r#"{"A":"${y"}"#, "found '${y'"),
            (r#"{"A":"$"}"#, "found '$'"),
            (r#"{"A":"${}"}"#, "A: expected the name of a param"),
            (r#"{"A":"${a:-b}"}"#, "found 'a:-b'"),
            (
                r#"{"A":"${_token}"}"#,
                "it is not part of the job id; a build reads it from /data/params/_token",
            ),
            (r#"{"HOME":"/"}"#, "'HOME' cannot be set here"),
            (
                r#"{"NPM_CONFIG_CACHE":"/"}"#,
                "'npm_config_cache' cannot be set here",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        let many: BTreeMap<_, _> = (0..201).map(|n| (format!("A{n}"), "")).collect();
        let error = read(&serde_json::json!(many).to_string()).unwrap_err();
        assert!(
            error.contains("at most 200 variables, found 201"),
            "{error}"
        );
    }

    #[test]
    fn variables_are_as_long_as_linux_takes_them() {
        let of = |bytes: usize| expanded(&format!(r#"{{"A":"{}"}}"#, "x".repeat(bytes)));
        assert_eq!(of(MAX_VARIABLE - 2).unwrap()[0].len(), MAX_VARIABLE);
        assert!(of(MAX_VARIABLE - 1).unwrap_err().contains("'A'"));
        let many: BTreeMap<_, _> = (0..9)
            .map(|n| (format!("A{n}"), "x".repeat(130_000)))
            .collect();
        let error = expanded(&serde_json::json!(many).to_string()).unwrap_err();
        assert!(error.contains("more than 1 MiB"), "{error}");
    }
}
