//! `mistry completions SHELL`: a completion script for a shell.

use std::io::{self, Write};

use clap::{Args, Command};
use clap_complete::Shell;

use super::Error;

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self, mut command: Command) -> Result<(), Error> {
        // Into memory first: the generator panics when the reader closes the pipe.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "mistry", &mut script);
        io::stdout().write_all(&script).map_err(Error::Output)
    }
}
