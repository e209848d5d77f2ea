//! `mistryd rebuild`: rebuilds images, one project after the other.
//!
//! The daemon that holds the build path does it, if there is one; else this process takes the lock. The
//! output is what scripts for the first mistry parse.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::args::Rebuild;
use super::error::{EXIT_WRONG_USAGE, Error, with_causes};
use super::holder::Worker;
use super::output::{print_error, print_line};
use crate::api::{ImageView, PruneView};
use crate::config::Config;
use crate::filesystem::Filesystem;
use crate::job::Params;
use crate::project::{NameError, ProjectName, Projects};
use crate::screen::LogView;
use crate::web::image_view;

/// Rebuilds the images of the given projects, or of all.
pub(super) async fn run(
    config: &Config,
    filesystem: Filesystem,
    docker: &Path,
    options: &Rebuild,
) -> Result<ExitCode, Error> {
    let names = match projects(config, options) {
        Ok(names) => names,
        Err((sentence, code)) => {
            print_error(&sentence);
            return Ok(code);
        }
    };
    let worker = Worker::find(config, filesystem, docker).await?;
    let mut rebuilt = 0;
    let mut failed = Vec::new();
    let mut pruned = PruneView::default();
    for name in &names {
        print_line(&format!("Rebuilding {name}..."));
        match worker.rebuild(name).await {
            Ok(view) => {
                if options.verbose {
                    let mut log = LogView::on_stdout();
                    // If it cannot be written, the image exists nevertheless.
                    let printed = log.push(view.log.as_bytes());
                    let _ = printed
                        .and_then(|()| log.finish())
                        .and_then(|()| log.begin_line());
                }
                print_line(&format!("Rebuilt {name} in {:?}", duration(view.duration)));
                rebuilt += 1;
                pruned.images += view.pruned.images;
                pruned.containers += view.pruned.containers;
                pruned.bytes += view.pruned.bytes;
            }
            Err(sentence) => {
                print_line(&format!("Failed to build {name} with error: {sentence}"));
                failed.push(name.as_str());
                if options.fail_fast {
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
        print_line(&format!("Finished. {summary}"));
        Ok(ExitCode::SUCCESS)
    } else {
        print_line(&format!("{summary}, Failed names: {}", failed.join(", ")));
        Ok(ExitCode::FAILURE)
    }
}

/// The given projects, or all; else the error and the exit status.
fn projects(config: &Config, options: &Rebuild) -> Result<Vec<ProjectName>, (String, ExitCode)> {
    if options.projects().next().is_none() {
        let all = Projects::new(&config.projects_path).list();
        return all.map_err(|error| (error.to_string(), ExitCode::FAILURE));
    }
    let named = options.projects().map(str::parse);
    let named: Result<_, NameError> = named.collect();
    named.map_err(|error| (error.to_string(), ExitCode::from(EXIT_WRONG_USAGE)))
}

impl Worker {
    async fn rebuild(&self, project: &ProjectName) -> Result<ImageView, String> {
        match self {
            Worker::Daemon(client) => client
                .rebuild(project)
                .await
                .map_err(|error| error.to_string()),
            Worker::Own(scheduler) => {
                let report = scheduler.rebuild_image(project, Params::new()).await;
                let report = report.map_err(|error| with_causes(&error))?;
                Ok(image_view(project, report))
            }
        }
    }
}

fn duration(nanos: i64) -> Duration {
    Duration::from_millis(u64::try_from(nanos).unwrap_or(0) / 1_000_000)
}
