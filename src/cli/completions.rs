//! `mistry completions SHELL`: a script that completes what is typed.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, Error};

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell that shall read it
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> Result<(), Error> {
        // Into memory first: the generator does not expect a reader who leaves early.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "mistry", &mut script);
        io::stdout().write_all(&script).map_err(Error::Output)
    }
}
