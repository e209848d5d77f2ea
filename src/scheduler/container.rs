//! A build's container, with what its image expects: its declared directories, a home directory, directories
//! for caches.

use std::collections::BTreeMap;

use rustix::thread::CapabilitySet;

use super::build_task::{BuildTask, Created};
use super::config::SchedulerConfig;
use super::image_properties::{Declared, HOME, mounted_in_home};
use super::images::INSTANCE;
use super::interruption::Interruption;
use super::recipe::Recipe;
use super::sweep::{CONTAINER_TRY, JOB, PROJECT, container_name};
use crate::build::User;
use crate::docker::{self, ContainerSpec, Limits, RunOptions};
use crate::project::{self, Capability, ExtraHosts, NameServers, Settings, ShmSize, Ulimits};

/// The slice in which systemd keeps the containers of builds: `packaging/systemd/mistry-builds.slice`.
pub(super) const SLICE: &str = "mistry-builds.slice";

impl BuildTask {
    /// Creates a container of an image, with what the image expects, without starting it. The inner result is
    /// the Engine's answer.
    pub(super) async fn make_container(
        &mut self,
        recipe: &Recipe,
        settings: &Settings,
        image: &str,
    ) -> Result<Created, Interruption> {
        let shared = self.shared.clone();
        let (known, user) = (&shared.image_properties, user(settings));
        let declared = match self
            .cancellable(known.declared(&shared.docker, image))
            .await?
        {
            Ok(declared) => declared,
            Err(error) => return Ok(Err(error)),
        };
        let mounts = self.spec(recipe, settings, image)?.mounts;
        let mut has_home = match declared.has_home {
            true => Some(true),
            false => known.has_home_directory(image, user.user, &mounts),
        };
        loop {
            let mut spec = self.spec(recipe, settings, image)?;
            let needs_home = has_home != Some(true);
            self.mount_declared(&mut spec, &declared, needs_home, user)
                .await?;
            let container = match self.create_named(&spec).await? {
                Ok(container) if has_home.is_none() => container,
                created => return Ok(created),
            };
            // Only a container can be asked for its image's users: this one, which can mostly be kept.
            match self
                .cancellable(shared.docker.home_of(&container, user.user))
                .await?
            {
                Ok(home) => {
                    known.note_home_directory(image, user.user, &mounts, home.is_some());
                    if home.is_none() {
                        return Ok(Ok(container));
                    }
                }
                Err(error) => return Ok(Err(error)),
            }
            has_home = Some(true);
            if let Err(error) = self.cancellable(shared.docker.remove(&container)).await? {
                return Ok(Err(error));
            }
        }
    }

    /// The container of a build, as it is before what its image declares is added.
    fn spec(
        &mut self,
        recipe: &Recipe,
        settings: &Settings,
        image: &str,
    ) -> Result<ContainerSpec, Interruption> {
        let shared = self.shared.clone();
        let config = shared.config.load();
        let pending = self.pending()?;
        let tries = pending.info().container_tries;
        let id = recipe.id.to_string();
        let instance = shared.store.instance();
        let log_bytes = pending.internal().limits.log_limit;
        let mut mounts = config.mounts.clone();
        mounts.extend(settings.mounts.clone());
        let limits = settings.limits.as_ref().unwrap_or(&config.limits);
        self.may_run_out_of_memory = limits.memory.is_some();
        let pending = self.pending()?;
        Ok(ContainerSpec {
            name: container_name(instance, &id, &tries.to_string()),
            image: image.to_owned(),
            labels: BTreeMap::from([
                (INSTANCE.to_owned(), instance.to_owned()),
                (JOB.to_owned(), id),
                (PROJECT.to_owned(), recipe.job.project.to_string()),
                (
                    "mistry.group".to_owned(),
                    pending.info().group_name().to_owned(),
                ),
                (CONTAINER_TRY.to_owned(), tries.to_string()),
            ]),
            user: settings
                .user
                .clone()
                .unwrap_or_else(|| user(settings).to_string()),
            cap_drop: cap_drop(settings),
            data: pending.data(),
            mounts,
            network: settings
                .network
                .clone()
                .unwrap_or_else(|| config.network.clone()),
            limits: Limits {
                memory: limits.memory,
                cpus: limits.cpus,
                pids: limits.pids.or(config.limits.pids),
            },
            options: run_options(settings, &config),
            environment: environment(recipe, settings, &config)?,
            log_bytes,
            slice: Some(SLICE.to_owned()),
        })
    }

