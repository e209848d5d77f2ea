//! Parses the output of the classic builder line by line: which layers and containers it makes, and which
//! lines the author of the Dockerfile needs.
//!
//! The output of `RUN` steps is in the same stream, so lines that look like the builder's own are ignored
//! while a step runs. A hostile step can still imitate its own end: callers must check each claim with the
//! Engine before they remove anything.

use std::collections::BTreeMap;

use bollard::models::BuildInfo;
use bytes::Bytes;

/// A progress report of an image build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Text for the log.
    Text(Bytes),
    /// A step has ended, and made or found this layer.
    Layer(Layer),
    /// A container was created for a step; the first 12 digits of its id.
    Container(String),
    /// The build begins again: layers reported earlier may not belong to its image.
    Restarted,
}

/// The layer that a step of a Dockerfile ended with; the classic builder makes it an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The first 12 digits of its id.
    pub id: String,
    /// The instruction as written in the Dockerfile.
    pub instruction: String,
    /// It came from the cache.
    pub is_cached: bool,
}

/// Why a step may have failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Fetching {
    /// Not because of a missing image.
    #[default]
    Nothing,
    /// It is a `FROM` that has failed.
    Base,
    /// It copies from another image.
    Source,
}

/// The parser's state.
#[derive(Debug)]
pub(super) struct Steps {
    /// The id of the image, in full.
    pub(super) image: Option<String>,
    /// Its first digits.
    pub(super) short_id: Option<String>,
    /// `key=value` of the labels that the builder sets in steps of its own, which are the last.
    labels: Vec<String>,
    /// Names of build args that the Dockerfile need not declare.
    args: Vec<String>,
    fetching: Fetching,
    number: usize,
    instruction: String,
    is_cached: bool,
    /// The container of the step that runs.
    running: Option<String>,
    /// The step was added by mistry.
    is_hidden: bool,
}

impl Steps {
    /// Parses a build that sets these labels, and build args with these names that the Dockerfile need not
    /// declare.
    pub(super) fn new(labels: &BTreeMap<String, String>, optional_args: &[String]) -> Steps {
        let labels = labels.iter();
        Steps {
            image: None,
            short_id: None,
            labels: labels
                .map(|(key, value)| format!("{key}={value}"))
                .collect(),
            args: optional_args.to_vec(),
            fetching: Fetching::default(),
            number: 0,
            instruction: String::new(),
            is_cached: false,
            running: None,
            is_hidden: false,
        }
    }

    /// Whether the current step fetches an image.
    pub(super) fn fetching(&self) -> Fetching {
        self.fetching
    }

    /// Parses an item, and returns the progress to report.
    pub(super) fn take(&mut self, item: BuildInfo) -> Vec<Progress> {
        if let Some(id) = item.aux.and_then(|aux| aux.id) {
            self.image = Some(id);
        }
        let mut progress = Vec::new();
        if let Some(text) = item.stream {
            let mut shown = String::new();
            for line in text.split_inclusive('\n') {
                if let Some(line) = self.read(line, &mut progress) {
                    shown.push_str(&line);
                }
            }
            if !shown.is_empty() {
                progress.push(Progress::Text(Bytes::from(shown)));
            }
            return progress;
        }
        // Progress bars of a pull come many times a second and are for terminals.
        let is_bar = item
            .progress_detail
            .is_some_and(|bar| bar.current.is_some());
        if let (Some(status), false) = (item.status, is_bar) {
            progress.push(Progress::Text(Bytes::from(match item.id {
                Some(id) => format!("{id}: {status}\n"),
                None => format!("{status}\n"),
            })));
        }
        progress
    }

    /// Parses one line, or a piece of one, and returns the part that is shown.
    fn read(&mut self, text: &str, progress: &mut Vec<Progress>) -> Option<String> {
        let line = text.trim_end_matches(['\n', '\r']);
        let step = step(line);
        if let Some(container) = &self.running {
            let is_over = line.strip_suffix(container.as_str()).is_some_and(|words| {
                // The two messages are those of Engines before 23 and since.
                words == "Removing intermediate container "
                    || words == " ---> Removed intermediate container "
            });
            let is_next = step.is_some_and(|(number, _, _)| number == self.number + 1);
            if is_over || is_next {
                self.running = None;
            }
            if !is_next {
                return (!self.is_hidden).then(|| text.to_owned());
            }
        }
        if let Some((number, total, instruction)) = step {
            return self.begin(number, total, instruction, text);
        }
        if let Some(id) = line.strip_prefix("Successfully built ") {
            self.short_id = Some(id.trim().to_owned());
            self.is_hidden = false;
        } else if let Some(words) = line.strip_prefix(" ---> ") {
            let was_hidden = self.is_hidden;
            self.arrow(words, progress);
            return (!was_hidden).then(|| text.to_owned());
        } else if self.is_about_our_args(line) {
            return None;
        }
        (!self.is_hidden).then(|| text.to_owned())
    }

