//! What `docker-buildx --progress=rawjson` prints: JSON objects on one line or on many, with the same content as
//! the messages of BuildKit, and lines of text for people.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Deserialize;

use super::trace::{StatusResponse, Time, Vertex, VertexLog};

/// Bytes of an unfinished object. BuildKit cuts a step's output at 2 MiB.
const MAX_OBJECT: usize = 16 << 20;

/// A part of the output.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    /// The state of steps, and their output.
    Status(StatusResponse),
    /// A line that is no such object.
    Text(String),
}

/// More than [`MAX_OBJECT`] bytes belong to one object or line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Reads the output, in whatever pieces it comes.
#[derive(Debug, Default)]
pub(super) struct RawJson {
    /// The begin of a line.
    line: Vec<u8>,
    /// The lines of an object that has not ended.
    object: Vec<u8>,
}

impl RawJson {
    /// Reads the next bytes.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<Piece>, TooLong> {
        let mut pieces = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            pieces.extend(self.line_ends(&line));
        }
        self.line.extend_from_slice(bytes);
        match self.line.len() + self.object.len() > MAX_OBJECT {
            true => Err(TooLong),
            false => Ok(pieces),
        }
    }

    /// What is left at the end.
    pub(super) fn finish(&mut self) -> Vec<Piece> {
        let line = std::mem::take(&mut self.line);
        let last = self.line_ends(&line);
        let rest = std::mem::take(&mut self.object);
        last.into_iter().chain(text(&rest)).collect()
    }

    fn line_ends(&mut self, line: &[u8]) -> Option<Piece> {
        let line = line.trim_ascii_end();
        if self.object.is_empty() {
            // An object on many lines begins and ends with a line of its brace alone.
            if line == b"{" {
                self.object.extend_from_slice(line);
                return None;
            }
            let is_object = line.starts_with(b"{");
            let status = is_object.then(|| status(line)).flatten();
            return status.map(Piece::Status).or_else(|| text(line));
        }
        self.object.extend_from_slice(line);
        if line != b"}" {
            return None;
        }
        let object = std::mem::take(&mut self.object);
        status(&object).map(Piece::Status).or_else(|| text(&object))
    }
}

fn text(line: &[u8]) -> Option<Piece> {
    let text = String::from_utf8_lossy(line);
    let text = text.trim();
    (!text.is_empty()).then(|| Piece::Text(text.to_owned()))
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    vertexes: Option<Vec<StatusVertex>>,
    #[serde(default)]
    logs: Option<Vec<StatusLog>>,
}

#[derive(Deserialize)]
struct StatusVertex {
    digest: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    cached: bool,
    #[serde(default)]
    started: Option<Timestamp>,
    #[serde(default)]
    completed: Option<Timestamp>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct StatusLog {
    vertex: String,
    /// In base64.
    #[serde(default)]
    data: String,
}

/// The message that an object is; `None` if it is none.
fn status(object: &[u8]) -> Option<StatusResponse> {
    let status: Status = serde_json::from_slice(object).ok()?;
    let time = |time: Timestamp| Time {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    };
    let vertexes = status.vertexes.into_iter().flatten();
    let vertexes = vertexes.map(|vertex| Vertex {
        digest: vertex.digest,
        name: vertex.name,
        cached: vertex.cached,
        started: vertex.started.map(time),
        completed: vertex.completed.map(time),
        error: vertex.error,
    });
    let logs = status.logs.into_iter().flatten().map(|log| {
        Some(VertexLog {
            vertex: log.vertex,
            msg: STANDARD.decode(log.data).ok()?,
        })
    });
    Some(StatusResponse {
        vertexes: vertexes.collect(),
        logs: logs.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY_LINES: &str = "{\n  \"logs\": [\n    {\n      \"vertex\": \"v\",\n      \"stream\": 1,\n      \"data\": \"aGkK\"\n    }\n  ]\n}\n";

    fn hi() -> Piece {
        Piece::Status(StatusResponse {
            vertexes: Vec::new(),
            logs: vec![VertexLog {
                vertex: "v".to_owned(),
                msg: b"hi\n".to_vec(),
            }],
        })
    }

    #[test]
    fn objects_and_lines_are_told_apart_in_whatever_pieces_they_come() {
        let one = r#"{"logs":[{"vertex":"v","data":"aGkK"}],"vertexes":null}"#;
        let output = format!("{MANY_LINES}{one}\nERROR: no\n\n{{\"a\": }}\nlast");
        let text = |text: &str| Piece::Text(text.to_owned());
        let expected = [
            hi(),
            hi(),
            text("ERROR: no"),
            text("{\"a\": }"),
            text("last"),
        ];
        for size in [1, 7, output.len()] {
            let mut raw = RawJson::default();
            let chunks = output.as_bytes().chunks(size);
            let mut pieces: Vec<Piece> = chunks.flat_map(|c| raw.push(c).unwrap()).collect();
            pieces.extend(raw.finish());
            assert_eq!(pieces, expected, "{size}");
        }
    }

    #[test]
    fn the_state_of_a_step_is_that_of_the_protocol() {
        let object = br#"{"vertexes":[{"digest":"d","inputs":["e"],"name":"[2/2] RUN a","started":"2026-11-30T23:16:03.25Z","completed":"2026-11-30T23:16:04Z","error":"no"}],"statuses":[{}]}"#;
        let time = |seconds, nanos| Some(Time { seconds, nanos });
        let expected = Vertex {
            digest: "d".to_owned(),
            name: "[2/2] RUN a".to_owned(),
            cached: false,
            started: time(1_796_080_563, 250_000_000),
            completed: time(1_796_080_564, 0),
            error: "no".to_owned(),
        };
        assert_eq!(status(object).unwrap().vertexes, [expected]);
        for nonsense in [
            &b"{}x"[..],
            b"{\"logs\": 7}",
            b"{\"logs\":[{\"vertex\":\"v\",\"data\":\"?\"}]}",
        ] {
            assert_eq!(status(nonsense), None);
        }
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut raw = RawJson::default();
        assert_eq!(raw.push(&vec![b'x'; MAX_OBJECT]), Ok(Vec::new()));
        assert_eq!(raw.push(b"x"), Err(TooLong));
        let mut raw = RawJson::default();
        raw.push(b"{\n").unwrap();
        let line = [&vec![b' '; 1 << 20][..], b"x\n"].concat();
        let pushed = (0..17).find_map(|_| raw.push(&line).err());
        assert_eq!(pushed, Some(TooLong));
        raw = RawJson::default();
        raw.push(b"{\n \"vertexes\": [").unwrap();
        assert_eq!(raw.finish().len(), 1);
    }
}
