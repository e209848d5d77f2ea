//! How artifacts come home.
//!
//! Whatever the way: nothing is written outside the target, existing links in it are replaced
//! and never followed, no file that was there before gets a second name, and the target is made (or,
//! with `--clear-target`, emptied) only when there is something to put into it. The target itself, and
//! the path to it, may be links. Names, paths and bytes that a server or a build gave are hostile. What
//! each way keeps is in [`KEPT`].

mod child;
mod descent;
#[cfg(test)]
mod faithful;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod hostile;
mod http;
mod local;
mod rsync;
mod scp;
mod stage;
mod target;
mod unpack;

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use crate::build::BuildInfo;
use crate::client::{self, Client};
use crate::job::JobId;
use crate::project::ProjectName;

use super::progress::Progress;
use super::{say, screen};

/// What each transport keeps: the rows of the table in docs/operations.md, in the order of its columns.
pub(super) const KEPT: &str = "\
What each transport keeps, beside names, contents and empty directories:

                                         http    rsync   scp       local
  modes, without set-id and sticky bits  yes     yes     yes       yes
  modification times                     to 1 s  exact   to 1 s    exact
  symbolic links                         yes     yes     followed  yes
  hard links                             yes     yes     no        yes
  holes of sparse files                  yes     yes     no        yes
  names of any bytes                     yes     yes     yes       yes
  paths of 4,096 bytes and more          yes     no      no        yes
  read-only directories                  yes     yes     yes       yes
  directories closed to their owner      yes     opened  yes       no
  new content of the same size and time  yes     yes     yes       yes
  pipes, sockets, devices                no      no      no        no

scp follows links with the rights of the account on the server's host. A link to
a directory or to nothing ends its transfer, as too long a path does, and local
ends at what the caller may not read: what cannot be fetched is an error.";

/// Ways to bring artifacts home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// From the server itself, as one compressed stream
    Http,
    /// From an rsync daemon on the server's host; only what changed is sent
    Rsync,
    /// From an ssh server on the host; links are followed, and neither hard links nor holes kept
    Scp,
    /// From this host's own disk, when the server runs here
    Local,
}

/// Where the artifacts go and how they get there.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Artifacts")]
pub(super) struct Transport {
    /// Directory that the artifacts are put into; made when it is not there
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub target: PathBuf,
    /// Empty the target first (once there are artifacts to put into it)
    #[arg(long)]
    pub clear_target: bool,
    /// How the artifacts travel
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Kind::Http)]
    transport: Kind,
    /// User name on the server's host, for rsync and scp [default: none for rsync, that of ssh for scp]
    #[arg(long, value_name = "USER")]
    transport_user: Option<String>,
    /// TCP port of the rsync daemon [default: 873]
    #[arg(long, value_name = "N")]
    rsync_port: Option<u16>,
    /// Option for ssh as in ssh_config(5), such as Port=2222, for scp; may be given again
    #[arg(long, value_name = "NAME=VALUE")]
    ssh_option: Vec<String>,
}

