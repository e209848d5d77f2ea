//! Which builds a list shows, as the query of an address.

/// Which builds `GET /index/` lists; an empty field matches all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this project.
    pub project: String,
    /// Of this group.
    pub group: String,
    /// `pending` or `ready`.
    pub state: String,
    /// That ended so.
    pub outcome: String,
    /// That contain each of these words.
    pub text: String,
    /// That this client requested first.
    pub asked_by: String,
    /// `cold` or `incremental`.
    pub kind: String,
    /// Only pinned ones.
    pub pinned: bool,
}

impl Filter {
    /// The filter as a query that ends with the number of builds.
    pub(super) fn query(&self, limit: usize) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let pinned = if self.pinned { "true" } else { "" };
        for (key, value) in [
            ("project", self.project.as_str()),
            ("group", &self.group),
            ("state", &self.state),
            ("outcome", &self.outcome),
            ("text", &self.text),
            ("asked_by", &self.asked_by),
            ("kind", &self.kind),
            ("pinned", pinned),
        ] {
            if !value.is_empty() {
                query.append_pair(key, value);
            }
        }
        query.append_pair("limit", &limit.to_string());
        query.finish()
    }
}
