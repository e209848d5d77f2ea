//! Removes images, layers and containers that mistry's image builds have left, when they are unused.
//!
//! The classic builder leaves stages, the layers of failed builds and now and then a container, without a
//! label. So what an image build makes is recorded while it runs, and only recorded items are removed.
//! Nothing is removed that has a name that mistry did not give, a child or a container, or that existed before the
//! image build that is recorded as its origin. The names that mistry gives keep an image only while it is the
//! latest of its project.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::sync::RwLockWriteGuard;

use super::blocking::blocking;
use super::images::{CONTEXT, INSTANCE, Images, UID, Unused, labels, own_name};
use super::sweep::JOB;
use crate::build::{ImageRecords, is_prefix};
use crate::docker::{self, FoundImage, Pruned};
use crate::project::ProjectName;

impl Images {
    /// Removes unused items. None are removed while an image is built: the builder may be about to use them,
    /// and they are checked when it has ended.
    pub(super) async fn remove_unused(&self, which: &Unused) -> Result<Pruned, docker::Error> {
        let Some(idle) = self.idle() else {
            return Ok(Pruned::default());
        };
        let records = match which {
            Unused::Layers(project) => {
                let records = self.records(project.clone()).await;
                BTreeMap::from([(project.clone(), records)])
            }
            Unused::Images | Unused::All => self.all_records().await,
        };
        self.remove_step_containers(&records, &idle).await?;
        let is_unused = |layer: &&crate::build::MadeLayer| {
            matches!(which, Unused::All) || !(layer.is_built || layer.is_tried)
        };
        let has_layers = records
            .values()
            .any(|known| known.layers.iter().any(|l| is_unused(&l)));
        if !has_layers && matches!(which, Unused::Layers(_)) {
            return Ok(Pruned::default());
        }
        let mut forest = Forest::new(self.docker.images().await?);
        let mut pruned = Pruned::default();
        let mut candidates = HashSet::new();
        for known in records.values() {
            for layer in known.layers.iter().filter(is_unused) {
                if !known.is_image(&layer.id) {
                    candidates.extend(forest.unnamed(&layer.id, layer.made.as_second()));
                }
            }
        }
        if !matches!(which, Unused::Layers(_)) {
            for (project, known) in &records {
                candidates.extend(self.superseded(project, known, &forest));
            }
            self.remove_unknown(&mut forest, &records, &mut pruned)
                .await?;
        }
        self.remove_leaves(&mut forest, candidates, &mut pruned)
            .await?;
        for (project, known) in records {
            let is_there = |id: &str| forest.images.keys().any(|image| is_prefix(id, image));
            let gone: HashSet<String> = known
                .layers
                .into_iter()
                .map(|layer| layer.id)
                .filter(|id| !is_there(id))
                .collect();
            if !gone.is_empty() {
                let forget = move |known: &mut ImageRecords| {
                    known.layers.retain(|layer| !gone.contains(&layer.id));
                };
                self.change(&project, forget).await;
            }
        }
        Ok(pruned)
    }

    /// Removes containers that interrupted image builds have left. Returns how many. Call this only while no
    /// image is built.
    pub(super) async fn remove_step_containers(
        &self,
        records: &BTreeMap<ProjectName, ImageRecords>,
        _idle: &RwLockWriteGuard<'_, ()>,
    ) -> Result<usize, docker::Error> {
        let mut removed = 0;
        for (project, known) in records {
            if known.containers.is_empty() {
                continue;
            }
            let ids: Vec<String> = known.containers.iter().map(|c| c.id.clone()).collect();
            for found in self.docker.containers_by_id(&ids).await? {
                let is_made = known.containers.iter().any(|made| {
                    is_prefix(&made.id, &found.id) && found.created >= made.made.as_second()
                });
                if is_made && !found.labels.contains_key(JOB) {
                    self.docker.remove(&found.id).await?;
                    removed += 1;
                }
            }
            let forget = move |known: &mut ImageRecords| {
                known
                    .containers
                    .retain(|container| !ids.contains(&container.id));
            };
            self.change(project, forget).await;
        }
        Ok(removed)
    }

