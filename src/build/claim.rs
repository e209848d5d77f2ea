//! The claim on a build path: one daemon at a time, and a name that only it has.
//!
//! The claim is a lock that the kernel lets go when its holder dies, whatever it dies of. The
//! instance id stays with the build path: what carries it in Docker belongs to these builds.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::store::{Error, doing, random_hex};

/// What the lock file holds is a few hundred bytes; more is not ours.
const MAX_LOCK: u64 = 4 << 10;

/// Who holds a build path, as written in its lock file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// Where it listens, once it does: `HOST:PORT`, or `unix:///PATH`.
    pub address: Option<String>,
    /// A token with every right, for programs that may read the lock file.
    pub token: Option<String>,
    /// systemd holds its sockets: who connects there finds a daemon, or starts one.
    #[serde(default)]
    pub activated: bool,
}

/// The lock, held, and the instance id.
#[derive(Debug)]
pub(super) struct Claim {
    lock: File,
    instance: String,
}

impl Claim {
    /// Takes the lock, and reads the instance id or makes one.
    ///
    /// # Errors
    /// [`Error::Held`] when another daemon has it.
    pub(super) fn take(layout: &Layout) -> Result<Claim, Error> {
        let lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(layout.lock())
            .map_err(doing("open the lock of the build path"))?;
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
            Err(error) => return Err(Error::Disk("lock the build path", error.into())),
        }
        let instance = instance(layout).map_err(doing("read the instance id"))?;
        // Who held it before holds it no more. On a full disk that stays written, which misleads
        // only whoever asks in this moment.
        let _ = lock.set_len(0);
        Ok(Claim { lock, instance })
    }

    /// Writes into the lock file who we are, for others that want the build path.
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
        write().map_err(doing("write the lock of the build path"))
    }

    /// 32 hex digits.
    pub(super) fn instance(&self) -> &str {
        &self.instance
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Closing would do, but for a child that was forked and has not yet executed: it holds
        // a copy of the descriptor for a moment. A failure leaves just that moment.
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

/// Who holds the build path at `root`; `None` when nobody has said.
pub fn holder(root: &Path) -> Option<Holder> {
    let file = File::open(Layout::new(root).lock()).ok()?;
    let mut text = Vec::new();
    file.take(MAX_LOCK).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Reads the instance id, or makes one that no other build path has.
fn instance(layout: &Layout) -> io::Result<String> {
    let path = layout.instance();
    match std::fs::read_to_string(&path) {
        Ok(text)
            if text.trim().len() == 32 && text.trim().bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            return Ok(text.trim().to_owned());
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // Torn by a power cut: nothing can carry half an id, so a new one loses nothing.
        _ => {}
    }
    let made = random_hex()?;
    let new = layout.own().join("instance.new");
    let mut file = File::create(&new)?;
    writeln!(file, "{made}")?;
    file.sync_all()?;
    std::fs::rename(&new, &path)?;
    File::open(layout.own())?.sync_all()?;
    Ok(made)
}
