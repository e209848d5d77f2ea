//! Replaces small files as a whole: the new file is written beside the old one, synced, renamed over it.
//!
//! The content is on the disk before the rename is. A filesystem may write a rename before the data of the
//! renamed file (XFS and ext4 with `noauto_da_alloc` do); without the sync, a power cut between the two would
//! replace a complete file with an empty one.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The state of the file after a power cut right after the return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// The old file or the new one, each complete.
    Whole,
    /// The new file.
    OnReturn,
}

/// Replaces the file at `path` by one with this content and mode.
///
/// # Errors
/// When the disk fails; the old file is still there then.
pub(super) fn replace(
    path: &Path,
    content: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    replace_by(path, &beside(path), content, mode, durability)
}

/// The same, where the new file has this path before its rename.
///
/// # Errors
/// When the disk fails; the old file is still there then.
pub(super) fn replace_by(
    path: &Path,
    new: &Path,
    content: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    // A partial file of a previous process may have another mode, or be a link.
    match std::fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(new)?;
    file.write_all(content)?;
    file.sync_data()?;
    std::fs::rename(new, path)?;
    if durability == Durability::OnReturn
        && let Some(directory) = path.parent()
    {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// The path of a file before its rename.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_leftover_temporary_file_does_not_affect_a_replacement() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let elsewhere = dir.path().join("elsewhere");
        std::fs::write(&elsewhere, "kept").unwrap();
        std::os::unix::fs::symlink(&elsewhere, beside(&path)).unwrap();
        for (content, durability) in [("one", Durability::Whole), ("two", Durability::OnReturn)] {
            replace(&path, content.as_bytes(), 0o600, durability).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(!beside(&path).exists());
        }
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "kept");
    }
}
