//! A build of a trivial project whose image exists, and what coalescing adds.

use std::time::Instant;

use crate::daemon::Daemon;
use crate::http::Connection;
use crate::{Figure, median};

const PAIRS: usize = 25;

pub fn measure() -> Vec<Figure> {
    let daemon = Daemon::start(4, "echo done\n");
    let mut connection = Connection::tcp(daemon.port);
    let job = |n: &str| format!(r#"{{"project":"trivial","params":{{"n":"{n}"}}}}"#);
    let (status, first) = connection.ask("POST", "/jobs", &job("image"));
    assert_eq!(status, 201);
    let first: serde_json::Value = serde_json::from_slice(&first).unwrap();
    let image = first["Image"].as_str().unwrap();
    let data = daemon.home.path().join("data");
    std::fs::create_dir(&data).unwrap();

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for n in 0..PAIRS {
        let began = Instant::now();
        let (status, _) = connection.ask("POST", "/jobs", &job(&n.to_string()));
        assert_eq!(status, 201);
        ours.push(began.elapsed().as_secs_f64() * 1e3);

        // The same container, by hand, over one connection kept alive.
        let mut engine = Connection::engine();
        let body = serde_json::json!({
            "Image": image,
            "User": "0:0",
            "HostConfig": {
                "NetworkMode": "host",
                "SecurityOpt": ["no-new-privileges"],
                "LogConfig": {"Type": "local", "Config": {"max-file": "1", "compress": "false"}},
                "Mounts": [{"Type": "bind", "Source": data, "Target": "/data"}],
            },
        });
        let began = Instant::now();
        let (status, created) = engine.ask("POST", "/containers/create", &body.to_string());
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&created));
        let created: serde_json::Value = serde_json::from_slice(&created).unwrap();
        let id = created["Id"].as_str().unwrap().to_owned();
        engine.ask("POST", &format!("/containers/{id}/start"), "");
        engine.ask("POST", &format!("/containers/{id}/wait"), "");
        engine.ask("DELETE", &format!("/containers/{id}"), "");
        theirs.push(began.elapsed().as_secs_f64() * 1e3);
    }

    let mut gaps = Vec::new();
    for n in 0..10 {
        let job = job(&format!("coalesced {n}"));
        let ends: Vec<Instant> = std::thread::scope(|scope| {
            let askers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut connection = Connection::tcp(daemon.port);
                        assert_eq!(connection.ask("POST", "/jobs", &job).0, 201);
                        Instant::now()
                    })
                })
                .collect();
            askers
                .into_iter()
                .map(|asker| asker.join().unwrap())
                .collect()
        });
        let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
        gaps.push((*last - *first).as_secs_f64() * 1e3);
    }
    vec![
        Figure::new(
            "cold build, image exists",
            median(ours),
            "ms",
            "create, start, wait, remove by hand",
            median(theirs),
        ),
        Figure::new(
            "coalesced answers after the first",
            median(gaps),
            "ms",
            "the limit",
            20.0,
        ),
    ]
}
