//! The params that a project takes: `params` in its `mistry.json`.
//!
//! A project without that key takes any params.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::name::{self, PARAM_NAME_RULE};
use super::similar::did_you_mean;

/// Most params of a schema: more than a form can show.
const MAX_PARAMS: usize = 100;
/// Longest description in bytes: a few sentences.
const MAX_DESCRIPTION: usize = 1_000;
/// Most values of one param.
const MAX_VALUES: usize = 100;
/// Longest value in bytes that a schema may hold.
const MAX_VALUE: usize = 1_000;
/// Most bytes of all texts of a schema: it is sent to each client that looks at the project.
const MAX_SCHEMA: usize = 64 << 10;

/// Most faults of a request that one sentence names.
const MAX_FAULTS: usize = 5;
/// Most names or values that are listed for one fault.
const MAX_LISTED: usize = 10;
/// Most characters of one of them.
const MAX_SHOWN: usize = 60;

/// The params that a project takes, in the order of its `mistry.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamSchema(Vec<(String, ParamRule)>);

/// What a project says about one of its params.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamRule {
    /// A request without it is refused.
    #[serde(default)]
    pub required: bool,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// The value that the build gets if the request has none.
    #[serde(default)]
    pub default: Option<String>,
    /// The values that are allowed; without them, all are.
    #[serde(default)]
    pub values: Option<Vec<String>>,
    /// Whether the value of an opaque param is masked in logs; without it, it is.
    #[serde(default)]
    secret: Option<bool>,
}

/// Why a project does not take the params of a request: all faults, in one sentence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParamsError(String);

impl ParamsError {
    /// An error with this sentence.
    pub(super) fn new(sentence: String) -> ParamsError {
        ParamsError(sentence)
    }
}

impl ParamSchema {
    /// Each param with its rule.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ParamRule)> + Clone {
        self.0.iter().map(|(name, rule)| (name.as_str(), rule))
    }

    /// The rule of a param.
    pub fn find(&self, name: &str) -> Option<&ParamRule> {
        let mut rules = self.iter();
        rules.find_map(|(known, rule)| (known == name).then_some(rule))
    }

    /// Whether the values of this param are masked in logs.
    pub fn is_secret(&self, name: &str) -> bool {
        is_opaque_param(name)
            && self
                .find(name)
                .is_none_or(|rule| rule.secret != Some(false))
    }

    /// Adds a secret, unless it is there.
    ///
    /// # Errors
    /// When the schema says that it is none.
    pub(super) fn add_secret(&mut self, name: &str, description: String) -> Result<(), String> {
        match self.find(name) {
            Some(rule) if rule.secret == Some(false) => Err(format!(
                "params.{name}.secret: expected true, since the build of the image gets it as a secret"
            )),
            Some(_) => Ok(()),
            None => {
                let rule = ParamRule {
                    description: Some(description),
                    ..ParamRule::default()
                };
                self.0.push((name.to_owned(), rule));
                Ok(())
            }
        }
    }

    /// Checks the params of a request, which have different names.
    ///
    /// # Errors
    /// Params that are unknown, that are missing, and that have a value that is not allowed.
    pub fn check<'a>(
        &self,
        sent: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<(), ParamsError> {
        // The text of a fault is made only if it is shown: names that clients send are compared with others.
        let wrong = sent.clone().filter(|(name, value)| {
            let rule = self.find(name);
            rule.is_none_or(|rule| !rule.allows(value))
        });
        let missing = self.iter().filter(|(name, rule)| {
            rule.required && !sent.clone().any(|(sent_name, _)| sent_name == *name)
        });
        let count = wrong.clone().count() + missing.clone().count();
        if count == 0 {
            return Ok(());
        }
        let wrong = wrong.map(|(name, value)| match self.find(name) {
            Some(rule) => rule.wrong_value(name, value),
            None => self.unknown(name),
        });
        let missing = missing.map(|(name, rule)| rule.missing(name));
        let mut faults: Vec<String> = wrong.chain(missing).take(MAX_FAULTS).collect();
        if count > faults.len() {
            faults.push(format!("and {} more", count - faults.len()));
        }
        Err(ParamsError(faults.join("; ")))
    }

    /// The sentence about a param that the project does not take.
    pub(super) fn unknown(&self, name: &str) -> String {
        let names = || self.iter().map(|(name, _)| name);
        let hint = did_you_mean(name, names()).unwrap_or_else(|| match self.0.is_empty() {
            true => "it takes none".to_owned(),
            false => format!("expected {}", alternatives(names())),
        });
        format!("param '{name}' is unknown ({hint})")
    }

    /// Returns the first contradiction in the schema as an error.
    pub(super) fn check_rules(&self) -> Result<(), String> {
        if self.0.len() > MAX_PARAMS {
            return Err(format!("params: expected at most {MAX_PARAMS} params"));
        }
        for (name, rule) in self.iter() {
            if !name::is_param_name(name) {
                let name = quoted(name);
                return Err(format!(
                    "params: expected names of {PARAM_NAME_RULE}, found {name}"
                ));
            }
            rule.check(name)
                .map_err(|error| format!("params.{name}{error}"))?;
        }
        let bytes: usize = self
            .iter()
            .map(|(name, rule)| name.len() + rule.bytes())
            .sum();
        if bytes > MAX_SCHEMA {
            let most = MAX_SCHEMA >> 10;
            return Err(format!("params: expected at most {most} KiB of texts"));
        }
        Ok(())
    }
}

