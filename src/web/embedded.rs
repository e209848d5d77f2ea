//! The files of the pages besides HTML: stylesheet, scripts and icons. They are part of the program, so that
//! nothing is loaded from elsewhere and nothing can be missing.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY};
use sha2::{Digest, Sha256};

use super::conditions;
use super::error::ApiError;
use super::request::Request;
use super::response::{self, Response};
use super::state::Web;

const CSS: &str = "text/css; charset=utf-8";
const MODULE: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file as it is sent.
#[derive(Debug)]
struct File {
    name: &'static str,
    media: &'static str,
    /// The tags of `plain` and of `gzipped`, which are not the same bytes.
    etag: String,
    gzipped_etag: String,
    plain: Bytes,
    gzipped: Bytes,
}

/// All files, which are compressed once, when the first of them is requested.
static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let mut files = vec![
        file("style.css", CSS, include_str!("static/style.css")),
        file("page.js", MODULE, include_str!("static/page.js")),
        file("keys.js", MODULE, include_str!("static/keys.js")),
        file("times.js", MODULE, include_str!("static/times.js")),
        file("server.js", MODULE, include_str!("static/server.js")),
        file("signin.js", MODULE, include_str!("static/signin.js")),
        file("token.js", MODULE, include_str!("static/token.js")),
        file("copy.js", MODULE, include_str!("static/copy.js")),
        file("badge.js", MODULE, include_str!("static/badge.js")),
        file("build.js", MODULE, include_str!("static/build.js")),
        file("buttons.js", MODULE, include_str!("static/buttons.js")),
        file("host.js", MODULE, include_str!("static/host.js")),
        file("list.js", MODULE, include_str!("static/list.js")),
        file("progress.js", MODULE, include_str!("static/progress.js")),
        file("project.js", MODULE, include_str!("static/project.js")),
        file("rows.js", MODULE, include_str!("static/rows.js")),
        file("log.js", MODULE, include_str!("static/log.js")),
        file("logwindow.js", MODULE, include_str!("static/logwindow.js")),
        file("logblocks.js", MODULE, include_str!("static/logblocks.js")),
        file("loglines.js", MODULE, include_str!("static/loglines.js")),
        file("logrow.js", MODULE, include_str!("static/logrow.js")),
        file("logfold.js", MODULE, include_str!("static/logfold.js")),
        file("logtimes.js", MODULE, include_str!("static/logtimes.js")),
        file(
            "logsilence.js",
            MODULE,
            include_str!("static/logsilence.js"),
        ),
        file("logfind.js", MODULE, include_str!("static/logfind.js")),
        file("logstream.js", MODULE, include_str!("static/logstream.js")),
        file("ansi.js", MODULE, include_str!("static/ansi.js")),
    ];
    // They show the state in a background tab, by shape as well as by colour.
    for (name, colour, shape) in [
        ("icon-idle.svg", "#7a828c", "M4 8h8"),
        ("icon-running.svg", "#2f81f7", "M6 4.5v7l5.5-3.5z"),
        ("icon-good.svg", "#1f9d4d", "M4 8.5l3 3 5-6"),
        ("icon-bad.svg", "#d5323d", "M5 5l6 6M11 5l-6 6"),
    ] {
        let drawn = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 16 16\"><circle cx=\"8\" cy=\"8\" r=\"8\" fill=\"{colour}\"/><path d=\"{shape}\" fill=\"none\" stroke=\"#fff\" stroke-width=\"2\" stroke-linecap=\"round\" stroke-linejoin=\"round\"/></svg>"
        );
        files.push(file(name, SVG, &drawn));
    }
    files
});

fn file(name: &'static str, media: &'static str, text: &str) -> File {
    let digest = hex::encode(&Sha256::digest(text.as_bytes())[..8]);
    File {
        name,
        media,
        etag: format!("\"{digest}\""),
        gzipped_etag: format!("\"{digest}-gz\""),
        plain: Bytes::copy_from_slice(text.as_bytes()),
        gzipped: response::gzip(text.as_bytes()),
    }
}

/// `GET /static/<name>`. Browsers revalidate the files each time, so that after an upgrade they never mix old
/// and new ones; mostly they get a 304.
pub(super) async fn get(_: &Web, request: Request) -> Result<Response, ApiError> {
    let name = request.raw_segment("name");
    let file = FILES
        .iter()
        .find(|file| file.name == name)
        .ok_or_else(|| ApiError::not_found("there is nothing at this address"))?;
    let mut response;
    if let Some(etag) = file.known(request.headers()) {
        response = response::not_modified(etag);
        response.headers_mut().insert(VARY, response::VARIES);
    } else {
        let plain = file.plain.clone();
        let gzipped = || file.gzipped.clone();
        // All clients share its bytes.
        let body = |bytes| Ok(response::parts([bytes]));
        response = response::compressible(request.headers(), file.media, plain, gzipped, body)?;
        response::set(&mut response, ETAG, file.sent(request.headers()));
    }
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

impl File {
    /// The tag of what is sent to a client with these headers.
    fn sent(&self, headers: &HeaderMap) -> &str {
        if response::takes_coding(headers, "gzip") {
            &self.gzipped_etag
        } else {
            &self.etag
        }
    }

    /// The tag with which the client has the file already, compressed or not.
    fn known(&self, headers: &HeaderMap) -> Option<&str> {
        let tags = headers.get(IF_NONE_MATCH)?.to_str().ok()?;
        if tags.trim() == "*" {
            return Some(self.sent(headers));
        }
        let ours = [&*self.gzipped_etag, &*self.etag];
        // A proxy that compresses or unpacks turns a strong tag into a weak one.
        conditions::tags(tags).find_map(|tag| ours.into_iter().find(|own| tag.is_weakly(own)))
    }
}
