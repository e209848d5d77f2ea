//! What a container needs besides its params: the directories that its image declares, its home
//! directory, and the cache directories of package managers.
//!
//! An image is inspected once for what it declares, and whether it has the user that runs in it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::build::MountPoint;
use crate::docker::{self, Docker, ImageConfig};

/// Images remembered; beyond that all are dropped, which costs some requests each.
const MAX_KNOWN_IMAGES: usize = 4_096;
/// Users remembered of each image; the same.
const MAX_KNOWN_USERS: usize = 4_096;

/// The path of a build's data in its container.
const DATA: &str = "/data";

/// The home directory of a user that the image does not have. No image has a directory there, and mounts at
/// `/home` or `/root` do not conflict with it.
pub(super) const HOME: &str = "/mistry/home";

/// Variables with the cache directories of package managers; all but the first for those that ignore it. npm
/// reads its own in upper or lower case. Yarn 1 uses the folder, Yarn 2 and later the global folder unless
/// configured otherwise.
const CACHE_VARIABLES: [(&str, &str); 5] = [
    ("XDG_CACHE_HOME", "/data/cache"),
    ("npm_config_cache", "/data/cache/npm"),
    ("YARN_CACHE_FOLDER", "/data/cache/yarn"),
    ("YARN_GLOBAL_FOLDER", "/data/cache/yarn-global"),
    ("BUNDLE_USER_CACHE", "/data/cache/bundler"),
];

/// Properties of images, each read once.
#[derive(Debug, Default)]
pub(super) struct ImageProperties {
    known: Mutex<HashMap<String, Arc<KnownImage>>>,
}

/// Properties of one image.
#[derive(Debug, Default)]
struct KnownImage {
    config: ImageConfig,
    /// Whether users have a home directory.
    users: Mutex<HashMap<UserAndMounts, bool>>,
}

/// A user, and the mounts: they may contain another list of users.
type UserAndMounts = (u32, BTreeMap<PathBuf, String>);

/// The directories and variables for the containers of an image.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Declared {
    /// Directories below the build's `data`, relative to it.
    pub(super) directories: Vec<PathBuf>,
    /// Those that must be mounted by name, or the Engine mounts an anonymous volume there.
    pub(super) volumes: Vec<PathBuf>,
    /// The image sets `HOME`.
    pub(super) has_home: bool,
    /// Variables for caches that the image does not set.
    pub(super) environment: Vec<String>,
}

impl ImageProperties {
    /// The declarations of an image.
    pub(super) async fn declared(
        &self,
        docker: &Docker,
        image: &str,
    ) -> Result<Declared, docker::Error> {
        let known = self.lock().get(image).cloned();
        let known = match known {
            Some(known) => known,
            None => {
                let config = docker.image_config(image).await?;
                let known = Arc::new(KnownImage {
                    config,
                    users: Mutex::default(),
                });
                let mut all = self.lock();
                if all.len() >= MAX_KNOWN_IMAGES {
                    all.clear();
                }
                all.entry(image.to_owned()).or_insert(known).clone()
            }
        };
        Ok(Declared::of(&known.config))
    }

    /// Whether a user has a home directory in an image with these mounts; `None` until it was found.
    pub(super) fn has_home_directory(
        &self,
        image: &str,
        user: u32,
        mounts: &BTreeMap<PathBuf, String>,
    ) -> Option<bool> {
        let known = self.lock().get(image).cloned()?;
        let users = known.users.lock();
        users.get(&(user, mounts.clone())).copied()
    }

