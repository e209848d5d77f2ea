//! Server-Sent Events, read as they come.
//!
//! An event's data is kept up to [`MAX_DATA`] bytes; longer data is cut, because one line of a hostile log
//! may have any length. Line ends may be LF, CRLF or CR, as the format allows.

use std::collections::VecDeque;

use super::{Error, Finished, Response};
use crate::api::{JobState, LogEnd, decode};

/// Most bytes of one event: a build info has params of 16 MiB at most, and JSON may double them.
pub const MAX_DATA: usize = 32 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The event type; `message` when the server names none.
    pub name: String,
    /// Its data; lines are joined by a line feed.
    pub data: String,
    /// The last id that was sent, with this event or an earlier one.
    pub id: Option<String>,
    /// The bytes of the log, where they are not text and `data` cannot hold them.
    pub bytes: Option<Vec<u8>>,
}

impl Event {
    /// The bytes of the log that a `log` event carries.
    pub fn log_bytes(self) -> Vec<u8> {
        self.bytes.unwrap_or_else(|| {
            let mut line = self.data.into_bytes();
            line.push(b'\n');
            line
        })
    }

    /// Reads the data of a `state` event.
    ///
    /// # Errors
    /// [`Error::InvalidResponse`].
    pub fn state(&self) -> Result<JobState, Error> {
        Ok(serde_json::from_str(&self.data)?)
    }

    /// Reads the data of a `result` event.
    ///
    /// # Errors
    /// [`Error::InvalidResponse`].
    pub fn result(&self) -> Result<Finished, Error> {
        Finished::read(serde_json::from_str(&self.data)?)
    }

    /// Reads the data of an `end` event.
    ///
    /// # Errors
    /// [`Error::InvalidResponse`].
    pub fn end(&self) -> Result<LogEnd, Error> {
        Ok(serde_json::from_str(&self.data)?)
    }
}

/// The events of a response.
#[derive(Debug)]
pub struct Events {
    response: Response,
    parser: Parser,
}

impl Events {
    pub(super) fn new(response: Response) -> Events {
        Events {
            response,
            parser: Parser::default(),
        }
    }

    /// The next event; `None` at the end of the stream. An incomplete event at the end is
    /// discarded.
    ///
    /// # Errors
    /// [`Error::Broken`] when the connection ends before the stream does.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.parser.ready.pop_front() {
                return Ok(Some(event));
            }
            match self.response.chunk().await? {
                Some(chunk) => self.parser.push(&chunk),
                None => return Ok(None),
            }
        }
    }
}

/// An incremental parser of an event stream.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    started: bool,
    name: String,
    data: Option<Vec<u8>>,
    id: Option<String>,
    bytes: Option<Vec<u8>>,
    /// No longer than the events of one chunk.
    pub(super) ready: VecDeque<Event>,
}

impl Parser {
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|b| matches!(b, b'\n' | b'\r'));
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            // The field's name precedes the data and is not counted.
            let limit = (MAX_DATA + 64).saturating_sub(self.line.len());
            self.line
                .extend_from_slice(&piece[..piece.len().min(limit)]);
            let Some(end) = end else { return };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_of_line();
        }
    }

    fn end_of_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            self.end_of_event();
            return;
        }
        let colon = line.iter().position(|b| *b == b':');
        let (field, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            b"id" if !value.contains(&0) => {
                self.id = Some(String::from_utf8_lossy(value).into_owned());
            }
            // If this cannot be decoded, `data` is the best approximation.
            b"bytes" => self.bytes = decode(value),
            b"data" => {
                let data = match &mut self.data {
                    Some(data) => {
                        data.push(b'\n');
                        data
                    }
                    none => none.insert(Vec::new()),
                };
                let limit = MAX_DATA.saturating_sub(data.len());
                data.extend_from_slice(&value[..value.len().min(limit)]);
            }
            // Comments keep the connection alive; other fields are unknown.
            _ => {}
        }
    }

    fn end_of_event(&mut self) {
        let name = std::mem::take(&mut self.name);
        let bytes = self.bytes.take();
        let Some(data) = self.data.take() else { return };
        self.ready.push_back(Event {
            name: if name.is_empty() {
                "message".to_owned()
            } else {
                name
            },
            data: String::from_utf8_lossy(&data).into_owned(),
            id: self.id.clone(),
            bytes,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&[u8]]) -> Vec<(String, String, Option<String>)> {
        let mut parser = Parser::default();
        for piece in pieces {
            parser.push(piece);
        }
        let events = parser.ready.into_iter();
        events.map(|e| (e.name, e.data, e.id)).collect()
    }

    fn event(name: &str, data: &str, id: Option<&str>) -> (String, String, Option<String>) {
        (name.to_owned(), data.to_owned(), id.map(str::to_owned))
    }

    #[test]
    fn events_are_parsed_whatever_the_chunks() {
        let text = "\u{feff}: hello\nevent: log\nid: 6\ndata: one\n\ndata:two\r\ndata:  x\r\n\r\nid: 9\nevent: log\rdata\r\revent: lost\ndata: cut";
        let expected = [
            event("log", "one", Some("6")),
            event("message", "two\n x", Some("6")),
            event("log", "", Some("9")),
        ];
        assert_eq!(parse(&[text.as_bytes()]), expected);
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(parse(&bytes), expected);
    }

    #[test]
    fn the_bytes_of_a_log_are_its_data_with_a_line_end_or_the_bytes_field() {
        let mut parser = Parser::default();
        parser.push(
            b"event: log\ndata: one\n\nevent: log\ndata: 1%\ndata: 2%\nbytes: MSUNMiUNCg==\n\n",
        );
        parser.push(b"event: log\ndata: x\nbytes: ?\n\nevent: log\ndata: two\n\n");
        let bytes = parser.ready.into_iter().map(Event::log_bytes);
        let expected: [&[u8]; 4] = [b"one\n", b"1%\r2%\r\n", b"x\n", b"two\n"];
        assert_eq!(bytes.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_event_without_data_is_ignored() {
        assert_eq!(parse(&[b"event: ping\n\n: x\n\ndata: y\n\n"]).len(), 1);
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        parser.push(b"data: ");
        for _ in 0..40 {
            parser.push(&piece);
        }
        assert!(parser.line.len() <= MAX_DATA + 64);
        parser.push(b"\n\ndata: next\n\n");
        assert_eq!(parser.ready[0].data.len(), MAX_DATA);
        assert_eq!(parser.ready[1].data, "next");
    }
}
