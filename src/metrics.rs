//! Metrics: typed `record_*` methods in, Prometheus text out.
//!
//! Names and label are exactly those of the first mistry, so that dashboards still work; newer metrics are
//! added beside them. Labels are names of existing projects, phases and the paths of counters, so their number
//! is bounded.

use std::time::Duration;

pub use prometheus::Error;

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// All metrics of one daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    hosted: IntGaugeVec,
    started: IntCounterVec,
    finished: IntCounterVec,
    coalesced: IntCounterVec,
    incremental: IntCounterVec,
    cached: IntCounterVec,
    succeeded: HistogramVec,
    failed: HistogramVec,
    phases: HistogramVec,
    queued: IntGauge,
    running: IntGauge,
    slots: IntGauge,
    paused: IntGauge,
    served: IntCounter,
    removed: IntCounter,
    removed_bytes: IntCounter,
    free: GaugeVec,
    held: IntGauge,
    bodies: IntGauge,
}

/// A finished build, as it is counted.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// Its container ran to its end.
    pub ran: bool,
    /// It succeeded.
    pub succeeded: bool,
    /// It began as a clone of its group's latest.
    pub incremental: bool,
    /// From start to end.
    pub took: Duration,
}

impl Metrics {
    /// Creates and registers them.
    ///
    /// # Errors
    /// When two share a name, which only a mistake in this file can cause.
    #[expect(
        clippy::too_many_lines,
        reason = "a table: a name and a help text for each"
    )]
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            register(
                &registry,
                IntCounterVec::new(Opts::new(name, help), &["project"])?,
            )
        };
        let histogram = |name: &str, help: &str, label: &str, buckets: Vec<f64>| {
            let options = HistogramOpts::new(name, help).buckets(buckets);
            register(&registry, HistogramVec::new(options, &[label])?)
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help)?);
        // The first mistry's buckets.
        let minutes = vec![120.0, 240.0, 360.0];
        Ok(Metrics {
            hosted: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("mistry_builds_hosted", "Builds that are kept."),
                    &["project"],
                )?,
            )?,
            started: counter(
                "mistry_builds_started",
                "Jobs asked for, cached ones included.",
            )?,
            finished: counter(
                "mistry_builds_finished",
                "Builds whose container ran to its end.",
            )?,
            coalesced: counter(
                "mistry_builds_coalesced",
                "Jobs that joined a build already under way.",
            )?,
            incremental: counter(
                "mistry_builds_processed_incrementally",
                "Succeeded builds that began as a clone of their group's latest.",
            )?,
            cached: counter("mistry_cache_utilization", "Jobs answered from the cache.")?,
            succeeded: histogram(
                "mistry_builds_succeeded_seconds",
                "Duration of succeeded builds.",
                "project",
                minutes.clone(),
            )?,
            failed: histogram(
                "mistry_builds_failed_seconds",
                "Duration of builds that did not succeed.",
                "project",
                minutes,
            )?,
            phases: histogram(
                "mistry_phase_seconds",
                "Duration of the phases of builds.",
                "phase",
                vec![0.01, 0.1, 1.0, 10.0, 60.0, 600.0],
            )?,
            queued: gauge("mistry_queue_length", "Jobs that wait for a slot.")?,
            running: gauge("mistry_builds_running", "Builds that hold a slot.")?,
            slots: gauge("mistry_slots", "Builds that may run in parallel.")?,
            paused: gauge(
                "mistry_queue_paused",
                "1 while the queue is paused and nothing new begins, else 0.",
            )?,
            served: register(
                &registry,
                IntCounter::new("mistry_artifact_bytes_served", "Bytes of artifacts sent.")?,
            )?,
            removed: register(
                &registry,
                IntCounter::new("mistry_builds_removed", "Builds that were removed.")?,
            )?,
            removed_bytes: register(
                &registry,
                IntCounter::new(
                    "mistry_builds_removed_bytes",
                    "Bytes that this has freed, as far as builds were measured.",
                )?,
            )?,
            free: register(
                &registry,
                GaugeVec::new(
                    Opts::new("mistry_disk_free_bytes", "Room left for builds."),
                    &["path"],
                )?,
            )?,
            held: gauge(
                "mistry_held_bytes",
                "Bytes that are held for clients: answers that they have not read, the state of streams.",
            )?,
            bodies: gauge(
                "mistry_bodies_held_bytes",
                "Bytes of requests that are read, and of large params of jobs that wait or run.",
            )?,
            registry,
        })
    }

    /// A job was requested.
    pub fn record_started(&self, project: &str) {
        self.started.with_label_values(&[project]).inc();
    }

    /// A job was answered from the cache.
    pub fn record_cached(&self, project: &str) {
        self.cached.with_label_values(&[project]).inc();
    }

    /// A job joined a build that was pending.
    pub fn record_coalesced(&self, project: &str) {
        self.coalesced.with_label_values(&[project]).inc();
    }

    /// A build finished.
    pub fn record_finished(&self, project: &str, finished: &Finished) {
        let Finished {
            ran,
            succeeded,
            incremental,
            took,
        } = *finished;
        if ran {
            self.finished.with_label_values(&[project]).inc();
        }
        if succeeded && incremental {
            self.incremental.with_label_values(&[project]).inc();
        }
        let durations = if succeeded {
            &self.succeeded
        } else {
            &self.failed
        };
        durations
            .with_label_values(&[project])
            .observe(took.as_secs_f64());
    }

    /// A phase of a build finished.
    pub fn record_phase(&self, phase: &str, took: Duration) {
        self.phases
            .with_label_values(&[phase])
            .observe(took.as_secs_f64());
    }

    /// How many builds hold a slot, how many wait for one, and whether the queue is paused.
    pub fn record_queue(&self, running: usize, queued: usize, paused: bool) {
        self.paused.set(paused.into());
        self.running.set(running.try_into().unwrap_or(i64::MAX));
        self.queued.set(queued.try_into().unwrap_or(i64::MAX));
    }

    /// The number of slots.
    pub fn record_slots(&self, slots: usize) {
        self.slots.set(slots.try_into().unwrap_or(i64::MAX));
    }

    /// The number of stored builds of a project.
    pub fn record_hosted(&self, project: &str, builds: u64) {
        self.hosted
            .with_label_values(&[project])
            .set(builds.try_into().unwrap_or(i64::MAX));
    }

    /// Bytes of artifacts that were sent.
    pub fn record_served(&self, bytes: u64) {
        self.served.inc_by(bytes);
    }

    /// A build was removed, which freed this many bytes.
    pub fn record_removed(&self, bytes: u64) {
        self.removed.inc();
        self.removed_bytes.inc_by(bytes);
    }

    /// Bytes held for clients that read, and for clients that build.
    pub fn record_held(&self, answers: u64, bodies: u64) {
        self.held.set(answers.try_into().unwrap_or(i64::MAX));
        self.bodies.set(bodies.try_into().unwrap_or(i64::MAX));
    }

    /// Free space, in bytes.
    pub fn record_free(&self, bytes: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        self.free
            .with_label_values(&["build_path"])
            .set(bytes as f64);
    }

    /// All metrics as Prometheus text.
    ///
    /// # Errors
    /// When a metric cannot be encoded as text.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_first_mistry_are_kept() {
        let metrics = Metrics::new().unwrap();
        metrics.record_started("p");
        metrics.record_cached("p");
        metrics.record_coalesced("p");
        metrics.record_hosted("p", 3);
        for succeeded in [true, false] {
            let finished = Finished {
                ran: true,
                succeeded,
                incremental: true,
                took: Duration::from_secs(130),
            };
            metrics.record_finished("p", &finished);
        }
        let text = metrics.text().unwrap();
        for line in [
            "mistry_builds_hosted{project=\"p\"} 3",
            "mistry_builds_started{project=\"p\"} 1",
            "mistry_builds_finished{project=\"p\"} 2",
            "mistry_builds_coalesced{project=\"p\"} 1",
            "mistry_builds_processed_incrementally{project=\"p\"} 1",
            "mistry_cache_utilization{project=\"p\"} 1",
            "mistry_builds_succeeded_seconds_bucket{project=\"p\",le=\"240\"} 1",
            "mistry_builds_failed_seconds_sum{project=\"p\"} 130",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
