//! What an image build is given that its image must not have: build secrets, and a private key for ssh.
//!
//! The values are handed over in memory: the child opens them by the descriptors of this process. They are in no
//! file, in no argument and in no variable.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};

use super::dockerfile::Dockerfile;
use super::error::Error;
use super::session_mounts::{DEFAULT_AGENT, SessionKind, SessionMount};

/// Bytes of a secret that BuildKit takes.
const MAX_SECRET: usize = 500 * 1024;
/// Bytes of a private key that docker-buildx reads.
const MAX_KEY: usize = 100 * 1024;

/// The secrets of an image build.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BuildSecrets {
    /// The value that `RUN --mount=type=secret` gets, by its id.
    pub values: BTreeMap<String, Arc<str>>,
    /// The private key that `RUN --mount=type=ssh` offers.
    pub ssh_key: Option<Arc<str>>,
}

impl fmt::Debug for BuildSecrets {
    /// Without the values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildSecrets")
            .field("values", &self.values.keys())
            .field("has_ssh_key", &self.ssh_key.is_some())
            .finish()
    }
}

impl BuildSecrets {
    /// Whether the build is given none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.ssh_key.is_none()
    }

    /// Checks that the Dockerfile asks for nothing else, and that all can be given.
    pub(super) fn check(&self, dockerfile: &Dockerfile) -> Result<(), Error> {
        let mut mounts = dockerfile.session_mounts.iter();
        let missing = mounts.find_map(|mount| self.missing(mount));
        let mut values = self.values.iter();
        let long = values
            .find(|(_, value)| value.len() > MAX_SECRET)
            .map(|(id, _)| {
                format!(
                    "the build secret '{id}' has more than 500 KiB, which BuildKit does not take"
                )
            });
        let long_key = self.ssh_key.as_ref().filter(|key| key.len() > MAX_KEY);
        let long_key = long_key.map(|_| "the key for ssh has more than 100 KiB".to_owned());
        match missing.or(long).or(long_key) {
            Some(sentence) => Err(Error::Build(sentence)),
            None => Ok(()),
        }
    }

    /// Why a mount of the Dockerfile gets nothing, if it does not say that it may.
    fn missing(&self, mount: &SessionMount) -> Option<String> {
        let id = mount.id.as_deref().filter(|_| !mount.is_optional)?;
        let line = mount.line;
        match mount.kind {
            SessionKind::Secret if !self.values.contains_key(id) => Some(format!(
                "line {line} of the Dockerfile asks for the build secret '{id}', which mistry.json does not list: add \"secrets\": [\"{id}\"], and give its value as a param, --_{id}=@FILE"
            )),
            SessionKind::Ssh if id != DEFAULT_AGENT => Some(format!(
                "line {line} of the Dockerfile asks for the ssh agent '{id}': mistry knows only the one without an id (RUN --mount=type=ssh)"
            )),
            SessionKind::Ssh if self.ssh_key.is_none() => Some(format!(
                "line {line} of the Dockerfile has RUN --mount=type=ssh, and mistry.json does not say which key it gets: add \"ssh\": \"key\", and give the private key as a param, --_key=@FILE"
            )),
            _ => None,
        }
    }

    /// Puts the values where the child finds them.
    pub(super) fn open(&self) -> io::Result<OpenSecrets> {
        let mut open = OpenSecrets {
            arguments: Vec::new(),
            files: Vec::new(),
            key_path: None,
        };
        for (id, value) in &self.values {
            let path = open.add(value)?;
            let argument = format!("--secret=id={id},src={path}");
            open.arguments.push(argument);
        }
        if let Some(key) = &self.ssh_key {
            let path = open.add(key)?;
            open.arguments.push(format!("--ssh={DEFAULT_AGENT}={path}"));
            open.key_path = Some(path);
        }
        Ok(open)
    }
}

/// Values that a child can open while this exists.
#[derive(Debug)]
pub(super) struct OpenSecrets {
    /// The arguments of docker-buildx that name them.
    pub(super) arguments: Vec<String>,
    files: Vec<File>,
    key_path: Option<String>,
}

impl OpenSecrets {
    /// The reason of docker-buildx for an image that was not built, in words that can be understood without the
    /// paths.
    pub(super) fn explain(&self, reason: String) -> String {
        let said = |path: &String| reason.strip_prefix(&format!("failed to parse {path}: "));
        match self.key_path.as_ref().and_then(said) {
            Some(why) => format!(
                "the param of \"ssh\" in mistry.json is no private key that can be used ({why}): give one without a passphrase, as ssh-keygen -N '' makes it"
            ),
            None => reason,
        }
    }

    /// Holds a value in memory, and returns the path at which a child can open it.
    fn add(&mut self, value: &str) -> io::Result<String> {
        // No child inherits it: the one that it is for opens it by the path.
        let mut file = File::from(memfd_create("mistry-secret", MemfdFlags::CLOEXEC)?);
        file.write_all(value.as_bytes())?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        self.files.push(file);
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(id: &str, value: &str) -> BuildSecrets {
        BuildSecrets {
            values: BTreeMap::from([(id.to_owned(), value.into())]),
            ssh_key: Some("key\n".into()),
        }
    }

    #[test]
    fn a_child_reads_the_values_and_no_argument_has_one() {
        let open = secrets("tok", "hunter2\n").open().unwrap();
        let path = open.arguments[0].strip_prefix("--secret=id=tok,src=");
        let key = open.arguments[1].strip_prefix("--ssh=default=");
        let (path, key) = (path.unwrap(), key.unwrap());
        let read = std::process::Command::new("cat").args([path, key]).output();
        assert_eq!(read.unwrap().stdout, b"hunter2\nkey\n");
        let said = format!("failed to parse {key}: ssh: no key found");
        assert!(
            open.explain(said)
                .contains("(ssh: no key found): give one without a passphrase")
        );
        assert_eq!(open.explain("failed".to_owned()), "failed");
        assert!(!format!("{open:?} {:?}", secrets("tok", "hunter2")).contains("hunter2"));
    }

    #[test]
    fn a_dockerfile_that_asks_for_something_else_is_refused_with_what_to_do() {
        let check = |secrets: &BuildSecrets, options: &str| {
            let text = format!("FROM a\nRUN --mount={options} x\n");
            let checked = secrets.check(&Dockerfile::parse(text.as_bytes()));
            checked.err().map(|error| error.to_string())
        };
        let both = secrets("tok", "hunter2");
        for fine in [
            "type=secret,id=tok",
            "type=ssh",
            "type=secret,id=x,required=false",
            "type=cache,target=/c",
            "type=secret,id=$X",
        ] {
            assert_eq!(check(&both, fine), None, "{fine}");
        }
        for (options, part) in [
            (
                "type=secret,id=x",
                "line 2 of the Dockerfile asks for the build secret 'x', which mistry.json does not list: add \"secrets\": [\"x\"]",
            ),
            ("type=ssh,id=x", "the ssh agent 'x'"),
        ] {
            let sentence = check(&both, options).unwrap();
            assert!(sentence.contains(part), "{sentence}");
        }
        let without = check(&BuildSecrets::default(), "type=ssh").unwrap();
        assert!(without.contains("add \"ssh\": \"key\""), "{without}");
        let long = check(&secrets("tok", &"x".repeat(MAX_SECRET + 1)), "type=ssh");
        assert!(long.unwrap().contains("more than 500 KiB"));
    }
}
