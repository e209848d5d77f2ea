//! Garbage collection: requests and results.

use std::fmt;
use std::time::Duration;

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize};

use super::next_key;
use crate::policy::Policy;
use crate::project;

/// `POST /gc`: rules that replace the configured ones. Keys are read in any letter case.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct GcRequest {
    /// Report the removals without doing them.
    #[cfg_attr(test, schemars(with = "Option<bool>"))]
    pub dry_run: bool,
    /// The given rules.
    #[cfg_attr(test, schemars(flatten))]
    pub policy: Policy,
}

impl GcRequest {
    /// Reads a body; an empty one gives no rule.
    ///
    /// # Errors
    /// Says what could not be read, or which key was unknown, and where.
    pub fn read(body: &[u8]) -> Result<GcRequest, serde_json::Error> {
        match body.trim_ascii() {
            b"" => Ok(GcRequest::default()),
            body => serde_json::from_slice(body),
        }
    }
}

impl Serialize for GcRequest {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let policy = &self.policy;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("dry_run", &self.dry_run)?;
        if let Some(age) = policy.max_age {
            map.serialize_entry("max_age", &format!("{}ms", age.as_millis()))?;
        }
        for (key, value) in [
            ("max_bytes", policy.max_bytes),
            ("min_free", policy.min_free),
            ("keep_last", policy.keep_last),
        ] {
            if let Some(value) = value {
                map.serialize_entry(key, &value)?;
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for GcRequest {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<GcRequest, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = GcRequest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with rules of garbage collection")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<GcRequest, A::Error> {
                const KNOWN: [&str; 5] =
                    ["dry_run", "max_age", "max_bytes", "min_free", "keep_last"];
                let mut request = GcRequest::default();
                let mut seen = Vec::new();
                while let Some(name) = next_key(&mut map, &KNOWN, &mut seen)? {
                    let policy = &mut request.policy;
                    let named = |error| de::Error::custom(format_args!("{name}: {error}"));
                    match name {
                        "dry_run" => {
                            let value = map.next_value::<Option<bool>>().map_err(named)?;
                            request.dry_run = value.unwrap_or_default();
                        }
                        "max_age" => policy.max_age = map.next_value::<Age>().map_err(named)?.0,
                        "max_bytes" => {
                            policy.max_bytes = map.next_value::<Size>().map_err(named)?.0;
                        }
                        "min_free" => policy.min_free = map.next_value::<Size>().map_err(named)?.0,
                        _ => policy.keep_last = map.next_value().map_err(named)?,
                    }
                }
                Ok(request)
            }
        }

        input.deserialize_map(Keys)
    }
}

/// A duration in the format of the configuration; null is none.
#[derive(Deserialize)]
#[serde(transparent)]
struct Age(#[serde(deserialize_with = "project::duration")] Option<Duration>);

/// A size in the format of the configuration; null is none.
#[derive(Deserialize)]
#[serde(transparent)]
struct Size(#[serde(deserialize_with = "project::size")] Option<u64>);

/// The answer of `POST /gc`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct GcView {
    /// Nothing was removed: this is what would be done.
    pub dry_run: bool,
    /// The removals, done or planned, in this order.
    pub removed: Vec<RemovedView>,
    /// Bytes that this freed, as far as builds were measured.
    pub bytes: u64,
    /// Number of builds kept.
    pub kept: usize,
    /// Bytes that they take.
    pub kept_bytes: u64,
    /// Builds that should be removed and are in use after all, or could not be removed.
    pub passed: usize,
    /// Builds whose size was not measured: they count as 0 bytes.
    pub unmeasured: usize,
    /// Bytes past `max_bytes`, or short of `min_free`, that no further removal may free.
    pub short: u64,
    /// Until then no build is removed by age, since the server's clock was set forward; absent if it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "jiff::Timestamp"))]
    pub doubted_until: Option<jiff::Timestamp>,
    /// Bytes that are free now.
    pub free: u64,
    /// Images of this server that were no longer referenced, and were removed.
    pub images: u64,
}

/// One removed build.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Removed"))]
#[serde(rename_all = "PascalCase")]
pub struct RemovedView {
    /// The job's id.
    #[serde(rename = "ID")]
    pub id: String,
    /// The project's name.
    pub project: String,
    /// The group, or "".
    pub group: String,
    /// `ready`, or `failed` for a rebuild beside its succeeded build.
    #[cfg_attr(test, schemars(extend("enum" = ["ready", "failed"])))]
    pub place: String,
    /// The rule: `max_age`, `max_bytes`, `min_free`; or `torn`.
    #[cfg_attr(test, schemars(extend("enum" = ["torn", "max_age", "max_bytes", "min_free"])))]
    pub why: String,
    /// The time of its last use.
    pub used: jiff::Timestamp,
    /// Bytes that this freed.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_survive_a_round_trip_through_json() {
        let request = GcRequest {
            dry_run: true,
            policy: Policy {
                max_age: Some(Duration::from_secs(7 * 86_400)),
                max_bytes: Some(20 << 30),
                min_free: None,
                keep_last: Some(0),
            },
        };
        let text = serde_json::to_vec(&request).unwrap();
        assert_eq!(GcRequest::read(&text).unwrap(), request);
        let spelled =
            br#"{"Dry_Run":true,"MAX_AGE":"7d","max_bytes":"20G","keep_last":0,"min_free":null}"#;
        assert_eq!(GcRequest::read(spelled).unwrap(), request);
        assert_eq!(GcRequest::read(b" ").unwrap(), GcRequest::default());
        for (text, named) in [
            (r#"{"colour":1}"#, "colour"),
            (r#"{"max_age":7}"#, "max_age: "),
            (r#"{"max_age":"0s"}"#, "max_age: "),
            (r#"{"max_bytes":"lots"}"#, "max_bytes: "),
            (r#"{"min_free":-1}"#, "min_free: "),
            (r#"{"keep_last":"1"}"#, "keep_last: "),
            (r#"{"dry_run":"no"}"#, "dry_run: "),
            (r#"{"max_age":"1d","Max_age":"2d"}"#, "duplicate"),
            ("[]", "object"),
        ] {
            let error = GcRequest::read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
