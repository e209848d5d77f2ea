//! The claim on a build path: it excludes other daemons and gives the build path a unique id.
//!
//! The claim is a lock that the kernel releases when its holder dies, for whatever reason. The instance id is
//! stored in the build path: Docker objects labelled with it belong to these builds. A secret is stored there
//! too, for signatures that must stay valid across a restart.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::error::{Error, disk_error};
use super::layout::Layout;
use super::random::random_hex;
use super::replace::{self, Durability};

/// A lock file holds a few hundred bytes; a larger file was not written by mistryd.
const MAX_LOCK_FILE_BYTES: u64 = 4 << 10;
/// The same for a file generated once.
const MAX_KEPT_FILE_BYTES: u64 = 4 << 10;
/// 256 bits: the size of the signatures made with it.
const SECRET_DIGITS: usize = 64;

/// The daemon that holds a build path, as written in its lock file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// The address it listens on, once it does: `HOST:PORT`, or `unix:///PATH`.
    pub address: Option<String>,
    /// An admin token, for programs that may read the lock file.
    pub token: Option<String>,
    /// systemd holds its sockets: a client that connects reaches the daemon or starts it.
    #[serde(default)]
    pub activated: bool,
}

/// The held lock, the instance id and the secret.
#[derive(Debug)]
pub(super) struct Claim {
    lock: File,
    path: PathBuf,
    instance: String,
    secret: Secret,
}

impl Claim {
    /// Takes the lock, and reads or generates the instance id and the secret.
    ///
    /// # Errors
    /// [`Error::Held`] when another daemon holds it.
    pub(super) fn take(layout: &Layout) -> Result<Claim, Error> {
        let path = layout.lock();
        let lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(disk_error("open the lock of the build path", &path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::Held {
                    path: layout.root().to_owned(),
                    by: holder(layout.root()).map_or_else(
                        || "it did not say who".to_owned(),
                        |holder| match holder.address {
                            Some(address) => format!("process {}, {address}", holder.pid),
                            None => format!("process {}", holder.pid),
                        },
                    ),
                });
            }
            Err(error) => return Err(disk_error("lock the build path", &path)(error.into())),
        }
        let instance = instance(layout).map_err(disk_error(
            "read the instance id",
            &layout.daemon_directory(),
        ))?;
        let secret =
            secret(layout).map_err(disk_error("make a secret", &layout.daemon_directory()))?;
        // The previous holder has released it. On a full disk its name stays in the file, which is wrong only
        // until the new name is written.
        let _ = lock.set_len(0);
        Ok(Claim {
            lock,
            path,
            instance,
            secret,
        })
    }

    /// Writes this process into the lock file, for other processes that want the build path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn announce(&self, holder: &Holder) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            let mut lock = &self.lock;
            lock.seek(SeekFrom::Start(0))?;
            lock.set_len(0)?;
            lock.write_all(&serde_json::to_vec(holder)?)
        };
        write().map_err(disk_error("write the lock of the build path", &self.path))
    }

    /// 32 hex digits.
    pub(super) fn instance(&self) -> &str {
        &self.instance
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Closing would suffice, except for a child that was forked and has not yet executed: for a moment it
        // holds a copy of the descriptor. A failure delays the release only by that moment.
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

/// The holder of the build path at `root`; `None` when none was written.
pub fn holder(root: &Path) -> Option<Holder> {
    let file = File::open(Layout::new(root).lock()).ok()?;
    let mut text = Vec::new();
    file.take(MAX_LOCK_FILE_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// A secret that only the daemons of a build path know; it is never printed.
pub struct Secret(String);

impl Secret {
    /// The bytes to mix into a key.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// A secret for tests.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of(text: &str) -> Secret {
        Secret(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Reads the instance id, or generates one that is unique to this build path.
fn instance(layout: &Layout) -> io::Result<String> {
    kept(&layout.instance(), 32, 0o640)
}

/// Reads the secret, or generates one. If it can be neither read nor stored, as on a full disk, it is valid
/// for this process only: browsers must send their token again after the next start, and everything else is
/// served.
fn secret(layout: &Layout) -> io::Result<Secret> {
    let kept = kept(&layout.secret(), SECRET_DIGITS, 0o600);
    Ok(Secret(kept.or_else(|_| random_digits(SECRET_DIGITS))?))
}

/// Hex digits that are generated at random once, and stored in a file with this mode.
fn kept(path: &Path, digits: usize, mode: u32) -> io::Result<String> {
    match read_kept(path, digits) {
        Ok(Some(text)) => return Ok(text),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // A power cut truncated the file: nothing carries half an id, so a new one loses nothing.
        _ => {}
    }
    let made = random_digits(digits)?;
    let line = format!("{made}\n");
    replace::replace(path, line.as_bytes(), mode, Durability::OnReturn)?;
    Ok(made)
}

/// `None` for a file with other content.
fn read_kept(path: &Path, digits: usize) -> io::Result<Option<String>> {
    let mut text = Vec::new();
    let file = File::open(path)?;
    file.take(MAX_KEPT_FILE_BYTES).read_to_end(&mut text)?;
    let text = text.trim_ascii();
    if text.len() != digits || !text.iter().all(u8::is_ascii_hexdigit) {
        return Ok(None);
    }
    Ok(String::from_utf8(text.to_owned()).ok())
}

/// `digits` random hex digits; 32 or a multiple.
fn random_digits(digits: usize) -> io::Result<String> {
    let mut made = String::new();
    while made.len() < digits {
        made.push_str(&random_hex()?);
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_created_once_is_private_and_is_never_printed() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new(home.path());
        std::fs::create_dir(layout.daemon_directory()).unwrap();
        let made = secret(&layout).unwrap();
        assert_eq!(made.as_bytes().len(), SECRET_DIGITS);
        assert_eq!(secret(&layout).unwrap().as_bytes(), made.as_bytes());
        let mode = std::fs::metadata(layout.secret()).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        assert!(!format!("{made:?}").contains(&made.0));
        // A truncated secret is none.
        std::fs::write(layout.secret(), &made.0[1..]).unwrap();
        let again = secret(&layout).unwrap();
        assert_ne!(again.as_bytes(), made.as_bytes());
        assert_ne!(again.0, instance(&layout).unwrap().repeat(2));
        assert_eq!(secret(&layout).unwrap().as_bytes(), again.as_bytes());
    }

    #[test]
    fn a_secret_that_cannot_be_stored_is_valid_for_this_process_only() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new(home.path());
        std::fs::create_dir_all(layout.secret()).unwrap();
        let (one, other) = (secret(&layout).unwrap(), secret(&layout).unwrap());
        assert_eq!(one.as_bytes().len(), SECRET_DIGITS);
        assert_ne!(one.as_bytes(), other.as_bytes());
    }
}
