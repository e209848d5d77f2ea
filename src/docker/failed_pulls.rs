//! Frontends of Dockerfiles that could not be pulled a short time ago. Without a registry each try may take half a
//! minute, and the Dockerfile is read without them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// After this time a pull is tried again: a registry is seldom away for longer, and the Dockerfile is read without this image.
const TRY_AGAIN: Duration = Duration::from_secs(600);
/// Frontends remembered; there are few.
const MAX_KNOWN: usize = 64;
/// Bytes of a reason that are kept.
const MAX_REASON: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct FailedPulls {
    known: HashMap<String, (Instant, String)>,
}

impl FailedPulls {
    /// Why this image could not be pulled within the last ten minutes.
    pub(super) fn why(&self, image: &str) -> Option<String> {
        let (when, why) = self.known.get(image)?;
        (when.elapsed() < TRY_AGAIN).then(|| why.clone())
    }

    /// Records that an image could not be pulled.
    pub(super) fn add(&mut self, image: &str, why: &str) {
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        let why: String = why.chars().take(MAX_REASON).collect();
        self.known.insert(image.to_owned(), (Instant::now(), why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_failures_are_remembered() {
        let mut failed = FailedPulls::default();
        assert_eq!(failed.why("a"), None);
        failed.add("a", "no route");
        assert_eq!(failed.why("a").as_deref(), Some("no route"));
        for n in 0..=MAX_KNOWN {
            failed.add(&n.to_string(), "no route");
            assert!(failed.known.len() <= MAX_KNOWN);
        }
        failed.add("b", &"x".repeat(10 * MAX_REASON));
        assert_eq!(failed.why("b").map(|why| why.len()), Some(MAX_REASON));
        if let Some((when, _)) = failed.known.get_mut("b") {
            *when -= TRY_AGAIN;
        }
        assert_eq!(failed.why("b"), None);
    }
}
