//! `build_info.json`, the record of a build.
#![no_main]

use mistry::build::RecordFile;
use mistry::build::fuzzing::record;
use mistry::job::State;

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let Ok(read) = serde_json::from_slice::<RecordFile>(text) else {
        return;
    };
    let written = serde_json::to_vec_pretty(&read).expect("a record is JSON");
    let again: RecordFile = serde_json::from_slice(&written).expect("what is written is read");
    assert_eq!(again, read);
    let project = "p".parse().expect("a name");
    for state in [State::Pending, State::Ready] {
        let record =
            || record(text, &project, mistry::job::JobId::LAST, state).expect("it was one");
        record().params();
        // The document of the value says the same as the value.
        let view = record().info.view();
        let text = serde_json::to_vec(&view).expect("a document is JSON");
        let mut again =
            mistry::build::fuzzing::record(&text, &project, mistry::job::JobId::LAST, state)
                .expect("one");
        assert_eq!(again.info, record().info);
        again.info.abridge();
        let bytes: usize = again
            .info
            .params
            .values()
            .flatten()
            .map(|value| value.len())
            .sum();
        assert!(bytes <= text.len() + (64 << 10));
    }
});
