//! A path as patterns match it: its bytes, and its characters as Go decodes them.

use std::cell::OnceCell;

/// A path relative to the project, for matching.
#[derive(Debug)]
pub(super) struct PathText<'a> {
    bytes: &'a [u8],
    letters: OnceCell<Vec<char>>,
}

impl<'a> PathText<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> PathText<'a> {
        PathText {
            bytes,
            letters: OnceCell::new(),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes
    }

    pub(super) fn letters(&self) -> &[char] {
        self.letters.get_or_init(|| decode(self.bytes))
    }
}

/// Decodes UTF-8 as Go does: each byte that belongs to no character is one U+FFFD.
pub(super) fn decode(bytes: &[u8]) -> Vec<char> {
    let mut letters = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        letters.extend(chunk.valid().chars());
        letters.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    letters
}
