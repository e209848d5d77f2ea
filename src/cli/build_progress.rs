//! What is shown while a build is awaited: on a terminal a line that moves, elsewhere a line at intervals.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::format::format_duration;
use super::output::{print_message, set_in_line};
use super::progress::Progress;
use crate::job::{JobId, Phase};
use crate::screen::{self, LogView};

/// How often a line is printed where there is no terminal: CI systems end programs that print nothing for some
/// minutes.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);
/// The place of a job that has no slot after this time is printed; most get one at once.
const QUEUE_NOTICE: Duration = Duration::from_secs(2);
/// Bytes of the last line of a log that are kept, and characters that are printed.
const MAX_LINE_BYTES: usize = 1 << 10;
const MAX_LINE_CHARS: usize = 160;

/// What a job does, in words.
pub(super) fn phase_text(phase: Option<Phase>) -> &'static str {
    match phase {
        Some(Phase::Queued) => WAITING_FOR_SLOT,
        Some(Phase::Preparing) => "preparing",
        Some(Phase::Imaging) => "building the image",
        Some(Phase::Running) => "building",
        Some(Phase::Finishing) | None => "finishing",
    }
}

const WAITING_FOR_SLOT: &str = "waiting for a slot";

/// The progress of one build. Shared by the task that reads and the one that reports.
#[derive(Debug)]
pub(super) struct BuildProgress {
    /// Hidden where the log is printed.
    bar: Progress,
    is_terminal: bool,
    prints_log: bool,
    log: RefCell<LogView<io::Stderr>>,
    start: Instant,
    phase: Cell<&'static str>,
    /// `3rd of 5`, while the job waits for a slot.
    place: RefCell<String>,
    last_line: RefCell<String>,
    /// When a line was printed last.
    printed: Cell<Instant>,
    /// The job, if its state must be requested because no stream brings it.
    pub(super) requested: Cell<Option<JobId>>,
    /// The job, once it is accepted.
    pub(super) accepted: Cell<Option<JobId>>,
}

impl BuildProgress {
    pub(super) fn new(prints_log: bool) -> BuildProgress {
        let bar = match prints_log {
            true => Progress::hidden(),
            false => Progress::waiting(),
        };
        BuildProgress {
            bar,
            is_terminal: io::stderr().is_terminal(),
            prints_log,
            log: RefCell::new(LogView::on_stderr()),
            start: Instant::now(),
            phase: Cell::new(""),
            place: RefCell::default(),
            last_line: RefCell::default(),
            printed: Cell::new(Instant::now()),
            requested: Cell::new(None),
            accepted: Cell::new(None),
        }
    }

    pub(super) fn set_phase(&self, text: &'static str) {
        self.phase.set(text);
        if text != WAITING_FOR_SLOT {
            self.place.borrow_mut().clear();
        }
        self.draw();
    }

    /// Sets the phase of a job that the server has accepted.
    pub(super) fn set_job_phase(&self, phase: Option<Phase>, is_stopping: bool) {
        self.set_phase(match is_stopping {
            true => "stopping",
            false => phase_text(phase),
        });
    }

    pub(super) fn is_waiting_for_slot(&self) -> bool {
        self.phase.get() == WAITING_FOR_SLOT
    }

    /// Sets the place of a job that waits: `place` of `all`, from 1. `addition` says more about the queue.
    pub(super) fn set_place(&self, place: usize, all: usize, addition: &str) {
        *self.place.borrow_mut() = format!("{} of {all} in the queue{addition}", ordinal(place));
        self.draw();
    }

    /// Takes a piece of the log; its last line is shown.
    pub(super) fn set_log(&self, bytes: &[u8]) {
        let mut lines = bytes.rsplit(|byte| *byte == b'\n');
        let Some(line) = lines.find(|line| !line.trim_ascii().is_empty()) else {
            return;
        };
        let line = &line[..line.len().min(MAX_LINE_BYTES)];
        *self.last_line.borrow_mut() = screen::plain(&String::from_utf8_lossy(line));
        self.bar.set_last_line(&self.last_line.borrow());
    }

    /// Prints a piece of the log. A closed standard error is no reason to give up the build.
    pub(super) fn print_log(&self, bytes: &[u8]) {
        let _ = self.log.borrow_mut().push(bytes);
        self.record_printed();
    }

    fn record_printed(&self) {
        self.printed.set(Instant::now());
    }

    /// Prints a message on a line of its own, above the moving line.
    pub(super) fn message(&self, text: &str) {
        self.record_printed();
        let _ = self.log.borrow_mut().begin_line();
        self.bar.suspend(|| print_message(text));
    }

