//! Restores line ends that Engines before 23.0 leave out of a container's output.
//!
//! Engines cut lines into entries of 16 KiB at most. The `local` log driver of those before API 1.42 returns
//! the last entry of such a line without its line end, and where the line is a multiple of 16 KiB, that entry
//! is empty and does not appear at all. (Version 23.0 of the Engine fixes that.) The line ends can be derived
//! from the entries:
//!
//! - Each entry begins with its time, because times are requested, so the empty ones are visible, too.
//! - An entry without a line end after which the line continues is full. So an entry that is not full, after
//!   a full one, ends either its line or the whole output of its stream.
//! - If more output of its stream follows, it ended the line.
//!
//! Only at the end of a stream both are possible. There the number of bytes of the stream decides: the same
//! output is read a second time by attaching to the container before it is started, and these bytes are
//! counted and dropped. Without a count, because the daemon was started after the container, a line end is
//! assumed: most programs end their last line.

use bytes::Bytes;

use super::counter::Counter;
use super::engine::Docker;
use super::output::{Output, Stream};

/// Bytes of the largest entry of a log: the buffer of the Engine's log copier.
const MAX_ENTRY_BYTES: usize = 16 << 10;

/// Inserts missing line ends while the entries of a log pass.
#[derive(Debug, Default)]
pub(super) struct LineEnds {
    counter: Option<Counter>,
    streams: [StreamPosition; 2],
}

/// The state of a stream.
#[derive(Clone, Copy, Debug, Default)]
struct StreamPosition {
    /// Bytes that were passed on.
    bytes: u64,
    at: At,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// After a line end, or at an unknown position.
    #[default]
    Begin,
    /// After a full entry, whose line continues.
    Inside,
    /// After the last entry of a line, or of the stream.
    End,
}

impl LineEnds {
    /// Starts at the first entry; `counter` has counted from the first byte.
    pub(super) fn new(counter: Option<Counter>) -> LineEnds {
        LineEnds {
            counter,
            streams: Default::default(),
        }
    }

    /// The output that an entry stands for, given without its time prefix: its own bytes, preceded by a
    /// missing line end of its own stream or of the other one.
    pub(super) async fn pass(&mut self, entry: Output) -> Vec<Output> {
        let mut output = self.close(Some(entry.stream)).await;
        let bytes = &entry.bytes;
        let position = &mut self.streams[entry.stream as usize];
        let was_inside = position.at == At::Inside;
        position.bytes += bytes.len() as u64;
        position.at = match bytes.len() {
            _ if bytes.ends_with(b"\n") => At::Begin,
            MAX_ENTRY_BYTES => At::Inside,
            _ if was_inside => At::End,
            _ => At::Begin,
        };
        let is_empty = bytes.is_empty();
        if !is_empty {
            output.push(entry);
        } else if position.at == At::End {
            // Only a line end makes an empty entry.
            output.push(self.end_line(entry.stream));
        }
        output
    }

    /// The missing line ends after the last entries.
    pub(super) async fn finish(&mut self) -> Vec<Output> {
        self.close(None).await
    }

    /// Ends the lines that ended before an entry of stream `next` came, or before the end of both streams.
    async fn close(&mut self, next: Option<Stream>) -> Vec<Output> {
        let mut ends = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let StreamPosition { bytes, at } = self.streams[stream as usize];
            if at != At::End {
                continue;
            }
            let is_line = match &mut self.counter {
                _ if next == Some(stream) => true,
                Some(counter) => counter.has_other_count_than(stream, bytes).await,
                None => true,
            };
            if is_line {
                ends.push(self.end_line(stream));
            } else {
                self.streams[stream as usize].at = At::Begin;
            }
        }
        ends
    }

    fn end_line(&mut self, stream: Stream) -> Output {
        let position = &mut self.streams[stream as usize];
        position.bytes += 1;
        position.at = At::Begin;
        Output {
            stream,
            bytes: Bytes::from_static(b"\n"),
            // That of the entry that it ends.
            at: None,
        }
    }
}

