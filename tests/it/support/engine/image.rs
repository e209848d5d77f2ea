//! Images of the fake engine: a directory with what the context held, and what it was built with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Words a Dockerfile line may begin with.
const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A build that was asked for, as it was asked for, whatever became of it.
#[derive(Debug, Clone, Default)]
pub struct BuildSeen {
    pub tag: String,
    pub labels: BTreeMap<String, String>,
    pub build_args: BTreeMap<String, String>,
    pub network: String,
    pub target: String,
    pub nocache: bool,
    pub pull: bool,
    /// Every path of the context.
    pub files: BTreeSet<String>,
}

/// A pull that was asked for.
#[derive(Debug, Clone)]
pub struct PullSeen {
    pub image: String,
    pub tag: String,
    /// `X-Registry-Auth`, if it was sent.
    pub credentials: Option<String>,
}

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    pub id: String,
    /// Empty when it dangles.
    pub tags: BTreeSet<String>,
    pub labels: BTreeMap<String, String>,
    /// Grows with every image, in seconds.
    pub created: i64,
    /// Its files.
    pub root: PathBuf,
}

impl Image {
    pub fn is(&self, name: &str) -> bool {
        let digits = self.id.trim_start_matches("sha256:");
        let tagged = self.tags.contains(name) || self.tags.contains(&format!("{name}:latest"));
        self.id == name || tagged || (name.len() >= 12 && digits.starts_with(name))
    }

    pub fn summary(&self) -> Value {
        let tags: Vec<_> = match self.tags.is_empty() {
            true => vec!["<none>:<none>"],
            false => self.tags.iter().map(String::as_str).collect(),
        };
        json!({
            "Id": self.id, "ParentId": "", "RepoTags": tags, "RepoDigests": null,
            "Created": self.created, "Size": 1000, "VirtualSize": 1000, "SharedSize": -1,
            "Containers": -1,
            "Labels": if self.labels.is_empty() { Value::Null } else { json!(self.labels) },
        })
    }
}

impl Image {
    /// Its newest layer, which sets a label where it has any.
    pub fn history(&self) -> Value {
        let label = self.labels.iter().next_back();
        let label = label.map_or(String::new(), |(key, value)| {
            format!(" LABEL {key}={value}")
        });
        json!([{
            "Id": self.id, "Created": self.created, "CreatedBy": format!("/bin/sh -c #(nop) {label}"),
            "Tags": null, "Size": 0, "Comment": "",
        }])
    }
}

/// Unpacks a context, and returns its paths and a digest of its names, modes and contents.
pub fn unpack(tar: File, root: &Path) -> std::io::Result<(BTreeSet<String>, Sha256)> {
    std::fs::create_dir_all(root)?;
    let mut files = BTreeSet::new();
    let mut digest = Sha256::new();
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        digest.update(format!("{path}\0{:o}\0", entry.header().mode()?));
        let to = root.join(path.trim_start_matches("./"));
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        entry.unpack(&to)?;
        if entry.header().entry_type().is_file() {
            let mut file = File::open(&to)?;
            let mut piece = vec![0; 64 * 1024];
            while let n @ 1.. = file.read(&mut piece)? {
                digest.update(&piece[..n]);
            }
        }
        files.insert(path);
    }
    Ok((files, digest))
}

/// The steps of a Dockerfile, or what is wrong with it: what the real builder says before it begins.
pub fn parse(root: &Path) -> Result<Vec<String>, (u16, String)> {
    let text = std::fs::read_to_string(root.join("Dockerfile")).map_err(|_| {
        let said = "Cannot locate specified Dockerfile: Dockerfile";
        (500, said.to_owned())
    })?;
    let joined = text.replace("\\\n", " ");
    let mut steps = Vec::new();
    for (number, line) in joined.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let word = line.split_whitespace().next().unwrap_or("").to_uppercase();
        if !INSTRUCTIONS.contains(&word.as_str()) {
            let number = number + 1;
            let said = format!("dockerfile parse error line {number}: unknown instruction: {word}");
            return Err((400, said));
        }
        steps.push(line.to_owned());
    }
    match steps.first() {
        None => Err((
            400,
            "the Dockerfile (Dockerfile) cannot be empty".to_owned(),
        )),
        Some(first) if !first.to_uppercase().starts_with("FROM") => {
            Err((400, "no build stage in current context".to_owned()))
        }
        Some(_) => Ok(steps),
    }
}

/// What the builder prints while it takes the steps, and its complaint if one fails.
///
/// Nothing is executed: `RUN false` fails, `RUN echo …` prints, every other step succeeds.
pub fn build(
    steps: &[String],
    base: impl Fn(&str) -> Result<(), String>,
) -> (Vec<String>, Option<String>) {
    let mut text = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        text.push(format!("Step {}/{} : {step}", at + 1, steps.len()));
        text.push("\n".to_owned());
        let mut words = step.split_whitespace();
        let word = words.next().unwrap_or("").to_uppercase();
        let rest = words.collect::<Vec<_>>().join(" ");
        if word == "FROM" {
            let name = rest.split(' ').next().unwrap_or("");
            if let Err(said) = base(name) {
                return (text, Some(said));
            }
        }
        if word == "RUN" {
            text.push(" ---> Running in 0123456789ab\n".to_owned());
            if rest == "false" {
                let said = "The command '/bin/sh -c false' returned a non-zero code: 1";
                return (text, Some(said.to_owned()));
            }
            if let Some(words) = rest.strip_prefix("echo ") {
                text.push(format!("{words}\n"));
            }
            text.push("Removing intermediate container 0123456789ab\n".to_owned());
        }
        text.push(" ---> 0123456789ab\n".to_owned());
    }
    (text, None)
}
