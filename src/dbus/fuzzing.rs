//! The reader of the options of methods, for the fuzz targets in `fuzz/`; in no program.

use std::collections::HashMap;

use zbus::{DBusError, OwnedVariant};

use super::options;

/// The sentences with which `SubmitJob`, `CollectGarbage` and `ListBuilds` refuse options.
pub fn refusals(given: &HashMap<String, OwnedVariant>) -> [Option<String>; 3] {
    let sentence = |error: super::error::Error| error.description().unwrap_or_default().to_owned();
    [
        options::Submit::read(given).err().map(sentence),
        options::policy(given).err().map(sentence),
        options::filter(given).err().map(sentence),
    ]
}
