//! What can be checked of the packages without building them: the units are valid and sandboxed, the
//! shipped configuration works, the manual and the journal's catalog are complete, and nothing is written
//! twice.
//!
//! Checks that need a tool of the host (`systemd-analyze`, `man`) run where it is installed; `make test`
//! installs both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::{assert_none, read, root, tree};

#[allow(dead_code)]
#[path = "../../../packaging/manuals/main.rs"]
mod manuals;

const UNITS: &str = "packaging/systemd";
const DEBIAN: &str = "packaging/debian";
/// Ten times the exposure that `systemd-analyze security` may find.
const MAX_EXPOSURE: &str = "--threshold=25";

/// What a program of the host prints; nothing where there is none.
fn output_of(command: &mut Command) -> Option<Output> {
    match command.env("LC_ALL", "C.UTF-8").output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("not checked: {command:?}: {error}");
            None
        }
    }
}

fn shown(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// The files of a directory of the repository by name, links among them.
fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(directory)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// The values of a key in a unit, in order.
fn values<'a>(unit: &'a str, key: &'a str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value)
        .collect()
}

/// The entries of a catalog by id; what is wrong with them besides.
fn entries(catalog: &str) -> (BTreeMap<&str, &str>, Vec<String>) {
    let mut found = BTreeMap::new();
    let mut wrong = Vec::new();
    for entry in catalog.split("\n-- ").skip(1) {
        let (id, rest) = entry.split_once('\n').unwrap_or((entry, ""));
        let (head, text) = rest.split_once("\n\n").unwrap_or((rest, ""));
        if !is_id(id) {
            wrong.push(format!("'{id}' is no message id"));
        }
        if !head
            .lines()
            .any(|line| line.len() > "Subject: ".len() && line.starts_with("Subject: "))
        {
            wrong.push(format!("{id} has no subject"));
        }
        if !text.trim_end().ends_with('.') {
            wrong.push(format!("{id} has no text"));
        }
        if found.insert(id, text).is_some() {
            wrong.push(format!("{id} is there twice"));
        }
    }
    (found, wrong)
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The message ids that stand alone between quotes.
fn quoted_ids(code: &str) -> impl Iterator<Item = &str> {
    let quotes = code.match_indices('"');
    quotes.filter_map(|(at, _)| {
        let id = code.get(at + 1..at + 33).filter(|id| is_id(id))?;
        code[at + 33..].starts_with('"').then_some(id)
    })
}

#[test]
fn units_are_in_order_and_closed() {
    // Where the program is not installed, its place is taken by another.
    let home = tempfile::tempdir().unwrap();
    let units = names(UNITS).into_iter().filter(|name| {
        let kind = Path::new(name).extension().and_then(|kind| kind.to_str());
        matches!(kind, Some("service" | "socket" | "timer" | "slice"))
    });
    let units: Vec<_> = units.map(|name| home.path().join(name)).collect();
    assert!(units.len() > 4, "the units are not found: {units:?}");
    for unit in &units {
        let name = unit.file_name().unwrap().to_str().unwrap();
        let text = read(&format!("{UNITS}/{name}")).replace("/usr/sbin/mistryd", "/bin/true");
        fs::write(unit, text).unwrap();
    }
    let mut verify = Command::new("systemd-analyze");
    // The manual is not installed either, and the host's other units are not ours.
    verify.args(["verify", "--man=no", "--recursive-errors=no"]);
    if let Some(output) = output_of(verify.args(&units)) {
        let shown = shown(&output);
        let wrong: Vec<_> = shown.lines().filter(|l| l.contains("mistry")).collect();
        assert!(output.status.success() && wrong.is_empty(), "{shown}");
    }
    for service in units
        .iter()
        .filter(|unit| unit.extension().unwrap() == "service")
    {
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--no-pager", "--offline=true", MAX_EXPOSURE]);
        if let Some(output) = output_of(security.arg(service)) {
            assert!(output.status.success(), "{}", shown(&output));
        }
    }
}

#[test]
fn nothing_of_the_units_is_written_down_twice() {
    let mut wrong = Vec::new();
    let ours = names(UNITS);
    let kinds: BTreeSet<_> = ours
        .iter()
        .filter_map(|name| Path::new(name).extension())
        .collect();
    let mut linked = BTreeSet::new();
    for name in names(DEBIAN) {
        let path = root().join(DEBIAN).join(&name);
        match fs::read_link(&path) {
            Ok(target) => {
                let unit = target.strip_prefix("../systemd").ok().map(Path::to_owned);
                let unit = unit.and_then(|unit| unit.to_str().map(str::to_owned));
                match unit.filter(|unit| ours.contains(unit)) {
                    Some(unit) => _ = linked.insert(unit),
                    None => wrong.push(format!("{name} leads to {}", target.display())),
                }
            }
            Err(_)
                if Path::new(&name)
                    .extension()
                    .is_some_and(|kind| kinds.contains(kind)) =>
            {
                wrong.push(format!("{name} is no link to packaging/systemd"));
            }
            Err(_) => {}
        }
    }
    // What debhelper does not know by its name is named elsewhere.
    let rest = [
        read("packaging/debian/rules"),
        read("packaging/debian/mistryd.install"),
    ]
    .concat();
    for name in ours.difference(&linked) {
        let kind = Path::new(name).extension().and_then(|kind| kind.to_str());
        let kind = kind.unwrap_or_default();
        if !rest.contains(&format!("systemd/{name}"))
            && !rest.contains(&format!("systemd/*.{kind}"))
        {
            wrong.push(format!("{name} is in no package"));
        }
    }
    assert_none(&wrong);
}

#[test]
fn the_shipped_configuration_works_where_its_places_are_there() {
    let text = read("packaging/config.json");
    let made = read("packaging/systemd/mistryd.tmpfiles");
    let home = tempfile::tempdir().unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in config.as_object_mut().unwrap() {
        let Some(place) = value
            .as_str()
            .filter(|text| text.starts_with('/'))
            .map(str::to_owned)
        else {
            continue;
        };
        let line = made
            .lines()
            .find(|line| line.split_whitespace().nth(1) == Some(&place));
        let line = line.unwrap_or_else(|| panic!("nothing makes the {key} '{place}'"));
        let here = home.path().join(place.trim_start_matches('/'));
        fs::create_dir_all(here.parent().unwrap()).unwrap();
        match line.chars().next() {
            Some('d') => fs::create_dir(&here).unwrap(),
            _ => fs::write(&here, "").unwrap(),
        }
        *value = here.to_str().unwrap().into();
    }
    let path = home.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_mistryd"));
    let output = check
        .arg("--config")
        .arg(&path)
        .arg("--check-config")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", shown(&output));
}

#[test]
fn programs_and_units_speak_of_the_same_places() {
    let socket = read("packaging/systemd/mistryd.socket");
    let sources: String = tree("src").into_values().collect();
    let listens = values(&socket, "ListenStream");
    let unix: Vec<_> = listens.iter().filter(|at| at.starts_with('/')).collect();
    assert_eq!(unix.len(), 1);
    assert!(sources.contains(&format!("= \"{}\";", unix[0])), "{unix:?}");
    assert!(listens.contains(&"127.0.0.1:8462"), "{listens:?}");
    for service in ["mistryd", "mistryd-gc"] {
        let unit = read(&format!("packaging/systemd/{service}.service"));
        for command in values(&unit, "ExecStart") {
            let expected = "/usr/sbin/mistryd --config /etc/mistry/config.json";
            assert!(command.starts_with(expected), "{command}");
        }
    }
}

#[test]
fn the_manual_is_whole() {
    let home = tempfile::tempdir().unwrap();
    manuals::make(home.path()).unwrap();
    let page = |name: &str| {
        // As it is read, without what is written for the formatter.
        let text = fs::read_to_string(home.path().join(name)).unwrap();
        text.replace("\\-", "-")
            .replace("\\fB", "")
            .replace("\\fR", "")
    };
    for (name, titles) in [
        (
            "mistryd.8",
            &[
                "BUILDERS",
                "CONTAINERS",
                "LISTENING AND TLS",
                "TOKENS",
                "THE BUS",
                "PAUSING",
                "GARBAGE COLLECTION",
            ][..],
        ),
        (
            "mistry.json.5",
            &["PARAMS OF A PROJECT", "SECRETS", "BUILDERS"],
        ),
    ] {
        let text = page(name);
        // An entry of a page has nothing above it, and programs have their names.
        for wrong in ["As above", "\nPip,", "\nNpm;"] {
            assert!(!text.contains(wrong), "{name}: {wrong}");
        }
        let heads = text.lines().filter_map(|line| line.strip_prefix(".SH "));
        let heads: Vec<&str> = heads.map(|head| head.trim_matches('"')).collect();
        for title in titles {
            assert!(
                heads.contains(title),
                "{name} has no section {title}: {heads:?}"
            );
        }
    }
    let sample: Value = serde_json::from_str(&read("config.sample.json")).unwrap();
    let daemon = page("mistryd.8");
    for key in sample.as_object().unwrap().keys() {
        let is_entry = |line: &str| line == key || line.starts_with(&format!("{key}  ("));
        assert!(
            daemon.lines().any(is_entry),
            "mistryd(8), which is made from the table in docs/operations.md, has no entry '{key}'"
        );
    }
    for word in [
        "SIGHUP",
        "DOCKER_HOST",
        "--check-config",
        "token new",
        "/etc/mistry/tokens",
        "\n78\n",
    ] {
        assert!(daemon.contains(word), "mistryd(8) does not mention {word}");
    }
    let client = page("mistry.1");
    for word in [
        "--project",
        "MISTRY_URL",
        "MISTRY_TOKEN_FILE",
        "\n130\n",
        "mistry rebuild",
    ] {
        assert!(client.contains(word), "mistry(1) does not mention {word}");
    }
    let settings = page("mistry.json.5");
    for word in [
        "\nuser",
        "\nnetwork",
        "\nlimits",
        "\nmounts",
        "\njob_timeout",
    ] {
        assert!(
            settings.contains(word),
            "mistry.json(5) does not mention {word}"
        );
    }
    for name in ["mistryd.8", "mistry.1", "mistry.json.5"] {
        let mut man = Command::new("man");
        man.args(["--warnings", "--local-file"])
            .arg(home.path().join(name));
        if let Some(output) = output_of(&mut man) {
            let warnings = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() && warnings.is_empty(),
                "{name}: {warnings}"
            );
        }
    }
    for script in [
        "bash/mistryd",
        "bash/mistry",
        "zsh/_mistryd",
        "fish/mistry.fish",
    ] {
        let text = fs::read_to_string(home.path().join("completions").join(script)).unwrap();
        assert!(
            text.contains("config") || text.contains("project"),
            "{script}"
        );
    }
}

