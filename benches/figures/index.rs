//! The list of builds with few and with many on disk, and the first answer after a start.

use std::path::Path;
use std::time::Instant;

use crate::daemon::{Daemon, project};
use crate::http::Connection;
use crate::{Figure, median};

const FEW: usize = 10;
const MANY: usize = 10_000;

pub fn measure() -> Vec<Figure> {
    let few = listed(FEW);
    let many = listed(MANY);
    vec![
        Figure::new(
            "/index/?limit=50 with 10,000 builds",
            many.list,
            "ms",
            "with 10 builds",
            few.list,
        ),
        Figure::new(
            "first answer after start, 10,000 builds",
            many.first,
            "ms",
            "with 10 builds",
            few.first,
        ),
        Figure::new(
            "first list after start, 10,000 builds",
            many.first_list,
            "ms",
            "with 10 builds",
            few.first_list,
        ),
    ]
}

/// Milliseconds.
struct Listed {
    first: f64,
    first_list: f64,
    list: f64,
}

fn listed(builds: usize) -> Listed {
    let daemon = keeping(builds);
    let mut connection = Connection::tcp(daemon.port);
    let mut time = |path: &str| {
        let began = Instant::now();
        let (status, _) = connection.ask("GET", path, "");
        assert_eq!(status, 200);
        began.elapsed().as_secs_f64() * 1e3
    };
    let first =
        time("/job/trivial/0000000000000000000000000000000000000000000000000000000000000005");
    let first_list = time("/index/?limit=50");
    let list = median((0..100).map(|_| time("/index/?limit=50")).collect());
    Listed {
        first,
        first_list,
        list,
    }
}

/// A daemon that has just begun, with so many builds of an earlier process.
pub fn keeping(builds: usize) -> Daemon {
    let home = tempfile::tempdir().unwrap();
    project(&home.path().join("projects/trivial"), "echo done\n");
    for n in 0..builds {
        build(
            &home.path().join(format!("builds/trivial/ready/{n:064x}")),
            n,
        );
    }
    Daemon::again(home, 2)
}

/// A ready build, as small as it can be.
pub fn build(at: &Path, n: usize) {
    std::fs::create_dir_all(at.join("data/artifacts")).unwrap();
    let record = serde_json::json!({
        "Params": {"n": n.to_string()},
        "Group": "",
        "ExitCode": 0,
        "ErrBuild": "",
        "StartedAt": format!("2026-01-01T00:00:00.{n:09}Z"),
        "Duration": 1_000_000_000_i64,
        "Outcome": "succeeded",
    });
    std::fs::write(at.join("build_info.json"), record.to_string()).unwrap();
    std::fs::write(at.join("out.log"), "done\n").unwrap();
}
