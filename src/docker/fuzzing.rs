//! The private parsers of what a Docker Engine and its images say, for the fuzz targets in `fuzz/`; in no
//! program.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use jiff::Timestamp;

use super::line_ends::LineEnds;
use super::output::{self, Output};
use super::passwd::{self, Found};
use super::steps::{Progress, Steps};

/// The home directory of `user` in the archive of an `/etc/passwd` as the Engine sends it, cut off
/// anywhere; or the path that it is a link to.
pub fn home(archive: &[u8], user: u32) -> Option<String> {
    match passwd::first_of(archive) {
        Found::File(text) => passwd::home_in(&text, user),
        Found::Link(target) => Some(passwd::target_of("/etc/passwd", &target)),
        Found::Nothing => None,
    }
}

/// The home directory of `user` in an `/etc/passwd`.
pub fn home_in(passwd: &[u8], user: u32) -> Option<String> {
    passwd::home_in(passwd, user)
}

/// What is told of an image build with two labels and an argument of ours, whose Engine sends these
/// objects, one on each line; what is none is passed over.
pub fn steps(stream: &[u8]) -> Vec<Progress> {
    let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let owned = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        owned.collect()
    };
    let labels = pairs(&[("mistry.context", "c"), ("mistry.instance", "i")]);
    let mut steps = Steps::new(&labels, &pairs(&[("uid", "0")]));
    stream
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .flat_map(|item| steps.take(item))
        .collect()
}

/// The output of a container whose Engine leaves line ends out and sends these entries; `None` where
/// one is waited for, which none is without a count.
pub fn line_ends(entries: Vec<Output>) -> Option<Vec<Output>> {
    let mut line_ends = LineEnds::new(None);
    let mut all = Vec::new();
    for entry in entries {
        all.extend(line_ends.pass(entry).now_or_never()?);
    }
    all.extend(line_ends.finish().now_or_never()?);
    Some(all)
}

/// The time that a piece of output begins with.
pub fn stamp(piece: &[u8]) -> Option<Timestamp> {
    output::stamp(piece)
}
