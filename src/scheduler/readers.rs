//! The limiters of reads for clients, by kind.

use crate::read_limiter::{self, ReadLimiter};

/// The limiter of each kind.
#[derive(Debug)]
pub(super) struct Readers {
    pub(super) reads: ReadLimiter,
    pub(super) builders: ReadLimiter,
    pub(super) index_walks: ReadLimiter,
    pub(super) records: ReadLimiter,
    pub(super) directories: ReadLimiter,
    /// For finding where the lines of a log begin, when a page of it is opened. It does not wait for
    /// searches, which are sent at each key that is typed.
    pub(super) indexing: ReadLimiter,
    /// For searching a text in a log.
    pub(super) finding: ReadLimiter,
    pub(super) artifact_transfers: ReadLimiter,
}

impl Default for Readers {
    fn default() -> Readers {
        Readers {
            reads: ReadLimiter::new(read_limiter::READS),
            builders: ReadLimiter::new(read_limiter::BUILDERS),
            index_walks: ReadLimiter::new(read_limiter::INDEX_WALKS),
            records: ReadLimiter::new(read_limiter::RECORDS),
            directories: ReadLimiter::new(read_limiter::DIRECTORIES),
            indexing: ReadLimiter::new(read_limiter::SCANS),
            finding: ReadLimiter::new(read_limiter::SCANS),
            artifact_transfers: ReadLimiter::new(read_limiter::ARTIFACT_TRANSFERS),
        }
    }
}
