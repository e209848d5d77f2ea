//! `make demo` with the programs that are built already: it prints its steps, and leaves nothing on the
//! host but the directory that it names.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use crate::support::engine::Engine;
use crate::support::{Home, Place, names};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo");

#[test]
fn the_demo_prints_its_steps_and_leaves_one_directory() {
    crate::support::environment("DOCKER_HOST");
    let home = Home::on(Place::Host);
    // Stands for cargo, which may not be there for root and would only find all built.
    let built = home.join("target/debug");
    fs::create_dir_all(&built).unwrap();
    symlink(env!("CARGO_BIN_EXE_mistryd"), built.join("mistryd")).unwrap();
    symlink(env!("CARGO_BIN_EXE_mistry"), built.join("mistry")).unwrap();
    let cargo = home.join("cargo");
    let target = home.join("target");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = build ] || echo '{{\"target_directory\":\"{}\"}}'\n",
        target.display()
    );
    fs::write(&cargo, text).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();

    let dir = home.join("demo");
    let ran = Command::new(DEMO)
        .env("CARGO", &cargo)
        .env("MISTRY_DEMO_DIR", &dir)
        .env_remove("MISTRY_DEMO_LOOK")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = String::from_utf8(ran.stdout).unwrap();
    assert!(
        ran.status.success(),
        "{stdout}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let lines: Vec<_> = stdout.lines().filter(|line| !line.is_empty()).collect();
    assert!((8..=12).contains(&lines.len()), "{stdout}");
    for said in [
        "web view     http://127.0.0.1:",
        "built        in ",
        "Hello, world! (run 1 of this group)",
        "once more    cached, in ",
        "incremental, in ",
        "Hello, mistry! (run 2 of this group)",
        "stopped      mistryd, with status 0",
        &format!("left         {}, and nothing else", dir.display()),
    ] {
        assert!(stdout.contains(said), "{said}: {stdout}");
    }

    let instance = fs::read_to_string(dir.join("builds/.mistry/instance")).unwrap();
    let label = format!("mistry.instance={}", instance.trim());
    let engine = Engine::new();
    assert!(engine.containers(&label).is_empty());
    assert!(engine.images(&label).is_empty());
    for process in names("/proc".as_ref()) {
        let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(!line.contains(dir.to_str().unwrap()), "{line}");
    }
    // With the directory, all that there is is removed.
    assert_eq!(names(home.path()), ["cargo", "demo", "target"]);
}
