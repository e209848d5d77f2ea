//! `build_info.json`, the record of a build.
#![no_main]

use mistry::build::fuzzing::record;
use mistry::build::{Record};
use mistry::job::{State};

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let Ok(read) = serde_json::from_slice::<Record>(text) else {
        return;
    };
    let written = serde_json::to_vec_pretty(&read).expect("a record is JSON");
    let again: Record = serde_json::from_slice(&written).expect("what is written is read");
    assert_eq!(again, read);
    read.params();
    let project = "p".parse().expect("a name");
    for state in [State::Pending, State::Ready] {
        let mut record =
            record(text, &project, mistry::job::JobId::LAST, state).expect("it was one");
        record.info.abridge();
        let bytes: usize = record.info.params.values().flatten().map(|value| value.len()).sum();
        assert!(bytes <= text.len() + (64 << 10));
    }
});
