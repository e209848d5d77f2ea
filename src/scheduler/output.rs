//! A container's output on its way to the log: without the secrets of the build.
//!
//! Each stream is masked by itself, so a secret is recognised also where the other stream was written in its
//! middle. What the log gets is a function of the output: when a container is followed again, its output is
//! masked from the beginning, and as many bytes as the log already has are skipped.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::interruption::Interruption;
use super::shared::keep_tail;
use super::stop;
use crate::build::{BuildLog, LineTime, MIN_SECRET, MaskedNames, Masker, Masks};
use crate::docker::{Output, Stream};

/// Names of params that the log lists at most.
const MAX_LISTED_NAMES: usize = 20;

/// The output of one container, from its first byte.
pub(super) struct MaskedOutput {
    stdout: Masker,
    stderr: Masker,
    /// Bytes that the log has, and that were not passed yet.
    known: u64,
    /// The byte of the log at which the next one belongs.
    at: u64,
    /// Where standard error is in the log, since this was last taken.
    stderr_ranges: Vec<Range<u64>>,
    /// When the output was written, since this was last taken.
    times: Vec<LineTime>,
}

impl MaskedOutput {
    /// Nothing is read yet; the log has `known` bytes of the masked output, from byte `at` on.
    pub(super) fn new(masks: Option<Arc<Masks>>, known: u64, at: u64) -> MaskedOutput {
        MaskedOutput {
            stdout: Masker::new(masks.clone()),
            stderr: Masker::new(masks),
            known,
            at,
            stderr_ranges: Vec::new(),
            times: Vec::new(),
        }
    }

    /// Reads a piece. What can be written by now is appended to `log`, and that of standard error to
    /// `stderr`, of which the end is kept.
    pub(super) fn pass(&mut self, piece: &Output, log: &mut Vec<u8>, stderr: &mut Vec<u8>) {
        let mut written = Vec::new();
        if let Some(at) = piece.at {
            self.times.push(LineTime::new(self.at, at));
        }
        match piece.stream {
            Stream::Stdout => self.stdout.push(&piece.bytes, &mut written),
            Stream::Stderr => {
                self.stderr.push(&piece.bytes, &mut written);
                keep_tail(stderr, &written);
            }
        }
        self.write(piece.stream, &written, log);
    }

    /// Writes what was held back: the output is over.
    pub(super) fn finish(&mut self, log: &mut Vec<u8>, stderr: &mut Vec<u8>) {
        let mut written = Vec::new();
        self.stdout.finish(&mut written);
        self.write(Stream::Stdout, &written, log);
        written.clear();
        self.stderr.finish(&mut written);
        keep_tail(stderr, &written);
        self.write(Stream::Stderr, &written, log);
    }

    /// Where standard error is in the log: of what was passed since the last call, in order.
    pub(super) fn take_stderr_ranges(&mut self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.stderr_ranges)
    }

    /// When the output that was passed since the last call was written, in the order of the log; also of what
    /// the log has already.
    pub(super) fn take_times(&mut self) -> Vec<LineTime> {
        std::mem::take(&mut self.times)
    }

    fn write(&mut self, stream: Stream, written: &[u8], log: &mut Vec<u8>) {
        let length = written.len() as u64;
        if stream == Stream::Stderr && length > 0 {
            self.stderr_ranges.push(self.at..self.at + length);
        }
        self.at += length;
        // It is at most the length of the bytes, which are in memory.
        let known = self.known.min(length);
        self.known -= known;
        log.extend_from_slice(&written[known as usize..]);
    }
}

/// Writes the output of an image build to the log, without the secrets of the build, until the log has `limit`
/// bytes.
pub(super) async fn log_image_build(
    log: &mut BuildLog,
    masks: Option<Arc<Masks>>,
    mut pieces: mpsc::Receiver<Bytes>,
    limit: u64,
) -> Result<(), Interruption> {
    let mut masker = Masker::new(masks);
    let mut is_over = false;
    while !is_over {
        let mut written = Vec::new();
        match pieces.recv().await {
            Some(piece) => masker.push(&piece, &mut written),
            None => {
                masker.finish(&mut written);
                is_over = true;
            }
        }
        let room = limit.saturating_sub(log.bytes());
        let fits = usize::try_from(room).unwrap_or(usize::MAX);
        let fits = fits.min(written.len());
        let appended = log.append(&written[..fits]).await;
        appended.map_err(Interruption::Log)?;
        if fits < written.len() {
            return Err(Interruption::Stopped(stop::log_limit_exceeded(limit)));
        }
    }
    Ok(())
}

/// The first lines of a log: which params are masked in it, and which are too long or too short for that.
pub(super) fn masked_note(names: &MaskedNames) -> String {
    let list = |names: &[String]| {
        let shown = names.iter().take(MAX_LISTED_NAMES).cloned();
        let mut shown: Vec<String> = shown.collect();
        if names.len() > MAX_LISTED_NAMES {
            shown.push(format!("and {} others", names.len() - MAX_LISTED_NAMES));
        }
        shown.join(", ")
    };
    let mut note = String::new();
    if !names.masked.is_empty() {
        note.push_str(&format!(
            "mistry: masked in this log: {}\n",
            list(&names.masked)
        ));
    }
    if !names.unmasked.is_empty() {
        let unmasked = list(&names.unmasked);
        note.push_str(&format!(
            "mistry: not masked in this log, because too long: {unmasked}\n"
        ));
    }
    if !names.short.is_empty() {
        let short = list(&names.short);
        note.push_str(&format!(
            "mistry: not masked in this log, because shorter than {MIN_SECRET} bytes: {short}\n"
        ));
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_not_all_listed() {
        let name = |at: usize| format!("_{at}");
        let names = MaskedNames {
            masked: (0..30).map(name).collect(),
            unmasked: vec!["_key".to_owned()],
            short: vec!["_pw".to_owned()],
        };
        let note = masked_note(&names);
        assert!(
            note.starts_with("mistry: masked in this log: _0, _1, "),
            "{note}"
        );
        assert!(note.contains(", _19, and 10 others\n"), "{note}");
        let unmasked = "mistry: not masked in this log, because too long: _key\n\
            mistry: not masked in this log, because shorter than 6 bytes: _pw\n";
        assert!(note.ends_with(unmasked), "{note}");
        assert_eq!(masked_note(&MaskedNames::default()), "");
    }
}
