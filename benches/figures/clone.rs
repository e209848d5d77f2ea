//! A group's base of many files, cloned on Btrfs.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use mistry::filesystem::Filesystem;

use crate::{Figure, median};

const FILES: usize = 100_000;
const PAIRS: usize = 15;

pub fn measure() -> Vec<Figure> {
    let mount = std::env::var("MISTRY_TEST_BTRFS").expect("a Btrfs: `make bench` brings one");
    let home = tempfile::tempdir_in(mount).unwrap();
    let many = home.path().join("many");
    Filesystem::Btrfs.create(&many).unwrap();
    for n in 0..FILES {
        let directory = many.join(format!("cache/{}", n / 1_000));
        if n % 1_000 == 0 {
            std::fs::create_dir_all(&directory).unwrap();
        }
        std::fs::write(directory.join(n.to_string()), "").unwrap();
    }
    let few = home.path().join("few");
    Filesystem::Btrfs.create(&few).unwrap();
    rustix::fs::sync();

    let ours = |from: &Path| {
        let to = home.path().join("clone");
        let began = Instant::now();
        Filesystem::Btrfs
            .clone_tree(from, &to, &["params".as_ref()])
            .unwrap();
        let took = began.elapsed().as_secs_f64() * 1e3;
        Filesystem::Btrfs.remove(&to).unwrap();
        took
    };
    let theirs = |from: &Path| {
        let to = home.path().join("snapshot");
        let began = Instant::now();
        let done = Command::new("btrfs")
            .args(["-q", "subvolume", "snapshot"])
            .arg(from)
            .arg(&to)
            .status()
            .unwrap();
        let took = began.elapsed().as_secs_f64() * 1e3;
        assert!(done.success());
        Filesystem::Btrfs.remove(&to).unwrap();
        took
    };
    let (mut of_many, mut of_few, mut tool) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        of_many.push(ours(&many));
        tool.push(theirs(&many));
        of_few.push(ours(&few));
    }
    for tree in [&many, &few] {
        Filesystem::Btrfs.remove(tree).unwrap();
    }
    let of_many = median(of_many);
    vec![
        Figure::new(
            "clone of 100,000 files on Btrfs",
            of_many,
            "ms",
            "btrfs subvolume snapshot",
            median(tool),
        ),
        Figure::new(
            "the same",
            of_many,
            "ms",
            "clone of an empty base",
            median(of_few),
        ),
    ]
}
