//! `mistryd --check-config`: what a correct configuration finds on this host.

use std::process::ExitCode;

use super::assemble::{policy, proxies_of_environment};
use super::error::Error;
use super::output::{print_error, print_line};
use crate::config::Config;
use crate::docker::{self, Docker};
use crate::scheduler::registry_auth_warnings;

/// `gc` that removes nothing.
pub(super) const NO_RULE: &str =
    "'gc' has no rule (max_age, max_bytes, min_free), so nothing is removed automatically";

/// `host_proxies` that passes nothing on.
const NO_PROXIES: &str = "'host_proxies' is true, but no proxy is set in this environment (http_proxy, https_proxy, ftp_proxy, no_proxy, all_proxy); that of the service is set with 'systemctl edit mistryd'";

/// Modes that are no networks in Docker's list, or not by this name.
const MODES: [&str; 1] = ["default"];

/// Reports that the file is correct, and what will not work on this host as it is now. These are warnings,
/// because the Engine or the network may come later.
pub(super) async fn run(config: &Config, docker: &Docker) -> Result<ExitCode, Error> {
    let warnings = warnings(config, docker).await;
    let path = config.path.display();
    print_line(&match warnings.len() {
        0 => format!("the configuration '{path}' is in order"),
        1 => format!("the configuration '{path}' can be used, with a warning"),
        more => format!("the configuration '{path}' can be used, with {more} warnings"),
    });
    for warning in warnings {
        print_error(&format!("warning: {warning}"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn warnings(config: &Config, docker: &Docker) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(gc) = &config.gc
        && !policy(gc).has_rule()
    {
        warnings.push(NO_RULE.to_owned());
    }
    if config.host_proxies && proxies_of_environment().0.is_empty() {
        warnings.push(NO_PROXIES.to_owned());
    }
    if let Some(file) = config.registry_auth.clone() {
        let found = tokio::task::spawn_blocking(move || registry_auth_warnings(&file)).await;
        warnings.extend(found.unwrap_or_default());
    }
    match networks(docker).await {
        Ok(known) => warnings.extend(missing_network(&config.network, &known)),
        Err(error) => warnings.push(format!(
            "{error}; see that Docker is installed and runs, and that this user may use its socket (DOCKER_HOST names another)"
        )),
    }
    warnings
}

async fn networks(docker: &Docker) -> Result<Vec<String>, docker::Error> {
    // An Engine that hangs is found soon.
    docker.ping().await?;
    docker.networks().await
}

fn missing_network(network: &str, known: &[String]) -> Option<String> {
    let is_known = MODES.contains(&network)
        || network.starts_with("container:")
        || known.iter().any(|known| known == network);
    let missing = || {
        let known = known.join(", ");
        format!(
            "network: the Docker Engine has no network '{network}', so every build will fail; it has: {known}"
        )
    };
    (!is_known).then(missing)
}
