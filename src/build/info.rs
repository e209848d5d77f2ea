//! A build as the daemon knows it.
//!
//! Values of opaque params never enter [`BuildInfo`]; while a build is pending they are stored in the
//! record's [`super::Bookkeeping`], which is written to disk and never sent to clients.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::{
    ArtifactTotals, BuildView, Excerpt, InputDigests, JobState, LogEnd, NO_DURATION, NO_EXIT_CODE,
};
use crate::job::{Cancelled, GroupName, Job, JobId, Outcome, Phase, Phases, State, Status};
use crate::project::{ProjectName, is_opaque_param};

/// Most bytes of log in an answer, and of standard error in a record: the size of a terminal's scrollback.
pub const LOG_TAIL: usize = 64 << 10;

/// Most bytes of one param's value in a list: enough to recognise it.
const MAX_LISTED_VALUE: usize = 256;
/// Most bytes of all values of one build in a list.
const MAX_LISTED_PARAMS: usize = 16 << 10;

/// The group of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildGroup {
    /// It has none.
    None,
    /// Its group.
    Named(GroupName),
    /// A name that breaks the rule, in a record of the first mistry: it is shown, and no build begins from it.
    Foreign(String),
}

impl BuildGroup {
    fn read(name: String) -> BuildGroup {
        match name.parse() {
            _ if name.is_empty() => BuildGroup::None,
            Ok(name) => BuildGroup::Named(name),
            Err(_) => BuildGroup::Foreign(name),
        }
    }

    /// The group, if it has one that builds may begin from.
    pub fn name(&self) -> Option<&GroupName> {
        match self {
            BuildGroup::Named(name) => Some(name),
            BuildGroup::None | BuildGroup::Foreign(_) => None,
        }
    }
}

impl From<Option<GroupName>> for BuildGroup {
    fn from(name: Option<GroupName>) -> BuildGroup {
        name.map_or(BuildGroup::None, BuildGroup::Named)
    }
}

/// All information about a build that clients may see, without its log.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildInfo {
    /// Its project.
    pub project: ProjectName,
    /// The id of its job.
    pub id: JobId,
    /// Its group.
    pub group: BuildGroup,
    /// Param values by name; `None` for opaque params.
    pub params: BTreeMap<String, Option<Arc<str>>>,
    /// The digest of the project's files.
    pub context: String,
    /// The absolute path of the artifacts once the build is ready.
    pub path: String,
    /// What it is doing, or how it ended.
    pub status: Status,
    /// The build started as a clone of its group's latest build.
    pub incremental: bool,
    /// The build that it was cloned from.
    pub base: Option<JobId>,
    /// A cold build was requested.
    pub cold: bool,
    /// Remarks about a build that is over.
    pub warnings: Vec<String>,
    /// What it left; `None` until it was measured.
    pub artifacts: Option<ArtifactTotals>,
    /// The container's exit code.
    pub exit_code: Option<i64>,
    /// The kernel killed a process of the build because memory ran out, whatever the exit code is.
    pub oom_killed: bool,
    /// A process of the build could not be started, because the limit `limits.pids` was reached.
    pub pids_limit_reached: bool,
    /// Why the build could not be run to its end, in one sentence.
    pub error: Option<String>,
    /// The end of standard error; only for failed builds.
    pub stderr: Option<Arc<str>>,
    /// When the job was accepted.
    pub queued_at: Option<Timestamp>,
    /// When the build started; while it is queued, when it was accepted.
    pub started_at: Timestamp,
    /// Time of the end.
    pub finished_at: Option<Timestamp>,
    /// From start to end.
    pub duration: Option<Duration>,
    /// The duration of each phase.
    pub phases: Phases,
    /// How often a container was made for this attempt, from 1: a lost container is replaced, which is a
    /// container retry.
    pub container_tries: u32,
    /// Which attempt of its job this is, from 1.
    pub number: u32,
    /// The highest number of its job so far.
    pub numbers: u32,
    /// Executions of its job that are kept have both succeeded and failed.
    pub flaky: bool,
    /// The image's id.
    pub image: Option<String>,
    /// The id of the last container, which is removed when the build is finished.
    pub container: Option<String>,
    /// The client that requested it first: `token NAME`, `uid N`, or an address.
    pub asked_by: Option<String>,
    /// How many further requests joined it while it was pending.
    pub joined: u32,
    /// Its cancellation.
    pub cancelled: Option<Cancelled>,
    /// It is pending, and its early end was decided: a client has cancelled it, or it took too long.
    pub stopping: bool,
    /// The end of the log, for a build that did not succeed.
    pub excerpt: Option<Arc<Excerpt>>,
    /// The byte of the log at which the output of the last container begins.
    pub log_runs_from: Option<u64>,
}

