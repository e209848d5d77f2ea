//! What BuildKit says while it builds, as text for the log.
//!
//! The Engine sends messages of the Protocol Buffers type `moby.buildkit.v1.StatusResponse`, of which the fields
//! below are read. The text is that of `docker build --progress=plain`: each step has a number, which begins each of
//! its lines, since steps run at the same time. Steps of the builder itself are shown only if they fail.

use std::collections::HashMap;

use prost::Message;

/// Steps of one build; no real Dockerfile has as many.
const MAX_STEPS: usize = 10_000;
/// Characters of a step's name.
const MAX_NAME: usize = 1_000;
/// Bytes of an unfinished line that are held; a longer line is cut there.
const MAX_LINE: usize = 16 << 10;

#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) vertexes: Vec<Vertex>,
    #[prost(message, repeated, tag = "3")]
    pub(super) logs: Vec<VertexLog>,
}

/// The state of a step.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Vertex {
    #[prost(string, tag = "1")]
    pub(super) digest: String,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(bool, tag = "4")]
    pub(super) cached: bool,
    #[prost(message, optional, tag = "5")]
    pub(super) started: Option<Time>,
    #[prost(message, optional, tag = "6")]
    pub(super) completed: Option<Time>,
    #[prost(string, tag = "7")]
    pub(super) error: String,
}

