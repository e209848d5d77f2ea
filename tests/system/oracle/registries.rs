//! A registry with a password: Debian's docker-registry on a loopback port, and `docker pull` beside ours.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::containers::{docker, settings};
use crate::support::daemon::{Daemon, Setup};
use crate::support::{Home, Place, environment};

/// The encoding of it for the Engine has characters that differ between the two alphabets of Base64.
const PASSWORD: &str = "pass:word/\u{fc}?~";
/// Made by `htpasswd -B`.
const HASHED: &str = "user:$2b$04$abcdefghijklmnopqrstuudG0/fsRBK6BUr.IoySh/8qJ.Dd33pe.\n";

struct Registry {
    process: Child,
    host: String,
    home: Home,
}

impl Registry {
    fn start() -> Registry {
        let home = Home::on(Place::Host);
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        fs::write(home.join("htpasswd"), HASHED).unwrap();
        let config = json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": home.join("images")}},
            "http": {"addr": address.to_string()},
            "auth": {"htpasswd": {"realm": "tests", "path": home.join("htpasswd")}},
        });
        // JSON is YAML.
        let file = home.join("config.yml");
        fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let said = lines.find(|line| line.as_ref().unwrap().contains("listening on"));
        said.expect("docker-registry ended").unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Registry {
            process,
            host: format!("localhost:{}", address.port()),
            home,
        }
    }

    fn image(&self) -> String {
        format!("{}/base", self.host)
    }

    /// A configuration of Docker's client with a password.
    fn login(&self, name: &str, password: &str) -> PathBuf {
        let directory = self.home.join(name);
        fs::create_dir_all(&directory).unwrap();
        let auth = STANDARD.encode(format!("user:{password}"));
        let config = json!({"auths": {self.host.as_str(): {"auth": auth}}});
        fs::write(directory.join("config.json"), config.to_string()).unwrap();
        directory
    }

    /// The docker CLI with a configuration of its own.
    fn docker(&self, config: &str, arguments: &[&str]) -> Output {
        let config = self.home.join(config);
        docker(&[&["--config", config.to_str().unwrap()], arguments].concat())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.image()]);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Docker's own plugin, which mistryd finds in this directory.
fn plugin(home: &Home) -> String {
    let config = home.join("plugin");
    fs::create_dir_all(config.join("cli-plugins")).unwrap();
    let found = config.join("cli-plugins/docker-buildx");
    std::os::unix::fs::symlink(environment("MISTRY_TEST_BUILDX"), found).unwrap();
    config.display().to_string()
}

/// A job with the value that the third builder needs.
fn job() -> Value {
    json!({"project": "p", "params": {"_tok": "a value"}})
}

/// The error of a build that must fail.
#[track_caller]
fn refused(daemon: &Daemon) -> String {
    let accepted = daemon.post("/jobs?async", &job()).json();
    let info = daemon.wait("p", accepted["ID"].as_str().unwrap());
    assert_eq!(info["Outcome"], "errored", "{info}");
    info["Err"].as_str().unwrap().to_owned()
}

fn log(daemon: &Daemon, info: &Value) -> String {
    let id = info["ID"].as_str().unwrap();
    daemon.get(&format!("/log/p/{id}?text")).text()
}

#[test]
fn a_base_in_a_registry_with_a_password_is_pulled_with_the_credentials_of_the_file() {
    let registry = Registry::start();
    let base = registry.image();
    registry.login("right", PASSWORD);
    registry.login("wrong", "other");
    fs::create_dir(registry.home.join("none")).unwrap();
    let file = registry.home.join("registry-auth.json");
    let give = |name: &str| {
        fs::copy(registry.home.join(name).join("config.json"), &file).unwrap();
    };
    let daemon = Setup::on(Place::Host)
        .config(json!({"network": "host", "registry_auth": file}))
        .script("p", "touch artifacts/made")
        .script("base", "true")
        .env("DOCKER_CONFIG", plugin(&registry.home))
        .start();
    give("wrong");
    // The image of a build is the base, which its registry alone has then.
    let info = daemon.succeed(json!({"project": "base"}));
    docker(&["tag", info["Image"].as_str().unwrap(), &base]);
    let pushed = registry.docker("right", &["push", &base]);
    assert!(pushed.status.success(), "{pushed:?}");
    let forget = || drop(docker(&["rmi", &base]));
    let path = daemon.project("p").join("Dockerfile");
    let own = fs::read_to_string(&path).unwrap();
    fs::write(&path, own.replace("FROM scratch", &format!("FROM {base}"))).unwrap();
    for builder in ["classic", "buildkit", "docker-buildx"] {
        let (own, rebuild) = match builder {
            "docker-buildx" => (
                json!({"secrets": ["tok"]}),
                json!({"params": {"_tok": "a value"}}),
            ),
            other => (json!({"builder": other}), json!({})),
        };
        settings(&daemon, "p", own);
        for name in ["none", "wrong"] {
            forget();
            let pulled = registry.docker(name, &["pull", "-q", &base]);
            assert!(!pulled.status.success(), "{name}");
            match name {
                "none" => {
                    let other =
                        json!({"auths": {"other.example": {"auth": STANDARD.encode("u:p")}}});
                    fs::write(&file, other.to_string()).unwrap();
                }
                name => give(name),
            }
            let error = refused(&daemon);
            // The last words of the Engine to its own client are in ours.
            let said = String::from_utf8(pulled.stderr).unwrap();
            let said = said.trim().rsplit(": ").next().unwrap();
            assert!(error.contains(said), "{builder}, {name}: {said} in {error}");
            assert!(!error.contains("other\""), "{error}");
        }
        // No reload.
        give("right");
        let info = daemon.succeed(job());
        assert!(log(&daemon, &info).contains(&format!("pulling the image '{base}'")));
        let pulled = registry.docker("right", &["pull", "-q", &base]);
        assert!(pulled.status.success(), "{pulled:?}");
        // A rebuild pulls again, with the credentials of that moment.
        forget();
        let rebuilt = daemon.post("/project/p/rebuild", &rebuild);
        assert_eq!(rebuilt.status, 200, "{}", rebuilt.text());
        forget();
        give("wrong");
        let rebuilt = daemon.post("/project/p/rebuild", &rebuild);
        assert_eq!(rebuilt.status, 500, "{}", rebuilt.text());
        assert!(!daemon.log().contains(PASSWORD), "{}", daemon.log());
    }
}
