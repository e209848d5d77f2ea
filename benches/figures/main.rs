//! The figures that mistry promises, each as a ratio against a peer or a limit in the same run.
//!
//! `make bench` brings up the environment of the system tests and runs this. It prints a table and writes
//! `target/bench/figures.json`, a list of `{name, value, unit, against, against_value, ratio}`.
//! No figure passes or fails: machines differ too much.

// In a benchmark, what must not happen ends it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A benchmark is one sequence of steps.
#![allow(clippy::too_many_lines)]

mod adoption;
mod bus;
mod cached;
mod clone;
mod cold;
mod daemon;
mod http;
mod index;
mod logs;
mod masks;
mod support;
mod web;

use serde::Serialize;

/// One measured thing beside what it is measured against.
#[derive(Debug, Serialize)]
pub struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    against: &'static str,
    against_value: f64,
    ratio: f64,
}

impl Figure {
    /// A figure; the ratio is what was measured over what it is measured against.
    pub fn new(
        name: &'static str,
        value: f64,
        unit: &'static str,
        against: &'static str,
        against_value: f64,
    ) -> Figure {
        Figure {
            name,
            value,
            unit,
            against,
            against_value,
            ratio: value / against_value,
        }
    }
}

/// The middle of some measurements.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The value below which 99 of 100 measurements are.
pub fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() * 99 / 100]
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // The bare servers that answers are measured against are processes of their own.
    if let Some(at) = arguments.iter().position(|a| a == "--bare-server") {
        return http::bare_server(&arguments[at + 1]);
    }
    if let Some(at) = arguments.iter().position(|a| a == "--bare-echo") {
        return bus::bare_echo(&arguments[at + 1]);
    }
    let wanted = |name: &str| {
        let names: Vec<_> = arguments[1..]
            .iter()
            .filter(|a| !a.starts_with('-'))
            .collect();
        names.is_empty() || names.iter().any(|n| *n == name)
    };
    type Measure = fn() -> Vec<Figure>;
    let measures: [(&str, Measure); 9] = [
        ("cached", cached::measure),
        ("cold", cold::measure),
        ("logs", logs::measure),
        ("masks", masks::measure),
        ("clone", clone::measure),
        ("index", index::measure),
        ("adoption", adoption::measure),
        ("bus", bus::measure),
        ("web", web::measure),
    ];
    let mut figures = Vec::new();
    for (name, measure) in measures {
        if wanted(name) {
            eprintln!("measuring: {name}");
            figures.extend(measure());
        }
    }
    println!(
        "{:<44} {:>12} {:<8} {:<44} {:>12} {:>7}",
        "figure", "value", "unit", "against", "value", "ratio"
    );
    for f in &figures {
        println!(
            "{:<44} {:>12.2} {:<8} {:<44} {:>12.2} {:>7.2}",
            f.name, f.value, f.unit, f.against, f.against_value, f.ratio
        );
    }
    let target = std::path::Path::new(env!("CARGO_BIN_EXE_mistryd"));
    let place = target.ancestors().nth(2).unwrap().join("bench");
    std::fs::create_dir_all(&place).unwrap();
    let file = place.join("figures.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&figures).unwrap()).unwrap();
    println!("written to {}", file.display());
}
