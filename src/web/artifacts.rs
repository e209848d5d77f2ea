//! Artifacts: all as a tar, or one file or directory, also as pages for people.

use std::io::{Read, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use hyper::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ETAG,
    HeaderName, HeaderValue, VARY,
};
use hyper::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::Web;
use super::answer::{self, Body};
use super::conditions::{self, Verdict};
use super::error::Refusal;
use super::manifest;
use super::media::{self, Media};
use super::pages;
use super::ranges::{self, Part, part};
use super::routes::Asked;
use crate::build::{Artifacts, Found};
use crate::job::JobId;
use crate::pipe;
use crate::project::ProjectName;
use crate::scheduler::Error;

/// No page of another origin embeds what a container wrote.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// Bytes that are read from a file at once.
const CHUNK: usize = 64 << 10;
/// The fastest level: artifacts are sent once, and the line is rarely slower than that.
const ZSTD_LEVEL: i32 = 1;

/// `GET /artifacts/P/ID`: a tar of all, with `?sparse` without the holes of files; or with `?manifest`
/// what is in it.
pub(super) async fn all(
    web: &Web,
    asked: &Asked,
    project: &ProjectName,
    id: JobId,
) -> Result<Response<Body>, Refusal> {
    if asked.flag("manifest")? {
        return manifest::show(web, asked, project, id).await;
    }
    let artifacts = used(web, asked, project, id).await?;
    let compress = answer::takes_coding(asked.headers(), "zstd");
    let sparse = asked.flag("sparse")?;
    let metrics = web.metrics.clone();
    let bytes = pipe::stream_of(move |to| {
        if compress {
            let mut encoder = zstd::stream::write::Encoder::new(to, ZSTD_LEVEL)?;
            artifacts.write_tar(&mut encoder, sparse)?;
            encoder.finish().map(drop)
        } else {
            artifacts.write_tar(to, sparse)
        }
    });
    let counted = told_when_torn(bytes, project, id)
        .inspect_ok(move |chunk| metrics.record_served(chunk.len() as u64));
    let mut response = answer::typed(
        StatusCode::OK,
        "application/x-tar",
        answer::streamed(counted),
    );
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(CACHE_CONTROL, answer::PRIVATE);
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    if compress {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"));
    }
    let name = format!("{project}-{}.tar", id.short());
    answer::set(
        &mut response,
        CONTENT_DISPOSITION,
        &media::disposition("attachment", name.as_bytes()),
    );
    Ok(response)
}

/// The artifacts of a build, which is used by a request that reads them.
pub(super) async fn used(
    web: &Web,
    asked: &Asked,
    project: &ProjectName,
    id: JobId,
) -> Result<Artifacts, Refusal> {
    let artifacts = web.scheduler.artifacts(project, id).await?;
    if !asked.is_get() {
        return Ok(artifacts);
    }
    let noted = tokio::task::spawn_blocking(move || {
        artifacts.note_use();
        artifacts
    });
    noted.await.map_err(|_| Refusal::from(Error::Lost))
}

/// The client only sees that what it gets is torn; the journal is told why.
pub(super) fn told_when_torn<S: Stream<Item = std::io::Result<Bytes>>>(
    bytes: S,
    project: &ProjectName,
    id: JobId,
) -> impl Stream<Item = std::io::Result<Bytes>> + use<S> {
    let (name, shown) = (project.clone(), id.short());
    bytes.inspect_err(move |error| {
        tracing::error!(mistry_project = %name, mistry_job = shown, error = error as &dyn std::error::Error, "artifacts could not be sent to their end");
    })
}