    /// Creates a container of this spec, even if an earlier one has its name.
    async fn create_named(&mut self, spec: &ContainerSpec) -> Result<Created, Interruption> {
        let docker = self.shared.docker.clone();
        let created = self.cancellable_create(docker.create(spec)).await?;
        let Err(docker::Error::NameTaken(_)) = created else {
            return Ok(created);
        };
        // A result is sent before its container is removed, and its receiver may have requested the same
        // again by now. Or the Engine went away before it could report that it had made one.
        let labels = [INSTANCE, JOB].map(|key| (key.to_owned(), spec.labels[key].clone()));
        let again = async {
            let found = docker.containers(&labels.into()).await?;
            for earlier in found.into_iter().filter(|found| found.name == spec.name) {
                docker.remove(&earlier.id).await?;
            }
            docker.create(spec).await
        };
        self.cancellable_create(again).await
    }

    /// Creates the directories that the image expects, and mounts them.
    async fn mount_declared(
        &mut self,
        spec: &mut ContainerSpec,
        declared: &Declared,
        needs_home: bool,
        user: User,
    ) -> Result<(), Interruption> {
        let (directories, mounts) = (declared.directories.clone(), spec.mounts.clone());
        let home = self.on_disk(move |pending| {
            pending.make_declared(&directories, &user)?;
            match mounted_in_home(&mounts).filter(|_| needs_home) {
                Some(inside) => Ok(Some(pending.make_home(&inside, &user)?)),
                None => Ok(None),
            }
        });
        if let Some(home) = home.await? {
            spec.mounts.insert(home, HOME.to_owned());
        }
        for volume in &declared.volumes {
            let inside = format!("/data/{}", volume.display());
            spec.mounts.insert(spec.data.join(volume), inside);
        }
        spec.environment.extend(declared.environment.clone());
        if needs_home {
            spec.environment.push(format!("HOME={HOME}"));
        }
        Ok(())
    }
}

/// What the settings and the configuration say in the words of `docker run`.
fn run_options(settings: &Settings, config: &SchedulerConfig) -> RunOptions {
    let ulimits = settings.ulimits.as_ref().or(config.ulimits.as_ref());
    let dns = settings.dns.as_ref().or(config.dns.as_ref());
    let extra_hosts = settings
        .extra_hosts
        .as_ref()
        .or(config.extra_hosts.as_ref());
    let ulimits = ulimits.into_iter().flat_map(Ulimits::iter);
    let dns = dns.into_iter().flat_map(NameServers::iter);
    let extra_hosts = extra_hosts.into_iter().flat_map(ExtraHosts::iter);
    RunOptions {
        shm_size: settings.shm_size.or(config.shm_size).map(ShmSize::bytes),
        init: settings.init,
        ulimits: ulimits
            .map(|(name, limit)| docker::Ulimit {
                name: name.to_owned(),
                soft: limit.soft,
                hard: limit.hard,
            })
            .collect(),
        dns: dns.map(ToString::to_string).collect(),
        extra_hosts: extra_hosts.map(str::to_owned).collect(),
    }
}

/// The variables of the project, and the host's proxies that it does not set itself.
fn environment(
    recipe: &Recipe,
    settings: &Settings,
    config: &SchedulerConfig,
) -> Result<Vec<String>, project::Error> {
    let mut variables = recipe.environment(settings)?;
    let proxies = config.proxies.iter();
    let proxies = proxies.filter(|(name, _)| !settings.env.sets(name));
    variables.extend(proxies.map(|(name, value)| format!("{name}={value}")));
    Ok(variables)
}

/// A project's settings, if the configuration allows them.
pub(super) fn settings_of<'a>(
    recipe: &'a Recipe,
    config: &SchedulerConfig,
) -> Result<&'a Settings, project::Error> {
    let settings = recipe.settings()?;
    let allowed = settings.check_capabilities(&config.cap_add, user(settings).user);
    match allowed {
        Ok(()) => Ok(settings),
        Err(error) => {
            let name = recipe.context.project().name.clone();
            Err(project::Error::Settings(name, error))
        }
    }
}

/// Capabilities that are dropped for root in the container of a build.
fn cap_drop(settings: &Settings) -> Vec<String> {
    let needless = Capability::ALL.iter();
    needless
        .filter(|capability| !settings.cap_add.contains(capability))
        .map(|capability| capability.as_str().to_owned())
        .collect()
}

/// The user that a build runs as, who must be able to write its data: the daemon's user, unless the project
/// sets another. Changing the owner takes a capability, which root has and the packaged daemon.
pub(super) fn user(settings: &Settings) -> User {
    let asked = settings.user.as_deref().and_then(|user| {
        let (user, group) = user.split_once(':').unwrap_or((user, "0"));
        Some((user.parse().ok()?, group.parse().ok()?))
    });
    let (user, group) = asked.unwrap_or_else(|| {
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        (user.as_raw(), group.as_raw())
    });
    let capabilities = rustix::thread::capabilities(None);
    let may_give = capabilities.is_ok_and(|ours| ours.effective.contains(CapabilitySet::CHOWN));
    User {
        user,
        group,
        owns_created_files: may_give && asked.is_some(),
    }
}
