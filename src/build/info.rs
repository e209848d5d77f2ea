//! The record of a build: what `build_info.json` holds and what `POST /jobs` answers.
//!
//! Field names are those of the first mistry, so that its client and its users' scripts can still read them;
//! newer fields are added beside them. Records that the first mistry wrote are read, too: missing fields are
//! derived from the record's path ([`BuildInfo::complete`]).
//!
//! Values of opaque params never enter [`BuildInfo`]; while a build is pending they are stored in the
//! record's [`Bookkeeping`], which is written to disk and never sent to clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::job::{Cancelled, Job, JobId, Outcome, Params, Phase, Phases, State};
use crate::project::ProjectName;

/// The exit code of a build that has none or has none yet.
pub const NO_EXIT_CODE: i64 = -999;
/// The duration of an unfinished build: minus one second, as the first mistry wrote it.
pub const NO_DURATION: i64 = -1_000_000_000;
/// Most bytes of log in an answer, and of standard error in a record: the size of a terminal's scrollback.
pub const LOG_TAIL: usize = 64 << 10;

/// Most bytes of one param's value in a list: enough to recognise it.
const MAX_LISTED_VALUE: usize = 256;
/// Most bytes of all values of one build in a list.
const MAX_LISTED_PARAMS: usize = 16 << 10;

/// The digests that entered the job id, so that the differences to a later job can be listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Inputs {
    /// The digest of the context.
    pub context: String,
}

/// All information about a build that clients may see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BuildInfo {
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
    pub container_stdouterr: Option<String>,
    /// The end of standard error; only for failed builds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_stderr: Option<String>,
    /// Always "rsync", for compatibility.
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
    /// Which execution of the job this is, from 1.
    pub attempt: u32,
    /// When the job was accepted.
    pub queued_at: Option<Timestamp>,
    /// Time of the end.
    pub finished_at: Option<Timestamp>,
    /// The duration of each phase.
    pub phases: Phases,
    /// The image's id.
    pub image: Option<String>,
    /// The id of the last attempt's container, which is removed when the build is finished.
    pub container: Option<String>,
    /// The build that it was cloned from: an id of the same project.
    pub base: Option<String>,
    /// The client that requested it first: `token NAME`, `uid N`, or an address.
    pub asked_by: Option<String>,
    /// How many further requests joined it while it was pending.
    pub joined: u32,
    /// Its cancellation.
    pub cancelled: Option<Cancelled>,
    /// Digests of the job's inputs.
    pub inputs: Inputs,
}

impl Default for BuildInfo {
    fn default() -> BuildInfo {
        BuildInfo {
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
            queued_at: None,
            finished_at: None,
            phases: Phases::default(),
            image: None,
            container: None,
            base: None,
            asked_by: None,
            joined: 0,
            cancelled: None,
            inputs: Inputs::default(),
        }
    }
}

impl BuildInfo {
    /// The info of a job that is accepted at `now`; `path` is where its artifacts will be.
    pub fn accepted(job: &Job, id: JobId, path: String, now: Timestamp) -> BuildInfo {
        BuildInfo {
            params: job
                .params
                .iter()
                .map(|(name, value)| (name.to_string(), (!name.is_opaque()).then(|| value.clone())))
                .collect(),
            group: job
                .group
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            path,
            started_at: now,
            url: format!("job/{}/{id}", job.project),
            id: id.to_string(),
            project: job.project.to_string(),
            phase: Some(Phase::Queued),
            queued_at: Some(now),
            inputs: Inputs {
                context: job.context.to_string(),
            },
            ..BuildInfo::default()
        }
    }

    /// True when the result may be served from the cache and be a base.
    pub fn succeeded(&self) -> bool {
        self.outcome == Some(Outcome::Succeeded)
    }

