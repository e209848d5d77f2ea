//! Fetches the artifacts of a build into a directory.
//!
//! Every transport guarantees the same: nothing is written outside the target, existing links in it are
//! replaced and never followed, no existing file gets a second name, and the target is made (or, with
//! `--clear-target`, emptied) only when the artifacts begin to arrive. The target itself, and the path to it,
//! may be links. Names, paths and bytes from a server or a build are not trusted. What each transport keeps
//! is listed in [`KEPT`].

mod blocking;
mod child;
mod dir_walker;
mod draft;
mod error;
#[cfg(test)]
mod faithful;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod hostile;
mod http;
mod local;
mod metadata;
mod open;
mod options;
mod rsync;
mod scp;
mod stage;
mod target;
mod unpack;

pub use error::Error;
pub(super) use options::{Fetched, TransportOptions};

use tokio_util::sync::CancellationToken;

use crate::api::BuildView;
use crate::cli::output::print_message;
use crate::client::Client;
use crate::job::JobId;
use crate::project::ProjectName;
use crate::screen;
use options::Kind;

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

scp follows links with the rights of the account on the server's host. If a file
cannot be fetched, the transfer ends with an error: for scp, a link to a directory,
a link without a target or too long a path; for local, a file that the caller may
not read.";

/// Fetches the artifacts of a build.
pub(super) async fn fetch(
    client: &Client,
    info: &BuildView,
    options: &TransportOptions,
) -> Result<Fetched, Error> {
    let unknown = || Error::Unusable("the server does not say which build this is".to_owned());
    let project: ProjectName = info.project.parse().map_err(|_| unknown())?;
    let id: JobId = info.id.parse().map_err(|_| unknown())?;
    let host = client.address().host();
    // Dropping this future (Ctrl-C) also stops the thread that writes.
    let cancelled = CancellationToken::new();
    let _guard = cancelled.clone().drop_guard();
    match options.transport {
        Kind::Http => http::fetch(client, &project, id, options, cancelled).await,
        Kind::Local => local::fetch(info.path.clone(), options, cancelled).await,
        Kind::Rsync => {
            let source = rsync::Source {
                host,
                user: options.transport_user.as_deref(),
                port: options.rsync_port,
                project: &project,
                id,
            };
            rsync::fetch(source, options, cancelled).await
        }
        Kind::Scp => scp::fetch(host, &info.path, options, cancelled).await,
    }
}

/// Warns where the target is a git working copy: artifacts may replace files there that git runs.
pub(super) fn warn_about_git(options: &TransportOptions) {
    let target = &options.target;
    // In a worktree, `.git` is a file.
    if target.join(".git").symlink_metadata().is_ok() {
        let target = screen::line(&target.display().to_string());
        print_message(&format!(
            "warning: {target} holds .git: artifacts may replace any file there, such as .git/hooks/*, \
             .git/config, .envrc and Makefile, which other programs run; --target takes another directory"
        ));
    }
}
