//! The document of a build, as clients read it and as `build_info.json` holds it.
//!
//! Field names are those of the first mistry, so that its client and its users' scripts can still read them;
//! newer fields are added beside them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::job::{Cancelled, Outcome, Phase, Phases, State};

/// The exit code of a build that has none or has none yet.
pub const NO_EXIT_CODE: i64 = -999;
/// The duration of an unfinished build: minus one second, as the first mistry wrote it.
pub const NO_DURATION: i64 = -1_000_000_000;

/// The digests that entered the job id, so that the differences to a later job can be listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase", default)]
pub struct InputDigests {
    /// The digest of the context.
    pub context: String,
}

/// What a build left in `/data/artifacts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase", default)]
pub struct ArtifactTotals {
    /// Entries that clients fetch and that are no directories: files and links.
    pub files: u64,
    /// The sum of the sizes of the files.
    pub bytes: u64,
}

/// Most lines of an excerpt.
pub const MAX_EXCERPT_LINES: usize = 40;

/// The part of a build's log that an excerpt is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ExcerptPart {
    /// The output of the image build, which did not succeed.
    Image,
    /// The output of the container.
    Run,
}

/// The end of the log of a build that did not succeed, and of each of its two streams, as it was written: at most
/// 40 lines and 16 KiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct Excerpt {
    /// Whose output it is the end of.
    pub part: ExcerptPart,
    /// The byte of the log at which its first line begins, as it is shown.
    pub from: u64,
    /// Its lines, in the order of the log.
    #[cfg_attr(test, schemars(length(max = MAX_EXCERPT_LINES)))]
    pub lines: Vec<ExcerptLine>,
}

/// A line of an excerpt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct ExcerptLine {
    /// Its text, without its line end; a long one is cut, which `[… N bytes …]` shows.
    pub text: String,
    /// All of it was written to standard error.
    pub stderr: bool,
    /// Lines of the log between the one before and this one, which are left out.
    #[serde(default)]
    pub skipped: u64,
}

