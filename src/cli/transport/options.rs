//! The options of the command line about artifacts: where they are put, and how they are fetched.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::target::{self, Target};
use crate::cli::output::print_message;
use crate::cli::progress::Progress;

/// The ways to fetch artifacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// From the server itself, as one compressed stream
    Http,
    /// From an rsync daemon on the server's host; only what changed is sent
    Rsync,
    /// From an ssh server on the host; follows links, does not keep hard links and sparse files
    Scp,
    /// From this host's own disk, when the server runs here
    Local,
}

/// Where artifacts are put, and how they are fetched.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Artifacts")]
pub(in crate::cli) struct TransportOptions {
    /// Directory for the artifacts; created if it does not exist
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub target: PathBuf,
    /// Remove everything in the target before the artifacts are written (only when they are available); needs
    /// --target with a directory that neither is nor contains the current one or the home directory, and holds
    /// no .git
    #[arg(long)]
    pub clear_target: bool,
    /// How the artifacts are fetched
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Kind::Http)]
    pub(super) transport: Kind,
    /// User name on the server's host, for rsync and scp [default: none for rsync, that of ssh for scp]
    #[arg(long, value_name = "USER")]
    pub(super) transport_user: Option<String>,
    /// TCP port of the rsync daemon [default: 873]
    #[arg(long, value_name = "N")]
    pub(super) rsync_port: Option<u16>,
    /// Option for ssh as in ssh_config(5), such as Port=2222, for scp; may be given again
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) ssh_option: Vec<String>,
}

/// What was fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Fetched {
    /// Files and links, without directories.
    pub files: u64,
    /// How many of them replaced a file or link that was in the target.
    pub replaced: u64,
}

impl TransportOptions {
    /// Fetches from the server itself into `target`, and keeps what is there.
    pub(in crate::cli) fn over_http(target: PathBuf) -> TransportOptions {
        TransportOptions {
            target,
            clear_target: false,
            transport: Kind::Http,
            transport_user: None,
            rsync_port: None,
            ssh_option: Vec::new(),
        }
    }

    /// Checks everything that can be checked before a build.
    ///
    /// # Errors
    /// A sentence about the command line.
    pub(in crate::cli) fn check(&self) -> Result<(), String> {
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
        self.check_clear()?;
        if let Some(user) = &self.transport_user {
            let is_word = |b: u8| b.is_ascii_alphanumeric() || b"._-+".contains(&b);
            if user.is_empty() || user.starts_with('-') || !user.bytes().all(is_word) {
                return Err(format!("'{}' is no user name", user.escape_debug()));
            }
        }
        Ok(())
    }

    /// Refuses to empty a target that holds more than artifacts: a wrong or forgotten `--target`.
    fn check_clear(&self) -> Result<(), String> {
        let Ok(target) = self.target.canonicalize() else {
            // There is nothing to empty, or emptying it fails.
            return Ok(());
        };
        if !self.clear_target {
            return Ok(());
        }
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let current = std::env::current_dir().ok();
        let Some(why) = why_not_cleared(&target, current.as_deref(), home.as_deref()) else {
            return Ok(());
        };
        Err(format!(
            "--clear-target removes everything in the target, and '{}' {why}: name another directory with --target",
            target.display()
        ))
    }

    /// Removes everything in the target but `except`, if `--clear-target` is given. Blocks.
    pub(super) fn clear_target(&self, except: Option<&OsStr>) -> Result<(), Error> {
        if !self.clear_target {
            return Ok(());
        }
        // Again: the target may have been made while the build ran.
        self.check_clear().map_err(Error::Unusable)?;
        let removed = target::clear(&self.target, except)?;
        let entries = match removed {
            1 => "1 entry".to_owned(),
            removed => format!("{removed} entries"),
        };
        print_message(&format!(
            "--clear-target: removed {entries} from {}",
            self.target.display()
        ));
        Ok(())
    }

    pub(super) fn make_target(&self) -> Result<(), Error> {
        std::fs::create_dir_all(&self.target).map_err(|error| self.write_error(error))
    }

    pub(super) fn write_error(&self, error: io::Error) -> Error {
        Error::Write(self.target.display().to_string(), error)
    }

    /// Makes the target, empties it with `--clear-target`, and opens it. Blocks.
    pub(super) fn open_target(
        &self,
        progress: Progress,
        cancelled: CancellationToken,
    ) -> Result<Target, Error> {
        self.make_target()?;
        self.clear_target(None)?;
        Target::open(&self.target, progress, cancelled)
    }
}

/// Why a directory, whose path is canonical, must not be emptied; `None` if it may be.
fn why_not_cleared(
    target: &Path,
    current: Option<&Path>,
    home: Option<&Path>,
) -> Option<&'static str> {
    let contains = |path: Option<&Path>| {
        let path = path.and_then(|path| path.canonicalize().ok());
        path.is_some_and(|path| path.starts_with(target))
    };
    if target == Path::new("/") {
        return Some("is the root directory");
    }
    if contains(current) {
        return Some("is the current directory or contains it");
    }
    if contains(home) {
        return Some("is the home directory or contains it");
    }
    // In a worktree, `.git` is a file.
    let holds_git = target.join(".git").symlink_metadata().is_ok();
    holds_git.then_some("holds .git")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cli::transport) fn options(target: &Path) -> TransportOptions {
        TransportOptions::over_http(target.to_owned())
    }

    #[test]
    fn a_wrong_target_is_reported_before_anything_is_built() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(
            options(&file)
                .check()
                .unwrap_err()
                .contains("is not a directory")
        );
        assert!(options(Path::new("")).check().is_err());
        assert!(options(dir.path()).check().is_ok());
        let absent = dir.path().join("a/b");
        assert!(options(&absent).check().is_ok());
        assert!(!absent.exists());
    }

    #[test]
    fn only_a_directory_that_may_hold_artifacts_alone_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        for below in ["work/deep", "home/joe", "out", "repository/.git"] {
            std::fs::create_dir_all(path.join(below)).unwrap();
        }
        let (current, home) = (path.join("work/deep"), path.join("home/joe"));
        let why = |target: &Path| why_not_cleared(target, Some(&current), Some(&home));
        for (target, said) in [
            ("work/deep", Some("is the current directory or contains it")),
            ("work", Some("is the current directory or contains it")),
            ("home/joe", Some("is the home directory or contains it")),
            ("home", Some("is the home directory or contains it")),
            ("repository", Some("holds .git")),
            ("out", None),
        ] {
            assert_eq!(why(&path.join(target)), said, "{target}");
        }
        assert_eq!(why(Path::new("/")), Some("is the root directory"));
        let mut root = options(Path::new("/"));
        root.clear_target = true;
        assert!(root.check().unwrap_err().contains("the root directory"));
    }

    #[test]
    fn a_user_is_one_word() {
        for (user, good) in [
            ("joe", true),
            ("-oX", false),
            ("a b", false),
            ("", false),
            ("a@b", false),
        ] {
            let mut options = options(Path::new("."));
            options.transport_user = Some(user.to_owned());
            assert_eq!(options.check().is_ok(), good, "{user}");
        }
    }
}