    /// Removes logs and cuts long params, for lists: a page of a thousand builds must stay small even when
    /// lock files are among their params.
    pub fn abridge(&mut self) {
        self.container_stdouterr = None;
        self.container_stderr = None;
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

    /// Sets the error in both spellings.
    pub fn set_error(&mut self, sentence: String) {
        self.err_build.clone_from(&sentence);
        self.err = Some(sentence);
    }

    /// Fills in fields that a record of the first mistry lacks and its path gives, and hides the opaque
    /// values that it stored.
    pub(super) fn complete(
        &mut self,
        project: &ProjectName,
        id: JobId,
        state: State,
        path: String,
    ) {
        self.id = id.to_string();
        self.project = project.to_string();
        self.url = format!("job/{project}/{id}");
        self.path = path;
        self.state = state;
        if state == State::Ready {
            self.phase = None;
            self.outcome
                .get_or_insert(match (self.exit_code, self.err_build.as_str()) {
                    (0, "") => Outcome::Succeeded,
                    (NO_EXIT_CODE, _) | (0, _) => Outcome::Errored,
                    _ => Outcome::Failed,
                });
        }
        if self.err.is_none() && !self.err_build.is_empty() {
            self.err = Some(self.err_build.clone());
        }
        for (name, value) in &mut self.params {
            if name.starts_with('_') {
                *value = None;
            }
        }
    }
}

/// The time and log limits of a build, as they were when its container was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BuildLimits {
    /// Most milliseconds that it may run.
    pub job_timeout: Option<u64>,
    /// Most milliseconds without output.
    pub silence_timeout: Option<u64>,
    /// Most bytes of its log; 0 in records without the field.
    pub log_limit: u64,
}

/// The decision to stop a build, recorded before its container is stopped: no later process decides
/// otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Stopped {
    /// The outcome.
    pub outcome: Outcome,
    /// The reason, in one sentence.
    pub sentence: String,
    /// The cancellation, where it was requested.
    pub cancelled: Option<Cancelled>,
}

/// The daemon's internal part of the record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Bookkeeping {
    /// All files of the build are on stable storage.
    pub durable: bool,
    /// The boot in which it was written: a build that is not durable and of another boot is absent.
    pub boot: String,
    /// The latest end of its container.
    pub deadline: Option<Timestamp>,
    /// Limits of the build.
    #[serde(rename = "Bounds")]
    pub limits: BuildLimits,
    /// Set when the build is stopped before its end.
    pub stopped: Option<Stopped>,
    /// When its container was started.
    pub running_since: Option<Timestamp>,
    /// The host's uptime at that time, in milliseconds; see [`super::Since`].
    pub running_uptime: Option<i64>,
    /// The host's uptime when the build was started, in milliseconds.
    pub started_uptime: Option<i64>,
    /// The bytes of `out.log` that precede the container's own output.
    pub log_offset: u64,
    /// The container of this attempt.
    pub container: Option<String>,
    /// The order of builds that can replace each other: a later one has a larger number; 0 in records without
    /// the field.
    pub number: u64,
    /// The `uid:gid` that owns its files; `None` in records without the field.
    pub user: Option<String>,
    /// Attempts that lost their container.
    pub lost: u32,
    /// A new image was requested.
    pub rebuild: bool,
    /// Values of opaque params; empty once the build is finished.
    pub opaque: BTreeMap<String, Arc<str>>,
    /// The inode of the file of each opaque param; empty once the build is finished.
    pub opaque_inodes: BTreeMap<String, u64>,
    /// Bytes of all blocks of `data` and the log, once they are on stable storage; `None` where they
    /// could not be counted.
    pub bytes: Option<u64>,
    /// Blocks among them that no other build shared at that time.
    pub own: Option<u64>,
    /// Digest of each file of the context, at most [`MAX_INPUT_FILES`].
    pub files: BTreeMap<String, String>,
    /// Digest of the target of each symbolic link of the context; `None` in records without the field.
    pub links: Option<BTreeMap<String, String>>,
    /// Both lists are stored in `inputs.json`, since they are too long.
    pub has_inputs: bool,
    /// No file that the build or its bases left is newer, as far as clocks tell, including files written
    /// while the clock was ahead. `None` in records without the field.
    pub built_until: Option<Timestamp>,
}

