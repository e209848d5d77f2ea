//! The images of contexts: each is looked up once and built once, for all jobs that need it.
//!
//! An image is a function of its context's digest, so a known one needs no request to the Engine. If it was
//! removed meanwhile, the creation of a container fails, and then the image is looked up again. Only an image
//! that is recorded as built here is used: commits and children of it carry its labels, too.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{OnceCell, RwLock, RwLockWriteGuard, mpsc};

use parking_lot::{Mutex, MutexGuard};

use super::blocking::blocking;
use super::build_secrets::{GivenSecrets, NEEDED_BY, arguments};
use super::registry_auth;
use crate::build::{BuildStore, ImageRecord, ImageRecords, Step, is_prefix};
use crate::docker::{
    self, Builder, Docker, Dockerfile, ImageSpec, Layer, Patch, Progress, Registries,
};
use crate::pipe;
use crate::project::{Context, Digest, ProjectName};

/// Contexts remembered; beyond that all are dropped, which costs one request each.
const MAX_KNOWN: usize = 4_096;
/// Pieces of an image build's output that are queued for the log.
const OUTPUT_PIECES: usize = 64;

/// The label of every image and container made by mistry.
pub(super) const INSTANCE: &str = "mistry.instance";
pub(super) const CONTEXT: &str = "mistry.context";
pub(super) const UID: &str = "mistry.uid";

/// The state of all images of this daemon.
#[derive(Debug)]
pub(super) struct Images {
    pub(super) docker: Docker,
    pub(super) store: Arc<BuildStore>,
    known: Mutex<HashMap<Digest, Arc<OnceCell<Arc<ImageRecord>>>>>,
    /// Locked shared by image builds, and exclusively while their layers and containers are removed.
    building: RwLock<()>,
}

/// The parameters of one image.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) context: Context,
    /// The user that builds run as, also the build-arg `uid`.
    pub(super) uid: String,
    pub(super) build_args: BTreeMap<String, String>,
    /// Names of those that the Dockerfile need not declare.
    pub(super) optional_args: Vec<String>,
    /// The file with the credentials of image registries.
    pub(super) registry_auth: Option<PathBuf>,
    /// The stage of the Dockerfile; empty for the last.
    pub(super) target: String,
    pub(super) network: String,
    pub(super) builder: Builder,
    /// The secrets for its build. They are not part of it: an image that is there needs none.
    pub(super) given: GivenSecrets,
}

impl Wanted {
    fn project(&self) -> &ProjectName {
        &self.context.project().name
    }
}

/// Whether an image may come from an earlier build, whole or in layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImageCache {
    /// An image that exists is used, and layers that exist are.
    Use,
    /// Each step runs again, and the images that the Dockerfile names are pulled.
    Ignore,
}

/// The scope of a removal of unused images.
#[derive(Debug)]
pub(super) enum Unused {
    /// Layers of the project that were used neither by its latest image build nor by the latest successful
    /// one.
    Layers(ProjectName),
    /// The same for all projects, and all images without a name.
    Images,
    /// All images and layers without a name: also those that speed up the next image build.
    All,
}

impl Images {
    pub(super) fn new(docker: Docker, store: Arc<BuildStore>) -> Images {
        Images {
            docker,
            store,
            known: Mutex::default(),
            building: RwLock::new(()),
        }
    }

    /// The image of a context: known, found, or built with its output sent to `output`.
    ///
    /// Two builds of one context wait for one image.
    pub(super) async fn ensure(
        &self,
        wanted: &Wanted,
        output: mpsc::Sender<Bytes>,
    ) -> Result<Arc<ImageRecord>, docker::Error> {
        let cell = self.cell(wanted.context.digest());
        let image = cell.get_or_try_init(|| async {
            match self.find(wanted).await? {
                Some(found) => Ok(Arc::new(found)),
                None => Box::pin(self.build(wanted, ImageCache::Use, output)).await,
            }
        });
        image.await.cloned()
    }

    /// A new image of a context, without any cache, and with the images that it names pulled.
    pub(super) async fn renew(
        &self,
        wanted: &Wanted,
        output: mpsc::Sender<Bytes>,
    ) -> Result<Arc<ImageRecord>, docker::Error> {
        let image = Box::pin(self.build(wanted, ImageCache::Ignore, output)).await?;
        let cell = Arc::new(OnceCell::new_with(Some(image.clone())));
        self.lock().insert(wanted.context.digest(), cell);
        Ok(image)
    }

