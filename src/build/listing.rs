//! Builds as list entries: their JSON is cached once it was written.

use std::sync::{Arc, OnceLock};

use serde_json::value::RawValue;

use super::info::in_json;
use super::{BuildInfo, Place};
use crate::api::BuildView;

/// Bytes of cached answers to jobs: dozens with full logs, or a thousand small ones.
pub(super) const MAX_ANSWERS: usize = 4 << 20;
/// Bytes of cached list entries: more than a full page of usual ones.
pub(super) const MAX_LISTINGS: usize = 8 << 20;

/// Memory of the rest of an info, twice: as values and as JSON.
const FIXED_INFO_BYTES: usize = 3 << 10;

/// One list entry. Clones share everything.
#[derive(Clone, Debug)]
pub struct Listing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    info: BuildInfo,
    /// Lists are requested far more often than builds change.
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

    /// Its place in the list order.
    pub fn place(&self) -> Place {
        Place::of(self.info())
    }

    /// The approximate memory that it uses with its JSON.
    pub fn bytes(&self) -> usize {
        let params = self.0.info.params.iter();
        let params = params.map(|(name, value)| {
            let value = value.as_deref().unwrap_or_default();
            [name, value]
                .map(|text| text.len() + in_json(text))
                .iter()
                .sum::<usize>()
                + 64
        });
        params.sum::<usize>() + FIXED_INFO_BYTES
    }

    /// The abridged info.
    pub fn info(&self) -> &BuildInfo {
        &self.0.info
    }

    /// Its JSON in a list: the result of the first call of `write`.
    ///
    /// # Errors
    /// As `write`.
    pub fn json<E>(
        &self,
        write: impl FnOnce(BuildView) -> Result<Box<RawValue>, E>,
    ) -> Result<&RawValue, E> {
        if let Some(json) = self.0.json.get() {
            return Ok(json);
        }
        let json = write(self.0.info.view())?;
        Ok(self.0.json.get_or_init(|| json))
    }
}
