//! Each property of a tree in the table of `mistry fetch --help`: tried by each transport.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::scene::{Scene, TRANSPORTS, USER};
use super::trees::{self, Fact, Kind, facts, set_mode, set_time};
use crate::support::{Place, names};

/// One transport and one property: a tree is built, fetched, and compared.
struct Probe<'a> {
    scene: &'a Scene,
    transport: &'a str,
    target: PathBuf,
}

/// What one transport makes of one property, in the words of the table.
fn probe(scene: &Scene, transport: &str, property: &str) -> String {
    let target = scene.target(&format!("{transport} {}", property.replace('/', "")), 0);
    let probe = Probe {
        scene,
        transport,
        target,
    };
    match property {
        "modes, without set-id and sticky bits" => probe.modes(),
        "modification times" => probe.times(),
        "symbolic links" => probe.symbolic_links(),
        "hard links" => probe.hard_links(),
        "holes of sparse files" => probe.holes(),
        "names of any bytes" => probe.file_names(),
        "paths of 4,096 bytes and more" => probe.long_paths(),
        "read-only directories" => probe.closed_directories(true),
        "directories closed to their owner" => probe.closed_directories(false),
        "new content of the same size and time" => probe.new_content(),
        "pipes, sockets, devices" => probe.special_files(),
        other => panic!("the table has a row that no test proves: {other}"),
    }
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

impl Probe<'_> {
    fn try_fetch(&self, more: &[&str], user: u32) -> (i32, String) {
        self.scene
            .try_fetch(self.transport, &self.target, more, user)
    }

    fn fetch(&self, more: &[&str], user: u32) {
        self.scene.fetch(self.transport, &self.target, more, user);
    }

    /// The tree that was built and the one that was fetched.
    fn both(&self) -> (BTreeMap<PathBuf, Fact>, BTreeMap<PathBuf, Fact>) {
        (facts(&self.scene.artifacts()), facts(&self.target))
    }

    fn modes(&self) -> String {
        self.scene.fill(trees::make_rich);
        self.fetch(&[], 0);
        let (built, fetched) = self.both();
        let modes = |facts: &BTreeMap<PathBuf, Fact>| -> Vec<_> {
            facts
                .iter()
                .map(|(path, fact)| (path.clone(), fact.mode))
                .collect()
        };
        let extra = |path: &PathBuf| fs::metadata(self.target.join(path)).unwrap().mode() & 0o7000;
        let is_plain = fetched.keys().all(|path| extra(path) == 0);
        yes(modes(&built) == modes(&fetched) && is_plain)
    }

    fn times(&self) -> String {
        self.scene.fill(|root| {
            trees::make_rich(root);
            if self.transport == "scp" {
                // SFTP counts from 1970 on.
                set_time(&root.join("old"), 1_000, 500_000_000);
            }
        });
        self.fetch(&[], 0);
        let (built, fetched) = self.both();
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

    fn symbolic_links(&self) -> String {
        self.scene.fill(trees::make_links);
        fs::write(self.target.join("before"), "").unwrap();
        let (status, _) = self.try_fetch(&[], 0);
        if self.transport == "scp" {
            // Those that cannot be followed end it, and nothing has come.
            assert_eq!(
                (status, names(&self.target)),
                (4, vec!["before".to_owned()])
            );
            self.scene.fill(|root| {
                fs::write(root.join("file"), "text").unwrap();
                symlink("file", root.join("link")).unwrap();
            });
            self.fetch(&[], 0);
            let link = &facts(&self.target)[Path::new("link")];
            assert_eq!(link.kind, Kind::File(b"text".to_vec()));
            return "followed".to_owned();
        }
        fs::remove_file(self.target.join("before")).unwrap();
        let (built, fetched) = self.both();
        let links = |facts: &BTreeMap<PathBuf, Fact>| -> Vec<_> {
            let link =
                |(path, fact): (&PathBuf, &Fact)| (path.clone(), fact.kind.clone(), fact.seconds);
            facts.iter().map(link).collect()
        };
        yes(status == 0 && links(&built) == links(&fetched))
    }

    fn hard_links(&self) -> String {
        self.scene.fill(trees::make_rich);
        self.fetch(&[], 0);
        let first = |path: &str| facts(&self.target)[Path::new(path)].first.clone();
        let whole = ["three", "several/one", "several/a/two"].map(first);
        yes(whole.iter().all(|first| *first == whole[2]))
    }

    fn holes(&self) -> String {
        // scp sends all of it.
        let size = if self.transport == "scp" { 32 } else { 512 } << 20;
        self.scene
            .fill(|root| trees::make_sparse(&root.join("sparse"), size));
        self.fetch(&[], 0);
        let found = fs::metadata(self.target.join("sparse")).unwrap();
        assert_eq!(found.len(), size);
        yes(found.blocks() * 512 < 1 << 20)
    }

    fn file_names(&self) -> String {
        self.scene.fill(trees::make_rich);
        self.fetch(&[], 0);
        let (built, fetched) = self.both();
        let whole = |facts: &BTreeMap<PathBuf, Fact>| -> Vec<_> {
            facts
                .iter()
                .map(|(path, fact)| (path.clone(), fact.kind.clone()))
                .collect()
        };
        yes(whole(&built) == whole(&fetched))
    }

    fn long_paths(&self) -> String {
        self.scene.fill(trees::make_deep);
        let (status, said) = self.try_fetch(&[], 0);
        if !trees::is_deep(&self.target) {
            assert_eq!(
                status, 4,
                "{} has lost a file without an error: {said}",
                self.transport
            );
            return "no".to_owned();
        }
        assert_eq!(fs::read_to_string(self.target.join("ok")).unwrap(), "ok");
        yes(status == 0)
    }

    fn closed_directories(&self, readable: bool) -> String {
        // A user other than root needs the rights.
        chown(&self.target, Some(USER), None).unwrap();
        let mut opened = 0;
        for n in 0..2 {
            self.scene.fill(|root| make_closed(root, readable, n));
            let (status, said) = self.try_fetch(&[], USER);
            if status == 4 && said.contains("could not read") {
                return "no".to_owned();
            }
            assert_eq!(status, 0, "{}: {said}", self.transport);
            let (built, fetched) = self.both();
            for (path, fact) in &built {
                let fetched = fetched.get(path);
                let fetched = fetched.unwrap_or_else(|| panic!("{}: no {path:?}", self.transport));
                assert_eq!(fact.kind, fetched.kind, "{}: {path:?}", self.transport);
                opened += u32::from(fact.mode != fetched.mode);
            }
        }
        self.scene
            .fill(|root| fs::write(root.join("other"), "").unwrap());
        self.fetch(&["--clear-target"], USER);
        assert_eq!(names(&self.target), ["other"]);
        if opened == 0 { "yes" } else { "opened" }.to_owned()
    }

    fn new_content(&self) -> String {
        for (n, text) in ["one", "two"].iter().enumerate() {
            self.scene.fill(|root| {
                for name in ["built", "changed"] {
                    let text = if name == "built" { text } else { "abc" };
                    fs::write(root.join(name), text).unwrap();
                    set_time(&root.join(name), 1_000_000_000, 0);
                }
            });
            if n == 1 {
                // By content, since the time does not show it.
                fs::write(self.target.join("changed"), "xyz").unwrap();
                set_time(&self.target.join("changed"), 1_000_000_000, 0);
            }
            self.fetch(&[], 0);
        }
        let text = |name: &str| fs::read_to_string(self.target.join(name)).unwrap();
        yes(text("built") == "two" && text("changed") == "abc")
    }

    fn special_files(&self) -> String {
        self.scene.fill(|root| {
            trees::make_special(root);
            fs::write(root.join("file"), "").unwrap();
        });
        self.fetch(&[], 0);
        let left = names(&self.target);
        assert!(left.contains(&"file".to_owned()));
        yes(left.len() > 1)
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
