//! The rules of this repository that a program can check and the compiler and clippy do not: which file
//! may import which, file heads, sizes and names, and that documents say what the sources do.
//!
//! Every check is a function from texts to complaints, so that each can be shown to fail.

mod contracts;
mod imports;
mod layers;
mod packaging;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A longer file is to be divided.
const MAX_LINES: usize = 600;
/// Names that say nothing of what is inside.
const DRAWERS: [&str; 6] = ["utils", "util", "helpers", "common", "misc", "types"];
/// Hosts of package registries; `*` stands for a dot, so that this file names none.
const REGISTRIES: [&str; 10] = [
    "registry*npmjs",
    "registry*yarnpkg",
    "crates*io",
    "pypi*org",
    "pythonhosted*",
    "registry-1*docker",
    "rubygems*org",
    "proxy*golang",
    "deb*debian",
    "archive*ubuntu",
];
/// Beginnings of paths that only a developer's machine has; `*` stands for a slash.
const MACHINES: [&str; 2] = ["*work*", "*root*"];

/// Files of the repository by path, text only.
type Tree = BTreeMap<String, String>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file of the repository.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All text files below `under` ("" is everything), without what git and cargo make.
fn tree(under: &str) -> Tree {
    let mut found = Tree::new();
    let mut open: Vec<PathBuf> = vec![root().join(under)];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let shown = path.strip_prefix(root()).unwrap().to_str().unwrap();
            if path.is_symlink() || [".git", "target"].contains(&shown) {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                found.insert(shown.to_owned(), text);
            }
        }
    }
    found
}

fn rust(tree: &Tree) -> impl Iterator<Item = (&String, &String)> {
    tree.iter().filter(|(path, _)| path.ends_with(".rs"))
}

/// Heads, sizes and names of Rust files.
fn shape(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in rust(tree) {
        if !text.starts_with("//! ") {
            wrong.push(format!("{path} does not begin with `//!` and what it is"));
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{path} has {lines} lines, more than {MAX_LINES}"));
        }
        let mut names = Path::new(path).iter().map(|name| name.to_str().unwrap());
        if let Some(drawer) = names.find(|name| DRAWERS.contains(&name.trim_end_matches(".rs"))) {
            wrong.push(format!("{path} is in a drawer, '{drawer}'"));
        }
    }
    wrong
}

/// Fault points that only the sources or only their list know.
fn fault_points(files: &Tree, listed: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut used: Vec<&str> = Vec::new();
    for code in files.values() {
        let calls = code.split("faults::point(\"").skip(1);
        used.extend(calls.filter_map(|rest| rest.split('"').next()));
    }
    for name in listed {
        match used.iter().filter(|there| there == &name).count() {
            1 => {}
            times => wrong.push(format!(
                "'{name}' is listed, and stands {times} times in src/"
            )),
        }
    }
    let unknown = used.iter().filter(|name| !listed.contains(name));
    wrong.extend(unknown.map(|name| format!("'{name}' is not listed in src/faults.rs")));
    wrong
}

/// Hosts of registries and paths of a developer's machine.
fn traces(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in tree {
        for (at, line) in text.lines().enumerate() {
            // Cargo itself writes there where each package is from: the public index, and no other.
            let is_lock = path.ends_with("Cargo.lock");
            let line = match is_lock {
                true => line.replace(&PUBLIC_INDEX.replace('*', "."), ""),
                false => line.to_owned(),
            };
            for host in REGISTRIES.map(|host| host.replace('*', ".")) {
                if line.contains(&host) {
                    wrong.push(format!("{path}:{}: {host}", at + 1));
                }
            }
            for place in MACHINES.map(|place| place.replace('*', "/")) {
                let begins = |at: usize| !line[..at].ends_with(|l: char| l.is_alphanumeric());
                if line.match_indices(&place).any(|(at, _)| begins(at)) {
                    wrong.push(format!("{path}:{}: {place}", at + 1));
                }
            }
            if is_lock && line.starts_with("source = ") && line != "source = \"\"" {
                wrong.push(format!("{path}:{}: {line}", at + 1));
            }
        }
    }
    wrong
}

/// What cargo calls the public index, whatever mirror it used; `*` stands for a dot.
const PUBLIC_INDEX: &str = "registry+https://github*com/rust-lang/crates*io-index";

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn one(path: &str, text: &str) -> Tree {
    Tree::from([(path.to_owned(), text.to_owned())])
}

#[test]
fn files_have_heads_limits_and_names() {
    for under in ["src", "tests", "packaging", "fuzz"] {
        assert_none(&shape(&tree(under)));
    }
}

#[test]
fn every_fault_point_is_listed_and_stands_at_one_place() {
    let listed = mistry::faults::POINTS.map(|(name, _)| name);
    assert_none(&fault_points(&tree("src"), &listed));
}

#[test]
fn the_repository_names_no_registry_and_no_machine() {
    assert_none(&traces(&tree("")));
}

#[test]
fn these_checks_can_fail() {
    let head = "//! What it is.\n";
    assert!(shape(&one("src/a.rs", head)).is_empty());
    assert_eq!(shape(&one("src/a.rs", "use b;\n")).len(), 1);
    assert_eq!(shape(&one("src/a.rs", &head.repeat(601))).len(), 1);
    assert_eq!(shape(&one("src/utils.rs", head)).len(), 1);
    assert_eq!(shape(&one("src/common/a.rs", head)).len(), 1);

    let call = "faults::point(\"a\");";
    assert!(fault_points(&one("src/a.rs", call), &["a"]).is_empty());
    assert_eq!(fault_points(&one("src/a.rs", call), &["a", "b"]).len(), 1);
    assert_eq!(fault_points(&one("src/a.rs", call), &[]).len(), 1);
    assert_eq!(
        fault_points(&one("src/a.rs", &call.repeat(2)), &["a"]).len(),
        1
    );

    let host = REGISTRIES[0].replace('*', ".");
    assert_eq!(traces(&one("a", &format!("https://{host}.org/x"))).len(), 1);
    assert_eq!(
        traces(&one("a", &format!("cd {}x", "*root*".replace('*', "/")))).len(),
        1
    );
    assert!(traces(&one("a", "frame/work/x network/root/y")).is_empty());
    let source = |index: &str| one("Cargo.lock", &format!("source = \"{index}\""));
    assert!(traces(&source(&PUBLIC_INDEX.replace('*', "."))).is_empty());
    assert_eq!(traces(&source("registry+https://mirror.example")).len(), 1);
}
