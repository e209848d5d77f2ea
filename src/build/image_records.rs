//! The records of the images that were built for a project: which images mistry built, which layers and
//! containers their builds created, and when.
//!
//! Docker copies the labels of an image to its containers, commits and children, so a label alone does not
//! prove that mistry built an image: its id must also be recorded here. The records are a cache: without them
//! an image is built again, mostly from Docker's own cache, and nothing is removed.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::disk::make_directories;
use super::store::BuildStore;
use crate::located::at;
use crate::project::ProjectName;

/// Images recorded per project; an older one is built again on demand.
const MAX_IMAGES: usize = 64;
/// Layers recorded per project: 64 images of the longest Dockerfiles there are.
const MAX_LAYERS: usize = 4_096;
/// Containers of image builds recorded per project; they are removed when their build ends.
const MAX_CONTAINERS: usize = 256;
/// Most bytes of a stored instruction; a longer one is not stored.
const MAX_INSTRUCTION_BYTES: usize = 512;
/// A larger file is invalid.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// Most files to read: more than any host has projects.
const MAX_FILES: usize = 10_000;

/// An image that was built for a context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageRecord {
    /// Its id (`sha256:…`).
    pub id: String,
    /// The digest of its context.
    pub context: String,
    /// The user that the image was built for.
    pub uid: String,
    /// The steps of its Dockerfile except `FROM`, of all stages.
    pub steps: Vec<Step>,
}

/// A step of a Dockerfile, as it was built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Step {
    /// The first digits of the id of its layer.
    pub layer: String,
    /// When the image build that made the layer started; `None` if mistry did not run it.
    pub made: Option<Timestamp>,
    /// The instruction.
    pub instruction: String,
}

/// A layer that an image build of mistry created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MadeLayer {
    /// The first digits of its id.
    pub id: String,
    /// When that image build started.
    pub made: Timestamp,
    /// The latest image build that succeeded made or used it.
    pub is_built: bool,
    /// The latest image build, if it failed, made or used it.
    pub is_tried: bool,
}

/// A container that an image build created for a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MadeContainer {
    /// The first digits of its id.
    pub id: String,
    /// When that image build started.
    pub made: Timestamp,
}

/// The image records of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageRecords {
    /// Images, the latest last.
    pub images: Vec<ImageRecord>,
    /// Layers that may still exist, in order of creation.
    pub layers: Vec<MadeLayer>,
    /// Containers that may still exist.
    pub containers: Vec<MadeContainer>,
}

impl ImageRecords {
    /// Records a created layer.
    pub fn add_layer(&mut self, id: &str, made: Timestamp) {
        if self.layers.iter().any(|layer| layer.id == id) {
            return;
        }
        if self.layers.len() >= MAX_LAYERS {
            self.layers.remove(0);
        }
        self.layers.push(MadeLayer {
            id: id.to_owned(),
            made,
            is_built: false,
            is_tried: true,
        });
    }

    /// Records a created container.
    pub fn add_container(&mut self, id: &str, made: Timestamp) {
        if self.containers.len() >= MAX_CONTAINERS {
            self.containers.remove(0);
        }
        let id = id.to_owned();
        self.containers.push(MadeContainer { id, made });
    }

    /// When the image build that made a layer started, if mistry ran it.
    pub fn made(&self, layer: &str) -> Option<Timestamp> {
        let known = self.layers.iter().find(|known| known.id == layer);
        let steps = self.images.iter().flat_map(|image| &image.steps);
        known.map(|known| known.made).or_else(|| {
            let mut steps = steps.filter(|step| step.layer == layer);
            steps.find_map(|step| step.made)
        })
    }

    /// Records the end of an image build, and which layers it made or used.
    pub fn end_build(&mut self, layers: &[&str], succeeded: bool) {
        for layer in &mut self.layers {
            let is_used = layers.contains(&layer.id.as_str());
            layer.is_tried = is_used && !succeeded;
            layer.is_built = if succeeded { is_used } else { layer.is_built };
        }
    }

    /// Records an image, as the latest.
    pub fn add_image(&mut self, image: ImageRecord) {
        self.images.retain(|known| known.id != image.id);
        if self.images.len() >= MAX_IMAGES {
            self.images.remove(0);
        }
        self.images.push(image);
    }

    /// True when the layer is an image that builds may run in.
    pub fn is_image(&self, layer: &str) -> bool {
        self.images.iter().any(|image| is_prefix(layer, &image.id))
    }
}

/// True when an id such as `sha256:…` starts with `digits`.
pub fn is_prefix(digits: &str, id: &str) -> bool {
    digits.len() >= 12 && id.trim_start_matches("sha256:").starts_with(digits)
}

impl Step {
    /// The step that ended with this layer.
    pub fn new(layer: &str, made: Option<Timestamp>, instruction: &str) -> Step {
        let instruction = match instruction.len() <= MAX_INSTRUCTION_BYTES {
            true => instruction.to_owned(),
            false => String::new(),
        };
        Step {
            layer: layer.to_owned(),
            made,
            instruction,
        }
    }