    /// The records of the images of all projects.
    pub(super) async fn all_records(&self) -> BTreeMap<ProjectName, ImageRecords> {
        let store = self.store.clone();
        let read = blocking(move || store.all_image_records());
        match read.await {
            Ok(Ok(records)) => records,
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "could not read which images were built"
                );
                BTreeMap::new()
            }
            Err(_) => BTreeMap::new(),
        }
    }

    /// The images of a project that have no name, or that only have names of mistry and are not the latest.
    fn superseded(
        &self,
        project: &ProjectName,
        known: &ImageRecords,
        forest: &Forest,
    ) -> Vec<String> {
        let Some((latest, older)) = known.images.split_last() else {
            return Vec::new();
        };
        let instance = self.store.instance();
        let names = known.images.iter().map(|image| {
            let labels = labels(instance, &image.context, &image.uid);
            own_name(project, &labels)
        });
        // Earlier versions gave only the name for people.
        let for_people = docker::tag_for(project.as_str());
        let for_people = match for_people.contains(':') {
            true => for_people,
            false => format!("{for_people}:latest"),
        };
        let names: HashSet<String> = names.chain([for_people]).collect();
        let is_named = |id: &str| {
            let found = forest.images.get(id);
            found.is_some_and(|image| !image.names.is_empty())
        };
        let has_own_names = |id: &str| {
            let found = forest.images.get(id);
            found.is_some_and(|image| image.names.iter().all(|name| names.contains(name)))
        };
        let older = older.iter().filter(|image| has_own_names(&image.id));
        let latest = Some(latest).filter(|image| !is_named(&image.id));
        older.chain(latest).map(|image| image.id.clone()).collect()
    }

    /// Removes images that mistry made but has no record of: those of earlier versions, those of a daemon that was
    /// killed, or those with a lost record. They have no name but the one that follows from their labels; without a
    /// name, setting mistry's label was the last step in making them. Commits and children inherit only the labels.
    async fn remove_unknown(
        &self,
        forest: &mut Forest,
        records: &BTreeMap<ProjectName, ImageRecords>,
        pruned: &mut Pruned,
    ) -> Result<(), docker::Error> {
        let instance = self.store.instance();
        let known = records.values().flat_map(|known| &known.images);
        let known: HashSet<&str> = known.map(|image| image.id.as_str()).collect();
        let unknown: Vec<FoundImage> = forest
            .images
            .values()
            .filter(|image| {
                let is_labelled = image.labels.get(INSTANCE).is_some_and(|i| i == instance)
                    && image.labels.contains_key(CONTEXT);
                is_labelled && forest.is_childless(image) && !known.contains(image.id.as_str())
            })
            .cloned()
            .collect();
        for image in unknown {
            let is_ours = match image.names.is_empty() {
                true => {
                    let made_by = self.docker.newest_instruction(&image.id).await?;
                    made_by.contains("#(nop)") && made_by.contains("LABEL mistry.")
                }
                false => has_own_name(&image),
            };
            if !is_ours {
                continue;
            }
            let Some(reference) = self.last_reference(&image).await? else {
                continue;
            };
            // Its layers are not recorded either.
            if self.docker.remove_image_and_layers(&reference).await? {
                forest.remove(&image.id, pruned);
            }
        }
        Ok(())
    }

    /// Removes the names of an image except one, and returns it, or the id of an image without a name. `None` if a
    /// name cannot be removed.
    async fn last_reference(&self, image: &FoundImage) -> Result<Option<String>, docker::Error> {
        let Some((last, others)) = image.names.split_last() else {
            return Ok(Some(image.id.clone()));
        };
        for name in others {
            if !self.docker.remove_image(name).await? {
                return Ok(None);
            }
        }
        Ok(Some(last.clone()))
    }

    /// Removes images without children, and then those that this leaves without children.
    async fn remove_leaves(
        &self,
        forest: &mut Forest,
        mut candidates: HashSet<String>,
        pruned: &mut Pruned,
    ) -> Result<(), docker::Error> {
        loop {
            let leaves: Vec<FoundImage> = candidates
                .iter()
                .filter_map(|id| forest.images.get(id))
                .filter(|image| forest.is_childless(image))
                .cloned()
                .collect();
            if leaves.is_empty() {
                return Ok(());
            }
            for image in leaves {
                candidates.remove(&image.id);
                // A container may use it.
                let reference = self.last_reference(&image).await?;
                if let Some(reference) = reference
                    && self.docker.remove_image(&reference).await?
                {
                    forest.remove(&image.id, pruned);
                }
            }
        }
    }
}

