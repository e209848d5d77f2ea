//! All paths under `build_path`. Pure; the only file that contains these names.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use crate::job::{GroupName, JobId, State};
use crate::project::ProjectName;

/// The daemon's own directory; no project name begins with a dot.
const DAEMON_DIRECTORY: &str = ".mistry";
const PENDING: &str = "pending";
const READY: &str = "ready";
const FAILED: &str = "failed";
const LATEST: &str = "latest";
const GROUPS: &str = "groups";
/// The prefix of a new link's name.
const NEW_LINK_PREFIX: &str = "link-";
const PINS: &str = "pins";
const RESETS: &str = "resets";
const COLD: &str = "cold";
const RESETTING: &str = "resetting";
const PAUSED: &str = "paused";
const CLOCK: &str = "clock";
const ANSWERS: &str = "answers";
const IMAGES: &str = "images";
const BUILDX: &str = "buildx";
const ATTEMPTS: &str = "attempts";
/// The suffix of an attempt that is not complete.
const NEW_SUFFIX: &str = ".new";
/// The suffix of files of statistics and of image records.
const JSON_SUFFIX: &str = ".json";
/// Mounted at `/data` in the container.
pub(super) const DATA: &str = "data";
/// The artifacts, under `data`.
pub(super) const ARTIFACTS: &str = "artifacts";
/// Kept for the next build of the group, under `data`.
pub(super) const CACHE: &str = "cache";
/// One file per param, under `data`; never cloned.
pub(super) const PARAMS: &str = "params";
/// The home directory of a build whose image has none for its user, beside `data`; never cloned, and
/// gone before the build is ready.
pub(super) const HOME: &str = "home";
/// The record.
pub(super) const RECORD: &str = "build_info.json";
/// The inputs of a build with a large context.
pub(super) const INPUTS: &str = "inputs.json";
/// The log.
pub(super) const LOG: &str = "out.log";
/// The times of the log's lines.
pub(super) const TIMES: &str = "out.times";
/// The files of a build that are kept of an attempt.
pub(super) const ATTEMPT_FILES: [&str; 4] = [RECORD, LOG, TIMES, INPUTS];

