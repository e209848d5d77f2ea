//! What a container finds beside its params: the directories that its image declares, its home
//! directory, and where package managers keep their caches.
//!
//! An image is asked once what it declares, and whether it knows the user that runs in it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::build::MountPoint;
use crate::docker::{self, Docker, ImageConfig};

/// Images remembered; past it all are forgotten, which costs some questions each.
const MAX_KNOWN: usize = 4_096;

/// Where the data of a build is in its container.
const DATA: &str = "/data";

/// The home directory of a user that the image does not know. No image has a directory there, and
/// what is mounted at `/home` or `/root` is not in its way.
pub(super) const HOME: &str = "/mistry/home";

/// Variables that tell package managers where their caches are; all but the first for those that do
/// not keep to it. npm reads its own in any case of letters. Yarn 1 has the folder, Yarn 2 and later
/// keep it in the global folder unless told otherwise.
const CACHES: [(&str, &str); 5] = [
    ("XDG_CACHE_HOME", "/data/cache"),
    ("npm_config_cache", "/data/cache/npm"),
    ("YARN_CACHE_FOLDER", "/data/cache/yarn"),
    ("YARN_GLOBAL_FOLDER", "/data/cache/yarn-global"),
    ("BUNDLE_USER_CACHE", "/data/cache/bundler"),
];

/// What is known of images.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    known: Mutex<HashMap<String, Arc<Known>>>,
}

/// What is known of one image.
#[derive(Debug, Default)]
struct Known {
    config: ImageConfig,
    /// Whether users have a home directory.
    users: Mutex<HashMap<Inhabitant, bool>>,
}

/// A user, and what is mounted: it may bring a list of users of its own.
type Inhabitant = (u32, BTreeMap<PathBuf, String>);

/// What the containers of an image need on disk, and what they are told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Declared {
    /// Directories below the build's `data`, relative to it.
    pub(super) directories: Vec<PathBuf>,
    /// Those of them that must be mounted by name, or the Engine mounts a volume of its own there.
    pub(super) volumes: Vec<PathBuf>,
    /// The image sets `HOME`.
    pub(super) has_home: bool,
    /// Variables for caches that the image does not set.
    pub(super) environment: Vec<String>,
}

impl Surroundings {
    /// What an image says of its containers.
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
                let known = Arc::new(Known {
                    config,
                    users: Mutex::default(),
                });
                let mut all = self.lock();
                if all.len() >= MAX_KNOWN {
                    all.clear();
                }
                all.entry(image.to_owned()).or_insert(known).clone()
            }
        };
        Ok(Declared::of(&known.config))
    }

    /// Whether a user has a home directory in an image with these mounts; `None` until it was found.
    pub(super) fn is_at_home(
        &self,
        image: &str,
        user: u32,
        mounts: &BTreeMap<PathBuf, String>,
    ) -> Option<bool> {
        let known = self.lock().get(image).cloned()?;
        let users = known.users.lock();
        users.get(&(user, mounts.clone())).copied()
    }

    /// Remembers whether a user has a home directory in an image.
    pub(super) fn found(
        &self,
        image: &str,
        user: u32,
        mounts: &BTreeMap<PathBuf, String>,
        is_at_home: bool,
    ) {
        let Some(known) = self.lock().get(image).cloned() else {
            return;
        };
        let mut users = known.users.lock();
        if users.len() >= MAX_KNOWN {
            users.clear();
        }
        users.insert((user, mounts.clone()), is_at_home);
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, HashMap<String, Arc<Known>>> {
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
        let caches = CACHES.iter().filter(|(name, _)| !is_set(name));
        Declared {
            directories,
            volumes,
            // The runtime takes an empty one for none.
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

/// What a container's home directory needs, given what its author mounts: the places in it that are
/// mounted over; `None` where the author's mounts have its place.
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

/// The path of a container's directory relative to `/data`; `None` for one that is not below it.
fn below_data(path: &str) -> Option<PathBuf> {
    let path = clean(path);
    let below = path.strip_prefix(DATA).ok()?;
    (below != Path::new("")).then(|| below.to_owned())
}

/// An absolute path without `.`, `..` and doubled slashes, as the Engine understands paths of images.
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
    fn only_what_is_below_data_is_the_builds_own() {
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
    fn what_an_image_sets_is_left_to_it() {
        let of = |environment: &[&str]| {
            Declared::of(&ImageConfig {
                environment: environment.iter().map(|&set| set.to_owned()).collect(),
                ..ImageConfig::default()
            })
        };
        assert_eq!(of(&["PATH=/bin"]).environment.len(), CACHES.len());
        let set = of(&["NPM_CONFIG_CACHE=/x", "HOME=/h", "yarn_cache_folder=/y"]);
        assert!(set.has_home);
        assert_eq!(set.environment.len(), CACHES.len() - 1);
        assert!(!of(&["HOME="]).has_home);
    }

    #[test]
    fn what_an_author_mounts_over_the_home_directory_wins() {
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
