//! What is wrong with a configuration.

use std::io;
use std::path::PathBuf;

/// What is wrong with a configuration: one line that names file, key and expectation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("could not read the configuration '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no JSON, or a key is unknown or of the wrong type.
    #[error("the configuration '{}' is wrong: {what}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The key, what was expected of it, and where.
        what: String,
    },
    /// A key has a value that cannot be.
    #[error("the configuration '{}' is wrong: {key}: {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What was expected, and what was found.
        expected: String,
    },
}