/// A build as clients see it: `BuildInfo` of `GET /job/P/ID`, the answer of `POST /jobs`, and the public part of
/// `build_info.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "BuildInfo"))]
#[serde(rename_all = "PascalCase", default)]
pub struct BuildView {
    /// Param values by name; null for opaque params.
    #[serde(deserialize_with = "shown_params")]
    pub params: BTreeMap<String, Option<Arc<str>>>,
    /// The group, or "".
    pub group: String,
    /// The absolute path of the artifacts once the build is ready.
    pub path: String,
    /// The answer came from a ready build.
    pub cached: bool,
    /// The answer came from a build that another client had already requested.
    pub coalesced: bool,
    /// The build started as a clone of its group's latest build.
    pub incremental: bool,
    /// The container's exit code, or -999.
    pub exit_code: i64,
    /// The kernel killed a process of the build because memory ran out, whatever the exit code is.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// A process of the build could not be started, because the limit `limits.pids` was reached.
    pub pids_limit_reached: bool,
    /// Why the build could not be run to its end, in one sentence.
    pub err: Option<String>,
    /// Same as `err`, "" for none.
    pub err_build: String,
    /// The end of the log; only in answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub container_stdouterr: Option<Arc<str>>,
    /// The end of standard error; only for failed builds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub container_stderr: Option<Arc<str>>,
    /// Always "rsync", for compatibility.
    #[cfg_attr(test, schemars(extend("enum" = ["rsync"])))]
    pub transport_method: String,
    /// When the build started; while it is queued, when it was accepted.
    pub started_at: Timestamp,
    /// Nanoseconds from start to end, or -1000000000.
    pub duration: i64,
    /// `job/P/ID`.
    #[serde(rename = "URL")]
    pub url: String,
    /// The job's id.
    #[serde(rename = "ID")]
    pub id: String,
    /// The project's name.
    pub project: String,
    /// Pending or ready.
    pub state: State,
    /// The current phase while pending.
    pub phase: Option<Phase>,
    /// The outcome, once ready.
    pub outcome: Option<Outcome>,
    /// How often this attempt was begun, from 1: it is begun again if its container is lost. Not its number.
    pub attempt: u32,
    /// Which attempt at its job this is, from 1: "attempt n of m".
    pub number: u32,
    /// The highest number of its job so far.
    pub numbers: u32,
    /// Attempts at this job that are kept have both succeeded and failed.
    pub flaky: bool,
    /// When the job was accepted.
    pub queued_at: Option<Timestamp>,
    /// Time of the end.
    pub finished_at: Option<Timestamp>,
    /// The duration of each phase.
    pub phases: Phases,
    /// The image's id.
    pub image: Option<String>,
    /// The id of its container (the last one, if it was begun again), which is removed when the build is finished.
    pub container: Option<String>,
    /// The build that it was cloned from: an id of the same project.
    pub base: Option<String>,
    /// A cold build was requested: it started empty, whatever the group's base was.
    pub cold: bool,
    /// Warnings about a build that is over, one sentence each.
    pub warnings: Vec<String>,
    /// What it left; null until it was measured, some time after its end.
    pub artifacts: Option<ArtifactTotals>,
    /// The client that requested it first: `token NAME`, `uid N`, or an address.
    pub asked_by: Option<String>,
    /// How many further requests joined it while it was pending.
    pub joined: u32,
    /// Its cancellation.
    pub cancelled: Option<Cancelled>,
    /// It is pending and is being stopped: a client has cancelled it, or it took too long.
    pub stopping: bool,
    /// Digests of the job's inputs.
    pub inputs: InputDigests,
    /// The end of the log of a build that did not succeed, once it is over; not in lists.
    pub excerpt: Option<Arc<Excerpt>>,
    /// The byte of the log at which the output of its last container begins; null if it never ran.
    pub log_runs_from: Option<u64>,
}

impl Default for BuildView {
    fn default() -> BuildView {
        BuildView {
            params: BTreeMap::new(),
            group: String::new(),
            path: String::new(),
            cached: false,
            coalesced: false,
            incremental: false,
            exit_code: NO_EXIT_CODE,
            oom_killed: false,
            pids_limit_reached: false,
            err: None,
            err_build: String::new(),
            container_stdouterr: None,
            container_stderr: None,
            transport_method: "rsync".to_owned(),
            started_at: Timestamp::UNIX_EPOCH,
            duration: NO_DURATION,
            url: String::new(),
            id: String::new(),
            project: String::new(),
            state: State::Pending,
            phase: None,
            outcome: None,
            attempt: 1,
            number: 1,
            numbers: 1,
            flaky: false,
            queued_at: None,
            finished_at: None,
            phases: Phases::default(),
            image: None,
            container: None,
            base: None,
            cold: false,
            warnings: Vec::new(),
            artifacts: None,
            asked_by: None,
            joined: 0,
            cancelled: None,
            stopping: false,
            inputs: InputDigests::default(),
            excerpt: None,
            log_runs_from: None,
        }
    }
}

impl BuildView {
    /// True when it has ended and its artifacts may be used.
    pub fn succeeded(&self) -> bool {
        self.outcome == Some(Outcome::Succeeded)
    }

    /// Sets the outcome of a ready build where it is missing: the first mistry stored an exit code and an error
    /// only.
    pub fn complete_outcome(&mut self) {
        self.outcome
            .get_or_insert(match (self.exit_code, self.err_build.as_str()) {
                (0, "") => Outcome::Succeeded,
                (NO_EXIT_CODE | 0, _) => Outcome::Errored,
                _ => Outcome::Failed,
            });
    }
}

/// The first mistry wrote null for no params.
fn shown_params<'de, D: Deserializer<'de>>(
    input: D,
) -> Result<BTreeMap<String, Option<Arc<str>>>, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}
