//! Transport http: one tar stream from the server itself, compressed with zstd if the server does that.
//!
//! A thread that may block writes to the disk; a few chunks are held in memory, however large the
//! artifacts are.

use std::io::{self, Read};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;

use super::blocking::run_blocking;
use super::{Error, Fetched, TransportOptions, unpack};
use crate::cli::progress::Progress;
use crate::client::{self, Client};
use crate::job::JobId;
use crate::project::ProjectName;

/// Longest silence of the server, which never has more to do than read a large file.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Largest zstd window, 8 MiB: levels up to 19 need it and every decoder accepts it.
const MAX_WINDOW_LOG: u32 = 23;

pub(super) async fn fetch(
    client: &Client,
    project: &ProjectName,
    id: JobId,
    options: &TransportOptions,
    cancelled: CancellationToken,
) -> Result<Fetched, Error> {
    let response = client.artifacts(project, id).await?;
    let zstd = match response.header("content-encoding") {
        None | Some("identity") => false,
        Some("zstd") => true,
        Some(_) => {
            let what = "artifacts in an unknown encoding".to_owned();
            return Err(client::Error::InvalidResponse(what).into());
        }
    };
    let stream_cancelled = cancelled.clone();
    let body = response.stream();
    let chunks = stream::unfold(Box::pin(body), move |mut body| {
        let cancelled = stream_cancelled.clone();
        async move {
            let next = tokio::select! {
                () = cancelled.cancelled() => Some(Err(io::ErrorKind::ConnectionAborted.into())),
                next = timeout(STALL_TIMEOUT, body.next()) => match next {
                    Err(_) => Some(Err(io::ErrorKind::TimedOut.into())),
                    Ok(chunk) => chunk.map(|c| c.map_err(io::Error::other)),
                },
            };
            next.map(|next| (next, body))
        }
    });
    let reader = SyncIoBridge::new(StreamReader::new(Box::pin(chunks)));
    let options = options.clone();
    run_blocking(move || {
        let progress = Progress::fetching();
        let mut target = options.open_target(progress.clone(), cancelled)?;
        let reader: Box<dyn Read> = if zstd {
            let mut decoder = zstd::stream::read::Decoder::new(reader).map_err(Error::Torn)?;
            decoder
                .window_log_max(MAX_WINDOW_LOG)
                .map_err(Error::Torn)?;
            Box::new(decoder)
        } else {
            Box::new(reader)
        };
        let unpacked = unpack::unpack(reader, &mut target);
        progress.finish();
        unpacked?;
        Ok(Fetched {
            files: target.files(),
            replaced: target.replaced(),
        })
    })
    .await
}
