//! Artifacts: all as a tar, or one file or directory, also as pages for people.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use hyper::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ETAG, HeaderMap,
    HeaderName, HeaderValue, VARY,
};
use hyper::{Method, StatusCode};

use super::compressed::Compressed;
use super::conditions::{self, Verdict};
use super::error::ApiError;
use super::manifest::Manifest;
use super::media::{self, Media};
use super::paced;
use super::pages;
use super::ranges::{self, Part, part};
use super::request::Request;
use super::response::{self, Response};
use super::state::Web;
use crate::budget::Held;
use crate::build::{Artifacts, Contents, Found, Tar};
use crate::job::JobId;
use crate::pipe::{self, More, Source};
use crate::project::ProjectName;

/// No page of another origin embeds what a container wrote.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// What is held while the page of a directory is made: its names, its rows, itself; then only itself.
const DIRECTORY_PAGE: u64 = 6 << 20;
/// … of a file.
const FILE_PAGE: u64 = 2 << 20;
/// What the answer with a small file takes besides its bytes.
const SMALL: u64 = 1 << 10;

/// `GET /artifacts/P/ID`: a tar of all, with `?sparse` without the holes of files; or with `?manifest`
/// what is in it.
pub(super) async fn all(web: &Web, request: Request) -> Result<Response, ApiError> {
    let (project, id) = request.job()?;
    if request.flag("manifest")? {
        return manifest(web, &request, &project, id).await;
    }
    let place = web.hold_tree(request.client)?;
    let (walk, state) = (
        request.budget.hold(Contents::BYTES)?,
        request.budget.hold(Tar::BYTES)?,
    );
    let chunks = request.budget.hold(paced::BYTES)?;
    let compress = match response::takes_coding(request.headers(), "zstd") {
        // A client that takes zstd takes the plain bytes as well.
        true => request.budget.hold(Compressed::<Tar>::BYTES).ok(),
        false => None,
    };
    let is_compressed = compress.is_some();
    let sparse = request.flag("sparse")?;
    let artifacts = used(&request, &project, id).await?;
    let tar = artifacts.tar(sparse, walk, state);
    let failed = |error| ApiError::with_cause("could not begin to compress the artifacts", error);
    let turns = request.reader.turns();
    let bytes = match compress {
        Some(held) => {
            let tar = Compressed::new(tar, held).map_err(failed)?;
            pipe::pulled(Placed(tar, place), turns).boxed()
        }
        None => pipe::pulled(Placed(tar, place), turns).boxed(),
    };
    let metrics = web.metrics.clone();
    let counted = log_errors(bytes, &project, id)
        .inspect_ok(move |chunk| metrics.record_served(chunk.len() as u64));
    let mut response = response::typed(
        StatusCode::OK,
        "application/x-tar",
        paced::one_at_a_time(counted, chunks),
    );
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(CACHE_CONTROL, response::PRIVATE);
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    if is_compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"));
    }
    let name = format!("{project}-{}.tar", id.short());
    response::set(
        &mut response,
        CONTENT_DISPOSITION,
        &media::disposition("attachment", name.as_bytes()),
    );
    Ok(response)
}

/// A source that has a place as long as it is there: when its client is gone, a call of it may still
/// wait for the disk.
struct Placed<S>(
    S,
    #[expect(dead_code, reason = "held until the source is dropped")] Held,
);

impl<S: Source> Source for Placed<S> {
    fn fill(&mut self, to: &mut Vec<u8>) -> std::io::Result<More> {
        self.0.fill(to)
    }
}

/// The artifacts of a build, which is used by a request that reads them.
async fn used(request: &Request, project: &ProjectName, id: JobId) -> Result<Artifacts, ApiError> {
    let is_use = request.is_use();
    let artifacts = request.reader.in_artifacts(project, id, move |artifacts| {
        if is_use {
            artifacts.note_use();
        }
        artifacts
    });
    Ok(artifacts.await?)
}

