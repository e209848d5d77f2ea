//! A real browser that shows a daemon's pages: Chromium through its driver.
//!
//! One [`Browser`] is one process of its own with a fresh profile, gone with all its children when it
//! is dropped. Waiting is done in the page, which reports each change; a wait has a limit, and fails
//! with what was expected. [`Browser::end`] checks what holds for every page: nothing in the console, no
//! request to another server than the daemon.

mod driver;
mod session;
mod traffic;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use session::Session;
pub use traffic::Request;
use traffic::Traffic;

/// How long something in a page is waited for: more than the slowest host needs.
const BOUND: Duration = Duration::from_secs(60);
/// How long it is waited for in one question, which is less than what a script may take. When another
/// page comes, Chromium sometimes does not report that the wait in the first one has ended.
const ROUND: Duration = Duration::from_secs(2);
/// As wide as pictures in documents are.
const SIZE: (u32, u32) = (1280, 800);

#[derive(Debug)]
pub struct Browser {
    session: Session,
    /// `http://ADDRESS`, without a slash.
    origin: String,
    has_scripts: Cell<bool>,
    console: RefCell<Vec<String>>,
    traffic: RefCell<Traffic>,
    /// What may be in the console.
    forgiven: RefCell<Vec<String>>,
    /// Other servers that may get requests.
    others: RefCell<Vec<String>>,
}

impl Browser {
    /// At the daemon that listens at this address.
    #[track_caller]
    pub fn at(address: &str) -> Browser {
        let browser = Browser {
            session: Session::begin(),
            origin: format!("http://{address}"),
            has_scripts: Cell::new(true),
            console: RefCell::default(),
            traffic: RefCell::default(),
            forgiven: RefCell::default(),
            others: RefCell::default(),
        };
        browser.resize(SIZE.0, SIZE.1);
        // The first page of a browser and its requests do not count.
        browser.go("about:blank");
        for kind in ["browser", "performance"] {
            browser.session.records(kind);
        }
        browser
    }

    /// Goes to a path of the daemon, and waits until what came with the page is loaded.
    #[track_caller]
    pub fn open(&self, path: &str) {
        self.go(&format!("{}{path}", self.origin));
    }