impl ParamRule {
    fn allows(&self, value: &str) -> bool {
        let values = self.values.as_ref();
        values.is_none_or(|values| values.iter().any(|one| one == value))
    }

    fn wrong_value(&self, name: &str, value: &str) -> String {
        let values = self.values.iter().flatten().map(String::as_str);
        let expected = alternatives(values);
        match is_opaque_param(name) {
            // Its value is shown nowhere.
            true => format!("param '{name}': expected {expected}"),
            false => format!(
                "param '{name}': expected {expected}, found {}",
                quoted(value)
            ),
        }
    }

    fn missing(&self, name: &str) -> String {
        let values = self.values.as_ref().map(|values| {
            let values = values.iter().map(String::as_str);
            format!("expected {}", alternatives(values))
        });
        let description = self.description.clone();
        let facts: Vec<String> = description.into_iter().chain(values).collect();
        match facts.is_empty() {
            true => format!("param '{name}' is missing"),
            false => format!("param '{name}' is missing ({})", facts.join("; ")),
        }
    }

    /// The part of an error after the name of the param.
    fn check(&self, name: &str) -> Result<(), String> {
        let is_shown = is_opaque_param(name) && self.secret != Some(false);
        if self.secret.is_some() && !is_opaque_param(name) {
            let expected = "expected a name that begins with _, since other params are not secret";
            return Err(format!(".secret: {expected}"));
        }
        if self.required && self.default.is_some() {
            let expected = "expected \"required\": true or a \"default\", not both";
            return Err(format!(": {expected}"));
        }
        if is_shown && (self.default.is_some() || self.values.is_some()) {
            let expected = "expected \"secret\": false, since \"default\" and \"values\" of a project are shown to its clients";
            return Err(format!(": {expected}"));
        }
        let description = self.description.as_deref().unwrap_or_default();
        if description.len() > MAX_DESCRIPTION {
            return Err(format!(
                ".description: expected at most {MAX_DESCRIPTION} bytes"
            ));
        }
        if let Some(values) = &self.values {
            let different: std::collections::HashSet<&String> = values.iter().collect();
            let is_valid = (1..=MAX_VALUES).contains(&values.len())
                && different.len() == values.len()
                && values.iter().all(|value| value.len() <= MAX_VALUE);
            if !is_valid {
                let expected = format!(
                    "expected 1 to {MAX_VALUES} different texts of at most {MAX_VALUE} bytes"
                );
                return Err(format!(".values: {expected}"));
            }
        }
        let Some(default) = &self.default else {
            return Ok(());
        };
        if default.len() > MAX_VALUE {
            return Err(format!(".default: expected at most {MAX_VALUE} bytes"));
        }
        if !self.allows(default) {
            let values = self.values.iter().flatten().map(String::as_str);
            let (expected, found) = (alternatives(values), quoted(default));
            return Err(format!(
                ".default: expected one of its values ({expected}), found {found}"
            ));
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        let texts = self.description.iter().chain(&self.default);
        texts
            .chain(self.values.iter().flatten())
            .map(String::len)
            .sum()
    }
}

/// Whether a param of this name is opaque; it is a secret unless the schema says otherwise.
pub fn is_opaque_param(name: &str) -> bool {
    name.starts_with('_')
}

/// A text as it is shown in a sentence: control characters escaped, and cut if it is long.
pub(super) fn quoted(text: &str) -> String {
    let start = text.chars().take(MAX_SHOWN);
    let mut shown: String = start.flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    format!("'{shown}'")
}

/// `'a'`, `'a' or 'b'`, `'a', 'b' or 'c'`; of many, the first.
fn alternatives<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut texts = texts.map(quoted);
    let mut shown: Vec<String> = texts.by_ref().take(MAX_LISTED).collect();
    let last = match texts.count() {
        0 => shown.pop().unwrap_or_default(),
        more => format!("one of {more} others"),
    };
    match shown.is_empty() {
        true => last,
        false => format!("{} or {last}", shown.join(", ")),
    }
}

