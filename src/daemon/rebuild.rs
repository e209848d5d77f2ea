//! `mistryd rebuild`: images built anew, one project after the other.
//!
//! The daemon that holds the build path is asked to do it, when there is one; else we take its
//! place for the time being. What is printed is what the first mistry's users' scripts read.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::args::Rebuild;
use super::holder::Worker;
use super::{Error, told};
use crate::api::{ImageView, PruneView};
use crate::config::Config;
use crate::filesystem::Filesystem;
use crate::project::{ProjectName, Projects};
use crate::screen::LogView;
use crate::web::image_view;

/// Rebuilds the images of the projects asked for, or of all.
pub(super) async fn run(
    config: &Config,
    filesystem: Filesystem,
    docker: &Path,
    asked: &Rebuild,
) -> Result<ExitCode, Error> {
    let worker = Worker::find(config, filesystem, docker).await?;
    let mut names = Vec::new();
    for name in &asked.projects {
        match name.parse::<ProjectName>() {
            Ok(name) => names.push(name),
            Err(error) => {
                super::say(&error.to_string());
                return Ok(ExitCode::from(2));
            }
        }
    }
    if names.is_empty() {
        match Projects::new(&config.projects_path).list() {
            Ok(all) => names = all,
            Err(error) => {
                super::say(&error.to_string());
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    let mut rebuilt = 0;
    let mut failed = Vec::new();
    let mut pruned = PruneView::default();
    for name in &names {
        super::tell(&format!("Rebuilding {name}..."));
        match worker.rebuild(name).await {
            Ok(view) => {
                if asked.verbose {
                    let mut log = LogView::on_stdout();
                    // Where it cannot be written, the image is there all the same.
                    let _ = log.push(view.log.as_bytes()).and_then(|()| log.finish());
                }
                super::tell(&format!("Rebuilt {name} in {:?}", duration(view.duration)));
                rebuilt += 1;
                pruned.images += view.pruned.images;
                pruned.containers += view.pruned.containers;
                pruned.bytes += view.pruned.bytes;
            }
            Err(sentence) => {
                super::tell(&format!("Failed to build {name} with error: {sentence}"));
                failed.push(name.as_str());
                if asked.fail_fast {
                    break;
                }
            }
        }
    }
    worker.end().await;
    let summary = format!(
        "Rebuilt: {rebuilt}, Pruned images: {}, Pruned containers: {}, Reclaimed: {}B, Failed: {}",
        pruned.images,
        pruned.containers,
        pruned.bytes,
        failed.len()
    );
    if failed.is_empty() {
        super::tell(&format!("Finished. {summary}"));
        Ok(ExitCode::SUCCESS)
    } else {
        super::tell(&format!("{summary}, Failed names: {}", failed.join(", ")));
        Ok(ExitCode::FAILURE)
    }
}

impl Worker {
    async fn rebuild(&self, project: &ProjectName) -> Result<ImageView, String> {
        match self {
            Worker::Daemon(client) => client
                .rebuild(project)
                .await
                .map_err(|error| error.to_string()),
            Worker::Own(scheduler) => {
                let report = scheduler.rebuild_image(project).await;
                let report = report.map_err(|error| told(&error))?;
                Ok(image_view(project, report))
            }
        }
    }
}

fn duration(nanos: i64) -> Duration {
    Duration::from_millis(u64::try_from(nanos).unwrap_or(0) / 1_000_000)
}
