//! Statistics of answers, counted per project and day: built, cached or coalesced.
//!
//! Builds are on disk and can be counted there; an answer from the cache leaves no other trace. The
//! statistics are held in memory, written by [`super::BuildStore::save_stats`] from time to time and at the
//! end, and a `kill -9` loses the last seconds of them. A file that cannot be parsed is started again.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use parking_lot::{Mutex, MutexGuard};

use super::layout::Layout;
use super::replace::{self, Durability};
use crate::located::at;
use crate::project::ProjectName;

/// Days that are stored.
const KEPT_DAYS: usize = 90;
/// Cached answers that are stored one by one, for plots.
const KEPT_CACHED_ANSWERS: usize = 200;
/// A larger file is invalid.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most files to read: more than any host has projects.
const MAX_FILES: usize = 10_000;

/// How a job was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// By a new build.
    Built,
    /// From a ready build.
    Cached,
    /// By a build that another client had already requested.
    Coalesced,
}

/// The jobs of one day, by answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Day {
    /// New builds.
    pub built: u64,
    /// Answers from the cache.
    pub cached: u64,
    /// Answers that joined a build.
    pub coalesced: u64,
}

/// The answers to jobs of one project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AnswerStats {
    /// By day, in UTC.
    pub days: BTreeMap<Date, Day>,
    /// When the latest cached answers were given, and the microseconds that each took; oldest first.
    pub latest: VecDeque<(Timestamp, u64)>,
}

impl AnswerStats {
    /// All jobs of the last `days` days, today included.
    pub fn last(&self, days: i32) -> Day {
        let first = today().checked_sub((days - 1).days()).unwrap_or(Date::MIN);
        let mut sum = Day::default();
        for (_, day) in self.days.range(first..) {
            sum.built += day.built;
            sum.cached += day.cached;
            sum.coalesced += day.coalesced;
        }
        sum
    }

    fn count(&mut self, answered: Answered, now: Timestamp, took: Duration) {
        let date = now.to_zoned(TimeZone::UTC).date();
        let day = self.days.entry(date).or_default();
        match answered {
            Answered::Built => day.built += 1,
            Answered::Coalesced => day.coalesced += 1,
            Answered::Cached => {
                day.cached += 1;
                let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.latest.push_back((now, took));
            }
        }
        self.trim();
    }

    /// Adds the counts of a previous process.
    fn add(&mut self, earlier: AnswerStats) {
        for (date, earlier) in earlier.days {
            let day = self.days.entry(date).or_default();
            day.built = day.built.saturating_add(earlier.built);
            day.cached = day.cached.saturating_add(earlier.cached);
            day.coalesced = day.coalesced.saturating_add(earlier.coalesced);
        }
        for answer in earlier.latest.into_iter().rev() {
            self.latest.push_front(answer);
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.days.len() > KEPT_DAYS {
            self.days.pop_first();
        }
        while self.latest.len() > KEPT_CACHED_ANSWERS {
            self.latest.pop_front();
        }
    }
}

fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

#[derive(Debug, Default)]
struct Counted {
    by_project: BTreeMap<ProjectName, AnswerStats>,
    /// Projects that changed since the last write.
    changed: Vec<ProjectName>,
    /// The counts of previous processes have been added.
    is_loaded: bool,
}

/// The statistics of all projects. Locked for a count or a copy.
#[derive(Debug, Default)]
pub(super) struct AllStats(Mutex<Counted>);

impl AllStats {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock()
    }

    /// Counts an answer and its duration.
    pub(super) fn count(&self, project: &ProjectName, answered: Answered, took: Duration) {
        let mut counted = self.lock();
        let now = Timestamp::now();
        match counted.by_project.get_mut(project) {
            Some(stats) => stats.count(answered, now, took),
            None => {
                let mut stats = AnswerStats::default();
                stats.count(answered, now, took);
                counted.by_project.insert(project.clone(), stats);
            }
        }
        if !counted.changed.contains(project) {
            counted.changed.push(project.clone());
        }
    }

    /// The statistics of one project.
    pub(super) fn of(&self, project: &ProjectName) -> AnswerStats {
        let counted = self.lock();
        counted.by_project.get(project).cloned().unwrap_or_default()
    }

    /// Adds the counts of previous processes, of every project: also of one whose builds are all gone. Must
    /// be called once.
    pub(super) fn load(&self, layout: &Layout) {
        let read: Vec<(ProjectName, AnswerStats)> = match std::fs::read_dir(layout.all_stats()) {
            Ok(files) => files
                .take(MAX_FILES)
                .filter_map(|file| {
                    let project = Layout::counted_by(file.ok()?.file_name().to_str()?)?;
                    let stats = read(&layout.stats(&project))?;
                    Some((project, stats))
                })
                .collect(),
            // Nothing was counted yet; or it is unreadable, and counting starts again.
            Err(_) => Vec::new(),
        };
        let mut counted = self.lock();
        for (project, earlier) in read {
            counted.by_project.entry(project).or_default().add(earlier);
        }
        counted.is_loaded = true;
    }

