//! Credentials of image registries, from a file in the form of Docker's client (`docker login`), and which of them
//! belongs to an image.
//!
//! No message and no debug output contains a part of the file other than the names of its keys and registries.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Map, Value, json};

/// Most bytes of the file: one registry takes some hundred, a token some thousand.
pub const MAX_REGISTRIES_FILE: usize = 256 << 10;

/// The name under which Docker's client stores the credentials of Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// Docker Hub's names in image references and in files.
const DOCKER_HUB_HOSTS: [&str; 2] = ["docker.io", "index.docker.io"];

/// Credentials by the hosts of registries.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Registries(BTreeMap<String, Credentials>);

/// Hides the credentials.
impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Credentials {
    server: String,
    username: String,
    password: String,
    identity_token: String,
}

impl Registries {
    /// Reads a file in the form of Docker's `config.json`. Other keys of it are ignored.
    ///
    /// # Errors
    /// One sentence without any credentials.
    pub fn parse(text: &[u8]) -> Result<Registries, String> {
        if text.len() > MAX_REGISTRIES_FILE {
            let most = MAX_REGISTRIES_FILE >> 10;
            return Err(format!("expected at most {most} KiB"));
        }
        // As a tree, since the errors of serde about types quote values.
        let file: Value = serde_json::from_slice(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("expected JSON, found a mistake at line {line} column {column}")
        })?;
        let expected = "expected {\"auths\": {\"registry.example\": {\"auth\": \"…\"}}}, as docker login writes it";
        let file = file.as_object().ok_or(expected)?;
        let empty = Map::new();
        let auths = match file.get("auths") {
            Some(auths) => auths.as_object().ok_or(expected)?,
            None => &empty,
        };
        let mut registries = BTreeMap::new();
        for (name, entry) in auths {
            let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
            let read = credentials(name, entry);
            let read = read.map_err(|wrong| format!("auths: '{shown}': {wrong}"))?;
            if let Some(credentials) = read {
                registries.insert(host_of_key(name), credentials);
            }
        }
        if registries.is_empty() {
            let helper = ["credsStore", "credHelpers"]
                .into_iter()
                .find(|key| file.contains_key(*key));
            return Err(match helper {
                Some(key) => format!(
                    "the credentials are kept by another program ({key}), which mistryd does not run: expected them in \"auths\"; 'docker --config DIR login' writes them there if the file in DIR has no {key}"
                ),
                None => format!("it has no credentials: {expected}"),
            });
        }
        Ok(Registries(registries))
    }

    /// Whether there are credentials for the registry of this image.
    pub fn has(&self, image: &str) -> bool {
        self.0.contains_key(&registry_of(image))
    }

    /// The value of `X-Registry-Auth` for a pull of this image. The Engine reads URL-safe Base64 only, and takes
    /// any other for no credentials at all.
    pub(super) fn header(&self, image: &str) -> Option<String> {
        let credentials = self.0.get(&registry_of(image))?;
        let mut value = json!({ "serveraddress": credentials.server });
        for (key, text) in [
            ("username", &credentials.username),
            ("password", &credentials.password),
            ("identitytoken", &credentials.identity_token),
        ] {
            if !text.is_empty() {
                value[key] = json!(text);
            }
        }
        Some(URL_SAFE.encode(value.to_string()))
    }
}

/// The credentials of one entry; `None` for an empty one, as a program that keeps them elsewhere leaves it.
fn credentials(name: &str, entry: &Value) -> Result<Option<Credentials>, String> {
    let entry = entry.as_object().ok_or("expected an object")?;
    let text = |key: &str| match entry.get(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("{key}: expected a text")),
    };
    let (mut username, mut password) = (text("username")?, text("password")?);
    let identity_token = text("identitytoken")?;
    let auth = text("auth")?;
    if !auth.is_empty() {
        let expected = "auth: expected Base64 of user:password";
        let decoded = STANDARD.decode(auth.trim()).map_err(|_| expected)?;
        let decoded = String::from_utf8(decoded).map_err(|_| expected)?;
        let (user, word) = decoded.split_once(':').ok_or(expected)?;
        username = user.to_owned();
        // Docker's client removes these as well.
        password = word.trim_matches('\0').to_owned();
    }
    if username.is_empty() && identity_token.is_empty() {
        return Ok(None);
    }
    if password.is_empty() && identity_token.is_empty() {
        return Err("expected a password".to_owned());
    }
    let server = match host_of_key(name).as_str() {
        "docker.io" => DOCKER_HUB.to_owned(),
        _ => name.to_owned(),
    };
    Ok(Some(Credentials {
        server,
        username,
        password,
        identity_token,
    }))
}

