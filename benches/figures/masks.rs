//! Secrets masked in output, in pieces as a container prints them.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use mistry::build::{Masker, Masks};

use crate::{Figure, median};

const OUTPUT_BYTES: usize = 64 << 20;
/// What a pipe passes at once, at most.
const PIECE_BYTES: usize = 64 << 10;
const ROUNDS: usize = 5;
const SECRETS: [(&str, &str); 4] = [
    ("_npm_token", "npm_3kQz8vT1nYwR5sLd0cXbH7uJ2mGfPa9eVo4i"),
    ("_password", "correct horse/battery+staple"),
    ("_key", "line one of a key\nline two of a key\n"),
    ("_id", "AKIAIOSFODNN7EXAMPLE"),
];

pub fn measure() -> Vec<Figure> {
    let clean = output(None);
    let full = output(Some(10));
    let (masks, names) = Masks::new(&BTreeMap::from(SECRETS));
    assert_eq!(names.masked.len(), SECRETS.len());
    let masks = masks.map(Arc::new);
    let masked = speed(&clean, || Masker::new(masks.clone()));
    let masked_full = speed(&full, || Masker::new(masks.clone()));
    let copied = speed(&clean, || Masker::new(None));
    let found = search(&clean);
    let figure = |name, value, against, against_value| {
        Figure::new(name, value, "MB/s", against, against_value)
    };
    vec![
        figure(
            "masking output without secrets",
            masked,
            "copying it",
            copied,
        ),
        figure(
            "masking output without secrets",
            masked,
            "aho-corasick, a search for the values",
            found,
        ),
        figure(
            "masking a secret in every tenth line",
            masked_full,
            "masking none",
            masked,
        ),
    ]
}

/// Lines as tools print them; a secret in each of so many lines.
fn output(secret_every: Option<usize>) -> Vec<u8> {
    let mut output = Vec::with_capacity(OUTPUT_BYTES + 200);
    for line in 0.. {
        if output.len() >= OUTPUT_BYTES {
            break;
        }
        let text = match secret_every {
            Some(every) if line % every == 0 => {
                let (_, secret) = SECRETS[line / every % SECRETS.len()];
                format!("GET https://registry.example/a?token={secret} 200\n")
            }
            _ => format!(
                "[{line:>7}/99999] npm http fetch GET 200 https://packages.example/package-{line} {}ms (cache miss)\n",
                line % 977
            ),
        };
        output.extend_from_slice(text.as_bytes());
    }
    output
}

/// Megabytes per second.
fn rate(bytes: usize, mut once: impl FnMut()) -> f64 {
    let rounds = (0..ROUNDS).map(|_| {
        let began = Instant::now();
        once();
        bytes as f64 / 1e6 / began.elapsed().as_secs_f64()
    });
    median(rounds.collect())
}

fn speed(output: &[u8], masker: impl Fn() -> Masker) -> f64 {
    let mut written = Vec::with_capacity(2 * PIECE_BYTES);
    rate(output.len(), || {
        let mut masker = masker();
        for piece in output.chunks(PIECE_BYTES) {
            written.clear();
            masker.push(black_box(piece), &mut written);
            black_box(&written);
        }
        written.clear();
        masker.finish(&mut written);
    })
}

/// The same automaton, which finds and replaces nothing.
fn search(output: &[u8]) -> f64 {
    let values = SECRETS.map(|(_, value)| value);
    let automaton = AhoCorasick::builder()
        .kind(Some(AhoCorasickKind::ContiguousNFA))
        .match_kind(MatchKind::Standard)
        .prefilter(false)
        .build(values)
        .unwrap();
    rate(output.len(), || {
        for piece in output.chunks(PIECE_BYTES) {
            black_box(automaton.find_overlapping_iter(black_box(piece)).count());
        }
    })
}