    /// Forgets an image that the Engine does not have: the next build looks it up.
    pub(super) fn forget(&self, context: Digest) {
        self.lock().remove(&context);
    }

    /// A channel for the output of one image build.
    pub(super) fn output() -> (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
        mpsc::channel(OUTPUT_PIECES)
    }

    /// While the guard is held, no image is built; `None` while one is.
    pub(super) fn idle(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        self.building.try_write().ok()
    }

    /// The latest image that mistry built for a context and that still exists.
    async fn find(&self, wanted: &Wanted) -> Result<Option<ImageRecord>, docker::Error> {
        let existing = self.docker.labelled_images(&self.labels(wanted)).await?;
        let records = self.records(wanted.project().clone()).await;
        let context = wanted.context.digest().to_string();
        let mut images = records.images.into_iter().rev();
        Ok(images.find(|image| {
            image.context == context && image.uid == wanted.uid && existing.contains(&image.id)
        }))
    }

    async fn build(
        &self,
        wanted: &Wanted,
        cache: ImageCache,
        output: mpsc::Sender<Bytes>,
    ) -> Result<Arc<ImageRecord>, docker::Error> {
        let missing = &wanted.given.missing;
        if !missing.is_empty() {
            let why = match cache {
                ImageCache::Use => "it is not on this host, and ",
                ImageCache::Ignore => "",
            };
            return Err(docker::Error::Build(format!(
                "{why}its build needs the value of {} ({NEEDED_BY}): ask again with {}",
                missing.join(", "),
                arguments(missing)
            )));
        }
        let fresh = cache == ImageCache::Ignore;
        let labels = self.labels(wanted);
        let spec = ImageSpec {
            tag: own_name(wanted.project(), &labels),
            labels,
            build_args: wanted.build_args.clone(),
            optional_args: wanted.optional_args.clone(),
            target: wanted.target.clone(),
            registries: registries(wanted).await?,
            network: wanted.network.clone(),
            fresh,
            builder: wanted.builder,
            dockerfile: dockerfile(wanted).await,
            secrets: wanted.given.secrets.clone(),
            scratch: self.store.scratch(),
        };
        let tar = |patches: &[Patch]| {
            let context = wanted.context.clone();
            let patches = patches.iter().map(|patch| (patch.at, patch.bytes.clone()));
            let patches: Vec<(u64, Vec<u8>)> = patches.collect();
            pipe::writer_stream(move |to| {
                let written = context.write_tar(to, &patches);
                written.map_err(std::io::Error::other)
            })
        };
        let building = self.building.read().await;
        let began = Timestamp::now();
        let (to, progress) = mpsc::channel(OUTPUT_PIECES);
        // On the heap: what it holds would fill the stack of the threads on which builds run.
        let build = Box::pin(self.docker.build_image(&spec, tar, to));
        let (built, layers) =
            tokio::join!(build, self.note(wanted.project(), began, progress, output));
        let image = built.as_ref().ok().cloned();
        if let Some(image) = &image {
            self.name_as_latest(wanted.project(), image).await;
        }
        let record = self.end_build(wanted, began, layers, image).await;
        drop(building);
        let unused = Unused::Layers(wanted.project().clone());
        if let Err(error) = self.remove_unused(&unused).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "could not remove layers that no image needs, ignoring"
            );
        }
        built.map(|_| Arc::new(record))
    }

    /// Forwards the text of an image build, and records what it makes as soon as it is reported: if the
    /// daemon dies, the next one finds it. Returns the layers of its last attempt.
    async fn note(
        &self,
        project: &ProjectName,
        began: Timestamp,
        mut progress: mpsc::Receiver<Progress>,
        output: mpsc::Sender<Bytes>,
    ) -> Vec<Layer> {
        let mut layers = Vec::new();
        while let Some(reported) = progress.recv().await {
            match reported {
                // A build continues without a receiver of its output.
                Progress::Text(text) => drop(output.send(text).await),
                Progress::Restarted => layers.clear(),
                Progress::Container(id) => {
                    let note = move |known: &mut ImageRecords| known.add_container(&id, began);
                    self.change(project, note).await;
                }
                Progress::Layer(layer) => {
                    if !layer.is_cached {
                        let id = layer.id.clone();
                        let note = move |known: &mut ImageRecords| known.add_layer(&id, began);
                        self.change(project, note).await;
                    }
                    layers.push(layer);
                }
            }
        }
        layers
    }

    /// Records the end of an image build, and its result if it succeeded.
    async fn end_build(
        &self,
        wanted: &Wanted,
        began: Timestamp,
        layers: Vec<Layer>,
        image: Option<String>,
    ) -> ImageRecord {
        let mut record = ImageRecord {
            id: image.clone().unwrap_or_default(),
            context: wanted.context.digest().to_string(),
            uid: wanted.uid.clone(),
            steps: Vec::new(),
        };
        let unknown = record.clone();
        let ended = move |known: &mut ImageRecords| {
            let step = |layer: &Layer| {
                let made = match layer.is_cached {
                    true => known.made(&layer.id),
                    false => Some(began),
                };
                Step::new(&layer.id, made, &layer.instruction)
            };
            record.steps = layers.iter().map(step).collect();
            let ids: Vec<&str> = layers.iter().map(|layer| layer.id.as_str()).collect();
            known.end_build(&ids, image.is_some());
            if let Some(image) = image {
                known.layers.retain(|layer| !is_prefix(&layer.id, &image));
                known.add_image(record.clone());
            }
            record
        };
        // If it cannot be written, the image counts as unknown.
        self.change(wanted.project(), ended)
            .await
            .unwrap_or(unknown)
    }

    /// The record of a project's images.
    pub(super) async fn records(&self, project: ProjectName) -> ImageRecords {
        let store = self.store.clone();
        let read = blocking(move || store.image_records(&project)).await;
        read.unwrap_or_default()
    }

    /// Changes the record of a project's images; `None` if that cannot be written.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        project: &ProjectName,
        change: impl FnOnce(&mut ImageRecords) -> T + Send + 'static,
    ) -> Option<T> {
        let (store, name) = (self.store.clone(), project.clone());
        let changed = blocking(move || store.change_image_records(&name, change)).await;
        match changed.ok()? {
            Ok(result) => Some(result),
            Err(error) => {
                tracing::warn!(
                    mistry_project = %project,
                    error = &error as &dyn std::error::Error,
                    "could not record which images were built"
                );
                None
            }
        }
    }

    /// Gives an image the name for people too; it does not matter to mistry.
    async fn name_as_latest(&self, project: &ProjectName, image: &str) {
        let name = docker::tag_for(project.as_str());
        if let Err(error) = self.docker.tag_image(image, &name).await {
            tracing::warn!(
                mistry_project = %project,
                error = &error as &dyn std::error::Error,
                "could not give the image the name '{name}', ignoring"
            );
        }
    }

    fn labels(&self, wanted: &Wanted) -> BTreeMap<String, String> {
        labels(
            self.store.instance(),
            &wanted.context.digest().to_string(),
            &wanted.uid,
        )
    }

    fn cell(&self, context: Digest) -> Arc<OnceCell<Arc<ImageRecord>>> {
        let mut known = self.lock();
        if known.len() >= MAX_KNOWN && !known.contains_key(&context) {
            known.clear();
        }
        known.entry(context).or_default().clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<OnceCell<Arc<ImageRecord>>>>> {
        self.known.lock()
    }
}

