//! The private parsers of a project's files, for the fuzz targets in `fuzz/` only.

use super::ignore::{Ignore, Matched};

/// Whether a `.dockerignore` excludes `path` from the context.
///
/// # Errors
/// The invalid line.
pub fn excludes(dockerignore: &[u8], path: &[u8]) -> Result<bool, String> {
    let ignore = Ignore::parse(dockerignore).map_err(|wrong| wrong.to_string())?;
    let verdict = ignore.excludes(path, &Matched::default());
    let (is_excluded, _) = verdict.map_err(|wrong| wrong.to_string())?;
    // A walk calls it for every directory; no result of it can be wrong by itself.
    let _ = ignore.may_except_below(path);
    Ok(is_excluded)
}
