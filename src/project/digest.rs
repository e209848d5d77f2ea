//! SHA-256 digests, of bytes and of what passes through a reader.

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

/// A SHA-256, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// Wraps what a hasher returned.
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        match hex::encode_to_slice(self.0, &mut digits) {
            Ok(()) => f.write_str(std::str::from_utf8(&digits).unwrap_or_default()),
            Err(_) => Err(fmt::Error),
        }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A reader that hashes what passes through.
pub(super) struct Hashing<R> {
    from: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R> Hashing<R> {
    pub(super) fn new(from: R) -> Hashing<R> {
        Hashing {
            from,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }

    /// How many bytes have passed, and their digest.
    pub(super) fn finish(self) -> (u64, Digest) {
        (self.bytes, Digest(self.hasher.finalize().into()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        self.hasher.update(&into[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}
