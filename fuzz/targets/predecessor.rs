//! The records and answers of the first mistry: those without a state, an id or an outcome.
#![no_main]

use mistry::build::fuzzing::record;
use mistry::client::Finished;
use mistry::job::State;

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let id = mistry::job::JobId::FIRST;
    let project = "p".parse().expect("a name");
    if let Some(record) = record(text, &project, id, State::Ready) {
        assert!(
            record.info.outcome().is_some(),
            "a build that is over has an outcome"
        );
        assert_eq!((record.info.id, record.info.project.as_str()), (id, "p"));
        let opaque = record
            .info
            .params
            .iter()
            .filter(|(name, _)| name.starts_with('_'));
        assert!(
            opaque.clone().all(|(_, value)| value.is_none()),
            "opaque values are shown nowhere"
        );
    }
    let Ok(value) = serde_json::from_slice(text) else {
        return;
    };
    if let Ok(finished) = Finished::read(value)
        && finished.info.state == State::Ready
    {
        assert!(finished.info.outcome.is_some());
    }
});
