//! The JSON contract that the HTTP interface and the client share.
//!
//! Requests are read as the first mistry's client writes them: keys in any letter case. An
//! unknown key is an error that names it, because a misspelt option that is ignored builds
//! the wrong thing. Reading has two steps with two kinds of error: what cannot be read at
//! all ([`JobRequest::read`]) and names that break their rule ([`JobRequest::names`]).

mod attempt;
mod build;
mod gc;
mod group;
mod host;
mod log;
mod log_pieces;
mod manifest;
mod project;

pub use attempt::AttemptView;
pub use build::{
    ArtifactTotals, BuildView, Excerpt, ExcerptLine, ExcerptPart, InputDigests, MAX_EXCERPT_LINES,
    NO_DURATION, NO_EXIT_CODE,
};
pub use gc::{GcRequest, GcView, RemovedView};
pub use group::{GroupItem, GroupRequest, RemovedBase};
pub use host::{HostView, NewsHost, NewsRemoved};
pub use log::{LogEnd, LogLines, LogMatch, LogMatches, LogTimes};
pub use log_pieces::{LogPiece, LogPieces, MAX_PIECE, decode};
pub use manifest::ManifestItem;
pub use project::{ImageView, ParamView, ProjectItem, ProjectView, PruneView, RebuildRequest};

#[cfg(test)]
use std::collections::BTreeMap;
use std::{fmt, io};

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::job::{GroupName, MAX_PARAMS, Params, Phase, State};
use crate::project::{NameError, ProjectName};

/// `POST /jobs`: what is asked for. Keys are read in any letter case; an unknown one is an error that names
/// it.
// The names are not parsed yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct JobRequest {
    /// The project's name.
    #[cfg_attr(test, schemars(regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")))]
    pub project: String,
    /// Names and values, in the order given. A param whose name begins with `_` is opaque: its value reaches
    /// the build, is shown nowhere and does not enter the job id.
    #[serde(serialize_with = "as_object")]
    #[cfg_attr(test, schemars(with = "Option<BTreeMap<String, String>>", extend(
        "maxProperties" = MAX_PARAMS,
        "propertyNames" = { "pattern": "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$" },
    )))]
    pub params: Vec<(String, String)>,
    /// The group; `""` is none.
    #[cfg_attr(test, schemars(with = "Option<String>", length(max = 200)))]
    pub group: String,
    /// A new image and a new build, whatever is cached.
    #[cfg_attr(test, schemars(with = "Option<bool>"))]
    pub rebuild: bool,
    /// A cold build: it is made whatever is cached, starts empty whatever the group's base is, and becomes the
    /// base when it succeeds. Its image is made anew only with `rebuild`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[cfg_attr(test, schemars(with = "Option<bool>"))]
    pub cold: bool,
    /// Cancel the build when the client disconnects, unless another one wants it; not with `?async`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[cfg_attr(test, schemars(with = "Option<bool>"))]
    pub cancel_on_disconnect: bool,
}

/// Most bytes of a job request, as JSON. Lock files are a few megabytes at most; a job is not meant for
/// archives.
pub const MAX_REQUEST: usize = 16 << 20;

/// A job request with valid names.
#[derive(Clone, Debug)]
pub struct Named {
    /// The requested project; whether it exists is not known yet.
    pub project: ProjectName,
    /// The group, if any.
    pub group: Option<GroupName>,
    /// The params by name.
    pub params: Params,
}

impl JobRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// Says what could not be read, or which key was unknown, and where.
    pub fn read(body: &[u8]) -> Result<JobRequest, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// True if it is larger as JSON than [`MAX_REQUEST`], which is possible only if it did not arrive as
    /// JSON: its params could not be sent to any client.
    pub fn is_too_large(&self) -> bool {
        struct Left(usize);

        impl io::Write for Left {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let left = self.0.checked_sub(bytes.len());
                self.0 = left.ok_or(io::ErrorKind::FileTooLarge)?;
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        serde_json::to_writer(Left(MAX_REQUEST), self).is_err()
    }

    /// Parses the names.
    ///
    /// # Errors
    /// Names the first invalid name.
    pub fn names(self) -> Result<Named, NameError> {
        let project = self.project.parse()?;
        let group = match self.group.as_str() {
            "" => None,
            name => Some(name.parse()?),
        };
        let params = self
            .params
            .into_iter()
            .map(|(name, value)| Ok((name.parse()?, value.into())))
            .collect::<Result<Params, NameError>>()?;
        Ok(Named {
            project,
            group,
            params,
        })
    }
}

