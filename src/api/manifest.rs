//! Artifacts: the list of all entries.

use serde::Serialize;

/// One item of `GET /artifacts/P/ID?manifest`.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct ManifestItem {
    /// Its path below the artifacts; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// The exact path as it is part of an address, below the address of the list.
    #[serde(rename = "URL")]
    pub url: String,
    /// `special` is a FIFO, a socket or a device, which is not in the tar.
    #[serde(rename = "Type")]
    #[cfg_attr(test, schemars(extend("enum" = ["directory", "file", "link", "special"])))]
    pub kind: &'static str,
    /// Permissions, in octal as `chmod` takes them.
    #[cfg_attr(test, schemars(regex(pattern = "^0[0-7]{3}$")))]
    pub mode: String,
    /// Bytes, of files.
    pub size: u64,
    /// Null for a time outside of the calendar.
    pub modified: Option<jiff::Timestamp>,
    /// The target of a link; bytes that are no UTF-8 are replaced.
    pub target: Option<String>,
}
