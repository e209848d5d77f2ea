//! Transport rsync: from an rsync daemon on the server's host, module `mistry`, which is rooted
//! at the server's build path.
//!
//! rsync itself writes beside and renames, and does not follow links in the target.

use std::ffi::OsString;
use std::path::Path;

use crate::job::JobId;
use crate::project::ProjectName;

/// What is fetched from where to where.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub host: &'a str,
    pub user: Option<&'a str>,
    pub port: Option<u16>,
    pub project: &'a ProjectName,
    pub id: JobId,
    pub delete: bool,
    /// Absolute, so that rsync does not take it for `host:path` or an option.
    pub target: &'a Path,
}

/// The arguments of rsync. The directory itself is synchronised, so dot files come along, no
/// files are no error, and `--delete` removes everything that does not belong there.
pub(super) fn arguments(source: &Source<'_>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["-rtlp".into()];
    if source.delete {
        arguments.push("--delete".into());
    }
    if let Some(port) = source.port {
        arguments.push(format!("--port={port}").into());
    }
    // What a build wrote shall not run as somebody else here.
    arguments.push("--chmod=ug-s".into());
    arguments.push("--".into());
    let user = source.user.map_or(String::new(), |user| format!("{user}@"));
    let host = match source.host {
        v6 if v6.contains(':') => format!("[{v6}]"),
        host => host.to_owned(),
    };
    let (project, id) = (source.project, source.id);
    arguments.push(format!("{user}{host}::mistry/{project}/ready/{id}/data/artifacts/").into());
    let mut target = source.target.as_os_str().to_owned();
    target.push("/");
    arguments.push(target);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_as_promised() {
        let id = "0123456789abcdef".repeat(4);
        let path = format!("::mistry/tmp/ready/{id}/data/artifacts/");
        for (host, user, port, delete, expected) in [
            (
                "h",
                None,
                None,
                false,
                vec!["-rtlp", "--chmod=ug-s", "--", "h"],
            ),
            (
                "h",
                Some("joe"),
                Some(8873),
                true,
                vec![
                    "-rtlp",
                    "--delete",
                    "--port=8873",
                    "--chmod=ug-s",
                    "--",
                    "joe@h",
                ],
            ),
            (
                "::1",
                None,
                None,
                false,
                vec!["-rtlp", "--chmod=ug-s", "--", "[::1]"],
            ),
        ] {
            let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            if let Some(last) = expected.last_mut() {
                last.push_str(&path);
            }
            expected.push("/home/tmp/x:y/".to_owned());
            let arguments = arguments(&Source {
                host,
                user,
                port,
                project: &"tmp".parse().unwrap(),
                id: id.parse().unwrap(),
                delete,
                target: Path::new("/home/tmp/x:y"),
            });
            let expected: Vec<OsString> = expected.into_iter().map(Into::into).collect();
            assert_eq!(arguments, expected);
        }
    }
}
