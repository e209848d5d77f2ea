//! The program's output: results to standard output, messages to standard error.

use std::io::{self, Write};

use super::Error;
use crate::screen;

/// Prints one line to standard error. A closed standard error is ignored.
pub(super) fn print_message(line: &str) {
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
    writeln!(io::stdout(), "{}", screen::line(line)).map_err(Error::Output)
}

/// Prints one JSON document to standard output.
pub(super) fn print_json(value: &serde_json::Value) -> Result<(), Error> {
    print_line(&screen::json(value))
}

/// Prints rows under a header to standard output, each column as wide as its longest cell.
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
