//! `tests/environment/toolchain` and `packages rust`: which cargo and rustc the commands of the README use, and
//! what is installed where there are none. Runs in a copy of the scripts that wants a Rust of the future, with
//! programs that stand for cargo, rustc and apt.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/environment");

struct Host {
    root: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        let root = tempfile::tempdir().unwrap();
        let host = Host { root };
        let scripts = host.path("repository/tests/environment");
        fs::create_dir_all(&scripts).unwrap();
        for name in ["toolchain", "packages", "as-root"] {
            fs::copy(Path::new(SCRIPTS).join(name), scripts.join(name)).unwrap();
        }
        fs::write(
            host.path("repository/Cargo.toml"),
            "rust-version = \"900.2\"\n",
        )
        .unwrap();
        for name in ["bin", "home"] {
            fs::create_dir_all(host.path(name)).unwrap();
        }
        // What a user who is not root calls it by.
        host.program("bin/sudo", "[ \"$1\" != -E ] || shift; exec \"$@\"");
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn program(&self, path: &str, lines: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// cargo and rustc of a version, in a directory.
    fn rust(&self, directory: &str, version: &str) {
        for name in ["cargo", "rustc"] {
            let says = format!("echo '{name} {version} (0123 2026-01-01)'");
            self.program(&format!("{directory}/{name}"), &says);
        }
    }

    /// apt that knows these packages with their versions; "installing" makes a new toolchain.
    fn apt(&self, packages: &[(&str, &str)]) {
        let cases: String = packages
            .iter()
            .map(|(name, version)| format!("{name}) echo '  Candidate: {version}';;\n"))
            .collect();
        self.program(
            "bin/apt-cache",
            &format!("case $2 in\n{cases}*) [ $1 = policy ];;\nesac"),
        );
        let log = self.path("apt.log");
        let new = self.path("home/.cargo/bin");
        self.program(
            "bin/apt-get",
            &format!(
                "echo \"$@\" >> {log}
                [ $1 = install ] || exit 0
                mkdir -p {new}
                for name in cargo rustc; do
                    printf '#!/bin/sh\\necho %s 900.3.1\\n' $name > {new}/$name
                    chmod 755 {new}/$name
                done",
                log = log.display(),
                new = new.display()
            ),
        );
    }

    fn path_variable(&self) -> String {
        format!("{}:/usr/bin:/bin", self.path("bin").display())
    }

    fn toolchain(&self, arguments: &[&str]) -> Output {
        Command::new(self.path("repository/tests/environment/toolchain"))
            .args(arguments)
            .env_clear()
            .env("PATH", self.path_variable())
            .env("HOME", self.path("home"))
            .output()
            .unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_toolchain_that_is_new_enough_is_used_as_it_is() {
    let host = Host::new();
    host.rust("bin", "900.2.0");
    let ran = host.toolchain(&[]);
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(text(&ran.stdout).trim_end(), host.path_variable());
    assert_eq!(text(&ran.stderr), "");
}

#[test]
fn a_newer_one_elsewhere_goes_before_one_that_is_too_old() {
    let host = Host::new();
    host.rust("bin", "900.1.9");
    host.rust("home/.cargo/bin", "900.10.0-nightly");
    let ran = host.toolchain(&["find"]);
    assert!(ran.status.success(), "{ran:?}");
    let wanted = format!(
        "{}:{}",
        host.path("home/.cargo/bin").display(),
        host.path_variable()
    );
    assert_eq!(text(&ran.stdout).trim_end(), wanted);
}

#[test]
fn what_is_missing_is_named_with_its_reason_and_installed() {
    let host = Host::new();
    host.rust("bin", "900.1.9");
    assert!(!host.toolchain(&["find"]).status.success());
    host.apt(&[("cargo-web", "900.3.1+dfsg1-1~deb12u2")]);
    let ran = host.toolchain(&[]);
    assert!(ran.status.success(), "{ran:?}");
    let said = text(&ran.stderr);
    assert!(
        said.contains(
            "missing: cargo-web, because mistry is built with Rust 900.2 or newer, and there is 900.1.9\n"
        ),
        "{said}"
    );
    let asked = fs::read_to_string(host.path("apt.log")).unwrap();
    let last = asked.lines().last().unwrap();
    assert!(
        last.starts_with("install -q -y --no-install-recommends cargo-web rustc-web"),
        "{asked}"
    );
    // The lists of a fresh machine do not know what security has.
    assert!(asked.starts_with("update"), "{asked}");
}

#[test]
fn where_cargo_web_is_too_old_rustup_is_installed_and_fetches_a_toolchain_of_its_own() {
    let host = Host::new();
    host.apt(&[("cargo-web", "900.1.0+dfsg1-1"), ("rustup", "1.26")]);
    let toolchain = host.path("home/toolchain/bin");
    // In place of a toolchain, the package brings a program that fetches one.
    let rustup = host.path("bin/rustup");
    host.program(
        "bin/apt-get",
        &format!(
            "[ $1 = install ] || exit 0; echo \"$@\" > {log}; cp {made} {rustup}",
            log = host.path("apt.log").display(),
            made = host.path("rustup").display(),
            rustup = rustup.display()
        ),
    );
    host.program(
        "rustup",
        &format!(
            "case $1 in
            which) [ -d {new} ] && echo {new}/cargo;;
            toolchain) [ \"$*\" = 'toolchain install 900.2 --profile minimal --no-self-update' ] &&
                mkdir -p {new} && for name in cargo rustc; do
                    printf '#!/bin/sh\\necho %s 900.2.0\\n' $name > {new}/$name; chmod 755 {new}/$name
                done;;
            esac",
            new = toolchain.display()
        ),
    );
    let ran = host.toolchain(&[]);
    assert!(ran.status.success(), "{ran:?}");
    let said = text(&ran.stdout);
    assert!(
        said.starts_with(&format!("{}:", toolchain.display())),
        "{said}"
    );
    let said = text(&ran.stderr);
    assert!(said.contains("missing: rustup, "), "{said}");
    assert!(
        said.contains("rustup toolchain install 900.2 --profile minimal"),
        "{said}"
    );
}

#[test]
fn where_nothing_has_it_one_sentence_says_where_it_is() {
    let host = Host::new();
    host.apt(&[("cargo-web", "900.1.0+dfsg1-1")]);
    let ran = host.toolchain(&[]);
    assert!(!ran.status.success());
    let said = text(&ran.stderr);
    assert!(
        said.contains("https://rustup.rs") && said.contains("bookworm-security"),
        "{said}"
    );
    assert_eq!(text(&ran.stdout), "");
}
