//! Durations and sizes as people write them in settings, and on the command line.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// Parses `500ms`, `90s`, `15m`, `2h30m`, `7d`; `None` when it is not one of these.
///
/// Units go from large to small and each at most once, so `30m2h` is refused.
pub fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let mut rest = text;
    let mut total: u64 = 0;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = UNITS
            .iter()
            .position(|(name, _)| *name == &rest[..letters])?;
        if unit < next_unit {
            return None;
        }
        next_unit = unit + 1;
        total = total.checked_add(number.checked_mul(UNITS[unit].1)?)?;
        rest = &rest[letters..];
    }
    (next_unit > 0).then(|| Duration::from_millis(total))
}

/// Parses `1048576`, `512K`, `512M`, `20G`, `1T` (powers of 1024); `None` when it is invalid.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "B" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1_u64 << 40,
        _ => return None,
    };
    let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
    let number = is_number.then(|| digits.parse::<u64>().ok())??;
    number.checked_mul(factor)
}

/// For serde: an optional duration as text, above zero.
pub(crate) fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    let Some(text) = Option::<String>::deserialize(input)? else {
        return Ok(None);
    };
    match parse_duration(&text) {
        Some(duration) if !duration.is_zero() => Ok(Some(duration)),
        _ => Err(de::Error::invalid_value(
            de::Unexpected::Str(&text),
            &"a duration like 500ms, 90s, 15m, 2h30m or 7d",
        )),
    }
}

/// For serde: an optional size, as a number of bytes or as text.
pub(crate) fn size<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a size: a number of bytes, or a text like 512M or 20G"
    )]
    enum Spelling {
        Bytes(u64),
        Text(String),
    }
    match Option::<Spelling>::deserialize(input)? {
        None => Ok(None),
        Some(Spelling::Bytes(bytes)) => Ok(Some(bytes)),
        Some(Spelling::Text(text)) => parse_size(&text).map(Some).ok_or_else(|| {
            de::Error::invalid_value(de::Unexpected::Str(&text), &"a size like 512M or 20G")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_as_written() {
        for (text, ms) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("15m", 900_000),
            ("2h30m", 9_000_000),
            ("7d", 604_800_000),
            ("1m1ms", 60_001),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1.5h",
            "30m2h",
            "1s1s",
            "1y",
            "99999999999999999d",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_parsed_as_written() {
        assert_eq!(parse_size("512M"), Some(512 << 20));
        assert_eq!(parse_size("20G"), Some(20 << 30));
        assert_eq!(parse_size("7"), Some(7));
        for text in ["", "M", "-1", "+1", "1.5G", "1X", "99999999999T"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
