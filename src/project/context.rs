//! The context: the files of a project that are sent to Docker, and their digest.
//!
//! The digest covers relative path, kind, permissions, file capabilities, content and link target of
//! everything that `.dockerignore` does not exclude, the text of `.dockerignore`, and that of `mistry.json`
//! even where it is excluded. Times, owners and the host do not enter it, so it is the same in every
//! checkout; permission bits that differ between the umasks 002 and 022 are ignored. Nor does it distinguish
//! two names of one file from two files, since few ways to copy a checkout preserve that.
//!
//! A file's digest is cached by device, inode, size, mtime and ctime, but not when the file was changed less
//! than two seconds before it was read: a second change within the clock's resolution would leave the stamp
//! unchanged.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use super::entry::{Content, Entry};
use super::error::Error;
use super::name::Project;
use super::recipe::DOCKERFILE;
use super::settings::Settings;
use super::walk::{DigestCache, Found, walk};

/// The files of a project that one walk found.
#[derive(Clone)]
pub struct Context {
    /// Shared, like the rest: one walk serves many requests.
    project: Arc<Project>,
    /// Sorted by path bytes, parents before children.
    entries: Arc<[Entry]>,
    /// The content of `mistry.json`, as it entered the digest.
    settings: Option<Arc<[u8]>>,
    digest: Digest,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("project", &self.project)
            .field("entries", &self.entries.len())
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Walks the project. The second value is the digest cache, when it differs from `known`.
    pub(super) fn read(
        project: &Project,
        known: Option<&DigestCache>,
    ) -> Result<(Context, Option<DigestCache>), Error> {
        let found = walk(project, known)?;
        let context = Context {
            project: Arc::new(project.clone()),
            digest: digest(&found),
            entries: found.entries.into(),
            settings: found.settings.map(Arc::from),
        };
        Ok((context, found.memory))
    }

    /// The digest of the whole context.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The settings in its `mistry.json`, parsed from the bytes that entered the digest; defaults for a
    /// project without one.
    ///
    /// # Errors
    /// [`Error::Settings`] names the key and what was expected.
    pub fn settings(&self) -> Result<Settings, Error> {
        let Some(text) = &self.settings else {
            return Ok(Settings::default());
        };
        Settings::parse(text, &self.project.path)
            .map_err(|source| Error::Settings(self.project.name.clone(), source))
    }

    /// True when there is a Dockerfile, and it is a regular file.
    pub(super) fn has_dockerfile(&self) -> bool {
        let path = Path::new(DOCKERFILE);
        let at = self
            .entries
            .binary_search_by(|entry| entry.path.as_os_str().cmp(path.as_os_str()));
        at.is_ok_and(|at| matches!(self.entries[at].content, Content::File { .. }))
    }

    /// The project it was read from.
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// Relative path and digest of each file, for the record: a later job can list the differences.
    pub fn files(&self) -> impl Iterator<Item = (&Path, Digest)> {
        self.entries.iter().filter_map(|entry| match entry.content {
            Content::File { digest, .. } => Some((entry.path.as_path(), digest)),
            _ => None,
        })
    }

    /// Relative path of each symbolic link that is sent, and the digest of its target's text.
    pub fn links(&self) -> impl Iterator<Item = (&Path, Digest)> {
        self.sent().filter_map(|entry| match &entry.content {
            Content::Link(target) => {
                let digest = Digest::of(target.as_os_str().as_bytes());
                Some((entry.path.as_path(), digest))
            }
            _ => None,
        })
    }

    /// Relative path and modification time of each regular file and symbolic link that is sent, as the file
    /// system reports it: not cut to whole seconds, and possibly before 1980 or in the future.
    pub fn modified(&self) -> impl Iterator<Item = (&Path, SystemTime)> {
        self.sent()
            .filter(|entry| matches!(entry.content, Content::File { .. } | Content::Link(_)))
            .map(|entry| (entry.path.as_path(), entry.modified))
    }

    /// The entries sent to Docker, parents before children.
    pub(super) fn sent(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.is_sent)
    }
}