#[test]
fn the_catalog_explains_each_id_once_and_no_other() {
    let catalog = read("packaging/systemd/mistryd.catalog");
    let (explained, wrong) = entries(&catalog);
    assert_none(&wrong);
    assert!(explained.len() > 10, "the entries are not found");
    let sources: String = tree("src").into_values().collect();
    let given: BTreeSet<&str> = quoted_ids(&sources).collect();
    let known: BTreeSet<&str> = explained.keys().copied().collect();
    let unexplained: Vec<_> = given.difference(&known).collect();
    let unused: Vec<_> = known.difference(&given).collect();
    assert!(
        unexplained.is_empty() && unused.is_empty(),
        "not in the catalog: {unexplained:?}; in the catalog alone: {unused:?}"
    );
}

#[test]
fn the_packages_have_the_version_of_the_programs_and_change_no_owners() {
    let changelog = read("packaging/debian/changelog");
    let expected = format!("mistry ({}) ", env!("CARGO_PKG_VERSION"));
    assert!(changelog.starts_with(&expected), "{changelog}");
    let mut wrong = Vec::new();
    for (path, text) in tree("packaging") {
        for (at, line) in text.lines().enumerate() {
            let words: Vec<_> = line.split_whitespace().collect();
            let recursive = words
                .iter()
                .any(|word| matches!(*word, "-R" | "-hR" | "-Rh" | "--recursive"));
            if words.contains(&"chown") && recursive {
                wrong.push(format!("{path}:{}: {line}", at + 1));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn these_checks_can_fail() {
    let id = "0123456789abcdef0123456789abcdef";
    let good = format!("# c\n\n-- {id}\nSubject: S\n\nIt is so.\n");
    assert_eq!(entries(&good).1.len(), 0);
    assert_eq!(entries(&format!("{good}{}", &good[4..])).1.len(), 1);
    assert_eq!(entries(&good.replace("Subject: S", "Subject: ")).1.len(), 1);
    assert_eq!(entries(&good.replace("It is so.", "")).1.len(), 1);
    assert_eq!(entries(&good.replace(id, "0123")).1.len(), 1);
    let code = format!("'\"' b\"\\\"\" \"{id}\" \"{id}0\"");
    assert_eq!(quoted_ids(&code).collect::<Vec<_>>(), [id]);
    assert_eq!(values("A=b\nC=d\nA=e", "A"), ["b", "e"]);
}
