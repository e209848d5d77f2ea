//! A bus of the test's own: a real `dbus-daemon` on a socket that no other test knows.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use zbus::Connection;

use super::{
    daemon::Home,
    http::within,
    process::{Process, served},
    proxy::{JobProxy, ManagerProxy},
};

/// The policy of the bus: everything is allowed.
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <servicedir>SERVICES</servicedir>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
  </policy>
  <limit name="max_replies_per_connection">20000</limit>
  <limit name="max_completed_connections">5000</limit>
  <limit name="max_connections_per_user">5000</limit>
  <limit name="max_match_rules_per_connection">5000</limit>
  <limit name="max_message_size">134217728</limit>
  <limit name="max_incoming_bytes">134217728</limit>
  <limit name="max_outgoing_bytes">134217728</limit>
</busconfig>
"#;

/// The bus; killed when it is dropped.
pub struct TestBus {
    child: Child,
    dir: tempfile::TempDir,
}

impl TestBus {
    /// Starts one.
    pub fn start() -> TestBus {
        TestBus::with(CONFIG)
    }

    /// Starts one whose policy refuses the daemon's name to all.
    pub fn refusing() -> TestBus {
        let refused = r#"<deny own="org.mistry.Mistry1"/>"#;
        TestBus::with(&CONFIG.replace(r#"<allow own="*"/>"#, refused))
    }

    /// Has it read a policy that allows everything.
    pub async fn allow(&self, connection: &Connection) {
        let config = filled(&self.dir, CONFIG);
        std::fs::write(self.dir.path().join("bus.conf"), config).unwrap();
        let bus = zbus::fdo::DBusProxy::new(connection).await.unwrap();
        within("the new policy", bus.reload_config()).await.unwrap();
    }

    fn with(config: &str) -> TestBus {
        let dir = tempfile::tempdir().unwrap();
        // Other users are on it, too.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir(dir.path().join("services")).unwrap();
        std::fs::write(dir.path().join("bus.conf"), filled(&dir, config)).unwrap();
        let child = begin(&dir);
        TestBus { child, dir }
    }

    /// Kills it; no client is on it any more.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _ = std::fs::remove_file(self.socket());
    }

    /// Begins it again after that, at the same place.
    pub fn start_again(&mut self) {
        self.child = begin(&self.dir);
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("bus")
    }

    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    /// Has the bus start a program for a name, without systemd.
    pub fn activate(&self, name: &str, program: &str) {
        let service = format!("[D-BUS Service]\nName={name}\nExec={program}\n");
        let path = self
            .dir
            .path()
            .join("services")
            .join(format!("{name}.service"));
        std::fs::write(path, service).unwrap();
    }

    /// A client on it.
    pub async fn connect(&self) -> Connection {
        let building = zbus::connection::Builder::address(self.address().as_str()).build();
        within("the bus", building).await.unwrap()
    }

    /// A daemon on it, which takes it for the bus of the user who runs the tests.
    pub async fn spawn(&self, home: &Home) -> Process {
        self.spawn_with(home, &[]).await
    }

    /// The same with more arguments; returns when it is on the bus.
    pub async fn spawn_with(&self, home: &Home, arguments: &[&str]) -> Process {
        let mut command = home.mistryd();
        command
            .args(["--addr", "127.0.0.1:0", "--user-bus"])
            .args(arguments)
            .env("DBUS_SESSION_BUS_ADDRESS", self.address());
        let process = served(command).await;
        self.named(&self.connect().await).await;
        process
    }

    /// Returns when the daemon has its name.
    pub async fn named(&self, connection: &Connection) {
        self.owned(connection, true).await;
    }

    /// Returns when a program has the daemon's name, or none has.
    pub async fn owned(&self, connection: &Connection, is_owned: bool) {
        use futures_util::StreamExt;
        let bus = zbus::fdo::DBusProxy::new(connection).await.unwrap();
        let name = "org.mistry.Mistry1";
        let mut changes = bus
            .receive_name_owner_changed_with_args(&[(0, name)])
            .await
            .unwrap();
        within("the name on the bus", async {
            while bus.name_has_owner(name.try_into().unwrap()).await.unwrap() != is_owned {
                changes.next().await;
            }
        })
        .await;
    }
}

fn filled(dir: &tempfile::TempDir, config: &str) -> String {
    let path = |name: &str| dir.path().join(name).display().to_string();
    let config = config.replace("SOCKET", &path("bus"));
    config.replace("SERVICES", &path("services"))
}

fn begin(dir: &tempfile::TempDir) -> Child {
    let path = |name: &str| dir.path().join(name).display().to_string();
    let mut child = Command::new("dbus-daemon")
        .arg(format!("--config-file={}", path("bus.conf")))
        .args(["--nofork", "--nopidfile", "--print-address"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // It complains of limits that it may not raise.
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests need the program dbus-daemon (apt-get install dbus-daemon)");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.starts_with("unix:"), "dbus-daemon said {line:?}");
    child
}

impl Drop for TestBus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The daemon, as a client on the bus sees it.
pub async fn manager(connection: &Connection) -> ManagerProxy<'static> {
    ManagerProxy::new(connection).await.unwrap()
}

/// A job that is not over.
pub async fn job_at(connection: &Connection, path: &str) -> JobProxy<'static> {
    let builder = JobProxy::builder(connection)
        .path(path.to_owned())
        .cache_properties(zbus::proxy::CacheProperties::No);
    builder.build().await.unwrap()
}

/// The name of the error that a call was answered with.
pub fn name_of<T: std::fmt::Debug>(answer: zbus::Result<T>) -> String {
    use zbus::DBusError;
    match answer.unwrap_err() {
        zbus::Error::MethodError(name, ..) => name.to_string(),
        zbus::Error::FDO(error) => error.name().to_string(),
        other => panic!("no answer: {other}"),
    }
}
