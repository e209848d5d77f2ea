//! The filter of a list or a stream of builds: the same query in every address.

use super::error::ApiError;
use super::query::Query;
use crate::build::{Filter, Place};
use crate::job::{Outcome, State};

/// Bytes of a search: a few words.
pub(super) const MAX_TEXT: usize = 200;
/// The filter's query names, in the order in which they are written.
const NAMES: [&str; 8] = [
    "project", "group", "state", "outcome", "text", "asked_by", "kind", "pinned",
];

/// Reads the names of the filter and `before`.
pub(super) fn filter(query: &Query) -> Result<Filter, ApiError> {
    let words = query.get("text").unwrap_or_default();
    if words.len() > MAX_TEXT {
        return Err(ApiError::bad_request(format!(
            "text: expected at most {MAX_TEXT} bytes"
        )));
    }
    Ok(Filter {
        project: query.get("project").map(str::parse).transpose()?,
        group: query.get("group").map(str::to_owned),
        state: match query.get("state") {
            None => None,
            Some("pending") => Some(State::Pending),
            Some("ready") => Some(State::Ready),
            Some(_) => return Err(ApiError::bad_request("state: expected pending or ready")),
        },
        outcome: query.get("outcome").map(outcome).transpose()?,
        asked_by: query.get("asked_by").map(str::to_owned),
        incremental: match query.get("kind") {
            None => None,
            Some("cold") => Some(false),
            Some("incremental") => Some(true),
            Some(_) => return Err(ApiError::bad_request("kind: expected cold or incremental")),
        },
        pinned: match query.get("pinned") {
            None => None,
            Some(_) => Some(query.flag("pinned")?),
        },
        words: words.split_whitespace().map(str::to_lowercase).collect(),
        before: match query.get("before") {
            None => None,
            Some(before) => Some(Place::parse(before).ok_or_else(|| {
                ApiError::bad_request("before: expected the value of a Link header of this server")
            })?),
        },
    })
}

fn outcome(text: &str) -> Result<Outcome, ApiError> {
    let named = |outcome: &Outcome| outcome.as_str() == text;
    Outcome::ALL.into_iter().find(named).ok_or_else(|| {
        let names = Outcome::ALL.map(Outcome::as_str).join(", ");
        ApiError::bad_request(format!("outcome: expected one of {names}"))
    })
}

/// The filter as a query without `before`; "" if it matches all builds.
pub(super) fn query(query: &Query) -> form_urlencoded::Serializer<'static, String> {
    let mut written = form_urlencoded::Serializer::new(String::new());
    for name in NAMES {
        if let Some(value) = query.get(name) {
            written.append_pair(name, value);
        }
    }
    written
}
