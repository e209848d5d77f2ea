//! What the targets share: inputs in parts, and directories of their own.

use tempfile::TempDir;

/// The first lines of `data`, without their ends; empty where there are fewer. A header or a name cannot
/// hold a line end, so the seeds can be read and written as texts.
pub fn lines<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut found = [&[][..]; N];
    for (place, line) in found.iter_mut().zip(data.splitn(N, |byte| *byte == b'\n')) {
        *place = line;
    }
    found
}

/// A directory that is removed when the value is dropped. `fuzz/run` has them all in memory where the
/// host has a place for that, and removes what a trial that has ended its process leaves.
///
/// # Panics
/// Where none can be made.
pub fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory of the trial's own")
}
