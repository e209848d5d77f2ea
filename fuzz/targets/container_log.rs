//! The output of a container whose Engine leaves line ends out, entry by entry.
#![no_main]

use bytes::Bytes;
use mistry::docker::{Output, Stream};

/// Bytes of a full entry of an Engine's log.
const FULL: usize = 16 << 10;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // Each line is an entry: its first byte says of which stream, and whether it is filled up.
    let entries: Vec<Output> = data
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split_first())
        .map(|(kind, text)| {
            let mut bytes = match kind & 8 {
                0 => Vec::new(),
                _ => b"2026-11-24T05:06:07.123456789Z ".to_vec(),
            };
            let start = bytes.len();
            bytes.extend_from_slice(text);
            if kind & 2 != 0 {
                bytes.resize(start + FULL, b'x');
            }
            if kind & 4 != 0 {
                bytes.push(b'\n');
            }
            Output {
                stream: if kind & 1 == 0 {
                    Stream::Stdout
                } else {
                    Stream::Stderr
                },
                bytes: Bytes::from(bytes),
                at: None,
            }
        })
        .collect();
    let given: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
    let count = entries.len();
    for entry in &entries {
        mistry::docker::fuzzing::stamp(&entry.bytes);
    }
    let passed = mistry::docker::fuzzing::line_ends(entries).expect("nothing is waited for");
    let all: usize = passed.iter().map(|piece| piece.bytes.len()).sum();
    assert!(all <= given + count, "at most one line end for each entry");
    assert!(passed.iter().all(|piece| !piece.bytes.is_empty()));
});
