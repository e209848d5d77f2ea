//! Chooses the build of its group from which a new build starts.
//!
//! That is the latest, unless a file of the context has changed since and is not newer than it: tools that
//! compare times (make, cargo) would take the old results in the base for those of the new file. Times on
//! disk are checked first ([`difference`]); the image may hold older times, and is checked once it exists
//! ([`super::ImageRecord::is_newer`]).

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::error::Error;
use super::inputs::Inputs;
use super::record::{self, RecordFile};
use super::store::BuildStore;
use super::{Change, Filter};
use crate::job::{GroupName, JobId, Outcome, State};
use crate::project::{Context, DOCKERFILE, IGNORE_FILE, ProjectName, SETTINGS};

/// Builds of the group that are checked for the same files: each requires reading a record.
const MAX_RECORDS_READ: usize = 20;
/// The suffixes of archives that `ADD` unpacks.
const ARCHIVE_SUFFIXES: [&str; 8] = [
    ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst",
];

/// Files of a project that Docker and mistry read.
const RECIPE_FILES: [&str; 3] = [DOCKERFILE, IGNORE_FILE, SETTINGS];

/// The start of a build.
#[derive(Debug, Default)]
pub(super) struct BaseChoice {
    /// The build whose data is cloned.
    pub(super) base: Option<JobId>,
    /// How the context differs from that of the base: its image is still to be checked.
    pub(super) change: Option<Change>,
    /// The latest build of the group could not be used.
    pub(super) is_latest_unusable: bool,
}

/// How a context differs from that of an earlier build.
#[derive(Debug, PartialEq, Eq)]
enum Difference {
    /// In no file.
    Nothing,
    /// In files that were changed after the build.
    Later(Change),
    /// In a file that was not, or it is unknown.
    Other,
}

/// How a context differs from that of the build in `directory`, whose record is `base`.
fn difference(base: &RecordFile, directory: &Path, context: &Context) -> Difference {
    if base.view.inputs.context == context.digest().to_string() {
        return Difference::Nothing;
    }
    let known = Inputs::read(directory, &base.internal);
    let now = Inputs::of(context);
    // A link's target may have any age.
    if known.links.is_some() && known.links != now.links {
        return Difference::Other;
    }
    let since = base.internal.built_until.or(base.view.finished_at);
    let since = since.unwrap_or(base.view.started_at);
    let Some((change, differs)) = changed_files(&known, &now, context, since) else {
        return Difference::Other;
    };
    let gone = known
        .files
        .keys()
        .filter(|name| !now.files.contains_key(*name));
    let gone: HashSet<&str> = gone.map(|name| last_name(name)).collect();
    // A removed file may have hidden another one of its name, which has an age of its own.
    if now.files.keys().any(|name| gone.contains(last_name(name))) {
        return Difference::Other;
    }
    match differs || !gone.is_empty() {
        true => Difference::Later(change),
        false => Difference::Nothing,
    }
}

/// The files that differ between two contexts although both may have them, and whether there are any;
/// `None` when one of them is not newer than `since`.
fn changed_files(
    known: &Inputs,
    now: &Inputs,
    context: &Context,
    since: Timestamp,
) -> Option<(Change, bool)> {
    let mut change = Change {
        since,
        latest: SystemTime::UNIX_EPOCH,
        is_dockerfile: false,
        is_archive: false,
    };
    let mut differs = false;
    let modified: HashMap<&Path, SystemTime> = context.modified().collect();
    for (path, time) in modified {
        let name = path.to_string_lossy();
        let Some(digest) = now.files.get(name.as_ref()) else {
            continue;
        };
        if known.files.get(name.as_ref()) == Some(digest) {
            continue;
        }
        let is_known = known.is_whole || known.files.contains_key(name.as_ref());
        // Their contents appear in layers and settings; build tools do not check their times.
        if RECIPE_FILES.contains(&name.as_ref()) {
            let is_dockerfile = is_known && name == DOCKERFILE;
            change.is_dockerfile |= is_dockerfile;
            differs |= is_dockerfile;
            continue;
        }
        let is_later = whole_second(time) > SystemTime::from(since);
        match (is_later, is_known) {
            (true, _) => {}
            // A file older than a build whose files are unknown counts as unchanged.
            (false, false) => continue,
            (false, true) => return None,
        }
        differs = true;
        change.latest = time.max(change.latest);
        let name = name.to_ascii_lowercase();
        change.is_archive |= ARCHIVE_SUFFIXES.iter().any(|end| name.ends_with(end));
    }
    Some((change, differs))
}

