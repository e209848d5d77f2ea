//! A session of a browser: requests in the JSON of the W3C's WebDriver, and what chromedriver adds.
//!
//! Knows the form of requests, nothing about pages. An error is returned as it came.

use serde_json::{Value, json};

use super::driver::{Driver, program};
use crate::support::http;

/// As root in a container, without a screen, with pages as wide as their windows; and without background
/// requests, because requests to other servers are counted.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
];
/// What WebDriver calls an element in JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// For pages that load; less than what an answer may take.
const LOAD_MILLIS: u64 = 90_000;
/// For scripts: those of the tests wait in rounds.
const SCRIPT_MILLIS: u64 = 5_000;

#[derive(Debug)]
pub struct Session {
    driver: Driver,
    path: String,
}

impl Session {
    /// With a profile of its own.
    #[track_caller]
    pub fn begin() -> Session {
        let driver = Driver::start();
        let mut flags: Vec<String> = FLAGS.map(str::to_owned).to_vec();
        flags.push(format!("--user-data-dir={}", driver.profile().display()));
        let wanted = json!({
            "timeouts": {"script": SCRIPT_MILLIS, "pageLoad": LOAD_MILLIS},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "goog:perfLoggingPrefs": {"enableNetwork": true, "enablePage": false},
            "goog:chromeOptions": {
                "binary": program("MISTRY_TEST_CHROMIUM"),
                "args": flags,
                // Else a distribution's Chromium is on the way to a page of its own choice.
                "prefs": {"session": {"restore_on_startup": 4, "startup_urls": ["about:blank"]}},
            },
        });
        let mut session = Session {
            driver,
            path: "/session".to_owned(),
        };
        let begun = session.post("", &json!({"capabilities": {"alwaysMatch": wanted}}));
        let begun = begun.unwrap_or_else(|error| panic!("no session begins: {error}"));
        session.path = format!("/session/{}", begun["sessionId"].as_str().unwrap());
        session
    }

    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    #[track_caller]
    pub fn get(&self, what: &str) -> Result<Value, String> {
        self.ask("GET", what, b"")
    }

    #[track_caller]
    pub fn post(&self, what: &str, body: &Value) -> Result<Value, String> {
        self.ask("POST", what, body.to_string().as_bytes())
    }

    /// A command of Chromium's own protocol for developers.
    #[track_caller]
    pub fn command(&self, name: &str, params: &Value) -> Value {
        let body = json!({"cmd": name, "params": params});
        let answer = self.post("/goog/cdp/execute", &body);
        answer.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// What was recorded since it was last asked for.
    #[track_caller]
    pub fn records(&self, kind: &str) -> Vec<Value> {
        let answer = self.post("/se/log", &json!({"type": kind})).unwrap();
        serde_json::from_value(answer).unwrap()
    }

    /// The path of an element in questions about it.
    #[track_caller]
    pub fn element(&self, css: &str) -> String {
        let found = self.post("/element", &json!({"using": "css selector", "value": css}));
        let found = found.unwrap_or_else(|error| panic!("'{css}': {error}"));
        format!("/element/{}", found[ELEMENT].as_str().unwrap())
    }

    #[track_caller]
    fn ask(&self, method: &str, what: &str, body: &[u8]) -> Result<Value, String> {
        let path = format!("{}{what}", self.path);
        let headers = [("content-type", "application/json")];
        let answer = http::ask(self.driver.address(), method, &path, &headers, body);
        let value = answer.json()["value"].take();
        match answer.status {
            200 => Ok(value),
            _ => Err(format!("{}: {}", value["error"], value["message"])),
        }
    }
}
