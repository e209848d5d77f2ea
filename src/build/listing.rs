//! A build as lists show it: abridged, and its JSON kept once it was written.

use std::sync::{Arc, OnceLock};

use serde_json::value::RawValue;

use super::BuildInfo;

/// What the rest of an info takes, twice: as values and as JSON.
const FIXED: usize = 3 << 10;

/// One build of a list. Clones share everything.
#[derive(Clone, Debug)]
pub struct Listing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    info: BuildInfo,
    /// Lists are asked for far more often than builds change.
    json: OnceLock<Box<RawValue>>,
}

impl Listing {
    /// Abridges `info`.
    pub fn new(mut info: BuildInfo) -> Listing {
        info.abridge();
        Listing(Arc::new(Inner {
            info,
            json: OnceLock::new(),
        }))
    }

    /// About what it takes in memory together with its JSON.
    pub(super) fn bytes(&self) -> usize {
        let params = self.0.info.params.iter();
        let params: usize = params
            .map(|(name, value)| name.len() + value.as_ref().map_or(0, String::len) + 64)
            .sum();
        2 * params + FIXED
    }

    /// What is shown.
    pub fn info(&self) -> &BuildInfo {
        &self.0.info
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// When it cannot be written, which no info is known to bring about.
    pub fn json(&self) -> Result<&RawValue, serde_json::Error> {
        if let Some(json) = self.0.json.get() {
            return Ok(json);
        }
        let json = serde_json::value::to_raw_value(&self.0.info)?;
        Ok(self.0.json.get_or_init(|| json))
    }
}
