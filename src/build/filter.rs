//! Filters for lists of builds, and places in the order of lists.

use std::cmp::Reverse;
use std::fmt;

use jiff::Timestamp;

use super::BuildInfo;
use super::index_entry::IndexEntry;
use crate::job::{JobId, Outcome, State};
use crate::project::ProjectName;

/// Selects the builds of a list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this project.
    pub project: Option<ProjectName>,
    /// Only of this group; `Some("")` is those without one.
    pub group: Option<String>,
    /// Only in this state.
    pub state: Option<State>,
    /// Only those with this outcome.
    pub outcome: Option<Outcome>,
    /// Only those that this client requested first.
    pub asked_by: Option<String>,
    /// Only those that started as a clone of a base, or only those that started empty.
    pub incremental: Option<bool>,
    /// Only those that are pinned, or only those that are not. It needs an entry of the index: a build's
    /// info does not say it.
    pub pinned: Option<bool>,
    /// Only those whose project, group, params or id prefix contain each of these words; in lower case.
    pub words: Vec<String>,
    /// Only builds that come later in the order: the end of the previous page.
    pub before: Option<Place>,
}

impl Filter {
    /// True for a build that belongs in the list, wherever it is in its order.
    pub fn takes(&self, project: &ProjectName, id: JobId, entry: &IndexEntry) -> bool {
        let is_project = self.project.as_ref().is_none_or(|wanted| wanted == project);
        let is_group = self
            .group
            .as_ref()
            .is_none_or(|wanted| **wanted == *entry.group.name);
        let is_state = self.state.is_none_or(|wanted| wanted == entry.state());
        let is_outcome = self
            .outcome
            .is_none_or(|wanted| Some(wanted) == entry.outcome());
        let is_askers = self
            .asked_by
            .as_ref()
            .is_none_or(|wanted| Some(wanted.as_str()) == entry.asked_by.as_deref());
        let is_kind = self
            .incremental
            .is_none_or(|wanted| wanted == entry.incremental);
        let is_pinned = self.pinned.is_none_or(|wanted| wanted == entry.is_pinned);
        is_project
            && is_group
            && is_state
            && is_outcome
            && is_askers
            && is_kind
            && is_pinned
            && entry.holds(&self.words, || id.to_string())
    }

    /// True for a build that may have been in the list while it was pending.
    pub fn may_have_taken(&self, info: &BuildInfo) -> bool {
        let anyhow = Filter {
            state: None,
            outcome: None,
            // A build that begins again may begin otherwise.
            incremental: None,
            ..self.clone()
        };
        anyhow.takes_build(info)
    }

    /// The same for a build with its full info.
    pub fn takes_build(&self, info: &BuildInfo) -> bool {
        self.takes(&info.project, info.id, &IndexEntry::of(info, None))
    }
}

/// A place in the list order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// When its build started.
    pub started: Timestamp,
    /// Its project.
    pub project: ProjectName,
    /// Its id.
    pub id: JobId,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.started, self.project, self.id)
    }
}

impl Place {
    /// The place of a build.
    pub fn of(info: &BuildInfo) -> Place {
        Place {
            started: info.started_at,
            project: info.project.clone(),
            id: info.id,
        }
    }

    /// True for a place that comes after `other` in the order of lists.
    pub fn is_behind(&self, other: &Place) -> bool {
        let key = |place: &Place| (Reverse(place.started), place.project.clone(), place.id);
        key(self) > key(other)
    }

    /// Parses the text form of [`Place`].
    pub fn parse(text: &str) -> Option<Place> {
        let mut parts = text.split(',');
        let place = Place {
            started: parts.next()?.parse().ok()?,
            project: parts.next()?.parse().ok()?,
            id: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(place)
    }
}