/// Length-prefixed, so that no two trees share an encoding.
fn digest(found: &Found) -> Digest {
    fn field(hasher: &mut Sha256, bytes: &[u8]) {
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    }
    let mut hasher = Sha256::new();
    hasher.update(b"mistry-context-v2\0");
    let ignore = found.ignore.as_ref().map(Digest::as_bytes);
    field(&mut hasher, ignore.map_or(&[], |digest| &digest[..]));
    for entry in &found.entries {
        field(&mut hasher, entry.path.as_os_str().as_bytes());
        hasher.update([u8::from(entry.is_sent)]);
        hasher.update(entry.mode.to_be_bytes());
        field(&mut hasher, entry.capability.as_deref().unwrap_or_default());
        match &entry.content {
            Content::File { digest, .. } => {
                hasher.update(b"f");
                hasher.update(digest.as_bytes());
            }
            Content::Directory => hasher.update(b"d"),
            Content::Link(target) => {
                hasher.update(b"l");
                field(&mut hasher, target.as_os_str().as_bytes());
            }
            Content::Fifo => hasher.update(b"p"),
            Content::Device {
                is_block,
                major,
                minor,
            } => {
                hasher.update(if *is_block { b"b" } else { b"c" });
                hasher.update(major.to_be_bytes());
                hasher.update(minor.to_be_bytes());
            }
        }
    }
    Digest::from_bytes(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Projects;
    use std::collections::HashMap;
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::time::Duration;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            let dir = tempfile::tempdir().unwrap();
            let place = Place { dir };
            place.write("Dockerfile", "FROM scratch\n");
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("p").join(name)
        }

        fn write(&self, name: &str, text: impl AsRef<[u8]>) {
            let path = self.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn chmod(&self, name: &str, mode: u32) {
            std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(mode)).unwrap();
        }

        fn touch(&self, name: &str, at: SystemTime) {
            let file = File::open(self.path(name)).unwrap();
            file.set_modified(at).unwrap();
        }

        fn fifo(&self, name: &str) {
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, self.path(name), kind, mode, 0).unwrap();
        }

        fn read(&self) -> Result<Context, Error> {
            Projects::new(self.dir.path()).context(&"p".parse().unwrap())
        }

        fn context(&self) -> Context {
            self.read().unwrap()
        }

        fn digest(&self) -> Digest {
            self.context().digest()
        }

        /// The message when the project cannot be built.
        fn refused(&self) -> String {
            let error = self.read().unwrap_err();
            assert!(matches!(error, Error::Unbuildable(..)), "{error:?}");
            error.to_string()
        }

        fn tar(&self) -> Vec<u8> {
            let mut bytes = Vec::new();
            self.context().write_tar(&mut bytes, &[]).unwrap();
            bytes
        }

        fn names(&self) -> Vec<String> {
            let tar = self.tar();
            let mut archive = tar::Archive::new(&tar[..]);
            let names = archive
                .entries()
                .unwrap()
                .map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned());
            names.collect()
        }
    }

    #[test]
    fn the_digest_is_the_same_in_every_checkout() {
        let (a, b) = (Place::new(), Place::new());
        for place in [&a, &b] {
            place.write("src/x", "1");
            place.write("src/run", "1");
            place.chmod("src/run", 0o755);
        }
        b.touch("src/x", SystemTime::UNIX_EPOCH);
        assert_eq!(a.digest(), b.digest());
        // The umask 002 in a directory of a group.
        b.chmod("Dockerfile", 0o664);
        b.chmod("src/x", 0o664);
        b.chmod("src/run", 0o775);
        b.chmod("src", 0o2775);
        assert_eq!(a.digest(), b.digest());
    }

    #[test]
    fn content_name_mode_links_and_empty_directories_count() {
        let place = Place::new();
        let mut seen = vec![place.digest()];
        let mut changed = |what: &str| {
            let digest = place.digest();
            assert!(!seen.contains(&digest), "{what} did not count");
            seen.push(digest);
        };
        place.write("a", "1");
        changed("a file");
        place.write("a", "2");
        changed("its content");
        place.chmod("a", 0o755);
        changed("its executable bit");
        place.chmod("a", 0o700);
        changed("who may read it");
        place.chmod("a", 0o4700);
        changed("its set-uid bit");
        std::fs::rename(place.path("a"), place.path("b")).unwrap();
        changed("its name");
        std::fs::create_dir(place.path("empty")).unwrap();
        changed("an empty directory");
        place.chmod("empty", 0o700);
        changed("its mode");
        symlink("b", place.path("l")).unwrap();
        changed("a link");
        std::fs::remove_file(place.path("l")).unwrap();
        symlink("c", place.path("l")).unwrap();
        changed("its target");
        place.fifo("f");
        changed("a FIFO");
    }

    #[test]
    fn ignored_files_do_not_count_but_the_three_files_of_the_recipe_always_do() {
        let place = Place::new();
        place.write(".dockerignore", "*\n!kept\n");
        place.write("kept", "1");
        let before = place.digest();
        place.write("other", "x");
        place.write("dir/other", "x");
        assert_eq!(place.digest(), before);
        place.write("kept", "2");
        let after = place.digest();
        assert_ne!(after, before);
        place.write("mistry.json", "{}");
        let with_settings = place.digest();
        assert_ne!(with_settings, after);
        place.write(".dockerignore", "*\n!kept\n\n");
        assert_ne!(place.digest(), with_settings);
        let names: Vec<_> = place.context().files().map(|(p, _)| p.to_owned()).collect();
        assert_eq!(
            names,
            [".dockerignore", "Dockerfile", "kept", "mistry.json"].map(PathBuf::from)
        );
        // Docker removes the first two from the context by itself.
        assert_eq!(place.names(), [".dockerignore", "Dockerfile", "kept"]);
    }

    #[test]
    fn a_dockerignore_that_is_a_link_is_followed_inside_the_project_only() {
        let place = Place::new();
        place.write("config/ignored", "b\n");
        place.write("b", "1");
        place.write("c", "1");
        symlink("config/ignored", place.path(".dockerignore")).unwrap();
        assert_eq!(
            place.names(),
            [
                ".dockerignore",
                "Dockerfile",
                "c",
                "config/",
                "config/ignored"
            ]
        );
        // The link's target counts, even where it is excluded itself.
        place.write("config/ignored", "b\nconfig\n");
        let before = place.digest();
        place.write("config/ignored", "b\nconfig\n#\n");
        assert_ne!(place.digest(), before);
        assert_eq!(place.names(), [".dockerignore", "Dockerfile", "c"]);
        std::fs::write(place.dir.path().join("outside"), "c\n").unwrap();
        for (target, said) in [
            ("../outside", "leads out of the project"),
            ("/etc/passwd", "leads out of the project"),
            (".dockerignore", "leads to itself"),
            ("config", "is a directory"),
        ] {
            std::fs::remove_file(place.path(".dockerignore")).unwrap();
            symlink(target, place.path(".dockerignore")).unwrap();
            let refused = place.refused();
            assert!(refused.contains(said), "{target}: {refused}");
        }
        // As for Docker, a link to nothing excludes nothing.
        std::fs::remove_file(place.path(".dockerignore")).unwrap();
        symlink("none-such", place.path(".dockerignore")).unwrap();
        assert!(place.names().contains(&"b".to_owned()));
    }

    #[test]
    fn a_dockerignore_that_docker_refuses_is_refused_by_its_line() {
        let long = "x".repeat(65_536);
        for (text, said) in [
            ("a\n# b\n[a-", "line 3: '[a-' is not a pattern"),
            ("!\n", "line 1: expected a pattern after '!'"),
            ("a\r\n\r\n! \r\n", "line 3: expected a pattern after '!'"),
            ("a\\", "line 1: 'a\\\\' is not a pattern"),
            ("\n[z-a]", "line 2: '[z-a]' is not a pattern"),
            (
                &format!("\n{long}\n"),
                "line 2: expected at most 65535 bytes",
            ),
        ] {
            let place = Place::new();
            place.write(".dockerignore", text);
            let refused = place.refused();
            let said = format!("project 'p' cannot be built: its .dockerignore is wrong: {said}");
            assert!(refused.starts_with(&said), "{refused}");
        }
        let place = Place::new();
        place.write(".dockerignore", &long[1..]);
        assert_eq!(place.names(), [".dockerignore", "Dockerfile"]);
    }

    #[test]
    fn special_files_are_refused_in_place_of_a_regular_file() {
        use std::os::unix::net::UnixListener;
        for name in [".dockerignore", "mistry.json", "Dockerfile"] {
            for (kind, said) in [("d", "a directory"), ("f", "a FIFO"), ("s", "a socket")] {
                let place = Place::new();
                let _ = std::fs::remove_file(place.path(name));
                match kind {
                    "d" => std::fs::create_dir(place.path(name)).unwrap(),
                    "f" => place.fifo(name),
                    _ => drop(UnixListener::bind(place.path(name)).unwrap()),
                }
                let said = format!("its {name} is {said}, a regular file was expected");
                let refused = place.refused();
                assert!(refused.ends_with(&said), "{refused}");
            }
        }
        let place = Place::new();
        place.write("other", "{}");
        symlink("other", place.path("mistry.json")).unwrap();
        let refused = place.refused();
        assert!(
            refused.ends_with("its mistry.json is a symbolic link, a regular file was expected")
        );
    }

    #[test]
    fn files_that_are_read_whole_have_a_bound() {
        let place = Place::new();
        place.write("mistry.json", vec![b' '; 1 << 20]);
        place.context();
        place.write("mistry.json", vec![b' '; (1 << 20) + 1]);
        assert!(place.refused().contains("its mistry.json is too large"));
        std::fs::remove_file(place.path("mistry.json")).unwrap();
        let line = [b"# ", &b"x".repeat(1_000)[..], b"\n"].concat();
        place.write(
            ".dockerignore",
            [line.repeat(10_000), b"gone\n".to_vec()].concat(),
        );
        place.write("gone", "1");
        assert_eq!(place.names(), [".dockerignore", "Dockerfile"]);
        place.write(".dockerignore", line.repeat(17_000));
        assert!(place.refused().contains("its .dockerignore is too large"));
    }

    #[test]
    fn settings_are_read_from_the_bytes_that_were_hashed() {
        let place = Place::new();
        place.write("mistry.json", r#"{"user":"1"}"#);
        let first = place.context();
        place.write("mistry.json", r#"{"user":"2"}"#);
        let second = place.context();
        assert_ne!(first.digest(), second.digest());
        assert_eq!(first.settings().unwrap().user.unwrap(), "1");
        assert_eq!(second.settings().unwrap().user.unwrap(), "2");
        std::fs::remove_file(place.path("mistry.json")).unwrap();
        assert_eq!(place.context().settings().unwrap(), Settings::default());
        place.write("mistry.json", b"\xff");
        let error = place.context().settings().unwrap_err().to_string();
        assert!(
            error.contains("its mistry.json is wrong: expected UTF-8"),
            "{error}"
        );
    }

    #[test]
    fn the_tar_holds_what_the_files_are_and_root_owns_it() {
        let place = Place::new();
        let long = "d".repeat(120);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        place.write("run.sh", "#!/bin/sh\n");
        place.chmod("run.sh", 0o4775);
        std::fs::hard_link(place.path("run.sh"), place.path("twin")).unwrap();
        place.touch("run.sh", at(1_700_000_000) + Duration::from_millis(999));
        std::fs::create_dir(place.path("empty")).unwrap();
        place.chmod("empty", 0o3777);
        place.touch("empty", at(7));
        symlink("./a//b/", place.path("l")).unwrap();
        place.write(&format!("{long}/f"), "1");
        symlink(&long, place.path("m")).unwrap();
        place.fifo("pipe");
        let tar = place.tar();
        let mut seen = Vec::new();
        for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            // Newly created, so its time is unknown to the test.
            let mtime = header.mtime().unwrap();
            let mtime = if mtime < 1_750_000_000 { mtime } else { 0 };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            seen.push((
                text(&entry.path_bytes()),
                header.entry_type().as_byte(),
                header.mode().unwrap(),
                mtime,
                entry
                    .link_name_bytes()
                    .map(|name| text(&name))
                    .unwrap_or_default(),
            ));
        }
        let row = |name: &str, kind, mode, mtime, link: &str| {
            (name.to_owned(), kind, mode, mtime, link.to_owned())
        };
        assert_eq!(
            seen,
            [
                row("Dockerfile", b'0', 0o644, 0, ""),
                row(&format!("{long}/"), b'5', 0o755, 0, ""),
                row(&format!("{long}/f"), b'0', 0o644, 0, ""),
                row("empty/", b'5', 0o1755, 315_532_800, ""),
                row("l", b'2', 0o777, 0, "./a//b/"),
                row("m", b'2', 0o777, 0, &long),
                row("pipe", b'6', 0o644, 0, ""),
                row("run.sh", b'0', 0o4755, 1_700_000_000, ""),
                row("twin", b'1', 0o4755, 1_700_000_000, "run.sh"),
            ]
        );
    }

    #[test]
    fn times_of_files_are_those_on_disk() {
        let place = Place::new();
        symlink("a", place.path("l")).unwrap();
        place.write("a", "1");
        let long_ago = SystemTime::UNIX_EPOCH - Duration::new(86_400, 5);
        place.touch("a", long_ago);
        let context = place.context();
        let times: HashMap<_, _> = context.modified().collect();
        assert_eq!(times[Path::new("a")], long_ago);
        let link = place.path("l").symlink_metadata().unwrap();
        assert_eq!(times[Path::new("l")], link.modified().unwrap());
    }

    #[test]
    fn a_file_that_changes_before_it_is_sent_fails_the_tar() {
        let place = Place::new();
        place.write("a", "12345");
        let context = place.context();
        for text in ["54321", "1"] {
            place.write("a", text);
            let result = context.write_tar(io::sink(), &[]);
            assert!(matches!(result, Err(Error::Changed(_))), "{text}");
        }
        std::fs::remove_file(place.path("a")).unwrap();
        assert!(matches!(
            context.write_tar(io::sink(), &[]),
            Err(Error::Changed(_))
        ));
    }

    #[test]
    fn the_digest_of_a_file_with_a_fresh_timestamp_is_not_cached() {
        let place = Place::new();
        place.write("a", "1");
        let projects = Projects::new(place.dir.path());
        let name = "p".parse().unwrap();
        let first = projects.context(&name).unwrap().digest();
        // Same size, and likely within the clock's resolution of the first change.
        place.write("a", "2");
        assert_ne!(projects.context(&name).unwrap().digest(), first);
    }
}
