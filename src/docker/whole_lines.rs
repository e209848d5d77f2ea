//! Joins the pieces of lines that podman reads, so that a line of one output does not end up within a line of the
//! other.
//!
//! Docker stores a line when it is complete, or 16 KiB of it. podman stores whatever it has read from a pipe, and
//! so its log has pieces of lines of both outputs in turn. The same pieces give the same lines, in the same order.

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use super::output::{Output, Stream};

/// Bytes of a line that are held until it is complete; as many as Docker holds.
const MAX_HELD: usize = 16 << 10;

/// The lines that are not complete.
#[derive(Debug, Default)]
pub(super) struct WholeLines {
    streams: [OpenLine; 2],
}

#[derive(Debug, Default)]
struct OpenLine {
    bytes: BytesMut,
    /// When its first piece was written.
    at: Option<Timestamp>,
}

impl WholeLines {
    /// Takes a piece, and returns the lines that are complete with it.
    pub(super) fn pass(&mut self, piece: Output) -> Option<Output> {
        let open = &mut self.streams[piece.stream as usize];
        if open.bytes.is_empty() {
            open.at = piece.at;
        }
        open.bytes.extend_from_slice(&piece.bytes);
        let line_end = piece.bytes.iter().rposition(|byte| *byte == b'\n');
        let rest = match line_end {
            Some(at) => piece.bytes.len() - at - 1,
            None => open.bytes.len(),
        };
        let rest = if rest < MAX_HELD { rest } else { 0 };
        let complete = open.bytes.split_to(open.bytes.len() - rest).freeze();
        let output = output(piece.stream, complete, open.at);
        open.at = piece.at;
        output
    }

    /// The lines that have no end, after the last piece.
    pub(super) fn finish(mut self) -> impl Iterator<Item = Output> {
        [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .filter_map(move |stream| {
                let open = std::mem::take(&mut self.streams[stream as usize]);
                output(stream, open.bytes.freeze(), open.at)
            })
    }
}

fn output(stream: Stream, bytes: Bytes, at: Option<Timestamp>) -> Option<Output> {
    (!bytes.is_empty()).then_some(Output { stream, bytes, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(stream: Stream, bytes: &[u8]) -> Output {
        Output {
            stream,
            bytes: Bytes::copy_from_slice(bytes),
            at: None,
        }
    }

    #[test]
    fn a_line_that_was_read_in_pieces_is_whole_and_no_byte_is_lost() {
        use Stream::{Stderr, Stdout};
        let mut lines = WholeLines::default();
        let long = vec![b'x'; MAX_HELD];
        let pieces: [(Stream, &[u8]); 7] = [
            (Stdout, b"one\ntw"),
            (Stderr, b"error\nopen"),
            (Stdout, b"o"),
            (Stdout, b"\nthree\n"),
            (Stdout, &long),
            (Stderr, b"\n"),
            (Stdout, b"rest"),
        ];
        let mut found: Vec<Output> = pieces
            .into_iter()
            .filter_map(|(stream, bytes)| lines.pass(piece(stream, bytes)))
            .collect();
        found.extend(lines.finish());
        let expected: [(Stream, &[u8]); 6] = [
            (Stdout, b"one\n"),
            (Stderr, b"error\n"),
            (Stdout, b"two\nthree\n"),
            (Stdout, &long),
            (Stderr, b"open\n"),
            (Stdout, b"rest"),
        ];
        assert_eq!(
            found,
            expected
                .map(|(stream, bytes)| piece(stream, bytes))
                .to_vec()
        );
    }
}
