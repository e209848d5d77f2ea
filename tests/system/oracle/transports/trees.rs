//! Trees that are fetched, and which of their properties are compared.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, OsStr};
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};

use crate::support::dice::Dice;

/// Names that shells, globs, rsync, scp and terminals take for something else.
pub const ODD: [&[u8]; 14] = [
    b"-rf",
    b" ",
    b"new\nline",
    b"*",
    b"glob[x]?",
    b"host:path",
    b"\xff\xfe",
    b"it's \"quoted\"",
    b"$(touch x)",
    b"~",
    b"back\\slash",
    b"...",
    b"#",
    b"\x1b[31m",
];

/// What counts of a name in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub kind: Kind,
    /// Without set-id and sticky bits; 0 of links.
    pub mode: u32,
    pub seconds: i64,
    pub nanos: i64,
    /// The first of the names of the same file.
    pub first: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File(Vec<u8>),
    Link(PathBuf),
    Directory,
    Other,
}

/// Everything below `root`.
pub fn facts(root: &Path) -> BTreeMap<PathBuf, Fact> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let kind = if stat.is_dir() {
                pending.push(path.clone());
                Kind::Directory
            } else if stat.is_symlink() {
                Kind::Link(fs::read_link(&path).unwrap())
            } else if stat.is_file() {
                Kind::File(fs::read(&path).unwrap())
            } else {
                Kind::Other
            };
            let mode = if stat.is_symlink() {
                0
            } else {
                stat.mode() & 0o777
            };
            let name = path.strip_prefix(root).unwrap().to_owned();
            let fact = Fact {
                kind,
                mode,
                seconds: stat.mtime(),
                nanos: stat.mtime_nsec(),
                first: name.clone(),
            };
            found.insert(name, (fact, (stat.dev(), stat.ino())));
        }
    }
    let mut firsts = HashMap::new();
    let first = |(name, (mut fact, id)): (PathBuf, (Fact, (u64, u64)))| {
        fact.first = firsts.entry(id).or_insert_with(|| name.clone()).clone();
        (name, fact)
    };
    found.into_iter().map(first).collect()
}

/// Sets when a name was changed last.
pub fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A file of `size` that is a hole but for its middle.
pub fn make_sparse(path: &Path, size: u64) {
    let file = File::create(path).unwrap();
    file.write_all_at(b"middle", size / 2).unwrap();
    file.set_len(size).unwrap();
}

/// Files of all modes, odd names, times to the nanosecond and before 1970, several names of one file,
/// and files in directories that are closed to writing.
pub fn make_rich(root: &Path) {
    for (n, mode) in [0o644, 0o600, 0o755, 0o444, 0o001, 0o777, 0o6755, 0o1666]
        .iter()
        .enumerate()
    {
        let path = root.join(format!("mode-{mode:o}"));
        fs::write(&path, format!("{n}")).unwrap();
        set_mode(&path, *mode);
        set_time(&path, 1_000_000_000 + n as i64, 123_456_789);
    }
    fs::create_dir(root.join("odd")).unwrap();
    for name in ODD {
        fs::write(root.join("odd").join(OsStr::from_bytes(name)), name).unwrap();
        fs::create_dir_all(root.join("odd-directories").join(OsStr::from_bytes(name))).unwrap();
    }
    fs::write(root.join("n".repeat(255)), "").unwrap();
    fs::create_dir_all(root.join("several/a")).unwrap();
    fs::write(root.join("several/one"), "one").unwrap();
    fs::hard_link(root.join("several/one"), root.join("several/a/two")).unwrap();
    fs::hard_link(root.join("several/one"), root.join("three")).unwrap();
    make_sparse(&root.join("sparse"), 1 << 20);
    fs::write(root.join("old"), "").unwrap();
    set_time(&root.join("old"), -1_000, 500_000_000);
    fs::create_dir_all(root.join("empty/deeper")).unwrap();
    for (name, mode) in [
        ("open", 0o777),
        ("read-only", 0o555),
        ("private", 0o700),
        ("sticky", 0o1775),
    ] {
        let path = root.join("directories").join(name);
        fs::create_dir_all(path.join("inner")).unwrap();
        fs::write(path.join("inner/file"), name).unwrap();
        set_time(&path.join("inner"), 1_100_000_000, 1);
        set_mode(&path, mode);
        set_time(&path, 1_200_000_000, 2);
    }
    let inner = root.join("directories/read-only/inner");
    set_mode(&inner, 0o555);
}