/// True when each name of an image is the one that mistry gives to images with its labels.
fn has_own_name(image: &FoundImage) -> bool {
    let value = |key: &str| image.labels.get(key).map_or("", String::as_str);
    let labels = labels(value(INSTANCE), value(CONTEXT), value(UID));
    let version = docker::version_of(value(CONTEXT), &labels);
    image.names.iter().all(|name| {
        let (repository, tag) = name.split_once(':').unwrap_or((name, ""));
        repository.starts_with("mistry-") && tag == version
    })
}

/// The images on the host, and the number of children of each.
struct Forest {
    images: HashMap<String, FoundImage>,
    children: HashMap<String, usize>,
}

impl Forest {
    fn new(found: Vec<FoundImage>) -> Forest {
        let mut children = HashMap::new();
        for parent in found.iter().filter_map(|image| image.parent.clone()) {
            *children.entry(parent).or_default() += 1;
        }
        let images = found.into_iter().map(|image| (image.id.clone(), image));
        Forest {
            images: images.collect(),
            children,
        }
    }

    /// The full id of an image without a name that has this prefix and was made at that second or later;
    /// `None` if several match.
    fn unnamed(&self, id: &str, made: i64) -> Option<String> {
        let mut found = self
            .images
            .values()
            .filter(|image| image.id == id || is_prefix(id, &image.id));
        let (first, second) = (found.next()?, found.next());
        let is_ours = second.is_none() && first.names.is_empty() && first.created >= made;
        is_ours.then(|| first.id.clone())
    }

    fn is_childless(&self, image: &FoundImage) -> bool {
        let children = self.children.get(&image.id);
        children.is_none_or(|children| *children == 0)
    }

    /// Records that an image was removed.
    fn remove(&mut self, id: &str, pruned: &mut Pruned) {
        let Some(image) = self.images.remove(id) else {
            return;
        };
        let parent = image.parent.and_then(|parent| {
            if let Some(children) = self.children.get_mut(&parent) {
                *children = children.saturating_sub(1);
            }
            self.images.get(&parent)
        });
        pruned.count += 1;
        let shared = parent.map_or(0, |parent| parent.size);
        pruned.bytes += image.size.saturating_sub(shared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, parent: Option<&str>, name: Option<&str>) -> FoundImage {
        FoundImage {
            id: format!("sha256:{}", id.repeat(64)),
            parent: parent.map(|parent| format!("sha256:{}", parent.repeat(64))),
            names: name.map(str::to_owned).into_iter().collect(),
            labels: BTreeMap::new(),
            created: 100,
            size: 10,
        }
    }

    #[test]
    fn only_recent_images_without_name_and_child_are_removed() {
        let all = vec![
            image("a", None, None),
            image("b", Some("a"), None),
            image("c", Some("a"), Some("c:1")),
        ];
        let mut forest = Forest::new(all.clone());
        let found = |forest: &Forest, id: &str, made| forest.unnamed(&id.repeat(12), made);
        assert_eq!(found(&forest, "a", 100), Some(all[0].id.clone()));
        assert_eq!(found(&forest, "a", 101), None, "it was there before");
        assert_eq!(found(&forest, "c", 0), None, "it has a name");
        assert_eq!(found(&forest, "d", 0), None);
        assert_eq!(forest.unnamed("a", 0), None, "too short to be an id");
        assert!(!forest.is_childless(&all[0]));
        assert!(forest.is_childless(&all[1]));
        let mut pruned = Pruned::default();
        forest.remove(&all[1].id, &mut pruned);
        assert!(!forest.is_childless(&all[0]), "the other child is there");
        forest.remove(&all[2].id, &mut pruned);
        assert!(forest.is_childless(&all[0]));
        assert_eq!(pruned.count, 2);
    }
}