    /// Hides the moving line while `f` prints.
    pub(super) fn suspend<T>(&self, f: impl FnOnce() -> T) -> T {
        self.bar.suspend(f)
    }

    /// Removes the moving line. A message after the log begins a line, and without one its bytes stay as they are.
    pub(super) fn finish(&self) {
        self.bar.finish();
        let mut log = self.log.borrow_mut();
        let _ = log.finish();
        set_in_line(log.is_in_line());
    }

    fn draw(&self) {
        self.bar.set_phase(&self.phase_and_place());
    }

    fn phase_and_place(&self) -> String {
        let place = self.place.borrow();
        match place.as_str() {
            "" => self.phase.get().to_owned(),
            place => format!("{} ({place})", self.phase.get()),
        }
    }

    /// Prints the place of a job that waits, and then a line whenever nothing was printed for a while.
    /// `refresh` brings what no stream does. Ends only with the task.
    pub(super) async fn report(&self, refresh: impl AsyncFn(), print: impl Fn(&str)) -> Infallible {
        sleep_until(self.start + QUEUE_NOTICE).await;
        refresh().await;
        if self.is_waiting_for_slot() && !self.place.borrow().is_empty() {
            print(&capitalized(&self.phase_and_place()));
        }
        loop {
            sleep_until(self.printed.get() + REPORT_INTERVAL).await;
            if self.printed.get().elapsed() < REPORT_INTERVAL {
                continue;
            }
            self.record_printed();
            refresh().await;
            if !self.is_terminal || self.prints_log {
                print(&self.report_line());
            }
        }
    }

    /// `After 1 m 30 s: building; last line of the log: npm install`.
    fn report_line(&self) -> String {
        let elapsed = i64::try_from(self.start.elapsed().as_nanos()).unwrap_or(i64::MAX);
        let mut text = format!("After {}: ", format_duration(elapsed));
        text.push_str(&self.phase_and_place());
        let line = self.last_line.borrow();
        if !line.is_empty() && !self.prints_log {
            let shown: String = line.chars().take(MAX_LINE_CHARS).collect();
            text.push_str(&format!("; last line of the log: {shown}"));
        }
        text
    }
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// `1st`, `2nd`, `11th`.
fn ordinal(n: usize) -> String {
    let ending = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that are printed in this time, while `work` goes on.
    async fn reported(progress: &BuildProgress, seconds: u64, work: impl Future) -> Vec<String> {
        let lines = RefCell::new(Vec::new());
        let refresh = async || {
            if progress.is_waiting_for_slot() {
                progress.set_place(3, 5, "");
            }
        };
        let print = |line: &str| lines.borrow_mut().push(line.to_owned());
        let report = progress.report(refresh, print);
        let both = async { tokio::join!(report, work) };
        let _ = tokio::time::timeout(Duration::from_secs(seconds), both).await;
        lines.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_printed_every_thirty_seconds() {
        let progress = BuildProgress::new(false);
        progress.set_phase("building");
        progress.set_log(b"\x1b[31mone\x1b[0m\n\rtwo\x1b]0;x\n\n");
        let lines = reported(&progress, 61, async {}).await;
        assert_eq!(
            lines,
            [
                "After 30 s: building; last line of the log: two^[]0;x",
                "After 1 m 0 s: building; last line of the log: two^[]0;x"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_is_printed_needs_no_lines_but_its_silence_does() {
        let progress = BuildProgress::new(true);
        progress.set_phase("building");
        let printing = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(10)).await;
                progress.set_log(b"one\n");
                progress.record_printed();
            }
        };
        let lines = reported(&progress, 131, printing).await;
        assert_eq!(lines, ["After 2 m 10 s: building"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_place_of_a_job_that_waits_is_printed() {
        let progress = BuildProgress::new(false);
        progress.set_phase(phase_text(Some(Phase::Queued)));
        let lines = reported(&progress, 31, async {}).await;
        assert_eq!(
            lines,
            [
                "Waiting for a slot (3rd of 5 in the queue)",
                "After 30 s: waiting for a slot (3rd of 5 in the queue)"
            ]
        );
        progress.set_phase("building");
        assert_eq!(progress.phase_and_place(), "building");
    }

    #[test]
    fn places_are_counted_in_english() {
        let words = [1, 2, 3, 4, 11, 12, 13, 21, 111].map(ordinal);
        let expected = [
            "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "111th",
        ];
        assert_eq!(words, expected);
    }
}