/// Output of a step.
#[derive(Clone, PartialEq, Message)]
pub(super) struct VertexLog {
    #[prost(string, tag = "1")]
    pub(super) vertex: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) msg: Vec<u8>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Time {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

impl Time {
    /// Seconds since another time.
    fn since(self, other: Time) -> f64 {
        let seconds = self.seconds.saturating_sub(other.seconds) as f64;
        let nanos = f64::from(self.nanos) - f64::from(other.nanos);
        (seconds + nanos / 1e9).max(0.0)
    }
}

/// The steps seen so far.
#[derive(Debug, Default)]
pub(super) struct Trace {
    steps: HashMap<String, Step>,
    shown: usize,
}

#[derive(Debug, Default)]
struct Step {
    /// Its number, once it is shown.
    number: Option<usize>,
    started: Option<Time>,
    is_over: bool,
    /// The start of a line of its output.
    begun: Vec<u8>,
}

impl Trace {
    /// Reads a message, and returns the text that it adds.
    ///
    /// # Errors
    /// When it is not such a message.
    pub(super) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, prost::DecodeError> {
        Ok(self.show(&StatusResponse::decode(message)?))
    }

    /// The text that a message adds.
    pub(super) fn show(&mut self, status: &StatusResponse) -> Vec<u8> {
        let mut text = Vec::new();
        // The message that ends a step may have its last output.
        for vertex in &status.vertexes {
            self.begin(vertex, &mut text);
        }
        for log in &status.logs {
            if let Some(step) = self.steps.get_mut(&log.vertex) {
                step.print(&log.msg, &mut text);
            }
        }
        for vertex in &status.vertexes {
            self.end(vertex, &mut text);
        }
        text
    }

    fn begin(&mut self, vertex: &Vertex, text: &mut Vec<u8>) {
        if self.steps.len() >= MAX_STEPS && !self.steps.contains_key(&vertex.digest) {
            return;
        }
        let step = self.steps.entry(vertex.digest.clone()).or_default();
        step.started = vertex.started.or(step.started);
        let is_shown = !is_internal(&vertex.name) || is_failure(vertex);
        if step.number.is_none() && step.started.is_some() && is_shown {
            self.shown += 1;
            step.number = Some(self.shown);
            let name: String = vertex.name.chars().take(MAX_NAME).collect();
            step.line(name.replace('\n', " ").as_bytes(), text);
        }
    }

    fn end(&mut self, vertex: &Vertex, text: &mut Vec<u8>) {
        let Some(step) = self.steps.get_mut(&vertex.digest) else {
            return;
        };
        let Some(completed) = vertex.completed.filter(|_| !step.is_over) else {
            return;
        };
        step.is_over = true;
        let begun = std::mem::take(&mut step.begun);
        if !begun.is_empty() {
            step.line(&begun, text);
        }
        let end = if is_failure(vertex) {
            format!("ERROR: {}", vertex.error.replace('\n', " "))
        } else if !vertex.error.is_empty() {
            "CANCELED".to_owned()
        } else if vertex.cached {
            "CACHED".to_owned()
        } else {
            let took = completed.since(step.started.unwrap_or(completed));
            format!("DONE {took:.1}s")
        };
        step.line(end.as_bytes(), text);
    }
}

impl Step {
    fn print(&mut self, mut output: &[u8], text: &mut Vec<u8>) {
        while let Some(end) = output.iter().position(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(&output[..end]);
            output = &output[end + 1..];
            let line = std::mem::take(&mut self.begun);
            self.line(&line, text);
        }
        for part in output.chunks(MAX_LINE) {
            self.begun.extend_from_slice(part);
            if self.begun.len() >= MAX_LINE {
                let line = std::mem::take(&mut self.begun);
                self.line(&line, text);
            }
        }
    }

    fn line(&self, line: &[u8], text: &mut Vec<u8>) {
        if let Some(number) = self.number {
            text.extend_from_slice(format!("#{number} ").as_bytes());
            text.extend_from_slice(line);
            text.push(b'\n');
        }
    }
}

/// Steps of the builder, of which the author of a Dockerfile need not know.
fn is_internal(name: &str) -> bool {
    let words = [
        "[internal] ",
        "[auth] ",
        "exporting ",
        "resolve image config ",
        "docker-image://docker.io/docker/dockerfile",
    ];
    // The context is copied from the tar that was sent.
    name == "copy /context /" || words.iter().any(|words| name.starts_with(words))
}

/// A step that is stopped because another one has failed is no failure.
fn is_failure(vertex: &Vertex) -> bool {
    !vertex.error.is_empty() && !vertex.error.ends_with("context canceled")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vertex(name: &str, times: (Option<i64>, Option<i64>)) -> Vertex {
        let time = |seconds| Time { seconds, nanos: 0 };
        Vertex {
            digest: name.to_owned(),
            name: name.to_owned(),
            started: times.0.map(time),
            completed: times.1.map(time),
            ..Vertex::default()
        }
    }

    fn text(trace: &mut Trace, vertexes: Vec<Vertex>, logs: &[(&str, &str)]) -> String {
        let logs = logs.iter().map(|(vertex, msg)| VertexLog {
            vertex: (*vertex).to_owned(),
            msg: msg.as_bytes().to_vec(),
        });
        let status = StatusResponse {
            vertexes,
            logs: logs.collect(),
        };
        let read = trace.read(&status.encode_to_vec()).unwrap();
        String::from_utf8(read).unwrap()
    }

    #[test]
    fn steps_that_run_at_the_same_time_are_told_apart() {
        let mut trace = Trace::default();
        let (one, two) = ("[one 2/2] RUN a", "[two 2/2] RUN b");
        let mut all = text(
            &mut trace,
            vec![
                vertex("[internal] load build definition", (Some(1), Some(1))),
                vertex(one, (Some(1), None)),
                vertex(two, (None, None)),
            ],
            &[(one, "first\nhal")],
        );
        all += &text(
            &mut trace,
            vec![vertex(two, (Some(2), None))],
            &[(two, "b\n"), (one, "f\n")],
        );
        let cached = Vertex {
            cached: true,
            ..vertex("[3/3] COPY a b", (Some(4), Some(4)))
        };
        all += &text(
            &mut trace,
            vec![
                vertex(one, (Some(1), Some(3))),
                vertex(two, (Some(2), Some(3))),
                cached,
            ],
            &[(one, "no end")],
        );
        all += &text(
            &mut trace,
            vec![vertex("exporting to image", (Some(5), Some(6)))],
            &[],
        );
        let expected = "#1 [one 2/2] RUN a\n#1 first\n#2 [two 2/2] RUN b\n#2 b\n#1 half\n\
            #3 [3/3] COPY a b\n#1 no end\n#1 DONE 2.0s\n#2 DONE 1.0s\n#3 CACHED\n";
        assert_eq!(all, expected);
    }

    #[test]
    fn a_failure_is_shown_also_of_a_step_of_the_builder_and_a_cancelled_step_is_none() {
        let mut trace = Trace::default();
        let failed = |name: &str, error: &str| Vertex {
            error: error.to_owned(),
            ..vertex(name, (Some(1), Some(2)))
        };
        let all = text(
            &mut trace,
            vec![
                failed("[internal] load metadata for x", "x: not found"),
                failed("[2/2] RUN a", "context canceled"),
            ],
            &[],
        );
        let expected = "#1 [internal] load metadata for x\n#2 [2/2] RUN a\n\
            #1 ERROR: x: not found\n#2 CANCELED\n";
        assert_eq!(all, expected);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut trace = Trace::default();
        text(&mut trace, vec![vertex("a", (Some(1), None))], &[]);
        let shown = text(&mut trace, vec![], &[("a", &"x".repeat(3 * MAX_LINE + 7))]);
        assert_eq!(shown.len(), 3 * (MAX_LINE + "#1 \n".len()));
        assert_eq!(trace.steps["a"].begun.len(), 7);
        let many = (0..2 * MAX_STEPS).map(|at| vertex(&at.to_string(), (Some(1), Some(1))));
        text(&mut trace, many.collect(), &[]);
        assert_eq!(trace.steps.len(), MAX_STEPS);
        assert_eq!(text(&mut trace, vec![], &[("unknown", "a\n")]), "");
        trace.read(b"\xff\xff").unwrap_err();
    }
}
