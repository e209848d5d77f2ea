//! The build server. Inherited sockets, arguments, journal, [`mistry::daemon::run`], exit status.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Before there are threads: what it takes out of the environment they could be reading.
    let inherited = mistry::systemd::inherited();
    let command = mistry::daemon::Command::parse();
    // Until the end: what was told last is on its way until then.
    let _journal = mistry::journal::begin();
    mistry::daemon::run(command, inherited)
}
