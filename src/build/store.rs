//! The builds under one build path: looked up, listed and read.
//!
//! The disk is authoritative: every query is answered from the tree, and a build changes its place by one
//! rename. Incomplete or unknown files are skipped as if they were absent. Everything here blocks, except for
//! waiting for the index; callers choose the thread.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::artifacts::Artifacts;
use super::attempt::KeptAttempts;
use super::cache::Cache;
use super::claim::{Claim, Holder, Secret};
use super::disk::{list_ids, make_directories, named_directories, open_directory};
use super::error::{Error, disk_error};
use super::filter::{Filter, Place};
use super::index::Index;
use super::info::in_json;
use super::layout::{self, Layout};
use super::lease::Lease;
use super::listing::{MAX_ANSWERS, MAX_LISTINGS};
use super::log::tail;
use super::stats::{AllStats, AnswerStats, Answered};
use super::{BuildAnswer, BuildInfo, IndexEntry, Listing, RecordFile, last_used, record};
use crate::filesystem::{self, Filesystem};
use crate::job::{GroupName, JobId, JobIdPrefix, State};
use crate::project::ProjectName;

/// Lists read larger records one at a time; in bytes.
const LARGE_RECORD_BYTES: u64 = 256 << 10;

/// All builds under one build path, which no other daemon can claim meanwhile.
#[derive(Debug)]
pub struct BuildStore {
    pub(super) layout: Layout,
    pub(super) filesystem: Filesystem,
    pub(super) index: Index,
    /// Answers for cached jobs, and entries of lists.
    answers: Cache<BuildAnswer>,
    listings: Cache<Listing>,
    /// Held while a list reads a large record.
    large: Mutex<()>,
    pub(super) stats: AllStats,
    /// The attempts of all jobs.
    pub(super) attempts: KeptAttempts,
    /// Held while builds are marked as durable.
    pub(super) marking: Mutex<()>,
    /// Held while the image records are changed.
    pub(super) images: Mutex<()>,
    /// Held while a build is put in place and linked, pinned, or evicted.
    pub(super) changing: Mutex<()>,
    /// The kernel's id of this boot: builds that are not durable do not survive it.
    pub(super) boot: String,
    claim: Claim,
    /// The program that confines artifact transfers.
    confiner: PathBuf,
}

impl BuildStore {
    /// Takes the lock of `root`, which must exist, and reads or generates its instance id.
    ///
    /// # Errors
    /// [`Error::Held`] when another daemon holds it.
    pub fn open(root: &Path, filesystem: Filesystem) -> Result<BuildStore, Error> {
        let layout = Layout::new(root);
        let trash = layout.trash();
        make_directories(&trash).map_err(disk_error("prepare the build path", &trash))?;
        let claim = Claim::take(&layout)?;
        let boot = Path::new("/proc/sys/kernel/random/boot_id");
        let boot =
            std::fs::read_to_string(boot).map_err(disk_error("read the id of this boot", boot))?;
        let store = BuildStore {
            layout,
            filesystem,
            index: Index::new(),
            answers: Cache::new(MAX_ANSWERS),
            listings: Cache::new(MAX_LISTINGS),
            large: Mutex::new(()),
            stats: AllStats::default(),
            attempts: KeptAttempts::default(),
            marking: Mutex::new(()),
            images: Mutex::new(()),
            changing: Mutex::new(()),
            boot: boot.trim().to_owned(),
            claim,
            confiner: PathBuf::from(filesystem::OURSELVES),
        };
        // What a process left that was killed.
        let _ = std::fs::remove_dir_all(store.layout.buildx());
        store.mark_clock();
        Ok(store)
    }

