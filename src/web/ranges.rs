//! `Range`: which part of something is asked for.

use hyper::header::{CONTENT_RANGE, RANGE};
use hyper::{HeaderMap, Response, StatusCode};

use super::answer::{self, Body};

/// What a request asks of something that is `length` bytes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// From the first to the last byte, both included.
    Of(u64, u64),
    /// Nothing that there is.
    Beyond,
}

/// Reads the header. What cannot be understood, and several ranges at once, mean all of it, as
/// RFC 9110 §14.2 allows.
pub(super) fn part(headers: &HeaderMap, length: u64) -> Part {
    let Some(value) = headers.get(RANGE).and_then(|value| value.to_str().ok()) else {
        return Part::Whole;
    };
    let Ok(parsed) = http_range_header::parse_range_header(value) else {
        return Part::Whole;
    };
    match parsed.validate(length).as_deref() {
        Ok([only]) => Part::Of(*only.start(), *only.end()),
        Ok(_) => Part::Whole,
        Err(_) => Part::Beyond,
    }
}

/// The answer to a range of which nothing is there.
pub(super) fn beyond(length: u64) -> Response<Body> {
    let mut response = answer::text(StatusCode::RANGE_NOT_SATISFIABLE, "");
    answer::set(&mut response, CONTENT_RANGE, &format!("bytes */{length}"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_the_whole_and_what_is_not_there_is_beyond() {
        for (value, expected) in [
            ("bytes=0-9", Part::Of(0, 9)),
            ("bytes=90-", Part::Of(90, 99)),
            ("bytes=-10", Part::Of(90, 99)),
            ("bytes=50-1000", Part::Of(50, 99)),
            ("bytes=100-", Part::Beyond),
            ("bytes=9-0", Part::Beyond),
            ("bytes=0-1,5-6", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("", Part::Whole),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, value.parse().unwrap());
            assert_eq!(part(&headers, 100), expected, "{value}");
        }
        assert_eq!(part(&HeaderMap::new(), 100), Part::Whole);
    }
}
