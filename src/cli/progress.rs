//! The progress line on a terminal; hidden when standard error is not a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the elapsed time is redrawn.
const REDRAW_INTERVAL: Duration = Duration::from_millis(250);

/// A progress line, possibly hidden. Cheap to clone; all clones are the same line.
#[derive(Clone, Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A line that is never drawn.
    pub(super) fn hidden() -> Progress {
        Progress(ProgressBar::hidden())
    }

    /// The line while a build is awaited.
    pub(super) fn waiting() -> Progress {
        Progress::with_template("{spinner} {prefix} {elapsed}  {wide_msg}")
    }

    /// The line while artifacts are fetched.
    pub(super) fn fetching() -> Progress {
        Progress::with_template("{spinner} fetching {bytes} ({bytes_per_sec})")
    }

    fn with_template(template: &str) -> Progress {
        // Draws to standard error, and only to a terminal.
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template(template) {
            // ASCII, since the terminal may know nothing else.
            bar.set_style(style.tick_chars("|/-\\ "));
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(REDRAW_INTERVAL);
        }
        Progress(bar)
    }

    /// Sets the beginning of the line.
    pub(super) fn set_phase(&self, text: &str) {
        self.0.set_prefix(text.to_owned());
    }

    /// Sets the end of the line, which is cut where the terminal ends. It must be harmless there.
    pub(super) fn set_last_line(&self, text: &str) {
        if !self.0.is_hidden() {
            self.0.set_message(text.to_owned());
        }
    }

    /// Counts bytes that were fetched.
    pub(super) fn add_bytes(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Hides the line while `f` prints.
    pub(super) fn suspend<T>(&self, f: impl FnOnce() -> T) -> T {
        self.0.suspend(f)
    }

    /// Removes the line.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
