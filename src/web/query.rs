//! The query of an address: names and values after the `?`, and flags among them.

use super::error::ApiError;

/// Every name that an address of this server reads. Given twice it would mean two things.
const KNOWN: [&str; 27] = [
    "asked_by", "async", "attempt", "base", "before", "fail", "find", "follow", "from", "group",
    "inline", "json", "kind", "limit", "lines", "log", "manifest", "outcome", "pinned", "project",
    "rows", "sparse", "state", "text", "times", "view", "wait",
];

/// Names and values after the `?`, decoded.
#[derive(Clone, Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query as HTML forms write it. Unknown names are ignored.
    ///
    /// # Errors
    /// 400 when a name that this server reads is given twice.
    pub(super) fn parse(text: &str) -> Result<Query, ApiError> {
        let pairs = form_urlencoded::parse(text.as_bytes()).into_owned();
        let query = Query(pairs.collect());
        let is_repeated =
            |name: &&&str| query.0.iter().filter(|(key, _)| key == **name).count() > 1;
        match KNOWN.iter().find(is_repeated) {
            None => Ok(query),
            Some(name) => Err(ApiError::bad_request(format!(
                "{name}: expected once in an address"
            ))),
        }
    }

    /// The value of `name`; `Some("")` when it has none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether the flag `name` is set: alone, `true` and `1` set it; absent, `false` and `0` do not.
    ///
    /// # Errors
    /// 400 for any other value.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None => Ok(false),
            Some(value) => match value.to_ascii_lowercase().as_str() {
                "" | "1" | "true" => Ok(true),
                "0" | "false" => Ok(false),
                _ => Err(ApiError::bad_request(format!(
                    "{name}: expected true, 1 or nothing, or false or 0"
                ))),
            },
        }
    }

    /// Without the empty fields of a form.
    pub(super) fn without_empty(mut self) -> Query {
        self.0.retain(|(_, value)| !value.is_empty());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_true_false_or_an_error_that_names_it() {
        let flag = |text: &str| Query::parse(text).and_then(|query| query.flag("wait"));
        for text in [
            "wait",
            "wait=",
            "wait=1",
            "a&wait=true",
            "wait=True",
            "w%61it=%31",
        ] {
            assert!(flag(text).unwrap(), "{text}");
        }
        for text in ["", "waits", "wait=0", "wait=false", "wait=FALSE", "await=1"] {
            assert!(!flag(text).unwrap(), "{text}");
        }
        for text in [
            "wait=no",
            "wait=yes",
            "wait=2",
            "wait=00",
            "wait=+1",
            "wait=true,false",
            "wait=%20",
        ] {
            let sentence = flag(text).unwrap_err().message().to_owned();
            assert!(
                sentence.starts_with("wait: expected "),
                "{text}: {sentence}"
            );
        }
    }

    #[test]
    fn a_repeated_known_name_is_an_error_and_an_unknown_one_is_ignored() {
        for text in ["wait=1&wait=0", "wait&wait", "limit=1&x=2&limit=1"] {
            assert!(Query::parse(text).is_err(), "{text}");
        }
        assert!(Query::parse("x=1&x=2&Wait=1&wait=0").is_ok());
    }
}