    fn begin(
        &mut self,
        number: usize,
        total: usize,
        instruction: &str,
        text: &str,
    ) -> Option<String> {
        self.number = number;
        instruction.clone_into(&mut self.instruction);
        self.is_cached = false;
        let mut words = instruction.split_whitespace();
        let word = words.next().unwrap_or_default().to_ascii_uppercase();
        self.fetching = match word.as_str() {
            "FROM" => Fetching::Base,
            "COPY" | "ADD" if words.any(|word| word.starts_with("--from=")) => Fetching::Source,
            _ => Fetching::Nothing,
        };
        if self.labels.is_empty() {
            return Some(text.to_owned());
        }
        // The author's step numbers do not include mistry's own steps, which are the last.
        let own = total.saturating_sub(self.labels.len());
        self.is_hidden = number > own && word == "LABEL" && {
            let label = instruction.get(word.len()..).unwrap_or_default();
            let label: String = label.trim().chars().filter(|c| *c != '"').collect();
            self.labels.contains(&label)
        };
        let shown = text.replacen(&format!("/{total} : "), &format!("/{own} : "), 1);
        (!self.is_hidden).then_some(shown)
    }

    /// Parses text after ` ---> `.
    fn arrow(&mut self, words: &str, progress: &mut Vec<Progress>) {
        if words == "Using cache" {
            self.is_cached = true;
        } else if let Some(container) = words.strip_prefix("Running in ") {
            if is_short_id(container) {
                self.running = Some(container.to_owned());
                progress.push(Progress::Container(container.to_owned()));
            }
        } else if words.is_empty() || is_short_id(words) {
            if self.fetching != Fetching::Base && !words.is_empty() {
                progress.push(Progress::Layer(Layer {
                    id: words.to_owned(),
                    instruction: std::mem::take(&mut self.instruction),
                    is_cached: self.is_cached,
                }));
            }
            self.fetching = Fetching::Nothing;
            self.is_hidden = false;
        }
    }

    /// True for the builder's message that the Dockerfile does not use args that mistry set.
    fn is_about_our_args(&self, line: &str) -> bool {
        let names = line
            .strip_prefix("[Warning] One or more build-args [")
            .and_then(|rest| rest.split_once(']'));
        names.is_some_and(|(names, _)| {
            let mut names = names.split_whitespace();
            names.all(|name| self.args.iter().any(|arg| arg == name))
        })
    }
}

/// Number, total and instruction of `Step 1/3 : FROM scratch`.
fn step(line: &str) -> Option<(usize, usize, &str)> {
    let (count, instruction) = line.strip_prefix("Step ")?.split_once(" : ")?;
    let (number, total) = count.split_once('/')?;
    let (number, total) = (number.parse().ok()?, total.parse().ok()?);
    (number >= 1 && number <= total).then_some((number, total, instruction))
}