impl BuildInfo {
    /// The info of a job that is accepted at `now`; `path` is where its artifacts will be.
    pub fn accepted(job: &Job, id: JobId, path: String, now: Timestamp) -> BuildInfo {
        let shown = job.params.iter();
        let shown = shown.map(|(name, value)| {
            let value = (!name.is_opaque()).then(|| value.clone());
            (name.to_string(), value)
        });
        BuildInfo {
            project: job.project.clone(),
            id,
            group: job.group.clone().into(),
            params: shown.collect(),
            context: job.context.to_string(),
            path,
            status: Status::Pending(Phase::Queued),
            incremental: false,
            base: None,
            cold: false,
            warnings: Vec::new(),
            artifacts: None,
            exit_code: None,
            oom_killed: false,
            pids_limit_reached: false,
            error: None,
            stderr: None,
            queued_at: Some(now),
            started_at: now,
            finished_at: None,
            duration: None,
            phases: Phases::default(),
            container_tries: 1,
            number: 1,
            numbers: 1,
            flaky: false,
            image: None,
            container: None,
            asked_by: None,
            joined: 0,
            cancelled: None,
            stopping: false,
            excerpt: None,
            log_runs_from: None,
        }
    }

    /// The info that a document holds, whose place says the project, the id, the state and the `path` of the
    /// artifacts. Fields that documents of the first mistry lack are derived, and opaque values that they hold
    /// are dropped.
    pub(super) fn of_view(
        mut view: BuildView,
        project: &ProjectName,
        id: JobId,
        state: State,
        path: String,
    ) -> BuildInfo {
        let status = match state {
            // A finished build that is not in its place yet.
            State::Pending if view.state == State::Ready => Status::Pending(Phase::Finishing),
            State::Pending => Status::Pending(view.phase.unwrap_or(Phase::Preparing)),
            State::Ready => {
                view.complete_outcome();
                Status::Ready(view.outcome.unwrap_or(Outcome::Errored))
            }
        };
        for (name, value) in &mut view.params {
            if is_opaque_param(name) {
                *value = None;
            }
        }
        let is_error = !view.err_build.is_empty();
        BuildInfo {
            project: project.clone(),
            id,
            group: BuildGroup::read(view.group),
            params: view.params,
            context: view.inputs.context,
            path,
            status,
            incremental: view.incremental,
            base: view.base.and_then(|base| base.parse().ok()),
            cold: view.cold,
            warnings: view.warnings,
            artifacts: view.artifacts,
            exit_code: (view.exit_code != NO_EXIT_CODE).then_some(view.exit_code),
            oom_killed: view.oom_killed,
            pids_limit_reached: view.pids_limit_reached,
            error: view.err.or(is_error.then_some(view.err_build)),
            stderr: view.container_stderr,
            queued_at: view.queued_at,
            started_at: view.started_at,
            finished_at: view.finished_at,
            duration: u64::try_from(view.duration).ok().map(Duration::from_nanos),
            phases: view.phases,
            container_tries: view.attempt,
            number: view.number,
            // A record of an earlier version has neither.
            numbers: view.numbers.max(view.number),
            flaky: view.flaky,
            image: view.image,
            container: view.container,
            asked_by: view.asked_by,
            joined: view.joined,
            cancelled: view.cancelled,
            stopping: view.stopping && state == State::Pending,
            excerpt: view.excerpt,
            log_runs_from: view.log_runs_from,
        }
    }

