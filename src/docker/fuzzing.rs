//! The private parsers of data from a Docker Engine and its images, for the fuzz targets in `fuzz/`; not in
//! any program.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use jiff::Timestamp;

use super::buildkit::read_line;
use super::line_ends::LineEnds;
use super::output::{self, Output};
use super::passwd::{self, Found};
use super::steps::{Progress, Steps};
use super::trace::Trace;

/// The home directory of `user` in the archive of an `/etc/passwd` from the Engine, truncated anywhere; or
/// the path that it is a link to.
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

/// The progress of an image build with two labels and one argument set by mistry, from an Engine that sends
/// these objects, one per line; invalid lines are skipped.
pub fn steps(stream: &[u8]) -> Vec<Progress> {
    let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let owned = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        owned.collect()
    };
    let labels = pairs(&[("mistry.context", "c"), ("mistry.instance", "i")]);
    let mut steps = Steps::new(&labels, &["uid".to_owned()]);
    stream
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .flat_map(|item| steps.take(item))
        .collect()
}

/// The text for the log of an answer of BuildKit, up to its first error.
pub fn buildkit(answer: &[u8]) -> Vec<u8> {
    let (mut trace, mut image) = (Trace::default(), None);
    let lines = answer.split(|byte| *byte == b'\n');
    let texts = lines.map_while(|line| read_line(line, &mut trace, &mut image).ok());
    texts.flatten().collect()
}

/// The output of a container whose Engine leaves line ends out and sends these entries; `None` if it would
/// wait, which never happens without a count.
pub fn line_ends(entries: Vec<Output>) -> Option<Vec<Output>> {
    let mut line_ends = LineEnds::new(None);
    let mut all = Vec::new();
    for entry in entries {
        all.extend(line_ends.pass(entry).now_or_never()?);
    }
    all.extend(line_ends.finish().now_or_never()?);
    Some(all)
}

/// The time prefix of a piece of output.
pub fn stamp(piece: &[u8]) -> Option<Timestamp> {
    output::stamp(piece)
}