fn is_short_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> Steps {
        let labels = [("mistry.context", "c0"), ("mistry.uid", "0")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Steps::new(&labels.into(), &["uid".to_owned()])
    }

    fn taken(steps: &mut Steps, pieces: &[&str]) -> (String, Vec<Progress>) {
        let (mut shown, mut rest) = (String::new(), Vec::new());
        for piece in pieces {
            let item = serde_json::json!({ "stream": piece });
            for progress in steps.take(serde_json::from_value(item).unwrap()) {
                match progress {
                    Progress::Text(text) => shown.push_str(std::str::from_utf8(&text).unwrap()),
                    progress => rest.push(progress),
                }
            }
        }
        (shown, rest)
    }

    fn layer(id: &str, instruction: &str, is_cached: bool) -> Progress {
        Progress::Layer(Layer {
            id: id.to_owned(),
            instruction: instruction.to_owned(),
            is_cached,
        })
    }

    const A: &str = "aaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbb";
    const C: &str = "cccccccccccc";

    #[test]
    fn layers_and_containers_are_reported_and_the_step_of_our_labels_is_hidden() {
        let (shown, rest) = taken(
            &mut steps(),
            &[
                "Step 1/5 : FROM scratch",
                "\n",
                " ---> \n",
                "Step 2/5 : COPY a /",
                "\n",
                " ---> Using cache\n",
                &format!(" ---> {A}\n"),
                "Step 3/5 : RUN true",
                "\n",
                &format!(" ---> Running in {C}\n"),
                "hello",
                &format!("Removing intermediate container {C}\n"),
                &format!(" ---> {B}\n"),
                "Step 4/5 : LABEL mistry.context=c0",
                "\n",
                " ---> Using cache\n",
                &format!(" ---> {A}\n"),
                "Step 5/5 : LABEL \"mistry.uid\"=\"0\"",
                "\n",
                &format!(" ---> Running in {A}\n"),
                &format!(" ---> Removed intermediate container {A}\n"),
                &format!(" ---> {C}\n"),
                "[Warning] One or more build-args [uid] were not consumed\n",
                &format!("Successfully built {C}\n"),
            ],
        );
        assert_eq!(
            shown,
            format!(
                "Step 1/3 : FROM scratch\n ---> \nStep 2/3 : COPY a /\n ---> Using cache\n ---> {A}\n\
                 Step 3/3 : RUN true\n ---> Running in {C}\nhello\
                 Removing intermediate container {C}\n ---> {B}\nSuccessfully built {C}\n"
            )
        );
        assert_eq!(
            rest,
            [
                layer(A, "COPY a /", true),
                Progress::Container(C.to_owned()),
                layer(B, "RUN true", false),
                layer(A, "LABEL mistry.context=c0", true),
                Progress::Container(A.to_owned()),
                layer(C, "LABEL \"mistry.uid\"=\"0\"", false),
            ]
        );
    }

    #[test]
    fn output_of_a_step_is_not_parsed_as_output_of_the_builder() {
        let mut steps = steps();
        let pieces = [
            "Step 1/2 : RUN cat log",
            "\n",
            &format!(" ---> Running in {A}\n"),
            &format!(" ---> {B}\n"),
            &format!(" ---> Running in {B}\n"),
            "Step 1/2 : FROM other\n",
            "[Warning] One or more build-args [uid] were not consumed\n",
        ];
        let (shown, rest) = taken(&mut steps, &pieces);
        assert_eq!(rest, [Progress::Container(A.to_owned())]);
        assert!(shown.ends_with(&pieces[3..].concat()), "{shown}");
        assert_eq!(steps.fetching(), Fetching::Nothing);
    }

    #[test]
    fn a_warning_about_other_args_is_shown() {
        let text = "[Warning] One or more build-args [uid other] were not consumed\n";
        assert_eq!(taken(&mut steps(), &[text]).0, text);
    }

    #[test]
    fn only_a_step_that_waits_for_an_image_counts_as_a_pull() {
        for (pieces, expected) in [
            (&[][..], Fetching::Nothing),
            (&["Step 1/2 : FROM bbox", "\n"], Fetching::Base),
            (&["Step 1/2 : from bbox AS one", "\n"], Fetching::Base),
            (
                &["Step 1/2 : FROM bbox", "\n", " ---> 04bde878d3aa\n"],
                Fetching::Nothing,
            ),
            (
                &["Step 1/2 : FROM bbox", "\n", "Step 2/2 : RUN false\n"],
                Fetching::Nothing,
            ),
            (
                &["Step 2/2 : COPY --from=tools /a /b", "\n"],
                Fetching::Source,
            ),
            (&["Step 2/2 : COPY /a /b", "\n"], Fetching::Nothing),
        ] {
            let mut steps = steps();
            taken(&mut steps, pieces);
            assert_eq!(steps.fetching(), expected, "{pieces:?}");
        }
    }

    #[test]
    fn progress_bars_of_a_pull_are_hidden_and_its_messages_are_shown() {
        let bar = r#"{"status":"Downloading","progressDetail":{"current":1,"total":9},"id":"a"}"#;
        let done = r#"{"status":"Pull complete","progressDetail":{},"id":"a"}"#;
        let shown = |json: &str| steps().take(serde_json::from_str(json).unwrap());
        assert_eq!(shown(bar), []);
        let text = Bytes::from("a: Pull complete\n");
        assert_eq!(shown(done), [Progress::Text(text)]);
    }

    #[test]
    fn the_id_is_the_last_one_that_the_builder_printed() {
        let mut steps = steps();
        for id in ["sha256:one", "sha256:two"] {
            let item = format!(r#"{{"aux":{{"ID":"{id}"}}}}"#);
            assert_eq!(steps.take(serde_json::from_str(&item).unwrap()), []);
        }
        assert_eq!(steps.image.unwrap(), "sha256:two");
    }
}
