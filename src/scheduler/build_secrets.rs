//! The params that the build of an image is given.

use crate::docker::BuildSecrets;
use crate::job::{ParamName, Params};
use crate::project::{BuildParam, Settings};

/// What says that an image needs a param.
pub(super) const NEEDED_BY: &str = "\"secrets\" or \"ssh\" in mistry.json";

/// What a request has of them.
#[derive(Clone, Debug, Default)]
pub(super) struct GivenSecrets {
    pub(super) secrets: BuildSecrets,
    /// The names of those that it does not have: the image cannot be built.
    pub(super) missing: Vec<String>,
}

impl GivenSecrets {
    pub(super) fn of(settings: &Settings, params: &Params) -> GivenSecrets {
        let mut given = GivenSecrets::default();
        for (name, what) in settings.build_params() {
            let value = name.parse::<ParamName>().ok();
            let value = value.and_then(|name| params.get(&name).cloned());
            match (value, what) {
                (None, _) => given.missing.push(name),
                (Some(value), BuildParam::Secret(id)) => {
                    given.secrets.values.insert(id.to_owned(), value);
                }
                (Some(value), BuildParam::SshKey) => given.secrets.ssh_key = Some(value),
            }
        }
        given
    }
}

/// What to do about params that are missing: `--_a=@FILE --_b=@FILE`.
pub(super) fn arguments(missing: &[String]) -> String {
    let arguments = missing.iter().map(|name| format!("--{name}=@FILE"));
    arguments.collect::<Vec<_>>().join(" ")
}