    /// Its document for clients and for the record, without its log.
    pub fn view(&self) -> BuildView {
        let nanoseconds = |duration: Duration| i64::try_from(duration.as_nanos());
        BuildView {
            params: self.params.clone(),
            group: self.group_name().to_owned(),
            path: self.path.clone(),
            incremental: self.incremental,
            exit_code: self.exit_code.unwrap_or(NO_EXIT_CODE),
            oom_killed: self.oom_killed,
            pids_limit_reached: self.pids_limit_reached,
            err: self.error.clone(),
            err_build: self.error.clone().unwrap_or_default(),
            container_stderr: self.stderr.clone(),
            started_at: self.started_at,
            duration: self.duration.map_or(NO_DURATION, |duration| {
                nanoseconds(duration).unwrap_or(i64::MAX)
            }),
            url: self.url(),
            id: self.id.to_string(),
            project: self.project.to_string(),
            state: self.state(),
            phase: self.phase(),
            outcome: self.outcome(),
            attempt: self.container_tries,
            number: self.number,
            numbers: self.numbers,
            flaky: self.flaky,
            queued_at: self.queued_at,
            finished_at: self.finished_at,
            phases: self.phases,
            image: self.image.clone(),
            container: self.container.clone(),
            base: self.base.map(|base| base.to_string()),
            cold: self.cold,
            warnings: self.warnings.clone(),
            artifacts: self.artifacts,
            asked_by: self.asked_by.clone(),
            joined: self.joined,
            cancelled: self.cancelled.clone(),
            stopping: self.is_stopping(),
            inputs: InputDigests {
                context: self.context.clone(),
            },
            excerpt: self.excerpt.clone(),
            log_runs_from: self.log_runs_from,
            // Of an answer alone. All fields stand here, so that the compiler tells which was forgotten.
            cached: false,
            coalesced: false,
            container_stdouterr: None,
            transport_method: "rsync".to_owned(),
        }
    }

    /// Resets what a try with a container sets: the job is queued again since `now`.
    pub(super) fn forget_container_try(&mut self, now: Timestamp) {
        // Without `..`, so that each new field is considered here.
        let BuildInfo {
            project: _,
            id: _,
            group: _,
            params: _,
            context: _,
            path: _,
            queued_at: _,
            cold: _,
            container_tries: _,
            number: _,
            numbers: _,
            flaky: _,
            image: _,
            asked_by: _,
            joined: _,
            cancelled: _,
            stopping: _,
            status,
            incremental,
            base,
            warnings,
            artifacts,
            exit_code,
            oom_killed,
            pids_limit_reached,
            error,
            stderr,
            started_at,
            finished_at,
            duration,
            phases,
            container,
            excerpt,
            log_runs_from,
        } = self;
        *status = Status::Pending(Phase::Queued);
        (*incremental, *base) = (false, None);
        warnings.clear();
        *artifacts = None;
        (*exit_code, *oom_killed, *pids_limit_reached) = (None, false, false);
        (*error, *stderr) = (None, None);
        (*started_at, *finished_at, *duration) = (now, None, None);
        (*phases, *container) = (Phases::default(), None);
        (*excerpt, *log_runs_from) = (None, None);
    }

    /// The state of its job, of which `ahead` wait in front of it.
    pub fn job_state(&self, ahead: Option<usize>) -> JobState {
        JobState {
            id: self.id.to_string(),
            project: self.project.to_string(),
            state: self.state(),
            phase: self.phase(),
            stopping: self.is_stopping(),
            ahead,
            url: self.url(),
            coalesced: false,
        }
    }

    /// It is pending, and its early end was decided.
    pub fn is_stopping(&self) -> bool {
        self.stopping && self.state() == State::Pending
    }

    /// The end of its log.
    pub fn log_end(&self) -> LogEnd {
        LogEnd {
            state: self.state(),
            outcome: self.outcome(),
            exit_code: self.exit_code.unwrap_or(NO_EXIT_CODE),
        }
    }