/// The paths under one build path.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Layout {
        Layout {
            root: root.to_owned(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// `.mistry`: lock, instance id, secret, trash, pins, marks of groups, whether the queue is paused,
    /// answer statistics, image records, attempts.
    pub(super) fn daemon_directory(&self) -> PathBuf {
        self.root.join(DAEMON_DIRECTORY)
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.daemon_directory().join("lock")
    }

    pub(super) fn instance(&self) -> PathBuf {
        self.daemon_directory().join("instance")
    }

    pub(super) fn secret(&self) -> PathBuf {
        self.daemon_directory().join("secret")
    }

    /// Directories to be removed stay here until their last reader is done.
    pub(super) fn trash(&self) -> PathBuf {
        self.daemon_directory().join("trash")
    }

    /// A new link to a build, before its rename; no group can have one here.
    pub(super) fn new_link(&self, project: &ProjectName, id: JobId) -> PathBuf {
        self.daemon_directory()
            .join(format!("{NEW_LINK_PREFIX}{project}-{id}"))
    }

    /// The build that such a link in `.mistry` is for.
    pub(super) fn linked_by(name: &str) -> Option<(ProjectName, JobId)> {
        named(name.strip_prefix(NEW_LINK_PREFIX)?)
    }

    /// One empty file for each pinned build.
    pub(super) fn pins(&self) -> PathBuf {
        self.daemon_directory().join(PINS)
    }

    pub(super) fn pin(&self, project: &ProjectName, id: JobId) -> PathBuf {
        self.pins().join(format!("{project}-{id}"))
    }

    /// A file for each group that was reset: when. The group is given by its file name.
    pub(super) fn reset_mark(&self, project: &ProjectName, group: &OsStr) -> PathBuf {
        let marks = self.daemon_directory().join(RESETS);
        marks.join(project.as_str()).join(group)
    }

    /// A file for each group that had a cold build: when the last one ended.
    pub(super) fn cold_mark(&self, project: &ProjectName, group: &OsStr) -> PathBuf {
        let marks = self.daemon_directory().join(COLD);
        marks.join(project.as_str()).join(group)
    }

    /// The links of groups whose reset is not complete: a directory for each project.
    pub(super) fn all_resetting(&self) -> PathBuf {
        self.daemon_directory().join(RESETTING)
    }

    pub(super) fn resetting(&self, project: &ProjectName, group: &OsStr) -> PathBuf {
        self.all_resetting().join(project.as_str()).join(group)
    }

    /// Exists while the queue is paused.
    pub(super) fn paused(&self) -> PathBuf {
        self.daemon_directory().join(PAUSED)
    }

    /// The last readings of the host's clocks.
    pub(super) fn clock(&self) -> PathBuf {
        self.daemon_directory().join(CLOCK)
    }

    /// A file per project: the statistics of its answers.
    pub(super) fn all_stats(&self) -> PathBuf {
        self.daemon_directory().join(ANSWERS)
    }

    pub(super) fn stats(&self, project: &ProjectName) -> PathBuf {
        self.all_stats().join(format!("{project}{JSON_SUFFIX}"))
    }

    /// A file per project: its image records.
    pub(super) fn all_image_records(&self) -> PathBuf {
        self.daemon_directory().join(IMAGES)
    }

    pub(super) fn image_records(&self, project: &ProjectName) -> PathBuf {
        self.all_image_records()
            .join(format!("{project}{JSON_SUFFIX}"))
    }

    /// The own files of docker-buildx while it builds images.
    pub(super) fn buildx(&self) -> PathBuf {
        self.daemon_directory().join(BUILDX)
    }

    /// The attempts of all jobs: a directory for each project.
    pub(super) fn all_attempts(&self) -> PathBuf {
        self.daemon_directory().join(ATTEMPTS)
    }

    /// A directory for each job that has attempts.
    pub(super) fn project_attempts(&self, project: &ProjectName) -> PathBuf {
        self.all_attempts().join(project.as_str())
    }

    /// A directory for each attempt of a job.
    pub(super) fn attempts(&self, project: &ProjectName, id: JobId) -> PathBuf {
        self.project_attempts(project).join(id.to_string())
    }

    /// An attempt that is over and not served, without its data.
    pub(super) fn attempt(&self, project: &ProjectName, id: JobId, number: u32) -> PathBuf {
        self.attempts(project, id).join(number.to_string())
    }

    /// The same before its rename.
    pub(super) fn new_attempt(&self, project: &ProjectName, id: JobId, number: u32) -> PathBuf {
        self.attempts(project, id)
            .join(format!("{number}{NEW_SUFFIX}"))
    }

    /// The project of such a file in `answers` or `images`.
    pub(super) fn counted_by(name: &str) -> Option<ProjectName> {
        name.strip_suffix(JSON_SUFFIX)?.parse().ok()
    }

    pub(super) fn project(&self, project: &ProjectName) -> PathBuf {
        self.root.join(project.as_str())
    }

    /// The directory that holds all builds of a state.
    pub(super) fn builds(&self, project: &ProjectName, state: State) -> PathBuf {
        self.project(project).join(match state {
            State::Pending => PENDING,
            State::Ready => READY,
        })
    }

    pub(super) fn pending(&self, project: &ProjectName, id: JobId) -> PathBuf {
        self.builds(project, State::Pending).join(id.to_string())
    }

    pub(super) fn ready(&self, project: &ProjectName, id: JobId) -> PathBuf {
        self.builds(project, State::Ready).join(id.to_string())
    }

    /// Where earlier versions kept the last failed rebuild of an id whose succeeded build stays in `ready`.
    pub(super) fn failed(&self, project: &ProjectName, id: JobId) -> PathBuf {
        self.all_failed(project).join(id.to_string())
    }

    /// The directory of these builds.
    pub(super) fn all_failed(&self, project: &ProjectName) -> PathBuf {
        self.project(project).join(FAILED)
    }

    /// The link to the last succeeded build of a group, or without one.
    pub(super) fn link(&self, project: &ProjectName, group: Option<&GroupName>) -> PathBuf {
        match group {
            None => self.project(project).join(LATEST),
            Some(group) => self.groups(project).join(group.file_name()),
        }
    }

    pub(super) fn groups(&self, project: &ProjectName) -> PathBuf {
        self.project(project).join(GROUPS)
    }

    /// The target of such a link; relative, so that a build path can be moved.
    pub(super) fn link_target(group: Option<&GroupName>, id: JobId) -> PathBuf {
        let up = if group.is_some() { "../" } else { "" };
        PathBuf::from(format!("{up}{READY}/{id}"))
    }

    /// The id in a link's target; the first mistry wrote absolute ones.
    pub(super) fn linked_id(target: &Path) -> Option<JobId> {
        let mut parts = target.components().rev();
        let Some(Component::Normal(id)) = parts.next() else {
            return None;
        };
        let in_ready = parts.next() == Some(Component::Normal(READY.as_ref()));
        in_ready.then(|| id.to_str()?.parse().ok()).flatten()
    }

    /// The absolute path of a ready build's artifacts, as sent to clients.
    pub(super) fn served(&self, project: &ProjectName, id: JobId) -> String {
        let path = self.ready(project, id).join(DATA).join(ARTIFACTS);
        path.to_string_lossy().into_owned()
    }
}

/// The build named by `PROJECT-ID`, the name of a pin; `None` for any other name.
pub(super) fn named(name: &str) -> Option<(ProjectName, JobId)> {
    let (project, id) = name.rsplit_once('-')?;
    Some((project.parse().ok()?, id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_names_its_build() {
        let id: JobId = "ab".repeat(32).parse().unwrap();
        let project: ProjectName = "a-b.c".parse().unwrap();
        let pin = Layout::new(Path::new("/b")).pin(&project, id);
        let name = pin.file_name().unwrap().to_str().unwrap();
        assert_eq!(named(name), Some((project, id)));
        for foreign in ["", "x", "a-b", &format!("-{id}"), &id.to_string()] {
            assert_eq!(named(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn links_are_relative_and_absolute_ones_are_understood() {
        let id: JobId = "ab".repeat(32).parse().unwrap();
        let group: GroupName = "g".parse().unwrap();
        for group in [None, Some(&group)] {
            let target = Layout::link_target(group, id);
            assert!(target.is_relative());
            assert_eq!(Layout::linked_id(&target), Some(id));
        }
        let absolute = format!("/old/p/ready/{id}");
        assert_eq!(Layout::linked_id(Path::new(&absolute)), Some(id));
        for foreign in [
            "",
            "/",
            "ready/x",
            &format!("pending/{id}"),
            &format!("{id}"),
            "ready/..",
        ] {
            assert_eq!(Layout::linked_id(Path::new(foreign)), None, "{foreign}");
        }
    }
}
