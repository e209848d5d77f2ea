//! An error of a system call, with the path that it was about.

use std::io;
use std::path::Path;

/// For `map_err`: an error of the same kind whose message begins with the path. The path may
/// have been chosen by a build or a client, so it is escaped: it cannot forge a line of the journal.
pub fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| {
        let path = path.display().to_string();
        let shown: String = path
            .chars()
            .flat_map(|letter| {
                let is_plain = !letter.is_control() && letter != '\\';
                let escaped = (!is_plain).then(|| letter.escape_default());
                escaped
                    .into_iter()
                    .flatten()
                    .chain(is_plain.then_some(letter))
            })
            .collect();
        io::Error::new(error.kind(), format!("'{shown}': {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_kind_and_names_its_path_in_one_line() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let located = at(Path::new("/a\nb/c"))(denied);
        assert_eq!(located.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(located.to_string(), "'/a\\nb/c': permission denied");
    }
}
