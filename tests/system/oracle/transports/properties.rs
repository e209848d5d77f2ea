//! Each property of a tree in the table of `mistry fetch --help`: tried by each transport.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::scene::{Scene, TRANSPORTS, USER};
use super::trees::{self, Fact, Kind, facts, set_mode, set_time};
use crate::support::{Place, names};

/// What one transport makes of one property, in the words of the table.
fn probe(scene: &Scene, transport: &str, property: &str) -> String {
    let target = scene.target(&format!("{transport} {}", property.replace('/', "")), 0);
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let both = |target: &Path| (facts(&scene.artifacts()), facts(target));
    match property {
        "modes, without set-id and sticky bits" => {
            scene.fill(trees::make_rich);
            scene.fetch(transport, &target, &[], 0);
            let (built, fetched) = both(&target);
            let modes = |facts: &BTreeMap<PathBuf, Fact>| -> Vec<_> {
                facts
                    .iter()
                    .map(|(path, fact)| (path.clone(), fact.mode))
                    .collect()
            };
            let extra = |path: &PathBuf| fs::metadata(target.join(path)).unwrap().mode() & 0o7000;
            let is_plain = fetched.keys().all(|path| extra(path) == 0);
            yes(modes(&built) == modes(&fetched) && is_plain)
        }
        "modification times" => {
            scene.fill(|root| {
                trees::make_rich(root);
                if transport == "scp" {
                    // SFTP counts from 1970 on.
                    set_time(&root.join("old"), 1_000, 500_000_000);
                }
            });
            scene.fetch(transport, &target, &[], 0);
            let (built, fetched) = both(&target);
            let times = |facts: &BTreeMap<PathBuf, Fact>, nanos: bool| -> Vec<_> {
                let time = |(path, fact): (&PathBuf, &Fact)| {
                    (
                        path.clone(),
                        fact.seconds,
                        if nanos { fact.nanos } else { 0 },
                    )
                };
                facts.iter().map(time).collect()
            };
            match (
                times(&built, true) == times(&fetched, true),
                times(&built, false) == times(&fetched, false),
            ) {
                (true, _) => "exact".to_owned(),
                (false, true) => "to 1 s".to_owned(),
                (false, false) => {
                    let differ = |(path, fact): (&PathBuf, &Fact)| {
                        let was = &built[path];
                        (was.seconds != fact.seconds)
                            .then(|| format!("{path:?}: {} {}", was.seconds, fact.seconds))
                    };
                    format!(
                        "no: {:?}",
                        fetched.iter().filter_map(differ).collect::<Vec<_>>()
                    )
                }
            }
        }
        "symbolic links" => {
            scene.fill(trees::make_links);
            fs::write(target.join("before"), "").unwrap();
            let (status, _) = scene.try_fetch(transport, &target, &[], 0);
            if transport == "scp" {
                // Those that cannot be followed end it, and nothing has come.
                assert_eq!((status, names(&target)), (4, vec!["before".to_owned()]));
                scene.fill(|root| {
                    fs::write(root.join("file"), "text").unwrap();
                    symlink("file", root.join("link")).unwrap();
                });
                scene.fetch(transport, &target, &[], 0);
                let link = &facts(&target)[Path::new("link")];
                assert_eq!(link.kind, Kind::File(b"text".to_vec()));
                return "followed".to_owned();
            }
            fs::remove_file(target.join("before")).unwrap();
            let (built, fetched) = both(&target);
            let links = |facts: &BTreeMap<PathBuf, Fact>| -> Vec<_> {
                let link = |(path, fact): (&PathBuf, &Fact)| {
                    (path.clone(), fact.kind.clone(), fact.seconds)
                };
                facts.iter().map(link).collect()
            };
            yes(status == 0 && links(&built) == links(&fetched))
        }
        "hard links" => {
            scene.fill(trees::make_rich);
            scene.fetch(transport, &target, &[], 0);
            let first = |path: &str| facts(&target)[Path::new(path)].first.clone();
            let whole = ["three", "several/one", "several/a/two"].map(first);
            yes(whole.iter().all(|first| *first == whole[2]))
        }
        "holes of sparse files" => {
            // scp sends all of it.
            let size = if transport == "scp" { 32 } else { 512 } << 20;
            scene.fill(|root| trees::make_sparse(&root.join("sparse"), size));
            scene.fetch(transport, &target, &[], 0);
            let found = fs::metadata(target.join("sparse")).unwrap();
            assert_eq!(found.len(), size);
            yes(found.blocks() * 512 < 1 << 20)
        }
        "names of any bytes" => {
            scene.fill(trees::make_rich);
            scene.fetch(transport, &target, &[], 0);
            let (built, fetched) = both(&target);
            let whole = |facts: &BTreeMap<PathBuf, Fact>| -> Vec<_> {
                facts
                    .iter()
                    .map(|(path, fact)| (path.clone(), fact.kind.clone()))
                    .collect()
            };
            yes(whole(&built) == whole(&fetched))
        }
        "paths of 4,096 bytes and more" => {
            scene.fill(trees::make_deep);
            let (status, said) = scene.try_fetch(transport, &target, &[], 0);
            if !trees::is_deep(&target) {
                assert_eq!(
                    status, 4,
                    "{transport} has lost a file without an error: {said}"
                );
                return "no".to_owned();
            }
            assert_eq!(fs::read_to_string(target.join("ok")).unwrap(), "ok");
            yes(status == 0)
        }
        "read-only directories" | "directories closed to their owner" => {
            // A user other than root needs the rights.
            chown(&target, Some(USER), None).unwrap();
            let mut opened = 0;
            for n in 0..2 {
                scene.fill(|root| make_closed(root, property.starts_with("read-only"), n));
                let (status, said) = scene.try_fetch(transport, &target, &[], USER);
                if status == 4 && said.contains("could not read") {
                    return "no".to_owned();
                }
                assert_eq!(status, 0, "{transport}: {said}");
                let (built, fetched) = both(&target);
                for (path, fact) in &built {
                    let fetched = fetched.get(path);
                    let fetched = fetched.unwrap_or_else(|| panic!("{transport}: no {path:?}"));
                    assert_eq!(fact.kind, fetched.kind, "{transport}: {path:?}");
                    opened += u32::from(fact.mode != fetched.mode);
                }
            }
            scene.fill(|root| fs::write(root.join("other"), "").unwrap());
            scene.fetch(transport, &target, &["--clear-target"], USER);
            assert_eq!(names(&target), ["other"]);
            if opened == 0 { "yes" } else { "opened" }.to_owned()
        }
        "new content of the same size and time" => {
            for (n, text) in ["one", "two"].iter().enumerate() {
                scene.fill(|root| {
                    for name in ["built", "changed"] {
                        let text = if name == "built" { text } else { "abc" };
                        fs::write(root.join(name), text).unwrap();
                        set_time(&root.join(name), 1_000_000_000, 0);
                    }
                });
                if n == 1 {
                    // By content, since the time does not show it.
                    fs::write(target.join("changed"), "xyz").unwrap();
                    set_time(&target.join("changed"), 1_000_000_000, 0);
                }
                scene.fetch(transport, &target, &[], 0);
            }
            let text = |name: &str| fs::read_to_string(target.join(name)).unwrap();
            yes(text("built") == "two" && text("changed") == "abc")
        }
        "pipes, sockets, devices" => {
            scene.fill(|root| {
                trees::make_special(root);
                fs::write(root.join("file"), "").unwrap();
            });
            scene.fetch(transport, &target, &[], 0);
            let left = names(&target);
            assert!(left.contains(&"file".to_owned()));
            yes(left.len() > 1)
        }
        other => panic!("the table has a row that no test proves: {other}"),
    }
}

