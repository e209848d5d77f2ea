//! The name that was probably meant by one that is unknown, and the question that names it.

/// Most names that are compared with one: more than a host has projects, and some milliseconds of work.
pub(crate) const MAX_COMPARED: usize = 1_000;

/// Longest name that is compared, in bytes; the effort grows with its square.
const MAX_LENGTH: usize = 128;

/// The one of `known` names that is most similar to `name`; `None` if no name is similar enough to be meant.
/// Upper and lower case count as equal. At most [`MAX_COMPARED`] names are looked at.
pub(crate) fn most_similar<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if name.len() > MAX_LENGTH {
        return None;
    }
    let name = name.to_ascii_lowercase();
    // A third of a short name may be wrong, and not more than three letters of a long one.
    let most = (name.chars().count() / 3).clamp(1, 3);
    let known = known.into_iter().take(MAX_COMPARED);
    let near = known.filter(|other| other.len().abs_diff(name.len()) <= most);
    let ranked = near.map(|other| {
        let other_lower = other.to_ascii_lowercase();
        (strsim::osa_distance(&name, &other_lower), other)
    });
    let nearest = ranked.min_by_key(|(distance, _)| *distance);
    nearest
        .filter(|(distance, _)| *distance <= most)
        .map(|(_, other)| other)
}

/// The question whether the most similar one of `known` names was meant; `None` if no name is similar enough.
pub(crate) fn did_you_mean<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    most_similar(name, known).map(question)
}

/// The question whether this name was meant.
pub(super) fn question(meant: &str) -> String {
    format!("did you mean '{meant}'?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_keyboard_is_recognised() {
        let known = ["lock", "env", "_token", "node-version"];
        for (name, meant) in [
            ("lok", Some("lock")),
            ("lcok", Some("lock")),
            ("LOCK", Some("lock")),
            ("token", Some("_token")),
            ("node_version", Some("node-version")),
            ("nodeversoin", Some("node-version")),
            ("env", Some("env")),
            ("ev", Some("env")),
            ("name", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(most_similar(name, known), meant, "{name}");
        }
    }

    #[test]
    fn the_effort_is_bounded() {
        assert_eq!(most_similar(&"x".repeat(129), ["x"]), None);
        let many = (0..=MAX_COMPARED).map(|at| if at < MAX_COMPARED { "other" } else { "lock" });
        assert_eq!(most_similar("lok", many), None);
    }
}
