//! The address of a job's page.

use crate::job::JobId;
use crate::project::ProjectName;

/// Reads project and id from a URL or path that ends with `job/PROJECT/ID`.
pub fn parse_job_url(url: &str) -> Option<(ProjectName, JobId)> {
    let path = url.split(['?', '#']).next()?;
    let mut parts = path.rsplit('/');
    let id = parts.next()?.parse().ok()?;
    let project = parts.next()?.parse().ok()?;
    (parts.next()? == "job").then_some((project, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn project_and_id_are_found_in_a_url() {
        let (project, id) = parse_job_url(&format!("http://h:1/job/yarn/{ID}?wait")).unwrap();
        assert_eq!((project.as_str(), id.to_string().as_str()), ("yarn", ID));
        for wrong in ["", "job", "/job/p/xyz", &format!("/jobs/p/{ID}"), ID] {
            assert!(parse_job_url(wrong).is_none(), "{wrong}");
        }
    }
}
