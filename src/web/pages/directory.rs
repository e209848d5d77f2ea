//! A directory of artifacts as a page.

use std::cmp::Ordering;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use askama::Template;
use hyper::HeaderMap;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::api::ArtifactTotals;
use crate::build::{Entries, Entry, EntryKind};
use crate::job::JobId;
use crate::project::ProjectName;
use crate::web::client_budget::ClientBudget;
use crate::web::error::ApiError;
use crate::web::format;
use crate::web::response::Response;

/// Characters of a name or of a link's target that are shown: more than meaningful names have.
const MAX_NAME: usize = 300;
/// Bytes of addresses and names in a page. Names made up by a container become many times longer when
/// escaped; the number of omitted entries is shown.
const MAX_BYTES: usize = 1 << 20;
/// Parent directories that are linked: more than people nest by hand. The address of each contains all those
/// above it.
const MAX_STEPS: usize = 24;
/// File name characters kept in an address.
pub(in crate::web) const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'~');

/// The path of an artifact, as links.
#[derive(Debug)]
pub(super) struct Trail {
    pub(super) project: String,
    pub(super) id: String,
    pub(super) short: String,
    /// From the artifacts themselves down; the last one is the artifact itself.
    pub(super) steps: Vec<Step>,
}

/// A name in the path.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) href: String,
    pub(super) name: String,
}

impl Trail {
    pub(super) fn new(project: &ProjectName, id: JobId, path: &Path) -> Trail {
        let mut href = format!("/artifacts/{project}/{id}");
        let mut steps = vec![Step {
            href: format!("{href}/"),
            name: "artifacts".to_owned(),
        }];
        let names: Vec<&[u8]> = names(path).collect();
        let left_out = names.len().saturating_sub(MAX_STEPS);
        for (at, name) in names.iter().enumerate() {
            href.push('/');
            href.extend(percent_encode(name, IN_PATH));
            // Omitted names become one step, to the last of them.
            let name = match (at + 1).cmp(&left_out) {
                Ordering::Less => continue,
                Ordering::Equal => "…".to_owned(),
                Ordering::Greater => shown_name(name),
            };
            steps.push(Step {
                href: format!("{href}/"),
                name,
            });
        }
        Trail {
            project: project.to_string(),
            id: id.to_string(),
            short: id.short(),
            steps,
        }
    }

    /// The address of the artifact itself, without a slash at its end.
    pub(super) fn here(&self) -> &str {
        let last = self.steps.last().map_or("", |step| &*step.href);
        last.trim_end_matches('/')
    }

    /// The name of the artifact itself.
    pub(super) fn name(&self) -> &str {
        self.steps.last().map_or("", |step| &*step.name)
    }

    /// The steps before the artifact itself.
    pub(super) fn above(&self) -> &[Step] {
        self.steps.split_last().map_or(&[], |(_, above)| above)
    }
}

/// The names in a path.
fn names(path: &Path) -> impl Iterator<Item = &[u8]> {
    let names = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    names.filter(|name| !matches!(*name, b"" | b"."))
}

/// The prefix of links from the page's own address to entries of the directory: empty if the address ends
/// with a slash; else the directory's own name, which a browser takes for a file's.
fn base(path: &Path) -> String {
    let address = path.as_os_str().as_bytes();
    match names(path).last() {
        Some(name) if !address.ends_with(b"/") => format!("./{}/", percent_encode(name, IN_PATH)),
        _ => "./".to_owned(),
    }
}

/// A time for a page; `None` if a container set one outside of the calendar.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) stamp: String,
    pub(super) shown: String,
}

pub(super) fn moment(seconds: i64) -> Option<Moment> {
    let time = Timestamp::from_second(seconds).ok()?;
    Some(Moment {
        stamp: format::stamp(time),
        shown: format::utc(time),
    })
}

/// A name from a container, on one line.
fn shown_name(name: &[u8]) -> String {
    format::cut(&format::visible(&String::from_utf8_lossy(name)), MAX_NAME)
}

#[derive(Template)]
#[template(path = "directory.html")]
struct Page {
    trail: Trail,
    rows: Vec<Row>,
    count: String,
    more: usize,
    total: String,
    total_exact: u64,
    /// Of all artifacts of the build; "" while that is unknown.
    all: String,
}

struct Row {
    href: String,
    name: String,
    kind: Kind,
    modified: Option<Moment>,
}

enum Kind {
    Directory,
    File { size: String, exact: u64 },
    Link { target: String },
    Special,
}

/// The list of the directory at `path` of a build's artifacts.
pub(in crate::web) fn render(
    budget: &ClientBudget,
    headers: &HeaderMap,
    (project, id): (&ProjectName, JobId),
    path: &Path,
    entries: &Entries,
    totals: Option<ArtifactTotals>,
) -> Result<Response, ApiError> {
    let base = base(path);
    let mut bytes_left = MAX_BYTES;
    let mut total = 0_u64;
    let mut rows = Vec::with_capacity(entries.items.len());
    for entry in &entries.items {
        let row = row(&base, entry);
        let Some(left) = bytes_left.checked_sub(row.bytes()) else {
            break;
        };
        bytes_left = left;
        if let Kind::File { exact, .. } = row.kind {
            total = total.saturating_add(exact);
        }
        rows.push(row);
    }
    super::page::page(
        budget,
        headers,
        &Page {
            trail: Trail::new(project, id, path),
            count: match entries.items.len() + entries.more {
                1 => "1 entry".to_owned(),
                count => format!("{count} entries"),
            },
            more: entries.items.len() + entries.more - rows.len(),
            rows,
            total: format::bytes(total),
            total_exact: total,
            all: totals.map(format::artifacts).unwrap_or_default(),
        },
    )
}