/// Logs why `bytes` could not be sent to their end. The client only sees that the response is incomplete.
fn log_errors<S: Stream<Item = std::io::Result<Bytes>>>(
    bytes: S,
    project: &ProjectName,
    id: JobId,
) -> impl Stream<Item = std::io::Result<Bytes>> + use<S> {
    let (name, shown) = (project.clone(), id.short());
    bytes.inspect_err(move |error| {
        tracing::error!(mistry_project = %name, mistry_job = shown, error = error as &dyn std::error::Error, "artifacts could not be sent to their end");
    })
}

/// `GET /artifacts/P/ID?manifest`: a JSON array that is written while the artifacts are walked.
async fn manifest(
    web: &Web,
    request: &Request,
    project: &ProjectName,
    id: JobId,
) -> Result<Response, ApiError> {
    let place = web.hold_tree(request.client)?;
    let held = request.budget.hold(Contents::BYTES)?;
    let chunks = request.budget.hold(paced::BYTES)?;
    let artifacts = used(request, project, id).await?;
    let manifest = Placed(Manifest::new(artifacts.contents(held)), place);
    let bytes = log_errors(pipe::pulled(manifest, request.reader.turns()), project, id);
    let mut response = response::typed(
        StatusCode::OK,
        "application/json",
        paced::one_at_a_time(bytes, chunks),
    );
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, response::PRIVATE);
    Ok(response)
}

/// `GET /artifacts/P/ID/<path>`: one file, or what is in a directory.
pub(super) async fn one(web: &Web, request: Request) -> Result<Response, ApiError> {
    let (project, id) = request.job()?;
    let path = request.artifact().ok_or_else(no_such_artifact)?;
    // Of links, the name that was asked for.
    let name = path.file_name().unwrap_or_default().to_owned();
    let media = media::of(name.as_bytes());
    let view = request.flag("view")?.then_some(media);
    let inline = request.flag("inline")?.then(|| media.inline()).flatten();
    let is_use = request.is_use();
    let (headers, name_of) = (request.headers().clone(), project.clone());
    let (budget, at) = (request.budget.clone(), path.clone());
    let looking = move |artifacts: Artifacts| -> Result<Looked, ApiError> {
        let found = artifacts.find(&at).map_err(unreadable)?;
        // While a page of the file is made.
        let making = match (&found, view) {
            (Some(Found::File(..)), Some(_)) => Some(budget.hold(FILE_PAGE)?),
            _ => None,
        };
        // What is not there, or not sent, is not used.
        let is_sent = match &found {
            None => false,
            Some(Found::File(_, metadata)) if view.is_none() => {
                let etag = format!("\"{}\"", artifacts.tag_of(metadata));
                is_body_sent(&headers, &etag, metadata.len())
            }
            Some(_) => true,
        };
        if is_use && is_sent {
            artifacts.note_use();
        }
        Ok(match found {
            None => Looked::Nothing,
            Some(Found::Directory(_)) => Looked::Directory,
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
                    let page = pages::file::show(&budget, &headers, &name_of, id, &at, file)?;
                    drop(making);
                    Looked::Page(page)
                }
            },
        })
    };
    match request.reader.in_artifacts(&project, id, looking).await?? {
        Looked::Nothing => Err(no_such_artifact()),
        Looked::Page(page) => Ok(page),
        Looked::Directory => directory(&request, &project, id, path).await,
        Looked::File(file, length, etag) => {
            let mut response = send(web, &request, file, length, &etag, inline).await?;
            describe(&mut response, name.as_bytes(), inline);
            Ok(response)
        }
    }
}

/// The page of a directory. It is opened again when its turn has come: those who wait hold nothing.
async fn directory(
    request: &Request,
    project: &ProjectName,
    id: JobId,
    path: PathBuf,
) -> Result<Response, ApiError> {
    let (budget, headers, name) = (
        request.budget.clone(),
        request.headers().clone(),
        project.clone(),
    );
    let showing = move |artifacts: Artifacts| {
        let held = budget.hold(DIRECTORY_PAGE)?;
        let found = artifacts.find(&path).map_err(unreadable)?;
        let Some(Found::Directory(directory)) = found else {
            return Err(no_such_artifact());
        };
        let entries = directory.list().map_err(unreadable)?;
        drop((directory, artifacts));
        let page = pages::directory::show(&budget, &headers, &name, id, &path, &entries)?;
        drop(held);
        Ok(page)
    };
    request.reader.in_directories(project, id, showing).await?
}

