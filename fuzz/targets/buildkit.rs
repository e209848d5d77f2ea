//! The answer of BuildKit to the request for an image: whatever it is, the log grows in proportion to it.
#![no_main]

libfuzzer_sys::fuzz_target!(|answer: &[u8]| {
    let text = mistry::docker::fuzzing::buildkit(answer);
    // A line of output may be one byte of its message, and begins with the number of its step.
    assert!(
        text.len() <= 16 * answer.len() + 64,
        "{} bytes of {}",
        text.len(),
        answer.len()
    );
});
