//! Several daemons share one Docker Engine, with each other and with other users: each touches only
//! what carries its own label.

use serde_json::json;

use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};
use crate::support::engine::Engine;
use crate::support::foreign::ForeignObjects;

#[test]
fn two_daemons_build_the_same_job_at_once_and_touch_nothing_of_each_other() {
    let foreign = ForeignObjects::with_image_like("slow");
    let one = Setup::on(Place::Ext4).fixture("slow").start();
    let mut other = Setup::beside(&one).fixture("slow").start();
    assert_ne!(one.label(), other.label());
    let engine = Engine::new();
    let job = json!({"project": "slow", "group": "g"});
    let ids = [&one, &other].map(|daemon| daemon.submit(job.clone()));
    assert_eq!(ids[0], ids[1], "an id depends on nothing but what is asked");
    let id = &ids[0];
    for daemon in [&one, &other] {
        daemon.until("slow", id, "waiting");
    }
    let held = engine.containers(&one.label());
    assert_eq!(held.len(), 1);

    // The other one dies, follows what it had, and rebuilds its image.
    other.kill();
    other.start();
    other.until("slow", id, "waiting");
    rebuild(&other);
    let now = engine.containers(&one.label());
    assert_eq!((now.len(), &now[0].id), (1, &held[0].id));
    assert_eq!(now[0].state, held[0].state);

    for daemon in [&one, &other] {
        daemon.release("slow", id);
    }
    let (first, second) = (one.wait("slow", id), other.wait("slow", id));
    assert_eq!(
        (&first["Outcome"], &first["Attempt"]),
        (&json!("succeeded"), &json!(1))
    );
    assert_eq!(
        (&second["Outcome"], &second["Attempt"]),
        (&json!("succeeded"), &json!(1))
    );
    assert_ne!(first["Image"], second["Image"]);

    // The end of one takes nothing from the other.
    other.end();
    let images: Vec<_> = engine
        .images(&one.label())
        .into_iter()
        .map(|image| image.id)
        .collect();
    assert!(
        images.contains(&first["Image"].as_str().unwrap().to_owned()),
        "{images:?}"
    );
    foreign.assert_unchanged();
}

#[test]
fn rebuilding_images_removes_the_leftovers_of_this_instance_and_nothing_else() {
    let foreign = ForeignObjects::with_image_like("rebuilt");
    // A project of a name that no other test has: the tag belongs to the last build.
    let setup = Setup::on(Place::Ext4).script("rebuilt", "echo made > artifacts/made");
    let mut daemon = setup.fixture("image-build-failure").start();
    let engine = Engine::new();
    let first = daemon.succeed(json!({"project": "rebuilt"}));
    // Asked of the daemon, which is there.
    let said = rebuild(&daemon);
    assert!(said.contains("Rebuilding rebuilt..."), "{said}");
    assert!(said.contains("Failed names: image-build-failure"), "{said}");
    // Each label is a layer of its own; the image is what has them all.
    let ours = |engine: &Engine, daemon: &Daemon| -> Vec<String> {
        let images = engine.images(&daemon.label()).into_iter();
        let whole = images.filter(|image| {
            let labels = ["mistry.context", "mistry.uid"];
            labels.iter().all(|label| image.labels.contains_key(*label))
        });
        whole.map(|image| image.id).collect()
    };
    let was = first["Image"].as_str().unwrap().to_owned();
    let is = ours(&engine, &daemon);
    assert!(
        !is.contains(&was),
        "what the rebuild replaced is gone: {is:?}"
    );
    let built = daemon.succeed(json!({"project": "rebuilt", "params": {"n": "1"}}));
    assert!(
        is.contains(&built["Image"].as_str().unwrap().to_owned()),
        "{is:?} {built:#}"
    );
    // Without one, by itself.
    daemon.end();
    rebuild(&daemon);
    assert!(!ours(&engine, &daemon).contains(&built["Image"].as_str().unwrap().to_owned()));
    foreign.assert_unchanged();
    daemon.start();
    // The image that this process finds is the one that was made without it.
    let next = daemon.succeed(json!({"project": "rebuilt", "params": {"n": "2"}}));
    assert_eq!(
        next["Image"].as_str(),
        ours(&engine, &daemon).first().map(String::as_str)
    );
    daemon.end();
    foreign.assert_unchanged();
}

#[test]
fn a_second_daemon_on_one_build_path_is_refused_with_the_name_of_its_holder() {
    let daemon = Setup::on(Place::Ext4).start();
    let mut second = daemon.mistryd();
    let second = second.args(["--addr", "127.0.0.1:0"]).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success());
    assert!(
        said.contains(&format!(
            "process {}, {}",
            daemon.process(),
            daemon.address()
        )),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(daemon.get("/healthz").status, 200);
}

/// `mistryd rebuild`; what it says.
fn rebuild(daemon: &Daemon) -> String {
    let rebuilt = daemon.mistryd().arg("rebuild").output().unwrap();
    let said = String::from_utf8_lossy(&rebuilt.stdout).into_owned();
    assert!(said.contains("Rebuilt: 1,"), "{rebuilt:?}");
    said
}
