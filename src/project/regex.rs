//! The regular expressions that patterns of `.dockerignore` are translated into, as programs.
//!
//! A program runs in time that is linear in the length of the path. Repetitions are expanded, so a short
//! expression may take much memory; the programs of one file together take at most [`MAX_MEMORY_BYTES`].

use std::sync::Arc;

use super::path_text::PathText;

/// A set of characters.
#[derive(Clone, Debug)]
pub(super) enum Set {
    One(u32),
    NotNewline,
    /// Shared between repetitions.
    Ranges {
        ranges: Arc<[(u32, u32)]>,
        is_negated: bool,
    },
}

impl Set {
    fn has(&self, letter: char) -> bool {
        match self {
            Set::One(one) => *one == u32::from(letter),
            Set::NotNewline => letter != '\n',
            Set::Ranges { ranges, is_negated } => {
                let number = u32::from(letter);
                let is_in = ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&number));
                is_in != *is_negated
            }
        }
    }
}

/// A condition on the position between two characters.
#[derive(Clone, Copy, Debug)]
pub(super) enum Assertion {
    Begin,
    End,
    WordBoundary,
    NoWordBoundary,
}

impl Assertion {
    fn holds(self, letters: &[char], at: usize) -> bool {
        let is_word = |letter: Option<&char>| {
            letter.is_some_and(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
        };
        let is_boundary = || {
            let before = at.checked_sub(1).and_then(|before| letters.get(before));
            is_word(before) != is_word(letters.get(at))
        };
        match self {
            Assertion::Begin => at == 0,
            Assertion::End => at == letters.len(),
            Assertion::WordBoundary => is_boundary(),
            Assertion::NoWordBoundary => !is_boundary(),
        }
    }
}

/// A step of a program.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// One character of the set.
    One(Set),
    /// Any number of characters of the set.
    Many(Set),
    /// This many of the following steps may be skipped.
    Skip(usize),
    Assert(Assertion),
}

impl Step {
    /// The number of its character ranges.
    pub(super) fn count_ranges(&self) -> usize {
        match self {
            Step::One(Set::Ranges { ranges, .. }) | Step::Many(Set::Ranges { ranges, .. }) => {
                ranges.len()
            }
            _ => 0,
        }
    }
}

/// Most bytes for all patterns of one file. The longest expression that Go accepts fits.
pub(super) const MAX_MEMORY_BYTES: usize = 128 << 20;

/// Bytes still available to patterns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory(usize);

/// The patterns need more memory than is available.
#[derive(Debug)]
pub(super) struct MemoryExceeded;

impl Memory {
    pub(super) fn new(bytes: usize) -> Memory {
        Memory(bytes)
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<(), MemoryExceeded> {
        self.0 = self.0.checked_sub(bytes).ok_or(MemoryExceeded)?;
        Ok(())
    }
}

/// One alternative of a regular expression, run over a path on all its branches at once.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) steps: Box<[Step]>,
    /// It matches only from the start of a path.
    is_anchored: bool,
    /// The suffix of every path that matches; most other paths are rejected by it.
    ending: String,
}

impl Program {
    pub(super) fn new(steps: Vec<Step>) -> Program {
        let mut ending = Vec::new();
        if let [steps @ .., Step::Assert(Assertion::End)] = &steps[..] {
            for (at, step) in steps.iter().enumerate().rev() {
                let is_optional = steps[..at]
                    .iter()
                    .rev()
                    .take(2)
                    .any(|step| matches!(step, Step::Skip(_)));
                match step {
                    Step::One(Set::One(number)) if !is_optional => match char::from_u32(*number) {
                        None | Some(char::REPLACEMENT_CHARACTER) => break,
                        Some(letter) => ending.push(letter),
                    },
                    _ => break,
                }
            }
        }
        Program {
            ending: ending.into_iter().rev().collect(),
            is_anchored: matches!(steps.first(), Some(Step::Assert(Assertion::Begin))),
            steps: steps.into(),
        }
    }

    pub(super) fn matches(&self, name: &PathText<'_>) -> bool {
        if !name.bytes().ends_with(self.ending.as_bytes()) {
            return false;
        }
        let letters = name.letters();
        let mut now = Vec::new();
        let mut next = Vec::new();
        // The character at which a step was last reached; each is followed once.
        let mut reached = vec![usize::MAX; self.steps.len()];
        for at in 0..=letters.len() {
            if (at == 0 || !self.is_anchored) && self.reach(0, letters, at, &mut now, &mut reached)
            {
                return true;
            }
            let Some(letter) = letters.get(at) else {
                break;
            };
            for step in now.drain(..) {
                let follows = match &self.steps[step] {
                    Step::One(set) if set.has(*letter) => step + 1,
                    Step::Many(set) if set.has(*letter) => step,
                    _ => continue,
                };
                if self.reach(follows, letters, at + 1, &mut next, &mut reached) {
                    return true;
                }
            }
            if next.is_empty() && self.is_anchored {
                return false;
            }
            std::mem::swap(&mut now, &mut next);
        }
        false
    }

    /// Adds the steps reachable from `step` at a character; true when the end is reached.
    fn reach(
        &self,
        step: usize,
        letters: &[char],
        at: usize,
        into: &mut Vec<usize>,
        reached: &mut [usize],
    ) -> bool {
        let mut open = vec![step];
        while let Some(step) = open.pop() {
            let Some(what) = self.steps.get(step) else {
                return true;
            };
            if reached[step] == at {
                continue;
            }
            reached[step] = at;
            match what {
                Step::One(_) => into.push(step),
                Step::Many(_) => {
                    into.push(step);
                    open.push(step + 1);
                }
                Step::Skip(count) => open.extend([step + 1, step + 1 + count]),
                Step::Assert(assertion) => {
                    if assertion.holds(letters, at) {
                        open.push(step + 1);
                    }
                }
            }
        }
        false
    }
}
