//! `mistryd rebuild`: rebuilds images, one project after the other.
//!
//! The daemon that holds the build path does it, if there is one; else this process takes the lock. The
//! output is what scripts for the first mistry parse.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::args::Rebuild;
use super::error::{EXIT_WRONG_USAGE, Error, with_causes};
use super::holder::Worker;
use super::output::{print_error, print_line};
use crate::api::{ImageView, PruneView, RebuildRequest};
use crate::client::{self, parse_params};
use crate::config::Config;
use crate::filesystem::Filesystem;
use crate::job::Params;
use crate::project::{NameError, ProjectName, Projects};
use crate::scheduler;
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
    let given = parse_params(&options.params, std::iter::empty(), std::io::stdin());
    let given = given.map_err(|error| error.to_string());
    let requests = match given.and_then(|given| requests(config, &names, given)) {
        Ok(requests) => requests,
        Err(sentence) => {
            print_error(&sentence);
            return Ok(ExitCode::from(EXIT_WRONG_USAGE));
        }
    };
    let worker = Worker::find(config, filesystem, docker).await?;
    let mut summary = Summary::default();
    for (name, request) in names.iter().zip(requests) {
        print_line(&format!("Rebuilding {name}..."));
        match worker.rebuild(name, request).await {
            Ok(view) => summary.rebuilt(name, &view, options.verbose),
            Err(NotRebuilt::Left(sentence)) => {
                print_line(&format!("Left {name}: {sentence}"));
                summary.left.push(name.to_string());
            }
            Err(NotRebuilt::Failed(sentence)) => {
                print_line(&format!("Failed to build {name} with error: {sentence}"));
                summary.failed.push(name.to_string());
                if options.fail_fast {
                    break;
                }
            }
        }
    }
    worker.end().await;
    Ok(summary.print())
}

/// What became of the projects.
#[derive(Default)]
struct Summary {
    rebuilt: usize,
    failed: Vec<String>,
    left: Vec<String>,
    pruned: PruneView,
}

impl Summary {
    fn rebuilt(&mut self, name: &ProjectName, view: &ImageView, is_verbose: bool) {
        if is_verbose {
            let mut log = LogView::on_stdout();
            // If it cannot be written, the image exists nevertheless.
            let printed = log.push(view.log.as_bytes());
            let _ = printed
                .and_then(|()| log.finish())
                .and_then(|()| log.begin_line());
        }
        print_line(&format!("Rebuilt {name} in {:?}", duration(view.duration)));
        self.rebuilt += 1;
        self.pruned.images += view.pruned.images;
        self.pruned.containers += view.pruned.containers;
        self.pruned.bytes += view.pruned.bytes;
    }

    fn print(self) -> ExitCode {
        let mut line = format!(
            "Rebuilt: {}, Pruned images: {}, Pruned containers: {}, Reclaimed: {}B, Failed: {}",
            self.rebuilt,
            self.pruned.images,
            self.pruned.containers,
            self.pruned.bytes,
            self.failed.len()
        );
        if !self.failed.is_empty() {
            line.push_str(&format!(", Failed names: {}", self.failed.join(", ")));
        }
        if !self.left.is_empty() {
            line.push_str(&format!(", Left names: {}", self.left.join(", ")));
        }
        if self.failed.is_empty() {
            print_line(&format!("Finished. {line}"));
            return ExitCode::SUCCESS;
        }
        print_line(&line);
        ExitCode::FAILURE
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

/// What each project is asked for: the given params that its `mistry.json` names.
fn requests(
    config: &Config,
    names: &[ProjectName],
    given: Vec<(String, String)>,
) -> Result<Vec<RebuildRequest>, String> {
    let mut unused: BTreeSet<&String> = given.iter().map(|(name, _)| name).collect();
    let mut requests = Vec::new();
    for project in names {
        let mut request = RebuildRequest::default();
        if !given.is_empty() {
            let context = Projects::new(&config.projects_path).context(project);
            let settings = context.and_then(|context| context.settings());
            // Why it cannot be built is said when it is its turn.
            let settings = settings.unwrap_or_default();
            for (name, value) in &given {
                if settings.build_params().any(|(needed, _)| needed == *name) {
                    unused.remove(name);
                    request.params.insert(name.clone(), value.clone());
                }
            }
        }
        requests.push(request);
    }
    match unused.first() {
        None => Ok(requests),
        Some(name) => Err(format!(
            "param '{name}' is not for the image of any of these projects: none names it in \"secrets\" or \"ssh\" of its mistry.json"
        )),
    }
}

fn params(request: RebuildRequest) -> Result<Params, NameError> {
    let params = request.params.into_iter();
    params
        .map(|(name, value)| Ok((name.parse()?, value.into())))
        .collect::<Result<Params, NameError>>()
}

/// Why there is no new image, as a sentence.
enum NotRebuilt {
    /// The old one stays, since a secret is missing.
    Left(String),
    Failed(String),
}

/// The status with which a daemon says that it has left an image as it is.
const LEFT: u16 = 409;

impl Worker {
    async fn rebuild(
        &self,
        project: &ProjectName,
        request: RebuildRequest,
    ) -> Result<ImageView, NotRebuilt> {
        match self {
            Worker::Daemon(client) => {
                let rebuilt = client.rebuild(project, &request).await;
                rebuilt.map_err(|error| match &error {
                    client::Error::Response(response) if response.status == LEFT => {
                        NotRebuilt::Left(response.to_string())
                    }
                    _ => NotRebuilt::Failed(error.to_string()),
                })
            }
            Worker::Own(scheduler) => {
                let report = match params(request) {
                    Ok(params) => scheduler.rebuild_image(project, params).await,
                    Err(error) => return Err(NotRebuilt::Failed(error.to_string())),
                };
                let report = report.map_err(|error| match &error {
                    scheduler::Error::ImageLeft(..) => NotRebuilt::Left(error.to_string()),
                    _ => NotRebuilt::Failed(with_causes(&error)),
                })?;
                Ok(image_view(project, report))
            }
        }
    }
}

fn duration(nanos: i64) -> Duration {
    Duration::from_millis(u64::try_from(nanos).unwrap_or(0) / 1_000_000)
}
