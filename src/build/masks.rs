//! Secrets in the output of a build, replaced by `***` on the way to its log.
//!
//! [`Masks`] holds the texts that are replaced, [`Masker`] is one stream of output. Bytes that belong to such a
//! text are replaced, and each run of such bytes is written as one `***`; so nothing is left of texts that
//! overlap. The result does not depend on how the output is cut into pieces: the bytes written so far are a
//! function of the bytes read so far. This is what lets a build that is followed again continue its log.
//!
//! Output that may be the beginning of a text is held back until it is clear whether it is one: never past the
//! end of a line, unless the text has several lines.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};

use super::secret_forms::{SecretForms, is_empty, is_short};

/// What stands in the log in place of a secret.
pub const MASK: &[u8] = b"***";

/// The texts that are masked in the output of a build.
pub struct Masks {
    nfa: NFA,
    start: StateID,
    /// For each state the length of the longest beginning of a text that the output ends with, without being
    /// the whole text.
    held: Vec<u32>,
}

impl fmt::Debug for Masks {
    /// Without the texts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masks").finish_non_exhaustive()
    }
}

/// Which of the secrets of a build are masked, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskedNames {
    /// Those that are masked.
    pub masked: Vec<String>,
    /// Those that are too long, or too many.
    pub unmasked: Vec<String>,
    /// Those that are too short: they are words of ordinary output. Empty ones are not listed.
    pub short: Vec<String>,
}

impl Masks {
    /// The masks of secrets, by name; `None` if no secret is masked.
    pub fn new(secrets: &BTreeMap<&str, &str>) -> (Option<Masks>, MaskedNames) {
        let mut names = MaskedNames::default();
        let mut forms = SecretForms::default();
        for (name, value) in secrets {
            if forms.add(value) {
                names.masked.push((*name).to_owned());
            } else if !is_short(value) {
                names.unmasked.push((*name).to_owned());
            } else if !is_empty(value) {
                names.short.push((*name).to_owned());
            }
        }
        let masks = Masks::of_texts(&forms.into_texts());
        if masks.is_none() {
            names.unmasked.append(&mut names.masked);
        }
        (masks, names)
    }

    /// The texts are sorted by length, and none is empty.
    pub(super) fn of_texts(texts: &[Vec<u8>]) -> Option<Masks> {
        if texts.is_empty() {
            return None;
        }
        // It fails only for more texts than any build has.
        let nfa = NFA::builder().match_kind(MatchKind::Standard).build(texts);
        let nfa = nfa.ok()?;
        let start = nfa.start_state(Anchored::No).ok()?;
        let step = |state, byte: &u8| nfa.next_state(Anchored::No, state, *byte);
        let mut held: Vec<u32> = Vec::new();
        let mut note = |state: StateID, length: u32| {
            let at = state.as_usize();
            held.resize(held.len().max(at + 1), 0);
            held[at] = held[at].max(length);
        };
        let mut wholes = Vec::new();
        for text in texts {
            let (last, beginning) = text.split_last()?;
            let mut state = start;
            for (byte, length) in beginning.iter().zip(1..) {
                state = step(state, byte);
                note(state, length);
            }
            let whole = step(state, last);
            note(whole, 0);
            wholes.push(whole);
        }
        // At the end of a text that no longer one begins with, the longest beginning is that of another text
        // within it. Shorter texts come first, so that theirs is known.
        for (text, whole) in texts.iter().zip(wholes) {
            if held[whole.as_usize()] == 0 {
                let within = text[1..].iter().fold(start, step);
                held[whole.as_usize()] = held.get(within.as_usize()).copied().unwrap_or(0);
            }
        }
        Some(Masks { nfa, start, held })
    }

    /// The length of the longest text that the output ends with; 0 for none.
    fn matched(&self, state: StateID) -> usize {
        match self.nfa.is_match(state) {
            // The first is the longest; the others are ends of it.
            true => self.nfa.pattern_len(self.nfa.match_pattern(state, 0)),
            false => 0,
        }
    }

    /// A text that is complete.
    pub fn mask(self: &Arc<Self>, text: &str) -> String {
        let mut masker = Masker::new(Some(self.clone()));
        let mut masked = Vec::new();
        masker.push(text.as_bytes(), &mut masked);
        masker.finish(&mut masked);
        String::from_utf8_lossy(&masked).into_owned()
    }
}

/// One stream of output while its secrets are masked.
#[derive(Debug)]
pub struct Masker {
    masks: Option<Arc<Masks>>,
    state: StateID,
    /// Bytes that were read and may be the beginning of a text.
    held: Vec<u8>,
    /// Positions in the stream: of the first held byte, and of the end of what was read.
    written: u64,
    read: u64,
    /// Parts from `written` on that are to be masked: sorted, apart from each other.
    covered: VecDeque<(u64, u64)>,
    /// The last written byte was masked.
    is_masking: bool,
}