fn row(base: &str, entry: &Entry) -> Row {
    let name = entry.name.as_bytes();
    Row {
        href: format!("{base}{}", percent_encode(name, IN_PATH)),
        name: shown_name(name),
        kind: match &entry.kind {
            EntryKind::Directory => Kind::Directory,
            EntryKind::File(size) => Kind::File {
                size: format::bytes(*size),
                exact: *size,
            },
            EntryKind::Link(target) => Kind::Link {
                target: shown_name(target.as_bytes()),
            },
            EntryKind::Special => Kind::Special,
        },
        modified: moment(entry.modified),
    }
}

impl Row {
    /// The bytes of its address and its name in the page: both occur twice for a file.
    fn bytes(&self) -> usize {
        let own = self.href.len() + escaped(&self.name);
        match &self.kind {
            Kind::File { .. } => 2 * own,
            Kind::Link { target } => own + escaped(target),
            Kind::Directory | Kind::Special => own,
        }
    }
}

/// The length of `text` in a page, where `<` is `&#60;`.
fn escaped(text: &str) -> usize {
    let longer = text.bytes().filter(|byte| b"<>&\"'".contains(byte));
    text.len() + 4 * longer.count()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;

    use http_body_util::BodyExt;

    use super::*;
    use crate::budget::{Budget, Client};

    async fn shown(path: &Path, entries: &Entries) -> String {
        let id: JobId = "ab".repeat(32).parse().unwrap();
        let project = "p".parse().unwrap();
        let budget = ClientBudget::new(Budget::new(16 << 20, 0), Client::Local);
        let answer = render(
            &budget,
            &HeaderMap::new(),
            (&project, id),
            path,
            entries,
            None,
        )
        .unwrap();
        let body = answer.into_body().collect().await.unwrap();
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    }

    fn entry(name: Vec<u8>, kind: EntryKind) -> Entry {
        Entry {
            name: OsString::from_vec(name),
            kind,
            mode: 0o644,
            modified: 1_000_000_000,
        }
    }

    #[tokio::test]
    async fn a_page_of_a_directory_is_bounded_for_any_names_and_depth() {
        for (step, depth) in [(vec![0xff_u8; 255], 15), (vec![b'<'], 2_000)] {
            let path: PathBuf = std::iter::repeat_n(OsString::from_vec(step), depth).collect();
            let items = (0..5_000_u32).map(|n| {
                let mut name = vec![1; 251];
                name.extend(n.to_be_bytes().map(|byte| byte.max(1)));
                let kind = match n % 2 {
                    0 => EntryKind::File(2),
                    _ => EntryKind::Link(OsString::from_vec(vec![b'"'; 4_000])),
                };
                entry(name, kind)
            });
            let entries = Entries {
                items: items.collect(),
                more: 7,
            };
            let page = shown(&path, &entries).await;
            assert!(page.len() < 3 << 20, "{}", page.len());
            let rows = page.matches("<tr><td>").count();
            assert!(rows > 200, "{rows}");
            assert!(page.contains("5007 entries"));
            let more = format!("{} more are not listed", 5_007 - rows);
            assert!(page.contains(&more), "{more}");
            // The sum is that of the shown files.
            let sum = format!("title=\"{} bytes\"", rows.div_ceil(2) * 2);
            assert!(page.contains(&sum), "{sum}");
        }
    }

    #[tokio::test]
    async fn links_work_with_and_without_a_trailing_slash() {
        let entries = Entries {
            items: vec![entry(b"javascript:x".to_vec(), EntryKind::File(1))],
            more: 0,
        };
        for (path, href) in [
            ("", "./javascript%3Ax"),
            ("a b/", "./javascript%3Ax"),
            ("a b/c:d", "./c%3Ad/javascript%3Ax"),
        ] {
            let page = shown(Path::new(path), &entries).await;
            assert!(page.contains(&format!("href=\"{href}?view\"")), "{page}");
            assert!(page.contains(&format!("href=\"{href}\" download")));
        }
        // Omitted steps of a long path can be reached.
        let trail = Trail::new(
            &"p".parse().unwrap(),
            "ab".repeat(32).parse().unwrap(),
            Path::new(&"d/".repeat(100)),
        );
        assert_eq!(trail.steps.len(), 1 + 1 + MAX_STEPS);
        assert!(trail.here().ends_with(&"/d".repeat(100)));
        let gap = &trail.steps[1];
        assert_eq!(gap.name, "…");
        assert!(
            gap.href
                .ends_with(&format!("{}/", "/d".repeat(100 - MAX_STEPS)))
        );
        assert!(!gap.href.ends_with(&"/d".repeat(101 - MAX_STEPS)));
    }
}
