//! The file with the credentials of image registries (`registry_auth`). It is read at each image build, so a new
//! password needs no reload.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::docker::{MAX_REGISTRIES_FILE, Registries};

/// Begins the sentence for clients about a file that cannot be used; its path is none of their business.
pub(super) const FAILED: &str =
    "the credentials of image registries (registry_auth in mistryd's configuration) cannot be used";

/// Reads the file.
///
/// # Errors
/// The end of a sentence, without a path and without credentials.
pub(super) fn read(path: &Path) -> Result<Registries, String> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| {
        let is_file = file.metadata()?.is_file();
        if !is_file {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        file.take(MAX_REGISTRIES_FILE as u64 + 1)
            .read_to_end(&mut text)
    });
    match read {
        Ok(_) => Registries::parse(&text),
        Err(error) => Err(format!(
            "{error}; it must be a file that the user of mistryd may read"
        )),
    }
}

/// What is wrong with the file as it is now, for the administrator.
pub fn registry_auth_warnings(path: &Path) -> Vec<String> {
    let shown = path.display();
    let mut warnings = Vec::new();
    if let Err(wrong) = read(path) {
        warnings.push(format!(
            "registry_auth: '{shown}': {wrong}; no image can be built until that is mended"
        ));
    }
    let mode = std::fs::metadata(path).map_or(0, |found| found.permissions().mode());
    if mode & 0o077 != 0 {
        warnings.push(format!(
            "registry_auth: '{shown}' has passwords and can be read by other users (mode {:04o}): chmod 0600, and make the user of mistryd its owner",
            mode & 0o7777
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_is_now_and_what_is_wrong_is_said_without_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        let missing = read(&path).unwrap_err();
        assert!(
            missing.contains("may read") && !missing.contains("auth.json"),
            "{missing}"
        );
        assert!(read(dir.path()).unwrap_err().contains("not a regular file"));
        let auths = r#"{"auths":{"r.example":{"auth":"dTpw"}}}"#;
        std::fs::write(&path, auths).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(read(&path).unwrap().has("r.example/x"));
        let open = registry_auth_warnings(&path);
        assert!(open.len() == 1 && open[0].contains("mode 0640"), "{open:?}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(registry_auth_warnings(&path).is_empty());
        std::fs::write(&path, "{}").unwrap();
        let wrong = registry_auth_warnings(&path);
        assert!(
            wrong.len() == 1 && wrong[0].contains("has no credentials"),
            "{wrong:?}"
        );
    }
}
