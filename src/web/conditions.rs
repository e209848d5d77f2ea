//! Conditional requests (RFC 9110 §13): whether the client has the current content already, or expects
//! another.
//!
//! No content here has a date of modification, because files of builds may have any date. So
//! `If-Modified-Since` and `If-Unmodified-Since` are ignored (§13.1.3, §13.1.4), and a date in `If-Range`
//! matches nothing.

use hyper::header::{HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH, IF_RANGE};

/// What the conditions of a GET or HEAD decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The request is handled as if it had no conditions.
    Proceed,
    /// 304: the client has the current content.
    NotModified,
    /// 412: the client expects other content.
    Failed,
}

/// Evaluates `If-Match`, then `If-None-Match` (§13.2.2), for something that exists and whose strong
/// entity tag is `etag`, with its quotes.
pub(super) fn evaluate(headers: &HeaderMap, etag: &str) -> Verdict {
    if headers.contains_key(IF_MATCH) && !names(headers, IF_MATCH, |tag| tag.is_strongly(etag)) {
        return Verdict::Failed;
    }
    if names(headers, IF_NONE_MATCH, |tag| tag.is_weakly(etag)) {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// True when a range may be sent: there is no `If-Range`, or it is this strong tag (§13.1.5).
pub(super) fn allow_range(headers: &HeaderMap, etag: &str) -> bool {
    let mut given = headers.get_all(IF_RANGE).iter();
    match (given.next(), given.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().trim_ascii() == etag.as_bytes(),
        (Some(_), Some(_)) => false,
    }
}

/// An entity tag as the client sent it, with its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag<'a> {
    is_weak: bool,
    text: &'a str,
}

impl Tag<'_> {
    fn is_strongly(self, etag: &str) -> bool {
        !self.is_weak && self.is_weakly(etag)
    }

    /// True for `etag`, also when a proxy has made it weak.
    pub(super) fn is_weakly(self, etag: &str) -> bool {
        self.text == etag
    }
}

/// True when the header is `*`, or one of its tags is `wanted`.
fn names(headers: &HeaderMap, header: HeaderName, wanted: impl Fn(Tag<'_>) -> bool) -> bool {
    headers.get_all(header).iter().any(|value| {
        let text = value.to_str().unwrap_or_default();
        text.trim() == "*" || tags(text).any(&wanted)
    })
}

/// The entity tags of a list, up to its first error. Commas may be inside the quotes.
pub(super) fn tags(text: &str) -> impl Iterator<Item = Tag<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (is_weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let length = quoted.strip_prefix('"')?.find('"')? + 2;
        let (tag, after) = quoted.split_at(length);
        let after = after.trim_start_matches([' ', '\t']);
        rest = if after.is_empty() || after.starts_with(',') {
            after
        } else {
            ""
        };
        Some(Tag { is_weak, text: tag })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"a,b\"";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn conditions_are_evaluated_in_the_order_of_the_standard() {
        use Verdict::{Failed, NotModified, Proceed};
        let (past, future) = (
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Fri, 06 Nov 2099 08:49:37 GMT",
        );
        for (given, expected) in [
            (&[][..], Proceed),
            (&[("if-none-match", "\"a,b\"")], NotModified),
            (&[("if-none-match", "W/\"a,b\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (
                &[("if-none-match", "\"x\", W/\"y\" , \"a,b\"")],
                NotModified,
            ),
            (&[("if-none-match", "\"x\",,\t\"a,b\"")], NotModified),
            (
                &[("if-none-match", "\"x\""), ("if-none-match", "\"a,b\"")],
                NotModified,
            ),
            (&[("if-none-match", "\"x\"")], Proceed),
            (&[("if-none-match", "a,b")], Proceed),
            (&[("if-none-match", "\"a")], Proceed),
            (&[("if-none-match", "\"xa,b\"")], Proceed),
            (&[("if-none-match", "\"x\"\"a,b\"")], Proceed),
            (&[("if-none-match", "")], Proceed),
            (&[("if-match", "\"a,b\"")], Proceed),
            (&[("if-match", "\"x\", \"a,b\"")], Proceed),
            (&[("if-match", "*")], Proceed),
            // The comparison is the strong one.
            (&[("if-match", "W/\"a,b\"")], Failed),
            (&[("if-match", "\"x\"")], Failed),
            (&[("if-match", "a,b")], Failed),
            (&[("if-match", "")], Failed),
            // `If-Match` decides first.
            (
                &[("if-match", "\"x\""), ("if-none-match", "\"a,b\"")],
                Failed,
            ),
            (
                &[("if-match", "\"a,b\""), ("if-none-match", "\"a,b\"")],
                NotModified,
            ),
            // Dates are ignored.
            (&[("if-modified-since", future)], Proceed),
            (&[("if-unmodified-since", past)], Proceed),
            (
                &[("if-none-match", "\"x\""), ("if-modified-since", future)],
                Proceed,
            ),
        ] {
            assert_eq!(evaluate(&headers(given), TAG), expected, "{given:?}");
        }
    }

    #[test]
    fn a_range_applies_only_to_its_etag() {
        assert!(allow_range(&HeaderMap::new(), TAG));
        assert!(allow_range(&headers(&[("if-range", TAG)]), TAG));
        for other in [
            "W/\"a,b\"",
            "\"x\"",
            "*",
            "\"x\", \"a,b\"",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "",
        ] {
            assert!(
                !allow_range(&headers(&[("if-range", other)]), TAG),
                "{other}"
            );
        }
        let twice = headers(&[("if-range", TAG), ("if-range", TAG)]);
        assert!(!allow_range(&twice, TAG));
    }
}
