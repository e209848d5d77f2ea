//! The start of a build: its data is cloned from its base or created empty, its params are written.
//!
//! The data of the base may hold anything, including links in place of the daemon's directories. So
//! directories and params are created beneath a handle on `data`, and no link is followed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::base::BaseChoice;
use super::disk::make_directory;
use super::error::{Error, disk_error};
use super::pending::{PendingBuild, User};
use super::{ImageRecord, layout, record};
use crate::filesystem::open_writable;
use crate::job::{JobId, Params};
use crate::project::{ArtifactsStart, Context, ProjectName};
use crate::{faults, filesystem};

/// Files of opaque params held open while a build runs, so that they can be emptied at its end wherever the
/// build moved them: more than builds have, and few of the usual 1,024 descriptors.
const MAX_OPEN_OPAQUE_FILES: usize = 16;

/// From which build a build's `data` starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseUse {
    /// Empty: there is no group, or it has no build yet.
    NoBase,
    /// Empty, because a cold build was requested.
    Cold,
    /// A clone of the group's latest build.
    Latest,
    /// Empty, because the group's latest build holds unreadable files.
    Unreadable,
    /// Empty, because the group's latest build belongs to another user, and the daemon may not chown its
    /// files.
    Foreign,
    /// Empty, because a changed file is not newer than the group's latest build.
    Newer,
    /// A clone of an earlier build of the group that was made of the same files, for the same reason.
    Earlier,
}

impl PendingBuild {
    /// Prepares the build: `data` is cloned from the group's latest build, or created empty, and the params
    /// are written. A base that cannot be read is not used: a build that removes its own user's permissions
    /// must not break its group. Neither is a base that is as new as a file that has changed since;
    /// [`PendingBuild::reconsider`] checks the image for the same. Files that the container must be able to
    /// write belong to `user`, even if another user made the base.
    ///
    /// # Errors
    /// When the tree cannot be created or cloned.
    pub fn prepare(
        &mut self,
        params: &Params,
        user: &User,
        context: &Context,
        artifacts: ArtifactsStart,
    ) -> Result<BaseUse, Error> {
        // A default of the project is removed at the end like a value that was sent.
        for (name, value) in params.iter().filter(|(name, _)| name.is_opaque()) {
            let opaque = &mut self.record.internal.opaque;
            opaque
                .entry(name.to_string())
                .or_insert_with(|| value.clone());
        }
        let info = &self.record.info;
        self.store.enter(info);
        // Only a group has a base; the latest build without a group is never a base.
        let choice = match info.group.name() {
            Some(group) if !info.cold => {
                self.store
                    .choose_base(&self.record.info.project, group, context)?
            }
            _ => BaseChoice::default(),
        };
        match self.start_from(choice, params, user, artifacts)? {
            BaseUse::NoBase if self.record.info.cold => Ok(BaseUse::Cold),
            base_use => Ok(base_use),
        }
    }

    /// Checks the base again, now that the image is known. If a file that differs from those of the base is
    /// not newer in the image than the base, the build starts again without that base, and the result says
    /// how; else `None`.
    ///
    /// # Errors
    /// When the tree cannot be created or cloned.
    pub fn reconsider(
        &mut self,
        image: &ImageRecord,
        params: &Params,
        user: &User,
        context: &Context,
        artifacts: ArtifactsStart,
    ) -> Result<Option<BaseUse>, Error> {
        let Some(change) = self.change.take() else {
            return Ok(None);
        };
        let base = self.image_of_base(&self.record.info.project);
        let Some(group) = self.record.info.group.name().cloned() else {
            return Ok(None);
        };
        if image.is_newer(base.as_ref(), &change) {
            return Ok(None);
        }
        self.clear_data()?;
        let choice = self
            .store
            .choose_other_base(&self.record.info.project, &group, context);
        self.start_from(choice, params, user, artifacts).map(Some)
    }

    fn start_from(
        &mut self,
        choice: BaseChoice,
        params: &Params,
        user: &User,
        artifacts: ArtifactsStart,
    ) -> Result<BaseUse, Error> {
        let data = self.data();
        let filesystem = self.store.filesystem;
        let mut base_use = match choice.is_latest_unusable {
            true => BaseUse::Newer,
            false => BaseUse::NoBase,
        };
        let mut is_cloned = false;
        if let Some(base) = choice.base
            && let Some(_held) = self.store.lease(&self.record.info.project, base)?
        {
            let from = self
                .store
                .layout
                .ready(&self.record.info.project, base)
                .join(layout::DATA);
            let clone = |cause| Error::Tree("clone the latest build of the group", cause);
            let without = match artifacts {
                ArtifactsStart::Kept => &[layout::PARAMS.as_ref()][..],
                ArtifactsStart::Fresh => &[layout::PARAMS.as_ref(), layout::ARTIFACTS.as_ref()],
            };
            base_use = match filesystem.clone_until(&from, &data, without, &self.interrupt) {
                Ok(()) => match self.chown_clone(base, &data, user)? {
                    BaseUse::Latest => {
                        is_cloned = true;
                        match choice.is_latest_unusable {
                            true => BaseUse::Earlier,
                            false => BaseUse::Latest,
                        }
                    }
                    foreign => foreign,
                },
                Err(cause) if is_permission_denied(&cause) => {
                    self.clear_data()?;
                    BaseUse::Unreadable
                }
                Err(cause) => return Err(self.abandon_data(clone(cause))),
            };
        }
        if !is_cloned {
            filesystem
                .create(&data)
                .map_err(|cause| Error::Tree("make the build's directory", cause))?;
        }
        faults::point("data-made");
        let base = choice.base.filter(|_| is_cloned);
        self.change = choice.change.filter(|_| is_cloned);
        self.record.info.base = base;
        self.record.info.incremental = is_cloned;
        self.record.internal.user = Some(user.to_string());
        (self.opaque_files, self.record.internal.opaque_inodes) = write_layout(&data, params, user)
            .map_err(disk_error("write the build's params", &data))?;
        Ok(base_use)
    }

