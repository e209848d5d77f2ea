//! `--json`, `--json-result`: standard output gets one JSON document, whatever happens.

use std::ffi::OsString;

use serde_json::{Value, json};

use super::Error;
use super::output::print_json;
use crate::client;
use crate::job::JobId;

/// The document of one command.
#[derive(Debug)]
pub(super) struct Document {
    /// It is printed once.
    is_due: bool,
    /// The job, for a document about an error.
    pub job: Option<JobId>,
}

impl Document {
    pub(super) fn new(is_wanted: bool) -> Document {
        Document {
            is_due: is_wanted,
            job: None,
        }
    }

    /// Prints the document, if one is wanted.
    pub(super) fn print(&mut self, value: &Value) -> Result<(), Error> {
        match std::mem::take(&mut self.is_due) {
            true => print_json(value),
            false => Ok(()),
        }
    }

    /// Prints a document about the error, if one is wanted and none was printed.
    pub(super) fn finish(mut self, result: Result<(), Error>) -> Result<(), Error> {
        let Err(error) = result else {
            return Ok(());
        };
        if matches!(error, Error::Output(_)) {
            return Err(error);
        }
        let document = error_document(&error, self.job);
        self.print(&document)?;
        Err(error)
    }
}

/// Whether these arguments, which may be wrong, ask for a document.
pub(super) fn is_asked_for(arguments: &[OsString]) -> bool {
    let words = arguments.iter().take_while(|word| *word != "--");
    let mut words = words.filter_map(|word| word.to_str());
    words.any(|word| {
        let name = word.split('=').next().unwrap_or_default();
        matches!(name, "--json" | "--json-result")
    })
}

/// Prints the document about an error of the command line: `error`, `exit_status`, and `job` and `request`, if
/// they are known.
pub(super) fn print_error_document(error: &Error, job: Option<JobId>) -> Result<(), Error> {
    print_json(&error_document(error, job))
}

fn error_document(error: &Error, job: Option<JobId>) -> Value {
    let mut document = json!({ "error": error.line(), "exit_status": error.exit_status() });
    let mut job = job;
    if let Error::Server(client::Error::Response(response)) = error {
        document["error"] = response.sentence().into();
        job = job.or(response.job);
        if !response.request.is_empty() {
            document["request"] = response.request.clone().into();
        }
    }
    if let Some(job) = job {
        document["job"] = job.to_string().into();
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_what_is_known() {
        let refused = Error::Server(client::Error::Response(client::ErrorResponse {
            status: 404,
            message: "unknown project 'x'".to_owned(),
            request: "r1".to_owned(),
            job: None,
            retry_after: None,
        }));
        assert_eq!(
            error_document(&refused, None),
            json!({"error": "unknown project 'x'", "exit_status": 3, "request": "r1"})
        );
        let id = "0".repeat(64);
        let timed_out = Error::TimedOut("The build did not finish".to_owned());
        assert_eq!(
            error_document(&timed_out, id.parse().ok()),
            json!({"error": "The build did not finish", "exit_status": 5, "job": id})
        );
    }
}
