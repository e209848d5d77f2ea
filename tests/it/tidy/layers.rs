//! The two tables of `docs/ARCHITECTURE.md` §3, held against the sources: which module may import which,
//! and which may use each external crate. And no file imports another in a circle.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::{Imports, circles};
use super::{Tree, assert_none, one, read, tree};

#[derive(Debug)]
struct Layer {
    rank: u32,
    may: BTreeSet<String>,
}

/// The rows of the table behind `<!-- tidy: NAME -->`, cells trimmed.
fn rows<'a>(document: &'a str, name: &str) -> Vec<Vec<&'a str>> {
    let mark = format!("<!-- tidy: {name} -->");
    let (_, table) = document.split_once(&mark).unwrap_or_default();
    table
        .lines()
        .skip_while(|line| line.is_empty())
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// The names in backticks in a cell.
fn names(cell: &str) -> BTreeSet<String> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

fn layers(document: &str) -> BTreeMap<String, Layer> {
    let rows = rows(document, "layers");
    let layers = rows.iter().map(|row| {
        let rank = row[0].parse().unwrap();
        let may = names(row[2]);
        (row[1].trim_matches('`').to_owned(), Layer { rank, may })
    });
    layers.collect()
}

fn homes(document: &str) -> BTreeMap<String, BTreeSet<String>> {
    let rows = rows(document, "crates");
    let homes = rows.iter();
    homes
        .map(|row| (row[0].trim_matches('`').to_owned(), names(row[1])))
        .collect()
}

/// `web` of `src/web/jobs.rs`, `job` of `src/job.rs`, `bin` of `src/bin/mistry.rs`.
fn module(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let module = inside.split('/').next().unwrap_or(inside);
    (module != "lib").then_some(module)
}