/// A path's last name.
fn last_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// The time in the image: Docker keeps whole seconds.
fn whole_second(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

impl BuildStore {
    /// The start of a build of this context in its group.
    pub(super) fn choose_base(
        &self,
        project: &ProjectName,
        group: &GroupName,
        context: &Context,
    ) -> Result<BaseChoice, Error> {
        let Some(base) = self.base(project, Some(group))? else {
            return Ok(BaseChoice::default());
        };
        let directory = self.layout.ready(project, base);
        let difference = match record::read(&directory) {
            Ok(Some(record)) => difference(&record, &directory, context),
            _ => Difference::Other,
        };
        Ok(match difference {
            Difference::Nothing => BaseChoice {
                base: Some(base),
                ..BaseChoice::default()
            },
            Difference::Later(change) => BaseChoice {
                base: Some(base),
                change: Some(change),
                is_latest_unusable: false,
            },
            Difference::Other => self.choose_other_base(project, group, context),
        })
    }

    /// The same if the latest build of the group cannot be used: an earlier one that was made of the same
    /// files, or none.
    pub(super) fn choose_other_base(
        &self,
        project: &ProjectName,
        group: &GroupName,
        context: &Context,
    ) -> BaseChoice {
        let filter = Filter {
            project: Some(project.clone()),
            group: Some(group.to_string()),
            state: Some(State::Ready),
            outcome: Some(Outcome::Succeeded),
            ..Filter::default()
        };
        let builds = self.index.page(&filter, MAX_RECORDS_READ).into_iter();
        let builds = builds.map(|(place, _)| place.id).collect();
        let builds = self.since_marks(project, group, builds);
        let same = builds.into_iter().find(|id| {
            let directory = self.layout.ready(project, *id);
            let record = record::read(&directory).ok().flatten();
            record.is_some_and(|record| {
                Inputs::read(&directory, &record.internal).is_whole
                    && difference(&record, &directory, context) == Difference::Nothing
            })
        });
        BaseChoice {
            base: same,
            change: None,
            is_latest_unusable: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;
    use crate::project::Projects;

    /// A project, and the build of its first files.
    struct Scene {
        home: tempfile::TempDir,
        base: RecordFile,
    }

    impl Scene {
        fn new() -> Scene {
            let home = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(home.path().join("p/override")).unwrap();
            let mut scene = Scene {
                home,
                base: RecordFile::default(),
            };
            for name in ["Dockerfile", "a.c", "b.c", "override/a.c", "old.c"] {
                scene.write(name, name, 100);
            }
            symlink("a.c", scene.path("link")).unwrap();
            let context = scene.context();
            scene.base.view.inputs.context = context.digest().to_string();
            scene.base.view.finished_at = Some(Timestamp::from_second(1_000_000_200).unwrap());
            let rest = Inputs::of(&context).into_record(&mut scene.base.internal);
            assert!(rest.is_none());
            scene
        }

        fn path(&self, name: &str) -> PathBuf {
            self.home.path().join("p").join(name)
        }

        fn write(&self, name: &str, text: &str, second: u64) {
            std::fs::write(self.path(name), text).unwrap();
            let file = std::fs::File::open(self.path(name)).unwrap();
            let time = Duration::from_secs(1_000_000_000 + second);
            file.set_modified(SystemTime::UNIX_EPOCH + time).unwrap();
        }

        fn context(&self) -> Context {
            let projects = Projects::new(self.home.path());
            projects.context(&"p".parse().unwrap()).unwrap()
        }

        fn difference(&self) -> Difference {
            difference(&self.base, self.home.path(), &self.context())
        }

        fn is_later(&self) -> bool {
            matches!(self.difference(), Difference::Later(_))
        }
    }

    #[test]
    fn a_file_that_differs_must_be_newer_than_the_base() {
        let mut scene = Scene::new();
        assert_eq!(scene.difference(), Difference::Nothing);
        scene.write("a.c", "other", 201);
        assert!(scene.is_later());
        scene.write("a.c", "other", 200);
        assert_eq!(scene.difference(), Difference::Other);
        scene.write("a.c", "other", 300);
        scene.base.internal.built_until = Some(Timestamp::from_second(1_000_000_400).unwrap());
        assert_eq!(
            scene.difference(),
            Difference::Other,
            "the clock had been ahead"
        );
    }

    #[test]
    fn a_changed_dockerfile_requires_a_check_of_the_image_whatever_its_time() {
        let scene = Scene::new();
        scene.write("mistry.json", "{}", 100);
        assert_eq!(scene.difference(), Difference::Nothing);
        scene.write("Dockerfile", "FROM other", 100);
        let difference = scene.difference();
        assert!(
            matches!(&difference, Difference::Later(change) if change.is_dockerfile),
            "{difference:?}"
        );
    }

    #[test]
    fn a_link_with_a_new_target_may_lead_to_a_file_of_any_age() {
        let scene = Scene::new();
        std::fs::remove_file(scene.path("link")).unwrap();
        symlink("b.c", scene.path("link")).unwrap();
        assert_eq!(scene.difference(), Difference::Other);
    }

    #[test]
    fn a_link_that_an_earlier_record_does_not_list_counts_as_unchanged() {
        let mut scene = Scene::new();
        scene.base.internal.links = None;
        scene.base.view.inputs.context = "a digest of an earlier version".to_owned();
        assert_eq!(scene.difference(), Difference::Nothing);
    }

    #[test]
    fn a_removed_file_requires_a_check_of_the_image_unless_it_may_have_hidden_another() {
        let scene = Scene::new();
        std::fs::remove_file(scene.path("old.c")).unwrap();
        assert!(scene.is_later());
        std::fs::remove_file(scene.path("override/a.c")).unwrap();
        assert_eq!(scene.difference(), Difference::Other);
    }
}
