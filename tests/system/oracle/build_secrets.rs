//! Build secrets and ssh by the real docker-buildx: where the values are and are not, and the image compared with
//! that of `docker buildx build --secret` on the same Engine.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::buildkit::{assert_ends, files, instructions, log, process_with, steps};
use super::containers::{docker, settings};
use crate::support::daemon::{Daemon, Setup};
use crate::support::{Place, environment};

const SECRET: &str = "hunter2-of-a-registry\nand a second line";

fn daemon() -> Daemon {
    let setup = Setup::on(Place::Host).script("p", "touch artifacts/made");
    let plugins = setup.home().join("docker/cli-plugins");
    fs::create_dir_all(&plugins).unwrap();
    symlink(
        environment("MISTRY_TEST_BUILDX"),
        plugins.join("docker-buildx"),
    )
    .unwrap();
    let config = plugins.parent().unwrap().display().to_string();
    setup.env("DOCKER_CONFIG", config).start()
}

/// Processes whose arguments or variables have this text, and files of them.
fn who_has(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for name in ["cmdline", "environ"] {
            let path = process.path().join(name);
            let bytes = fs::read(&path).unwrap_or_default();
            if has(&bytes, text) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

/// The files below a directory that have this text.
fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let found = Command::new("grep")
        .args(["-rl", "--", text])
        .arg(directory)
        .output()
        .unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    found.lines().map(str::to_owned).collect()
}

/// Asserts that neither what the daemon has written nor the Engine has this text: no image, no layer, no record.
fn assert_nowhere(daemon: &Daemon, image: &str, text: &str) {
    assert!(!daemon.log().contains(text));
    assert_eq!(files_with(&daemon.builds(), text), [""; 0]);
    for arguments in [
        &["save", image][..],
        &["history", "--no-trunc", image],
        &["image", "inspect", image],
    ] {
        let output = docker(arguments);
        assert!(
            output.status.success() && !has(&output.stdout, text),
            "{arguments:?}"
        );
    }
    // Layers may be compressed there.
    for (path, entry) in files(image) {
        let path = String::from_utf8_lossy(&path).into_owned();
        assert!(!has(&entry.content, text), "{path}");
    }
    let root = docker(&["info", "--format", "{{.DockerRootDir}}"]).stdout;
    let root = PathBuf::from(String::from_utf8(root).unwrap().trim());
    for part in ["buildkit", "image", "tmp", "containerd"] {
        assert_eq!(files_with(&root.join(part), text), [""; 0]);
    }
}

/// Docker's own plugin, as its client runs it, of the project `p`.
fn buildx(daemon: &Daemon, more: &[&str]) -> Output {
    let mut command = Command::new(environment("MISTRY_TEST_BUILDX"));
    command.env("DOCKER_CONFIG", daemon.home().join("other"));
    command.env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
    command.args([
        "build",
        "--builder",
        "default",
        "--progress=plain",
        "--network=host",
    ]);
    command.args(["--build-arg=uid=0", "--no-cache"]).args(more);
    command.arg(daemon.project("p")).output().unwrap()
}

/// A step that says that it is there and goes on when the connection ends.
fn gate() -> (TcpListener, String) {
    let gate = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = gate.local_addr().unwrap().port();
    (
        gate,
        format!("/bin/busybox nc 127.0.0.1 {port} < /dev/null > /dev/null || true"),
    )
}

fn mark(daemon: &Daemon) -> String {
    daemon.mark().replace(['=', '.'], "-").to_lowercase()
}

#[test]
fn a_secret_is_in_the_step_and_nowhere_else() {
    let daemon = daemon();
    settings(&daemon, "p", json!({"secrets": ["tok"], "network": "host"}));
    let (gate, wait) = gate();
    let read =
        "/bin/busybox sha256sum < /run/secrets/tok > /sum; /bin/busybox cat /run/secrets/tok";
    instructions(
        &daemon,
        "",
        &format!(
            "RUN --mount=type=secret,id=tok {read}; {wait}\nRUN ls -a /run/secrets > /after 2> /dev/null || true\n"
        ),
    );
    let id = daemon.submit(json!({"project": "p", "params": {"_tok": SECRET}}));
    let (step, _): (TcpStream, _) = gate.accept().unwrap();
    // While the step runs.
    assert_eq!(who_has("hunter2-of-a-registry"), [""; 0]);
    let pending = daemon.pending("p", &id);
    let there = files_with(&daemon.builds(), "hunter2-of-a-registry");
    let expected = [
        pending.join("build_info.json"),
        pending.join("data/params/_tok"),
    ];
    for file in &there {
        assert!(
            expected.iter().any(|path| path == Path::new(file)),
            "{there:?}"
        );
    }
    let record = fs::metadata(pending.join("build_info.json")).unwrap();
    assert_eq!(record.permissions().mode() & 0o077, 0);
    drop((step, gate));
    let info = daemon.wait("p", &id);
    assert_eq!(info["Outcome"], "succeeded", "{info}");
    // Afterwards.
    let image = info["Image"].as_str().unwrap().to_owned();
    let shown = log(&daemon, &info);
    assert!(
        shown.contains("mistry: masked in this log: _tok\n"),
        "{shown}"
    );
    assert!(shown.contains(" ***\n"), "{shown}");
    for text in ["hunter2-of-a-registry", "and a second line"] {
        assert!(!shown.contains(text), "{shown}");
        assert_nowhere(&daemon, &image, text);
    }
    assert_eq!(
        fs::read_dir(daemon.builds().join(".mistry/buildx"))
            .unwrap()
            .count(),
        0
    );
    // It is there for others, who need no value.
    let other = daemon.succeed(json!({"project": "p", "params": {"a": "b"}}));
    assert_eq!(other["Image"], *image);
}

#[test]
fn the_image_is_that_of_docker_buildx() {
    let daemon = daemon();
    settings(
        &daemon,
        "p",
        json!({"secrets": ["tok", "two"], "network": "host"}),
    );
    let body = "RUN --mount=type=secret,id=tok --mount=type=secret,id=two,target=/two,mode=0444 /bin/busybox sha256sum /run/secrets/tok /two > /sums; echo to standard output; echo more >&2; /bin/busybox stat -c '%a %u %s' /run/secrets/tok /two > /modes\nCOPY --chmod=640 run.sh /copied\n";
    instructions(&daemon, "", body);
    let secret = daemon.home().join("secret");
    fs::write(&secret, SECRET).unwrap();
    let secret = |id: &str| format!("--secret=id={id},src={}", secret.display());
    let tag = format!("secrets-{}", mark(&daemon));
    let built = buildx(&daemon, &[&secret("tok"), &secret("two"), "-t", &tag]);
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    assert!(built.status.success(), "{said}");
    let params = json!({"_tok": SECRET, "_two": SECRET});
    let info = daemon.succeed(json!({"project": "p", "rebuild": true, "params": params}));
    assert_eq!(files(info["Image"].as_str().unwrap()), files(&tag));
    let ours = log(&daemon, &info);
    let mut expected = steps(&said);
    // What the plugin says of itself.
    expected.retain(|name, _| !name.starts_with("building with "));
    assert_eq!(steps(&ours), expected, "{ours}\n{said}");
    docker(&["image", "rm", &tag]);
}

/// Puts ssh-add with its libraries into the context, and returns the instruction that copies them.
fn ssh_add(daemon: &Daemon) -> &'static str {
    let root = daemon.project("p").join("ssh");
    let libraries = Command::new("ldd")
        .arg("/usr/bin/ssh-add")
        .output()
        .unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    let libraries = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for file in libraries.chain(["/usr/bin/ssh-add"]) {
        let to = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    "COPY ssh /\n"
}

#[test]
fn the_agent_of_a_step_has_the_key_and_nothing_else_has_it() {
    let daemon = daemon();
    settings(&daemon, "p", json!({"ssh": "key"}));
    // A step of an earlier run would be cached.
    let step = "RUN --mount=type=ssh echo MARK; ssh-add -L\n";
    instructions(&daemon, "", &format!("{}{step}", ssh_add(&daemon)));
    let key = daemon.home().join("key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success());
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let (private, public) = (read(&key), read(&key.with_extension("pub")));
    let build = |key: &str| daemon.submit(json!({"project": "p", "params": {"_key": key}}));
    let info = daemon.wait("p", &build("no key"));
    let error = info["Err"].as_str().unwrap();
    assert!(error.contains("give one without a passphrase"), "{error}");
    let info = daemon.wait("p", &build(&private));
    assert_eq!(info["Outcome"], "succeeded", "{info}");
    let shown = log(&daemon, &info);
    assert!(shown.contains(public.trim()), "{shown}");
    let line = private.lines().nth(2).unwrap();
    assert!(!shown.contains(line), "{shown}");
    assert_nowhere(&daemon, info["Image"].as_str().unwrap(), line);
}

#[test]
fn what_fails_is_a_sentence_and_a_cancelled_build_ends_its_step() {
    let daemon = daemon();
    settings(&daemon, "p", json!({"secrets": ["tok"], "network": "host"}));
    let build = || daemon.submit(json!({"project": "p", "params": {"_tok": SECRET}}));
    instructions(
        &daemon,
        "",
        "RUN --mount=type=secret,id=tok echo the reason; exit 3\n",
    );
    let info = daemon.wait("p", &build());
    assert_eq!(info["Outcome"], "errored", "{info}");
    let error = info["Err"].as_str().unwrap();
    assert!(
        error.contains("exit 3") || error.contains("exit code: 3"),
        "{error}"
    );
    assert!(log(&daemon, &info).contains(" the reason\n"));
    assert_eq!(files_with(&daemon.builds(), "hunter2"), [""; 0]);

    let seconds = format!("{}", 100_000 + std::process::id());
    let step =
        format!("RUN --mount=type=secret,id=tok echo be''gun; exec /bin/busybox sleep {seconds}\n");
    instructions(&daemon, "", &step);
    let id = build();
    daemon.until("p", &id, "begun");
    let files = daemon.builds().join(".mistry/buildx").display().to_string();
    let (step, program) = (process_with(&seconds), process_with(&files));
    let cancelled = daemon.post(&format!("/job/p/{id}/cancel"), &json!({}));
    assert!(cancelled.status < 300, "{}", cancelled.text());
    let info: Value = daemon.wait("p", &id);
    assert_eq!(info["Outcome"], "cancelled", "{info}");
    for process in [program, step] {
        assert_ends(&process);
    }
}
