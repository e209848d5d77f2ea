//! The time before each line of a log: `mistry logs --times`.

use jiff::Timestamp;

use crate::api::LogTimes;

/// Puts the time before each line of a log that passes through it, from its first byte.
#[derive(Debug, Default)]
pub(super) struct TimedLines {
    times: LogTimes,
    /// The offset of the next byte.
    position: u64,
    is_within_line: bool,
}

impl TimedLines {
    /// Takes what the server knows by now. What it does not know yet is new: its time is that of its arrival.
    pub(super) fn know(&mut self, times: LogTimes) {
        self.times = times;
    }

    /// The next bytes of the log, with the times.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut timed = Vec::with_capacity(bytes.len());
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !self.is_within_line {
                timed.extend_from_slice(self.time().as_bytes());
            }
            timed.extend_from_slice(part);
            self.position += part.len() as u64;
            self.is_within_line = !part.ends_with(b"\n");
        }
        timed
    }

    /// The time of the line that begins here, in UTC as `docker logs --timestamps` has it, and a space.
    fn time(&self) -> String {
        let LogTimes {
            length,
            offsets,
            times,
        } = &self.times;
        let before = offsets.partition_point(|offset| *offset <= self.position);
        let at = match before.checked_sub(1) {
            _ if self.position >= *length => Some(Timestamp::now()),
            Some(entry) => times.get(entry).copied().and_then(known),
            None => None,
        };
        match at {
            Some(at) => format!("{at:.1} "),
            None => format!("{UNKNOWN} "),
        }
    }
}

/// As wide as a time.
const UNKNOWN: &str = "                     -";

fn known(milliseconds: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(milliseconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_time_wherever_the_log_is_cut() {
        let times = LogTimes {
            length: 12,
            offsets: vec![2, 6],
            times: vec![0, 61_250],
        };
        let log = b"a\nb\n\ncd\nefghijk";
        for size in 1..log.len() {
            let mut lines = TimedLines::default();
            lines.know(times.clone());
            let timed: Vec<u8> = log.chunks(size).flat_map(|part| lines.push(part)).collect();
            let timed = String::from_utf8(timed).unwrap();
            let expected = format!(
                "{UNKNOWN} a\n1970-01-01T00:00:00.0Z b\n1970-01-01T00:00:00.0Z \n\
                 1970-01-01T00:00:00.0Z cd\n1970-01-01T00:01:01.2Z efghijk"
            );
            assert_eq!(timed, expected, "{size}");
        }
    }

    #[test]
    fn a_line_behind_those_that_the_server_knew_has_the_time_of_its_arrival() {
        let mut lines = TimedLines::default();
        let (before, timed) = (Timestamp::now(), lines.push(b"new\n"));
        let timed = String::from_utf8(timed).unwrap();
        let at: Timestamp = timed.split(' ').next().unwrap().parse().unwrap();
        assert!(
            at.as_second() >= before.as_second() && timed.ends_with(" new\n"),
            "{timed}"
        );
    }
}