    /// Its layer may hold new files; other instructions only change settings.
    fn makes_files(&self) -> bool {
        let word = self.instruction.split_whitespace().next();
        // Too long to be stored.
        let Some(word) = word else { return true };
        // A WORKDIR creates a directory; the changes it leads to are in the layers after it.
        let making = ["RUN", "COPY", "ADD"];
        making
            .iter()
            .any(|making| word.eq_ignore_ascii_case(making))
    }
}

/// How a context differs from that of a build, when all differing files were changed after that build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When that build ended.
    pub since: Timestamp,
    /// The latest change time of a differing file.
    pub latest: SystemTime,
    /// The Dockerfile differs.
    pub is_dockerfile: bool,
    /// An archive differs: `ADD` unpacks it, and the files in it have times of their own.
    pub is_archive: bool,
}

impl ImageRecord {
    /// True when everything that differs between this image and the image of a base has a later time in this
    /// image than anything in the base. Otherwise tools that compare times would keep stale results in the
    /// base.
    ///
    /// The context must differ by `change`. Each layer that the base's image lacks must have been made after
    /// the base, and after the files were changed: a layer from Docker's cache has the times of the files
    /// that it was once made of. Each step of a changed Dockerfile may copy old files to new places. An image
    /// without steps counts as unknown.
    pub fn is_newer(&self, base: Option<&ImageRecord>, change: &Change) -> bool {
        let known = base.map_or(&[][..], |base| &base.steps);
        !self.steps.is_empty()
            && self.steps.iter().all(|step| {
                let is_known = known.iter().any(|known| known.layer == step.layer);
                if is_known || !step.makes_files() {
                    return true;
                }
                let is_unpacked = change.is_archive && {
                    let word = step.instruction.split_whitespace().next();
                    word.is_none_or(|word| word.eq_ignore_ascii_case("ADD"))
                };
                !change.is_dockerfile
                    && !is_unpacked
                    && step.made.is_some_and(|made| {
                        made > change.since && SystemTime::from(made) >= change.latest
                    })
            })
    }
}

impl BuildStore {
    /// The image records of a project; empty if the file is missing or invalid.
    pub fn image_records(&self, project: &ProjectName) -> ImageRecords {
        read(&self.layout.image_records(project)).unwrap_or_default()
    }

    /// The image records of all projects.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn all_image_records(&self) -> io::Result<BTreeMap<ProjectName, ImageRecords>> {
        let directory = self.layout.all_image_records();
        let files = match std::fs::read_dir(&directory) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(at(&directory)(error)),
        };
        let projects = files
            .take(MAX_FILES)
            .filter_map(|file| super::layout::Layout::counted_by(file.ok()?.file_name().to_str()?));
        Ok(projects
            .map(|project| (project.clone(), self.image_records(&project)))
            .collect())
    }

    /// Changes the image records of a project. This is not synced: a power cut may undo it.
    ///
    /// # Errors
    /// When it cannot be written; then it stays unchanged.
    pub fn change_image_records<T>(
        &self,
        project: &ProjectName,
        change: impl FnOnce(&mut ImageRecords) -> T,
    ) -> io::Result<T> {
        // One at a time, since the file is read, changed and replaced.
        let _one_at_a_time = self.images.lock();
        let path = self.layout.image_records(project);
        let mut records = read(&path).unwrap_or_default();
        let before = records.clone();
        let result = change(&mut records);
        if records != before {
            make_directories(&self.layout.all_image_records()).map_err(at(&path))?;
            let new = path.with_extension("new");
            std::fs::write(&new, serde_json::to_vec(&records)?).map_err(at(&new))?;
            std::fs::rename(&new, &path).map_err(at(&path))?;
        }
        Ok(result)
    }
}