/// What can go wrong on the way home.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server did not give them.
    #[error(transparent)]
    Server(#[from] client::Error),
    /// The stream ended before its end mark.
    #[error("the artifacts broke off; files that came whole are in the target")]
    Torn(#[source] io::Error),
    /// The stream holds what no honest server sends.
    #[error("the artifacts hold an entry that is not allowed, '{0}': {1}")]
    Hostile(String, &'static str),
    /// The target cannot hold it.
    #[error("could not write '{0}'")]
    Write(String, #[source] io::Error),
    /// The target holds a directory where a file belongs.
    #[error("'{0}' is a directory that is not empty, and a file belongs there; use --clear-target")]
    InTheWay(String),
    /// The artifacts on this host cannot be read.
    #[error("could not read '{0}'")]
    Read(String, #[source] io::Error),
    /// `--clear-target` failed.
    #[error("could not empty the target '{0}'")]
    Clear(String, #[source] io::Error),
    /// What the server says of the build cannot be used with this transport.
    #[error("{0}")]
    Unusable(String),
    /// The program of the transport is not here.
    #[error("could not run {0}")]
    Spawn(&'static str, #[source] io::Error),
    /// The program of the transport said no; its own words stand above.
    #[error("{0} failed with {1}")]
    Child(&'static str, std::process::ExitStatus),
    /// A thread of ours ended without an answer.
    #[error("the transfer was given up")]
    Lost(#[source] io::Error),
}

/// What came home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fetched {
    /// Files and links, without directories.
    pub files: u64,
}

impl Transport {
    /// Checks what can be checked before anything is built.
    ///
    /// # Errors
    /// A sentence about the command line.
    pub(super) fn check(&self) -> Result<(), String> {
        let target = &self.target;
        if target.as_os_str().is_empty() {
            return Err("target cannot be empty".to_owned());
        }
        if target.exists() && !target.is_dir() {
            let shown = target.display();
            return Err(format!(
                "Target path ({shown}) is not a directory. Aborting."
            ));
        }
        if self.clear_target
            && target
                .canonicalize()
                .is_ok_and(|path| path == Path::new("/"))
        {
            return Err("--clear-target will not empty the root directory".to_owned());
        }
        if let Some(user) = &self.transport_user {
            let is_word = |b: u8| b.is_ascii_alphanumeric() || b"._-+".contains(&b);
            if user.is_empty() || user.starts_with('-') || !user.bytes().all(is_word) {
                return Err(format!("'{}' is no user name", user.escape_debug()));
            }
        }
        Ok(())
    }

    /// Brings the artifacts of a build home.
    pub(super) async fn fetch(&self, client: &Client, info: &BuildInfo) -> Result<Fetched, Error> {
        let wrong = || Error::Unusable("the server does not say which build this is".to_owned());
        let project: ProjectName = info.project.parse().map_err(|_| wrong())?;
        let id: JobId = info.id.parse().map_err(|_| wrong())?;
        let host = client.address().host();
        // Dropping this future (Ctrl-C) stops the thread that writes, too.
        let gone = CancellationToken::new();
        let _guard = gone.clone().drop_guard();
        match self.transport {
            Kind::Http => http::fetch(client, &project, id, self, gone).await,
            Kind::Local => local::fetch(info.path.clone(), self, gone).await,
            Kind::Rsync => {
                let source = rsync::Source {
                    host,
                    user: self.transport_user.as_deref(),
                    port: self.rsync_port,
                    project: &project,
                    id,
                };
                rsync::fetch(source, self, gone).await
            }
            Kind::Scp => scp::fetch(host, &info.path, self, gone).await,
        }
    }

    /// Moves what a program has brought into a stage to its place.
    async fn take(
        &self,
        stage: stage::Stage,
        how: local::How,
        gone: CancellationToken,
    ) -> Result<Fetched, Error> {
        let transport = self.clone();
        blocking(move || {
            if transport.clear_target {
                target::clear(&transport.target, Some(stage.name()))?;
            }
            let from = stage.open().map_err(|error| transport.unwritable(error))?;
            let mut target = target::Target::open(&transport.target, Progress::hidden(), gone)?;
            local::walk(from, &stage.path(), &mut target, how)?;
            Ok(Fetched {
                files: target.files(),
            })
        })
        .await
    }

    fn make_target(&self) -> Result<(), Error> {
        std::fs::create_dir_all(&self.target).map_err(|error| self.unwritable(error))
    }

    fn unwritable(&self, error: io::Error) -> Error {
        Error::Write(self.target.display().to_string(), error)
    }

    /// Makes the target, or empties it, and opens it. Blocks.
    fn open_target(
        &self,
        progress: Progress,
        gone: CancellationToken,
    ) -> Result<target::Target, Error> {
        self.make_target()?;
        if self.clear_target {
            target::clear(&self.target, None)?;
        }
        target::Target::open(&self.target, progress, gone)
    }
}

/// Says what artifacts may replace where the target is a working copy: files there that other programs run.
pub(super) fn warn_of_git(transport: &Transport) {
    let target = &transport.target;
    // It is a file in a worktree.
    if target.join(".git").symlink_metadata().is_ok() {
        let target = screen::line(&target.display().to_string());
        say(&format!(
            "warning: {target} holds .git: artifacts may replace any file there, such as .git/hooks/*, \
             .git/config, .envrc and Makefile, which other programs run; --target takes another directory"
        ));
    }
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::Lost(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn transport(target: &Path) -> Transport {
        Transport {
            target: target.to_owned(),
            clear_target: false,
            transport: Kind::Http,
            transport_user: None,
            rsync_port: None,
            ssh_option: Vec::new(),
        }
    }

    #[test]
    fn a_wrong_target_is_seen_before_anything_is_built() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(
            transport(&file)
                .check()
                .unwrap_err()
                .contains("is not a directory")
        );
        assert!(transport(Path::new("")).check().is_err());
        assert!(transport(dir.path()).check().is_ok());
        let absent = dir.path().join("a/b");
        assert!(transport(&absent).check().is_ok());
        assert!(!absent.exists());
        let mut root = transport(Path::new("/"));
        root.clear_target = true;
        assert!(root.check().is_err());
    }

    #[test]
    fn a_user_is_a_word() {
        for (user, good) in [
            ("joe", true),
            ("-oX", false),
            ("a b", false),
            ("", false),
            ("a@b", false),
        ] {
            let mut with = transport(Path::new("."));
            with.transport_user = Some(user.to_owned());
            assert_eq!(with.check().is_ok(), good, "{user}");
        }
    }
}