/// What is neither file, link nor directory.
pub fn make_special(root: &Path) {
    let mode = Mode::from_raw_mode(0o644);
    for (name, kind) in [
        ("fifo", FileType::Fifo),
        ("socket", FileType::Socket),
        ("null", FileType::CharacterDevice),
    ] {
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, root.join(name), kind, mode, device).unwrap();
    }
}

/// Links of all kinds.
pub fn make_links(root: &Path) {
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("file"), "file").unwrap();
    for (n, to) in [
        "file",
        "d",
        "nowhere",
        "/etc/passwd",
        "../../../secret",
        ".",
        "new\nline",
        "self",
    ]
    .iter()
    .enumerate()
    {
        let link = root.join(if *to == "self" {
            "self".to_owned()
        } else {
            format!("link-{n}")
        });
        symlink(to, &link).unwrap();
        set_time(&link, 1_000_000_000, 5);
    }
    symlink("t/".repeat(2_000), root.join("long")).unwrap();
}

/// A directory so deep that no path to it is taken by the kernel, and a file in it beside `ok`.
pub fn make_deep(root: &Path) {
    fs::write(root.join("ok"), "ok").unwrap();
    let at = descend(root, true).unwrap();
    let flags = OFlags::CREATE | OFlags::WRONLY;
    rustix::fs::openat(&at, "file", flags, Mode::from_raw_mode(0o644)).unwrap();
}

/// Whether it is there.
pub fn is_deep(root: &Path) -> bool {
    let file = |at| rustix::fs::statat(at, "file", AtFlags::empty());
    descend(root, false).and_then(file).is_ok()
}

fn descend(root: &Path, make: bool) -> Result<std::os::fd::OwnedFd, rustix::io::Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let mut at: std::os::fd::OwnedFd = File::open(root).unwrap().into();
    let name = CString::new("d".repeat(200)).unwrap();
    for _ in 0..25 {
        if make {
            rustix::fs::mkdirat(&at, &name, Mode::from_raw_mode(0o755))?;
        }
        at = rustix::fs::openat(&at, &name, flags, Mode::empty())?;
    }
    Ok(at)
}

/// A tree of the dice. Times have no fraction, since not every transport keeps it.
pub fn make_any(root: &Path, dice: &mut Dice) {
    let mut directories = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    for _ in 0..4 + dice.up_to(40) {
        let parent = &directories[dice.up_to(directories.len() as u64) as usize];
        let name = match dice.up_to(4) {
            0 => OsStr::from_bytes(ODD[dice.up_to(ODD.len() as u64) as usize]).to_owned(),
            1 => "n".repeat(1 + dice.up_to(255) as usize).into(),
            _ => format!("{}", dice.up_to(30)).into(),
        };
        let path = parent.join(name);
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match dice.up_to(6) {
            0 | 1 => {
                fs::create_dir(&path).unwrap();
                directories.push(path);
                continue;
            }
            2 if !files.is_empty() => {
                let old = &files[dice.up_to(files.len() as u64) as usize];
                fs::hard_link(old, &path).unwrap();
                continue;
            }
            3 => {
                let to = ["/etc/passwd", "..", "nowhere", "0", "1/2"][dice.up_to(5) as usize];
                symlink(to, &path).unwrap();
            }
            _ => {
                let size = [0, 1, 511, 512, 4_096, 70_000, 300_000][dice.up_to(7) as usize];
                let mut text = vec![b'x'; size];
                if dice.up_to(2) == 0 {
                    text.fill(0);
                }
                let file = File::create(&path).unwrap();
                file.write_all_at(&text, dice.up_to(3) * 100_000).unwrap();
                set_mode(&path, dice.up_to(0o1000) as u32);
            }
        }
        set_time(&path, dice.up_to(2_000_000_000) as i64 - 1_000, 0);
        files.push(path);
    }
    for directory in directories.iter().skip(1).rev() {
        set_mode(directory, dice.up_to(0o1000) as u32);
        set_time(directory, dice.up_to(2_000_000_000) as i64, 0);
    }
}