/// `GET /artifacts/P/ID/<path>`: one file, or what is in a directory.
pub(super) async fn one(
    web: &Web,
    asked: &Asked,
    project: &ProjectName,
    id: JobId,
    path: PathBuf,
) -> Result<Response<Body>, Refusal> {
    // Of links, the name that was asked for.
    let name = path.file_name().unwrap_or_default().to_owned();
    let media = media::of(name.as_bytes());
    let view = asked.flag("view")?.then_some(media);
    let inline = asked.flag("inline")?.then(|| media.inline()).flatten();
    let artifacts = web.scheduler.artifacts(project, id).await?;
    let is_use = asked.is_get();
    let (headers, project) = (asked.headers().clone(), project.clone());
    let looked = tokio::task::spawn_blocking(move || -> Result<Looked, Refusal> {
        let found = artifacts.find(&path).map_err(unreadable)?;
        // A request for what is not there, or only whether it is, uses nothing.
        if is_use && found.is_some() {
            artifacts.note_use();
        }
        Ok(match found {
            None => Looked::Nothing,
            Some(Found::Directory(entries)) => {
                let page = pages::directory::show(&headers, &project, id, &path, &entries)?;
                Looked::Page(page)
            }
            Some(Found::File(file, metadata)) => match view {
                None => {
                    let etag = format!("\"{}\"", artifacts.tag_of(&metadata));
                    Looked::File(file, metadata.len(), etag)
                }
                Some(media) => {
                    let head = head(file, media).map_err(unreadable)?;
                    let file = pages::file::File {
                        metadata: &metadata,
                        media,
                        head: &head,
                    };
                    Looked::Page(pages::file::show(&headers, &project, id, &path, file)?)
                }
            },
        })
    });
    match looked.await.map_err(|_| Refusal::from(Error::Lost))?? {
        Looked::Nothing => Err(Refusal::not_found("there is no such artifact")),
        Looked::Page(page) => Ok(page),
        Looked::File(file, length, etag) => {
            let mut response = send(web, asked, file, length, &etag, inline).await?;
            describe(&mut response, name.as_bytes(), inline);
            Ok(response)
        }
    }
}

/// What a path comes to.
enum Looked {
    Nothing,
    Page(Response<Body>),
    /// Its length and its entity tag.
    File(std::fs::File, u64, String),
}

fn unreadable(error: std::io::Error) -> Refusal {
    match error.kind() {
        // The build closed it against us, which is no fault of ours.
        std::io::ErrorKind::PermissionDenied => Refusal::new(
            StatusCode::FORBIDDEN,
            "the build left this artifact closed to the server",
        ),
        _ => Refusal::caused("could not read the artifact", error),
    }
}

/// As much of a file as a page shows of one of its kind.
fn head(file: std::fs::File, media: Media) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    if matches!(media, Media::Text | Media::Markup) {
        file.take(pages::file::SHOWN).read_to_end(&mut head)?;
    }
    Ok(head)
}

/// Sends a file of `length` bytes, or the part of it that is asked for, under its own type or as
/// `inline` says.
async fn send(
    web: &Web,
    asked: &Asked,
    file: std::fs::File,
    length: u64,
    etag: &str,
    inline: Option<&'static str>,
) -> Result<Response<Body>, Refusal> {
    let headers = asked.headers();
    match conditions::evaluate(headers, etag) {
        Verdict::Proceed => {}
        Verdict::NotModified => return Ok(answer::not_modified(etag)),
        Verdict::Failed => return Err(Refusal::precondition_failed()),
    }
    let (status, first, count) = match part(asked.method(), headers, etag, length) {
        Part::Whole => (StatusCode::OK, 0, length),
        Part::Of(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Part::Beyond => return Ok(ranges::beyond(length)),
    };
    let failed = |error| Refusal::caused("could not read the artifact", error);
    let mut file = tokio::fs::File::from_std(file);
    file.seek(SeekFrom::Start(first)).await.map_err(failed)?;
    let metrics = web.metrics.clone();
    let bytes = ReaderStream::with_capacity(file.take(count), CHUNK)
        .inspect_ok(move |chunk| metrics.record_served(chunk.len() as u64));
    let media = inline.unwrap_or("application/octet-stream");
    let mut response = answer::typed(status, media, answer::streamed(bytes));
    ranges::describe(&mut response, first, count, length);
    answer::set(&mut response, ETAG, etag);
    Ok(response)
}

/// Says what a browser may do with a file. It must never take it for a page: it keeps it, or shows it
/// as the `inline` type, which runs nothing. A rebuild puts another file at the same address, so what
/// is kept is asked for again each time.
fn describe(response: &mut Response<Body>, name: &[u8], inline: Option<&'static str>) {
    let headers = response.headers_mut();
    let (kind, policy) = match inline {
        Some(_) => ("inline", "sandbox; default-src 'none'"),
        None => ("attachment", "sandbox"),
    };
    headers.insert(CACHE_CONTROL, answer::PRIVATE);
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    let disposition = media::disposition(kind, name);
    answer::set(response, CONTENT_DISPOSITION, &disposition);
}