/// Reads a file; `None` if mistry did not write it.
fn read(path: &Path) -> Option<ImageRecords> {
    let file = super::record::open_regular(path).ok()??;
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::filesystem::{Filesystem, Kind};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn image(steps: &[(&str, Option<i64>, &str)]) -> ImageRecord {
        let step = |(layer, made, instruction): &(&str, Option<i64>, &str)| {
            Step::new(layer, made.map(at), instruction)
        };
        ImageRecord {
            steps: steps.iter().map(step).collect(),
            ..ImageRecord::default()
        }
    }

    fn change(since: i64, latest: u64) -> Change {
        Change {
            since: at(since),
            latest: SystemTime::UNIX_EPOCH + Duration::from_secs(latest),
            is_dockerfile: false,
            is_archive: false,
        }
    }

    #[test]
    fn a_layer_missing_from_the_base_must_be_newer_than_the_base_and_the_files() {
        let base = image(&[("tools", Some(10), "RUN x"), ("v1", Some(10), "COPY s /s")]);
        let newer =
            |steps, since, latest| image(steps).is_newer(Some(&base), &change(since, latest));
        let forward = [("tools", Some(10), "RUN x"), ("v2", Some(30), "COPY s /s")];
        assert!(newer(&forward, 20, 25));
        assert!(!newer(&forward, 20, 31), "touched since the image was made");
        assert!(
            !newer(&forward, 30, 29),
            "an image that was made before the base"
        );
        let foreign = [("tools", Some(10), "RUN x"), ("v2", None, "COPY s /s")];
        assert!(!newer(&foreign, 20, 25), "a layer from Docker's cache");
        assert!(
            !image(&forward).is_newer(None, &change(20, 25)),
            "an unknown base"
        );
        let all_new = [("a", Some(30), "RUN x"), ("v2", Some(30), "COPY s /s")];
        assert!(image(&all_new).is_newer(None, &change(20, 25)));
    }

    #[test]
    fn each_new_layer_of_a_changed_dockerfile_may_contain_old_files() {
        let base = image(&[("a", Some(10), "COPY v1.c /a.c"), ("b", Some(10), "RUN x")]);
        let change = Change {
            is_dockerfile: true,
            ..change(20, 25)
        };
        for (layer, instruction) in [
            ("c", "COPY v2.c /a.c"),
            ("c", "COPY $V.c /a.c"),
            ("c", "RUN mv v2.c a.c"),
        ] {
            let next = image(&[
                ("a", Some(10), "COPY v1.c /a.c"),
                (layer, Some(30), instruction),
            ]);
            assert!(!next.is_newer(Some(&base), &change), "{instruction}");
        }
        let settings = image(&[
            ("a", Some(10), "COPY v1.c /a.c"),
            ("b", Some(10), "RUN x"),
            ("c", Some(30), "ENV V=2"),
        ]);
        assert!(settings.is_newer(Some(&base), &change));
    }

    #[test]
    fn an_unknown_image_does_not_count_as_newer() {
        let base = image(&[("a", Some(10), "COPY v1.c /a.c")]);
        assert!(!image(&[]).is_newer(Some(&base), &change(20, 25)));
    }

    #[test]
    fn an_added_archive_may_contain_files_of_any_age() {
        let base = image(&[("a", Some(10), "ADD src.tar /s")]);
        let next = image(&[("b", Some(30), "ADD src.tar /s")]);
        let archive = Change {
            is_archive: true,
            ..change(20, 25)
        };
        assert!(!next.is_newer(Some(&base), &archive));
        assert!(next.is_newer(Some(&base), &change(20, 25)));
    }

    #[test]
    fn layers_of_the_latest_success_and_of_a_later_failure_are_kept() {
        let mut records = ImageRecords::default();
        let kept = |records: &ImageRecords| -> Vec<String> {
            let layers = records.layers.iter();
            let kept = layers.filter(|layer| layer.is_built || layer.is_tried);
            kept.map(|layer| layer.id.clone()).collect()
        };
        for id in ["a", "b"] {
            records.add_layer(id, at(1));
        }
        records.end_build(&["a", "b"], true);
        records.add_layer("c", at(2));
        records.end_build(&["a", "c"], false);
        assert_eq!(kept(&records), ["a", "b", "c"]);
        records.add_layer("d", at(3));
        records.end_build(&["a", "d"], false);
        assert_eq!(kept(&records), ["a", "b", "d"]);
        records.end_build(&["a"], true);
        assert_eq!(kept(&records), ["a"]);
    }

    #[test]
    fn records_of_images_are_bounded_and_foreign_files_are_ignored() {
        let home = tempfile::tempdir().unwrap();
        let filesystem = Filesystem::detect(Kind::Plain, home.path()).unwrap();
        let store = BuildStore::open(home.path(), filesystem).unwrap();
        let project: ProjectName = "p".parse().unwrap();
        assert_eq!(store.image_records(&project), ImageRecords::default());
        let change = |records: &mut ImageRecords| {
            for n in 0..5_000 {
                records.add_layer(&n.to_string(), at(n));
                records.add_container(&n.to_string(), at(n));
                records.add_image(ImageRecord {
                    id: n.to_string(),
                    ..ImageRecord::default()
                });
            }
        };
        store.change_image_records(&project, change).unwrap();
        let records = store.image_records(&project);
        assert_eq!(records.layers.len(), MAX_LAYERS);
        assert_eq!(records.containers.len(), MAX_CONTAINERS);
        assert_eq!(records.images.len(), MAX_IMAGES);
        assert_eq!(records.made("4999"), Some(at(4_999)));
        assert_eq!(store.all_image_records().unwrap().len(), 1);
        std::fs::write(home.path().join(".mistry/images/p.json"), "torn").unwrap();
        assert_eq!(store.image_records(&project), ImageRecords::default());
    }
}
