//! `cargo run --example manuals -- DIR`: what the packages say about the programs, made from the
//! programs' own definitions and the tables of the documents, so that there is one truth of each.
//!
//! Leaves in DIR `mistryd.8`, `mistry.1`, `mistry.json.5` and, under `completions/`, a script of
//! each program for bash, zsh and fish. Ends with a status other than 0 and a sentence when a table
//! that a page needs is not where it was. What is written by hand here is only what stands nowhere
//! else: what a page is about, its files, its examples.

mod command;
mod page;
mod paper;

use std::error::Error;
use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use page::Page;
use paper::Paper;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let out = std::env::args_os().nth(1);
    make(Path::new(&out.ok_or("usage: manuals DIR")?))
}

/// Makes everything in `out`, which is made where it is not there.
pub fn make(out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    let mut daemon = mistry::daemon::Command::command();
    let mut client = mistry::cli::Arguments::command();
    // Only then are their own options (help, version) in them.
    daemon.build();
    client.build();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let operations = Paper::read(&repository.join("docs/operations.md"))?;
    let readme = Paper::read(&repository.join("README.md"))?;
    fs::write(out.join("mistryd.8"), mistryd(&daemon, &operations)?)?;
    fs::write(out.join("mistry.1"), mistry(&client, &readme)?)?;
    fs::write(out.join("mistry.json.5"), settings(&operations)?)?;
    for (command, name) in [(daemon, "mistryd"), (client, "mistry")] {
        completions(command, name, &out.join("completions"))?;
    }
    Ok(())
}

#[allow(
    clippy::too_many_lines,
    reason = "a page is written from its top to its end"
)]
fn mistryd(command: &Command, operations: &Paper) -> Result<String> {
    let mut page = Page::new("mistryd", 8, "build server that caches results");
    page.section("Synopsis");
    command::synopsis(&mut page, command);
    page.section("Description");
    page.words(
        "`mistryd` builds projects, which are directories with a Dockerfile, in containers of the \
         Docker Engine and stores the results. Later requests with the same inputs get the stored \
         result. Users request builds with mistry(1), scripts over HTTP.",
    );
    page.words(
        "If it is installed from its package, it runs as user `mistry`, reads \
         `/etc/mistry/config.json`, and is started by `mistryd.socket` when a client connects; it \
         ends when it has had nothing to do for the time of `idle_exit`. If you start it by hand, it \
         listens on the address of `--addr`.",
    );
    page.section("Options");
    command::options(&mut page, command);
    page.section("Commands");
    command::subcommands(&mut page, command);

    page.section("Configuration");
    page.blocks(operations.before("Configuration", "key of `mistry.json`")?);
    page.words(
        "A project can override some keys in its mistry.json(5), which also describes its params and what is \
         secret among them.",
    );
    for (title, section) in [
        ("Installed from the packages", "Installed from the packages"),
        ("systemd", "systemd"),
        ("Docker options", "Docker options"),
        ("Builders", "Builders"),
        ("Image registries", "Image registries"),
        ("Containers", "Containers"),
        ("Listening and TLS", "Listening, hosts, TLS"),
        ("Tokens", "Tokens"),
        ("The bus", "The bus"),
        ("Pausing", "Pausing"),
        ("Disk", "Disk"),
        ("Garbage collection", "Garbage collection"),
        ("Log", "Log"),
    ] {
        page.section(title);
        page.blocks(operations.section(section)?);
    }
    for (title, head) in [
        ("Signals", "signal"),
        ("Exit status", "exit status"),
        ("Environment", "variable"),
    ] {
        page.section(title);
        page.table(operations.table(head)?);
    }
    page.section("Files");
    page.entries(&[
        ("/etc/mistry/config.json", "The configuration."),
        (
            "/etc/mistry/tokens",
            "Hashes of tokens. It must exist; it may be empty.",
        ),
        (
            "/var/lib/mistry/projects",
            "The projects. A user who may write here has the same power as root.",
        ),
        (
            "/var/lib/mistry/builds",
            "The builds: a cache. If it is lost, its builds are built again on request. A Btrfs is best.",
        ),
        (
            "/run/mistry/mistryd.sock",
            "The socket for users of group `mistry`, who need no token.",
        ),
        (
            "/usr/share/doc/mistryd",
            "The HTTP contract, the build directory, operations; `examples/` has example projects.",
        ),
    ]);
    page.section("Examples");
    page.words("An example project, and its first build:");
    page.code(
        "cp -r /usr/share/doc/mistryd/examples/hello /var/lib/mistry/projects/\n\
         cp /bin/busybox /var/lib/mistry/projects/hello/    # package busybox-static\n\
         mistry build --project hello --target out -- --name=world",
    );
    page.words("The state of the daemon, its builds, and all records of one build:");
    page.code(
        "systemctl status mistryd.service\n\
         mistry list\n\
         journalctl -x MISTRY_JOB=ID                        # complete, as mistry status ID prints it",
    );
    page.words("Check a changed configuration, then apply it:");
    page.code(
        "mistryd --config /etc/mistry/config.json --check-config\n\
         systemctl reload mistryd.service",
    );
    page.see("mistry(1), mistry.json(5), systemd.socket(5), journalctl(1), docker(1)");
    Ok(page.finish())
}

