//! The names of images, for users of `docker images` and against collectors of unnamed images.
//!
//! No image is found or run by its name, because names can be moved. Each image has a name of its own: the
//! containerd image store, unlike the others, does not keep an image that has lost its last name.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// Digits of the digest that distinguish projects whose cleaned names are the same: 64 bits.
const DIGEST_BYTES: usize = 8;
/// Digits of each of the two parts of a version: 48 bits.
const VERSION_DIGITS: usize = 12;

/// The name that the latest image of a project gets beside its own: `mistry-<project>`, made a valid reference. A
/// name that Docker does not accept (upper case, two dots, …) is cleaned, and a digest of the real name becomes
/// the part after the colon. No two projects share a reference, since an accepted name has no such part.
pub fn tag_for(project: &str) -> String {
    let clean = cleaned(project);
    if clean == project {
        return format!("mistry-{project}");
    }
    let digest = hex::encode(&Sha256::digest(project)[..DIGEST_BYTES]);
    format!("mistry-{clean}:{digest}")
}

/// The name of one image of a project: `mistry-<project>:<version>`, with the version from [`version_of`].
pub fn tag_of_version(project: &str, version: &str) -> String {
    format!("mistry-{}:{version}", cleaned(project))
}

/// The version of an image that is built from a context with these labels: the first digits of the context's digest,
/// and those of a digest of all labels.
pub fn version_of(context: &str, labels: &BTreeMap<String, String>) -> String {
    let mut hasher = Sha256::new();
    for text in labels.iter().flat_map(|(key, value)| [key, value]) {
        // Length-prefixed, so that no two sets of labels share an encoding.
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text);
    }
    let digest = hex::encode(hasher.finalize());
    let first = |digits: &str| digits.get(..VERSION_DIGITS).unwrap_or(digits).to_owned();
    format!("{}-{}", first(context), first(&digest))
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
    fn each_set_of_labels_has_its_own_version() {
        let context = "0123456789abcdef".repeat(4);
        let of = |labels: &[(&str, &str)]| {
            let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            version_of(&context, &labels.iter().map(owned).collect())
        };
        let all = [
            of(&[]),
            of(&[("a", "bc")]),
            of(&[("ab", "c")]),
            of(&[("a", "b"), ("c", "")]),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        for version in all {
            assert!(version.starts_with("0123456789ab-"), "{version}");
            assert_eq!(
                tag_of_version("Yarn", &version),
                format!("mistry-yarn:{version}")
            );
        }
        assert!(version_of("é", &BTreeMap::new()).starts_with("é-"));
    }

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
