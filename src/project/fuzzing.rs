//! The private parsers of a project's files, for the fuzz targets in `fuzz/`; in no program.

use super::ignore::{Ignore, Matched};

/// Whether a `.dockerignore` keeps `path` out of the context.
///
/// # Errors
/// The line that is wrong.
pub fn excludes(dockerignore: &[u8], path: &[u8]) -> Result<bool, String> {
    let ignore = Ignore::parse(dockerignore).map_err(|wrong| wrong.to_string())?;
    let verdict = ignore.excludes(path, &Matched::default());
    let (is_excluded, _) = verdict.map_err(|wrong| wrong.to_string())?;
    // Asked of every directory; it has no result that could be wrong by itself.
    let _ = ignore.may_except_below(path);
    Ok(is_excluded)
}
