//! A log cut into the pieces that events carry, and put together again.
#![no_main]

use mistry::api::{LogPiece, LogPieces, decode};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (size, log) = data.split_first().unwrap_or((&0, &[]));
    // Some logs have lines that are longer than a piece.
    let log = match size % 8 {
        7 => log.repeat(200),
        _ => log.to_vec(),
    };
    let mut together = Vec::new();
    let mut end = 7;
    let mut hand = |piece: LogPiece<'_>| {
        assert!(!piece.bytes.is_empty() && piece.bytes.len() <= (64 << 10) + 1);
        end += piece.bytes.len() as u64;
        assert_eq!(piece.end, end);
        let text = piece.text();
        assert!(!text.contains('\r'), "it would end a field of an event");
        match piece.encoded() {
            Some(encoded) => together.extend(decode(encoded.as_bytes()).expect("base64")),
            None => {
                together.extend_from_slice(text.as_bytes());
                together.push(b'\n');
            }
        }
    };
    let mut pieces = LogPieces::new(7);
    for chunk in log.chunks(usize::from(*size).max(1) * 97) {
        pieces.push(chunk, &mut hand);
    }
    pieces.finish(hand);
    assert!(together == log, "all pieces are the log");
    decode(&log);
});