    /// Writes this process into the lock file, for other processes that want the build path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn announce(&self, holder: &Holder) -> Result<(), Error> {
        self.claim.announce(holder)
    }

    /// 32 hex digits, generated once per build path: Docker objects labelled with it are its own.
    pub fn instance(&self) -> &str {
        self.claim.instance()
    }

    /// The secret that only the daemons of this build path know, generated once.
    pub fn secret(&self) -> &Secret {
        self.claim.secret()
    }

    /// Where programs that build images may have files of their own, which are removed at the next start.
    pub fn scratch(&self) -> PathBuf {
        self.layout.buildx()
    }

    /// The build path.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// The filesystem in use.
    pub fn filesystem(&self) -> Filesystem {
        self.filesystem
    }

    /// The result of a job, if it succeeded and may be returned.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn find_ready(&self, project: &ProjectName, id: JobId) -> Result<Option<BuildInfo>, Error> {
        Ok(self.ready(project, id)?.filter(BuildInfo::succeeded))
    }

    /// The answer from a ready build that succeeded: its info with the end of its log, marked as cached.
    /// Repeated calls for the same build only check its record's stamp.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn cached(&self, project: &ProjectName, id: JobId) -> Result<Option<BuildAnswer>, Error> {
        let directory = self.layout.ready(project, id);
        let found = record::stamp(rustix::fs::CWD, &directory);
        let Some(found) = found.map_err(disk_error("read the record of a build", &directory))?
        else {
            return Ok(None);
        };
        if let Some(answer) = self.answers.get(id, found) {
            return Ok(self.use_for(project, id, answer));
        }
        let Some(info) = self.find_ready(project, id)? else {
            return Ok(None);
        };
        // The log of this build only: a rebuild of the same id may have its own log in `pending`.
        let log = match tail(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            log => log.map_err(disk_error("read the log of a build", &directory)),
        };
        let log = log?;
        // The record holds all but the log, and its size is known. Counts both values and JSON.
        let size = usize::try_from(found.size).unwrap_or(usize::MAX);
        let bytes = size.saturating_mul(2);
        let bytes = bytes.saturating_add(log.len() + in_json(&log));
        let answer = BuildAnswer::cached(info, log);
        self.answers.put(id, found, bytes, &answer);
        Ok(self.use_for(project, id, answer))
    }

    /// The answer, once the use of its build is noted; `None` when it was removed meanwhile.
    fn use_for(
        &self,
        project: &ProjectName,
        id: JobId,
        answer: BuildAnswer,
    ) -> Option<BuildAnswer> {
        let is_there =
            !answer.noted().is_due() || last_used::note_at(&self.layout.ready(project, id));
        is_there.then_some(answer)
    }

    /// A ready build as a list entry. Repeated calls only check its record's stamp.
    ///
    /// `builds` is the project's directory of ready builds: it saves path lookups for fifty of them.
    fn listing(
        &self,
        builds: BorrowedFd<'_>,
        project: &ProjectName,
        id: JobId,
    ) -> io::Result<Option<Listing>> {
        let name = id.to_string();
        let Some(found) = record::stamp(builds, Path::new(&name))? else {
            return Ok(None);
        };
        if let Some(listing) = self.listings.get(id, found) {
            return Ok(Some(listing));
        }
        // One at a time, because a record takes several times its size while it is read.
        let _turn = (found.size > LARGE_RECORD_BYTES).then(|| self.large.lock());
        let Some(info) = self.read_ready(project, id)? else {
            return Ok(None);
        };
        let listing = Listing::new(info);
        let bytes = listing.bytes();
        self.listings.put(id, found, bytes, &listing);
        Ok(Some(listing))
    }

    pub(super) fn ready(
        &self,
        project: &ProjectName,
        id: JobId,
    ) -> Result<Option<BuildInfo>, Error> {
        let directory = self.layout.ready(project, id);
        self.read_ready(project, id)
            .map_err(disk_error("read the record of a build", &directory))
    }

    /// The info of a ready build that survived the last power cut, whatever its outcome.
    fn read_ready(&self, project: &ProjectName, id: JobId) -> io::Result<Option<BuildInfo>> {
        let record = record::read(&self.layout.ready(project, id))?;
        let survived = record.filter(|record| self.survived(&record.internal));
        Ok(survived.map(|record| {
            let path = self.layout.served(project, id);
            record.complete(project, id, State::Ready, path).info
        }))
    }

    /// The build on disk: pending before ready.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn find(&self, project: &ProjectName, id: JobId) -> Result<Option<BuildInfo>, Error> {
        let directory = self.layout.pending(project, id);
        let pending = record::read(&directory)
            .map_err(disk_error("read the record of a build", &directory))?;
        let as_pending = |record: RecordFile| {
            let path = self.layout.served(project, id);
            record.complete(project, id, State::Pending, path).info
        };
        match pending {
            Some(record) if record.view.state == State::Pending => Ok(Some(as_pending(record))),
            // A directory left by an exchange for a moment is no pending build. Without a ready build it is a
            // build whose record is complete, just before it is put in place.
            Some(record) => Ok(self
                .ready(project, id)?
                .or_else(|| Some(as_pending(record)))),
            None => self.ready(project, id),
        }
    }

    /// The build that the next build of the group is cloned from.
    ///
    /// # Errors
    /// When a system call fails; a dangling link means no base and is no error.
    pub fn base(
        &self,
        project: &ProjectName,
        group: Option<&GroupName>,
    ) -> Result<Option<JobId>, Error> {
        let link = self.layout.link(project, group);
        let target = match std::fs::read_link(&link) {
            Ok(target) => target,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::InvalidInput
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(disk_error("read the link of a group", &link)(error)),
        };
        let Some(id) = Layout::linked_id(&target) else {
            return Ok(None);
        };
        Ok(self.find_ready(project, id)?.map(|_| id))
    }

    /// Group names with their bases, and the latest build without a group.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn bases(
        &self,
        project: &ProjectName,
    ) -> Result<(Option<JobId>, BTreeMap<String, JobId>), Error> {
        let mut groups = BTreeMap::new();
        let links = self.layout.groups(project);
        let list = disk_error("list the groups of a project", &links);
        match std::fs::read_dir(&links) {
            Ok(links) => {
                for link in links {
                    let target = std::fs::read_link(link.map_err(&list)?.path());
                    let Some(id) = target.ok().as_deref().and_then(Layout::linked_id) else {
                        continue;
                    };
                    // The name on disk is encoded; the record has the original.
                    if let Some(info) = self.find_ready(project, id)? {
                        groups.insert(info.group_name().to_owned(), id);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(list(error)),
        }
        Ok((self.base(project, None)?, groups))
    }

    /// The end of a build's log, at most [`super::LOG_TAIL`] bytes, invalid UTF-8 replaced; "" when there is
    /// none.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log_tail(&self, project: &ProjectName, id: JobId) -> Result<String, Error> {
        let directories = [
            self.layout.pending(project, id),
            self.layout.ready(project, id),
        ];
        for directory in directories {
            match tail(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => return other.map_err(disk_error("read the log of a build", &directory)),
            }
        }
        Ok(String::new())
    }

    /// The current path of a build's log; `None` when there is none.
    pub fn log_path(&self, project: &ProjectName, id: JobId) -> Option<PathBuf> {
        let pending = self.layout.pending(project, id);
        let ready = self.layout.ready(project, id);
        [pending, ready]
            .into_iter()
            .filter(|directory| {
                directory
                    .symlink_metadata()
                    .is_ok_and(|found| found.is_dir())
            })
            .map(|directory| directory.join(layout::LOG))
            .find(|path| path.is_file())
    }

    /// The artifacts of a ready build; `None` when it is missing or did not survive a power cut.
    ///
    /// # Errors
    /// When a system call fails.
    pub fn artifacts(&self, project: &ProjectName, id: JobId) -> Result<Option<Artifacts>, Error> {
        let directory = self.layout.ready(project, id);
        let open = disk_error("open the artifacts of a build", &directory);
        let Some(lease) = Lease::take(&directory).map_err(&open)? else {
            return Ok(None);
        };
        // Read from the leased directory: its place may hold another build by now.
        let record = record::read(&lease.path())
            .map_err(disk_error("read the record of a build", &directory))?;
        match record.filter(|record| self.survived(&record.internal)) {
            Some(record) => Artifacts::open(lease, &record.view)
                .map(Some)
                .map_err(&open),
            None => Ok(None),
        }
    }

    /// True when a finished build has a directory: its record may be lost.
    pub fn has_directory(&self, project: &ProjectName, id: JobId) -> bool {
        let found = self.layout.ready(project, id).symlink_metadata();
        found.is_ok_and(|found| found.is_dir())
    }

    /// The artifacts of a ready build for a client: a descriptor that gives access to them and nothing else.
    /// `None` when the build is missing, did not survive a power cut or left none. It is no lease: the build
    /// counts as used now, and may be evicted like any other from then on.
    ///
    /// # Errors
    /// [`Error::Confine`] when the host forbids it; when the disk fails.
    pub fn hand_out(&self, project: &ProjectName, id: JobId) -> Result<Option<OwnedFd>, Error> {
        let Some(artifacts) = self.artifacts(project, id)? else {
            return Ok(None);
        };
        artifacts.note_use();
        let path = self.layout.ready(project, id).join(layout::DATA);
        artifacts
            .hand_out(&self.confiner, &path.join(layout::ARTIFACTS))
            .map_err(|error| match error {
                error @ filesystem::Error::Confine { .. } => Error::Confine(error),
                error => Error::Tree("hand out the artifacts of a build", error),
            })
    }

    /// The same store with `program` for artifact transfers: [`filesystem::hand_out`]. For programs other
    /// than `mistryd`.
    pub fn confined_by(self, program: &Path) -> BuildStore {
        BuildStore {
            confiner: program.to_owned(),
            ..self
        }
    }

    /// A lease on the ready build that another one is cloned from.
    pub(super) fn lease(&self, project: &ProjectName, id: JobId) -> Result<Option<Lease>, Error> {
        let directory = self.layout.ready(project, id);
        Lease::take(&directory).map_err(disk_error("hold a build", &directory))
    }

    /// Counts an answer to a job of a project, and its duration.
    pub fn count(&self, project: &ProjectName, answered: Answered, took: Duration) {
        self.stats.count(project, answered, took);
    }

    /// The statistics of answers to jobs of a project.
    pub fn answer_stats(&self, project: &ProjectName) -> AnswerStats {
        self.stats.of(project)
    }

    /// Writes the statistics that changed since the last call.
    ///
    /// # Errors
    /// When a file cannot be written; the next call tries again.
    pub fn save_stats(&self) -> io::Result<()> {
        self.stats.save(&self.layout)
    }

    /// Waits until the first scan has ended, so that lists are complete.
    pub async fn indexed(&self) {
        self.index.complete().await;
    }

    /// At most `limit` builds, newest first and abridged, with the place that the next page starts after.
    /// `None` as that place: there are no more. Pending builds are shown as `live` knows them, otherwise as
    /// they are on disk.
    pub fn list(
        &self,
        filter: &Filter,
        limit: usize,
        live: impl Fn(&ProjectName, JobId) -> Option<Arc<BuildInfo>>,
    ) -> (Vec<Listing>, Option<Place>) {
        let page = self.index.page(filter, limit.saturating_add(1));
        let next = (page.len() > limit)
            .then(|| {
                page.get(limit.checked_sub(1)?)
                    .map(|(place, _)| place.clone())
            })
            .flatten();
        (self.listings(page.into_iter().take(limit), live), next)
    }

    /// The list entries of these places; builds that were removed meanwhile, or cannot be read, are skipped.
    fn listings(
        &self,
        places: impl Iterator<Item = (Place, State)>,
        live: impl Fn(&ProjectName, JobId) -> Option<Arc<BuildInfo>>,
    ) -> Vec<Listing> {
        let mut builds = Vec::new();
        let mut builds_of: Option<(ProjectName, OwnedFd)> = None;
        for (place, state) in places {
            if builds_of
                .as_ref()
                .is_none_or(|(of, _)| *of != place.project)
            {
                let path = self.layout.builds(&place.project, State::Ready);
                builds_of = open_directory(&path)
                    .ok()
                    .map(|open| (place.project.clone(), open));
            }
            let found = match state {
                State::Pending => match live(&place.project, place.id) {
                    // Its record changes with each step, so it is read again for each list.
                    Some(info) => Ok(Some(Listing::new(BuildInfo::clone(&info)))),
                    None => self
                        .find(&place.project, place.id)
                        .map(|info| info.map(Listing::new)),
                },
                State::Ready => match &builds_of {
                    Some((_, open)) => self
                        .listing(open.as_fd(), &place.project, place.id)
                        .map_err(|error| {
                            let directory = self.layout.ready(&place.project, place.id);
                            disk_error("read the record of a build", &directory)(error)
                        }),
                    None => Ok(None),
                },
            };
            match found {
                Ok(Some(listing)) => builds.push(listing),
                // It was removed by another program.
                Ok(None) => self.index.remove(&place.project, place.id),
                // An unreadable build must not hide the others.
                Err(_) => {}
            }
        }
        builds
    }

    /// The builds on disk, of one project or of all, whose ids begin with `prefix`, as far as the scan has
    /// progressed; at most `limit`.
    pub fn with_prefix(
        &self,
        project: Option<&ProjectName>,
        prefix: &JobIdPrefix,
        limit: usize,
    ) -> Vec<(ProjectName, JobId)> {
        self.index.with_prefix(project, prefix, limit)
    }

    /// Reads the tree into the index, and marks builds that a previous process of this boot finished but did
    /// not mark as durable. Run once, in the background.
    ///
    /// # Errors
    /// The first error; unreadable builds are skipped.
    pub fn scan(&self) -> Result<(), Error> {
        let mut unmarked = Vec::new();
        let projects = self.projects();
        self.stats.load(&self.layout);
        let mut first_error = self.scan_pins().err();
        for project in projects.as_deref().unwrap_or_default() {
            let builds = self.layout.builds(project, State::Ready);
            let ids = list_ids(&builds).unwrap_or_else(|error| {
                first_error.get_or_insert(disk_error("list the builds", &builds)(error));
                Vec::new()
            });
            for id in ids {
                match self.scan_build(project, id) {
                    Ok(directory) => unmarked.extend(directory),
                    Err(error) => drop(first_error.get_or_insert(error)),
                }
            }
        }
        // A list of what was found is better than waiting forever.
        self.index.completed();
        projects.map_err(disk_error("list the builds", self.root()))?;
        self.make_durable(&unmarked).map_err(disk_error(
            "bring builds of an earlier process to stable storage",
            self.root(),
        ))?;
        let counted = self.count_attempts();
        first_error.map_or(counted, Err)
    }

    /// Enters a build as it is on disk. Returns its directory if it is not marked as durable.
    fn scan_build(&self, project: &ProjectName, id: JobId) -> Result<Option<PathBuf>, Error> {
        // A build that is removed between the two steps would stay in the index.
        let _one_at_a_time = self.changing.lock();
        let directory = self.layout.ready(project, id);
        if !self.has_directory(project, id) {
            return Ok(None);
        }
        // An incomplete or missing one counts as absent, and is rebuilt when it is requested.
        let torn = || io::Error::from(io::ErrorKind::InvalidData);
        let record = record::read(&directory)
            .and_then(|record| record.ok_or_else(torn))
            .map_err(disk_error("read the record of a build", &directory))?;
        if !self.survived(&record.internal) {
            return Ok(None);
        }
        let is_unmarked = self.is_unmarked(&record);
        let path = self.layout.served(project, id);
        let record = record.complete(project, id, State::Ready, path);
        let entry = IndexEntry::of(&record.info, record.internal.own);
        self.index.put_scanned(Place::of(&record.info), entry);
        Ok(is_unmarked.then_some(directory))
    }

    /// Enters a new or changed build into the index.
    pub(super) fn enter(&self, info: &BuildInfo) {
        self.index.put(Place::of(info), IndexEntry::of(info, None));
    }

    /// Every directory under the build path that may belong to a project.
    pub(super) fn projects(&self) -> io::Result<Vec<ProjectName>> {
        named_directories(std::fs::read_dir(self.layout.root())?)
    }
}
