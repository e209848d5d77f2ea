//! docker-buildx while it runs: it gets the context, and its output becomes text for the log. What it may hold up
//! is bounded in time.

use std::io;
use std::pin::pin;
use std::process::ChildStdin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::child::Child;
use super::raw_json::{Piece, RawJson};
use super::steps::Progress;
use super::trace::Trace;

/// How long the program may take to read a piece of the context, and then to report the first step: it asks the
/// Engine for both at once, and that answers within seconds even on a busy host.
const FIRST_STEP_TIMEOUT: Duration = Duration::from_secs(120);
/// How long it may go on after its last output, or after the Engine has gone.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of its output may take after its own end. What it has started is killed then.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of its words that are held for a reason.
const MAX_WORDS: usize = 4 << 10;

/// Why the program is killed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Hung {
    #[error("the build was stopped")]
    Stopped,
    #[error("the Engine went away")]
    EngineGone,
    #[error(
        "docker-buildx did not begin the build within 120 s and was killed: see whether it works on this host ('docker buildx build .')"
    )]
    NoFirstStep,
    #[error("docker-buildx did not end after its last output, and was killed")]
    NoEnd,
    #[error("docker-buildx printed more than 16 MiB without an end of the line, and was killed")]
    TooLong,
}

/// What the program has said.
#[derive(Debug, Default)]
pub(super) struct Report {
    raw: RawJson,
    trace: Trace,
    /// A step was reported.
    has_begun: bool,
    /// The last words that are no report of a step.
    words: String,
    error: Option<String>,
    /// The Engine went away meanwhile.
    pub(super) is_engine_gone: bool,
}

impl Report {
    /// The text that the next bytes add to the log.
    fn read(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Hung> {
        let pieces = self.raw.push(bytes).map_err(|_| Hung::TooLong)?;
        Ok(self.show(pieces))
    }

    fn show(&mut self, pieces: Vec<Piece>) -> Vec<u8> {
        let mut text = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Status(status) => {
                    self.has_begun = true;
                    text.extend(self.trace.show(&status));
                }
                Piece::Text(words) => match words.strip_prefix("ERROR: ") {
                    Some(error) => self.error = Some(cut(error)),
                    None => {
                        text.extend_from_slice(format!("{PREFIX}{words}\n").as_bytes());
                        self.words = cut(&words);
                    }
                },
            }
        }
        text
    }

    /// Why the image was not built: in the program's words, or in ours about its end.
    pub(super) fn reason(&self, end: &str) -> String {
        match &self.error {
            Some(error) if error.contains("rawjson") || error.contains("unknown flag") => {
                format!("{error}: mistry needs docker-buildx 0.13 or later")
            }
            Some(error) => error.clone(),
            None if self.words.is_empty() => end.to_owned(),
            None => format!("{end}; its last words: {}", self.words),
        }
    }
}

/// Before lines of the program that are no output of a step.
const PREFIX: &str = "docker-buildx: ";

fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_WORDS);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Gives the program the context and passes its output on, until it has ended. `gone` returns if the Engine goes
/// away.
pub(super) async fn follow<S>(
    child: &mut Child,
    body: S,
    report: &mut Report,
    output: &mpsc::Sender<Progress>,
    gone: impl Future<Output = ()>,
) -> Result<(), Hung>
where
    S: Stream<Item = Result<Bytes, io::Error>> + Unpin,
{
    let (Some(stdin), Some(stderr)) = child.pipes() else {
        return Err(Hung::NoEnd);
    };
    let Ok(mut stderr) = tokio::process::ChildStderr::from_std(stderr) else {
        return Err(Hung::NoEnd);
    };
    let mut feeding = pin!(feed(stdin, body));
    let mut gone = pin!(gone);
    let (mut is_fed, mut has_ended) = (false, false);
    let mut limit = pin!(sleep_until(Instant::now() + FIRST_STEP_TIMEOUT));
    let mut bytes = BytesMut::with_capacity(64 << 10);
    loop {
        let waits_for_step = is_fed && !report.has_begun;
        tokio::select! {
            fed = &mut feeding, if !is_fed => {
                fed?;
                is_fed = true;
                limit.as_mut().reset(Instant::now() + FIRST_STEP_TIMEOUT);
            }
            read = stderr.read_buf(&mut bytes) => {
                let is_over = !matches!(read, Ok(1..));
                let text = report.read(&bytes)?;
                bytes.clear();
                send(text, output).await;
                if is_over {
                    break;
                }
            }
            () = child.ended(), if !has_ended => {
                has_ended = true;
                // What it has started may hold its output open.
                child.kill();
                limit.as_mut().reset(Instant::now() + LAST_OUTPUT_TIMEOUT);
            }
            () = &mut gone, if !report.is_engine_gone && !has_ended => {
                report.is_engine_gone = true;
                limit.as_mut().reset(Instant::now() + END_TIMEOUT);
            }
            () = &mut limit, if waits_for_step || report.is_engine_gone || has_ended => {
                match (has_ended, report.is_engine_gone) {
                    (true, _) => break,
                    (false, true) => return Err(Hung::EngineGone),
                    (false, false) => return Err(Hung::NoFirstStep),
                }
            }
        }
    }
    let pieces = report.raw.finish();
    send(report.show(pieces), output).await;
    let end = timeout(END_TIMEOUT, child.ended()).await;
    end.map_err(|_| Hung::NoEnd)
}

