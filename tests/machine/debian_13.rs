//! The same tests on a Debian 13 with a kernel of its own (`tests/environment/virtual-machine`), which the
//! host's kernel, cgroups and security modules have no part in: this program is run there, as root, with the
//! machine that it is on as the machine of the tests.
//!
//! Emulation is slow, so `make test` has one sequence of steps there (`story`), which shows what only a kernel of
//! its own can, and `make soak` all tests.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};

use crate::support::{Packages, environment, is_emulated};

/// Where the parts are in the virtual machine.
const THERE: &str = "/var/tmp/mistry-test";

/// One test has it at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Not there: the checker of packages, and these tests themselves.
const NEVER: &[&str] = &[
    "install::the_packages_are_as_debian_wants_them",
    "debian_13::",
];

#[test]
fn mistry_is_installed_used_upgraded_and_purged_there() {
    if !is_emulated() {
        let _alone = bring();
        pass("story::");
    }
}

#[test]
#[ignore = "takes many minutes: `make soak`"]
fn all_tests_pass_there() {
    if !is_emulated() {
        let _alone = bring();
        // The tests look for it where cargo has put it here.
        let daemon = Path::new(env!("CARGO_BIN_EXE_mistryd"));
        run(&format!(
            "mkdir -p '{}'",
            daemon.parent().unwrap().display()
        ));
        copy(daemon, env!("CARGO_BIN_EXE_mistryd"), "755");
        pass("");
    }
}

/// Runs the tests of these names there.
#[track_caller]
fn pass(names: &str) {
    let mut command = format!(
        "cd / && MISTRY_TEST_EMULATED=1 MISTRY_TEST_MACHINE=1 MISTRY_TEST_DEBS={THERE}/debs \
        MISTRY_TEST_DEBS_NEXT={THERE}/debs-next RUST_BACKTRACE=1 {THERE}/tests --test-threads=1 --nocapture {names}"
    );
    for name in NEVER {
        command.push_str(&format!(" --skip {name}"));
    }
    let ran = enter(&command, Stdio::null());
    let said = String::from_utf8_lossy(&ran.stdout);
    println!("{said}");
    assert!(
        ran.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(!said.contains(" 0 passed"), "a name is wrong: {said}");
}

/// Takes the virtual machine, and brings the packages and this program.
#[track_caller]
fn bring() -> MutexGuard<'static, ()> {
    let alone = ALONE.lock().unwrap_or_else(|broken| broken.into_inner());
    run(&format!(
        "rm -rf {THERE} && mkdir -p {THERE}/debs {THERE}/debs-next"
    ));
    for (packages, place) in [(Packages::First, "debs"), (Packages::Next, "debs-next")] {
        for file in packages.files() {
            let name = file.file_name().and_then(|name| name.to_str()).unwrap();
            copy(&file, &format!("{THERE}/{place}/{name}"), "644");
        }
    }
    copy(
        &std::env::current_exe().unwrap(),
        &format!("{THERE}/tests"),
        "755",
    );
    alone
}

#[track_caller]
fn copy(from: &Path, to: &str, mode: &str) {
    let ran = enter(
        &format!("cat > '{to}' && chmod {mode} '{to}'"),
        Stdio::from(File::open(from).unwrap()),
    );
    assert!(ran.status.success(), "{ran:?}");
}

#[track_caller]
fn run(lines: &str) {
    let ran = enter(lines, Stdio::null());
    assert!(ran.status.success(), "{lines}: {ran:?}");
}

/// Runs lines of a shell in the virtual machine, as root.
#[track_caller]
fn enter(lines: &str, stdin: Stdio) -> Output {
    Command::new(environment("MISTRY_TEST_VIRTUAL_MACHINE"))
        .arg(lines)
        .stdin(stdin)
        .output()
        .unwrap()
}
