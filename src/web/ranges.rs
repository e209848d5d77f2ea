//! `Range` (RFC 9110 §14): which part of a representation is requested.

use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use hyper::{HeaderMap, Method, StatusCode};

use super::conditions;
use super::response::{self, Response};

/// The part of `length` bytes that a request selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// From the first to the last byte, both included.
    Of(u64, u64),
    /// Nothing: the range begins after the end.
    Beyond,
}

/// The requested part of `length` bytes that the strong tag `etag` identifies.
///
/// Ranges are for GET alone (§14.2). Invalid ranges, other units, and several ranges that do not combine to
/// one are ignored, as §14.2 allows.
pub(super) fn part(method: &Method, headers: &HeaderMap, etag: &str, length: u64) -> Part {
    let mut given = headers.get_all(RANGE).iter();
    let (Some(range), None) = (given.next(), given.next()) else {
        return Part::Whole;
    };
    if *method != Method::GET || !conditions::allow_range(headers, etag) {
        return Part::Whole;
    }
    range
        .to_str()
        .ok()
        .and_then(|range| of_text(range, length))
        .unwrap_or(Part::Whole)
}

/// `None` if the text is no set of byte ranges.
fn of_text(text: &str, length: u64) -> Option<Part> {
    let (unit, set) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    // A list may have empty elements (§5.6.1.2), but not only those.
    let mut is_empty = true;
    let mut found = Part::Beyond;
    for spec in set.split(',').map(|spec| spec.trim_matches([' ', '\t'])) {
        if spec.is_empty() {
            continue;
        }
        is_empty = false;
        found = match (found, one(spec, length)?) {
            (found, None) => found,
            (Part::Beyond, Some((first, last))) => Part::Of(first, last),
            (Part::Of(first, last), Some((next, end)))
                if next <= last.saturating_add(1) && first <= end.saturating_add(1) =>
            {
                Part::Of(first.min(next), last.max(end))
            }
            (Part::Of(..) | Part::Whole, Some(_)) => Part::Whole,
        };
    }
    (!is_empty).then_some(found)
}

/// One range: `None` if it breaks the grammar, `Some(None)` if it begins after the end.
fn one(spec: &str, length: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?;
        return Some(match length.checked_sub(1) {
            // As much as there is, which is nothing: no part of it can be named.
            None if suffix > 0 => return None,
            Some(end) if suffix > 0 => Some((length.saturating_sub(suffix), end)),
            _ => None,
        });
    }
    let first = number(first)?;
    let last = match last {
        "" => u64::MAX,
        last => number(last)?,
    };
    if last < first {
        return None;
    }
    let end = length.checked_sub(1).filter(|end| first <= *end);
    Some(end.map(|end| (first, last.min(end))))
}

/// A number of digits; an overflow counts as the largest.
fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Sets the headers of a response with `count` bytes from `first` on, of `length` in all.
pub(super) fn describe(response: &mut Response, first: u64, count: u64, length: u64) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, count.into());
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if response.status() == StatusCode::PARTIAL_CONTENT {
        let last = (first + count).saturating_sub(1);
        let range = format!("bytes {first}-{last}/{length}");
        response::set(response, CONTENT_RANGE, &range);
    }
}

