//! Builds an image with BuildKit by the program docker-buildx, which answers the questions for build secrets.
//!
//! BuildKit asks its client for them in a session of gRPC, which the Engine's API is about to lose. The program is
//! started as Docker's client starts it, but with an environment and a directory of its own: it knows no
//! credentials and no other builder than that of our Engine.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use bollard::query_parameters::EventsOptions;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rustix::fs::{Access, access};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::build_secrets::OpenSecrets;
use super::buildx_output::{Hung, Report, follow};
use super::child::Child;
use super::dockerfile::Patch;
use super::engine::{Docker, refusal};
use super::error::Error;
use super::image_build::{BUILDING_IMAGE, Broken, ImageSpec};
use super::steps::Progress;

const PROGRAM: &str = "docker-buildx";

/// The host's directories of plugins of Docker's client.
const PLUGIN_DIRECTORIES: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

const NOT_INSTALLED: &str = "build secrets and ssh need the program docker-buildx, which is not installed on this host: install the package docker-buildx (Debian 13, Ubuntu) or docker-buildx-plugin (Docker's own packages)";

/// Bytes of the file with the image's id.
const MAX_ID_FILE: u64 = 4 << 10;

/// The directory of one build, below that of the spec, which must be cleared when nothing is built.
static NEXT_DIRECTORY: AtomicU64 = AtomicU64::new(0);

impl Docker {
    /// Builds an image with docker-buildx; see [`Docker::build_image`]. When this is dropped, the program is
    /// killed, which cancels the build.
    pub(super) async fn build_with_buildx<F, S>(
        &self,
        spec: &ImageSpec,
        context: &F,
        output: &mpsc::Sender<Progress>,
    ) -> Result<String, Error>
    where
        F: Fn(&[Patch]) -> S,
        S: Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    {
        spec.secrets.check(&spec.dockerfile)?;
        let program = blocking(|| Ok(find_program(plugin_directories()))).await;
        let program = program.ok().flatten();
        let program = program.ok_or_else(|| Error::Build(NOT_INSTALLED.to_owned()))?;
        let prepared = self.prepare_buildkit(spec, output).await?;
        let broken = Broken::default();
        let body = broken.clone().watch(context(prepared.patches()));
        let stop = CancellationToken::new();
        let _stops = stop.clone().drop_guard();
        let run = Run {
            docker: self.clone(),
            spec: spec.clone(),
            network: prepared.network.clone(),
            stop,
        };
        let output = output.clone();
        // A task of its own: the program is awaited and its directory removed even if this is dropped.
        let running = self.children().spawn(async move {
            let body = Box::pin(body);
            run.run(&program, body, &output).await
        });
        let built = running.await.map_err(|error| Error::Api {
            operation: BUILDING_IMAGE.to_owned(),
            source: error.into(),
        })?;
        prepared.outcome(&broken, built)
    }

    /// Returns when the Engine goes away.
    async fn went_away(&self) {
        let types = HashMap::from([("type".to_owned(), vec!["daemon".to_owned()])]);
        let options = EventsOptions {
            filters: Some(types),
            ..EventsOptions::default()
        };
        if let Ok(client) = self.client(BUILDING_IMAGE).await {
            let mut events = client.events(Some(options)).boxed();
            let is_refused = loop {
                match events.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break refusal(&error).is_some(),
                    None => break false,
                }
            };
            if is_refused {
                std::future::pending().await
            }
        }
    }

    /// The id of the image that docker-buildx reports, if it is the one of the spec.
    async fn reported_image(&self, id: &str, spec: &ImageSpec) -> Result<String, Error> {
        // Where the Engine stores images as containerd does, it may know the image only by its tag.
        for name in [id, &spec.tag] {
            let found = self.call(BUILDING_IMAGE, async |docker| {
                docker.inspect_image(name).await
            });
            let image = match found.await? {
                Ok(image) => image,
                Err(error) => match refusal(&error) {
                    Some((404 | 400, _)) => continue,
                    _ => return Err(self.failed(BUILDING_IMAGE, error)),
                },
            };
            let labels = image.config.and_then(|config| config.labels);
            let labels = labels.unwrap_or_default();
            let mut wanted = spec.labels.iter();
            if wanted.all(|(name, value)| labels.get(name) == Some(value))
                && let Some(id) = image.id
            {
                return Ok(id);
            }
        }
        Err(Error::Build(
            "docker-buildx reports an image that the Docker Engine does not have, or that is not the one that was asked for".to_owned(),
        ))
    }
}

/// One run of the program.
struct Run {
    docker: Docker,
    spec: ImageSpec,
    network: String,
    stop: CancellationToken,
}

impl Run {
    async fn run<S>(
        &self,
        program: &Path,
        body: S,
        output: &mpsc::Sender<Progress>,
    ) -> Result<String, Error>
    where
        S: Stream<Item = Result<Bytes, io::Error>> + Send + Unpin,
    {
        let failed = |error: io::Error| Error::Api {
            operation: BUILDING_IMAGE.to_owned(),
            source: error.into(),
        };
        let parent = self.spec.scratch.clone();
        let directory = blocking(move || make_directory(&parent))
            .await
            .map_err(failed)?;
        let built = self.run_in(&directory, program, body, output).await;
        // What stays is removed at the next start.
        let _ = blocking(move || std::fs::remove_dir_all(directory)).await;
        built
    }

