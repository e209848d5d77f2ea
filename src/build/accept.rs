//! Accepts a job: writes its directory, record and log to stable storage.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::disk::{DIRECTORY_MODE, make_directories};
use super::error::disk_error;
use super::inputs::Inputs;
use super::log::BuildLog;
use super::pending::PendingBuild;
use super::replace::Durability;
use super::store::BuildStore;
use super::{Bookkeeping, BuildInfo, Error, Record, record};
use crate::faults;
use crate::job::{Job, JobId};
use crate::project::Context;

/// How a job was requested.
#[derive(Clone, Debug, Default)]
pub struct Requested {
    /// With a new image.
    pub rebuild: bool,
    /// As a cold build.
    pub cold: bool,
    /// The client, as the interface names it.
    pub asker: Option<String>,
}

impl BuildStore {
    /// Writes a requested job, whose id is `id`, to stable storage: from here on it is accepted.
    ///
    /// # Errors
    /// When it cannot be written; nothing is left behind then.
    pub fn accept(
        self: &Arc<Self>,
        job: &Job,
        id: JobId,
        context: &Context,
        requested: Requested,
    ) -> Result<PendingBuild, Error> {
        let now = jiff::Timestamp::now();
        let (number, flaky) = self.next_attempt(&job.project, id)?;
        let mut record = Record {
            info: BuildInfo::accepted(job, id, self.layout.served(&job.project, id), now),
            internal: Bookkeeping::default(),
        };
        (record.info.number, record.info.numbers) = (number, number);
        record.info.flaky = flaky;
        record.internal.rebuild = requested.rebuild;
        record.info.cold = requested.cold;
        record.info.asked_by = requested.asker;
        record.internal.boot.clone_from(&self.boot);
        record.internal.opaque = job
            .params
            .iter()
            .filter(|(name, _)| name.is_opaque())
            .map(|(name, value)| (name.to_string(), value.clone()))
            .collect();
        let listed = Inputs::of(context).into_record(&mut record.internal);
        let directory = self.layout.pending(&job.project, id);
        let accepted = self.write_down(&directory, &record, listed.as_ref());
        if accepted.is_err() {
            // Undo: the next attempt must find the path free.
            let _ = std::fs::remove_dir_all(&directory);
        }
        let write = disk_error("write the job down", &directory);
        let log = accepted.map_err(&write)?;
        Ok(PendingBuild::new(self.clone(), record, log))
    }

    fn write_down(
        &self,
        directory: &Path,
        record: &Record,
        listed: Option<&Inputs>,
    ) -> io::Result<BuildLog> {
        let parent = directory.parent().unwrap_or(directory);
        let is_new = !parent.exists();
        make_directories(parent)?;
        match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
            // Only one build of an id is ever pending, so this directory belongs to no build.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.throw_away(directory)?;
                DirBuilder::new().mode(DIRECTORY_MODE).create(directory)?;
            }
            other => other?,
        }
        faults::point("accept-directory");
        // The log is created first, so that it can be followed from then on.
        let log = BuildLog::open(directory)?;
        if let Some(inputs) = listed {
            inputs.write(directory)?;
        }
        record::write(directory, &record.to_file(), Durability::OnReturn)?;
        faults::point("accept-record");
        File::open(parent)?.sync_all()?;
        if is_new {
            // The project's directory and its entry may have been created just now.
            for above in parent.ancestors().skip(1).take(2) {
                File::open(above)?.sync_all()?;
            }
        }
        Ok(log)
    }
}
