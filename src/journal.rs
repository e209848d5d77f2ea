//! Where the daemon's records go: readable lines on standard error.
//!
//! How much is said is set by `MISTRY_LOG` (`error`, `warn`, `info`, `debug`), read once.

use tracing_subscriber::EnvFilter;

/// The variable that says how much is told.
const LEVEL: &str = "MISTRY_LOG";

/// Begins to keep records. To be called once, before anything is told.
pub fn begin() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var(LEVEL)
        .from_env_lossy();
    let begun = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .try_init();
    // A second subscriber is a mistake of ours, and the first one tells it.
    if let Err(error) = begun {
        tracing::warn!(error = &*error, "records are kept already");
    }
}