    /// `job/P/ID`, relative to the server.
    fn url(&self) -> String {
        format!("job/{}/{}", self.project, self.id)
    }

    /// Its group, or "".
    pub fn group_name(&self) -> &str {
        match &self.group {
            BuildGroup::None => "",
            BuildGroup::Named(name) => name.as_str(),
            BuildGroup::Foreign(name) => name,
        }
    }

    /// Pending or ready.
    pub fn state(&self) -> State {
        self.status.state()
    }

    /// What it is doing; `None` once it is ready.
    pub fn phase(&self) -> Option<Phase> {
        self.status.phase()
    }

    /// How it ended; `None` while it is pending.
    pub fn outcome(&self) -> Option<Outcome> {
        self.status.outcome()
    }

    /// True when the result may be served from the cache and be a base.
    pub fn succeeded(&self) -> bool {
        self.status == Status::Ready(Outcome::Succeeded)
    }

    /// Removes the output and cuts long params, for lists: a page of a thousand builds must stay small even
    /// when lock files are among their params.
    pub fn abridge(&mut self) {
        (self.stderr, self.excerpt) = (None, None);
        let mut left = MAX_LISTED_PARAMS;
        for value in self.params.values_mut().flatten() {
            // Counted as JSON, where a control character takes six bytes.
            let most = MAX_LISTED_VALUE.min(left);
            let mut bytes = 0;
            let cut = value.char_indices().find(|(_, letter)| {
                bytes += letter_in_json(*letter);
                bytes > most
            });
            if let Some((at, _)) = cut {
                *value = format!("{}…", &value[..at]).into();
            }
            left = left.saturating_sub(bytes);
        }
    }
}

/// Bytes of a character in a JSON string, where some control characters take six.
fn letter_in_json(letter: char) -> usize {
    match letter {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..' ' => 6,
        letter => letter.len_utf8(),
    }
}

/// Bytes of a text as a JSON string.
pub(super) fn in_json(text: &str) -> usize {
    text.chars().map(letter_in_json).sum::<usize>() + 2
}

