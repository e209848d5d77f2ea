//! All pages with content, for the tests of what holds for each of them.

use serde_json::json;

use super::support::Browser;
use crate::support::Place;
use crate::support::daemon::{Daemon, Setup};

/// Builds that succeed, fail, or wait for their gate.
const SCRIPT: &str = r#"
printf 'begun \033[32mwell\033[0m\n'
echo text > artifacts/notes.txt
mkdir -p artifacts/sub
echo more > artifacts/sub/more.txt
case $(cat params/does) in
    wait) mkfifo gate; echo waiting; read -r _ < gate || : ;;
    fail) printf 'it \033[31mfails\033[0m\n'; exit 3 ;;
esac
"#;

pub struct Pages {
    pub daemon: Daemon,
    pub succeeded: String,
    pub failed: String,
    pub running: String,
}

impl Pages {
    /// With one slot, which a build has taken; another build waits.
    pub fn set() -> Pages {
        let setup = Setup::on(Place::Host).config(json!({"job_concurrency": 1}));
        let daemon = setup.script("every", SCRIPT).start();
        let job = |does: &str| {
            let text = "a long text without any place to break it"
                .repeat(4)
                .replace(' ', "-");
            let params = json!({"does": does, "text": text, "_secret": "x"});
            json!({"project": "every", "group": "a-group", "params": params})
        };
        let id = |info: serde_json::Value| info["ID"].as_str().unwrap().to_owned();
        let succeeded = id(daemon.succeed(job("succeed")));
        let failed = id(daemon.build(job("fail")));
        let running = daemon.submit(job("wait"));
        daemon.until("every", &running, "waiting");
        daemon.submit(json!({"project": "every", "params": {"does": "queue"}}));
        Pages {
            daemon,
            succeeded,
            failed,
            running,
        }
    }

    /// Their addresses.
    pub fn paths(&self) -> Vec<String> {
        let job = |id: &str| format!("/job/every/{id}");
        vec![
            "/".to_owned(),
            "/?outcome=failed".to_owned(),
            job(&self.succeeded),
            job(&self.failed),
            job(&self.running),
            "/projects".to_owned(),
            "/project/every".to_owned(),
            "/status".to_owned(),
            format!("/artifacts/every/{}/", self.succeeded),
        ]
    }

    /// Lets the build that runs come to its end.
    pub fn release(&self) {
        self.daemon.release("every", &self.running);
    }
}

/// What a reader would have to scroll sideways for; empty where no reader has to.
#[track_caller]
pub fn beyond_the_window(browser: &Browser) -> Vec<String> {
    let beyond = "document.documentElement.scrollWidth <= innerWidth ? []
        : ['a page of ' + document.documentElement.scrollWidth + ' px'].concat(
            [...document.querySelectorAll('body *')]
                .filter(one => one.getBoundingClientRect().right > innerWidth && one.children.length === 0)
                .map(one => one.outerHTML.slice(0, 200)))";
    serde_json::from_value(browser.eval(beyond)).unwrap()
}