/// Imports that the table of layers does not allow, and rows that contradict their ranks.
fn forbidden(document: &str, imports: &Imports) -> Vec<String> {
    let layers = layers(document);
    let mut wrong = Vec::new();
    for (name, layer) in &layers {
        for other in &layer.may {
            if layers
                .get(other)
                .is_none_or(|other| other.rank >= layer.rank)
            {
                wrong.push(format!(
                    "'{name}' may import '{other}', which is not below it"
                ));
            }
        }
    }
    // A module that only hands a name on, or takes all of another, knows it nonetheless.
    for (path, others) in imports.named_modules() {
        let Some(layer) = module(path).and_then(|name| layers.get(name)) else {
            continue;
        };
        for other in others {
            if module(path) != Some(other)
                && layers.contains_key(other)
                && !layer.may.contains(other)
            {
                wrong.push(format!("{path}: may not import '{other}'"));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (path, others) in imports.between_files() {
        let Some(name) = module(path) else {
            continue;
        };
        seen.insert(name);
        let Some(layer) = layers.get(name) else {
            wrong.push(format!("{path}: '{name}' is not in the table of layers"));
            continue;
        };
        for other in others {
            let is_allowed = module(other).is_some_and(|m| m == name || layer.may.contains(m));
            if !is_allowed {
                wrong.push(format!("{path}: '{name}' may not import {other}"));
            }
        }
    }
    let gone = layers.keys().filter(|name| !seen.contains(name.as_str()));
    wrong.extend(gone.map(|name| format!("'{name}' is in the table of layers only")));
    wrong
}

/// Dependencies as code spells them: keys of `[dependencies]`.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim().replace('-', "_"))
        .filter(|name| !name.starts_with('#'))
        .collect()
}

/// External crates outside of their homes, and homes of no crate.
fn misplaced(document: &str, manifest: &str, imports: &Imports) -> Vec<String> {
    let (homes, declared) = (homes(document), dependencies(manifest));
    let mut wrong: Vec<String> = declared
        .iter()
        .filter(|name| !homes.contains_key(*name))
        .map(|name| format!("'{name}' is not in the table of crates"))
        .collect();
    let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (path, heads) in imports.heads() {
        let Some(module) = module(path) else {
            continue;
        };
        for name in heads.into_iter().filter(|name| declared.contains(*name)) {
            used.entry(name).or_default().insert(module);
            if !homes.get(name).is_some_and(|homes| homes.contains(module)) {
                wrong.push(format!("{path}: '{name}' has no home in '{module}'"));
            }
        }
    }
    for (name, homes) in &homes {
        let there = used.get(name.as_str());
        for home in homes {
            if !there.is_some_and(|there| there.contains(home.as_str())) {
                wrong.push(format!("'{name}' is not used in '{home}', its home"));
            }
        }
    }
    wrong
}

/// Files of `src` that the ground plan does not name, and names in it that are no files.
fn unplanned(document: &str, files: &[&str]) -> Vec<String> {
    let (_, plan) = document.split_once("```text\nsrc/\n").unwrap_or_default();
    let plan = plan.split_once("\ntests/\n").map_or(plan, |(plan, _)| plan);
    let is_sign = |letter: char| letter.is_whitespace() || ",;:".contains(letter);
    let named: BTreeSet<&str> = plan.split(is_sign).filter(|w| w.ends_with(".rs")).collect();
    let there: BTreeSet<&str> = files
        .iter()
        .filter_map(|path| path.rsplit('/').next())
        .filter(|name| *name != "mod.rs")
        .collect();
    let missing = there.difference(&named);
    let missing =
        missing.map(|name| format!("{name} is not in the ground plan, docs/ARCHITECTURE.md §2"));
    let gone = named.difference(&there);
    let gone = gone.map(|name| format!("{name} is in the ground plan only"));
    missing.chain(gone).collect()
}

/// Which scripts of browsers each script imports, at its start or later, by path.
fn between_scripts(files: &Tree) -> BTreeMap<&str, BTreeSet<&str>> {
    let scripts = files.iter().filter(|(path, _)| path.ends_with(".js"));
    let edges = scripts.map(|(path, text)| {
        let names = text.split("\"./").skip(1);
        let names = names.filter_map(|rest| rest.split('"').next());
        let others = names.filter_map(|name| {
            let is_named = |other: &&String| other.ends_with(&format!("/{name}"));
            files.keys().find(is_named).map(String::as_str)
        });
        (path.as_str(), others.collect())
    });
    edges.collect()
}

#[test]
fn the_ground_plan_names_every_file() {
    let files = tree("src");
    let files: Vec<&str> = files.keys().map(String::as_str).collect();
    let rust: Vec<&str> = files
        .into_iter()
        .filter(|path| path.ends_with(".rs"))
        .collect();
    assert_none(&unplanned(&read("docs/ARCHITECTURE.md"), &rust));
    let plan = "```text\nsrc/\n  a/   b.rs, c.rs: d\ntests/\n e.rs\n```";
    assert_none(&unplanned(
        plan,
        &["src/a/mod.rs", "src/a/b.rs", "src/c.rs"],
    ));
    assert_eq!(unplanned(plan, &["src/a/b.rs"]).len(), 1);
    assert_eq!(
        unplanned(plan, &["src/b.rs", "src/c.rs", "src/f.rs"]).len(),
        1
    );
}

#[test]
fn modules_import_only_what_their_layer_may() {
    let document = read("docs/ARCHITECTURE.md");
    assert!(
        layers(&document).len() > 10,
        "the table of layers is not found"
    );
    assert_none(&forbidden(&document, &Imports::of(&tree("src"))));
}

#[test]
fn no_file_imports_another_in_a_circle() {
    let files = tree("src");
    assert_none(&circles(&Imports::of(&files).between_files()));
    assert_none(&circles(&between_scripts(&files)));
}

#[test]
fn external_crates_stay_at_home() {
    let document = read("docs/ARCHITECTURE.md");
    let imports = Imports::of(&tree("src"));
    assert_none(&misplaced(&document, &read("Cargo.toml"), &imports));
}

#[test]
fn these_checks_can_fail() {
    let document = "<!-- tidy: layers -->\n| rank | module | may | not |\n| - | - | - | - |\n\
        | 1 | `a` | `b` | |\n| 0 | `b` | — | |\n\n<!-- tidy: crates -->\n| crate | home | why |\n\
        | - | - | - |\n| `tar` | `a` | x |\n";
    let mut files = one("src/lib.rs", "mod a; mod b; mod c;");
    files.extend(one("src/a/mod.rs", "use crate::b::c; fn f() { tar::g() }"));
    files.extend(one("src/b.rs", "pub fn c() {}"));
    let manifest = "[dependencies]\ntar = \"1\"\n[dev-dependencies]\nzip = \"1\"\n";
    assert_none(&forbidden(document, &Imports::of(&files)));
    assert_none(&misplaced(document, manifest, &Imports::of(&files)));

    let with = |path: &str, text: &str| {
        let mut files = files.clone();
        files.extend(one(path, text));
        Imports::of(&files)
    };
    for (path, text) in [
        ("src/b.rs", "use crate::{a::f};"),
        ("src/b.rs", "pub use crate::a::f;"),
        ("src/b.rs", "use crate::a::*;"),
        ("src/b.rs", "pub fn c() { super::a::f() }"),
        ("src/c.rs", ""),
        ("src/bin/x.rs", "fn main() { mistry::a::f() }"),
    ] {
        let wrong = forbidden(document, &with(path, text));
        assert!(!wrong.is_empty(), "{path}: {text}");
    }
    let mut scripts = one("s/a.js", "import { b } from \"./b.js\";");
    scripts.extend(one("s/b.js", "await import(\"./a.js\");"));
    assert_eq!(circles(&between_scripts(&scripts)).len(), 1);

    let tower = document.replace("| 0 | `b` | — |", "| 1 | `b` | — |");
    assert_eq!(forbidden(&tower, &Imports::of(&files)).len(), 1);

    assert_eq!(
        misplaced(document, manifest, &with("src/b.rs", "use tar::x;")).len(),
        1
    );
    let unused = with("src/a/mod.rs", "use crate::b::c;");
    assert_eq!(misplaced(document, manifest, &unused).len(), 1);
    let more = manifest.replace("[dev", "serde = \"1\"\n[dev");
    assert_eq!(misplaced(document, &more, &Imports::of(&files)).len(), 1);
}
