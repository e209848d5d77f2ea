//! The output of `mistryd` on its terminal.

use std::io::{self, Write};

use crate::screen;

/// Prints the result of a command line that is no [`Command`]: help goes to standard output, errors to
/// standard error. An error quotes the arguments, which may be untrusted.
pub fn print_usage(error: &clap::Error) {
    let text = error.render();
    // If one of the two is closed, there is no reader.
    match error.use_stderr() && screen::is_steering(&text.ansi().to_string()) {
        true => _ = write!(io::stderr(), "{}", screen::line(&text.to_string())),
        false => _ = error.print(),
    }
}

/// Prints one line on standard error. It may quote output of a build, Docker or a client.
pub(super) fn print_error(line: &str) {
    // A closed standard error is no reason to fail.
    let _ = writeln!(io::stderr(), "mistryd: {}", screen::line(line));
}

/// Prints one line on standard output, likewise.
pub(super) fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{}", screen::line(line));
}