/// The response to a range that begins after the end.
pub(super) fn beyond(length: u64) -> Response {
    let mut response = response::text(StatusCode::RANGE_NOT_SATISFIABLE, "");
    response::set(&mut response, CONTENT_RANGE, &format!("bytes */{length}"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"t\"";

    fn ask(method: Method, pairs: &[(&'static str, &str)], length: u64) -> Part {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        part(&method, &headers, TAG, length)
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn a_range_is_parsed_as_in_the_standard() {
        let huge = "9".repeat(40);
        for (value, length, expected) in [
            ("bytes=0-9", 100, Part::Of(0, 9)),
            ("bytes=0-0", 100, Part::Of(0, 0)),
            ("bytes=00-09", 100, Part::Of(0, 9)),
            ("bytes=90-", 100, Part::Of(90, 99)),
            ("bytes=99-", 100, Part::Of(99, 99)),
            ("bytes=-10", 100, Part::Of(90, 99)),
            ("bytes=-1000", 20, Part::Of(0, 19)),
            ("bytes=50-1000", 100, Part::Of(50, 99)),
            ("BYTES=0-9", 100, Part::Of(0, 9)),
            // Nothing that is there.
            ("bytes=100-", 100, Part::Beyond),
            ("bytes=100-200", 100, Part::Beyond),
            ("bytes=-0", 100, Part::Beyond),
            ("bytes=200-300,400-", 100, Part::Beyond),
            ("bytes=0-", 0, Part::Beyond),
            ("bytes=0-0", 0, Part::Beyond),
            ("bytes=-0", 0, Part::Beyond),
            // A suffix of nothing is satisfiable, and no part of it can be named.
            ("bytes=-5", 0, Part::Whole),
            // One is left.
            ("bytes=0-5,200-300", 100, Part::Of(0, 5)),
            ("bytes=200-300,-1", 100, Part::Of(99, 99)),
            ("bytes=0-5,3-8", 100, Part::Of(0, 8)),
            ("bytes=3-8,0-5", 100, Part::Of(0, 8)),
            ("bytes=0-4 ,\t5-9", 100, Part::Of(0, 9)),
            ("bytes=0-9,0-9", 100, Part::Of(0, 9)),
            ("bytes=,0-9,,", 100, Part::Of(0, 9)),
            // Several stay several.
            ("bytes=0-1,5-6", 100, Part::Whole),
            ("bytes=5-6,0-1", 100, Part::Whole),
            ("bytes=0-0,-1", 100, Part::Whole),
            ("bytes=0-0,-1", 1, Part::Of(0, 0)),
            // No ranges of bytes.
            ("lines=1-2", 100, Part::Whole),
            ("bytes", 100, Part::Whole),
            ("bytes=", 100, Part::Whole),
            ("bytes=,", 100, Part::Whole),
            ("bytes=-", 100, Part::Whole),
            ("bytes=--1", 100, Part::Whole),
            ("bytes=9-0", 100, Part::Whole),
            ("bytes=0-5,9-8", 100, Part::Whole),
            ("bytes=a-b", 100, Part::Whole),
            ("bytes=0-5x", 100, Part::Whole),
            ("bytes=+0-5", 100, Part::Whole),
            ("bytes=0 - 5", 100, Part::Whole),
            ("bytes=0-5;6-7", 100, Part::Whole),
            ("bytes=0x0-0x5", 100, Part::Whole),
            ("0-5", 100, Part::Whole),
            ("", 100, Part::Whole),
            // Numbers past every length.
            (&*format!("bytes=0-{huge}"), 100, Part::Of(0, 99)),
            (&*format!("bytes={huge}-"), 100, Part::Beyond),
            (&*format!("bytes=-{huge}"), 100, Part::Of(0, 99)),
            (
                "bytes=0-18446744073709551615",
                u64::MAX,
                Part::Of(0, u64::MAX - 1),
            ),
            (
                "bytes=0-18446744073709551615,0-1",
                u64::MAX,
                Part::Of(0, u64::MAX - 1),
            ),
        ] {
            assert_eq!(
                ask(Method::GET, &[("range", value)], length),
                expected,
                "{value} of {length}"
            );
        }
    }

    #[test]
    fn a_range_applies_to_a_get_with_one_header_and_matching_content() {
        let range = ("range", "bytes=0-9");
        assert_eq!(ask(Method::GET, &[], 100), Part::Whole);
        assert_eq!(ask(Method::HEAD, &[range], 100), Part::Whole);
        assert_eq!(
            ask(Method::HEAD, &[("range", "bytes=100-")], 100),
            Part::Whole
        );
        assert_eq!(ask(Method::GET, &[range, range], 100), Part::Whole);
        assert_eq!(
            ask(Method::GET, &[range, ("if-range", TAG)], 100),
            Part::Of(0, 9)
        );
        assert_eq!(
            ask(Method::GET, &[range, ("if-range", "W/\"t\"")], 100),
            Part::Whole
        );
        // The condition is ignored then.
        let beyond = ("range", "bytes=100-");
        assert_eq!(
            ask(Method::GET, &[beyond, ("if-range", "\"x\"")], 100),
            Part::Whole
        );
    }
}