    /// Records whether a user has a home directory in an image.
    pub(super) fn note_home_directory(
        &self,
        image: &str,
        user: u32,
        mounts: &BTreeMap<PathBuf, String>,
        has_home_directory: bool,
    ) {
        let Some(known) = self.lock().get(image).cloned() else {
            return;
        };
        let mut users = known.users.lock();
        if users.len() >= MAX_KNOWN_USERS {
            users.clear();
        }
        users.insert((user, mounts.clone()), has_home_directory);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<KnownImage>>> {
        self.known.lock()
    }
}

impl Declared {
    fn of(config: &ImageConfig) -> Declared {
        let volumes: Vec<PathBuf> = config
            .volumes
            .iter()
            .filter_map(|v| below_data(v))
            .collect();
        let mut directories = volumes.clone();
        directories.extend(below_data(&config.working_dir));
        let is_set = |name: &str| {
            let mut names = config.environment.iter();
            names.any(|set| {
                let set = set.split_once('=').map_or(set.as_str(), |(name, _)| name);
                let is_npm = name.starts_with("npm_config_");
                set == name || is_npm && set.eq_ignore_ascii_case(name)
            })
        };
        let caches = CACHE_VARIABLES.iter().filter(|(name, _)| !is_set(name));
        Declared {
            directories,
            volumes,
            // The runtime treats an empty value as unset.
            has_home: config.environment.iter().any(|set| {
                set.strip_prefix("HOME=")
                    .is_some_and(|home| !home.is_empty())
            }),
            environment: caches
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        }
    }
}

/// The mount points in a container's home directory, given the author's mounts; `None` if the author's mounts
/// replace it.
pub(super) fn mounted_in_home(mounts: &BTreeMap<PathBuf, String>) -> Option<Vec<MountPoint>> {
    let home = Path::new(HOME);
    let mut inside = Vec::new();
    for (host, target) in mounts {
        let target = clean(target);
        if home.starts_with(&target) {
            return None;
        }
        if let Ok(path) = target.strip_prefix(home) {
            inside.push(MountPoint {
                path: path.to_owned(),
                is_directory: host.is_dir(),
            });
        }
    }
    Some(inside)
}

/// The path of a container's directory relative to `/data`; `None` if it is elsewhere.
fn below_data(path: &str) -> Option<PathBuf> {
    let path = clean(path);
    let below = path.strip_prefix(DATA).ok()?;
    (below != Path::new("")).then(|| below.to_owned())
}

/// An absolute path without `.`, `..` and doubled slashes, as the Engine resolves paths of images.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_below_data_belong_to_the_build() {
        for (path, below) in [
            ("/data/artifacts", Some("artifacts")),
            ("/data//cache/x/", Some("cache/x")),
            ("/data/./a/../b", Some("b")),
            ("//data/a", Some("a")),
            ("/data", None),
            ("/data/", None),
            ("/data/../etc", None),
            ("/data/../../data/a", Some("a")),
            ("/database/x", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(below_data(path), below.map(PathBuf::from), "{path}");
        }
    }

    #[test]
    fn a_project_sets_no_variable_that_mistryd_sets() {
        let own = CACHE_VARIABLES.iter().map(|(name, _)| *name);
        let own: Vec<&str> = ["HOME"].into_iter().chain(own).collect();
        assert_eq!(own, crate::project::OWN_VARIABLES);
    }

    #[test]
    fn variables_that_an_image_sets_are_kept() {
        let of = |environment: &[&str]| {
            Declared::of(&ImageConfig {
                environment: environment.iter().map(|&set| set.to_owned()).collect(),
                ..ImageConfig::default()
            })
        };
        assert_eq!(of(&["PATH=/bin"]).environment.len(), CACHE_VARIABLES.len());
        let set = of(&["NPM_CONFIG_CACHE=/x", "HOME=/h", "yarn_cache_folder=/y"]);
        assert!(set.has_home);
        assert_eq!(set.environment.len(), CACHE_VARIABLES.len() - 1);
        assert!(!of(&["HOME="]).has_home);
    }

    #[test]
    fn a_configured_mount_replaces_the_home_directory() {
        let mounts = |target: &str| BTreeMap::from([(PathBuf::from("/"), target.to_owned())]);
        assert_eq!(mounted_in_home(&mounts("/mistry/home/")), None);
        assert_eq!(mounted_in_home(&mounts("/mistry")), None);
        assert_eq!(mounted_in_home(&mounts("/home")), Some(Vec::new()));
        let inside = mounted_in_home(&mounts("/mistry/home/.ssh")).unwrap();
        assert_eq!(
            (&*inside[0].path, inside[0].is_directory),
            (Path::new(".ssh"), true)
        );
    }
}
