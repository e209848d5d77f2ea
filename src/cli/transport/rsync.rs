//! Transport rsync: from an rsync daemon on the server's host, module `mistry`, which is rooted
//! at the server's build path.
//!
//! rsync writes by path, changes the modes of files that have hard links elsewhere, and makes hard links to
//! existing files of the target. So it works in a [`Stage`] in the target, and the fetched files are moved
//! from there. Existing files of the target are the basis of the transfer, unless a link below the target
//! leads to a directory: rsync would follow it, and send checksums of the files behind it to the server.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::blocking::run_blocking;
use super::child::run;
use super::dir_walker::DirWalker;
use super::local::{self, names};
use super::stage::Stage;
use super::{Error, Fetched, TransportOptions};
use crate::job::JobId;
use crate::project::ProjectName;

/// The source of a transfer.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub host: &'a str,
    pub user: Option<&'a str>,
    pub port: Option<u16>,
    pub project: &'a ProjectName,
    pub id: JobId,
}

pub(super) async fn fetch(
    source: Source<'_>,
    options: &TransportOptions,
    cancelled: CancellationToken,
) -> Result<Fetched, Error> {
    options.make_target()?;
    let (stage, basis) = {
        let options = options.clone();
        run_blocking(move || {
            let path = &options.target;
            let is_empty = std::fs::read_dir(path).map_or(true, |mut found| found.next().is_none());
            let has_basis = !is_empty && !has_links_to_directories(path);
            let stage = Stage::make(path, "rsync").map_err(|error| options.write_error(error))?;
            let basis = has_basis.then(|| stage.path_of_target());
            Ok((stage, basis))
        })
        .await?
    };
    let arguments = arguments(&source, &stage.path(), basis.as_deref());
    let stage = run("rsync", arguments, stage).await?;
    let moved = local::Source::Stage { scp_path_len: None };
    stage.move_to_target(options, moved, cancelled).await
}

/// The arguments of rsync. The directory itself is synchronised, so that dot files are included, and an empty
/// directory is no error.
fn arguments(source: &Source<'_>, to: &Path, basis: Option<&Path>) -> Vec<OsString> {
    // Recursive, with times, links, modes, hard links and holes. Times are the same only when they are
    // to the nanosecond; without the window, a time of the same second would be left as it is.
    let mut arguments: Vec<OsString> = vec!["-rtlpHS".into(), "--modify-window=-1".into()];
    if let Some(basis) = basis {
        // Builds may fix all times, and files in the target may have been changed: equal size and time do not
        // mean equal content. So each file is compared in pieces, of which the server sends those that
        // differ, and written again with its holes, which a copy made by rsync would not have.
        arguments.push("--ignore-times".into());
        let mut option = OsString::from("--copy-dest=");
        option.push(basis);
        arguments.push(option);
    }
    if let Some(port) = source.port {
        arguments.push(format!("--port={port}").into());
    }
    // Set-id bits of artifacts must not have an effect here.
    arguments.push("--chmod=ug-s,o-t".into());
    arguments.push("--".into());
    let user = source.user.map_or(String::new(), |user| format!("{user}@"));
    let host = match source.host {
        v6 if v6.contains(':') => format!("[{v6}]"),
        host => host.to_owned(),
    };
    let (project, id) = (source.project, source.id);
    arguments.push(format!("{user}{host}::mistry/{project}/ready/{id}/data/artifacts/").into());
    let mut target = to.as_os_str().to_owned();
    target.push("/");
    arguments.push(target);
    arguments
}

/// Whether a link below `root` leads to a directory. An unreadable entry counts as such a link.
fn has_links_to_directories(root: &Path) -> bool {
    find_link_to_directory(root).unwrap_or(true)
}

fn find_link_to_directory(root: &Path) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut walker = DirWalker::new(rustix::fs::open(root, flags, Mode::empty())?)?;
    let mut pending = vec![names(walker.here())?];
    while let Some(level) = pending.last_mut() {
        let Some(name) = level.pop() else {
            pending.pop();
            walker.leave()?;
            continue;
        };
        let here = walker.here();
        let stat = rustix::fs::statat(here, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let leads_to = rustix::fs::statat(here, &name, AtFlags::empty());
                let is_directory =
                    |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                if leads_to.is_ok_and(is_directory) {
                    return Ok(true);
                }
            }
            FileType::Directory => {
                let flags = flags | OFlags::NOFOLLOW;
                let directory = rustix::fs::openat(here, &name, flags, Mode::empty())?;
                let inner = names(directory.as_fd())?;
                walker.enter(directory, &stat);
                pending.push(inner);
            }
            _ => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_complete() {
        let id = "0123456789abcdef".repeat(4);
        let path = format!("::mistry/tmp/ready/{id}/data/artifacts/");
        let basis = Path::new("/proc/1/fd/4");
        for (host, user, port, basis, expected) in [
            ("h", None, None, None, &[][..]),
            (
                "::1",
                None,
                None,
                Some(basis),
                &["--ignore-times", "--copy-dest=/proc/1/fd/4"],
            ),
            ("h", Some("joe"), Some(8873), None, &["--port=8873"]),
        ] {
            let named = match (user, host) {
                (Some(user), host) => format!("{user}@{host}"),
                (None, "::1") => "[::1]".to_owned(),
                (None, host) => host.to_owned(),
            };
            let before = ["-rtlpHS", "--modify-window=-1"].iter().chain(expected);
            let mut expected: Vec<OsString> = before.map(OsString::from).collect();
            expected.extend(["--chmod=ug-s,o-t", "--"].map(OsString::from));
            expected.extend([format!("{named}{path}"), "/proc/1/fd/5/".to_owned()].map(Into::into));
            let source = Source {
                host,
                user,
                port,
                project: &"tmp".parse().unwrap(),
                id: id.parse().unwrap(),
            };
            assert_eq!(
                arguments(&source, Path::new("/proc/1/fd/5"), basis),
                expected
            );
        }
    }

    #[test]
    fn a_link_to_a_directory_in_the_target_is_found_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::os::unix::fs::symlink("nowhere", deep.join("dangling")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("../../file", deep.join("file")).unwrap();
        assert!(!has_links_to_directories(dir.path()));
        std::os::unix::fs::symlink("/etc", deep.join("etc")).unwrap();
        assert!(has_links_to_directories(dir.path()));
    }
}
