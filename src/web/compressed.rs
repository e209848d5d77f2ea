//! The bytes of a source, compressed with zstd.

use std::io;

use zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, get_error_name};

use crate::budget::Held;
use crate::pipe::{CHUNK, More, Source};

/// The fastest level: artifacts are sent once, and the network is rarely faster than that.
const LEVEL: i32 = 1;
/// Steps of one call, which may produce no output for data that compresses well: half a megabyte is read.
const MAX_STEPS: usize = 16;

/// A source whose bytes are compressed.
pub(super) struct Compressed<S> {
    source: S,
    encoder: CCtx<'static>,
    /// The bytes that were read, and how many of them the encoder has taken.
    plain: Vec<u8>,
    taken: usize,
    is_read: bool,
    _held: Held,
}

impl<S> Compressed<S> {
    /// Bytes that are held for a client besides the source: the encoder at this level, and a chunk.
    pub(super) const BYTES: u64 = (1536 + 64) << 10;

    /// `held` counts [`Compressed::BYTES`].
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(super) fn new(source: S, held: Held) -> io::Result<Compressed<S>> {
        let mut encoder = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        let level = CParameter::CompressionLevel(LEVEL);
        encoder.set_parameter(level).map_err(failed)?;
        Ok(Compressed {
            source,
            encoder,
            plain: Vec::new(),
            taken: 0,
            is_read: false,
            _held: held,
        })
    }
}

fn failed(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}

impl<S: Source> Source for Compressed<S> {
    fn fill(&mut self, to: &mut Vec<u8>) -> io::Result<More> {
        to.reserve(CHUNK);
        for _ in 0..MAX_STEPS {
            // The encoder writes into the capacity after the existing bytes.
            let before = to.len();
            if before == to.capacity() {
                break;
            }
            if self.taken < self.plain.len() {
                let mut output = OutBuffer::around_pos(to, before);
                let mut input = InBuffer::around(&self.plain[self.taken..]);
                let done = self.encoder.compress_stream(&mut output, &mut input);
                done.map_err(failed)?;
                self.taken += input.pos();
            } else if self.is_read {
                let mut output = OutBuffer::around_pos(to, before);
                if self.encoder.end_stream(&mut output).map_err(failed)? == 0 {
                    return Ok(More::No);
                }
            } else {
                self.plain.clear();
                self.taken = 0;
                self.is_read = self.source.fill(&mut self.plain)? == More::No;
            }
        }
        Ok(More::Yes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::budget::{Budget, Client};

    /// Bytes, a chunk at a time.
    struct Chunks(Vec<u8>);

    impl Source for Chunks {
        fn fill(&mut self, to: &mut Vec<u8>) -> io::Result<More> {
            let rest = self.0.split_off(self.0.len().min(CHUNK));
            to.append(&mut std::mem::replace(&mut self.0, rest));
            Ok(if self.0.is_empty() {
                More::No
            } else {
                More::Yes
            })
        }
    }

    #[test]
    fn compressed_bytes_decompress_to_the_input_and_take_only_counted_memory() {
        // Half of the data compresses well, half of it does not.
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let mut bytes = vec![7; 3 << 20];
        bytes.extend((0..3 << 20).map(|_| random()));
        for plain in [Vec::new(), b"short".to_vec(), bytes] {
            let held = Budget::new(1 << 30, 0).hold(Client::Proxy, 1).unwrap();
            let mut compressed = Compressed::new(Chunks(plain.clone()), held).unwrap();
            let (mut got, mut most) = (Vec::new(), 0);
            loop {
                let mut chunk = Vec::with_capacity(CHUNK);
                let more = compressed.fill(&mut chunk).unwrap();
                assert!(chunk.len() <= CHUNK);
                got.append(&mut chunk);
                let taken = compressed.encoder.sizeof() + compressed.plain.capacity();
                most = most.max(taken as u64);
                if more == More::No {
                    break;
                }
            }
            assert!(most <= Compressed::<Chunks>::BYTES, "{most}");
            let mut read = Vec::new();
            let mut decoder = zstd::Decoder::new(&got[..]).unwrap();
            decoder.read_to_end(&mut read).unwrap();
            assert!(read == plain);
        }
    }
}
