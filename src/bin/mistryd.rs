//! The build server. Arguments, journal, [`mistry::daemon::run`], exit status.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let command = mistry::daemon::Command::parse();
    // Until the end: what was told last is on its way until then.
    let _journal = mistry::journal::begin();
    mistry::daemon::run(command)
}
