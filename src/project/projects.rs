//! All projects under one directory: opened, listed, read.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::context::Context;
use super::entry::open;
use super::error::Error;
use super::name::{Project, ProjectName};
use super::param_schema::ParamSchema;
use super::recipe::{DOCKERFILE, SETTINGS};
use super::settings::Settings;
use super::similar::{MAX_COMPARED, most_similar};
use super::walk::{self, DigestCache};
use crate::located::at;

/// All projects under one `projects_path`.
#[derive(Clone, Debug)]
pub struct Projects {
    root: PathBuf,
    /// Guards only the map; walks happen without it. Std, because it is held for a lookup.
    remembered: Arc<Mutex<HashMap<ProjectName, Arc<DigestCache>>>>,
}

impl Projects {
    /// The projects under `root`, which must exist (the configuration has checked that).
    pub fn new(root: &Path) -> Projects {
        Projects {
            root: root.to_owned(),
            remembered: Arc::default(),
        }
    }

    /// `projects_path`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Finds a project by name.
    ///
    /// # Errors
    /// [`Error::Unknown`] without a directory, [`Error::NoDockerfile`], [`Error::Unbuildable`] when the
    /// Dockerfile is not a regular file.
    pub fn open(&self, name: &ProjectName) -> Result<Project, Error> {
        let path = self.root.join(name.as_str());
        match std::fs::symlink_metadata(path.join(DOCKERFILE)) {
            Ok(found) if found.is_file() => Ok(Project {
                name: name.clone(),
                path,
            }),
            Ok(found) => Err(Error::Unbuildable(
                name.clone(),
                format!(
                    "its {DOCKERFILE} is {}",
                    walk::not_a_file(walk::kind_of(found.file_type()))
                ),
            )),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                if self.root.join(name.as_str()).is_dir() {
                    Err(Error::NoDockerfile(name.clone()))
                } else {
                    Err(self.unknown(name))
                }
            }
            Err(error) => Err(Error::Read(name.clone(), at(&path.join(DOCKERFILE))(error))),
        }
    }

    /// Names of all projects, sorted. Other entries are skipped.
    ///
    /// # Errors
    /// When `projects_path` cannot be listed.
    pub fn list(&self) -> Result<Vec<ProjectName>, Error> {
        let mut names = Vec::new();
        let unlisted = |error| Error::List(at(&self.root)(error));
        for entry in std::fs::read_dir(&self.root).map_err(unlisted)? {
            let entry = entry.map_err(unlisted)?;
            let name = entry.file_name().to_str().and_then(|n| n.parse().ok());
            if let Some(name) = name
                && self.open(&name).is_ok()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The error about a name that is no project, with the project that was probably meant.
    fn unknown(&self, name: &ProjectName) -> Error {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten();
        let entries = entries.take(MAX_COMPARED).filter_map(Result::ok);
        let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let names: Vec<ProjectName> = names.collect();
        let meant = most_similar(name.as_str(), names.iter().map(ProjectName::as_str));
        let meant = meant.filter(|meant| self.root.join(meant).join(DOCKERFILE).is_file());
        Error::Unknown(name.clone(), meant.and_then(|meant| meant.parse().ok()))
    }

    /// The params that a project takes, without a look at its other files; `None` without a schema, and where
    /// `mistry.json` cannot be read: a build reports that.
    ///
    /// # Errors
    /// [`Error::Settings`] where `mistry.json` is invalid.
    pub fn params(&self, name: &ProjectName) -> Result<Option<ParamSchema>, Error> {
        let home = self.root.join(name.as_str());
        let Some(text) = read_settings(&home) else {
            return Ok(None);
        };
        let settings = Settings::parse(&text, &home);
        let settings = settings.map_err(|source| Error::Settings(name.clone(), source))?;
        Ok(settings.params)
    }

    /// Walks the project's context and digests it; files whose stamp is known are not read again.
    ///
    /// # Errors
    /// See [`Projects::open`]; [`Error::Unbuildable`] when Docker would reject its `.dockerignore`, or
    /// `mistry.json` is not a regular file; [`Error::Read`] when a file cannot be read.
    pub fn context(&self, name: &ProjectName) -> Result<Context, Error> {
        let project = Project {
            name: name.clone(),
            path: self.root.join(name.as_str()),
        };
        let known = self.lock().get(name).cloned();
        let (context, memory) = match Context::read(&project, known.as_deref()) {
            Ok(read) => read,
            Err(Error::Read(_, error)) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(self.unknown(name));
            }
            // It existed a moment ago: its removal counts.
            Err(Error::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                self.open(name)?;
                return Err(Error::Changed(name.clone()));
            }
            Err(error) => return Err(error),
        };
        if !context.has_dockerfile() {
            // Anything in its place has its own error.
            self.open(name)?;
            return Err(Error::Changed(name.clone()));
        }
        if let Some(memory) = memory {
            self.lock().insert(name.clone(), Arc::new(memory));
        }
        Ok(context)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProjectName, Arc<DigestCache>>> {
        self.remembered.lock()
    }
}

/// The content of the `mistry.json` of the project at `home`, if it can be read and is not too long.
fn read_settings(home: &Path) -> Option<Vec<u8>> {
    let file = open(&home.join(SETTINGS)).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    let most = walk::MAX_SETTINGS_BYTES;
    file.take(most as u64 + 1).read_to_end(&mut text).ok()?;
    (text.len() <= most).then_some(text)
}
