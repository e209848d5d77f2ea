//! Which image belongs to a context: looked up once, built once, whoever asks.
//!
//! An image is a function of its context's digest, so one that is known needs no question to
//! the Engine. Who removes images behind our back is noticed when a container cannot be
//! created, and then the image is looked for again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OnceCell, mpsc};

use crate::docker::{self, Docker, ImageSpec};
use crate::pipe;
use crate::project::{Context, Digest};

/// Contexts remembered; past it all are forgotten, which costs one question each.
const MAX_KNOWN: usize = 4_096;
/// Pieces of an image build's output on their way into the log.
const OUTPUT_PIECES: usize = 64;

/// The label that every image and container of ours carries.
pub(super) const INSTANCE: &str = "mistry.instance";
const CONTEXT: &str = "mistry.context";
const UID: &str = "mistry.uid";

/// What every image of this daemon has in common.
#[derive(Debug)]
pub(super) struct Images {
    docker: Docker,
    instance: String,
    known: Mutex<HashMap<Digest, Arc<OnceCell<String>>>>,
}

/// How one image is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) context: Context,
    /// The user that builds run as, for the build-arg `uid`.
    pub(super) uid: String,
    pub(super) network: String,
}

impl Images {
    pub(super) fn new(docker: Docker, instance: &str) -> Images {
        Images {
            docker,
            instance: instance.to_owned(),
            known: Mutex::default(),
        }
    }

    /// The image of a context: known, found, or built with its output going to `output`.
    ///
    /// Two builds of one context wait for one image.
    pub(super) async fn ensure(
        &self,
        wanted: &Wanted,
        output: mpsc::Sender<Bytes>,
    ) -> Result<String, docker::Error> {
        let cell = self.cell(wanted.context.digest());
        let image = cell.get_or_try_init(|| async {
            match self.docker.find_image(&self.labels(wanted)).await? {
                Some(found) => Ok(found),
                None => self.build(wanted, false, output).await,
            }
        });
        image.await.cloned()
    }

    /// A new image of a context, with the base pulled and nothing cached.
    pub(super) async fn renew(
        &self,
        wanted: &Wanted,
        output: mpsc::Sender<Bytes>,
    ) -> Result<String, docker::Error> {
        let image = self.build(wanted, true, output).await?;
        let cell = Arc::new(OnceCell::new_with(Some(image.clone())));
        self.lock().insert(wanted.context.digest(), cell);
        Ok(image)
    }

    /// The Engine says that an image is not there: whoever asks next looks again.
    pub(super) fn forget(&self, context: Digest) {
        self.lock().remove(&context);
    }

    /// A channel for the output of one image build.
    pub(super) fn output() -> (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
        mpsc::channel(OUTPUT_PIECES)
    }

    async fn build(
        &self,
        wanted: &Wanted,
        fresh: bool,
        output: mpsc::Sender<Bytes>,
    ) -> Result<String, docker::Error> {
        let spec = ImageSpec {
            tag: docker::tag_for(wanted.context.project().name.as_str()),
            labels: self.labels(wanted),
            build_args: BTreeMap::from([("uid".to_owned(), wanted.uid.clone())]),
            network: wanted.network.clone(),
            fresh,
        };
        let tar = || {
            let context = wanted.context.clone();
            pipe::stream_of(move |to| context.write_tar(to).map_err(std::io::Error::other))
        };
        self.docker.build_image(&spec, tar, output).await
    }

    fn labels(&self, wanted: &Wanted) -> BTreeMap<String, String> {
        BTreeMap::from([
            (INSTANCE.to_owned(), self.instance.clone()),
            (CONTEXT.to_owned(), wanted.context.digest().to_string()),
            (UID.to_owned(), wanted.uid.clone()),
        ])
    }

    fn cell(&self, context: Digest) -> Arc<OnceCell<String>> {
        let mut known = self.lock();
        if known.len() >= MAX_KNOWN && !known.contains_key(&context) {
            known.clear();
        }
        known.entry(context).or_default().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<OnceCell<String>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