/// The host of an entry's name, which may be an address.
fn host_of_key(name: &str) -> String {
    let name = name.strip_prefix("https://").unwrap_or(name);
    let name = name.strip_prefix("http://").unwrap_or(name);
    host(name.split('/').next().unwrap_or(name))
}

/// The host of the registry of an image, as Docker finds it in a reference.
fn registry_of(image: &str) -> String {
    match image.split_once('/') {
        Some((first, _)) if first == "localhost" || first.contains(['.', ':']) => host(first),
        _ => "docker.io".to_owned(),
    }
}

fn host(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match DOCKER_HUB_HOSTS.contains(&name.as_str()) {
        true => "docker.io".to_owned(),
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(registries: &Registries, image: &str) -> Option<Value> {
        let header = registries.header(image)?;
        Some(serde_json::from_slice(&URL_SAFE.decode(header).unwrap()).unwrap())
    }

    #[test]
    fn credentials_are_those_of_the_images_registry_and_of_no_other() {
        let auth = STANDARD.encode("user:pass:word~?>");
        let registries = Registries::parse(
            json!({
                "auths": {
                    "registry.example:5000": {"auth": auth},
                    "https://index.docker.io/v1/": {"username": "hub", "password": "p"},
                    "https://tokens.example/v2/": {"auth": STANDARD.encode("t:"), "identitytoken": "tok"},
                    "empty.example": {},
                },
                "credsStore": "desktop", "HttpHeaders": {"x": 1},
            })
            .to_string()
            .as_bytes(),
        )
        .unwrap();
        for image in [
            "registry.example:5000/a",
            "registry.example:5000/a/b:1@sha256:0",
        ] {
            let sent = decoded(&registries, image).unwrap();
            assert_eq!(sent["username"], "user");
            assert_eq!(sent["password"], "pass:word~?>");
            assert_eq!(sent["serveraddress"], "registry.example:5000");
        }
        for image in [
            "debian",
            "debian:12",
            "org/x",
            "docker.io/org/x",
            "index.docker.io/x",
        ] {
            let sent = decoded(&registries, image).unwrap();
            assert_eq!(sent["username"], "hub", "{image}");
            assert_eq!(sent["serveraddress"], DOCKER_HUB);
        }
        let token = decoded(&registries, "tokens.example/x").unwrap();
        assert_eq!(token["identitytoken"], "tok");
        assert_eq!(token["password"], Value::Null);
        for image in [
            "registry.example/a",
            "localhost/a",
            "empty.example/a",
            "a.b:1/c",
        ] {
            assert!(!registries.has(image), "{image}");
        }
        assert!(
            !format!("{registries:?}").contains("pass"),
            "{registries:?}"
        );
    }

    #[test]
    fn a_file_that_is_wrong_is_named_without_what_it_holds() {
        for (text, said) in [
            ("{\"auths\": \"hunter2\"", "a mistake at line 1 column"),
            ("[]", "expected {\"auths\""),
            (r#"{"auths":"hunter2"}"#, "expected {\"auths\""),
            (
                r#"{"auths":{"r":"hunter2"}}"#,
                "auths: 'r': expected an object",
            ),
            (
                r#"{"auths":{"r":{"auth":"hunter2!"}}}"#,
                "'r': auth: expected Base64",
            ),
            (
                r#"{"auths":{"r":{"auth":"aHVudGVyMg=="}}}"#,
                "expected Base64 of user:password",
            ),
            (r#"{"auths":{"r":{"auth":7}}}"#, "auth: expected a text"),
            (
                r#"{"auths":{"r":{"username":"hunter2"}}}"#,
                "'r': expected a password",
            ),
            ("{}", "it has no credentials"),
            (r#"{"auths":{"r":{}},"credsStore":"pass"}"#, "(credsStore)"),
            (r#"{"credHelpers":{"r":"gcloud"}}"#, "(credHelpers)"),
            (&" ".repeat(MAX_REGISTRIES_FILE + 1), "at most 256 KiB"),
        ] {
            let error = Registries::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(said), "{text:.60}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
