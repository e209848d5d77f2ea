//! What Docker's client sends of a project, recorded in place of an Engine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// 1980-01-01T00:00:00Z.
pub const EARLIEST: i64 = 315_532_800;

/// One entry of a tar, as far as Docker or we define it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    pub kind: u8,
    pub mode: u32,
    pub owner: (u64, u64),
    pub time: i64,
    pub target: Vec<u8>,
    pub capability: Vec<u8>,
    pub content: Vec<u8>,
}

impl Packed {
    /// What we make of what Docker sends: the documented differences.
    pub fn expected(mut self) -> Packed {
        if self.kind != b'2' {
            self.mode &= !0o022;
        }
        if self.kind == b'5' {
            self.mode &= !0o2000;
        }
        // What the Engine cannot set is the beginning of Unix time.
        if self.time > i64::MAX / 1_000_000_000 {
            self.time = 0;
        }
        self.time = self.time.max(EARLIEST);
        self
    }
}

pub type Tree = BTreeMap<Vec<u8>, Packed>;

/// The records of a PAX header by their keys; a value may hold any byte.
fn records(mut header: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut records = BTreeMap::new();
    while !header.is_empty() {
        let space = header.iter().position(|byte| *byte == b' ').unwrap();
        let length: usize = str::from_utf8(&header[..space]).unwrap().parse().unwrap();
        let record = &header[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').unwrap();
        let key = str::from_utf8(&record[..equals]).unwrap().to_owned();
        records.insert(key, record[equals + 1..].to_vec());
        header = &header[length..];
    }
    records
}

pub fn unpack(tar: &[u8]) -> Tree {
    let mut tree = Tree::new();
    let mut extended = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().unwrap().raw(true) {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if header.entry_type().is_pax_local_extensions() {
            extended = records(&content);
            continue;
        }
        let mut extended = std::mem::take(&mut extended);
        let time = match extended.remove("mtime") {
            Some(time) => String::from_utf8(time).unwrap().parse::<f64>().unwrap() as i64,
            None => header.mtime().unwrap().cast_signed(),
        };
        let path = extended.remove("path");
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let path = path.strip_suffix(b"/").unwrap_or(&path).to_vec();
        let target = extended.remove("linkpath").or_else(|| {
            let target = header.link_name_bytes()?;
            Some(target.into_owned())
        });
        let capability = extended.remove("SCHILY.xattr.security.capability");
        let packed = Packed {
            kind: header.entry_type().as_byte(),
            mode: header.mode().unwrap(),
            owner: (header.uid().unwrap(), header.gid().unwrap()),
            time,
            target: target.unwrap_or_default(),
            capability: capability.unwrap_or_default(),
            content,
        };
        let twice = tree.insert(path, packed);
        assert!(twice.is_none(), "an entry is packed twice");
    }
    tree
}

/// Stands where Docker's client looks for an Engine, and keeps what it is sent.
pub struct Recorder {
    socket: PathBuf,
    sent: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Recorder {
    pub fn at(socket: PathBuf) -> Recorder {
        let listener = UnixListener::bind(&socket).unwrap();
        let sent = Arc::new(Mutex::new(None));
        let kept = sent.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let kept = kept.clone();
                std::thread::spawn(move || serve(client, &kept));
            }
        });
        Recorder { socket, sent }
    }

    /// What Docker's client sends of a project, or what it says when it refuses.
    pub fn record(&self, project: &Path) -> Result<Tree, String> {
        *self.sent.lock().unwrap() = None;
        let host = format!("unix://{}", self.socket.display());
        let output = docker(&["build", "-q"], Some(&host), project);
        let sent = self.sent.lock().unwrap().take();
        match sent {
            Some(tar) => Ok(unpack(&tar)),
            None => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

/// Answers one connection of Docker's client; ends with it.
fn serve(client: UnixStream, kept: &Mutex<Option<Vec<u8>>>) -> Option<()> {
    let mut to = client.try_clone().ok()?;
    let mut from = BufReader::new(client);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line);
        }
        let mut body = "OK\n".to_owned();
        if head[0].starts_with("POST") {
            let mut sent = Vec::new();
            loop {
                let mut size = String::new();
                from.read_line(&mut size).ok()?;
                let size = u64::from_str_radix(size.trim(), 16).ok()?;
                (&mut from).take(size).read_to_end(&mut sent).ok()?;
                from.read_line(&mut String::new()).ok()?;
                if size == 0 {
                    break;
                }
            }
            *kept.lock().unwrap() = Some(sent);
            body = "{\"stream\":\"done\"}\n".to_owned();
        }
        if head[0].starts_with("HEAD") {
            body.clear();
        }
        write!(
            to,
            "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nBuilder-Version: 1\r\nOstype: linux\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
    }
}

pub fn docker(args: &[&str], host: Option<&str>, project: &Path) -> Output {
    let mut command = Command::new("docker");
    command.args(args).arg(project).env("DOCKER_BUILDKIT", "0");
    if let Some(host) = host {
        command.env("DOCKER_HOST", host);
    }
    command.stdin(Stdio::null()).output().unwrap()
}

/// Patterns were given other meanings before Docker 23; since then they are those of today.
pub fn has_todays_patterns() -> bool {
    let output = Command::new("docker").arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let version = text.trim_start_matches("Docker version ");
    let major = version.split('.').next().unwrap().parse::<u32>();
    major.unwrap_or_else(|_| panic!("{text}")) >= 23
}
