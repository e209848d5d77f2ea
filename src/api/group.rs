//! Groups: listed, and reset; a base that is removed.

use serde::{Deserialize, Serialize};

/// One line of `GET /project/P/groups`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct GroupItem {
    /// The group.
    pub group: String,
    /// The id of the build from which the next build of the group starts.
    pub base: String,
    /// When that build ended; null if unknown.
    pub finished_at: Option<jiff::Timestamp>,
    /// The bytes on disk that the build shares with no other; null before they were measured.
    pub bytes: Option<u64>,
}

/// `POST /project/P/groups/reset`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GroupRequest {
    /// The group.
    #[cfg_attr(test, schemars(length(min = 1, max = 200)))]
    pub group: String,
}

impl GroupRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// Says what could not be read, or which key was unknown.
    pub fn read(body: &[u8]) -> Result<GroupRequest, serde_json::Error> {
        // A JSON list would be read as the keys' values in source order.
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body)?;
        serde_json::from_value(object.into())
    }
}

/// The answer of `DELETE /job/P/ID?base`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct RemovedBase {
    /// The group whose base the build was, and whose next build starts empty; "" if it was the latest build
    /// without a group; null if no link named it.
    pub base_of: Option<String>,
}
