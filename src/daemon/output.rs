//! What `mistryd` prints for the person who started it.

use std::io::{self, Write};

use crate::screen;

/// Prints what the command line was instead of a [`Command`]: help goes to standard output, mistakes to
/// standard error. A mistake quotes what was typed, which may come from elsewhere.
pub fn print_usage(error: &clap::Error) {
    let text = error.render();
    // Where one of the two cannot be written to, there is no reader.
    match error.use_stderr() && screen::is_steering(&text.ansi().to_string()) {
        true => _ = write!(io::stderr(), "{}", screen::line(&text.to_string())),
        false => _ = error.print(),
    }
}

/// Prints one line on standard error. It may quote what a build, Docker or a client wrote.
pub(super) fn print_error(line: &str) {
    // A standard error that is gone is no reason to fail.
    let _ = writeln!(io::stderr(), "mistryd: {}", screen::line(line));
}

/// Prints one line on standard output, likewise.
pub(super) fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{}", screen::line(line));
}
