//! Sends log records to journald or stderr.
//!
//! Records go to the systemd journal, with their fields, if standard error leads there; else as readable
//! lines to standard error. The level is set by `MISTRY_LOG` (`error`, `warn`, `info`, `debug`), read once;
//! records below it cost nothing.
//!
//! A stalled journal does not stall the daemon: see [`relay`].

mod journald;
mod record;
mod relay;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::Subscriber;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

use self::record::{Collect, Line};
use self::relay::{Flush, Relay};

/// The variable that sets the log level.
const LEVEL_VARIABLE: &str = "MISTRY_LOG";

/// Its valid values.
const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];

/// The variable that identifies the journal's stream: `DEVICE:INODE`.
const STREAM_VARIABLE: &str = "JOURNAL_STREAM";

/// The log is active. Dropping this waits briefly for the last records; so it is held until the end of the
/// program.
#[must_use = "the last records are lost when it is dropped too early"]
#[derive(Debug)]
pub struct Journal {
    /// `None` when records are written directly.
    _flush: Option<Flush>,
}

/// Starts logging. Must be called once, before the first record.
pub fn begin() -> Journal {
    let (layer, flush, unreachable) = match journald_layer() {
        Some(Ok((layer, flush))) => (layer, Some(flush), None),
        Some(Err(error)) => (stderr_layer(), None, Some(error)),
        None => (stderr_layer(), None, None),
    };
    let wanted = std::env::var(LEVEL_VARIABLE).unwrap_or_default();
    let is_known = LEVELS.contains(&wanted.as_str());
    let filter = EnvFilter::new(if is_known { &wanted } else { "info" });
    // A second subscriber is a bug, and the first one logs it.
    if let Err(error) = subscriber(layer, filter).try_init() {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "records are kept already"
        );
    }
    if !is_known && !wanted.is_empty() {
        let shown: String = wanted.chars().take(40).collect();
        tracing::warn!(
            "{LEVEL_VARIABLE}: expected error, warn, info or debug, found '{shown}': info is taken"
        );
    }
    if let Some(error) = unreachable {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the journal cannot be reached; records are lines on standard error"
        );
    }
    Journal { _flush: flush }
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// The filter runs first, so records that it drops reach no layer and are not formatted.
fn subscriber(layer: BoxedLayer, filter: EnvFilter) -> impl Subscriber + Send + Sync {
    Registry::default().with(layer).with(filter)
}

/// Records with their fields for journald; `None` if standard error does not lead there.
fn journald_layer() -> Option<io::Result<(BoxedLayer, Flush)>> {
    let stream = std::env::var(STREAM_VARIABLE).ok()?;
    let file = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?);
    let file = file.metadata().ok()?;
    if !is_named_by(&stream, file.dev(), file.ino()) {
        return None;
    }
    let begun = journald::open()
        .and_then(Relay::start)
        .map(|(relay, flush)| {
            let layer = Collect(move |record| relay.enqueue(record));
            (Box::new(layer) as BoxedLayer, flush)
        });
    Some(begun)
}

/// Readable lines on standard error.
fn stderr_layer() -> BoxedLayer {
    Box::new(
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(false)
            .with_target(false)
            .fmt_fields(Line),
    )
}

/// True if `DEVICE:INODE` names the file: another one means that a program that inherited the variable
/// redirected standard error.
fn is_named_by(stream: &str, device: u64, inode: u64) -> bool {
    let parts = stream
        .split_once(':')
        .map(|(device, inode)| (device.parse(), inode.parse()));
    parts == Some((Ok(device), Ok(inode)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tracing::level_filters::LevelFilter;

    use super::*;

    #[test]
    fn records_below_the_level_are_not_formatted() {
        static PUT: AtomicU32 = AtomicU32::new(0);
        struct Word;
        impl std::fmt::Debug for Word {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                PUT.fetch_add(1, Ordering::Relaxed);
                f.write_str("word")
            }
        }
        let (relay, flush) = Relay::start(|_| {}).unwrap();
        let collect = Collect(move |record| relay.enqueue(record));
        for (layer, put) in [(Box::new(collect) as BoxedLayer, 1), (stderr_layer(), 2)] {
            let all = subscriber(layer, EnvFilter::new("warn"));
            assert_eq!(all.max_level_hint(), Some(LevelFilter::WARN));
            tracing::subscriber::with_default(all, || {
                assert!(!tracing::enabled!(tracing::Level::INFO));
                tracing::info!(word = ?Word, "not logged");
                tracing::warn!(word = ?Word, "logged");
            });
            assert_eq!(PUT.load(Ordering::Relaxed), put);
        }
        drop(flush);
    }

    #[test]
    fn only_the_file_that_is_named_is_the_journal() {
        assert!(is_named_by("8:1234", 8, 1234));
        for other in [
            "8:1235", "9:1234", "", ":", "8", "8:", ":1234", "8:x", "8:1234:1",
        ] {
            assert!(!is_named_by(other, 8, 1234), "{other}");
        }
    }
}
