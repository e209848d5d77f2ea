//! Transport scp: from an ssh server on the server's host, by the path that the server names.
//!
//! scp follows links: those of the build become what they point to (on the server's host, with the rights of
//! the account there), and those of the target would be written through. So it copies into a [`Stage`] in the
//! target, and the fetched files are moved from there.

use std::ffi::OsString;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::child::run;
use super::local::Source;
use super::stage::Stage;
use super::{Error, Fetched, TransportOptions};

pub(super) async fn fetch(
    host: &str,
    path: &str,
    options: &TransportOptions,
    cancelled: CancellationToken,
) -> Result<Fetched, Error> {
    let remote = remote(host, options.transport_user.as_deref(), path)?;
    options.make_target()?;
    let stage = Stage::make(&options.target, "scp").map_err(|e| options.write_error(e))?;
    let arguments = arguments(&options.ssh_option, &remote, &stage.path());
    let stage = run("scp", arguments, stage).await?;
    let source = Source::Stage {
        scp_path_len: Some(path.len()),
    };
    stage.move_to_target(options, source, cancelled).await
}

/// The arguments of scp. `/.` at the end of the source means its content, including dot files.
fn arguments(options: &[String], remote: &str, to: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["-r", "-p", "-q"].map(OsString::from).into();
    for option in options {
        arguments.push("-o".into());
        arguments.push(option.into());
    }
    arguments.push("--".into());
    arguments.push(remote.into());
    arguments.push(to.into());
    arguments
}

/// `[USER@]HOST:PATH/.`, with characters that scp would expand escaped.
fn remote(host: &str, user: Option<&str>, path: &str) -> Result<String, Error> {
    let shown: String = path
        .chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect();
    let plain = path.starts_with('/') && !path.chars().any(char::is_control);
    if !plain || path.split('/').any(|part| part == "..") {
        return Err(Error::Unusable(format!(
            "the server names no absolute path of the artifacts but '{shown}'"
        )));
    }
    // scp has used SFTP since OpenSSH 9.0 and expands only globs; an older one passes the path to the user's
    // shell there, for which a backslash means the same.
    let mut escaped = String::with_capacity(path.len());
    for letter in path.trim_end_matches('/').chars() {
        if letter.is_ascii() && !letter.is_ascii_alphanumeric() && !"/._-+,:@=".contains(letter) {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    let user = user.map_or(String::new(), |user| format!("{user}@"));
    let host = match host {
        v6 if v6.contains(':') => format!("[{v6}]"),
        host => host.to_owned(),
    };
    Ok(format!("{user}{host}:{escaped}/."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_path_is_expanded() {
        for (host, user, path, expected) in [
            ("h", None, "/b/p/ready/x/", "h:/b/p/ready/x/."),
            ("h", Some("joe"), "/b", "joe@h:/b/."),
            ("::1", None, "/b", "[::1]:/b/."),
            ("h", None, "/a b/*[x]$(y)~", r"h:/a\ b/\*\[x\]\$\(y\)\~/."),
        ] {
            assert_eq!(remote(host, user, path).unwrap(), expected);
        }
        for path in ["", "rel", "-x", "/a/../b", "/a\nb", "/a\0"] {
            assert!(remote("h", None, path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn arguments_are_complete() {
        assert_eq!(
            arguments(&["Port=1".to_owned()], "h:/b/.", Path::new("/t")),
            ["-r", "-p", "-q", "-o", "Port=1", "--", "h:/b/.", "/t"]
        );
    }
}
