//! The client: arguments → `cli::run` → exit status.

use std::process::ExitCode;

use mistry::cli;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let arguments = match cli::parse(words.clone()) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help has status 0, a mistake 2.
            cli::print_usage(&error, &words);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => ExitCode::from(runtime.block_on(cli::run(arguments))),
        Err(error) => {
            eprintln!("could not start: {error}");
            // No server can be reached without a runtime.
            ExitCode::from(cli::EXIT_NO_SERVER)
        }
    }
}