    /// Changes the owner of a base's clone to `user`, if another one made the base.
    fn chown_clone(&self, base: JobId, data: &Path, user: &User) -> Result<BaseUse, Error> {
        let directory = self.store.layout.ready(&self.record.info.project, base);
        let read = disk_error(
            "read the record of the latest build of the group",
            &directory,
        );
        let made = record::read(&directory).map_err(&read)?;
        let made_by = match made.and_then(|record| record.internal.user) {
            Some(made_by) => made_by,
            // A record of an earlier version; the root belongs to the container's user.
            None => {
                let root = data
                    .symlink_metadata()
                    .map_err(disk_error("look at the clone", data))?;
                format!("{}:{}", root.uid(), root.gid())
            }
        };
        if made_by == user.to_string() {
            return Ok(BaseUse::Latest);
        }
        let filesystem = self.store.filesystem;
        let give = |cause| Error::Tree("give the latest build of the group to its user", cause);
        match filesystem.chown_until(data, user.user, user.group, &self.interrupt) {
            Ok(()) => Ok(BaseUse::Latest),
            Err(cause) if is_permission_denied(&cause) => {
                self.clear_data()?;
                Ok(BaseUse::Foreign)
            }
            Err(cause) => Err(self.abandon_data(give(cause))),
        }
    }

    /// The image of this build's base.
    pub(super) fn image_of_base(&self, project: &ProjectName) -> Option<ImageRecord> {
        let base = self.info().base?;
        let record = record::read(&self.store.layout.ready(project, base)).ok()??;
        let image = record.view.image?;
        let records = self.store.image_records(project);
        records.images.into_iter().find(|known| known.id == image)
    }

    /// Removes data that was cloned from a base that cannot be used. Removal may take long, so the data
    /// is moved to the trash, unless it cannot be moved.
    pub(super) fn clear_data(&self) -> Result<(), Error> {
        let data = self.directory().join(layout::DATA);
        if self.store.throw_away(&data).is_err() {
            let removed = self.store.filesystem.remove(&data);
            removed.map_err(|cause| Error::Tree("clear what was cloned", cause))?;
        }
        Ok(())
    }

    /// Passes an error on. If the build must end, its data is moved to the trash, since its removal would
    /// delay the end; data that cannot be moved is removed with the build.
    pub(super) fn abandon_data(&self, why: Error) -> Error {
        if self.interrupt().is_asked() {
            let _ = self.store.throw_away(&self.directory().join(layout::DATA));
        }
        why
    }
}

fn is_permission_denied(error: &filesystem::Error) -> bool {
    let cause = error.io();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
}

/// Creates `artifacts`, `cache` and `params` under `data`, and writes the params. Returns the files of the
/// first opaque ones, and the inodes of all of them.
fn write_layout(
    data: &Path,
    params: &Params,
    user: &User,
) -> io::Result<(Vec<File>, BTreeMap<String, u64>)> {
    let Some(data) = open_writable(rustix::fs::CWD, data)? else {
        return Err(io::ErrorKind::NotFound.into());
    };
    user.chown(data.as_fd())?;
    for name in [layout::ARTIFACTS, layout::CACHE, layout::PARAMS] {
        // A clone may hold a file or a link that an earlier container left in this place.
        let is_made = make_directory(data.as_fd(), name)?;
        // Opened in any case: a directory that an earlier build made inaccessible is accessible to the next
        // build.
        match open_writable(data.as_fd(), Path::new(name)) {
            Ok(Some(directory)) if is_made => user.chown(directory.as_fd())?,
            // It belongs to another user, as whom the next build may run.
            Err(error) if is_made || error.kind() != io::ErrorKind::PermissionDenied => {
                return Err(error);
            }
            _ => {}
        }
    }
    let Some(directory) = open_writable(data.as_fd(), Path::new(layout::PARAMS))? else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let (mut opaque_files, mut opaque_inodes) = (Vec::new(), BTreeMap::new());
    for (name, value) in params {
        let mut file = File::from(rustix::fs::openat(
            &directory,
            name.as_str(),
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(if name.is_opaque() { 0o600 } else { 0o640 }),
        )?);
        file.write_all(value.as_bytes())?;
        user.chown(file.as_fd())?;
        if name.is_opaque() {
            let inode = rustix::fs::fstat(&file)?.st_ino;
            opaque_inodes.insert(name.to_string(), inode);
            if opaque_files.len() < MAX_OPEN_OPAQUE_FILES {
                opaque_files.push(file);
            }
        }
    }
    Ok((opaque_files, opaque_inodes))
}
