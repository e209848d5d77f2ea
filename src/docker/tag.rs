//! The name of a project's image, for users of `docker images`.
//!
//! No image is found or run by its tag, because tags can be moved.

use sha2::{Digest, Sha256};

/// Digits of the digest that distinguish projects whose cleaned names are the same: 64 bits.
const DIGEST_BYTES: usize = 8;

/// `mistry-<project>`, made a valid reference: a name that Docker does not accept (upper case, two dots, …)
/// is cleaned, and a digest of the real name becomes the part after the colon. No two projects share a
/// reference, since an accepted name has no such part.
pub fn tag_for(project: &str) -> String {
    let clean = cleaned(project);
    if clean == project {
        return format!("mistry-{project}");
    }
    let digest = hex::encode(&Sha256::digest(project)[..DIGEST_BYTES]);
    format!("mistry-{clean}:{digest}")
}

/// Runs of lower-case letters and digits, separated by one `.`, one or two `_`, or any number of `-`: what
/// Docker's grammar of repository names allows.
fn cleaned(project: &str) -> String {
    let lower = project.to_ascii_lowercase();
    let mut clean = String::with_capacity(lower.len());
    let mut separator = String::new();
    for c in lower.chars() {
        if !c.is_ascii_alphanumeric() {
            separator.push(c);
            continue;
        }
        if !separator.is_empty() {
            let dashes = separator.chars().all(|c| c == '-');
            let kept = dashes || matches!(separator.as_str(), "." | "_" | "__");
            clean.push_str(if kept { &separator } else { "-" });
            separator.clear();
        }
        clean.push(c);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_plain_name_is_not_changed() {
        for name in ["yarn", "a.b", "a_b", "a__b", "a--b", "0"] {
            assert_eq!(tag_for(name), format!("mistry-{name}"));
        }
    }

    #[test]
    fn names_that_docker_would_refuse_become_valid_and_stay_distinct() {
        let names = [
            "Yarn", "yARN", "yarn-", "yarn..x", "yarn.-x", "yarn___x", "yarn", "yarn-x", "YARN-x",
        ];
        let tags: BTreeSet<_> = names.iter().map(|n| tag_for(n)).collect();
        assert_eq!(tags.len(), names.len(), "{tags:?}");
        assert!(tag_for("Yarn").starts_with("mistry-yarn:"));
        assert!(tag_for("yarn..x").starts_with("mistry-yarn-x:"));
        assert!(tag_for("yarn-").starts_with("mistry-yarn:"));
    }

    #[test]
    fn the_longest_name_is_within_dockers_bound() {
        let tag = tag_for(&"A".repeat(128));
        let (name, version) = tag.split_once(':').unwrap();
        assert!(name.len() <= 255 && version.len() <= 128);
    }
}
