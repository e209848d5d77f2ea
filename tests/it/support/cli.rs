//! The real `mistry`, as a process.

use std::process::Command;

/// `mistry`, with an environment of its own and nothing said yet.
pub fn mistry(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mistry"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        // A test that names no server meets none, whatever runs on this host.
        .env("MISTRY_URL", "unix:///nowhere/mistryd.sock");
    command
}