impl<'de> Deserialize<'de> for ParamSchema {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<ParamSchema, D::Error> {
        /// Keeps the order of the file, and refuses a name that stands there twice.
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = ParamSchema;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object: { \"NAME\": { … }, … }")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ParamSchema, A::Error> {
                let mut known = std::collections::HashSet::new();
                let mut params = Vec::new();
                while let Some((name, rule)) = map.next_entry::<String, ParamRule>()? {
                    if !known.insert(name.clone()) {
                        let name = quoted(&name);
                        return Err(de::Error::custom(format!(
                            "expected each name once, found {name} twice"
                        )));
                    }
                    params.push((name, rule));
                }
                Ok(ParamSchema(params))
            }
        }
        input.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::settings::Settings;
    use super::*;

    fn parse(params: &str) -> Result<ParamSchema, String> {
        let text = format!(r#"{{"params":{params}}}"#);
        let settings = Settings::parse(text.as_bytes(), Path::new("/p"));
        Ok(settings.map_err(|error| error.to_string())?.params.unwrap())
    }

    fn check(schema: &ParamSchema, sent: &[(&str, &str)]) -> String {
        let checked = schema.check(sent.iter().copied());
        checked.map_or_else(|error| error.to_string(), |()| String::new())
    }

    const SCHEMA: &str = r#"{
        "lock": {"required": true, "description": "the lock file"},
        "env": {"default": "production", "values": ["staging", "production"]},
        "_token": {},
        "_mode": {"secret": false, "values": ["a", "b"]}
    }"#;

    #[test]
    fn a_request_is_checked_against_the_schema() {
        let schema = parse(SCHEMA).unwrap();
        for (sent, said) in [
            (&[("lock", "x")][..], ""),
            (&[("_token", "t"), ("env", "staging"), ("lock", "")], ""),
            (&[], "param 'lock' is missing (the lock file)"),
            (
                &[("lock", "x"), ("lok", "x")],
                "param 'lok' is unknown (did you mean 'lock'?)",
            ),
            (
                &[("lock", "x"), ("colour", "x")],
                "param 'colour' is unknown (expected 'lock', 'env', '_token' or '_mode')",
            ),
            (
                &[("env", "prod\n"), ("lock", "x")],
                r"param 'env': expected 'staging' or 'production', found 'prod\n'",
            ),
            (
                &[("_mode", "hidden"), ("lock", "x")],
                "param '_mode': expected 'a' or 'b'",
            ),
            (
                &[("env", "x"), ("lok", "x")],
                "param 'env': expected 'staging' or 'production', found 'x'; \
                 param 'lok' is unknown (did you mean 'lock'?); \
                 param 'lock' is missing (the lock file)",
            ),
        ] {
            assert_eq!(check(&schema, sent), said, "{sent:?}");
        }
        let none = parse("{}").unwrap();
        assert_eq!(check(&none, &[]), "");
        let said = check(&none, &[("a", "")]);
        assert_eq!(said, "param 'a' is unknown (it takes none)");
    }

