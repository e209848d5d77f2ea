//! The private parsers of a server's answers, for the fuzz targets in `fuzz/`; not in any program.

use super::Event;
use super::events::Parser;

/// The events of a stream that arrives in these pieces.
pub fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Event> {
    let mut parser = Parser::default();
    for piece in pieces {
        parser.push(piece);
    }
    parser.ready.into()
}