impl Docker {
    /// Begins to count the output of a container, if that will be needed; it must not be started yet.
    pub(super) async fn count_output(&self, container: &str) {
        let Some(client) = self.negotiated().filter(|_| self.leaves_line_ends_out()) else {
            return;
        };
        if let Some(counter) = Counter::begin(&client, container).await {
            self.counters().insert(container.to_owned(), counter);
        }
    }

    /// The counter of a container's output.
    pub(super) fn counter(&self, container: &str) -> Option<Counter> {
        self.counters().get(container).cloned()
    }

    /// Drops the counter of a container.
    pub(super) fn forget_output(&self, container: &str) {
        self.counters().remove(container);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries that an Engine with the defect makes of a stream, as its log copier does.
    fn entries(stream: Stream, mut bytes: &[u8]) -> Vec<Output> {
        let mut entries = Vec::new();
        let mut is_inside = false;
        while !bytes.is_empty() {
            let room = &bytes[..bytes.len().min(MAX_ENTRY_BYTES)];
            let line = room.iter().position(|byte| *byte == b'\n');
            let (entry, taken) = match line {
                Some(at) if is_inside => (&bytes[..at], at + 1),
                Some(at) => (&bytes[..=at], at + 1),
                None => (room, room.len()),
            };
            is_inside = line.is_none();
            bytes = &bytes[taken..];
            entries.push(Output {
                stream,
                bytes: entry.to_vec().into(),
                at: None,
            });
        }
        entries
    }

    fn counter(stdout: usize, stderr: usize) -> Option<Counter> {
        Some(Counter::ended(stdout as u64, stderr as u64))
    }

    async fn restored(entries: Vec<Output>, counter: Option<Counter>) -> Vec<u8> {
        let mut ends = LineEnds::new(counter);
        let mut all = Vec::new();
        for entry in entries {
            all.extend(ends.pass(entry).await);
        }
        all.extend(ends.finish().await);
        all.into_iter().flat_map(|output| output.bytes).collect()
    }

    fn lines(lengths: &[usize]) -> Vec<u8> {
        let line = |length: &usize| [vec![b'x'; *length], b"\n".to_vec()].concat();
        lengths.iter().flat_map(line).collect()
    }

    #[tokio::test]
    async fn every_line_gets_its_line_end_back() {
        let of_all_lengths = [
            0, 1, 20_000, 1, 16_383, 0, 16_384, 2, 16_385, 3, 32_768, 4, 0, 0, 40_000,
        ];
        for count in 1..=of_all_lengths.len() {
            let whole = lines(&of_all_lengths[..count]);
            for length in [whole.len(), whole.len() - 1] {
                let bytes = &whole[..length];
                let entries = entries(Stream::Stdout, bytes);
                let found = restored(entries, counter(length, 0)).await;
                assert!(
                    found == bytes,
                    "{count} lines, {length} bytes: {}",
                    found.len()
                );
            }
        }
    }

    #[tokio::test]
    async fn without_a_count_the_last_line_gets_a_line_end() {
        let whole = lines(&[20_000]);
        let open = &whole[..20_000];
        assert!(restored(entries(Stream::Stdout, open), None).await == whole);
        // A short or an exactly full entry itself shows that it has no line end.
        for open in [&whole[..100], &whole[..MAX_ENTRY_BYTES]] {
            assert!(restored(entries(Stream::Stdout, open), None).await == open);
        }
    }

    #[tokio::test]
    async fn a_line_ends_before_the_other_stream_goes_on() {
        let long = lines(&[20_000]);
        let both = |out: &[u8]| {
            let mut both = entries(Stream::Stdout, out);
            both.extend(entries(Stream::Stderr, b"error\n"));
            both
        };
        let ended = restored(both(&long), counter(20_001, 6)).await;
        assert!(ended == [&long, b"error\n".as_slice()].concat());
        let open = restored(both(&long[..20_000]), counter(20_000, 6)).await;
        assert!(open == [&long[..20_000], b"error\n"].concat());
    }
}
