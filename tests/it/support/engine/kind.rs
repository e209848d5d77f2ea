//! How Docker and podman differ, as far as the fake Engine shows it.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::Shared;

pub fn version(shared: &Shared) -> Value {
    let newest = shared.api.0.load(Ordering::Relaxed);
    let oldest = shared.api.1.load(Ordering::Relaxed);
    let podman = shared.podman.lock().unwrap().clone();
    let components: Vec<Value> = podman
        .iter()
        .map(|version| json!({"Name": "Podman Engine", "Version": version}))
        .collect();
    json!({
        "Version": podman.unwrap_or_else(|| "0.0.0-fake".to_owned()),
        "ApiVersion": format!("1.{newest}"), "MinAPIVersion": format!("1.{oldest}"),
        "Os": "linux", "Arch": "amd64", "Components": components,
    })
}

/// Each knows one of the log drivers that keep all bytes.
pub fn check_log_driver(spec: &Value, is_podman: bool) -> Result<(), (u16, String)> {
    let driver = spec["HostConfig"]["LogConfig"]["Type"].as_str();
    let known = if is_podman { "k8s-file" } else { "local" };
    match driver {
        Some(driver) if driver != known => {
            let said = "container create: invalid log driver: invalid argument";
            Err((500, said.to_owned()))
        }
        _ => Ok(()),
    }
}

pub fn name_taken(name: &str, other: &str, is_podman: bool) -> (u16, String) {
    match is_podman {
        true => {
            let said = "container create: that name is already in use";
            (500, said.to_owned())
        }
        false => {
            let said = format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{other}\"."
            );
            (409, said)
        }
    }
}