/// The labels of an image.
pub(super) fn labels(instance: &str, context: &str, uid: &str) -> BTreeMap<String, String> {
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    BTreeMap::from([
        label(INSTANCE, instance),
        label(CONTEXT, context),
        label(UID, uid),
    ])
}

/// The name that an image of a project with these labels has for itself.
pub(super) fn own_name(project: &ProjectName, labels: &BTreeMap<String, String>) -> String {
    let context = labels.get(CONTEXT).map_or("", String::as_str);
    docker::tag_of_version(project.as_str(), &docker::version_of(context, labels))
}

/// The credentials in the configured file, as it is now.
async fn registries(wanted: &Wanted) -> Result<Registries, docker::Error> {
    let Some(path) = wanted.registry_auth.clone() else {
        return Ok(Registries::default());
    };
    let read = blocking(move || registry_auth::read(&path)).await;
    read.unwrap_or_else(|_| Err("it could not be read".to_owned()))
        .map_err(|wrong| docker::Error::Build(format!("{}: {wrong}", registry_auth::FAILED)))
}

/// What the Dockerfile needs. If it cannot be read, the build itself fails.
async fn dockerfile(wanted: &Wanted) -> Dockerfile {
    let context = wanted.context.clone();
    let read = blocking(move || context.dockerfile()).await;
    let text = read.ok().and_then(Result::ok);
    text.map(|text| Dockerfile::parse_for(&text, &wanted.build_args, &wanted.target))
        .unwrap_or_default()
}
