//! The program's output: results to standard output, messages to standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Error;
use crate::screen;

/// A log on standard error did not end its last line.
static IS_IN_LINE: AtomicBool = AtomicBool::new(false);

/// Says whether a log on standard error did not end its last line: the next message does.
pub(super) fn set_in_line(is_in_line: bool) {
    IS_IN_LINE.store(is_in_line, Ordering::Relaxed);
}

fn begin_line() {
    if IS_IN_LINE.swap(false, Ordering::Relaxed) {
        let _ = writeln!(io::stderr());
    }
}

/// Prints one line to standard error. A closed standard error is ignored.
pub(super) fn print_message(line: &str) {
    begin_line();
    let _ = writeln!(io::stderr(), "{}", screen::line(line));
}

/// Prints what a build wrote to standard error. A closed standard error is ignored.
pub(super) fn print_log(text: &[u8]) {
    let mut view = screen::LogView::on_stderr();
    let printed = view.push(text).and_then(|()| view.finish());
    let _ = printed.and_then(|()| view.begin_line());
}

/// Prints one line to standard output.
pub(super) fn print_line(line: &str) -> Result<(), Error> {
    // Both are shown on one terminal.
    if io::stderr().is_terminal() {
        begin_line();
    }
    writeln!(io::stdout(), "{}", screen::line(line)).map_err(Error::Output)
}

/// Prints one JSON document to standard output.
pub(super) fn print_json(value: &serde_json::Value) -> Result<(), Error> {
    print_line(&screen::json(value))
}

/// A table on a terminal of fewer columns, where it does not fit, cannot be read.
const MIN_TABLE_COLUMNS: usize = 60;

/// Prints rows under a header to standard output, each column as wide as its longest cell. On a narrow terminal,
/// each cell is on a line of its own, with its header.
pub(super) fn print_table<const N: usize>(
    header: [&str; N],
    rows: &[[String; N]],
) -> Result<(), Error> {
    let clean: Vec<[String; N]> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| screen::cell(cell)))
        .collect();
    let width = |column: usize| {
        let cells = clean.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(header[column].len())
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let columns = terminal_columns().unwrap_or(MIN_TABLE_COLUMNS);
    let is_narrow = columns < MIN_TABLE_COLUMNS;
    if is_narrow && !clean.is_empty() && columns < widths.iter().map(|width| width + 2).sum() {
        return print_cells(header, &clean);
    }
    let print = |row: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        print_line(line.trim_end())
    };
    print(header)?;
    clean
        .iter()
        .try_for_each(|row| print(row.each_ref().map(String::as_str)))
}

/// The cells that are not empty, a line each; an empty line divides the rows.
fn print_cells<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> Result<(), Error> {
    for (at, row) in rows.iter().enumerate() {
        if at > 0 {
            print_line("")?;
        }
        for (name, cell) in header.iter().zip(row).filter(|(_, cell)| !cell.is_empty()) {
            print_line(&format!("{name}: {cell}"))?;
        }
    }
    Ok(())
}

/// How wide the terminal on standard output is; `None` if there is none, or it does not know.
fn terminal_columns() -> Option<usize> {
    let to = io::stdout();
    let size = to.is_terminal().then(|| rustix::termios::tcgetwinsize(&to));
    let columns = usize::from(size?.ok()?.ws_col);
    (columns > 0).then_some(columns)
}
