//! `mistry fetch ID`: the artifacts of a build that is there already.

use std::future::poll_fn;
use std::task::Poll;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::transport::{self, Fetched, Transport};
use super::wait::Reaching;
use super::{Again, Error, Which, say, short};
use crate::build::{BuildInfo, State};
use crate::client::{Client, Finished};
use crate::screen;

/// Fetch the artifacts of a build
#[derive(Debug, Args)]
#[command(after_long_help = transport::KEPT)]
pub(super) struct Fetch {
    /// The build's id or the first digits of it, also as PROJECT/ID
    #[arg(value_name = "ID")]
    id: Which,
    #[command(flatten)]
    pub(super) transport: Transport,
}

impl Fetch {
    pub(super) async fn run(&self, client: &Client, again: &Again) -> Result<(), Error> {
        self.transport.check().map_err(Error::Usage)?;
        let (project, id) = self.id.resolve(client).await?;
        let mut info = client.job(&project, id).await?.build_info;
        // The path says which build it is; an old record may not.
        info.project = project.to_string();
        info.id = id.to_string();
        let short = short(&info.id).to_owned();
        if info.state == State::Pending {
            let way = format!("follow it with: {}", again.hint("logs -f", &short));
            return Err(Error::Refused(format!("build {short} is not over; {way}")));
        }
        if !info.succeeded() {
            if self.transport.clear_target {
                let what = "did not succeed, so --clear-target would lose more than it brings";
                return Err(Error::Refused(format!("build {short} {what}")));
            }
            say(&format!(
                "build {short} did not succeed; fetching what it left"
            ));
        }
        let fetched = bring(client, again, &info, &self.transport).await?;
        super::tell(&format!("{short}: {}", summary(&fetched, &self.transport)))
    }
}

/// Fetches, once more when the server goes away meanwhile, unless a signal comes first that ends us:
/// then what is half done is removed.
pub(super) async fn bring(
    client: &Client,
    again: &Again,
    info: &BuildInfo,
    transport: &Transport,
) -> Result<Fetched, Error> {
    let ended = asked_to_end();
    transport::warn_of_git(transport);
    let fetching = async {
        let mut reaching = Reaching::begin();
        loop {
            let error = match transport.fetch(client, info).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            let is_tried_again = match &error {
                transport::Error::Server(error) => reaching.again(error).await,
                transport::Error::Torn(_) => reaching.again_after_break().await,
                _ => false,
            };
            if !is_tried_again {
                return Err(error);
            }
        }
    };
    tokio::select! {
        fetched = fetching => Ok(fetched?),
        () = ended => Err(Error::Interrupted(format!(
            "Interrupted; fetch the artifacts later with: {}",
            again.hint("fetch", &info.id)
        ))),
    }
}

/// Ctrl-C, or what a service manager sends. It is listened to from this call on, not only when the
/// future is awaited. A terminal that is closed ends us at once, unless nohup(1) says otherwise, which
/// would no longer hold if we listened.
fn asked_to_end() -> impl Future<Output = ()> {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
    // One that cannot be listened to ends us at once.
    let mut signals: Vec<_> = kinds.into_iter().flat_map(signal).collect();
    poll_fn(move |context| {
        let ended = |signal: &mut Signal| signal.poll_recv(context).is_ready();
        match signals.iter_mut().any(ended) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
}

/// `12 files in ./x`.
pub(super) fn summary(fetched: &Fetched, transport: &Transport) -> String {
    let what = match fetched.files {
        0 => "no files".to_owned(),
        1 => "1 file".to_owned(),
        files => format!("{files} files"),
    };
    let target = transport.target.display().to_string();
    screen::line(&format!("{what} in {target}"))
}

/// What `mistry build` says of a build that succeeded.
pub(super) fn told(done: &Finished) -> String {
    let info = &done.info;
    let took = super::spent(info.duration);
    let how = match (info.cached, info.incremental) {
        (true, _) => format!("cached (took {took} when it was built)"),
        (false, true) => format!("built in {took} (incremental)"),
        (false, false) => format!("built in {took}"),
    };
    format!("{} {how}", short(&info.id))
}
