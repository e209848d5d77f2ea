//! Which builds a list or a stream is about: the same words in every address.

use super::error::Refusal;
use super::query::Query;
use crate::build::{Filter, Outcome, Place, State};

/// Bytes of a search: a few words.
const MAX_TEXT: usize = 200;
/// What may stand in an address, in the order in which it is written.
const NAMES: [&str; 5] = ["project", "group", "state", "outcome", "text"];

/// Reads `project`, `group`, `state`, `outcome`, `text` and `before`.
pub(super) fn filter(asked: &Query) -> Result<Filter, Refusal> {
    let words = asked.get("text").unwrap_or_default();
    if words.len() > MAX_TEXT {
        return Err(Refusal::bad_request(format!(
            "text: expected at most {MAX_TEXT} bytes"
        )));
    }
    Ok(Filter {
        project: asked.get("project").map(str::parse).transpose()?,
        group: asked.get("group").map(str::to_owned),
        state: match asked.get("state") {
            None => None,
            Some("pending") => Some(State::Pending),
            Some("ready") => Some(State::Ready),
            Some(_) => return Err(Refusal::bad_request("state: expected pending or ready")),
        },
        outcome: asked.get("outcome").map(outcome).transpose()?,
        words: words.split_whitespace().map(str::to_lowercase).collect(),
        before: match asked.get("before") {
            None => None,
            Some(before) => Some(Place::parse(before).ok_or_else(|| {
                Refusal::bad_request("before: expected the value of a Link header of this server")
            })?),
        },
    })
}

fn outcome(text: &str) -> Result<Outcome, Refusal> {
    let named = |outcome: &Outcome| outcome.as_str() == text;
    Outcome::ALL.into_iter().find(named).ok_or_else(|| {
        let names = Outcome::ALL.map(Outcome::as_str).join(", ");
        Refusal::bad_request(format!("outcome: expected one of {names}"))
    })
}

/// The same choice as a query, without `before`; "" where all are meant.
pub(super) fn query(asked: &Query) -> form_urlencoded::Serializer<'static, String> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for name in NAMES {
        if let Some(value) = asked.get(name) {
            query.append_pair(name, value);
        }
    }
    query
}
