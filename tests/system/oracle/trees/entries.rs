//! The properties of a tree that are compared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{SeekFrom, lgetxattr, llistxattr, seek};

/// How much of an entry is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All that `cp -a` keeps.
    All,
    /// What is promised of a fetched tree: no owner, no set-id and sticky bits, no attributes, no
    /// special files, times in seconds.
    Fetched,
}

/// An entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    kind: String,
    mode: u32,
    owner: Option<(u32, u32)>,
    modified: (i64, i64),
    /// The content of a file, or what a link says.
    content: Vec<u8>,
    /// Where the data of a file is, in whole pages: what is between is holes.
    data: Vec<(u64, u64)>,
    /// The first of the names of the same file.
    first_name: Option<Vec<u8>>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// For a comparison with a program that chooses itself where holes are.
    pub fn forget_pieces(&mut self) {
        self.data.clear();
    }
}

/// Everything below `root` by its path, and the root itself as "" where all is compared.
pub fn entries(root: &Path, depth: Depth) -> BTreeMap<Vec<u8>, Entry> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    let mut inodes: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    if depth == Depth::All {
        found.insert(Vec::new(), entry(root, depth));
    }
    while let Some(directory) = pending.pop() {
        for item in fs::read_dir(&directory).unwrap() {
            let path = item.unwrap().path();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
            let facts = fs::symlink_metadata(&path).unwrap();
            let kind = facts.file_type();
            let is_special = !(kind.is_file() || kind.is_dir() || kind.is_symlink());
            if is_special && depth == Depth::Fetched {
                continue;
            }
            if !kind.is_dir() && facts.nlink() > 1 {
                inodes.entry(facts.ino()).or_default().push(name.to_owned());
            }
            found.insert(name.to_owned(), entry(&path, depth));
            if kind.is_dir() {
                pending.push(path);
            }
        }
    }
    for names in inodes.values() {
        let first = names.iter().min();
        for name in names.iter().filter(|_| names.len() > 1) {
            found.get_mut(name).unwrap().first_name = first.cloned();
        }
    }
    found
}

fn entry(path: &Path, depth: Depth) -> Entry {
    let facts = fs::symlink_metadata(path).unwrap();
    let all = depth == Depth::All;
    let kind = facts.file_type();
    let mut content = Vec::new();
    let mut data = Vec::new();
    if kind.is_file() {
        content = fs::read(path).unwrap();
        data = pieces(&File::open(path).unwrap(), facts.len());
    } else if kind.is_symlink() {
        content = fs::read_link(path)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .to_owned();
    }
    let device = kind.is_char_device() || kind.is_block_device();
    let mode = match (kind.is_symlink(), all) {
        (true, _) => 0o777,
        (_, true) => facts.mode() & 0o7777,
        (_, false) => facts.mode() & 0o777,
    };
    Entry {
        kind: format!(
            "{:o} {}",
            facts.mode() >> 12,
            if device { facts.rdev() } else { 0 }
        ),
        mode,
        owner: all.then(|| (facts.uid(), facts.gid())),
        modified: (facts.mtime(), if all { facts.mtime_nsec() } else { 0 }),
        content,
        data,
        first_name: None,
        attributes: if all { attributes(path) } else { Vec::new() },
    }
}

fn pieces(file: &File, size: u64) -> Vec<(u64, u64)> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let Ok(start) = seek(file, SeekFrom::Data(at)) else {
            break;
        };
        at = seek(file, SeekFrom::Hole(start)).unwrap();
        pieces.push((start, at));
    }
    pieces
}

fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let length = llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut found: Vec<_> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"security.selinux"))
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_owned(), value[..length].to_owned())
        })
        .collect();
    found.sort();
    found
}

/// Fails at the first entry that differs.
#[track_caller]
pub fn same(ours: &BTreeMap<Vec<u8>, Entry>, theirs: &BTreeMap<Vec<u8>, Entry>, what: &str) {
    let show = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    for (name, entry) in theirs {
        match ours.get(name) {
            Some(other) => assert_eq!(other, entry, "{what}: '{}' (ours, theirs)", show(name)),
            None => panic!("{what}: ours has no '{}'", show(name)),
        }
    }
    if let Some(name) = ours.keys().find(|name| !theirs.contains_key(*name)) {
        panic!("{what}: only ours has '{}'", show(name));
    }
}

/// Unpacks a tar by GNU tar.
#[track_caller]
pub fn unpack(tar: &[u8], target: &Path) {
    fs::create_dir(target).unwrap();
    let mut child = Command::new("tar")
        .args(["-xpf", "-", "--no-same-owner", "-C"])
        .arg(target)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || to.write_all(tar).unwrap());
        let done = child.wait_with_output().unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    });
}

/// Runs a program that must succeed; what it printed.
#[track_caller]
pub fn run(command: &mut Command) -> Vec<u8> {
    let done = command.output().unwrap();
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    done.stdout
}