impl<'de> Deserialize<'de> for JobRequest {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<JobRequest, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = JobRequest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with \"project\"")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JobRequest, A::Error> {
                const KNOWN: [&str; 6] = [
                    "project",
                    "params",
                    "group",
                    "rebuild",
                    "cold",
                    "cancel_on_disconnect",
                ];
                let mut request = JobRequest::default();
                let mut seen = Vec::new();
                while let Some(name) = next_key(&mut map, &KNOWN, &mut seen)? {
                    match name {
                        "project" => request.project = map.next_value()?,
                        "params" => {
                            request.params =
                                map.next_value::<Option<Pairs>>()?.unwrap_or_default().0;
                        }
                        "group" => {
                            request.group = map.next_value::<Option<String>>()?.unwrap_or_default();
                        }
                        "rebuild" => {
                            request.rebuild = map.next_value::<Option<bool>>()?.unwrap_or_default();
                        }
                        "cold" => {
                            request.cold = map.next_value::<Option<bool>>()?.unwrap_or_default();
                        }
                        _ => {
                            request.cancel_on_disconnect =
                                map.next_value::<Option<bool>>()?.unwrap_or_default();
                        }
                    }
                }
                if seen.contains(&"project") {
                    Ok(request)
                } else {
                    Err(de::Error::missing_field("project"))
                }
            }
        }

        input.deserialize_map(Keys)
    }
}

/// The next key of an object, in any letter case: it must be known, and not a duplicate.
fn next_key<'de, A: MapAccess<'de>>(
    map: &mut A,
    known: &'static [&'static str],
    seen: &mut Vec<&'static str>,
) -> Result<Option<&'static str>, A::Error> {
    let Some(key) = map.next_key::<String>()? else {
        return Ok(None);
    };
    let name = key.to_ascii_lowercase();
    let Some(name) = known.iter().copied().find(|known| *known == name) else {
        let shown: String = key.chars().take(80).collect();
        return Err(de::Error::unknown_field(&shown, known));
    };
    if seen.contains(&name) {
        return Err(de::Error::duplicate_field(name));
    }
    seen.push(name);
    Ok(Some(name))
}

/// An object of strings that keeps its order, has no duplicate and no more than [`MAX_PARAMS`].
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Pairs, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("params as an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs: Vec<(String, String)> = Vec::new();
                let mut names = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if pairs.len() == MAX_PARAMS {
                        return Err(de::Error::custom(format_args!(
                            "too many params: expected at most {MAX_PARAMS}"
                        )));
                    }
                    let shown: String = name.chars().take(80).collect();
                    let value = map.next_value::<String>().map_err(|error| {
                        de::Error::custom(format_args!("param '{shown}': {error}"))
                    })?;
                    if !names.insert(name.clone()) {
                        return Err(de::Error::custom(format_args!(
                            "param '{shown}' is given twice"
                        )));
                    }
                    pairs.push((name, value));
                }
                Ok(Pairs(pairs))
            }
        }

        input.deserialize_map(Entries)
    }
}

fn as_object<S: serde::Serializer>(pairs: &[(String, String)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// `POST /job/P/ID/cancel`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// The reason, for waiting clients: one line, without control characters.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(max = MAX_REASON)))]
    pub reason: String,
}

/// Most bytes of a reason.
pub const MAX_REASON: usize = 1_000;

impl CancelRequest {
    /// Reads a body; an empty one gives no reason.
    ///
    /// # Errors
    /// Says what could not be read, or which key was unknown.
    pub fn read(body: &[u8]) -> Result<CancelRequest, serde_json::Error> {
        if body.is_empty() {
            return Ok(CancelRequest::default());
        }
        // A JSON list would be read as the keys' values in source order.
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body)?;
        serde_json::from_value(object.into())
    }

    /// The reason, if it is a line of valid length; blank counts as none.
    pub fn reason(self) -> Option<String> {
        let is_line = !self.reason.chars().any(char::is_control);
        let reason = self.reason.trim().to_owned();
        (is_line && reason.len() <= MAX_REASON).then_some(reason)
    }
}

/// The state of a job: the answer of `POST /jobs?async`, and the `state` event of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct JobState {
    /// The job's id.
    #[serde(rename = "ID")]
    pub id: String,
    /// The project's name.
    pub project: String,
    /// Pending or ready.
    pub state: State,
    /// The current phase; null once it is finished.
    pub phase: Option<Phase>,
    /// It is being stopped: a client has cancelled it, or it took too long. Earlier versions do not tell.
    #[serde(default)]
    pub stopping: bool,
    /// How many jobs wait in front of it for a slot, when this was sent; null once it has one.
    #[serde(default)]
    pub ahead: Option<usize>,
    /// `job/P/ID`, relative to the server.
    #[serde(rename = "URL")]
    pub url: String,
    /// Another request had asked for the build before this one.
    #[serde(default)]
    pub coalesced: bool,
}

