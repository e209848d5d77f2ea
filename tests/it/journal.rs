//! Without the journal of systemd, records are lines on standard error: the message, its fields, and all
//! causes of an error, up to the last record of a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{ChildStderr, Stdio};

use rustix::process::{Pid, Signal};
use serde_json::json;

use crate::support::{daemon::Home, http::within, manager::Service};

/// Ends a daemon once its output contains `words`; returns all of its output.
fn lines_until(pid: Pid, stderr: ChildStderr, words: &'static str) -> Vec<String> {
    let (mut lines, mut at, mut said) = (Vec::new(), None, false);
    for line in BufReader::new(stderr).lines() {
        let line = line.unwrap();
        if let Some((_, rest)) = line.split_once("serving on http://") {
            at = rest.split(';').next().map(str::to_owned);
        }
        said |= line.contains(words);
        // Which of both comes first is not promised.
        if let Some(at) = at.take_if(|_| said) {
            // A daemon that answers handles signals, too.
            let mut asked = TcpStream::connect(at).unwrap();
            asked
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .unwrap();
            asked.read_exact(&mut [0; 8]).unwrap();
            rustix::process::kill_process(pid, Signal::TERM).unwrap();
        }
        lines.push(line);
    }
    lines
}

#[tokio::test]
async fn where_no_journal_is_named_or_another_file_records_are_lines() {
    for stream in [None, Some("1:1"), Some(""), Some("nonsense")] {
        let home = Home::new().await;
        home.configure(&json!({}));
        let mut command = home.mistryd();
        command.args(["--addr", "127.0.0.1:0"]);
        // An unreachable Engine is a record with a cause.
        let engine = home.path("no-engine.sock");
        command.env("DOCKER_HOST", format!("unix://{}", engine.display()));
        if let Some(stream) = stream {
            command.env("JOURNAL_STREAM", stream);
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        // Killed when the test fails, so that its lines have an end.
        let mut service = Service(command.spawn().unwrap());
        let pid = Pid::from_raw(service.0.id() as i32).unwrap();
        let stderr = service.0.stderr.take().unwrap();
        let words = "the Docker Engine cannot be reached";
        let said = tokio::task::spawn_blocking(move || lines_until(pid, stderr, words));
        let lines = within("the lines of mistryd", said).await.unwrap();
        assert_eq!(service.ended().await, 0, "{lines:?}");
        assert!(
            lines
                .iter()
                .any(|l| l.contains(" INFO serving on http://127.0.0.1:")),
            "{lines:?}"
        );
        let away = lines.iter().find(|l| l.contains(" ERROR ")).unwrap();
        let (_, cause) = away.split_once(" error=\"").unwrap();
        assert!(
            cause.contains("no-engine.sock' while") && cause.contains(": "),
            "{away}"
        );
        assert!(lines.last().unwrap().contains(" stopping"), "{lines:?}");
    }
}
