//! The documents describe the bus as it is: the installed interfaces, the contract, the bus policy and
//! the actions of polkit.

use std::collections::BTreeSet;

use serde_json::json;
use zbus::fdo::IntrospectableProxy;

use crate::support::{
    bus::{TestBus, manager},
    daemon::Home,
};
use crate::tidy::read;

/// Our interface in an introspection, its lines without the blanks around them.
fn interface(xml: &str, name: &str) -> Vec<String> {
    let head = format!("<interface name=\"org.mistry.Mistry1.{name}\">");
    let from = xml
        .find(&head)
        .unwrap_or_else(|| panic!("no {name}: {xml}"));
    let (text, _) = xml[from..].split_once("</interface>").unwrap();
    let lines = text.lines().map(|line| line.trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

/// The value of an attribute.
fn attribute<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let from = line.find(&format!(" {name}=\""))? + name.len() + 3;
    line[from..].split_once('"').map(|(value, _)| value)
}

/// Methods, signals and properties as the contract writes them.
fn members(interface: &[String]) -> Vec<String> {
    let mut members = Vec::new();
    let (mut name, mut given, mut returned) = ("", Vec::new(), Vec::new());
    for line in interface {
        if line.starts_with("<method") || line.starts_with("<signal") {
            name = attribute(line, "name").unwrap();
            (given, returned) = (Vec::new(), Vec::new());
        } else if line.starts_with("<arg") {
            let (kind, name) = (attribute(line, "type"), attribute(line, "name"));
            let shown = format!(
                "{} {}",
                kind.unwrap(),
                name.expect("an argument without a name")
            );
            match attribute(line, "direction") {
                Some("out") => returned.push(shown),
                _ => given.push(shown),
            }
        } else if line.starts_with("</method") || line.starts_with("</signal") {
            let mut member = format!("{name}({})", given.join(", "));
            if !returned.is_empty() {
                member.push_str(&format!(" → ({})", returned.join(", ")));
            }
            members.push(member);
        } else if line.starts_with("<property") {
            let (kind, name) = (attribute(line, "type"), attribute(line, "name"));
            members.push(format!("{} {}", kind.unwrap(), name.unwrap()));
        }
    }
    members
}

/// What stands between backticks in the first column of the contract's tables.
fn documented(document: &str) -> BTreeSet<String> {
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|row| row.split('`').nth(1))
        .map(str::to_owned)
        .collect()
}

/// The interfaces on the bus, as they are installed.
#[tokio::test]
async fn the_installed_interfaces_are_those_on_the_bus() {
    let (bus, home) = (TestBus::start(), Home::new().await);
    home.configure(&json!({}));
    home.fixture("succeed");
    home.engine.hold("wait");
    let _daemon = bus.spawn(&home).await;
    let here = bus.connect().await;
    let none = std::collections::HashMap::new();
    let options = std::collections::HashMap::new();
    let manager = manager(&here).await;
    let (_, job, _) = manager
        .submit_job("succeed", "", &none, &options)
        .await
        .unwrap();
    for (name, path) in [("Manager", "/org/mistry/Mistry1"), ("Job", job.as_str())] {
        let object = IntrospectableProxy::builder(&here)
            .destination("org.mistry.Mistry1")
            .path(path.to_owned())
            .build();
        let there = object.await.unwrap().introspect().await.unwrap();
        let installed = read(&format!("packaging/dbus/org.mistry.Mistry1.{name}.xml"));
        let (on_the_bus, written) = (interface(&there, name), interface(&installed, name));
        let same = |(a, b): &(&String, &String)| a == b;
        let begin = on_the_bus.iter().zip(&written).take_while(same).count();
        let (a, b) = (
            on_the_bus[begin..].iter().rev(),
            written[begin..].iter().rev(),
        );
        let end = a.zip(b).take_while(same).count();
        let part = |lines: &[String]| lines[begin..lines.len() - end].join("\n");
        let mut before = written[..begin].iter().rev();
        let is_member = |line: &&String| {
            ["<method", "<signal", "<property"]
                .iter()
                .any(|head| line.starts_with(head))
        };
        let before = before
            .find(is_member)
            .and_then(|line| attribute(line, "name"));
        assert!(
            on_the_bus == written,
            "packaging/dbus/org.mistry.Mistry1.{name}.xml is not what is on the bus (where properties are in the order of their names). After '{}' write\n{}\nin the place of\n{}\n",
            before.unwrap_or_default(),
            part(&on_the_bus),
            part(&written)
        );
    }
    home.engine.release("wait");
}

#[test]
fn each_member_and_error_is_in_the_contract_and_nothing_else() {
    let document = read("docs/dbus-api.md");
    let mut expected = BTreeSet::new();
    for name in ["Manager", "Job"] {
        let installed = read(&format!("packaging/dbus/org.mistry.Mistry1.{name}.xml"));
        expected.extend(members(&interface(&installed, name)));
    }
    // Errors of ours, from the one place where they are named.
    let source = read("src/dbus/error.rs");
    let ours = source.match_indices("(OURS, \"").map(|(at, head)| {
        let rest = &source[at + head.len()..];
        rest.split('"').next().unwrap().to_owned()
    });
    expected.extend(ours);
    let actions = actions();
    expected.extend(actions.iter().cloned());
    let documented = documented(&document);
    let missing: Vec<_> = expected.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&expected).collect();
    assert!(
        missing.is_empty(),
        "docs/dbus-api.md does not name {missing:?}"
    );
    assert!(unknown.is_empty(), "docs/dbus-api.md tells of {unknown:?}");
}

