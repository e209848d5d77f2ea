//! The program `mistry` against a server: what it prints and where, what it fetches, and the exit
//! statuses that scripts rely on.

mod build;
mod failure;
mod json;
mod list;
mod waiting;
mod words;

use crate::support::{
    cli::mistry,
    daemon::TestDaemon,
    process::{Ended, run},
};

pub struct Bench {
    daemon: TestDaemon,
}

impl Bench {
    async fn new(fixtures: &[&str]) -> Bench {
        Bench {
            daemon: TestDaemon::with(fixtures).await,
        }
    }

    fn target(&self) -> std::path::PathBuf {
        self.daemon.home.path("target")
    }

    /// `mistry VERB --port N …`.
    async fn mistry(&self, verb: &str, arguments: &[&str]) -> Ended {
        let port = self.daemon.port().to_string();
        let all = [&[verb, "--port", &port], arguments].concat();
        run(mistry(&all)).await
    }

    /// `mistry build --project P --target T …`.
    async fn build(&self, project: &str, arguments: &[&str]) -> Ended {
        let target = self.target();
        let base = ["--project", project, "--target", target.to_str().unwrap()];
        self.mistry("build", &[&base, arguments].concat()).await
    }
}

#[tokio::test]
async fn no_server_and_an_invalid_response_have_exit_status_7() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = connection.read(&mut head).await;
            let _ = connection
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                .await;
        }
    });
    for verb in [&["list"][..], &["projects"], &["build", "--project", "p"]] {
        let ended = run(mistry(&[verb, &["--port", &port]].concat())).await;
        assert_eq!(ended.status, 7, "{verb:?}: {ended:?}");
    }
    server.abort();
    let ended = run(mistry(&["list", "--socket", "/nowhere/at/all.sock"])).await;
    assert_eq!(ended.status, 7, "{ended:?}");
    assert!(ended.stderr.contains("/nowhere/at/all.sock"), "{ended:?}");
}

#[tokio::test]
async fn the_client_uses_the_unix_socket_too() {
    let bench = Bench::new(&["succeed"]).await;
    let (socket, target) = (bench.daemon.socket(), bench.target());
    let (socket, target) = (socket.to_str().unwrap(), target.to_str().unwrap());
    let built = run(mistry(&[
        "build",
        "--socket",
        socket,
        "--project",
        "succeed",
        "--target",
        target,
    ]))
    .await;
    assert_eq!(built.status, 0, "{built:?}");
    let (_, hint) = built.stdout.split_once("mistry logs ").unwrap();
    let hint: Vec<&str> = hint.lines().next().unwrap().split(' ').collect();
    // As it stands there.
    let logs = run(mistry(&[&["logs"], hint.as_slice()].concat())).await;
    assert_eq!(logs.status, 0, "{hint:?}: {logs:?}");
    let mut by_url = mistry(&["list"]);
    by_url.env("MISTRY_URL", format!("unix://{socket}"));
    let list = run(by_url).await;
    assert!(
        list.status == 0 && list.stdout.contains("succeed"),
        "{list:?}"
    );
    let mut by_url = mistry(&["list"]);
    by_url.env(
        "MISTRY_URL",
        format!("http://127.0.0.1:{}", bench.daemon.port()),
    );
    assert_eq!(run(by_url).await.status, 0);
    let both = run(mistry(&["list", "--socket", socket, "--port", "1"])).await;
    assert_eq!(both.status, 2, "{both:?}");
}

#[tokio::test]
async fn the_client_prints_its_version_and_help() {
    let version = run(mistry(&["--version"])).await;
    assert_eq!(
        version.stdout,
        concat!("mistry ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let help = run(mistry(&["--help"])).await;
    assert_eq!(help.status, 0);
    for verb in [
        "build",
        "list",
        "status",
        "logs",
        "fetch",
        "projects",
        "rebuild",
        "completions",
    ] {
        assert!(help.stdout.contains(verb), "{verb}");
    }
    assert!(help.stdout.contains("Exit status"), "{help:?}");
    let shell = run(mistry(&["completions", "bash"])).await;
    assert!(
        shell.status == 0 && shell.stdout.contains("mistry"),
        "{shell:?}"
    );
    assert_eq!(run(mistry(&[])).await.status, 2);
}
