//! Projects: list, details, image rebuilds.

use serde::{Deserialize, Serialize};

use super::IndexItem;

/// One line of `GET /projects`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct ProjectItem {
    /// Its name.
    pub name: String,
    /// The number of its stored builds.
    pub builds: u64,
    /// When the latest of them started; null without any.
    pub latest: Option<jiff::Timestamp>,
}

/// A param that a project takes, as its `mistry.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct ParamView {
    /// Its name.
    pub name: String,
    /// A request without it is refused.
    pub required: bool,
    /// What it is for; null if the project does not say.
    pub description: Option<String>,
    /// The value that a build gets if the request has none; null without one.
    pub default: Option<String>,
    /// The values that are allowed; null if all are.
    pub values: Option<Vec<String>>,
    /// Its value is masked in logs.
    pub secret: bool,
}

/// `GET /project/P` as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "ProjectView"))]
#[serde(rename_all = "PascalCase")]
pub struct ProjectView<I = IndexItem> {
    /// Its name.
    pub name: String,
    /// Id of the last succeeded build without a group.
    pub latest: Option<String>,
    /// Group names to the id of the last succeeded build of each.
    #[cfg_attr(test, schemars(extend("additionalProperties" = { "type": "string", "pattern": "^[0-9a-f]{64}$" })))]
    pub groups: std::collections::BTreeMap<String, String>,
    /// The params that it takes, in the order of its `mistry.json`; null if it takes any, or `Error` says that
    /// the file is wrong.
    #[serde(default)]
    pub params: Option<Vec<ParamView>>,
    /// What is wrong in its `mistry.json`, in one sentence: it cannot be built. Null if nothing is.
    #[serde(default)]
    pub error: Option<String>,
    /// The newest builds, newest first, at most 50.
    #[cfg_attr(test, schemars(length(max = 50)))]
    pub builds: Vec<I>,
}

/// The body of `POST /project/P/rebuild`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RebuildRequest {
    /// The values of the params that the build of the image needs: those that `secrets` and `ssh` in its
    /// `mistry.json` name.
    #[serde(default)]
    pub params: std::collections::BTreeMap<String, String>,
}

impl std::fmt::Debug for RebuildRequest {
    /// Without the values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RebuildRequest")
            .field(&self.params.keys())
            .finish()
    }
}

/// The answer of `POST /project/P/rebuild`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct ImageView {
    /// The project's name.
    pub project: String,
    /// The new image's id.
    pub image: String,
    /// How long it took, in nanoseconds.
    pub duration: i64,
    /// The end of the image build's output.
    pub log: String,
    /// The objects cleaned up afterwards.
    pub pruned: PruneView,
}

/// The leftovers that an image rebuild cleans up: only this server's own.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct PruneView {
    /// Images of this server that are no longer referenced.
    pub images: u64,
    /// Containers of this server that no build owns.
    pub containers: u64,
    /// Bytes that the images used.
    pub bytes: u64,
}
