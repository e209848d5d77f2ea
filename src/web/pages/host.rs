//! `GET /status` as a page: the load of the server, and how much of the disk is free.

use askama::Template;

use super::super::error::ApiError;
use super::super::format;
use super::super::request::Request;
use super::super::response::Response;
use super::super::state::Web;
use super::page::page;
use crate::scheduler::HostReport;

/// A disk that lasts longer, in days, needs no forecast.
const FAR: u64 = 3_650;

#[derive(Template)]
#[template(path = "host.html")]
struct Host {
    host: HostReport,
    version: &'static str,
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
    let used = host.disk_size.saturating_sub(host.disk_free);
    page(
        &request.budget,
        request.headers(),
        &Host {
            version: env!("CARGO_PKG_VERSION"),
            free: format::bytes(host.disk_free),
            size: format::bytes(host.disk_size),
            used_percent: (used / 100.max(host.disk_size / 100).max(1)).min(100),
            per_day: format::bytes(growth.per_day),
            days: growth.days,
            forecast: forecast(host.disk_free, growth.per_day),
            collection: match web.scheduler.collects() {
                true => "Garbage collection removes old builds before that.",
                false => {
                    "Builds stay until garbage collection is configured (gc), or a user calls mistry gc."
                }
            },
            host,
        },
    )
}

/// When the disk will be full at the current rate.
fn forecast(free: u64, per_day: u64) -> String {
    match free.checked_div(per_day) {
        None => "does not grow".to_owned(),
        Some(FAR..) => "lasts for years".to_owned(),
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
            (100, 0, "does not grow"),
            (0, 5, "full within a day"),
            (9, 5, "full in about a day"),
            (100, 5, "full in about 20 days"),
            (u64::MAX, 1, "lasts for years"),
        ] {
            assert_eq!(forecast(free, per_day), said);
        }
    }
}
