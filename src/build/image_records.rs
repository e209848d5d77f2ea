//! What is remembered of the images that were built for a project: which are ours, what their builds
//! made on the way, and when.
//!
//! Docker hands the labels of an image on to its containers, commits and children, so that a label
//! alone does not prove that an image is ours: its id must stand here, too. What stands here is a cache:
//! without it an image is built again, mostly from Docker's own cache, and nothing is removed.

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

/// Images remembered of one project; an older one is built again when it is wanted.
const MAX_IMAGES: usize = 64;
/// Layers remembered of one project: 64 images of the longest Dockerfiles there are.
const MAX_LAYERS: usize = 4_096;
/// Containers of image builds remembered of one project; they are gone when their build is over.
const MAX_CONTAINERS: usize = 256;
/// Bytes of an instruction that are kept; of a longer one nothing is.
const MAX_INSTRUCTION_BYTES: usize = 512;
/// A larger file is not ours.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// Files that are read: more than any host has projects.
const MAX_FILES: usize = 10_000;

/// An image that was built for a context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageRecord {
    /// Its id (`sha256:…`).
    pub id: String,
    /// The digest of its context.
    pub context: String,
    /// The user that it was built for.
    pub uid: String,
    /// The steps of its Dockerfile but `FROM`, of all stages.
    pub steps: Vec<Step>,
}

/// A step of a Dockerfile, as an image was built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Step {
    /// The first digits of the id of its layer.
    pub layer: String,
    /// When the image build began that made the layer; `None` where it was none of ours.
    pub made: Option<Timestamp>,
    /// The instruction.
    pub instruction: String,
}

/// A layer that an image build of ours made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MadeLayer {
    /// The first digits of its id.
    pub id: String,
    /// When that build began.
    pub made: Timestamp,
    /// The latest image build that succeeded made or used it.
    pub is_built: bool,
    /// The latest image build, if it did not succeed, made or used it.
    pub is_tried: bool,
}

/// A container that an image build made for a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MadeContainer {
    /// The first digits of its id.
    pub id: String,
    /// When that build began.
    pub made: Timestamp,
}

/// What is remembered of a project's images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageRecords {
    /// Images, the latest last.
    pub images: Vec<ImageRecord>,
    /// Layers that may still be there, in the order in which they were made.
    pub layers: Vec<MadeLayer>,
    /// Containers that may still be there.
    pub containers: Vec<MadeContainer>,
}

impl ImageRecords {
    /// Notes a layer that is made.
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

    /// Notes a container that is made.
    pub fn add_container(&mut self, id: &str, made: Timestamp) {
        if self.containers.len() >= MAX_CONTAINERS {
            self.containers.remove(0);
        }
        let id = id.to_owned();
        self.containers.push(MadeContainer { id, made });
    }

    /// When the image build began that made a layer, if it is one of ours.
    pub fn made(&self, layer: &str) -> Option<Timestamp> {
        let known = self.layers.iter().find(|known| known.id == layer);
        let steps = self.images.iter().flat_map(|image| &image.steps);
        known.map(|known| known.made).or_else(|| {
            let mut steps = steps.filter(|step| step.layer == layer);
            steps.find_map(|step| step.made)
        })
    }

    /// Notes that an image build is over, and which layers it made or used.
    pub fn end_build(&mut self, layers: &[&str], succeeded: bool) {
        for layer in &mut self.layers {
            let is_used = layers.contains(&layer.id.as_str());
            layer.is_tried = is_used && !succeeded;
            layer.is_built = if succeeded { is_used } else { layer.is_built };
        }
    }

    /// Notes an image, as the latest.
    pub fn add_image(&mut self, image: ImageRecord) {
        self.images.retain(|known| known.id != image.id);
        if self.images.len() >= MAX_IMAGES {
            self.images.remove(0);
        }
        self.images.push(image);
    }

    /// True when the layer is an image that builds may be run in.
    pub fn is_image(&self, layer: &str) -> bool {
        self.images.iter().any(|image| is_prefix(layer, &image.id))
    }
}

/// True when `digits` are the first of an id such as `sha256:…`.
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

    /// Its layer may hold files that the one before has not; the others only change settings.
    fn makes_files(&self) -> bool {
        let word = self.instruction.split_whitespace().next();
        // Too long to be known.
        let Some(word) = word else { return true };
        // A WORKDIR makes a directory; what it moves is in the layers after it.
        let making = ["RUN", "COPY", "ADD"];
        making
            .iter()
            .any(|making| word.eq_ignore_ascii_case(making))
    }
}

/// How a context differs from that of a build, where all that differs was changed after that build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When that build was over.
    pub since: Timestamp,
    /// The latest time of change of a file that differs.
    pub latest: SystemTime,
    /// The Dockerfile differs.
    pub is_dockerfile: bool,
    /// An archive differs: `ADD` unpacks it, and the files in it bring their own times.
    pub is_archive: bool,
}

impl ImageRecord {
    /// True when all that differs between this image and the one that a base was made in has a later
    /// time in this image than anything in the base. Tools that decide by time would keep stale
    /// results in the base otherwise.
    ///
    /// The context must have been seen to differ by `change`. Each layer that the base's image has not
    /// must have been made after the base, and after the files were changed: a layer from Docker's
    /// cache has the times of the files that it was once made of. A changed Dockerfile may bring old
    /// files to new places in each of its steps. Of an image without steps nothing is known.
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
    /// What is remembered of a project's images; nothing where the file is lost or none of ours.
    pub fn image_records(&self, project: &ProjectName) -> ImageRecords {
        read(&self.layout.image_records(project)).unwrap_or_default()
    }

    /// The same of all projects.
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

    /// Changes what is remembered of a project's images. It is not synced: a power cut may take it.
    ///
    /// # Errors
    /// When it cannot be written; then it stays as it was.
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

/// Reads a file; `None` where it is none of ours.
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
    fn a_layer_that_the_base_has_not_must_be_younger_than_the_base_and_the_files() {
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
    fn a_changed_dockerfile_may_bring_old_files_in_each_new_layer() {
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
    fn an_image_of_which_nothing_is_known_is_not_newer() {
        let base = image(&[("a", Some(10), "COPY v1.c /a.c")]);
        assert!(!image(&[]).is_newer(Some(&base), &change(20, 25)));
    }

    #[test]
    fn an_archive_brings_the_times_of_its_files() {
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
    fn what_is_remembered_is_bounded_and_what_is_not_ours_is_nothing() {
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
