//! Formats ids, durations, sizes and times for users.

/// Digits of an id that are printed: enough that two builds of one server never share them.
const SHORT_ID_DIGITS: usize = 12;

/// The digits of an id that are printed.
pub(super) fn short_id(id: &str) -> &str {
    id.get(..SHORT_ID_DIGITS).unwrap_or(id)
}

/// `41 s`, `1 m 5 s`, `2 h 3 m`, `180 ms`: a duration in nanoseconds; "" for a negative one.
pub(super) fn format_duration(nanos: i64) -> String {
    let Ok(nanos) = u64::try_from(nanos) else {
        return String::new();
    };
    let millis = nanos / 1_000_000;
    let seconds = millis / 1_000;
    match seconds {
        0 => format!("{millis} ms"),
        1..=9 => format!("{}.{} s", seconds, millis % 1_000 / 100),
        10..=59 => format!("{seconds} s"),
        60..=3_599 => format!("{} m {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} m", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// `0 B`, `980 B`, `1.5 MiB`, `120 GiB`: a number of bytes.
pub(super) fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1 << 10 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // A value that would be printed as 1024 is 1.0 of the next unit.
        if value < 1_023.5 {
            break;
        }
        value /= 1_024.0;
        unit = next;
    }
    if value < 9.95 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// A time in the time zone of this host.
pub(super) fn format_time(at: jiff::Timestamp) -> String {
    let at = at.to_zoned(jiff::tz::TimeZone::system());
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}