    #[test]
    fn the_sentence_is_short_whatever_was_sent() {
        let values: Vec<String> = (0..100)
            .map(|at| format!("\"{}\"", "v".repeat(400) + &at.to_string()))
            .collect();
        let schema = parse(&format!(r#"{{"a":{{"values":[{}]}}}}"#, values.join(","))).unwrap();
        let names: Vec<String> = (0..1_000)
            .map(|at| format!("{}{at}", "n".repeat(120)))
            .collect();
        let mut sent: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        let long = "x".repeat(1 << 20);
        sent.insert(0, ("a", &long));
        let said = check(&schema, &sent);
        assert!(said.len() < 3_000, "{}", said.len());
        assert!(said.contains("…'"), "{said}");
        assert!(said.contains("or one of 90 others, found 'xxx"), "{said}");
        assert!(said.ends_with("; and 996 more"), "{said}");
    }

    fn refused(params: &str, key: &str) {
        let error = parse(params).unwrap_err();
        assert!(error.starts_with(key), "{params}: {error}");
    }

    #[test]
    fn a_schema_that_contradicts_itself_is_named_by_its_key() {
        for (params, key) in [
            (
                r#"{"a":{"required":true,"default":"x"}}"#,
                "params.a: expected \"required\": true or a \"default\", not both",
            ),
            (
                r#"{"a":{"default":"x","values":["y","z"]}}"#,
                "params.a.default: expected one of its values ('y' or 'z'), found 'x'",
            ),
            (
                r#"{"a":{"secret":false}}"#,
                "params.a.secret: expected a name that begins with _",
            ),
            (
                r#"{"_a":{"default":"x"}}"#,
                "params._a: expected \"secret\": false",
            ),
            (
                r#"{"_a":{"values":["x"]}}"#,
                "params._a: expected \"secret\": false",
            ),
            (
                r#"{"a":{},"a":{}}"#,
                "params: expected each name once, found 'a' twice",
            ),
        ] {
            refused(params, key);
        }
    }

    #[test]
    fn a_schema_that_cannot_be_read_is_named_by_its_key() {
        for (params, key) in [
            ("7", "params: "),
            (r#"{"a":7}"#, "params.a: "),
            (
                r#"{"a":{"requird":true}}"#,
                "params.a.requird: unknown field",
            ),
            (r#"{"a":{"default":7}}"#, "params.a.default: "),
            (r#"{"a":{"values":"x"}}"#, "params.a.values: "),
            (r#"{"a/b":{}}"#, "params: expected names of 1 to 128 of A-Z"),
            (r#"{"":{}}"#, "params: expected names of"),
        ] {
            refused(params, key);
        }
    }

    #[test]
    fn the_size_of_a_schema_is_bounded() {
        let long = "x".repeat(1_001);
        let many = |count: usize, of: fn(usize) -> String| -> String {
            let items: Vec<String> = (0..count).map(of).collect();
            items.join(",")
        };
        let values = "params.a.values: expected 1 to 100 different texts";
        refused(r#"{"a":{"values":[]}}"#, values);
        refused(r#"{"a":{"values":["x","x"]}}"#, values);
        refused(&format!(r#"{{"a":{{"values":["{long}"]}}}}"#), values);
        let items = many(101, |at| format!("\"{at}\""));
        refused(&format!(r#"{{"a":{{"values":[{items}]}}}}"#), values);
        for key in ["default", "description"] {
            let expected = format!("params.a.{key}: expected at most 1000 bytes");
            refused(&format!(r#"{{"a":{{"{key}":"{long}"}}}}"#), &expected);
        }
        let params = many(101, |at| format!("\"a{at}\":{{}}"));
        let expected = "params: expected at most 100 params";
        refused(&format!("{{{params}}}"), expected);
        let params = many(100, |at| {
            format!("\"a{at}\":{{\"default\":\"{}\"}}", "x".repeat(700))
        });
        let expected = "params: expected at most 64 KiB of texts";
        refused(&format!("{{{params}}}"), expected);
    }

    #[test]
    fn opaque_params_are_secret_unless_the_schema_says_otherwise() {
        let schema = parse(SCHEMA).unwrap();
        assert!(schema.is_secret("_token"));
        assert!(!schema.is_secret("_mode"));
        assert!(!schema.is_secret("lock"));
        let names: Vec<&str> = schema.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["lock", "env", "_token", "_mode"]);
    }
}
