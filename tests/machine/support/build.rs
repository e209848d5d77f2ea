//! Projects of the machine, and builds that a test holds as long as it needs.

use serde_json::{Value, json};

use super::Machine;

/// Where the machine keeps the one static binary that projects need.
const BUSYBOX: &str = "/usr/local/lib/mistry-test/busybox";
/// Mounted into builds that wait for a test.
const GATES: &str = "/srv/gates";

/// A project of the machine.
#[derive(Debug)]
pub struct Project<'a> {
    machine: &'a Machine,
    pub name: String,
}

impl Machine {
    /// The example that the package brings, put where projects are.
    pub fn example(&self) -> Project<'_> {
        self.run(&format!(
            "cd /var/lib/mistry/projects
            cp -r /usr/share/doc/mistryd/examples/hello .
            cp {BUSYBOX} hello/"
        ));
        self.project_named("hello")
    }

    /// A project whose build runs this script of busybox, in /data; `settings` is its `mistry.json`.
    pub fn script(&self, name: &str, script: &str, settings: Value) -> Project<'_> {
        let home = format!("/var/lib/mistry/projects/{name}");
        self.write(
            &format!("{home}/Dockerfile"),
            "FROM busybox\nCOPY run.sh /run.sh\nENTRYPOINT [\"/bin/sh\", \"/run.sh\"]\n",
        );
        self.write(
            &format!("{home}/run.sh"),
            &format!("set -eu\ncd /data\n{script}\n"),
        );
        if !settings.is_null() {
            self.write(&format!("{home}/mistry.json"), &settings.to_string());
        }
        self.project_named(name)
    }

    /// A project whose build signals its start, and ends when it is released.
    pub fn held(&self, name: &str) -> Project<'_> {
        self.run(&format!(
            "rm -rf {GATES} && mkdir {GATES} && mkfifo -m 0666 {GATES}/here {GATES}/go"
        ));
        self.script(
            name,
            // The client that requested it first has noticed it; when it is run again, nothing waits for that.
            "(echo here > /gates/here) & word=$(cat /gates/go); echo $word > artifacts/word",
            json!({ "mounts": { GATES: "/gates" } }),
        )
    }

    /// A project that is there.
    pub fn project_named(&self, name: &str) -> Project<'_> {
        Project {
            machine: self,
            name: name.to_owned(),
        }
    }
}

impl Project<'_> {
    /// Has it built, over the unix socket; returns the build info.
    #[track_caller]
    pub fn build(&self, params: Value) -> Value {
        let answer = self.machine.post("/jobs", &self.request(params));
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.json()
    }

    /// The same, and it succeeds; returns the id.
    #[track_caller]
    pub fn succeed(&self, params: Value) -> String {
        let info = self.build(params);
        assert_eq!(info["Outcome"], "succeeded", "{info:#}");
        info["ID"].as_str().unwrap().to_owned()
    }

    /// Has it accepted; returns the id.
    #[track_caller]
    pub fn submit(&self, params: Value) -> String {
        let answer = self.machine.post("/jobs?async", &self.request(params));
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.json()["ID"].as_str().unwrap().to_owned()
    }

    fn request(&self, params: Value) -> Value {
        json!({ "project": self.name, "params": params })
    }

    /// Waits for the end of a build that was accepted; returns the build info.
    #[track_caller]
    pub fn wait(&self, id: &str) -> Value {
        let answer = self.machine.get(&format!("/job/{}/{id}?wait", self.name));
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["BuildInfo"].clone()
    }

    /// Waits until the build of a [held](Machine::held) project is there.
    #[track_caller]
    pub fn is_there(&self) {
        self.machine.run(&format!("read word < {GATES}/here"));
    }

    /// Lets it go.
    #[track_caller]
    pub fn release(&self) {
        self.machine.run(&format!("echo gone > {GATES}/go"));
    }

    /// Where a build is when it is over, in the machine.
    pub fn ready(&self, id: &str) -> String {
        format!("/var/lib/mistry/builds/{}/ready/{id}", self.name)
    }
}
