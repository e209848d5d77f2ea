//! Transport rsync: from an rsync daemon on the server's host, module `mistry`, which is rooted
//! at the server's build path.
//!
//! rsync itself writes beside and renames, and does not follow links in the target. It would give the
//! target the mode of the artifacts directory, which is no artifact: the target gets back its own.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::child::run;
use super::descent::Descent;
use super::local::names;
use super::target::open_for_entries;
use super::{Error, Fetched, Transport, blocking};
use crate::job::JobId;
use crate::project::ProjectName;

/// What is fetched from where.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub host: &'a str,
    pub user: Option<&'a str>,
    pub port: Option<u16>,
    pub project: &'a ProjectName,
    pub id: JobId,
}

/// Where it goes.
#[derive(Debug)]
struct Destination {
    /// Absolute, so that rsync does not take it for `host:path` or an option.
    path: PathBuf,
    delete: bool,
    /// There is nothing in it.
    is_empty: bool,
}

pub(super) async fn fetch(source: Source<'_>, transport: &Transport) -> Result<Fetched, Error> {
    transport.make_target()?;
    let path = transport.absolute()?;
    let delete = transport.clear_target;
    let (destination, target) = {
        let transport = transport.clone();
        blocking(move || {
            let unwritable = |error| transport.unwritable(error);
            if delete {
                // rsync cannot look into directories that are closed to it, and would keep them.
                open_closed_below(&path).map_err(|error| unwritable(error.into()))?;
            }
            let is_empty = std::fs::read_dir(&path)
                .map_err(unwritable)?
                .next()
                .is_none();
            let destination = Destination {
                path,
                delete,
                is_empty,
            };
            let target = KeptMode::of(&destination.path).map_err(unwritable)?;
            if !target.is_ours() {
                let what = "the target is another user's, and rsync would set its mode";
                return Err(Error::Unusable(format!("{what}; take another transport")));
            }
            Ok((destination, target))
        })
        .await?
    };
    run("rsync", arguments(&source, &destination), target).await?;
    Ok(Fetched::default())
}

/// The arguments of rsync. The directory itself is synchronised, so dot files come along, no
/// files are no error, and `--delete` removes everything that does not belong there.
fn arguments(source: &Source<'_>, to: &Destination) -> Vec<OsString> {
    // Recursive, with times, links, modes, hard links and holes. Times are the same only when they are
    // to the nanosecond; without the window, a time of the same second would be left as it is.
    let mut arguments: Vec<OsString> = vec!["-rtlpHS".into(), "--modify-window=-1".into()];
    if !to.is_empty {
        // Builds may fix all times, and files in the target may have been changed: a file of the same
        // size and time is not the same. Reading both ends is cheaper than `--ignore-times`, which
        // reads them as well and writes every file anew. With nothing to compare, it would only make
        // the server read everything twice.
        arguments.push("--checksum".into());
    }
    if to.delete {
        arguments.push("--delete".into());
    }
    if let Some(port) = source.port {
        arguments.push(format!("--port={port}").into());
    }
    // What a build wrote shall not run as somebody else here.
    arguments.push("--chmod=ug-s,o-t".into());
    arguments.push("--".into());
    let user = source.user.map_or(String::new(), |user| format!("{user}@"));
    let host = match source.host {
        v6 if v6.contains(':') => format!("[{v6}]"),
        host => host.to_owned(),
    };
    let (project, id) = (source.project, source.id);
    arguments.push(format!("{user}{host}::mistry/{project}/ready/{id}/data/artifacts/").into());
    let mut target = to.path.as_os_str().to_owned();
    target.push("/");
    arguments.push(target);
    arguments
}

/// Gives the caller all rights in those directories below `root` that are theirs.
///
/// # Errors
/// When the root cannot be opened. What cannot be opened below it is left to rsync to tell.
fn open_closed_below(root: &Path) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut descent = Descent::new(rustix::fs::open(root, flags, Mode::empty())?)?;
    let mut pending = vec![names(descent.here())?];
    while let Some(level) = pending.last_mut() {
        let Some(name) = level.pop() else {
            pending.pop();
            descent.leave()?;
            continue;
        };
        // What is no directory is not opened.
        if let Ok((directory, stat)) = open_for_entries(descent.here(), &name, None)
            && let Ok(inner) = names(directory.as_fd())
        {
            descent.enter(directory, &stat);
            pending.push(inner);
        }
    }
    Ok(())
}

/// Gives the target its own mode back when rsync has ended.
#[derive(Debug)]
struct KeptMode {
    path: PathBuf,
    mode: Mode,
    owner: u32,
}

impl KeptMode {
    fn of(path: &Path) -> std::io::Result<KeptMode> {
        let stat = rustix::fs::stat(path)?;
        Ok(KeptMode {
            path: path.to_owned(),
            mode: Mode::from_raw_mode(stat.st_mode),
            owner: stat.st_uid,
        })
    }

    /// Whether the caller may change it.
    fn is_ours(&self) -> bool {
        let caller = rustix::process::geteuid();
        caller.is_root() || caller.as_raw() == self.owner
    }
}

impl Drop for KeptMode {
    fn drop(&mut self) {
        let now = rustix::fs::stat(&self.path).map(|stat| Mode::from_raw_mode(stat.st_mode));
        // The owner can; if the filesystem has gone meanwhile, there is nothing to give back.
        if now.is_ok_and(|now| now != self.mode) {
            let _ = rustix::fs::chmod(&self.path, self.mode);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn arguments_are_as_promised() {
        let id = "0123456789abcdef".repeat(4);
        let path = format!("::mistry/tmp/ready/{id}/data/artifacts/");
        for (host, user, port, delete, is_empty, expected) in [
            ("h", None, None, false, true, &["-rtlpHS"][..]),
            ("::1", None, None, false, false, &["-rtlpHS", "--checksum"]),
            (
                "h",
                Some("joe"),
                Some(8873),
                true,
                false,
                &["-rtlpHS", "--checksum", "--delete", "--port=8873"],
            ),
        ] {
            let named = match (user, host) {
                (Some(user), host) => format!("{user}@{host}"),
                (None, "::1") => "[::1]".to_owned(),
                (None, host) => host.to_owned(),
            };
            let mut expected: Vec<OsString> = expected.iter().map(OsString::from).collect();
            expected.insert(1, "--modify-window=-1".into());
            expected.extend(["--chmod=ug-s,o-t", "--"].map(OsString::from));
            expected
                .extend([format!("{named}{path}"), "/home/tmp/x:y/".to_owned()].map(Into::into));
            let source = Source {
                host,
                user,
                port,
                project: &"tmp".parse().unwrap(),
                id: id.parse().unwrap(),
            };
            let to = Destination {
                path: "/home/tmp/x:y".into(),
                delete,
                is_empty,
            };
            assert_eq!(arguments(&source, &to), expected);
        }
    }

    #[test]
    fn the_target_keeps_its_own_mode() {
        let dir = tempfile::tempdir().unwrap();
        let mode =
            |mode| std::fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        mode(0o750);
        let kept = KeptMode::of(dir.path()).unwrap();
        mode(0o555);
        drop(kept);
        let now = dir.path().metadata().unwrap().permissions().mode();
        assert_eq!(now & 0o7777, 0o750);
    }
}
