//! Artifacts: all as a tar, or one file or directory, also as pages for browsers.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use futures_util::{StreamExt, TryStreamExt};
use hyper::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ETAG, HeaderMap,
    HeaderName, HeaderValue, VARY,
};
use hyper::{Method, StatusCode};

use super::client_budget::ClientBudget;
use super::compressed::Compressed;
use super::conditions::{self, Verdict};
use super::error::{self, ApiError};
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

/// Pages of other origins must not embed files that a container wrote.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// Bytes that are held while the page of a directory is made: its names, its rows and the page.
const DIRECTORY_PAGE_BYTES: u64 = 6 << 20;
/// Bytes that are held while the page of a file is made.
const FILE_PAGE_BYTES: u64 = 2 << 20;
/// Bytes that the response with a small file needs besides its content.
const RESPONSE_BYTES: u64 = 1 << 10;

/// `GET /artifacts/P/ID`: a tar of all artifacts, with `?sparse` without the holes of files; with `?manifest`
/// a list of them.
pub(super) async fn tar(web: &Web, request: Request) -> Result<Response, ApiError> {
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
        // A client that accepts zstd accepts plain bytes as well.
        true => request.budget.hold(Compressed::<Tar>::BYTES).ok(),
        false => None,
    };
    let is_compressed = compress.is_some();
    let sparse = request.flag("sparse")?;
    let artifacts = open_artifacts(&request, &project, id).await?;
    let tar = artifacts.tar(sparse, walk, state);
    let failed = |error| ApiError::with_cause("could not begin to compress the artifacts", error);
    let limiter = request.reader.limiter();
    let bytes = match compress {
        Some(held) => {
            let tar = Compressed::new(tar, held).map_err(failed)?;
            pipe::source_stream(Counted(tar, place), limiter).boxed()
        }
        None => pipe::source_stream(Counted(tar, place), limiter).boxed(),
    };
    let metrics = web.metrics.clone();
    let bytes = error::log_unsent_bytes(bytes, "artifacts", &project, id)
        .inspect_ok(move |chunk| metrics.record_served(chunk.len() as u64));
    let mut response = response::typed(
        StatusCode::OK,
        "application/x-tar",
        paced::body(bytes, chunks),
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

/// A source that holds its budget: after its client has disconnected, a call may still wait for the disk.
struct Counted<S>(
    S,
    #[expect(dead_code, reason = "held until the source is dropped")] Held,
);

impl<S: Source> Source for Counted<S> {
    fn fill(&mut self, to: &mut Vec<u8>) -> std::io::Result<More> {
        self.0.fill(to)
    }
}

/// Opens the artifacts of a build. If the request counts as a use, that is recorded.
async fn open_artifacts(
    request: &Request,
    project: &ProjectName,
    id: JobId,
) -> Result<Artifacts, ApiError> {
    let is_use = request.is_use();
    let artifacts = request.reader.in_artifacts(project, id, move |artifacts| {
        if is_use {
            artifacts.note_use();
        }
        artifacts
    });
    Ok(artifacts.await?)
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
    let artifacts = open_artifacts(request, project, id).await?;
    let manifest = Counted(Manifest::new(artifacts.contents(held)), place);
    let bytes = error::log_unsent_bytes(
        pipe::source_stream(manifest, request.reader.limiter()),
        "artifacts",
        project,
        id,
    );
    let mut response = response::typed(
        StatusCode::OK,
        "application/json",
        paced::body(bytes, chunks),
    );
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, response::PRIVATE);
    Ok(response)
}

/// `GET /artifacts/P/ID/<path>`: one file, or the list of a directory.
pub(super) async fn entry(web: &Web, request: Request) -> Result<Response, ApiError> {
    let (project, id) = request.job()?;
    let path = request.artifact().ok_or_else(no_such_artifact)?;
    // For a link this is the name of the link.
    let name = path.file_name().unwrap_or_default().to_owned();
    let media = media::of(name.as_bytes());
    let lookup = Lookup {
        page_as: request.flag("view")?.then_some(media),
        path: path.clone(),
        project: project.clone(),
        id,
        headers: request.headers().clone(),
        budget: request.budget.clone(),
        is_use: request.is_use(),
    };
    let inline = request.flag("inline")?.then(|| media.inline()).flatten();
    let looking = move |artifacts: Artifacts| lookup.run(&artifacts);
    match request.reader.in_artifacts(&project, id, looking).await?? {
        Looked::Page(page) => Ok(page),
        Looked::Directory => directory(&request, &project, id, path).await,
        Looked::File(file, length, etag) => {
            let mut response = send(web, &request, file, length, &etag, inline).await?;
            describe(&mut response, name.as_bytes(), inline);
            Ok(response)
        }
    }
}

/// The parameters of a lookup of one artifact, which runs on a thread that may block.
struct Lookup {
    /// The file is shown on a page, as this kind of file.
    page_as: Option<Media>,
    path: PathBuf,
    project: ProjectName,
    id: JobId,
    headers: HeaderMap,
    budget: ClientBudget,
    /// Sending the artifact counts as a use of the build.
    is_use: bool,
}

