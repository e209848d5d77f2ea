//! The params that the build of an image is given: `secrets` and `ssh` in `mistry.json`.

use super::name::is_param_name;
use super::settings::{Builder, Settings};

/// Most build secrets of a project.
const MAX_SECRETS: usize = 20;

/// What a param is for the build of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildParam<'a> {
    /// The build secret with this id.
    Secret(&'a str),
    /// The private key for ssh.
    SshKey,
}

impl BuildParam<'_> {
    fn description(self) -> String {
        match self {
            BuildParam::Secret(id) => {
                format!("given to RUN --mount=type=secret,id={id} while the image is built")
            }
            BuildParam::SshKey => {
                "the private key that RUN --mount=type=ssh uses while the image is built".to_owned()
            }
        }
    }
}

impl Settings {
    /// The params whose values the build of the image is given, each with what it is there.
    pub fn build_params(&self) -> impl Iterator<Item = (String, BuildParam<'_>)> {
        let secrets = self.secrets.iter();
        let secrets = secrets.map(|id| (format!("_{id}"), BuildParam::Secret(id)));
        let key = self.ssh.iter();
        secrets.chain(key.map(|name| (format!("_{name}"), BuildParam::SshKey)))
    }

    /// Checks `secrets` and `ssh`, and adds their params to those that the project takes.
    pub(super) fn check_secrets(&mut self) -> Result<(), String> {
        if self.secrets.len() > MAX_SECRETS {
            return Err(format!("secrets: expected at most {MAX_SECRETS} ids"));
        }
        let ids = self.secrets.iter().map(|id| ("secrets", id));
        for (key, id) in ids.chain(self.ssh.iter().map(|name| ("ssh", name))) {
            if id.is_empty() || !is_param_name(&format!("_{id}")) {
                let shown: String = id.chars().take(80).flat_map(char::escape_debug).collect();
                return Err(format!(
                    "{key}: expected 1 to 127 of A-Z a-z 0-9 . _ -, the name of a param without its first _, found '{shown}'"
                ));
            }
        }
        let first = self.build_params().next().map(|(name, _)| name);
        if self.builder == Some(Builder::Classic)
            && let Some(name) = first
        {
            return Err(format!(
                "builder: expected \"auto\" or \"buildkit\", since only BuildKit can use the param {name} of \"secrets\" or \"ssh\""
            ));
        }
        let Some(mut schema) = self.params.take() else {
            return Ok(());
        };
        for (name, what) in self.build_params() {
            schema.add_secret(&name, what.description())?;
        }
        self.params = Some(schema);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn build_secrets_are_params_of_the_project() {
        let parse = |text: &str| Settings::parse(text.as_bytes(), Path::new("/p")).unwrap();
        let settings =
            parse(r#"{"secrets":["b","a"],"ssh":"key","params":{"_a":{"required":true},"c":{}}}"#);
        let names: Vec<String> = settings.build_params().map(|(name, _)| name).collect();
        assert_eq!(names, ["_a", "_b", "_key"]);
        let schema = settings.params.unwrap();
        let known: Vec<_> = schema
            .iter()
            .map(|(name, rule)| (name, rule.required))
            .collect();
        assert_eq!(
            known,
            [("_a", true), ("c", false), ("_b", false), ("_key", false)]
        );
        // A project that takes any params still does.
        assert_eq!(parse(r#"{"secrets":["a"]}"#).params, None);
    }
}
