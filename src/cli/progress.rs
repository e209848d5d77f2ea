//! What moves on a terminal while one waits; nothing when standard error is none.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the clock on the screen moves.
const TICK: Duration = Duration::from_millis(250);

/// A line on the terminal, or nothing. Cheap to clone; all clones are the same line.
#[derive(Clone, Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Nothing at all.
    pub(super) fn hidden() -> Progress {
        Progress(ProgressBar::hidden())
    }

    /// The line of a build that is awaited.
    pub(super) fn waiting() -> Progress {
        Progress::drawn("{spinner} {msg} {elapsed}")
    }

    /// The line of artifacts that are fetched.
    pub(super) fn fetching() -> Progress {
        Progress::drawn("{spinner} fetching {bytes} ({bytes_per_sec})")
    }

    fn drawn(template: &str) -> Progress {
        // Draws to standard error, and only to a terminal.
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Progress(bar)
    }

    /// Says what is awaited.
    pub(super) fn phase(&self, text: &'static str) {
        self.0.set_message(text);
    }

    /// Some bytes more.
    pub(super) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Takes the line away for what `f` prints.
    pub(super) fn aside<T>(&self, f: impl FnOnce() -> T) -> T {
        self.0.suspend(f)
    }

    /// Takes the line away for good.
    pub(super) fn done(&self) {
        self.0.finish_and_clear();
    }
}