/// `GET /job/P/ID` as JSON.
// The server has the info as JSON already; clients read it whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "JobView"))]
#[serde(rename_all = "PascalCase")]
pub struct JobView<I = BuildView> {
    /// The job's id.
    #[serde(rename = "ID")]
    pub id: String,
    /// The project's name.
    pub project: String,
    /// Pending or ready.
    pub state: State,
    /// Garbage collection keeps it.
    #[serde(default)]
    pub pinned: bool,
    /// Its full info.
    pub build_info: I,
}

/// One line of `GET /index/`.
// The server has the info as JSON already; clients read it whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "IndexItem"))]
#[serde(rename_all = "camelCase")]
pub struct IndexItem<I = BuildView> {
    /// The job's id.
    pub id: String,
    /// The project's name.
    pub project: String,
    /// RFC 3339, UTC.
    pub started_at: jiff::Timestamp,
    /// Its info, without the log and with long params cut.
    pub build_info: I,
    /// Pending or ready.
    pub state: State,
}

impl IndexItem<BuildView> {
    /// The item of a build, for a list.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn written(view: BuildView) -> Result<Box<RawValue>, serde_json::Error> {
        serde_json::value::to_raw_value(&IndexItem {
            id: view.id.clone(),
            project: view.project.clone(),
            started_at: view.started_at,
            state: view.state,
            build_info: view,
        })
    }
}

/// The body of every error answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Error"))]
pub struct ErrorView {
    /// One sentence.
    pub error: String,
    /// The request's id, as in the journal.
    #[serde(default)]
    pub request: String,
    /// The job that the error is about, when one was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub job: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> String {
        JobRequest::read(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn keys_are_read_in_any_letter_case() {
        let request =
            JobRequest::read(br#"{"Project":"p","PARAMS":{"a":"b"},"Group":"g","Rebuild":true}"#)
                .unwrap();
        assert_eq!(request.project, "p");
        assert_eq!(request.params, [("a".to_owned(), "b".to_owned())]);
        assert_eq!(request.group, "g");
        assert!(request.rebuild);
        let nulls = JobRequest::read(br#"{"project":"p","params":null,"group":null}"#).unwrap();
        assert_eq!((nulls.params.len(), nulls.group.as_str()), (0, ""));
    }

    #[test]
    fn the_size_limit_applies_to_the_json() {
        for letter in ["x", "\u{1}", "ü"] {
            let of = |letters: usize| JobRequest {
                params: vec![("a".to_owned(), letter.repeat(letters))],
                ..JobRequest::default()
            };
            let json = |letters| serde_json::to_vec(&of(letters)).unwrap().len();
            let fits = (MAX_REQUEST - json(0)) / (json(1) - json(0));
            assert!(!of(fits).is_too_large(), "{letter:?}");
            assert!(of(fits + 1).is_too_large(), "{letter:?}");
        }
    }

    #[test]
    fn an_invalid_key_or_value_is_named_in_the_error() {
        assert!(error(r#"{"project":"p","colour":1}"#).contains("colour"));
        assert!(error(r#"{"params":{}}"#).contains("project"));
        assert!(error(r#"{"project":"p","Project":"q"}"#).contains("duplicate"));
        assert!(error(r#"{"project":"p","params":{"a":1}}"#).contains("param 'a'"));
        assert!(error(r#"{"project":"p","params":{"a":"1","a":"2"}}"#).contains("twice"));
        assert!(error(r#"{"project":"p"} x"#).contains("trailing"));
        assert!(error("[]").contains("object"));
        let many: String = (0..10_000).map(|n| format!(r#""a{n}":"","#)).collect();
        let body = format!(
            r#"{{"project":"p","params":{{{}}}}}"#,
            many.trim_end_matches(',')
        );
        assert!(error(&body).contains("at most 1000"));
    }

    #[test]
    fn a_request_survives_a_round_trip_through_json() {
        let request = JobRequest {
            project: "p".to_owned(),
            params: vec![("a".to_owned(), "<&\u{2028}\0".to_owned())],
            group: "g/x".to_owned(),
            rebuild: true,
            cold: true,
            cancel_on_disconnect: true,
        };
        let text = serde_json::to_vec(&request).unwrap();
        assert_eq!(JobRequest::read(&text).unwrap(), request);
    }
}
