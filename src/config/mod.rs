//! The configuration: what the file may say, and what the daemon may rely on.
//!
//! [`Config::read`] turns the one into the other or says in one line which key of which file is wrong
//! and what was expected. A [`Config`] need not be checked again.

mod checked;
mod error;
mod file;

pub use checked::Config;
pub use error::Error;
pub use file::{GcRules, Public};
