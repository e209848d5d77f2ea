//! What the tar of a build's artifacts would hold, as a list for programs.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hyper::header::CACHE_CONTROL;
use hyper::{Response, StatusCode};
use jiff::Timestamp;
use percent_encoding::percent_encode;
use serde::Serialize;

use super::Web;
use super::answer::{self, Body};
use super::artifacts::{told_when_torn, used};
use super::error::Refusal;
use super::pages::directory::IN_PATH;
use super::routes::Asked;
use crate::build::{Entry, EntryKind};
use crate::job::JobId;
use crate::pipe;
use crate::project::ProjectName;

/// One thing among a build's artifacts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    /// Its path below the artifacts; bytes that are no UTF-8 are replaced.
    path: String,
    /// The same as the server takes it in an address, exactly.
    #[serde(rename = "URL")]
    url: String,
    #[serde(rename = "Type")]
    kind: &'static str,
    /// Permissions, in octal as `chmod` takes them.
    mode: String,
    /// Bytes, of files.
    size: u64,
    /// Null for a time that no calendar has.
    modified: Option<Timestamp>,
    /// What a link says; bytes that are no UTF-8 are replaced.
    target: Option<String>,
}

/// `GET /artifacts/P/ID?manifest`: a JSON array that is written while the artifacts are walked.
pub(super) async fn show(
    web: &Web,
    asked: &Asked,
    project: &ProjectName,
    id: JobId,
) -> Result<Response<Body>, Refusal> {
    let artifacts = used(web, asked, project, id).await?;
    let bytes = pipe::stream_of(move |mut to| {
        let mut before = "[";
        artifacts.walk(|path, entry| {
            to.write_all(before.as_bytes())?;
            before = ",\n";
            serde_json::to_writer(&mut to, &item(path, entry))?;
            Ok(())
        })?;
        to.write_all(if before == "[" { b"[]\n" } else { b"]\n" })
    });
    let mut response = answer::typed(
        StatusCode::OK,
        "application/json",
        answer::streamed(told_when_torn(bytes, project, id)),
    );
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, answer::PRIVATE);
    Ok(response)
}

fn item(path: &Path, entry: &Entry) -> Item {
    let names: Vec<String> = path
        .iter()
        .map(|name| percent_encode(name.as_bytes(), IN_PATH).to_string())
        .collect();
    let (kind, size, target) = match &entry.kind {
        EntryKind::Directory => ("directory", 0, None),
        EntryKind::File(size) => ("file", *size, None),
        EntryKind::Link(target) => ("link", 0, Some(target.to_string_lossy().into_owned())),
        EntryKind::Special => ("special", 0, None),
    };
    Item {
        path: path.to_string_lossy().into_owned(),
        url: names.join("/"),
        kind,
        mode: format!("{:04o}", entry.mode),
        size,
        modified: Timestamp::from_second(entry.modified).ok(),
        target,
    }
}