impl Masker {
    /// A stream from its first byte; without masks it passes unchanged.
    pub fn new(masks: Option<Arc<Masks>>) -> Masker {
        Masker {
            state: masks.as_ref().map_or(StateID::ZERO, |masks| masks.start),
            masks,
            held: Vec::new(),
            written: 0,
            read: 0,
            covered: VecDeque::new(),
            is_masking: false,
        }
    }

    /// Reads the next bytes, and appends to `out` what can be written by now.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let Some(masks) = self.masks.clone() else {
            out.extend_from_slice(bytes);
            return;
        };
        let first = self.read;
        let mut state = self.state;
        for (at, byte) in bytes.iter().enumerate() {
            state = masks.nfa.next_state(Anchored::No, state, *byte);
            if masks.nfa.is_special(state) {
                let matched = masks.matched(state) as u64;
                if matched > 0 {
                    let end = first + at as u64 + 1;
                    self.cover(end - matched, end);
                }
            }
        }
        self.state = state;
        self.read += bytes.len() as u64;
        self.held.extend_from_slice(bytes);
        let held = masks.held.get(state.as_usize()).copied().unwrap_or(0);
        self.write_until(self.read - u64::from(held), out);
    }

    /// Appends what is left to `out`: the stream is over.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.write_until(self.read, out);
    }

    fn cover(&mut self, mut from: u64, to: u64) {
        while let Some((begun, end)) = self.covered.back().copied()
            && end >= from
        {
            from = from.min(begun);
            self.covered.pop_back();
        }
        self.covered.push_back((from, to));
    }

    /// No text that is still incomplete contains a byte before `until`.
    fn write_until(&mut self, until: u64, out: &mut Vec<u8>) {
        let begin = self.written;
        let at = |position: u64| usize::try_from(position - begin).unwrap_or(usize::MAX);
        while self.written < until {
            match self.covered.front().copied() {
                Some((from, to)) if from <= self.written => {
                    if !self.is_masking {
                        out.extend_from_slice(MASK);
                    }
                    self.is_masking = true;
                    self.written = to.min(until);
                    if to <= until {
                        self.covered.pop_front();
                    }
                }
                next => {
                    let end = next.map_or(until, |(from, _)| from.min(until));
                    out.extend_from_slice(&self.held[at(self.written)..at(end)]);
                    self.is_masking = false;
                    self.written = end;
                }
            }
        }
        self.held.drain(..at(self.written));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masks(texts: &[impl AsRef<[u8]>]) -> Option<Arc<Masks>> {
        let mut texts: Vec<Vec<u8>> = texts.iter().map(|text| text.as_ref().to_vec()).collect();
        texts.sort_by_key(Vec::len);
        Masks::of_texts(&texts).map(Arc::new)
    }

    /// What is written after each piece, and at the end.
    fn masked(masks: &Option<Arc<Masks>>, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut masker = Masker::new(masks.clone());
        let mut out = Vec::new();
        let mut after: Vec<Vec<u8>> = pieces
            .iter()
            .map(|piece| {
                masker.push(piece, &mut out);
                out.clone()
            })
            .collect();
        masker.finish(&mut out);
        assert!(masker.held.is_empty() && masker.covered.is_empty());
        after.push(out);
        after
    }

    fn steps(masks: &Option<Arc<Masks>>, pieces: &[&str]) -> Vec<String> {
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        let steps = masked(masks, &pieces).into_iter();
        steps.map(|step| String::from_utf8(step).unwrap()).collect()
    }

    /// Each byte of each occurrence of a text is masked, each run of them once.
    fn simple(texts: &[Vec<u8>], output: &[u8]) -> Vec<u8> {
        let mut covered = vec![false; output.len()];
        for text in texts {
            for at in 0..output.len() {
                if output[at..].starts_with(text) {
                    covered[at..at + text.len()].fill(true);
                }
            }
        }
        let mut out = Vec::new();
        for at in 0..output.len() {
            match (covered[at], at > 0 && covered[at - 1]) {
                (true, true) => {}
                (true, false) => out.extend_from_slice(MASK),
                (false, _) => out.push(output[at]),
            }
        }
        out
    }

    #[test]
    fn a_secret_that_is_cut_in_two_is_masked_and_only_its_beginning_is_held_back() {
        let masks = masks(&["hunter22", "two\nlines"]);
        for (pieces, written) in [
            (&["a hunter22 b"][..], &["a *** b", "a *** b"][..]),
            (&["hunter22"], &["***", "***"]),
            (&["a hunt", "er22 b"], &["a ", "a *** b", "a *** b"]),
            (&["a hunt", "ing"], &["a ", "a hunting", "a hunting"]),
            (
                &["a hunt\n", "er22"],
                &["a hunt\n", "a hunt\ner22", "a hunt\ner22"],
            ),
            (&["hunthunt", "er22"], &["hunt", "hunt***", "hunt***"]),
            (&["a hunter2"], &["a ", "a hunter2"]),
            (&["a two\n", "lines\n"], &["a ", "a ***\n", "a ***\n"]),
            (
                &["a two\n", "words\n"],
                &["a ", "a two\nwords\n", "a two\nwords\n"],
            ),
            (&["hunter22hunter22"], &["***", "***"]),
            (&["hunter22", "hunter22"], &["***", "***", "***"]),
            (&["", ""], &["", "", ""]),
        ] {
            assert_eq!(steps(&masks, pieces), written, "{pieces:?}");
        }
        assert_eq!(steps(&None, &["hunter22"]), ["hunter22", "hunter22"]);
    }

    #[test]
    fn nothing_is_left_of_secrets_that_overlap_or_contain_each_other() {
        let masks = masks(&["abcdef", "defghi", "xabcdefx", "aaaaaa", "aaaaaaaab"]);
        for (output, written) in [
            ("abcdefghi", "***"),
            ("-xabcdefx-", "-***-"),
            ("-xabcdef-", "-x***-"),
            ("aaaaaaaaaaac", "***c"),
            ("aaaaaaaaab", "***"),
            ("aaaaab", "aaaaab"),
        ] {
            let pieces: Vec<String> = output.chars().map(String::from).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            assert_eq!(steps(&masks, &pieces).last().unwrap(), written, "{output}");
            assert_eq!(
                steps(&masks, &[output]).last().unwrap(),
                written,
                "{output}"
            );
        }
    }

    #[test]
    fn names_say_what_is_masked_and_values_are_not_shown() {
        let secrets = BTreeMap::from([("_a", "hunter22"), ("_b", "short"), ("_c", "hunter22")]);
        let (masks, names) = Masks::new(&secrets);
        assert_eq!(names.masked, ["_a", "_c"]);
        assert_eq!(names.short, ["_b"]);
        assert!(names.unmasked.is_empty());
        let (_, names) = Masks::new(&BTreeMap::from([("_a", ""), ("_b", "\n")]));
        assert_eq!(names, MaskedNames::default());
        let long = "x".repeat((64 << 10) + 1);
        let (_, names) = Masks::new(&BTreeMap::from([("_a", "hunter22"), ("_long", &*long)]));
        assert_eq!(names.masked, ["_a"]);
        assert_eq!(names.unmasked, ["_long"]);
        let masks = Arc::new(masks.unwrap());
        assert_eq!(masks.mask("exec hunter22 failed"), "exec *** failed");
        assert!(!format!("{masks:?}").contains("hunter"));
        assert!(Masks::new(&BTreeMap::from([("_b", "x")])).0.is_none());
    }

    #[test]
    fn an_adversary_does_not_make_it_slow() {
        // Secrets and output for which a search that starts again at each byte takes a square of the time.
        let long = "a".repeat(32 << 10);
        let masks = masks(&[long.as_str(), "aaaaaa", &format!("{long}b")]);
        let began = std::time::Instant::now();
        let output = "a".repeat(1 << 20);
        assert_eq!(steps(&masks, &[&output]).last().unwrap(), "***");
        let pieces: Vec<&str> = vec!["a"; 1 << 16];
        let mut masker = Masker::new(masks);
        let mut out = Vec::new();
        for piece in pieces {
            masker.push(piece.as_bytes(), &mut out);
        }
        masker.finish(&mut out);
        assert_eq!(out, MASK);
        assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same_as_the_whole(
            texts in proptest::collection::btree_set("[ab\n]{1,5}", 1..6),
            output in "[abc\n]{0,60}",
            cuts in proptest::collection::vec(0_usize..8, 0..40),
        ) {
            let texts: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
            let masks = masks(&texts);
            let output = output.as_bytes();
            let expected = simple(&texts, output);
            let mut pieces = Vec::new();
            let mut rest = output;
            for cut in cuts {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            pieces.push(rest);
            let written = masked(&masks, &pieces);
            prop_assert_eq!(written.last(), Some(&expected));
            // What is written after each piece does not depend on the pieces before it.
            let mut read = 0;
            for (piece, written) in pieces.iter().zip(&written) {
                read += piece.len();
                let at_once = masked(&masks, &[&output[..read]]);
                prop_assert_eq!(written, &at_once[0]);
                prop_assert!(expected.starts_with(written));
            }
        }
    }
}
