//! `mistry gc`: collects garbage by rules, or lists what would be removed.

use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::Error;
use super::format::{format_size, format_time, short_id};
use super::json_result::Document;
use super::output::{print_line, print_message, print_table};
use crate::api::{GcRequest, GcView};
use crate::client::{self, Client};
use crate::policy::Policy;
use crate::project::{parse_duration, parse_size};

/// Remove builds that are not needed any more
///
/// Without options, the rules of the server's configuration apply; a rule that is given here replaces the
/// configured one. Builds that a link names, that are pinned or were used in the last two minutes are kept.
#[derive(Debug, Args)]
pub(super) struct Gc {
    /// Only list what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Remove builds that were not used for this long, such as 90m, 12h or 7d
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// Remove builds until the others take no more than this, such as 500M or 20G
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_bytes: Option<u64>,
    /// Remove builds until this much space is free, such as 500M or 20G
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    min_free: Option<u64>,
    /// Keep this many builds of each project, whatever the other rules say
    #[arg(long, value_name = "N")]
    keep_last: Option<u64>,
    /// Print the result as JSON, as the server sends it
    #[arg(long)]
    pub(super) json: bool,
}

fn age(text: &str) -> Result<Duration, String> {
    let found = parse_duration(text).filter(|age| !age.is_zero());
    found.ok_or_else(|| "expected a duration like 90m, 12h or 7d".to_owned())
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "expected a size like 500M or 20G".to_owned())
}

impl Gc {
    pub(super) async fn run(&self, client: &Client, document: &mut Document) -> Result<(), Error> {
        let request = GcRequest {
            dry_run: self.dry_run,
            policy: Policy {
                max_age: self.older_than,
                max_bytes: self.max_bytes,
                min_free: self.min_free,
                keep_last: self.keep_last,
            },
        };
        let result = client.collect_garbage_json(&request).await;
        let result = result.map_err(|error| self.name_flags(error))?;
        if self.json {
            return document.print(&result);
        }
        print_result(&GcView::deserialize(&result).map_err(client::Error::from)?)
    }

    /// Before the server's sentence about missing rules, which names keys of its configuration, the options of
    /// this program.
    fn name_flags(&self, error: client::Error) -> Error {
        let has_rule =
            self.older_than.is_some() || self.max_bytes.is_some() || self.min_free.is_some();
        match error {
            client::Error::Response(response) if response.status == 422 && !has_rule => {
                Error::Refused(format!(
                    "give --older-than, --max-bytes or --min-free: {response}"
                ))
            }
            other => other.into(),
        }
    }
}

/// Why builds stay that a rule selects.
const WHY_KEPT: &str = "they are bases of groups, the latest without a group, pinned, in use or used in the last two minutes, or kept by --keep-last (keep_last)";

fn print_result(view: &GcView) -> Result<(), Error> {
    let rows: Vec<[String; 6]> = view
        .removed
        .iter()
        .map(|removed| {
            let place = if removed.place == "failed" {
                "failed rebuild, "
            } else {
                ""
            };
            [
                short_id(&removed.id).to_owned(),
                removed.project.clone(),
                removed.group.clone(),
                format_size(removed.bytes),
                format_time(removed.used),
                format!("{place}{}", removed.why),
            ]
        })
        .collect();
    if !rows.is_empty() {
        print_table(["ID", "PROJECT", "GROUP", "FREES", "USED", "WHY"], &rows)?;
    }
    let did = match view.dry_run {
        true => "Would remove",
        false => "Removed",
    };
    print_line(&format!(
        "{did} {} builds ({}); {} stay ({}), {} free",
        view.removed.len(),
        format_size(view.bytes),
        view.kept,
        format_size(view.kept_bytes),
        format_size(view.free),
    ))?;
    for (count, what) in [
        (view.passed, "are in use or could not be removed"),
        (view.unmeasured, "were never measured and count as nothing"),
    ] {
        if count > 0 {
            print_message(&format!("{count} builds {what}"));
        }
    }
    if let Some(until) = view.doubted_until {
        print_message(&format!(
            "The clock of the server was set forward: until {} no build is removed because of its age",
            format_time(until)
        ));
    }
    if view.short > 0 {
        print_message(&format!(
            "{} more would have to go to satisfy the rules; the remaining builds cannot be removed: {WHY_KEPT}",
            format_size(view.short)
        ));
    } else if view.dry_run && view.removed.is_empty() && view.kept > 0 {
        print_message(&format!(
            "No build matches the rules, or those that do cannot be removed: {WHY_KEPT}"
        ));
    }
    Ok(())
}