/// In which column of the contract stands what.
fn columns(document: &str) -> Vec<Vec<String>> {
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let cells = |row: &str| {
        row.split(" | ")
            .map(|cell| cell.trim_matches(['|', ' ', '`']).to_owned())
            .collect()
    };
    rows.map(cells).collect()
}

#[test]
fn the_contract_declares_which_changes_are_signalled_and_who_may_act() {
    let rows = columns(&read("docs/dbus-api.md"));
    for name in ["Manager", "Job"] {
        let installed = read(&format!("packaging/dbus/org.mistry.Mistry1.{name}.xml"));
        let lines = interface(&installed, name);
        for (at, line) in lines.iter().enumerate() {
            if !line.starts_with("<property") {
                continue;
            }
            let is_const = lines
                .get(at + 1)
                .is_some_and(|next| next.contains("value=\"const\""));
            let property = format!(
                "{} {}",
                attribute(line, "type").unwrap(),
                attribute(line, "name").unwrap()
            );
            let row = rows.iter().find(|row| row[0] == property);
            let row = row.unwrap_or_else(|| panic!("docs/dbus-api.md has no row '{property}'"));
            assert_eq!(row[1], if is_const { "const" } else { "yes" }, "{property}");
        }
    }
    // What a method asks polkit for, by its name in the source.
    for (file, name) in [("manager", "Manager"), ("job", "Job")] {
        let source = read(&format!("src/dbus/{file}.rs"));
        let installed = read(&format!("packaging/dbus/org.mistry.Mistry1.{name}.xml"));
        for member in members(&interface(&installed, name)) {
            let Some((method, _)) = member.split_once('(') else {
                continue;
            };
            let Some(row) = rows.iter().find(|row| row[0] == member) else {
                continue;
            };
            // Signals are in a table without that column.
            if method.starts_with("JobNew") || method.starts_with("JobRemoved") {
                continue;
            }
            let mut snake = String::new();
            for letter in method.chars() {
                if letter.is_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.extend(letter.to_lowercase());
            }
            let body = source.split(&format!("async fn {snake}(")).nth(1).unwrap();
            let body = body.split("\n    #[zbus").next().unwrap();
            let body = body.split("\n    async fn").next().unwrap();
            let asked = body.split("Action::").nth(1).map(|rest| {
                let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap();
                rest[..end]
                    .replace("ReadOutput", "read-output")
                    .to_lowercase()
            });
            let expected = match (asked, body.contains("cancel(connection")) {
                (Some(action), _) => action,
                (None, true) => "cancel, starter".to_owned(),
                // Asked of polkit only where the configuration says so.
                _ if body.contains(".allow_reading_of(") => "all (read, starter)".to_owned(),
                _ if body.contains(".allow_reading(") => "all (read)".to_owned(),
                (None, false) => "all".to_owned(),
            };
            assert_eq!(row[1], expected, "{method}");
        }
    }
}

/// The actions that the daemon asks for.
fn actions() -> BTreeSet<String> {
    let source = read("src/dbus/authority.rs");
    let quoted = source
        .split('"')
        .filter(|text| text.starts_with("org.mistry.mistry1.") && !text.contains([' ', '/']));
    quoted.map(str::to_owned).collect()
}

#[test]
fn polkit_knows_each_action_and_describes_it() {
    let policy = read("packaging/dbus/org.mistry.mistry1.policy");
    let known: BTreeSet<String> = policy
        .lines()
        .filter(|line| line.trim().starts_with("<action"))
        .map(|line| attribute(line.trim(), "id").unwrap().to_owned())
        .collect();
    assert_eq!(known, actions());
    for tag in [
        "description",
        "message",
        "allow_any",
        "allow_inactive",
        "allow_active",
        "annotate",
    ] {
        let count = policy.matches(&format!("<{tag}")).count();
        assert_eq!(count, known.len(), "<{tag}>");
    }
    // Others may only with an administrator's password.
    assert_eq!(policy.matches(">auth_admin").count(), 3 * known.len());
    assert!(read("packaging/dbus/org.mistry.mistry1.rules").contains("\"org.mistry.mistry1.\""));
}

#[test]
fn the_bus_lets_all_call_and_only_root_and_mistry_own_the_name() {
    let policy = read("packaging/dbus/org.mistry.Mistry1.conf");
    let lines: Vec<&str> = policy.lines().map(str::trim).collect();
    let sent: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| attribute(line, "send_interface"))
        .collect();
    let expected = [
        "org.freedesktop.DBus.Introspectable",
        "org.freedesktop.DBus.ObjectManager",
        "org.freedesktop.DBus.Peer",
        "org.freedesktop.DBus.Properties",
        "org.mistry.Mistry1.Job",
        "org.mistry.Mistry1.Manager",
    ];
    assert_eq!(sent, BTreeSet::from(expected));
    let owners: Vec<&str> = lines
        .windows(2)
        .filter(|pair| pair[1] == "<allow own=\"org.mistry.Mistry1\"/>")
        .map(|pair| attribute(pair[0], "user").unwrap())
        .collect();
    assert_eq!(owners, ["root", "mistry"]);
    let service = read("packaging/dbus/org.mistry.Mistry1.service");
    for line in [
        "Name=org.mistry.Mistry1",
        "SystemdService=mistryd.service",
        "Exec=/bin/false",
    ] {
        assert!(service.lines().any(|there| there == line), "{line}");
    }
}
