//! The command line of `mistryd`.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::client::with_params_last;
use crate::filesystem::{self, Kind};
use crate::project::{parse_duration, parse_size};
use crate::web::Scope;

/// A build server that caches build results.
///
/// Projects are directories with a Dockerfile. On a request, mistryd builds a project in a
/// container once; later equal requests get the stored result.
#[derive(Debug, Parser)]
#[command(
    name = "mistryd",
    version,
    disable_version_flag = true,
    after_help = "Exit status: 0 ended as asked; 1 failed; 2 wrong command line; 3 gc --dry-run without a rule; 75 must be started again; 78 wrong configuration.\nMISTRY_LOG (error, warn, info, debug) sets the log level of standard error."
)]
pub struct Command {
    /// The configuration file [default: ./config.json if it exists, else /etc/mistry/config.json]
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Where to listen over TCP [default: 127.0.0.1:8462]
    #[arg(short, long, value_name = "HOST:PORT")]
    pub addr: Option<String>,
    /// How to create and clone build directories: auto, btrfs or plain; overrides the configuration
    #[arg(long, value_name = "KIND")]
    pub filesystem: Option<Kind>,
    /// Use the D-Bus bus of the user who starts it instead of the system bus (for tests)
    #[arg(long)]
    pub user_bus: bool,
    /// Check the configuration, print its errors, and exit
    #[arg(long)]
    pub check_config: bool,
    /// Print the version and exit
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// What to do instead of serving
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// True for the arguments with which the daemon starts a child process of its own, which is
/// [`filesystem::confine`]. It is no verb of [`Command`], because it is not for users, and clap writes hidden
/// verbs into the completions.
pub fn is_confinement(arguments: impl IntoIterator<Item = OsString>) -> bool {
    arguments.into_iter().eq([filesystem::VERB])
}

/// The default address.
pub(super) const DEFAULT_ADDRESS: &str = "127.0.0.1:8462";

/// The default paths of the configuration: that of a working directory, then that of the packages.
const DEFAULT_CONFIGS: [&str; 2] = ["config.json", "/etc/mistry/config.json"];

/// There is no configuration.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no configuration: neither '{}' here nor '{}'; name one with --config", DEFAULT_CONFIGS[0], DEFAULT_CONFIGS[1]
)]
pub struct NoConfig;

impl Command {
    /// Reads the command line.
    ///
    /// # Errors
    /// A usage error, or the help text, which clap reports as an error.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
        Command::try_parse_from(with_params_last(arguments.into_iter().collect()))
    }

    /// The path of the configuration: the given one, else the first default that exists.
    ///
    /// # Errors
    /// No path is given, and no default exists.
    pub fn config(&self) -> Result<PathBuf, NoConfig> {
        match &self.config {
            Some(named) => Ok(named.clone()),
            None => first_existing(&DEFAULT_CONFIGS.map(Path::new)).ok_or(NoConfig),
        }
    }
}

/// The first path that exists or may exist: a path that cannot be looked up is not skipped, because reading
/// it reports the error.
fn first_existing(paths: &[&Path]) -> Option<PathBuf> {
    let is_absent = |path: &Path| {
        std::fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let found = paths.iter().find(|path| !is_absent(path));
    found.map(|path| path.to_path_buf())
}

/// What mistryd does besides serving.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make new images of projects (image rebuild): base images pulled, no layer reused; no build is made
    Rebuild(Rebuild),
    /// Remove builds that are not needed any more, by the rules in 'gc' of the configuration
    Gc(Gc),
    /// Make a token for the tokens file
    #[command(subcommand)]
    Token(TokenVerb),
}

/// Which images.
#[derive(Debug, Args)]
pub struct Rebuild {
    /// Only these projects [default: all]
    #[arg(value_name = "PROJECT")]
    named: Vec<String>,
    /// The same; may be given several times
    // The help does not show `-p`, which scripts for the first mistry use: in `mistry` it is the port.
    #[arg(long = "project", short_alias = 'p', value_name = "PROJECT")]
    projects: Vec<String>,
    /// Stop at the first image that cannot be built
    #[arg(long)]
    pub fail_fast: bool,
    /// Show the output of the image builds
    #[arg(short, long)]
    pub verbose: bool,
    /// The values that a mistry.json names in "secrets" and "ssh": --_NAME=@FILE or --_NAME=@-. Each project gets
    /// those that it names
    #[arg(last = true, value_name = "--_NAME=@FILE")]
    pub params: Vec<String>,
}

