//! The bus: a call and its answer next to a bare echo on the same bus, and what live jobs take as objects.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use zbus::{Connection, interface, proxy};

use crate::daemon::Daemon;
use crate::http::Connection as Http;
use crate::support::proxy::ManagerProxy;
use crate::{Figure, median};

const CALLS: usize = 2_000;
const JOBS: usize = 1_000;

/// Returns its argument.
struct Echo;

#[interface(name = "org.mistry.Bench.Echo")]
impl Echo {
    fn echo(&self, text: String) -> String {
        text
    }
}

#[proxy(
    interface = "org.mistry.Bench.Echo",
    default_service = "org.mistry.Bench",
    default_path = "/org/mistry/Bench"
)]
trait Echo {
    fn echo(&self, text: &str) -> zbus::Result<String>;
}

/// A service that does nothing, until it is killed.
pub fn bare_echo(address: &str) {
    runtime().block_on(async {
        let _connection = zbus::connection::Builder::address(address)
            .serve_at("/org/mistry/Bench", Echo)
            .name("org.mistry.Bench")
            .build()
            .await
            .unwrap();
        println!("serving");
        std::future::pending::<()>().await;
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// A process that is killed with the value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a line of it.
fn begun(mut child: Child) -> (Killed, String) {
    let mut line = String::new();
    let out = child.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    (Killed(child), line)
}

/// A bus of our own, and its address.
fn bus(home: &Path) -> (Killed, String) {
    let address = format!("unix:path={}", home.join("bus").display());
    let child = Command::new("dbus-daemon")
        .args(["--session", "--nofork", "--nopidfile", "--print-address"])
        .arg(format!("--address={address}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program dbus-daemon");
    (begun(child).0, address)
}

pub fn measure() -> Vec<Figure> {
    let home = tempfile::tempdir().unwrap();
    let (_bus, address) = bus(home.path());
    let echo = Command::new(std::env::current_exe().unwrap())
        .args(["--bare-echo", &address])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (_echo, _) = begun(echo);
    // One build waits, as long as the daemon lives; the others end at once.
    let script = "[ ! -e /data/params/hold ] || { mkfifo /data/gate; read -r x < /data/gate; }\n";
    let daemon = Daemon::on_bus(script, &address);
    let (echoed, got, submitted) = runtime().block_on(round_trips(&address));
    drop(daemon);
    let gate = "mkfifo /data/gate; read -r x < /data/gate\n";
    let (with, without) = (live(gate, Some(&address)), live(gate, None));
    vec![
        Figure::new("GetJob, round trip", got, "µs", "a bare zbus echo", echoed),
        Figure::new(
            "SubmitJob (cached), round trip",
            submitted,
            "µs",
            "a bare zbus echo",
            echoed,
        ),
        Figure::new(
            "memory, 1,000 live jobs as objects",
            with,
            "MiB",
            "the same jobs without a bus",
            without,
        ),
    ]
}

/// Microseconds of an echo, of `GetJob` and of a cached `SubmitJob`, each the middle of many.
async fn round_trips(address: &str) -> (f64, f64, f64) {
    let here = zbus::connection::Builder::address(address)
        .build()
        .await
        .unwrap();
    let echo = EchoProxy::new(&here).await.unwrap();
    let manager = ManagerProxy::new(&here).await.unwrap();
    let (params, options) = (HashMap::new(), HashMap::new());
    let id = built(&here, &manager).await;
    let held = HashMap::from([("hold", "")]);
    let answer = manager.submit_job("trivial", "", &held, &options).await;
    let (live, ..) = answer.unwrap();
    let (mut echoed, mut got, mut submitted) = (Vec::new(), Vec::new(), Vec::new());
    let microseconds = |since: Instant| since.elapsed().as_secs_f64() * 1e6;
    // By turns, so that all three see the same machine.
    for _ in 0..CALLS {
        let since = Instant::now();
        echo.echo(&id).await.unwrap();
        echoed.push(microseconds(since));
        let since = Instant::now();
        manager.get_job(&live).await.unwrap();
        got.push(microseconds(since));
        let since = Instant::now();
        let answer = manager.submit_job("trivial", "", &params, &options).await;
        assert_eq!(answer.unwrap().2, "cached");
        submitted.push(microseconds(since));
    }
    (median(echoed), median(got), median(submitted))
}

/// A job that is built, so that it is cached from then on.
async fn built(here: &Connection, manager: &ManagerProxy<'_>) -> String {
    use futures_util::StreamExt;
    let mut ends = manager.receive_job_removed().await.unwrap();
    let bus = zbus::fdo::DBusProxy::new(here).await.unwrap();
    let name = "org.mistry.Mistry1";
    while !bus.name_has_owner(name.try_into().unwrap()).await.unwrap() {
        tokio::task::yield_now().await;
    }
    let (params, options) = (HashMap::new(), HashMap::new());
    let answer = manager.submit_job("trivial", "", &params, &options).await;
    let (id, ..) = answer.unwrap();
    ends.next().await.unwrap();
    id
}

/// MiB of a daemon with so many live jobs, most of them queued.
fn live(script: &str, address: Option<&str>) -> f64 {
    let daemon = match address {
        Some(address) => Daemon::on_bus(script, address),
        None => Daemon::with_backlog(1, script, JOBS),
    };
    let mut http = Http::tcp(daemon.port);
    for n in 0..JOBS {
        let job = format!(r#"{{"project":"trivial","params":{{"n":"{n}"}}}}"#);
        assert_eq!(http.ask("POST", "/jobs?async", &job).0, 201);
    }
    if let Some(address) = address {
        runtime().block_on(async {
            let here = zbus::connection::Builder::address(address);
            let here = here.build().await.unwrap();
            let manager = ManagerProxy::new(&here).await.unwrap();
            while manager.list_jobs().await.unwrap().len() < JOBS {
                tokio::task::yield_now().await;
            }
        });
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: f64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kibibytes / 1_024.0
}
