//! A log as lines: as a reader sees them, where they begin, and which hold a text. The text is the first
//! line, the log the rest.
#![no_main]

use std::io::Read;
use std::sync::atomic::AtomicBool;

use mistry::build::lines::{Needle, find, index, misleads, readable};

/// A log that comes a few bytes at a time.
struct Slow<'a>(&'a [u8], usize);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.1.min(buffer.len());
        self.0.read(&mut buffer[..length])
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let end = data
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(data.len());
    let (text, log) = data.split_at(end);
    let log = log.get(1..).unwrap_or_default();

    let shown = readable(&String::from_utf8_lossy(log));
    for letter in shown.chars() {
        let is_plain = matches!(letter, '\n' | '\t') || !letter.is_control() && !misleads(letter);
        assert!(is_plain, "{letter:?} in {shown:?}");
    }
    assert_eq!(readable(&shown), shown, "what is plain stays as it is");

    let stop = AtomicBool::new(false);
    let length = log.len() as u64;
    let step = 1 + log.first().map_or(0, |byte| usize::from(byte % 7));
    let found = index(log, length, &stop).expect("memory is read");
    assert_eq!(
        found,
        index(Slow(log, step), length, &stop).expect("memory is read")
    );
    assert_eq!(found.length, length);
    assert!(
        found.offsets.len() == found.firsts.len() && found.offsets.len() == found.colours.len()
    );
    for (offset, colours) in found.offsets.iter().zip(&found.colours) {
        let at = usize::try_from(*offset).expect("of memory");
        assert!(
            at == 0 || log[at - 1] == b'\n',
            "{at} is where no line begins"
        );
        let is_parameter = |byte: u8| byte.is_ascii_digit() || byte == b';';
        assert!(
            colours.len() <= 64 && colours.bytes().all(is_parameter),
            "{colours:?}"
        );
    }

    let Ok(needle) = String::from_utf8_lossy(text).parse::<Needle>() else {
        return;
    };
    let found = find(log, length, &needle, &stop).expect("memory is read");
    assert_eq!(
        found,
        find(Slow(log, step), length, &needle, &stop).expect("memory is read")
    );
    let lines = log.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
    assert!(found.count <= lines && found.matches.len() as u64 <= found.count);
    for place in &found.matches {
        let at = usize::try_from(place.offset).expect("of memory");
        assert!(at == 0 || log[at - 1] == b'\n');
        let before = log[..at].iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(before as u64, place.line);
    }
});