#[cfg(test)]
impl BuildInfo {
    /// A job that was just accepted, for tests.
    pub(crate) fn example() -> BuildInfo {
        let job = Job {
            project: "hello".parse().unwrap(),
            group: None,
            params: crate::job::Params::new(),
            context: crate::project::Digest::of(b""),
        };
        BuildInfo::accepted(&job, JobId::FIRST, String::new(), Timestamp::UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ExcerptLine, ExcerptPart};

    fn id() -> JobId {
        "0123456789abcdef".repeat(4).parse().unwrap()
    }

    fn read(text: &str, state: State) -> BuildInfo {
        let view = serde_json::from_str(text).unwrap();
        BuildInfo::of_view(view, &"p".parse().unwrap(), id(), state, "/new".to_owned())
    }

    #[test]
    fn the_document_matches_the_golden_file() {
        let job = Job {
            project: "yarn".parse().unwrap(),
            group: Some("main".parse().unwrap()),
            params: [("lock", "x"), ("_token", "secret")]
                .map(|(n, v)| (n.parse().unwrap(), v.into()))
                .into(),
            context: crate::project::Digest::of(b""),
        };
        let now = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let path = "/b/yarn/ready/x/data/artifacts";
        let mut view = BuildInfo::accepted(&job, id(), path.to_owned(), now).view();
        view.container_stdouterr = Some("hello\n".into());
        let text = serde_json::to_string_pretty(&view).unwrap();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/build/info.golden.json");
        if std::env::var_os("MISTRY_BLESS").is_some() {
            std::fs::write(golden, format!("{text}\n")).unwrap();
        }
        assert!(
            std::fs::read_to_string(golden).unwrap().trim_end() == text,
            "src/build/info.golden.json is not what a build is written as: `MISTRY_BLESS=1 cargo test --locked --lib golden` writes it anew; `git diff` says what clients will see"
        );
        assert_eq!(serde_json::from_str::<BuildView>(&text).unwrap(), view);
        assert!(!text.contains("secret"));
    }

    #[test]
    fn a_document_survives_a_round_trip_through_json() {
        let mut info = BuildInfo::example();
        info.group = BuildGroup::Named("g/x".parse().unwrap());
        info.status = Status::Ready(Outcome::Failed);
        info.exit_code = Some(3);
        info.duration = Some(Duration::from_nanos(41_000_000_001));
        info.finished_at = Some(Timestamp::from_second(41).unwrap());
        info.base = Some(id());
        info.error = Some("it is full".to_owned());
        info.stderr = Some("end".into());
        info.cold = true;
        info.warnings = vec!["it left nothing".to_owned()];
        info.artifacts = Some(ArtifactTotals { files: 2, bytes: 3 });
        info.excerpt = Some(Arc::new(Excerpt {
            part: ExcerptPart::Run,
            from: 7,
            lines: vec![ExcerptLine {
                text: "end".to_owned(),
                stderr: true,
                skipped: 0,
            }],
        }));
        info.log_runs_from = Some(3);
        for status in [info.status, Status::Pending(Phase::Imaging)] {
            info.status = status;
            let (project, path) = (info.project.clone(), info.path.clone());
            let again = BuildInfo::of_view(info.view(), &project, info.id, info.state(), path);
            assert_eq!(again, info);
        }
    }

    #[test]
    fn a_list_shows_only_the_beginning_of_long_params() {
        let mut info = BuildInfo::example();
        for n in 0..1_000 {
            info.params
                .insert(n.to_string(), Some("é".repeat(10_000).into()));
        }
        info.params.insert("short".to_owned(), Some("x".into()));
        info.abridge();
        let values = info.params.values().flatten();
        let bytes: usize = values.map(|value| value.len()).sum();
        assert!(bytes < MAX_LISTED_PARAMS + 4_096, "{bytes}");
        assert!(info.params["0"].as_ref().unwrap().starts_with("éé"));
    }

    #[test]
    fn a_record_of_the_first_mistry_is_understood() {
        let text = r#"{"Params":{"a":"b","_s":"secret"},"Group":"g","Path":"/old","Cached":false,
            "Coalesced":false,"Incremental":true,"ExitCode":0,"ErrBuild":"","TransportMethod":"rsync",
            "StartedAt":"2019-03-04T12:13:14.123456789+02:00","Duration":41000000000,"URL":"job/p/x"}"#;
        let info = read(text, State::Ready);
        assert!(info.succeeded());
        assert_eq!(info.params["_s"], None);
        assert_eq!(info.path, "/new");
        assert_eq!(
            info.started_at.to_string(),
            "2019-03-04T10:13:14.123456789Z"
        );
        for (text, outcome) in [
            (
                r#"{"Params":null,"ExitCode":-999,"ErrBuild":"work: x"}"#,
                Outcome::Errored,
            ),
            (r#"{"ExitCode":3}"#, Outcome::Failed),
            (r#"{"ExitCode":0,"ErrBuild":"x"}"#, Outcome::Errored),
        ] {
            let info = read(text, State::Ready);
            assert_eq!(info.outcome(), Some(outcome), "{text}");
        }
    }

    #[test]
    fn a_group_of_the_first_mistry_that_breaks_the_rule_keeps_its_name() {
        let info = read(r#"{"Group":"a\nb"}"#, State::Ready);
        assert_eq!(info.group, BuildGroup::Foreign("a\nb".to_owned()));
        assert_eq!(info.group_name(), "a\nb");
        assert_eq!(info.view().group, "a\nb");
    }

    #[test]
    fn a_finished_build_that_is_not_in_place_is_in_phase_finishing() {
        let text = r#"{"State":"ready","Outcome":"succeeded","ExitCode":0}"#;
        let info = read(text, State::Pending);
        assert_eq!(info.status, Status::Pending(Phase::Finishing));
    }

    #[test]
    fn the_json_length_of_a_text_is_computed_exactly() {
        let control: String = ('\0'..='\u{80}').collect();
        for text in ["", "é\"\\/", &control] {
            assert_eq!(in_json(text), serde_json::to_string(text).unwrap().len());
        }
    }
}
