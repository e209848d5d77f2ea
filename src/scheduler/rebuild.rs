//! Rebuilds a project's image, whatever is cached, and removes unused items afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::blocking::blocking;
use super::build_secrets::GivenSecrets;
use super::error::Error;
use super::images::{Images, Unused, Wanted};
use super::interruption::explained;
use super::service::Scheduler;
use super::shared::Shared;
use super::shared::keep_tail;
use super::sweep;
use crate::build::{LOG_TAIL, Masker, Masks, text_of};
use crate::docker;
use crate::job::Params;
use crate::project::{ProjectName, Settings};

/// The result of an image rebuild.
#[derive(Debug)]
pub struct ImageReport {
    /// Its id.
    pub image: String,
    /// How long it took.
    pub took: Duration,
    /// The end of what the image build printed.
    pub log: String,
    /// Images and layers made by mistry, without a name, that were removed afterwards, and their bytes.
    pub images: docker::Pruned,
    /// Removed containers without an owning build.
    pub containers: usize,
}

impl Scheduler {
    /// Rebuilds a project's image, with its base pulled and nothing cached; then removes mistry's items that
    /// became unused. `params` are those that `secrets` and `ssh` of the project name.
    ///
    /// # Errors
    /// [`Error::NotOfTheImage`] for other params; [`Error::ImageLeft`] if some are missing; [`Error::Project`], [`Error::EngineAway`], [`Error::Engine`]; [`Error::Ending`] when the daemon stops
    /// first.
    pub async fn rebuild_image(
        &self,
        project: &ProjectName,
        params: Params,
    ) -> Result<ImageReport, Error> {
        let (shared, project) = (self.0.clone(), project.clone());
        let stop = self.0.stop.clone();
        // A separate task: its client may disconnect, and a half-built image is useless.
        let task = self.0.spawn(async move {
            tokio::select! {
                rebuilt = shared.rebuild_image(project, params) => rebuilt,
                () = stop.cancelled() => Err(Error::Ending),
            }
        });
        task.await.map_err(|_| Error::Lost)?
    }
}

impl Shared {
    async fn rebuild_image(
        self: Arc<Self>,
        project: ProjectName,
        params: Params,
    ) -> Result<ImageReport, Error> {
        let _one_at_a_time = self.rebuilding.lock().await;
        let name = project.clone();
        let began = Instant::now();
        let shared = self.clone();
        let name_there = name.clone();
        let (wanted, masks) = blocking(move || -> Result<(Wanted, Option<Arc<Masks>>), Error> {
            let context = shared.projects.context(&project)?;
            let settings = context.settings()?;
            check(&name_there, &settings, &params)?;
            let values = params.iter();
            let values = values.map(|(name, value)| (name.as_str(), &**value));
            let (masks, _) = Masks::new(&values.collect());
            let wanted = shared.wanted(context, &settings, &params);
            Ok((wanted, masks.map(Arc::new)))
        })
        .await??;
        self.engine_there().await?;
        let (output, mut pieces) = Images::output();
        let mut printed = Vec::new();
        let mut masker = Masker::new(masks.clone());
        let mut print = |piece: Option<&Bytes>| {
            let mut written = Vec::new();
            match piece {
                Some(piece) => masker.push(piece, &mut written),
                None => masker.finish(&mut written),
            }
            keep_tail(&mut printed, &written);
        };
        let (image, ()) = tokio::join!(self.images.renew(&wanted, output), async {
            while let Some(piece) = pieces.recv().await {
                print(Some(&piece));
            }
            print(None);
        });
        let image = image.map_err(|error| match error {
            docker::Error::Build(said) => {
                let said = masks.map_or(said.clone(), |masks| masks.mask(&said));
                Error::Image(name, explained(&said))
            }
            error => Error::Engine("could not build docker image", error),
        })?;
        let pruned = |error| Error::Engine("could not remove what the old image left", error);
        let swept = sweep::sweep(&self).await.map_err(pruned)?;
        let images = self.images.remove_unused(&Unused::Images).await;
        let images = images.map_err(pruned)?;
        Ok(ImageReport {
            image: image.id.clone(),
            took: began.elapsed(),
            log: text_of(&printed, printed.len() == LOG_TAIL),
            images,
            containers: swept.removed,
        })
    }
}

/// Checks that the params are exactly those that the build of the image needs.
fn check(project: &ProjectName, settings: &Settings, params: &Params) -> Result<(), Error> {
    let is_needed = |name: &str| settings.build_params().any(|(needed, _)| needed == name);
    if let Some(name) = params.keys().find(|name| !is_needed(name.as_str())) {
        return Err(Error::NotOfTheImage(project.clone(), name.to_string()));
    }
    let missing = GivenSecrets::of(settings, params).missing;
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Error::ImageLeft(project.clone(), missing)),
    }
}
