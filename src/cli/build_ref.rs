//! How the command line names a build.

use super::Error;
use crate::api::IndexItem;
use crate::client::{self, Client, Filter};
use crate::job::JobId;
use crate::project::ProjectName;

/// Candidates named when an id is ambiguous.
const MAX_CANDIDATES: usize = 10;

/// A reference to a build: `[PROJECT/]ID`, the id cut to any unambiguous prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BuildRef {
    pub(super) project: Option<ProjectName>,
    pub(super) prefix: String,
}

impl std::str::FromStr for BuildRef {
    type Err = String;

    fn from_str(text: &str) -> Result<BuildRef, String> {
        let (project, prefix) = match text.rsplit_once('/') {
            Some((project, id)) => (Some(project), id),
            None => (None, text),
        };
        let project = project.map(|p| p.parse().map_err(|e| format!("{e}")));
        let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if (1..=64).contains(&prefix.len()) && prefix.bytes().all(is_hex) {
            Ok(BuildRef {
                project: project.transpose()?,
                prefix: prefix.to_owned(),
            })
        } else {
            Err("an id is 1 to 64 digits of 0-9 a-f, the first of them will do".to_owned())
        }
    }
}

impl BuildRef {
    /// Finds the one build that matches.
    pub(super) async fn resolve(&self, client: &Client) -> Result<(ProjectName, JobId), Error> {
        if let (Some(project), Ok(id)) = (&self.project, self.prefix.parse()) {
            return Ok((project.clone(), id));
        }
        let filter = Filter {
            project: self
                .project
                .as_ref()
                .map_or(String::new(), ToString::to_string),
            ..Filter::default()
        };
        let found = client.find_by_prefix(&filter, &self.prefix).await?;
        let one = match found.as_slice() {
            [] => return Err(self.no_match()),
            [one] => one,
            several => return Err(self.ambiguous(several)),
        };
        match (one.project.parse(), one.id.parse()) {
            (Ok(project), Ok(id)) => Ok((project, id)),
            _ => Err(Error::Server(client::Error::InvalidResponse(
                "an index with impossible names".to_owned(),
            ))),
        }
    }

    fn no_match(&self) -> Error {
        let of = match &self.project {
            Some(project) => format!(" of project '{project}'"),
            None => String::new(),
        };
        Error::Refused(format!("no build{of} has id '{}'", self.prefix))
    }

    fn ambiguous(&self, candidates: &[IndexItem]) -> Error {
        let mut text = format!("id '{}' is ambiguous; it may be", self.prefix);
        for item in candidates.iter().take(MAX_CANDIDATES) {
            text.push_str(&format!("\n  {}/{}", item.project, item.id));
        }
        if candidates.len() > MAX_CANDIDATES {
            let more = candidates.len() - MAX_CANDIDATES;
            text.push_str(&format!("\n  and {more} more"));
        }
        Error::Usage(text)
    }
}