    #[track_caller]
    fn go(&self, url: &str) {
        let gone = self.session.post("/url", &json!({"url": url}));
        gone.unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    #[track_caller]
    pub fn reload(&self) {
        self.session.post("/refresh", &json!({})).unwrap();
    }

    #[track_caller]
    pub fn back(&self) {
        self.session.post("/back", &json!({})).unwrap();
    }

    /// Where the page is, without its origin: path, query and fragment.
    #[track_caller]
    pub fn path(&self) -> String {
        let url = self.session.get("/url").unwrap();
        let url = url.as_str().unwrap();
        url.strip_prefix(&self.origin).unwrap_or(url).to_owned()
    }

    /// Until the path holds a text; also without scripts.
    #[track_caller]
    pub fn wait_for_path(&self, part: &str) {
        let end = Instant::now() + BOUND;
        while !self.path().contains(part) {
            assert!(Instant::now() < end, "{part} is not in {}", self.path());
        }
    }

    #[track_caller]
    pub fn title(&self) -> String {
        let title = self.session.get("/title").unwrap();
        title.as_str().unwrap().to_owned()
    }

    // === What is in the page ===

    /// The value of an expression; of a promise, what it comes to.
    #[track_caller]
    pub fn eval(&self, expression: &str) -> Value {
        let script = format!("return ({expression});");
        let value = self.execute("sync", &script);
        value.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// The text of the first element, as a reader sees it.
    #[track_caller]
    pub fn text(&self, css: &str) -> String {
        match self.eval(&format!("{}?.innerText", first(css))) {
            Value::String(text) => text,
            _ => panic!("no '{css}' in the page:\n{}", self.seen()),
        }
    }

    /// The text of each.
    #[track_caller]
    pub fn texts(&self, css: &str) -> Vec<String> {
        let texts = self.eval(&format!("{}.map(one => one.innerText)", all(css)));
        serde_json::from_value(texts).unwrap()
    }

    #[track_caller]
    pub fn attribute(&self, css: &str, name: &str) -> Option<String> {
        let value = self.eval(&format!("{}?.getAttribute({})", first(css), json!(name)));
        value.as_str().map(str::to_owned)
    }

    #[track_caller]
    pub fn count(&self, css: &str) -> usize {
        let count = self.eval(&format!("{}.length", all(css)));
        count.as_u64().unwrap().try_into().unwrap()
    }

    /// Role and name of all that a screen reader reads, in its order.
    #[track_caller]
    pub fn heard(&self) -> Vec<(String, String)> {
        let tree = self
            .session
            .command("Accessibility.getFullAXTree", &json!({}));
        let nodes = tree["nodes"].as_array().unwrap();
        let heard = nodes.iter().filter(|node| node["ignored"] == false);
        let word = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        heard
            .map(|node| (word(&node["role"]), word(&node["name"])))
            .collect()
    }

    // === Waiting ===

    #[track_caller]
    pub fn wait_for(&self, css: &str) {
        self.wait_until(&format!("{} !== null", first(css)));
    }

    /// Until one of the elements holds a text.
    #[track_caller]
    pub fn wait_for_text(&self, css: &str, text: &str) {
        let text = json!(text);
        let holds = format!("{}.some(one => one.innerText.includes({text}))", all(css));
        self.wait_until(&holds);
    }

    /// Until an expression is true, in this page or in one that comes in its place.
    #[track_caller]
    pub fn wait_until(&self, expression: &str) {
        // Where there are no scripts, nothing in the page happens later.
        let question = match self.has_scripts.get() {
            true => ("async", watch(expression, ROUND)),
            false => ("sync", format!("return Boolean({expression});")),
        };
        let end = Instant::now() + BOUND;
        let held = loop {
            let held = self.execute(question.0, &question.1);
            let goes_on = self.has_scripts.get() && Instant::now() < end;
            match &held {
                Ok(Value::Bool(true)) => return,
                Ok(_) if goes_on => {}
                Err(error) if goes_on && has_another_page(error) => {}
                _ => break held,
            }
        };
        panic!("{expression}: {held:?} in the page:\n{}", self.seen());
    }

    #[track_caller]
    fn execute(&self, how: &str, script: &str) -> Result<Value, String> {
        let body = json!({"script": script, "args": []});
        self.session.post(&format!("/execute/{how}"), &body)
    }

    /// What a reader sees, to find out why it is wrong.
    fn seen(&self) -> String {
        let text = self.execute("sync", "return document.body?.innerText");
        let (path, console) = (self.path(), self.console());
        format!(
            "{path}\n{}\nconsole: {console:#?}",
            text.unwrap_or_default()
        )
    }

    // === Input ===

    /// A key, by its letter or by its name, such as `Enter`; whatever has the focus gets it.
    #[track_caller]
    pub fn press(&self, key: &str) {
        self.keys(&[key_value(key)]);
    }

    /// Letters one by one.
    #[track_caller]
    pub fn write(&self, text: &str) {
        self.keys(&text.chars().collect::<Vec<_>>());
    }

    #[track_caller]
    fn keys(&self, keys: &[char]) {
        let moves = keys.iter().flat_map(|key| {
            ["keyDown", "keyUp"].map(|what| json!({"type": what, "value": key.to_string()}))
        });
        let moves: Vec<Value> = moves.collect();
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": moves}]});
        self.session.post("/actions", &actions).unwrap();
    }

    #[track_caller]
    pub fn click(&self, css: &str) {
        let end = Instant::now() + BOUND;
        loop {
            let element = self.session.element(css);
            match self.session.post(&format!("{element}/click"), &json!({})) {
                Ok(_) => return,
                // The page has put another one in its place since.
                Err(error) if error.contains("stale element") && Instant::now() < end => {}
                Err(error) => panic!("'{css}': {error}\n{}", self.seen()),
            }
        }
    }

    // === Display ===

    /// The size of the window's inside, in pixels.
    #[track_caller]
    pub fn resize(&self, width: u32, height: u32) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.session
            .command("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Whether the reader wants pages dark.
    #[track_caller]
    pub fn dark(&self, is_wanted: bool) {
        let value = if is_wanted { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.session.command("Emulation.setEmulatedMedia", &media);
    }

    /// Whether pages that are opened from now on may run scripts. [`Browser::eval`] works in any case,
    /// but nothing in the page happens later.
    #[track_caller]
    pub fn set_javascript(&self, is_allowed: bool) {
        let value = json!({"value": !is_allowed});
        self.session
            .command("Emulation.setScriptExecutionDisabled", &value);
        self.has_scripts.set(is_allowed);
    }

    /// A script that runs in each page that is opened from now on, before the page's own scripts.
    #[track_caller]
    pub fn run_first(&self, script: &str) {
        self.session.command(
            "Page.addScriptToEvaluateOnNewDocument",
            &json!({"source": script}),
        );
    }

    /// What is in the window, as a PNG.
    #[track_caller]
    pub fn screenshot(&self, file: &Path) {
        let picture = self.session.get("/screenshot").unwrap();
        std::fs::write(file, from_base64(picture.as_str().unwrap())).unwrap();
    }

    // === Records ===

    /// What the console holds so far, warnings and errors and whatever pages say.
    #[track_caller]
    pub fn console(&self) -> Vec<String> {
        let mut console = self.console.borrow_mut();
        for record in self.session.records("browser") {
            let word = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
            console.push(format!("{}: {}", word("level"), word("message")));
        }
        console.clone()
    }

    /// What was asked for over the network so far.
    #[track_caller]
    pub fn requests(&self) -> Vec<Request> {
        let mut traffic = self.traffic.borrow_mut();
        for record in self.session.records("performance") {
            traffic.take(&record);
        }
        traffic.requests().to_vec()
    }

    /// A line in the console that holds this text is meant to be there.
    pub fn forgive(&self, text: &str) {
        self.forgiven.borrow_mut().push(text.to_owned());
    }

    /// Addresses that begin so may be asked, too: they are what a test is about.
    pub fn forgive_asking(&self, of: &str) {
        self.others.borrow_mut().push(of.to_owned());
    }

    /// The bytes that the page's scripts hold when all that is not held is gone.
    #[track_caller]
    pub fn heap_bytes(&self) -> u64 {
        self.session
            .command("HeapProfiler.collectGarbage", &json!({}));
        let usage = self.session.command("Runtime.getHeapUsage", &json!({}));
        usage["usedSize"].as_f64().unwrap() as u64
    }

    /// The resident memory of the largest process that shows pages.
    pub fn resident_bytes(&self) -> u64 {
        let processes = self.session.driver().processes().into_iter();
        let sizes = processes.filter_map(renderer_size);
        sizes.max().expect("a process shows the page")
    }

    /// Closes it, and checks what holds for every page.
    #[track_caller]
    pub fn end(self) {
        let forgiven = self.forgiven.borrow();
        let is_forgiven = |line: &String| forgiven.iter().any(|text| line.contains(text));
        let mut console = self.console();
        console.retain(|line| !is_forgiven(line));
        assert!(console.is_empty(), "in the console: {console:#?}");
        let mut own = self.others.take();
        own.extend([format!("{}/", self.origin), "about:blank".to_owned()]);
        let is_foreign = |request: &Request| !own.iter().any(|own| request.url.starts_with(own));
        let mut requests = self.requests();
        assert!(!requests.is_empty(), "nothing was asked for at all");
        requests.retain(is_foreign);
        assert!(requests.is_empty(), "asked of others: {requests:#?}");
    }
}

/// Whether a script came to nothing because its page is gone.
fn has_another_page(error: &str) -> bool {
    let signs = ["unloaded", "navigation", "script timeout"];
    signs.iter().any(|sign| error.contains(sign))
}

/// The first element.
fn first(css: &str) -> String {
    format!("document.querySelector({})", json!(css))
}

fn all(css: &str) -> String {
    format!("[...document.querySelectorAll({})]", json!(css))
}

/// A script that answers `true` as soon as an expression is true, else in the end what it was.
///
/// Whatever changes in the document is looked at. Once in a while it is looked at without a change: a
/// place that was scrolled to or a value that was typed is none.
fn watch(expression: &str, bound: Duration) -> String {
    format!(
        r#"
        const done = arguments[0];
        const look = () => {{
            try {{
                return Boolean({expression}) || "it is not so";
            }} catch (error) {{
                return String(error);
            }}
        }};
        const step = () => {{
            if (look() === true) finish();
        }};
        const changes = new MutationObserver(step);
        const often = setInterval(step, 100);
        const end = setTimeout(() => finish(), {millis});
        const finish = () => {{
            changes.disconnect();
            clearInterval(often);
            clearTimeout(end);
            done(look());
        }};
        changes.observe(document, {{
            subtree: true, childList: true, attributes: true, characterData: true,
        }});
        step();
        "#,
        millis = bound.as_millis()
    )
}

/// How WebDriver writes a key.
fn key_value(key: &str) -> char {
    let mut letters = key.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) => letter,
        _ => match key {
            "Backspace" => '\u{e003}',
            "Tab" => '\u{e004}',
            "Enter" => '\u{e007}',
            "Escape" => '\u{e00c}',
            "PageUp" => '\u{e00e}',
            "PageDown" => '\u{e00f}',
            "End" => '\u{e010}',
            "Home" => '\u{e011}',
            "ArrowUp" => '\u{e013}',
            "ArrowDown" => '\u{e015}',
            _ => panic!("the key '{key}' is not known here"),
        },
    }
}

/// The resident bytes of a process that shows pages; `None` for others.
fn renderer_size(process: u32) -> Option<u64> {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
    if !String::from_utf8_lossy(&line).contains("--type=renderer") {
        return None;
    }
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let (_, rest) = status.split_once("VmRSS:")?;
    let kilobytes: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// As WebDriver writes pictures: with padding, without line ends.
fn from_base64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut held, mut bits) = (0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = LETTERS.iter().position(|known| *known == letter).unwrap();
        held = held << 6 | u32::try_from(value).unwrap();
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    bytes
}
