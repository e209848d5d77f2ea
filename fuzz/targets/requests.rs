//! The JSON bodies of `POST /jobs`, `POST /job/P/ID/cancel` and `POST /gc`.
#![no_main]

use mistry::api::{CancelRequest, GcRequest, JobRequest, MAX_REASON};
use mistry::job::MAX_PARAMS;

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let check = |error: serde_json::Error| {
        let sentence = error.to_string();
        assert!(!sentence.is_empty());
    };
    match JobRequest::read(body) {
        Ok(request) => {
            let written = serde_json::to_vec(&request).expect("a request is JSON");
            assert_eq!(
                JobRequest::read(&written).expect("what is written is read"),
                request
            );
            assert!(request.params.len() <= MAX_PARAMS);
            let count = request.params.len();
            if let Ok(named) = request.names() {
                assert_eq!(named.params.len(), count, "no two params have one name");
            }
        }
        Err(error) => check(error),
    }
    match CancelRequest::read(body) {
        Ok(request) => {
            if let Some(reason) = request.reason() {
                assert!(reason.len() <= MAX_REASON && !reason.contains(char::is_control));
            }
        }
        Err(error) => check(error),
    }
    match GcRequest::read(body) {
        Ok(request) => {
            let written = serde_json::to_vec(&request).expect("a request is JSON");
            assert_eq!(
                GcRequest::read(&written).expect("what is written is read"),
                request
            );
        }
        Err(error) => check(error),
    }
});
