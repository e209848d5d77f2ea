//! Options of an image build in `mistry.json`: values for the `ARG`s of the Dockerfile, and the stage that is
//! built.
//!
//! They are part of the context's digest like the whole file, so another value makes another image.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::param_schema::quoted;

/// Most build args: a Dockerfile declares each.
const MAX_BUILD_ARGS: usize = 100;
/// Longest name in bytes, of an arg or a stage.
const MAX_NAME: usize = 128;
/// Most bytes of all names and values in a URL, in which they are sent: clients of HTTP refuse one of more than
/// 64 KiB, and there are other things in it.
const MAX_IN_URL: usize = 32 << 10;

/// Args that have another source.
const REFUSED: [(&str, &str); 2] = [
    ("uid", "mistryd sets it to the user that builds run as"),
    (
        "BUILDKIT_SYNTAX",
        "the first line of the Dockerfile, '# syntax=…', names the program that reads it",
    ),
];

/// Values for the `ARG`s of a Dockerfile: `--build-arg`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct BuildArgs(BTreeMap<String, String>);

/// The name or number of a stage of the Dockerfile: `--target`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TargetStage(String);

impl BuildArgs {
    /// The values by the names of the args.
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl TryFrom<BTreeMap<String, String>> for BuildArgs {
    type Error = String;

    fn try_from(args: BTreeMap<String, String>) -> Result<BuildArgs, String> {
        if args.len() > MAX_BUILD_ARGS {
            let count = args.len();
            return Err(format!(
                "expected at most {MAX_BUILD_ARGS} args, found {count}"
            ));
        }
        for (name, value) in &args {
            if !is_arg_name(name) {
                return Err(format!(
                    "expected names of 1 to {MAX_NAME} of A-Z a-z 0-9 _ that do not begin with a digit, found {}",
                    quoted(name)
                ));
            }
            if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| refused == name) {
                return Err(format!("'{name}' cannot be set here: {reason}"));
            }
            if value.contains('\0') {
                return Err(format!("{name}: expected a text without NUL bytes"));
            }
        }
        let bytes: usize = args
            .iter()
            .flat_map(|(k, v)| [k, v])
            .map(|t| in_url(t))
            .sum();
        if bytes > MAX_IN_URL {
            let most = MAX_IN_URL >> 10;
            return Err(format!(
                "expected names and values of at most {most} KiB together, as they are written in a URL"
            ));
        }
        Ok(BuildArgs(args))
    }
}

fn is_arg_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Bytes of a text as a JSON text in a URL.
fn in_url(text: &str) -> usize {
    let bytes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' => 6,
        // `\u0001`, of which the backslash takes three bytes.
        0..=0x1f => 8,
        byte if byte.is_ascii_alphanumeric() => 1,
        _ => 3,
    });
    bytes.sum()
}

impl TargetStage {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TargetStage {
    type Error = String;

    fn try_from(stage: String) -> Result<TargetStage, String> {
        let is_stage = (1..=MAX_NAME).contains(&stage.len())
            && stage
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        match is_stage {
            true => Ok(TargetStage(stage)),
            false => Err(format!(
                "expected the name or number of a stage of the Dockerfile (FROM … AS name), found {}",
                quoted(&stage)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_args_have_names_that_a_dockerfile_can_declare() {
        let read = |text: &str| serde_json::from_str::<BuildArgs>(text);
        let args = read(r#"{"VERSION":"12","_x":"","http_proxy":"http://p:1"}"#).unwrap();
        assert_eq!(args.as_map()["VERSION"], "12");
        let many: BTreeMap<_, _> = (0..101).map(|n| (format!("a{n}"), "")).collect();
        let large = BTreeMap::from([("a", "\"".repeat(6_000))]);
        for (wrong, said) in [
            (
                r#"{"uid":"0"}"#,
                "'uid' cannot be set here: mistryd sets it",
            ),
            (r#"{"BUILDKIT_SYNTAX":"x"}"#, "'# syntax=…'"),
            (r#"{"":"x"}"#, "found ''"),
            (r#"{"1a":"x"}"#, "found '1a'"),
            (r#"{"a-b":"x"}"#, "found 'a-b'"),
            (r#"{"a=b":"x"}"#, "found 'a=b'"),
            (r#"{"a":"x\u0000"}"#, "a: expected a text without NUL bytes"),
            (r#"{"a":7}"#, "expected a string"),
            (&serde_json::json!(many).to_string(), "at most 100 args"),
            (&serde_json::json!(large).to_string(), "at most 32 KiB"),
        ] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_stage_has_a_name_or_a_number() {
        let read = |text: &str| serde_json::from_str::<TargetStage>(text);
        for stage in ["test", "0", "a-b.c_D"] {
            let read = read(&format!("\"{stage}\"")).unwrap();
            assert_eq!(read.as_str(), stage);
        }
        for wrong in [r#""""#, r#""a b""#, r#""a/b""#, "0"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
