//! On a disk that hangs, readers take a bounded number of threads: builds and clients of this host go
//! on, and readers over the limit get an error.

use std::{
    fmt::Debug,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use futures_util::poll;
use mistry::{
    budget::Client,
    job::JobId,
    project::ProjectName,
    scheduler::{Error, Reader},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{
    daemon::{TestDaemon, job, text},
    http::{Answer, Ask, At, within},
};

/// As in `read_limiter`.
const READS: usize = 128;
const WAITING: usize = 256;

fn names_of(info: &Value) -> (ProjectName, JobId) {
    let (project, id) = (text(info, "Project"), text(info, "ID"));
    (project.parse().unwrap(), id.parse().unwrap())
}

/// Work that hangs until this is dropped.
struct Gate {
    _open: mpsc::Sender<()>,
    shut: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Gate {
    fn new() -> Gate {
        let (open, shut) = mpsc::channel();
        Gate {
            _open: open,
            shut: Arc::new(Mutex::new(shut)),
        }
    }

    /// Work that signals its start, and hangs.
    fn work<T>(&self, begun: tokio::sync::mpsc::Sender<()>) -> impl FnOnce(T) + Send + use<T> {
        let shut = self.shut.clone();
        move |_| {
            begun.blocking_send(()).unwrap();
            let shut = shut.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = shut.recv();
        }
    }
}

/// Takes `count` permits; how many have begun to hang.
async fn hang<F>(count: usize, read: impl Fn(tokio::sync::mpsc::Sender<()>) -> F)
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let (begun, mut beginnings) = tokio::sync::mpsc::channel(count);
    for _ in 0..count {
        tokio::spawn(read(begun.clone()));
    }
    for _ in 0..count {
        within("a reader that hangs", beginnings.recv())
            .await
            .unwrap();
    }
}

/// A daemon whose permits for small reads are all taken by readers that hang, and a build that is over.
async fn stuck() -> (TestDaemon, Value, Gate) {
    let script = "echo made > $D/artifacts/made\necho printed";
    let daemon = TestDaemon::builder().await.script("p", script);
    let daemon = daemon.start().await;
    let info = daemon.build(job("p")).await;
    let (gate, reader) = (Gate::new(), daemon.scheduler().reader(Client::Proxy));
    let (project, id) = names_of(&info);
    hang(READS, |begun| {
        let (reader, project, work) = (reader.clone(), project.clone(), gate.work(begun));
        async move { reader.in_artifacts(&project, id, work).await }
    })
    .await;
    (daemon, info, gate)
}

fn log_of(info: &Value) -> String {
    format!("/log/p/{}?text", text(info, "ID"))
}

/// Everything that is read from the disk in small.
async fn read_all(at: &At, info: &Value) {
    let answer = at.ask(Ask::get(log_of(info))).await.expect(200);
    assert!(answer.text().contains("printed"), "{}", answer.text());
    let made = format!("/artifacts/p/{}/made", text(info, "ID"));
    let answer = at.ask(Ask::get(made)).await.expect(200);
    assert_eq!(answer.text(), "made\n");
    at.ask(Ask::get("/status").json()).await.expect(200);
}

#[tokio::test]
async fn while_readers_hang_builds_run_and_clients_of_this_host_read() {
    let (daemon, info, gate) = stuck().await;
    let waiting: JoinHandle<Answer> = daemon.asking(Ask::get(log_of(&info)));
    let local = At::Unix(daemon.socket());
    read_all(&local, &info).await;
    // Builders get their logs and results, also from elsewhere.
    let other = json!({"project": "p", "params": {"n": "2"}});
    let ask = Ask::post("/jobs", &other).with("accept", "text/event-stream");
    let events = daemon.open(ask).await.events().await;
    assert!(events.iter().any(|event| event.data.contains("printed")));
    assert_eq!(events.last().unwrap().name, "result");
    let third = json!({"project": "p", "params": {"n": "3"}});
    assert_eq!(daemon.build(third).await["Outcome"], "succeeded");
    assert!(!waiting.is_finished());
    drop(gate);
    let answer = within("the one who waited", waiting).await.unwrap();
    answer.expect(200);
    read_all(&daemon.at(), &info).await;
}

#[tokio::test]
async fn readers_over_the_limit_are_asked_to_retry() {
    let (daemon, info, gate) = stuck().await;
    let (project, id) = names_of(&info);
    let reader = daemon.scheduler().reader(Client::Proxy);
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        let mut read = asked(&reader, &project, id);
        assert!(poll!(&mut read).is_pending());
        waiting.push(read);
    }
    refused(asked(&reader, &project, id).await);
    let refused = daemon.ask(Ask::get(log_of(&info)).json()).await.expect(503);
    assert_eq!(refused.header("retry-after"), "5");
    assert!(
        text(&refused.json(), "error").contains("wait for the disk"),
        "{}",
        refused.text()
    );
    read_all(&At::Unix(daemon.socket()), &info).await;
    // Readers that leave free their places.
    waiting.pop();
    let late = daemon.asking(Ask::get(log_of(&info)));
    drop(gate);
    within("a late reader", late).await.unwrap().expect(200);
    for read in waiting {
        assert!(!within("a reader", read).await.unwrap());
    }
}

type Asking = Pin<Box<dyn Future<Output = Result<bool, Error>>>>;

fn asked(reader: &Reader, project: &ProjectName, id: JobId) -> Asking {
    let (reader, project) = (reader.clone(), project.clone());
    Box::pin(async move { reader.is_pinned(&project, id).await })
}

fn refused<T: Debug>(answer: Result<T, Error>) {
    assert!(matches!(answer, Err(Error::ReadersFull)), "{answer:?}");
}

#[tokio::test]
async fn a_wait_for_the_page_of_a_directory_keeps_no_build_from_removal() {
    let script = "mkdir $D/artifacts/dir";
    let daemon = TestDaemon::builder().await.script("p", script);
    let daemon = daemon.start().await;
    let old = daemon.build(job("p")).await;
    let new = json!({"project": "p", "params": {"n": "2"}});
    let new = names_of(&daemon.build(new).await);
    let (gate, reader) = (Gate::new(), daemon.scheduler().reader(Client::Proxy));
    hang(2, |begun| {
        let (reader, project, work) = (reader.clone(), new.0.clone(), gate.work(begun));
        async move { reader.in_directories(&project, new.1, work).await }
    })
    .await;
    let (project, id) = names_of(&old);
    let mut listing = Box::pin(reader.in_directories(&project, id, drop));
    assert!(poll!(&mut listing).is_pending());
    let remove = Ask::new("DELETE", format!("/job/p/{id}"));
    let remove = remove.with("content-type", "application/json");
    daemon.ask(remove).await.expect(204);
    drop(gate);
    let listed = listing.await;
    assert!(matches!(listed, Err(Error::UnknownJob(..))), "{listed:?}");
}
