//! `mistryd token new`: prints a token once and stores its hash.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

use rustix::fs::FlockOperation;

use super::error::{EXIT_WRONG_CONFIG, EXIT_WRONG_USAGE, Error};
use super::output::print_error;
use crate::build::random_hex;
use crate::config::Config;
use crate::web::{Scope, Token, TokensFile};

/// Makes a token and appends its hash to the configured file, if its name is new.
pub(super) fn new(config: &Config, name: &str, scopes: &[Scope]) -> Result<ExitCode, Error> {
    let Some(path) = &config.auth_tokens_file else {
        print_error(&format!(
            "the configuration '{}' names no auth_tokens_file to keep the token in",
            config.path.display()
        ));
        return Ok(ExitCode::from(EXIT_WRONG_CONFIG));
    };
    if !is_token_name(name) {
        print_error(&format!(
            "'{name}': expected a name without spaces and control characters that does not begin with #"
        ));
        return Ok(ExitCode::from(EXIT_WRONG_USAGE));
    }
    let opened = |error| Error::System("open the tokens file", error);
    let mut file = File::options()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(opened)?;
    // Two processes that add the same name run one after the other.
    rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|e| opened(e.into()))?;
    let existing = TokensFile::open(path)?.current()?;
    if existing.iter().any(|token| token.name == name) {
        print_error(&format!(
            "there is a token '{name}' already: choose another name, or delete its line in '{}' first, after which the old one no longer works",
            path.display()
        ));
        return Ok(ExitCode::FAILURE);
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(opened)?;
    let made = |error| Error::System("make a token", error);
    let secret = format!(
        "mistry-{}{}",
        random_hex().map_err(made)?,
        random_hex().map_err(made)?
    );
    let line = Token::of(name, scopes.to_vec(), &secret);
    // An editor may have left the last line without an end.
    let gap = match text.is_empty() || text.ends_with('\n') {
        true => "",
        false => "\n",
    };
    // One write, so that a daemon never reads half a line.
    file.write_all(format!("{gap}{line}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| Error::System("write the tokens file", error))?;
    println!("{secret}");
    eprintln!(
        "Keep it: only its hash is stored, in '{}'. It works at once.",
        path.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Whether the tokens file can hold a name: it ends at a space, and `#` begins a comment.
fn is_token_name(name: &str) -> bool {
    let separates = |letter: char| letter.is_whitespace() || letter.is_control();
    !name.is_empty() && !name.starts_with('#') && !name.chars().any(separates)
}
