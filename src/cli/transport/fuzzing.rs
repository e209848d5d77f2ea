//! The parser of a server's tar, for the fuzz targets in `fuzz/`; not in any program.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::target::Target;
use super::unpack;
use crate::cli::progress::Progress;

/// Unpacks `tar` into the directory at `target`, and counts the files and links that were written.
///
/// # Errors
/// The error message.
pub fn unpack(tar: &[u8], target: &Path) -> Result<u64, String> {
    let cancelled = CancellationToken::new();
    let opened = Target::open(target, Progress::hidden(), cancelled);
    let mut target = opened.map_err(|error| error.to_string())?;
    unpack::unpack(tar, &mut target).map_err(|error| error.to_string())?;
    Ok(target.files())
}