impl Rebuild {
    /// The named projects; none means all.
    pub fn projects(&self) -> impl Iterator<Item = &str> {
        self.named.iter().chain(&self.projects).map(String::as_str)
    }
}

/// Which builds are removed; each given rule replaces the configured one.
#[derive(Debug, Args)]
pub struct Gc {
    /// Only list what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Remove builds that were not used for this long, such as 90m, 12h or 7d
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub older_than: Option<Duration>,
    /// Remove builds until the others take no more than this, such as 500M or 20G
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub max_bytes: Option<u64>,
    /// Remove builds until this much space is free, such as 500M or 20G
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub min_free: Option<u64>,
    /// Keep the N most recently used builds of each project; this overrides the other rules
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u64>,
}

fn age(text: &str) -> Result<Duration, String> {
    let found = parse_duration(text).filter(|age| !age.is_zero());
    found.ok_or_else(|| "expected a duration like 90m, 12h or 7d".to_owned())
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "expected a size like 500M or 20G".to_owned())
}

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token, print it once, and store its hash in the configured tokens file
    New {
        /// Name of the token; it identifies the token's line in the tokens file
        name: String,
        /// What it allows: read, build, admin
        #[arg(
            long,
            value_name = "SCOPE[,SCOPE]",
            value_delimiter = ',',
            default_value = "build",
            value_parser = scope
        )]
        scope: Vec<Scope>,
    },
}

fn scope(name: &str) -> Result<Scope, String> {
    name.parse()
        .map_err(|()| "expected read, build or admin".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_configuration_is_the_given_file_the_one_here_or_the_installed_one() {
        let named = Command::try_parse_from(["mistryd", "-c", "x"]).unwrap();
        assert_eq!(named.config().unwrap(), Path::new("x"));
        let home = tempfile::tempdir().unwrap();
        let (here, installed) = (home.path().join("a"), home.path().join("b"));
        let found = || first_existing(&[&here, &installed]);
        assert_eq!(found(), None);
        std::fs::write(&installed, "").unwrap();
        assert_eq!(found().as_ref(), Some(&installed));
        // A link to itself cannot be followed, but it exists.
        std::os::unix::fs::symlink("a", &here).unwrap();
        assert_eq!(found().as_ref(), Some(&here));
        let sentence = NoConfig.to_string();
        for path in DEFAULT_CONFIGS {
            assert!(sentence.contains(&format!("'{path}'")), "{sentence}");
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_valid() {
        Command::command().debug_assert();
        let command =
            Command::try_parse_from(["mistryd", "rebuild", "-p", "b", "a", "-p", "c"]).unwrap();
        let named = |rebuild: &Rebuild| rebuild.projects().collect::<String>() == "abc";
        assert!(matches!(command.verb, Some(Verb::Rebuild(r)) if named(&r)));
        let mut command = Command::command();
        let rebuild = command.find_subcommand_mut("rebuild").unwrap();
        let help = rebuild.render_help().to_string();
        assert!(
            help.contains(" --project <PROJECT>") && !help.contains("-p,"),
            "{help}"
        );
        assert!(Command::try_parse_from(["mistryd", "--filesystem", "zfs"]).is_err());
        assert!(Command::try_parse_from(["mistryd", "dance"]).is_err());
    }

    #[test]
    fn the_internal_verb_is_hidden_from_the_help() {
        let verb = || OsString::from(filesystem::VERB);
        assert!(is_confinement([verb()]));
        assert!(!is_confinement([]));
        assert!(!is_confinement([verb(), verb()]));
        assert!(!is_confinement(["gc".into()]));
        assert!(
            Command::command()
                .find_subcommand(filesystem::VERB)
                .is_none()
        );
    }
}
