//! The builds around one: before and after it in its group, and the last one before it that succeeded.

use jiff::Timestamp;

use super::index_entry::IndexEntry;
use crate::job::{JobId, Outcome, Status};

/// The attempt at a job around which builds are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Attempted {
    /// Its job.
    pub id: JobId,
    /// Its number among the attempts at the job.
    pub number: u32,
    /// When it started.
    pub started_at: Timestamp,
}

/// A build that another one's page links to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its id.
    pub id: JobId,
    /// Its number among the attempts at its job.
    pub number: u32,
    /// What it is doing, or how it ended.
    pub status: Status,
}

/// The builds around one, by their start: of its group, or of its project if it has no group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// The one before it.
    pub older: Option<Neighbour>,
    /// The one after it.
    pub newer: Option<Neighbour>,
    /// The last one before it that succeeded.
    pub last_succeeded: Option<JobId>,
}

/// Those among the builds before and after one, nearest first, that are of its group; of any if that is "".
pub(super) fn nearest<'a>(
    group: &str,
    older: impl Iterator<Item = (JobId, &'a IndexEntry)>,
    mut newer: impl Iterator<Item = (JobId, &'a IndexEntry)>,
) -> Neighbours {
    let is_alike = |entry: &IndexEntry| group.is_empty() || *entry.group.name == *group;
    let neighbour = |(id, entry): (JobId, &IndexEntry)| Neighbour {
        id,
        number: entry.number,
        status: entry.status,
    };
    let mut older = older.filter(|(_, entry)| is_alike(entry)).peekable();
    let nearest = older.peek().copied().map(neighbour);
    let succeeded = Some(Outcome::Succeeded);
    Neighbours {
        older: nearest,
        newer: newer.find(|(_, entry)| is_alike(entry)).map(neighbour),
        last_succeeded: older
            .find(|(_, entry)| entry.outcome() == succeeded)
            .map(|(id, _)| id),
    }
}