    /// Writes the counts that changed since the last call.
    ///
    /// # Errors
    /// When a file cannot be written; the next call tries again.
    pub(super) fn save(&self, layout: &Layout) -> io::Result<()> {
        let changed: Vec<(ProjectName, AnswerStats)> = {
            let mut counted = self.lock();
            // Before that, the existing files would be overwritten.
            if !counted.is_loaded {
                return Ok(());
            }
            let changed = std::mem::take(&mut counted.changed);
            let with_stats = changed.into_iter().map(|project| {
                let stats = counted.by_project.get(&project).cloned();
                (project, stats.unwrap_or_default())
            });
            with_stats.collect()
        };
        let mut failed = None;
        for (project, stats) in changed {
            if let Err(error) = write(&layout.stats(&project), &stats) {
                failed = Some(at(&layout.stats(&project))(error));
                self.lock().changed.push(project);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Reads a file; `None` if it is invalid.
fn read(path: &Path) -> Option<AnswerStats> {
    let file = super::record::open_regular(path).ok()??;
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE_BYTES), &mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Replaces a file. A power cut may lose the latest counts, but not earlier ones.
fn write(path: &Path, stats: &AnswerStats) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        super::disk::make_directories(directory)?;
    }
    let text = serde_json::to_vec(stats)?;
    replace::replace(path, &text, 0o640, Durability::Whole)
}

#[cfg(test)]
mod tests {
    use crate::build::BuildStore;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::filesystem::{Filesystem, Kind};

    #[test]
    fn counts_of_two_processes_are_added() {
        let mut stats = AnswerStats::default();
        let now = Timestamp::now();
        stats.count(Answered::Cached, now, Duration::from_micros(900));
        let mut earlier = AnswerStats::default();
        earlier.count(Answered::Built, now, Duration::ZERO);
        earlier.count(Answered::Cached, now, Duration::from_micros(800));
        earlier.count(Answered::Coalesced, now, Duration::ZERO);
        stats.add(earlier);
        let day = Day {
            built: 1,
            cached: 2,
            coalesced: 1,
        };
        assert_eq!(stats.last(30), day);
        let took: Vec<u64> = stats.latest.iter().map(|(_, took)| *took).collect();
        assert_eq!(took, [800, 900]);
        let text = serde_json::to_string(&stats).unwrap();
        assert_eq!(serde_json::from_str::<AnswerStats>(&text).unwrap(), stats);
    }

    #[test]
    fn statistics_are_bounded_and_old_days_are_dropped() {
        let mut stats = AnswerStats::default();
        let begin: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        for day in 0..1_000_i64 {
            let now = begin + (day * 24).hours();
            for _ in 0..3 {
                stats.count(Answered::Cached, now, Duration::from_micros(1));
            }
        }
        assert_eq!(
            (stats.days.len(), stats.latest.len()),
            (KEPT_DAYS, KEPT_CACHED_ANSWERS)
        );
        assert!(stats.days.keys().next().unwrap() > &jiff::civil::date(2028, 1, 1));
    }

    #[test]
    fn counts_of_a_project_without_builds_are_kept() {
        let home = tempfile::tempdir().unwrap();
        let open = || {
            let filesystem = Filesystem::detect(Kind::Plain, home.path()).unwrap();
            let store = BuildStore::open(home.path(), filesystem).unwrap();
            store.stats.load(&store.layout);
            store
        };
        let project: ProjectName = "p.json".parse().unwrap();
        for process in 1..=3 {
            let store = open();
            store.count(&project, Answered::Cached, Duration::from_micros(5));
            assert_eq!(store.answer_stats(&project).last(2).cached, process);
            store.save_stats().unwrap();
        }
        // Files that hold no statistics are ignored.
        let answers = home.path().join(".mistry/answers");
        symlink(answers.join("p.json.json"), answers.join("link.json")).unwrap();
        for name in ["x", ".json", "..json", "p.new", "torn.json"] {
            std::fs::write(answers.join(name), "{").unwrap();
        }
        std::fs::create_dir(answers.join("d.json")).unwrap();
        let store = open();
        assert_eq!(store.answer_stats(&project).last(2).cached, 3);
        assert_eq!(store.stats.lock().by_project.len(), 1);
    }
}
