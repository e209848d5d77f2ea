//! Secrets in the output of a build: however the output is cut, the result is the same, and no secret is left.
#![no_main]

use mistry::build::fuzzing::{is_masked, masked};

/// Separates secrets and pieces.
const NEXT: u8 = 0xfe;
/// Separates the secrets from the output.
const OUTPUT: u8 = 0xff;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut halves = data.splitn(2, |byte| *byte == OUTPUT);
    let secrets = halves
        .next()
        .unwrap_or_default()
        .split(|byte| *byte == NEXT);
    let secrets: Vec<String> = secrets
        .map(|secret| String::from_utf8_lossy(secret).into_owned())
        .collect();
    let pieces = halves
        .next()
        .unwrap_or_default()
        .split(|byte| *byte == NEXT);
    // A piece of one byte is a whole secret, so that there is something to mask.
    let pieces: Vec<&[u8]> = pieces
        .map(|piece| match piece {
            [at] => secrets[usize::from(*at) % secrets.len()].as_bytes(),
            piece => piece,
        })
        .collect();
    let whole = pieces.concat();
    let at_once = masked(&secrets, &[&whole]);
    assert_eq!(masked(&secrets, &pieces), at_once);
    let bytes: Vec<&[u8]> = whole.chunks(1).collect();
    assert_eq!(masked(&secrets, &bytes), at_once);
    for secret in secrets.iter().filter(|secret| is_masked(secret)) {
        let secret = secret.trim_matches(['\n', '\r']).as_bytes();
        // The mask beside other bytes may look like a secret that has its letters in it.
        if !secret.contains(&b'*') {
            assert!(!at_once.windows(secret.len()).any(|part| part == secret));
        }
    }
});