/// Variables of `mistry` that no option everywhere names.
const VARIABLES: [(&str, &str); 3] = [
    (
        "MISTRY_PARAM_NAME",
        "Gives `build` the param NAME; the command line has precedence.",
    ),
    ("MISTRY_TOKEN", "The token itself, if no file is named."),
    (
        "MISTRY_VERBOSE",
        "With `1`, `build` and `wait` print the log, as with `--verbose`.",
    ),
];

fn mistry(command: &Command, readme: &Paper) -> Result<String> {
    let mut page = Page::new(
        "mistry",
        1,
        "request builds from a mistryd and fetch their results",
    );
    page.section("Synopsis");
    command::synopsis(&mut page, command);
    page.section("Description");
    page.words(
        "`mistry` requests a build of a project from a build server, mistryd(8), waits for it, and \
         fetches its artifacts. If the same build has succeeded before, the server returns the cached \
         result; if it is running for another client, both clients wait for the same build.",
    );
    page.words(
        "Output for scripts is written to standard output, messages for people to standard error. If \
         the connection breaks while `mistry` waits, it reconnects. The first digits of an `ID` are \
         enough.",
    );
    page.section("Commands");
    command::subcommands(&mut page, command);
    page.section("Options everywhere");
    command::options(&mut page, command);
    page.section("Which server");
    page.words(
        "The first of these that is given: `--socket`; `--host` and `--port`; `--url` or \
         `MISTRY_URL`. Otherwise the socket of this host's mistryd, `/run/mistry/mistryd.sock`, \
         if it exists and the user may write to it (members of group `mistry` may); otherwise \
         127.0.0.1, port 8462.",
    );
    page.section("Exit status");
    page.table(readme.table("exit status")?);
    page.section("What each transport keeps");
    let fetch = command.find_subcommand("fetch");
    let kept = fetch.and_then(|fetch| fetch.get_after_long_help());
    page.code(&kept.ok_or("`mistry fetch` has no long help")?.to_string());
    page.section("Environment");
    command::environment(&mut page, command);
    page.entries(&VARIABLES);
    page.section("Files");
    page.entries(&[(
        "/run/mistry/mistryd.sock",
        "The socket of this host's mistryd. Members of group `mistry` need no token there.",
    )]);
    page.section("Examples");
    page.words(
        "Put the packages of a lock file into `./node_modules`, from the cache if possible:",
    );
    page.code(
        "mistry build --project npm --group my-app --target . -- \\\n\
         \x20   --package=@package.json --lockfile=@package-lock.json",
    );
    page.words("List recent builds, and show why one failed:");
    page.code("mistry list\nmistry logs 3fa9c1d");
    page.words("Use a remote server with a token, in a script:");
    page.code(
        "export MISTRY_URL=http://builds.example.org:8462 MISTRY_TOKEN_FILE=~/.mistry-token\n\
         mistry build --project docs --target public --json-result > build.json",
    );
    page.see("mistryd(8), mistry.json(5)");
    Ok(page.finish())
}

fn settings(operations: &Paper) -> Result<String> {
    let mut page = Page::new("mistry.json", 5, "settings of one project for mistryd");
    page.section("Synopsis");
    page.words("`mistry.json` in the directory of a project, beside its Dockerfile");
    page.section("Description");
    let (introduction, own) = operations.introduced("Configuration", "key of `mistry.json`")?;
    page.words(introduction);
    for row in &own.rows {
        page.row(own, row, &row[row.len() - 1]);
    }
    page.words(
        "It is one JSON object. If a key is unknown, has a wrong type or an invalid value, the build is \
         refused with a sentence that names the key and what was expected. Durations are written as `500ms`, \
         `90s`, `15m`, `2h30m`, `7d`; sizes `512M`, `20G` (powers of 1024).",
    );
    for title in [
        "Docker options",
        "Params of a project",
        "Secrets",
        "Builders",
        "Build secrets and ssh",
    ] {
        page.section(title);
        page.blocks(operations.section(title)?);
    }
    page.section("Examples");
    page.words("A build that needs no network, little memory, and a cache of this host:");
    page.code(
        "{\n\
         \x20 \"network\": \"none\",\n\
         \x20 \"limits\": { \"memory\": \"512M\", \"cpus\": 1.5, \"pids\": 256 },\n\
         \x20 \"mounts\": { \"/srv/mirror\": \"/mirror\" }\n\
         }",
    );
    page.see("mistryd(8), mistry(1)");
    Ok(page.finish())
}

/// One script for each shell, under the name by which the shell looks for it.
fn completions(mut command: Command, name: &str, out: &Path) -> Result<()> {
    for (shell, file) in [
        (Shell::Bash, format!("bash/{name}")),
        (Shell::Zsh, format!("zsh/_{name}")),
        (Shell::Fish, format!("fish/{name}.fish")),
    ] {
        let path = out.join(file);
        fs::create_dir_all(path.parent().unwrap_or(out))?;
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, name, &mut script);
        fs::write(path, script)?;
    }
    Ok(())
}
