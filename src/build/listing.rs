//! Builds as lists show them: their JSON is kept once it was written.

use std::sync::{Arc, OnceLock};

use serde_json::value::RawValue;

use super::{BuildInfo, Place};

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

    /// Where it is in the order of lists; `None` for a record whose names cannot be.
    pub fn place(&self) -> Option<Place> {
        let info = self.info();
        Some(Place {
            started: info.started_at,
            project: info.project.parse().ok()?,
            id: info.id.parse().ok()?,
        })
    }

    /// About what it takes in memory together with its JSON.
    pub(super) fn bytes(&self) -> usize {
        let params = self.0.info.params.iter();
        let params: usize = params
            .map(|(name, value)| name.len() + value.as_ref().map_or(0, |value| value.len()) + 64)
            .sum();
        2 * params + FIXED
    }

    /// What is shown.
    pub fn info(&self) -> &BuildInfo {
        &self.0.info
    }

    /// Its JSON in a list: what `write` made of it the first time that it was asked for.
    ///
    /// # Errors
    /// As `write`.
    pub fn json<E>(
        &self,
        write: impl FnOnce(&BuildInfo) -> Result<Box<RawValue>, E>,
    ) -> Result<&RawValue, E> {
        if let Some(json) = self.0.json.get() {
            return Ok(json);
        }
        let json = write(&self.0.info)?;
        Ok(self.0.json.get_or_init(|| json))
    }
}