fn no_such_artifact() -> ApiError {
    ApiError::not_found("there is no such artifact")
}

/// Whether a file is sent to a client that asks for it with these headers, or a part of it.
fn is_body_sent(headers: &HeaderMap, etag: &str, length: u64) -> bool {
    let part = || part(&Method::GET, headers, etag, length);
    let verdict = conditions::evaluate(headers, etag);
    matches!(verdict, Verdict::Proceed) && !matches!(part(), Part::Beyond)
}

/// What a path comes to.
enum Looked {
    Nothing,
    Page(Response),
    Directory,
    /// Its length and its entity tag.
    File(std::fs::File, u64, String),
}

fn unreadable(error: std::io::Error) -> ApiError {
    match error.kind() {
        // The build closed it against us, which is no fault of ours.
        std::io::ErrorKind::PermissionDenied => ApiError::new(
            StatusCode::FORBIDDEN,
            "the build left this artifact closed to the server",
        ),
        _ => ApiError::with_cause("could not read the artifact", error),
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
    request: &Request,
    file: std::fs::File,
    length: u64,
    etag: &str,
    inline: Option<&'static str>,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    match conditions::evaluate(headers, etag) {
        Verdict::Proceed => {}
        Verdict::NotModified => return Ok(response::not_modified(etag)),
        Verdict::Failed => return Err(ApiError::precondition_failed()),
    }
    let (status, first, count) = match part(request.method(), headers, etag, length) {
        Part::Whole => (StatusCode::OK, 0, length),
        Part::Of(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Part::Beyond => return Ok(ranges::beyond(length)),
    };
    let held = request
        .budget
        .hold(paced::BYTES.min(count.saturating_add(SMALL)))?;
    let metrics = web.metrics.clone();
    let bytes = pipe::pulled(FilePart { file, first, count }, request.reader.turns())
        .inspect_ok(move |chunk| metrics.record_served(chunk.len() as u64));
    let media = inline.unwrap_or("application/octet-stream");
    let body = paced::one_at_a_time(bytes, held);
    let mut response = response::typed(status, media, body);
    ranges::describe(&mut response, first, count, length);
    response::set(&mut response, ETAG, etag);
    Ok(response)
}

/// A part of a file that is being sent.
struct FilePart {
    file: std::fs::File,
    first: u64,
    count: u64,
}

impl Source for FilePart {
    fn fill(&mut self, to: &mut Vec<u8>) -> std::io::Result<More> {
        let most = usize::try_from(self.count).unwrap_or(pipe::CHUNK);
        let read = pipe::read_at(&self.file, self.first, most.min(pipe::CHUNK), to)?;
        (self.first, self.count) = (self.first + read as u64, self.count - read as u64);
        // A file that became shorter ends before its length, which breaks the answer off.
        Ok(if read == 0 || self.count == 0 {
            More::No
        } else {
            More::Yes
        })
    }
}

/// Says what a browser may do with a file. It must never take it for a page: it keeps it, or shows it
/// as the `inline` type, which runs nothing. A rebuild puts another file at the same address, so what
/// is kept is asked for again each time.
fn describe(response: &mut Response, name: &[u8], inline: Option<&'static str>) {
    let headers = response.headers_mut();
    let (kind, policy) = match inline {
        Some(_) => ("inline", "sandbox; default-src 'none'"),
        None => ("attachment", "sandbox"),
    };
    headers.insert(CACHE_CONTROL, response::PRIVATE);
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    let disposition = media::disposition(kind, name);
    response::set(response, CONTENT_DISPOSITION, &disposition);
}
