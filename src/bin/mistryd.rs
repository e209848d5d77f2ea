//! The build server. Inherited sockets, arguments, journal, [`mistry::daemon::run`], exit status;
//! or [`mistry::daemon::confine`], for the daemon that started us.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Neither a daemon nor a command of one: it must have no second thread, and reads nothing.
    if mistry::daemon::is_confinement(std::env::args_os().skip(1)) {
        return mistry::daemon::confine();
    }
    // Before there are threads: what it takes out of the environment they could be reading.
    let inherited = mistry::systemd::inherited();
    let command = match mistry::daemon::Command::read(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            // Help has status 0, a mistake 2.
            mistry::daemon::print_usage(&error);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // Held until the end of the program, so that the last records are sent.
    let _journal = mistry::journal::begin();
    mistry::daemon::run(command, inherited)
}