/// The entry at a path.
enum Looked {
    Page(Response),
    Directory,
    /// Its length and its entity tag.
    File(File, u64, String),
}

impl Lookup {
    fn run(self, artifacts: &Artifacts) -> Result<Looked, ApiError> {
        match artifacts.find(&self.path).map_err(unreadable)? {
            None => Err(no_such_artifact()),
            Some(Found::Directory(_)) => {
                self.note_use(artifacts);
                Ok(Looked::Directory)
            }
            Some(Found::File(file, metadata)) => match self.page_as {
                Some(media) => self.page(artifacts, file, &metadata, media),
                None => {
                    let etag = format!("\"{}\"", artifacts.tag_of(&metadata));
                    // A file that is not sent is not used.
                    if is_body_sent(&self.headers, &etag, metadata.len()) {
                        self.note_use(artifacts);
                    }
                    Ok(Looked::File(file, metadata.len(), etag))
                }
            },
        }
    }

    fn page(
        &self,
        artifacts: &Artifacts,
        file: File,
        metadata: &Metadata,
        media: Media,
    ) -> Result<Looked, ApiError> {
        // Held while the page is made.
        let _held = self.budget.hold(FILE_PAGE_BYTES)?;
        self.note_use(artifacts);
        let head = head(file, media).map_err(unreadable)?;
        let file = pages::file::File {
            metadata,
            media,
            head: &head,
        };
        let (budget, headers) = (&self.budget, &self.headers);
        let page = pages::file::render(budget, headers, &self.project, self.id, &self.path, file);
        page.map(Looked::Page)
    }

    fn note_use(&self, artifacts: &Artifacts) {
        if self.is_use {
            artifacts.note_use();
        }
    }
}

/// The page of a directory, which is opened again on the thread that makes the page: requests that wait for
/// such a thread hold no descriptors.
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
    let found = request.reader.find(project, id).await.ok();
    let totals = found.and_then(|info| info.artifacts);
    let showing = move |artifacts: Artifacts| {
        let held = budget.hold(DIRECTORY_PAGE_BYTES)?;
        let found = artifacts.find(&path).map_err(unreadable)?;
        let Some(Found::Directory(directory)) = found else {
            return Err(no_such_artifact());
        };
        let entries = directory.list().map_err(unreadable)?;
        drop((directory, artifacts));
        let page =
            pages::directory::render(&budget, &headers, (&name, id), &path, &entries, totals)?;
        drop(held);
        Ok(page)
    };
    request.reader.in_directories(project, id, showing).await?
}

fn no_such_artifact() -> ApiError {
    ApiError::not_found("there is no such artifact")
}

/// Whether a request with these headers gets the file, or a part of it.
fn is_body_sent(headers: &HeaderMap, etag: &str, length: u64) -> bool {
    let part = || part(&Method::GET, headers, etag, length);
    let verdict = conditions::evaluate(headers, etag);
    matches!(verdict, Verdict::Proceed) && !matches!(part(), Part::Beyond)
}

fn unreadable(error: std::io::Error) -> ApiError {
    match error.kind() {
        // The build took the permission from the server, which is not an error of the server.
        std::io::ErrorKind::PermissionDenied => ApiError::new(
            StatusCode::FORBIDDEN,
            "the build left this artifact closed to the server",
        ),
        _ => ApiError::with_cause("could not read the artifact", error),
    }
}

/// As much of a file as a page shows of its kind.
fn head(file: File, media: Media) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    if matches!(media, Media::Text | Media::Markup) {
        file.take(pages::file::SHOWN).read_to_end(&mut head)?;
    }
    Ok(head)
}

/// Sends a file of `length` bytes, or the part of it that is requested, under its own type or as
/// `inline` says.
async fn send(
    web: &Web,
    request: &Request,
    file: File,
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
        .hold(paced::BYTES.min(count.saturating_add(RESPONSE_BYTES)))?;
    let metrics = web.metrics.clone();
    let bytes = pipe::source_stream(FilePart { file, first, count }, request.reader.limiter())
        .inspect_ok(move |chunk| metrics.record_served(chunk.len() as u64));
    let media = inline.unwrap_or("application/octet-stream");
    let body = paced::body(bytes, held);
    let mut response = response::typed(status, media, body);
    ranges::describe(&mut response, first, count, length);
    response::set(&mut response, ETAG, etag);
    Ok(response)
}

/// A part of a file that is being sent.
struct FilePart {
    file: File,
    first: u64,
    count: u64,
}

impl Source for FilePart {
    fn fill(&mut self, to: &mut Vec<u8>) -> std::io::Result<More> {
        let most = usize::try_from(self.count).unwrap_or(pipe::CHUNK);
        let read = pipe::read_at(&self.file, self.first, most.min(pipe::CHUNK), to)?;
        (self.first, self.count) = (self.first + read as u64, self.count - read as u64);
        // A file that became shorter ends before its length, which aborts the response.
        Ok(if read == 0 || self.count == 0 {
            More::No
        } else {
            More::Yes
        })
    }
}

/// Sets the headers that tell a browser how to treat a file. It must never be a page: the browser saves it,
/// or shows it as the type `inline`, which runs no scripts. A rebuild puts another file at the same address,
/// so a cached file is revalidated each time.
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
