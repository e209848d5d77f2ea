//! Durations, sizes, times and untrusted texts as people read them.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::ArtifactTotals;
use crate::build::lines;

/// A duration: "340 ms", "4.2 s", "3 min 20 s", "2 h 5 min". `static/times.js` writes them alike.
pub(super) fn span(time: Duration) -> String {
    let (seconds, millis) = (time.as_secs(), time.as_millis());
    match seconds {
        0 => format!("{millis} ms"),
        1..60 => format!("{}.{} s", seconds, millis / 100 % 10),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Bytes: "0 B", "812 B", "4.1 KiB", "2.3 GiB".
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    #[allow(clippy::cast_precision_loss)] // One digit after the point is shown.
    let mut left = count as f64 / 1024.0;
    let mut unit = 0;
    while left >= 1023.95 && unit + 1 < UNITS.len() {
        left /= 1024.0;
        unit += 1;
    }
    format!("{left:.1} {}", UNITS[unit])
}

/// Artifacts: "no files", "1 file, 12 B".
pub(super) fn artifacts(totals: ArtifactTotals) -> String {
    let size = bytes(totals.bytes);
    match totals.files {
        0 => "no files".to_owned(),
        1 => format!("1 file, {size}"),
        files => format!("{files} files, {size}"),
    }
}

/// A time for browsers that run no scripts.
pub(super) fn utc(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A time for a `datetime` attribute: RFC 3339, to the millisecond.
pub(super) fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// Untrusted text on one line: characters that control a terminal, are invisible or change the direction of
/// reading are replaced by their names.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => shown.push('⏎'),
            '\t' => shown.push(' '),
            letter if letter.is_control() || lines::misleads(letter) => {
                shown.push_str(&format!("<U+{:04X}>", u32::from(letter)));
            }
            letter => shown.push(letter),
        }
    }
    shown
}

/// The first `most` characters of a text, and `…` where there are more.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_written_for_people() {
        for (millis, said) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1.0 s"),
            (59_990, "59.9 s"),
            (61_000, "1 min 1 s"),
            (7_260_000, "2 h 1 min"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), said);
        }
        for (count, said) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), said);
        }
    }

    #[test]
    fn a_text_cannot_change_the_reading_direction_or_hide_characters() {
        let hostile = "a\u{202e}b\u{200b}\u{7}\u{1b}[2J\nc";
        let shown = "a<U+202E>b<U+200B><U+0007><U+001B>[2J⏎c";
        assert_eq!(visible(hostile), shown);
        assert_eq!(visible("dépôt 日本 👩"), "dépôt 日本 👩");
    }

    #[test]
    fn a_text_is_cut_after_whole_characters_and_says_so() {
        for (text, most, shown) in [
            ("日本語", 2, "日本…"),
            ("日本語", 3, "日本語"),
            ("", 0, ""),
            ("a", 0, "…"),
        ] {
            assert_eq!(cut(text, most), shown);
        }
    }
}
