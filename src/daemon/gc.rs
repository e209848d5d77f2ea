//! `mistryd gc`: collects garbage by the rules of the configuration, or the given ones.
//!
//! The timer of the packages starts it. The daemon that holds the build path does it, if there is one; else
//! this process takes the lock.

use std::path::Path;
use std::process::ExitCode;

use super::args::Gc;
use super::assemble::policy;
use super::error::{Error, with_causes};
use super::holder::Worker;
use super::output::{print_error, print_line};
use crate::api::{GcRequest, GcView};
use crate::config::Config;
use crate::filesystem::Filesystem;
use crate::policy::Policy;
use crate::web::gc_view;

/// The exit status of `mistry gc` where no rule says what is to go.
const EXIT_NO_RULE: u8 = 3;

/// Collects, and prints the removed builds.
pub(super) async fn run(
    config: &Config,
    filesystem: Filesystem,
    docker: &Path,
    options: &Gc,
) -> Result<ExitCode, Error> {
    let configured = config.gc.as_ref().map(policy).unwrap_or_default();
    let policy = configured.overridden_by(Policy {
        max_age: options.older_than,
        max_bytes: options.max_bytes,
        min_free: options.min_free,
        keep_last: options.keep_last,
    });
    if !policy.has_rule() {
        print_line(&format!(
            "Nothing to do: no rule says what is to go. Set max_age, max_bytes or min_free in 'gc' of '{}', or give --older-than, --max-bytes or --min-free.",
            config.path.display()
        ));
        // The timer of the packages is in order without rules. Who asks what would go is refused, as by `mistry gc`.
        return Ok(match options.dry_run {
            true => ExitCode::from(EXIT_NO_RULE),
            false => ExitCode::SUCCESS,
        });
    }
    let request = GcRequest {
        dry_run: options.dry_run,
        policy,
    };
    let worker = Worker::find(config, filesystem, docker).await?;
    let view = match &worker {
        Worker::Daemon(client) => client
            .collect_garbage(&request)
            .await
            .map_err(|error| error.to_string()),
        Worker::Own(scheduler) => {
            let collection = scheduler.collect(policy, request.dry_run).await;
            collection
                .map(|collection| gc_view(&collection, request.dry_run))
                .map_err(|error| with_causes(&error))
        }
    };
    worker.end().await;
    match view {
        Ok(view) => {
            print_view(&view);
            Ok(ExitCode::SUCCESS)
        }
        Err(sentence) => {
            print_error(&format!("could not collect garbage: {sentence}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn print_view(view: &GcView) {
    let did = if view.dry_run {
        "Would remove"
    } else {
        "Removed"
    };
    for build in &view.removed {
        print_line(&format!(
            "{did} {}/{} ({}, {}): {}B, used {}",
            build.project, build.id, build.place, build.why, build.bytes, build.used
        ));
    }
    if let Some(until) = view.doubted_until {
        print_line(&format!(
            "The clock was set forward: until {until} no build is removed because of its age"
        ));
    }
    print_line(&format!(
        "Finished. {did}: {}, Reclaimed: {}B, Kept: {}, {}B, In use: {}, Not measured: {}, Short of the rules: {}B, Free: {}B, Pruned images: {}",
        view.removed.len(),
        view.bytes,
        view.kept,
        view.kept_bytes,
        view.passed,
        view.unmeasured,
        view.short,
        view.free,
        view.images,
    ));
}
