//! Artifacts: all as a tar, or one file or directory.

use std::io::SeekFrom;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use futures_util::TryStreamExt;
use hyper::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_SECURITY_POLICY, ETAG, HeaderValue, IF_NONE_MATCH, IF_RANGE, VARY,
};
use hyper::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::Web;
use super::answer::{self, Body};
use super::error::Refusal;
use super::pages;
use super::ranges::{self, Part, part};
use super::routes::Asked;
use crate::build::Found;
use crate::job::JobId;
use crate::pipe;
use crate::project::ProjectName;
use crate::scheduler::Error;

/// Bytes that are read from a file at once.
const CHUNK: usize = 64 << 10;
/// The fastest level: artifacts are sent once, and the line is rarely slower than that.
const ZSTD_LEVEL: i32 = 1;

/// `GET /artifacts/P/ID`: a tar of all.
pub(super) async fn all(
    web: &Web,
    asked: &Asked,
    project: &ProjectName,
    id: JobId,
) -> Result<Response<Body>, Refusal> {
    let artifacts = web.scheduler.artifacts(project, id).await?;
    let compress = asked
        .headers()
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("zstd"));
    let metrics = web.metrics.clone();
    let bytes = pipe::stream_of(move |to| {
        if compress {
            let mut encoder = zstd::stream::write::Encoder::new(to, ZSTD_LEVEL)?;
            artifacts.write_tar(&mut encoder)?;
            encoder.finish().map(drop)
        } else {
            artifacts.write_tar(to)
        }
    });
    let (name, shown) = (project.clone(), id.short());
    let counted = bytes
        .inspect_ok(move |chunk| metrics.record_served(chunk.len() as u64))
        .inspect_err(move |error| {
            // The client only sees that the tar is torn.
            tracing::error!(mistry_project = %name, mistry_job = shown, error = error as &dyn std::error::Error, "artifacts could not be sent to their end");
        });
    let mut response = answer::typed(
        StatusCode::OK,
        "application/x-tar",
        answer::streamed(counted),
    );
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if compress {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"));
    }
    Ok(response)
}

/// `GET /artifacts/P/ID/<path>`: one file, or what is in a directory.
pub(super) async fn one(
    web: &Web,
    asked: &Asked,
    project: &ProjectName,
    id: JobId,
    path: PathBuf,
) -> Result<Response<Body>, Refusal> {
    let artifacts = web.scheduler.artifacts(project, id).await?;
    let shown = path.clone();
    let found = tokio::task::spawn_blocking(move || artifacts.find(&path))
        .await
        .map_err(|_| Refusal::from(Error::Lost))?
        .map_err(|error| match error.kind() {
            // The build closed it against us, which is no fault of ours.
            std::io::ErrorKind::PermissionDenied => Refusal::new(
                StatusCode::FORBIDDEN,
                "the build left this artifact closed to the server",
            ),
            _ => Refusal::caused("could not read the artifact", error),
        })?;
    match found {
        None => Err(Refusal::not_found("there is no such artifact")),
        Some(Found::Directory(items)) => {
            let names = items
                .iter()
                .map(|item| (item.name.as_bytes(), item.directory, item.size));
            pages::directory(project, id, shown.as_os_str().as_bytes(), names)
        }
        Some(Found::File(file, metadata)) => send(web, asked, file, &metadata).await,
    }
}

/// Sends a file, or the part of it that is asked for. A browser must never take it for a page.
async fn send(
    web: &Web,
    asked: &Asked,
    file: std::fs::File,
    metadata: &std::fs::Metadata,
) -> Result<Response<Body>, Refusal> {
    let etag = format!(
        "\"{:x}-{:x}-{:x}.{:x}\"",
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    let headers = asked.headers();
    let names = |header| headers.get(header).and_then(|value| value.to_str().ok());
    if names(IF_NONE_MATCH).is_some_and(|tags| tags == "*" || tags.contains(&etag)) {
        let mut response = Response::new(answer::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        answer::set(&mut response, ETAG, &etag);
        return Ok(response);
    }
    let length = metadata.len();
    // A part of another version would not fit to what the client has.
    let asked_part = match names(IF_RANGE) {
        Some(tag) if tag != etag => Part::Whole,
        _ => part(headers, length),
    };
    let (status, first, count) = match asked_part {
        Part::Whole => (StatusCode::OK, 0, length),
        Part::Of(first, last) => (StatusCode::PARTIAL_CONTENT, first, last + 1 - first),
        Part::Beyond => {
            return Ok(ranges::beyond(length));
        }
    };
    let failed = |error| Refusal::caused("could not read the artifact", error);
    let mut file = tokio::fs::File::from_std(file);
    file.seek(SeekFrom::Start(first)).await.map_err(failed)?;
    let metrics = web.metrics.clone();
    let bytes = ReaderStream::with_capacity(file.take(count), CHUNK)
        .inspect_ok(move |chunk| metrics.record_served(chunk.len() as u64));
    let mut response = answer::typed(status, "application/octet-stream", answer::streamed(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, count.into());
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    answer::set(&mut response, ETAG, &etag);
    if status == StatusCode::PARTIAL_CONTENT {
        let last = first + count - 1;
        answer::set(
            &mut response,
            CONTENT_RANGE,
            &format!("bytes {first}-{last}/{length}"),
        );
    }
    Ok(response)
}
