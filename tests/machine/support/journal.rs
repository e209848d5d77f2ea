//! The machine's journal, as records with fields.

use std::io::{BufRead, BufReader};

use serde_json::Value;

use super::{Machine, Running};

/// A record of the journal.
#[derive(Clone, Debug)]
pub struct Record(Value);

impl Record {
    /// A field; "" where there is none.
    pub fn field(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    pub fn message(&self) -> &str {
        self.field("MESSAGE")
    }

    /// Of a job, what happened to it; of the daemon, too.
    pub fn event(&self) -> &str {
        self.field("MISTRY_EVENT")
    }
}

impl Machine {
    /// The time of the machine, as `journalctl --since` reads it. No cursor: what comes after one
    /// misses its first record when it is filtered.
    pub(super) fn now(&self) -> String {
        self.run("date +@%s.%6N").trim().to_owned()
    }

    /// What was written since the test began, of records with all of `fields` (`NAME=VALUE`).
    #[track_caller]
    pub fn journal(&self, fields: &[&str]) -> Vec<Record> {
        let text = self.run(&format!(
            "journalctl --sync; journalctl -q --all -o json --since='{}' {}",
            self.since,
            quoted(fields)
        ));
        text.lines().map(record).collect()
    }

    /// What a person reads of a unit since the test began.
    pub fn journal_text(&self, unit: &str) -> String {
        let since = &self.since;
        self.attempt(&format!(
            "journalctl --sync; journalctl -q --since='{since}' -u {unit} -n 100"
        ))
        .stdout
    }

    /// Follows the records with all of `fields`, from the beginning of the test.
    pub fn follow(&self, fields: &[&str]) -> Follower<'_> {
        let mut running = self.begin(
            "root",
            &format!(
                "exec journalctl -q -f --no-tail --all -o json --since='{}' {}",
                self.since,
                quoted(fields)
            ),
        );
        Follower {
            machine: self,
            fields: fields.iter().map(|&field| field.to_owned()).collect(),
            lines: BufReader::new(running.stdout()),
            _running: running,
        }
    }
}

/// Records as they come.
#[derive(Debug)]
pub struct Follower<'a> {
    machine: &'a Machine,
    fields: Vec<String>,
    lines: BufReader<std::process::ChildStdout>,
    _running: Running,
}

impl Follower<'_> {
    /// Waits for the next record that is wanted.
    #[track_caller]
    pub fn until(&mut self, wanted: impl Fn(&Record) -> bool) -> Record {
        let mut seen = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).unwrap();
            if read == 0 {
                self.did_not_come(&seen);
            }
            let record = record(&line);
            if wanted(&record) {
                return record;
            }
            seen.push(record.message().to_owned());
        }
    }

    /// Says what the journal has that was not told, and what the Engine has, so that one failure is
    /// enough to find its cause.
    #[track_caller]
    fn did_not_come(&self, seen: &[String]) -> ! {
        let fields: Vec<_> = self.fields.iter().map(String::as_str).collect();
        let written = self.machine.journal(&fields);
        let written: Vec<_> = written.iter().map(Record::message).collect();
        let daemon = self.machine.journal_text("mistryd.service");
        let containers = self.machine.attempt("docker ps -a --no-trunc");
        panic!(
            "it did not come; there were: {seen:#?}, the journal has: {written:#?}\n{containers}\n{daemon}"
        );
    }

    /// Waits for the next record of an event.
    #[track_caller]
    pub fn event(&mut self, name: &str) -> Record {
        self.until(|record| record.event() == name)
    }
}

#[track_caller]
fn record(line: &str) -> Record {
    Record(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
}

fn quoted(fields: &[&str]) -> String {
    let quoted: Vec<_> = fields.iter().map(|field| format!("'{field}'")).collect();
    quoted.join(" ")
}
