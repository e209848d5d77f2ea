//! When the lines of a log were written: in a file beside the log, which holds the output and nothing else.
//!
//! Each line of the file has two numbers: a byte of the log, and the time from which on the log was written there, in
//! milliseconds since 1970. The times of a container's output are those of the Engine, so they are right also for what
//! was printed while no daemon ran. The file is small: a time is left out if it is close to the one before.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::Timestamp;

use super::{layout, record};
use crate::located::at;

/// The least time between two entries, in milliseconds.
const MIN_DISTANCE: u64 = 100;
/// In a long log, the least time between two entries is this part of the time since the first. So a log of a week has
/// about 70,000 entries at most.
const DISTANCE_PART: u64 = 10_000;
/// Bytes of the file that are read and written at most: for a clock that jumps.
const MAX_BYTES: u64 = 4 << 20;

/// A byte of a log, and when it and what follows it were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineTime {
    /// The byte of the log.
    pub offset: u64,
    /// Milliseconds since 1970.
    pub milliseconds: i64,
}

impl LineTime {
    /// The bytes of a log from `offset` on were written at `at`.
    pub fn new(offset: u64, at: Timestamp) -> LineTime {
        LineTime {
            offset,
            milliseconds: at.as_millisecond(),
        }
    }
}

/// The times of a log that is written.
#[derive(Debug)]
pub(super) struct LineTimes {
    file: File,
    bytes: u64,
    first: Option<LineTime>,
    last: Option<LineTime>,
}

impl LineTimes {
    /// Continues the times of the log in `directory`, which has `length` bytes.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub(super) fn open(directory: &Path, length: u64) -> io::Result<LineTimes> {
        let path = directory.join(layout::TIMES);
        let mut options = File::options();
        let file = options.read(true).append(true).create(true).mode(0o640);
        let file = file.open(&path).map_err(at(&path))?;
        // A power cut may have taken the end of either file.
        let mut kept = parse(&file)?;
        kept.retain(|entry| entry.offset < length);
        let bytes = text_of(&kept).len() as u64;
        file.set_len(bytes)?;
        Ok(LineTimes {
            file,
            bytes,
            first: kept.first().copied(),
            last: kept.last().copied(),
        })
    }

    /// Adds times, in the order of the log. Those of bytes that have times already, because the output is read once
    /// more, are left out.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn add(&mut self, times: &[LineTime]) -> io::Result<()> {
        let mut new = Vec::new();
        for time in times {
            if self.is_worth_an_entry(time) {
                self.first.get_or_insert(*time);
                self.last = Some(*time);
                new.push(*time);
            }
        }
        let text = text_of(&new);
        if text.is_empty() || self.bytes + text.len() as u64 > MAX_BYTES {
            return Ok(());
        }
        self.file.write_all(text.as_bytes())?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    fn is_worth_an_entry(&self, time: &LineTime) -> bool {
        let (Some(first), Some(last)) = (self.first, self.last) else {
            return true;
        };
        let since_first = time.milliseconds.abs_diff(first.milliseconds);
        let distance = (since_first / DISTANCE_PART).max(MIN_DISTANCE);
        // A clock may be set back.
        let since_last = time.milliseconds.abs_diff(last.milliseconds);
        time.offset > last.offset && since_last >= distance
    }
}

/// The times in `directory` of the log there; none for a build of an earlier version. Blocks.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn read(directory: &Path) -> io::Result<Vec<LineTime>> {
    match record::open_regular(&directory.join(layout::TIMES))? {
        Some(file) => parse(&file),
        None => Ok(Vec::new()),
    }
}

fn text_of(times: &[LineTime]) -> String {
    let line = |time: &LineTime| format!("{} {}\n", time.offset, time.milliseconds);
    times.iter().map(line).collect()
}

/// The entries up to the first that is not complete and behind those before it, as after a power cut.
fn parse(file: &File) -> io::Result<Vec<LineTime>> {
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    let mut times: Vec<LineTime> = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(time) = parse_line(line) else { break };
        if times.last().is_some_and(|last| last.offset >= time.offset) {
            break;
        }
        times.push(time);
    }
    Ok(times)
}

fn parse_line(line: &[u8]) -> Option<LineTime> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (offset, milliseconds) = line.split_once(' ')?;
    Some(LineTime {
        offset: offset.parse().ok()?,
        milliseconds: milliseconds.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(offset: u64, milliseconds: i64) -> LineTime {
        LineTime {
            offset,
            milliseconds,
        }
    }

    #[test]
    fn times_close_to_the_one_before_are_left_out_and_a_clock_may_be_set_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut times = LineTimes::open(directory.path(), 0).unwrap();
        let given = [(0, 5_000), (3, 5_099), (9, 5_100), (9, 6_000), (12, 1_000)];
        let given = given.map(|(offset, at)| time(offset, at));
        times.add(&given).unwrap();
        let kept = [given[0], given[2], given[4]];
        assert_eq!(read(directory.path()).unwrap(), kept);
        // In a long log, entries are further from each other.
        let day = 86_400_000;
        times
            .add(&[time(20, day), time(21, day + 8_000), time(22, day + 9_000)])
            .unwrap();
        let offsets: Vec<u64> = read(directory.path())
            .unwrap()
            .iter()
            .map(|t| t.offset)
            .collect();
        assert_eq!(offsets, [0, 9, 12, 20, 22]);
    }

    #[test]
    fn output_that_is_read_once_more_is_timed_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let given: Vec<LineTime> = (0..100).map(|at| time(at, 1_000 * at as i64)).collect();
        LineTimes::open(path, 0).unwrap().add(&given).unwrap();
        // The log lost its end, or a power cut left something else.
        for torn in ["", "7", "7 7\n", "200 x\n", "\0\0\0\n"] {
            let file = path.join(layout::TIMES);
            let whole = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, whole + torn).unwrap();
            let mut times = LineTimes::open(path, 80).unwrap();
            assert_eq!(read(path).unwrap(), given[..80], "{torn:?}");
            times.add(&given).unwrap();
            assert_eq!(read(path).unwrap(), given, "{torn:?}");
        }
    }

    #[test]
    fn the_times_of_a_week_are_few() {
        let directory = tempfile::tempdir().unwrap();
        let mut times = LineTimes::open(directory.path(), 0).unwrap();
        for at in 0..7 * 86_400 {
            let piece = |part: u64| time(3 * at + part, (1_000 * at + 300 * part) as i64);
            times.add(&[piece(0), piece(1), piece(2)]).unwrap();
        }
        let count = read(directory.path()).unwrap().len();
        assert!((10_000..80_000).contains(&count), "{count}");
        assert!(times.bytes < MAX_BYTES / 2);
    }

    #[test]
    fn a_log_without_times_has_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).unwrap(), []);
    }
}
