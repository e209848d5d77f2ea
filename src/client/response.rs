//! A response of the server, whose body is read as it arrives.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Stream, try_unfold};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;

use super::error::{Error, ErrorResponse};
use super::job_url::parse_job_url;
use crate::api::ErrorView;

/// The head of a response; its body is read as it arrives.
#[derive(Debug)]
pub struct Response {
    response: hyper::Response<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

impl Response {
    /// Keeps `connection` running as long as the response is read.
    pub(super) fn new(
        response: hyper::Response<Incoming>,
        connection: AbortOnDropHandle<()>,
    ) -> Response {
        Response {
            response,
            _connection: connection,
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The value of a header; `None` where it is missing or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Whether `Content-Type` names that media type, with any parameters.
    pub fn has_media_type(&self, expected: &str) -> bool {
        let value = self.header("content-type").unwrap_or_default();
        let value = value.split(';').next().unwrap_or_default().trim();
        value.eq_ignore_ascii_case(expected)
    }

    /// Reads the next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// [`Error::Broken`] when the connection ends before the body does.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.response.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Error::Broken(error.into())),
                // Trailers are not used.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// [`Error::InvalidResponse`] past `limit` bytes, [`Error::Broken`].
    pub async fn bytes(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.len() > limit {
                return Err(Error::InvalidResponse(format!("more than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Reads the whole body as JSON.
    ///
    /// # Errors
    /// Those of [`Response::bytes`], and [`Error::InvalidResponse`] for other JSON.
    pub async fn json<T: DeserializeOwned>(self, limit: usize) -> Result<T, Error> {
        Ok(serde_json::from_slice(&self.bytes(limit).await?)?)
    }

    /// The body as a stream of its pieces.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        try_unfold(self, |mut response| async move {
            Ok(response.chunk().await?.map(|chunk| (chunk, response)))
        })
    }

    /// Reads a response with an error status; a body that cannot be read counts as empty.
    pub(super) async fn into_error(self) -> Error {
        /// The body is one sentence and an id.
        const MAX_BODY: usize = 64 << 10;
        /// Used if the body is not JSON.
        const MAX_MESSAGE_CHARS: usize = 500;
        const MAX_RETRY_AFTER_SECONDS: u64 = 60;

        let status = self.status();
        let located = self.header("location").and_then(parse_job_url);
        let located = located.map(|(_, id)| id);
        let retry_after = self
            .header("retry-after")
            .and_then(|text| text.trim().parse().ok())
            .map(|seconds: u64| Duration::from_secs(seconds.min(MAX_RETRY_AFTER_SECONDS)));
        let body = self.bytes(MAX_BODY).await.unwrap_or_default();
        let view: ErrorView = serde_json::from_slice(&body).unwrap_or_else(|_| ErrorView {
            error: match status {
                // Mistry 1 and proxies before it send HTML pages and Go errors here.
                503 => String::new(),
                _ => String::from_utf8_lossy(&body)
                    .trim()
                    .chars()
                    .take(MAX_MESSAGE_CHARS)
                    .collect(),
            },
            request: String::new(),
            job: None,
        });
        let error = ErrorResponse::new(status, view);
        Error::Response(ErrorResponse {
            job: located.or(error.job),
            retry_after,
            ..error
        })
    }
}
