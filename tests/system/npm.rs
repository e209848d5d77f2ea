//! Real input: the example project `npm` installs the packages of a real lock file over the network,
//! the client fetches them, and a program runs with them.
//!
//! `MISTRY_TEST_NODE_IMAGE` names an image with Node that replaces the project's base.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

const HOUSE: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn a_lock_file_is_installed_and_again_with_the_cache_of_the_first_time() {
    let image = std::env::var("MISTRY_TEST_NODE_IMAGE").expect(
        "MISTRY_TEST_NODE_IMAGE is not set: `make environment` makes that image and names it",
    );
    let project = Path::new(HOUSE).join("examples/projects/npm");
    let base = ("node:20-slim", image.as_str());
    let daemon = Setup::on(Place::Btrfs)
        .project(&project, Some(base))
        .start();

    let first = build(&daemon, &project, "fetched");
    assert_eq!(
        (&first["Cached"], &first["Incremental"]),
        (&json!(false), &json!(false))
    );
    assert!(log(&first).contains("npm cache: empty"), "{first:#}");
    let home = daemon.home().join("fetched");
    assert!(
        std::fs::read_dir(home.join("node_modules"))
            .unwrap()
            .count()
            >= 50
    );
    assert_eq!(
        used(&home, &project, &image),
        "newest 1.10.0, sum 5050, Hello mistry\n"
    );

    let again = build(&daemon, &project, "again");
    assert_eq!(
        (&again["Cached"], &again["ID"]),
        (&json!(true), &first["ID"])
    );

    let changed = Path::new(HOUSE).join("tests/fixtures/npm-changed");
    let next = build(&daemon, &changed, "fetched");
    assert_ne!(next["ID"], first["ID"]);
    assert_eq!(
        (&next["Cached"], &next["Incremental"]),
        (&json!(false), &json!(true))
    );
    assert!(log(&next).contains("npm cache: found"), "{next:#}");
    assert_eq!(
        used(&home, &project, &image),
        "newest 1.10.0, sum 5050, Hello mistry\n"
    );
}

/// `mistry build`, as the project's head says; the build info.
fn build(daemon: &Daemon, params: &Path, target: &str) -> Value {
    let file = |name: &str| params.join(name).display().to_string();
    let lockfile = format!("--lockfile=@{}", file("package-lock.json"));
    let package = format!("--package=@{}", file("package.json"));
    let built = daemon.mistry(&[
        "build",
        "--project",
        "npm",
        "--group",
        "main",
        "--target",
        target,
        "--json-result",
        "--",
        &lockfile,
        &package,
    ]);
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(
        built.status.success(),
        "{}: {said}\n{}",
        built.status,
        daemon.log()
    );
    serde_json::from_slice(&built.stdout).unwrap()
}

fn log(info: &Value) -> &str {
    info["ContainerStdouterr"].as_str().unwrap()
}

/// What a program prints that needs the packages in `home`: run by this host's Node, or by the
/// image's.
fn used(home: &Path, project: &Path, image: &str) -> String {
    std::fs::copy(project.join("use.js"), home.join("use.js")).unwrap();
    let here = Command::new("node")
        .arg("use.js")
        .current_dir(home)
        .output();
    let ran = here.unwrap_or_else(|_| {
        let mount = format!("{}:/home/it:ro", home.display());
        let mut docker = Command::new("docker");
        docker.args(["run", "--rm", "--network", "host", "--volume", &mount]);
        docker.args(["--workdir", "/home/it", image, "node", "use.js"]);
        docker.output().unwrap()
    });
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    String::from_utf8(ran.stdout).unwrap()
}
