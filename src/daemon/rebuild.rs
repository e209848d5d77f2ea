//! `mistryd rebuild`: images built anew, one project after the other.
//!
//! The daemon that holds the build path is asked to do it, when there is one; else we take its
//! place for the time being. What is printed is what the first mistry's users' scripts read.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::args::Rebuild;
use super::{Error, assemble, told};
use crate::api::{ImageView, PruneView};
use crate::build::{self, BuildStore, holder};
use crate::client::{Address, Client};
use crate::config::Config;
use crate::filesystem::Filesystem;
use crate::metrics::Metrics;
use crate::project::{ProjectName, Projects};
use crate::scheduler::Scheduler;
use crate::web::image_view;

/// When we end, nothing of ours is under way any more but what a panic left.
const GRACE: Duration = Duration::from_secs(5);

/// Who builds the images.
enum Builder {
    /// The daemon that holds the build path.
    Daemon(Client),
    /// We ourselves.
    Own(Scheduler),
}

/// Rebuilds the images of the projects asked for, or of all.
pub(super) async fn run(
    config: &Config,
    filesystem: Filesystem,
    docker: &Path,
    asked: &Rebuild,
) -> Result<ExitCode, Error> {
    // Where systemd holds the sockets, the daemon is there as soon as it is asked, and it builds
    // images for its own user, not for ours.
    if let Some(client) = daemon(config).filter(|_| is_activated(config)) {
        // A socket that nobody holds any more is no daemon; then we take its place.
        let _ = client.status().await;
    }
    let builder = match BuildStore::open(&config.build_path, filesystem) {
        Ok(store) => {
            let metrics = Metrics::new().map_err(Error::Metrics)?;
            Builder::Own(assemble(config, store, docker, metrics)?)
        }
        Err(held @ build::Error::Held { .. }) => match daemon(config) {
            Some(client) => Builder::Daemon(client),
            None => return Err(held.into()),
        },
        Err(error) => return Err(error.into()),
    };
    let mut names = Vec::new();
    for name in &asked.projects {
        match name.parse::<ProjectName>() {
            Ok(name) => names.push(name),
            Err(error) => {
                eprintln!("mistryd: {error}");
                return Ok(ExitCode::from(2));
            }
        }
    }
    if names.is_empty() {
        match Projects::new(&config.projects_path).list() {
            Ok(all) => names = all,
            Err(error) => {
                eprintln!("mistryd: {error}");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    let mut rebuilt = 0;
    let mut failed = Vec::new();
    let mut pruned = PruneView::default();
    for name in &names {
        println!("Rebuilding {name}...");
        match builder.rebuild(name).await {
            Ok(view) => {
                if asked.verbose {
                    print!("{}", view.log);
                }
                println!("Rebuilt {name} in {:?}", duration(view.duration));
                rebuilt += 1;
                pruned.images += view.pruned.images;
                pruned.containers += view.pruned.containers;
                pruned.bytes += view.pruned.bytes;
            }
            Err(sentence) => {
                println!("Failed to build {name} with error: {sentence}");
                failed.push(name.as_str());
                if asked.fail_fast {
                    break;
                }
            }
        }
    }
    if let Builder::Own(scheduler) = builder {
        scheduler.drain(GRACE).await;
    }
    let summary = format!(
        "Rebuilt: {rebuilt}, Pruned images: {}, Pruned containers: {}, Reclaimed: {}B, Failed: {}",
        pruned.images,
        pruned.containers,
        pruned.bytes,
        failed.len()
    );
    if failed.is_empty() {
        println!("Finished. {summary}");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("{summary}, Failed names: {}", failed.join(", "));
        Ok(ExitCode::FAILURE)
    }
}

impl Builder {
    async fn rebuild(&self, project: &ProjectName) -> Result<ImageView, String> {
        match self {
            Builder::Daemon(client) => client
                .rebuild(project)
                .await
                .map_err(|error| error.to_string()),
            Builder::Own(scheduler) => {
                let report = scheduler.rebuild_image(project).await;
                let report = report.map_err(|error| told(&error))?;
                Ok(image_view(project, report))
            }
        }
    }
}

/// The daemon that says it holds the build path.
fn daemon(config: &Config) -> Option<Client> {
    let holder = holder(&config.build_path)?;
    let address = holder.address.as_deref()?;
    let address = match address.parse() {
        Ok(unix @ Address::Unix(_)) => unix,
        _ => {
            let (host, port) = address.rsplit_once(':')?;
            Address::tcp(host, port.parse().ok()?).ok()?
        }
    };
    Some(Client::new(address, holder.token))
}

fn is_activated(config: &Config) -> bool {
    holder(&config.build_path).is_some_and(|holder| holder.activated)
}

fn duration(nanos: i64) -> Duration {
    Duration::from_millis(u64::try_from(nanos).unwrap_or(0) / 1_000_000)
}
