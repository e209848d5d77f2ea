//! `GET /status` as a page: the load of the server, and how much of the disk is free.

use askama::Template;

use super::super::error::ApiError;
use super::super::format;
use super::super::request::Request;
use super::super::response::Response;
use super::super::state::Web;
use super::page::page;
use super::row::row_of;
use crate::build::Filter;
use crate::scheduler::{HostReport, Machine};

/// A disk that lasts longer, in days, needs no forecast.
const FAR: u64 = 3_650;

#[derive(Template)]
#[template(path = "host.html")]
struct Host {
    host: HostReport,
    version: &'static str,
    /// For `datetime` and for users: when the daemon was started.
    since: (String, String),
    load: String,
    memory: String,
    /// Rows of builds that are queued or running.
    rows: Vec<String>,
    copies: &'static str,
    free: String,
    size: String,
    used_percent: u64,
    per_day: String,
    days: i32,
    forecast: String,
    collection: &'static str,
}

/// The page.
pub(in crate::web) async fn host(web: &Web, request: &Request) -> Result<Response, ApiError> {
    let host = request.reader.host().await?;
    let growth = request.reader.growth().await?;
    let machine = request.reader.machine().await?;
    let live = super::overview::live(web, &Filter::default()).await;
    let rows = live.iter().map(|info| row_of(web, info));
    let rows = rows.collect::<Result<_, _>>()?;
    let used = host.disk_size.saturating_sub(host.disk_free);
    page(
        &request.budget,
        request.headers(),
        &Host {
            version: env!("CARGO_PKG_VERSION"),
            since: (format::stamp(web.since), format::utc(web.since)),
            load: machine
                .load
                .map_or_else(|| "unknown".to_owned(), |load| format!("{load:.2}")),
            memory: memory(&machine),
            rows,
            copies: match host.filesystem {
                "btrfs" => "incremental builds start from a snapshot (Btrfs)",
                _ => "incremental builds start from a copy",
            },
            free: format::bytes(host.disk_free),
            size: format::bytes(host.disk_size),
            used_percent: (used / 100.max(host.disk_size / 100).max(1)).min(100),
            per_day: format::bytes(growth.per_day),
            days: growth.days,
            forecast: forecast(host.disk_free, growth.per_day),
            collection: match web.scheduler.collects() {
                true => "Garbage collection removes old builds before the disk is full.",
                false => {
                    "No garbage collection is configured: builds stay until someone runs mistry gc."
                }
            },
            host,
        },
    )
}

/// "4 processors, 1.2 GiB of 3.8 GiB memory free".
fn memory(machine: &Machine) -> String {
    let processors = match machine.processors {
        1 => "1 processor".to_owned(),
        processors => format!("{processors} processors"),
    };
    match machine.memory {
        Some((free, all)) => format!(
            "{processors}, {} of {} memory free",
            format::bytes(free),
            format::bytes(all)
        ),
        None => processors,
    }
}

/// When the disk will be full at the current rate.
fn forecast(free: u64, per_day: u64) -> String {
    match free.checked_div(per_day) {
        None => "not growing".to_owned(),
        Some(FAR..) => "enough for years".to_owned(),
        Some(0) => "full within a day".to_owned(),
        Some(1) => "full in about a day".to_owned(),
        Some(days) => format!("full in about {days} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forecast_is_a_sentence_at_any_rate() {
        for (free, per_day, said) in [
            (100, 0, "not growing"),
            (0, 5, "full within a day"),
            (9, 5, "full in about a day"),
            (100, 5, "full in about 20 days"),
            (u64::MAX, 1, "enough for years"),
        ] {
            assert_eq!(forecast(free, per_day), said);
        }
    }
}
