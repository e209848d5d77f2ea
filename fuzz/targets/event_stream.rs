//! Server-sent events, as the client reads them.
#![no_main]

use mistry::client::fuzzing::events;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (size, stream) = data.split_first().unwrap_or((&0, &[]));
    let whole = events(std::iter::once(stream));
    let pieces = events(stream.chunks(usize::from(*size).max(1)));
    assert!(
        whole == pieces,
        "events are the same however the stream is cut"
    );
    let bytes: usize = whole.iter().map(|event| event.data.len()).sum();
    // What is no UTF-8 takes three bytes for one.
    assert!(bytes <= 3 * stream.len());
    for event in whole {
        assert!(!event.name.is_empty() && !event.name.contains(['\n', '\r']));
        let _ = (event.state(), event.result(), event.end());
        event.log_bytes();
    }
});
