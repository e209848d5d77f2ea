//! Finds the user of a container in its `/etc/passwd`.
//!
//! The file comes from the image, so it may be hostile: its size, links and time are bounded. The Engine
//! resolves links and never leaves the container.

use std::io::Read;

use bollard::query_parameters::DownloadFromContainerOptions;
use futures_util::StreamExt;
use tar::EntryType;

use super::engine::{CALL_TIMEOUT, Docker, refusal};
use super::error::{Cause, Error};

const PASSWD: &str = "/etc/passwd";

/// Bytes of the file that are read: 10,000 users.
const MAX_PASSWD: usize = 1 << 20;

/// Links that are followed from `/etc/passwd` to the file: as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// The entry at a path in a container.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    File(Vec<u8>),
    Link(String),
    /// Nothing readable.
    Nothing,
}

impl Docker {
    /// The home directory of user number `user` in the container's `/etc/passwd`; `None` if no entry has one.
    /// The container need not run.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Unreachable`], [`Error::Api`].
    pub async fn home_of(&self, container: &str, user: u32) -> Result<Option<String>, Error> {
        let mut path = PASSWD.to_owned();
        for _ in 0..=MAX_LINKS {
            match self.read(container, &path).await? {
                Found::File(text) => return Ok(home_in(&text, user)),
                Found::Nothing => return Ok(None),
                Found::Link(target) => path = target_of(&path, &target),
            }
        }
        Ok(None)
    }

    async fn read(&self, container: &str, path: &str) -> Result<Found, Error> {
        let operation = "reading the users of a container";
        let client = self.client(operation).await?;
        let options = DownloadFromContainerOptions {
            path: path.to_owned(),
        };
        let reading = async {
            let mut pieces = Box::pin(client.download_from_container(container, Some(options)));
            let mut archive = Vec::new();
            while let Some(piece) = pieces.next().await {
                archive.extend_from_slice(&piece?);
                // The headers are additional.
                if archive.len() > 2 * MAX_PASSWD {
                    break;
                }
            }
            Ok(archive)
        };
        match self.within(CALL_TIMEOUT, operation, reading).await? {
            Ok(archive) => Ok(first_of(&archive)),
            Err(error) => match (self.failed_on(operation, container, error), path) {
                (error @ Error::NoSuchContainer(_), _) => Err(error),
                (Error::Api { source, .. }, _) if is_missing(&source) => Ok(Found::Nothing),
                (error, _) => Err(error),
            },
        }
    }
}

/// Whether the Engine reports that the container has no such path.
fn is_missing(source: &Cause) -> bool {
    let error = source.downcast_ref();
    error
        .and_then(refusal)
        .is_some_and(|(status, _)| status == 404)
}

/// The first entry of an archive, which may be truncated.
pub(super) fn first_of(archive: &[u8]) -> Found {
    let mut archive = tar::Archive::new(archive);
    let Some(Ok(entry)) = archive
        .entries()
        .ok()
        .and_then(|mut entries| entries.next())
    else {
        return Found::Nothing;
    };
    match entry.header().entry_type() {
        EntryType::Regular | EntryType::Continuous => {
            let mut text = Vec::new();
            let mut bounded = entry.take(MAX_PASSWD as u64);
            match bounded.read_to_end(&mut text) {
                Ok(_) => Found::File(text),
                Err(_) => Found::Nothing,
            }
        }
        EntryType::Symlink => match entry.link_name_bytes() {
            Some(target) => Found::Link(String::from_utf8_lossy(&target).into_owned()),
            None => Found::Nothing,
        },
        _ => Found::Nothing,
    }
}

/// The path that a link at `path` leads to.
pub(super) fn target_of(path: &str, target: &str) -> String {
    match (target.starts_with('/'), path.rsplit_once('/')) {
        (false, Some((parent, _))) => format!("{parent}/{target}"),
        _ => target.to_owned(),
    }
}

/// The home of the first entry with this number, parsed as the Engine's runtime does: a line without a number
/// is one of user 0.
pub(super) fn home_in(text: &[u8], user: u32) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let entry = lines.find(|line| {
        let number = line
            .split(':')
            .nth(2)
            .and_then(|number| number.parse().ok());
        number.unwrap_or(0_i64) == i64::from(user)
    })?;
    let home = entry.split(':').nth(5).unwrap_or("");
    (!home.is_empty()).then(|| home.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_by_its_number() {
        let text = b"root:x:0:0:root:/root:/bin/sh\n\n  node:x:1000:1000::/home/node:/bin/sh\nx:x:7:7::\ny:x:7:7::/y:\n";
        for (user, home) in [
            (0, Some("/root")),
            (1000, Some("/home/node")),
            (7, None),
            (1, None),
        ] {
            assert_eq!(home_in(text, user).as_deref(), home, "{user}");
        }
        assert_eq!(home_in(b"", 0), None);
        assert_eq!(home_in(&[0xff; 100], 1), None);
    }

    #[test]
    fn the_readable_part_of_a_truncated_archive_is_used() {
        for hostile in [&b""[..], &[0xff; 2000], &[0; 700]] {
            assert_eq!(first_of(hostile), Found::Nothing);
        }
        let mut tar = tar::Builder::new(Vec::new());
        let mut head = tar::Header::new_gnu();
        head.set_size(5);
        tar.append_data(&mut head, "passwd", &b"a:b:c"[..]).unwrap();
        let whole = tar.into_inner().unwrap();
        assert_eq!(first_of(&whole), Found::File(b"a:b:c".to_vec()));
        assert_eq!(first_of(&whole[..514]), Found::File(b"a:".to_vec()));
    }

    #[test]
    fn a_relative_link_starts_at_its_own_directory() {
        assert_eq!(target_of("/etc/passwd", "../x"), "/etc/../x");
        assert_eq!(target_of("/etc/passwd", "/x"), "/x");
    }
}