    async fn run_in<S>(
        &self,
        directory: &Path,
        program: &Path,
        body: S,
        output: &mpsc::Sender<Progress>,
    ) -> Result<String, Error>
    where
        S: Stream<Item = Result<Bytes, io::Error>> + Send + Unpin,
    {
        let not_started = |error: io::Error| {
            let kind = error.kind();
            Error::Build(format!("docker-buildx could not be started: {kind}"))
        };
        let secrets = self.spec.secrets.open().map_err(not_started)?;
        let id_file = directory.join("image");
        let mut command = self.command(program, directory, &id_file, &secrets);
        let child = blocking(move || Child::spawn(&mut command)).await;
        let mut child = child.map_err(not_started)?;
        let mut report = Report::default();
        let followed = tokio::select! {
            followed = follow(&mut child, body, &mut report, output, self.docker.went_away()) => followed,
            () = self.stop.cancelled() => Err(Hung::Stopped),
        };
        let status = child.reap().await;
        if let Err(hung) = followed {
            return Err(self.hung(hung));
        }
        match status {
            Ok(status) if status.success() => {}
            Ok(_) if report.is_engine_gone => return Err(self.hung(Hung::EngineGone)),
            Ok(status) => {
                // The Engine that went away is the reason, and may come back.
                self.docker.ping().await?;
                let reason = report.reason(&ended(status));
                return Err(Error::Build(secrets.explain(reason)));
            }
            Err(error) => return Err(not_started(error)),
        }
        let id = blocking(move || Ok(read_id(&id_file))).await;
        let id = id.ok().flatten().ok_or_else(|| {
            Error::Build(report.reason("docker-buildx ended without the id of an image"))
        })?;
        self.docker.reported_image(&id, &self.spec).await
    }

    fn hung(&self, hung: Hung) -> Error {
        match hung {
            Hung::EngineGone => {
                let why = "it went away while docker-buildx built an image";
                self.docker.unreachable(BUILDING_IMAGE, why.into())
            }
            other => Error::Build(other.to_string()),
        }
    }

    fn command(
        &self,
        program: &Path,
        directory: &Path,
        id_file: &Path,
        secrets: &OpenSecrets,
    ) -> Command {
        let spec = &self.spec;
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .env("HOME", directory)
            .env("TMPDIR", directory)
            .env("DOCKER_CONFIG", directory)
            .env("DOCKER_HOST", format!("unix://{}", self.docker.socket()))
            // Engines before 23 refuse the question for a provenance, also one for none.
            .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .args(["build", "--builder", "default", "--progress", "rawjson"])
            .args([OsStr::new("--iidfile"), id_file.as_os_str()])
            .args(["--tag", &spec.tag]);
        for (name, value) in &spec.labels {
            command.args(["--label", &format!("{name}={value}")]);
        }
        for (name, value) in &spec.build_args {
            // The address of a proxy may have a password, and arguments are visible to all users of the host.
            match name.to_ascii_lowercase().ends_with("_proxy") {
                true => command.env(name, value).args(["--build-arg", name]),
                false => command.args(["--build-arg", &format!("{name}={value}")]),
            };
        }
        if !spec.target.is_empty() {
            command.args(["--target", &spec.target]);
        }
        if !self.network.is_empty() {
            command.args(["--network", &self.network]);
        }
        if spec.fresh {
            command.arg("--no-cache");
        }
        // The context comes on standard input.
        command.args(&secrets.arguments).arg("-");
        command
    }
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("docker-buildx ended with status {code}"),
        (None, Some(signal)) => format!(
            "docker-buildx was killed by signal {signal}; ask again, and if that happens again, look whether the host has enough memory"
        ),
        (None, None) => "docker-buildx ended".to_owned(),
    }
}

/// Where Docker's client looks for its plugins: the user's own come first.
fn plugin_directories() -> Vec<PathBuf> {
    let config = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let config = config.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".docker")));
    let own = config.map(|config| config.join("cli-plugins"));
    let own = own.filter(|own| own.is_absolute());
    let others = PLUGIN_DIRECTORIES.iter().map(PathBuf::from);
    own.into_iter().chain(others).collect()
}

fn find_program(directories: Vec<PathBuf>) -> Option<PathBuf> {
    let programs = directories
        .into_iter()
        .map(|directory| directory.join(PROGRAM));
    let mut programs = programs.filter(|program| program.is_file());
    programs.find(|program| access(program.as_path(), Access::EXEC_OK).is_ok())
}

/// A new directory for the program's own files.
fn make_directory(parent: &Path) -> io::Result<PathBuf> {
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700).recursive(true).create(parent)?;
    let number = NEXT_DIRECTORY.fetch_add(1, Ordering::Relaxed);
    let directory = parent.join(format!("{}-{number}", std::process::id()));
    builder.recursive(false).create(&directory)?;
    Ok(directory)
}

/// The id in the file that the program has written.
fn read_id(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX_ID_FILE).read_to_string(&mut text).ok()?;
    let id = text.trim();
    let digits = id.strip_prefix("sha256:")?;
    let is_id = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_id.then(|| id.to_owned())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_program_that_can_be_executed_is_taken_and_without_one_the_package_is_named() {
        let home = tempfile::tempdir().unwrap();
        let (own, others) = (home.path().join("own"), home.path().join("others"));
        let find = || find_program(vec![own.clone(), others.clone()]);
        let make = |directory: &Path, mode: u32| {
            std::fs::create_dir(directory).unwrap();
            let program = directory.join("docker-buildx");
            std::fs::write(&program, "").unwrap();
            std::fs::set_permissions(&program, PermissionsExt::from_mode(mode)).unwrap();
            program
        };
        assert_eq!(find(), None);
        let first = make(&own, 0o644);
        assert_eq!(find(), None);
        let other = make(&others, 0o755);
        assert_eq!(find(), Some(other));
        std::fs::set_permissions(&first, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(find(), Some(first));
        for package in ["package docker-buildx ", "docker-buildx-plugin"] {
            assert!(NOT_INSTALLED.contains(package));
        }
    }
}