/// Most input files that a record lists, so that it stays small enough to open.
pub const MAX_INPUT_FILES: usize = 2_000;

/// `build_info.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The public part.
    #[serde(flatten)]
    pub info: BuildInfo,
    /// The rest.
    #[serde(rename = "Bookkeeping", default)]
    pub internal: Bookkeeping,
}

impl Record {
    /// The requested params, including opaque ones; `None` when the record of a previous process lacks them.
    pub fn params(&self) -> Option<Params> {
        self.info
            .params
            .iter()
            .map(|(name, value)| {
                let value = value.as_ref().or_else(|| self.internal.opaque.get(name))?;
                Some((name.parse().ok()?, value.clone()))
            })
            .collect()
    }
}

/// The first mistry wrote null for no params.
fn shown_params<'de, D: Deserializer<'de>>(
    input: D,
) -> Result<BTreeMap<String, Option<Arc<str>>>, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
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
mod tests {
    use super::*;

    fn id() -> JobId {
        "0123456789abcdef".repeat(4).parse().unwrap()
    }

    #[test]
    fn the_record_is_golden() {
        let job = Job {
            project: "yarn".parse().unwrap(),
            group: Some("main".parse().unwrap()),
            params: [("lock", "x"), ("_token", "secret")]
                .map(|(n, v)| (n.parse().unwrap(), v.into()))
                .into(),
            context: crate::project::Digest::of(b""),
        };
        let now = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let mut info =
            BuildInfo::accepted(&job, id(), "/b/yarn/ready/x/data/artifacts".to_owned(), now);
        info.container_stdouterr = Some("hello\n".to_owned());
        let text = serde_json::to_string_pretty(&info).unwrap();
        assert_eq!(text, include_str!("info.golden.json").trim_end());
        assert_eq!(serde_json::from_str::<BuildInfo>(&text).unwrap(), info);
        assert!(!text.contains("secret"));
    }

    #[test]
    fn a_list_shows_only_the_beginning_of_long_params() {
        let mut info = BuildInfo::default();
        for n in 0..1_000 {
            info.params
                .insert(n.to_string(), Some("é".repeat(10_000).into()));
        }
        info.params.insert("short".to_owned(), Some("x".into()));
        info.abridge();
        let bytes: usize = info
            .params
            .values()
            .flatten()
            .map(|value| value.len())
            .sum();
        assert!(bytes < MAX_LISTED_PARAMS + 4_096, "{bytes}");
        assert!(info.params["0"].as_ref().unwrap().starts_with("éé"));
    }

    #[test]
    fn a_record_of_the_first_mistry_is_understood() {
        let text = r#"{"Params":{"a":"b","_s":"secret"},"Group":"g","Path":"/old","Cached":false,
            "Coalesced":false,"Incremental":true,"ExitCode":0,"ErrBuild":"","TransportMethod":"rsync",
            "StartedAt":"2019-03-04T12:13:14.123456789+02:00","Duration":41000000000,"URL":"job/p/x"}"#;
        let mut record: Record = serde_json::from_str(text).unwrap();
        record
            .info
            .complete(&"p".parse().unwrap(), id(), State::Ready, "/new".to_owned());
        assert!(record.info.succeeded());
        assert_eq!(record.info.params["_s"], None);
        assert_eq!(
            record.info.started_at.to_string(),
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
            let mut record: Record = serde_json::from_str(text).unwrap();
            record
                .info
                .complete(&"p".parse().unwrap(), id(), State::Ready, String::new());
            assert_eq!(record.info.outcome, Some(outcome), "{text}");
        }
    }

    #[test]
    fn the_length_of_a_text_in_json_is_known_beforehand() {
        let control: String = ('\0'..='\u{80}').collect();
        for text in ["", "é\"\\/", &control] {
            assert_eq!(in_json(text), serde_json::to_string(text).unwrap().len());
        }
    }
}