async fn send(text: Vec<u8>, output: &mpsc::Sender<Progress>) {
    if !text.is_empty() {
        // A build continues without a receiver of its output.
        let _ = output.send(Progress::Text(text.into())).await;
    }
}

/// Writes the context, as far as the program reads it. A context that breaks off is known to the caller; the
/// program sees its end.
async fn feed<S>(stdin: ChildStdin, mut body: S) -> Result<(), Hung>
where
    S: Stream<Item = Result<Bytes, io::Error>> + Unpin,
{
    let Ok(mut stdin) = tokio::process::ChildStdin::from_std(stdin) else {
        return Ok(());
    };
    while let Some(Ok(piece)) = body.next().await {
        match timeout(FIRST_STEP_TIMEOUT, stdin.write_all(&piece)).await {
            Ok(Ok(())) => {}
            // It has closed its end, and says why.
            Ok(Err(_)) => break,
            Err(_) => return Err(Hung::NoFirstStep),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Follows a shell script in the place of the program; the context is `context`.
    async fn run(
        script: &str,
        gone: impl Future<Output = ()>,
    ) -> (Result<(), Hung>, Report, String) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Child::spawn(&mut command).unwrap();
        let body = futures_util::stream::iter([Ok(Bytes::from_static(b"context"))]);
        let mut report = Report::default();
        let (output, mut texts) = mpsc::channel(64);
        let followed = follow(&mut child, body, &mut report, &output, gone).await;
        child.reap().await.unwrap();
        drop(output);
        let mut text = String::new();
        while let Some(Progress::Text(piece)) = texts.recv().await {
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        (followed, report, text)
    }

    #[tokio::test]
    async fn what_it_says_is_the_log_or_the_reason() {
        let script = r#"cat > /dev/null
            echo '{"vertexes":[{"digest":"d","name":"RUN a","started":"2026-11-30T23:16:03Z"}]}' >&2
            echo '{"logs":[{"vertex":"d","data":"aGkK"}]}' >&2; echo words >&2; echo 'ERROR: no' >&2"#;
        let (followed, report, text) = run(script, std::future::pending()).await;
        assert_eq!(followed, Ok(()));
        assert_eq!(text, "#1 RUN a\n#1 hi\ndocker-buildx: words\n");
        assert_eq!(report.reason("end"), "no");
        let (_, report, _) = run("echo 'no words' >&2", std::future::pending()).await;
        assert_eq!(report.reason("end"), "end; its last words: no words");
        let old = "echo 'ERROR: invalid progress mode: rawjson' >&2";
        let (_, report, _) = run(old, std::future::pending()).await;
        assert!(
            report
                .reason("")
                .ends_with(": mistry needs docker-buildx 0.13 or later")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_hangs_is_not_awaited_for_ever() {
        for (script, expected) in [
            ("exec sleep 1000", Err(Hung::NoFirstStep)),
            ("cat > /dev/null; exec sleep 1000", Err(Hung::NoFirstStep)),
        ] {
            let (followed, ..) = run(script, std::future::pending()).await;
            assert_eq!(followed, expected, "{script}");
        }
        let begun = r#"echo '{"vertexes":[]}' >&2; exec sleep 1000"#;
        let (followed, ..) = run(begun, std::future::ready(())).await;
        assert_eq!(followed, Err(Hung::EngineGone));
    }

    #[tokio::test]
    async fn what_it_has_started_ends_with_it() {
        // The other process holds the output open.
        let (followed, ..) = run("sleep 1000 & exit 0", std::future::pending()).await;
        assert_eq!(followed, Ok(()));
    }
}
