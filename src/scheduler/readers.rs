//! The turns of reads for clients, by kind.

use crate::turns::{self, Turns};

/// The turns of each kind.
#[derive(Debug)]
pub(super) struct Readers {
    pub(super) reads: Turns,
    pub(super) builders: Turns,
    pub(super) walks: Turns,
    pub(super) records: Turns,
    pub(super) directories: Turns,
    /// Turns for finding where the lines of a log begin, when a page of it is opened. It does not wait for
    /// searches, which are sent at each key that is typed.
    pub(super) indexing: Turns,
    /// Turns for searching a text in a log.
    pub(super) finding: Turns,
    pub(super) handing_out: Turns,
}

impl Default for Readers {
    fn default() -> Readers {
        Readers {
            reads: Turns::new(turns::READS),
            builders: Turns::new(turns::BUILDERS),
            walks: Turns::new(turns::WALKS),
            records: Turns::new(turns::RECORDS),
            directories: Turns::new(turns::DIRECTORIES),
            indexing: Turns::new(turns::SCANS),
            finding: Turns::new(turns::SCANS),
            handing_out: Turns::new(turns::HANDING_OUT),
        }
    }
}
