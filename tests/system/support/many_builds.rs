//! A build path with very many ready builds, written as `mistryd` writes them, and one build that leaves
//! very much.

use std::fs;
use std::io::Write;
use std::path::Path;

use jiff::{Timestamp, ToSpan};
use mistry::api::BuildView;
use mistry::job::{Outcome, State};
use sha2::{Digest, Sha256};

/// Projects that they are spread over.
const PROJECTS: usize = 20;
/// Groups, each in one project.
const GROUPS: usize = 2_000;
/// Threads that write: most of the time is the filesystem's.
const WRITERS: usize = 4;

/// Writes `many` builds, a minute apart. The last `large` of them have params that take as much in a list
/// as any can.
pub fn write(builds: &Path, many: usize, large: usize) {
    for number in 0..PROJECTS {
        fs::create_dir_all(builds.join(project(number)).join("ready")).unwrap();
    }
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                for number in (writer..many).step_by(WRITERS) {
                    one(builds, number, number + large >= many);
                }
            });
        }
    });
}

fn project(number: usize) -> String {
    format!("project-{:02}", number % PROJECTS)
}

/// 64 hex digits.
pub fn id(number: usize) -> String {
    let digest = Sha256::digest(number.to_be_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The address of one of them.
pub fn address(number: usize) -> String {
    format!("/job/{}/{}", project(number), id(number))
}

/// Its place in lists.
pub fn place(number: usize) -> String {
    format!("{},{},{}", began(number), project(number), id(number))
}

fn began(number: usize) -> Timestamp {
    Timestamp::UNIX_EPOCH + (i64::try_from(number).unwrap() * 60).seconds()
}

fn one(builds: &Path, number: usize, is_large: bool) {
    let (project, id) = (project(number), id(number));
    let group = format!("feature/topic-{}-of-a-team", number % GROUPS);
    let mut info = BuildView {
        path: format!("/srv/builds/{project}/ready/{id}/data/artifacts"),
        incremental: number.is_multiple_of(3),
        exit_code: 0,
        started_at: began(number),
        duration: 41_000_000_000,
        url: format!("job/{project}/{id}"),
        state: State::Ready,
        outcome: Some(Outcome::Succeeded),
        image: Some(format!("sha256:{id}")),
        asked_by: Some("token ci".to_owned()),
        ..BuildView::default()
    };
    info.finished_at = Some(info.started_at + 41.seconds());
    info.queued_at = Some(info.started_at);
    for (name, value) in [
        ("branch", group.clone()),
        ("commit", id[..40].to_owned()),
        ("lockfile", self::id(number / 7)),
        ("target", "production".to_owned()),
    ] {
        info.params.insert(name.to_owned(), Some(value.into()));
    }
    if is_large {
        // JSON writes each of these as six.
        let value = "\u{1}".repeat(256);
        for number in 0..64 {
            let name = format!("value-{number:02}");
            info.params.insert(name, Some(value.as_str().into()));
        }
    }
    info.group = group;
    info.project = project.clone();
    info.id = id.clone();
    let mut record = serde_json::to_value(&info).unwrap();
    record["Bookkeeping"] =
        serde_json::json!({"Durable": true, "Own": 1_234_567, "Bytes": 2_345_678});
    let directory = builds.join(project).join("ready").join(id);
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("build_info.json"), record.to_string()).unwrap();
}

/// Writes one build of `project` that has a log of `log` bytes and an artifact directory `wide` of
/// `directories` directories. It is the newest of all.
pub fn write_one(builds: &Path, project: &str, id: &str, log: usize, directories: usize) {
    let directory = builds.join(project).join("ready").join(id);
    let wide = directory.join("data/artifacts/wide");
    fs::create_dir_all(&wide).unwrap();
    let info = BuildView {
        exit_code: 0,
        started_at: Timestamp::now(),
        duration: 1_000_000_000,
        state: State::Ready,
        outcome: Some(Outcome::Succeeded),
        ..BuildView::default()
    };
    let mut record = serde_json::to_value(&info).unwrap();
    record["Bookkeeping"] = serde_json::json!({"Durable": true});
    fs::write(directory.join("build_info.json"), record.to_string()).unwrap();
    let mut out = std::io::BufWriter::new(fs::File::create(directory.join("out.log")).unwrap());
    let (mut written, mut line) = (0, 0);
    while written < log {
        let text = format!("{line:08} {}\n", "x".repeat(90));
        out.write_all(text.as_bytes()).unwrap();
        (written, line) = (written + text.len(), line + 1);
    }
    out.flush().unwrap();
    for number in 0..directories {
        fs::create_dir(wide.join(format!("directory-with-a-long-name-{number:06}"))).unwrap();
    }
}