/// Directories that are closed in all manners, or only to writing, when they are `readable`. The names
/// differ a little each time, so that entries come and are replaced in closed directories.
fn make_closed(root: &Path, readable: bool, n: u32) {
    let modes: &[u32] = match readable {
        true => &[0o555, 0o575],
        false => &[0o555, 0o000, 0o111, 0o444, 0o333, 0o055],
    };
    for mode in modes {
        let path = root.join(format!("mode-{mode:o}"));
        fs::create_dir_all(path.join("inner/empty")).unwrap();
        fs::write(path.join("same"), format!("{n}")).unwrap();
        fs::write(path.join(format!("inner/file-{n}")), "text").unwrap();
        for path in [path.join("inner/empty"), path.join("inner"), path] {
            set_mode(&path, *mode);
        }
    }
    fs::write(root.join("file"), "").unwrap();
    set_mode(&root.join("file"), if readable { 0o444 } else { 0 });
}

#[test]
fn each_transport_preserves_what_its_help_says() {
    let scene = Scene::on(Place::Ext4);
    let help = scene.daemon.mistry(&["fetch", "--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    let heads = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let table = help
        .lines()
        .skip_while(|line| heads(line) != TRANSPORTS)
        .skip(1);
    let mut wrong = Vec::new();
    let mut rows = 0;
    for line in table.take_while(|line| !line.is_empty()) {
        let cells = line.split("  ").map(str::trim);
        let cells: Vec<&str> = cells.filter(|cell| !cell.is_empty()).collect();
        for (transport, claimed) in TRANSPORTS.iter().zip(&cells[1..]) {
            let found = probe(&scene, transport, cells[0]);
            if found != *claimed {
                wrong.push(format!(
                    "{}: {transport} is documented as '{claimed}' and is '{found}'",
                    cells[0]
                ));
            }
        }
        rows += 1;
    }
    assert!(rows >= 10, "{help}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
