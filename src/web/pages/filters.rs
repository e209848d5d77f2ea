//! The form that selects builds of the overview, and links for filters that are often wanted.

use jiff::Timestamp;

use super::super::error::ApiError;
use super::super::format;
use super::super::query::Query;
use super::super::request::Request;
use crate::job::Outcome;
use crate::project::ProjectName;

/// Groups that can be selected; of more, a name is typed.
const MAX_GROUPS: usize = 300;

/// The form, with what is chosen.
#[derive(Debug)]
pub(super) struct Form<'a> {
    pub(super) text: &'a str,
    pub(super) project: &'a str,
    pub(super) group: &'a str,
    pub(super) state: &'a str,
    pub(super) chips: Vec<Chip>,
    /// Parts of the filter that have no field.
    pub(super) kept: Vec<(&'static str, &'a str)>,
    pub(super) projects: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) has_more_groups: bool,
    pub(super) outcomes: Vec<(&'static str, bool)>,
}

/// A filter that is often wanted, as a link.
#[derive(Debug)]
pub(super) struct Chip {
    pub(super) name: &'static str,
    pub(super) href: String,
    pub(super) is_chosen: bool,
}

impl<'a> Form<'a> {
    /// The form for a filter, of which `project` and `outcome` are parts.
    pub(super) async fn of(
        request: &Request,
        choice: &'a Query,
        outcome: Option<Outcome>,
        project: Option<ProjectName>,
        projects: &[(ProjectName, u64, Option<Timestamp>)],
    ) -> Result<Form<'a>, ApiError> {
        let value = |name| choice.get(name).unwrap_or_default();
        let (mut groups, has_more_groups) = request.reader.group_names(project, MAX_GROUPS).await?;
        // A name that would mislead is chosen by the link of a build; the filter stays as it is.
        groups.extend(choice.get("group").map(str::to_owned));
        groups.retain(|group| format::visible(group) == *group);
        groups.sort();
        groups.dedup();
        Ok(Form {
            text: value("text"),
            project: value("project"),
            group: value("group"),
            state: value("state"),
            chips: chips(choice, &request.caller.name),
            kept: KEPT
                .into_iter()
                .filter_map(|name| Some((name, choice.get(name)?)))
                .collect(),
            projects: projects.iter().map(|(name, ..)| name.to_string()).collect(),
            groups,
            has_more_groups,
            outcomes: Outcome::ALL
                .map(|known| (known.as_str(), Some(known) == outcome))
                .to_vec(),
        })
    }
}

/// Names of the filter that have no field in the form.
const KEPT: [&str; 3] = ["asked_by", "kind", "pinned"];

/// The quick filters; each replaces the whole filter.
fn chips(choice: &Query, caller: &str) -> Vec<Chip> {
    let mine = form_urlencoded::Serializer::new("/?".to_owned())
        .append_pair("asked_by", caller)
        .finish();
    let is_chosen = |name: &str, value: &str| choice.get(name) == Some(value);
    [
        (
            "Active",
            "/?state=pending".to_owned(),
            is_chosen("state", "pending"),
        ),
        (
            "Failed",
            "/?outcome=failed".to_owned(),
            is_chosen("outcome", "failed"),
        ),
        ("Mine", mine, is_chosen("asked_by", caller)),
    ]
    .map(|(name, href, is_chosen)| Chip {
        name,
        // The link of what is chosen leads back to all.
        href: if is_chosen { "/".to_owned() } else { href },
        is_chosen,
    })
    .into()
}
