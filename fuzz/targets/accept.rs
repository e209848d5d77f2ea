//! `Accept` and `Accept-Encoding`, with their weights.
#![no_main]

libfuzzer_sys::fuzz_target!(|value: &[u8]| {
    let [accepts, prefers, _, _] = mistry::web::fuzzing::accepts(value);
    assert!(accepts || !prefers, "what is not accepted is not preferred");
    // A list means the same when each element stands in a line of its own order.
    let turned: Vec<&[u8]> = value.split(|byte| *byte == b',').rev().collect();
    assert_eq!(
        mistry::web::fuzzing::accepts(value),
        mistry::web::fuzzing::accepts(&turned.join(&b','))
    );
});
