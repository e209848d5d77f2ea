//! Projects: listed, shown, their images rebuilt.

use hyper::StatusCode;

use super::body;
use super::error::ApiError;
use super::jobs::list_items;
use super::request::Request;
use super::response::{self, Response};
use super::state::Web;
use super::{list, pages};
use crate::api::{
    ImageView, MAX_REQUEST, ParamView, ProjectItem, ProjectView, PruneView, RebuildRequest,
};
use crate::build::{Filter, LOG_TAIL};
use crate::job::Params;
use crate::project::{ParamSchema, ProjectName};
use crate::scheduler::{self, ImageReport};

/// Builds that are listed with a project.
const MAX_BUILDS: usize = 50;
/// Bytes of the report of a rebuild at most: the end of its log, of which JSON may write each byte as six,
/// and little else.
const REPORT_BYTES: u64 = 6 * LOG_TAIL as u64 + (4 << 10);

/// `GET /projects`.
pub(super) async fn list(web: &Web, request: Request) -> Result<Response, ApiError> {
    if request.wants_page()? {
        return pages::projects(web, &request).await;
    }
    let held = list::hold(&request.budget)?;
    let projects = request.reader.projects().await?;
    let items = projects
        .into_iter()
        .map(|(name, builds, latest)| ProjectItem {
            name: name.to_string(),
            builds,
            latest,
        });
    let body = list::of_values(held, "[".to_owned(), items, "]".to_owned());
    Ok(response::of_json(StatusCode::OK, body))
}

/// `GET /project/P`.
pub(super) async fn get(web: &Web, request: Request) -> Result<Response, ApiError> {
    let project = request.project()?;
    if request.wants_page()? {
        return pages::project(web, &request, &project).await;
    }
    let (latest, groups) = request.reader.bases(&project).await?;
    let (schema, fault) = match request.reader.param_schema(&project).await {
        Ok(schema) => (schema, None),
        Err(scheduler::Error::Project(fault)) => (None, Some(fault.to_string())),
        Err(other) => return Err(other.into()),
    };
    let filter = Filter {
        project: Some(project.clone()),
        ..Filter::default()
    };
    let (builds, _) = request.reader.list(filter, MAX_BUILDS).await?;
    response::json(
        &request.budget,
        StatusCode::OK,
        &ProjectView {
            name: project.to_string(),
            latest: latest.map(|id| id.to_string()),
            groups: groups
                .into_iter()
                .map(|(group, id)| (group, id.to_string()))
                .collect(),
            params: schema.as_ref().map(param_views),
            error: fault,
            builds: list_items(&builds)?,
        },
    )
}

/// The params of a schema as clients read them.
fn param_views(schema: &ParamSchema) -> Vec<ParamView> {
    let params = schema.iter();
    params
        .map(|(name, rule)| ParamView {
            name: name.to_owned(),
            required: rule.required,
            description: rule.description.clone(),
            default: rule.default.clone(),
            values: rule.values.clone(),
            secret: schema.is_secret(name),
        })
        .collect()
}

/// `POST /project/P/rebuild`.
pub(super) async fn rebuild(web: &Web, request: Request) -> Result<Response, ApiError> {
    let project = request.project()?;
    // Before the image is built: the report on it must not be refused afterwards.
    let mut held = request.budget.hold(REPORT_BYTES)?;
    let bodies = web.scheduler.bodies();
    let body = request.http.into_body();
    let body = body::read(body, MAX_REQUEST, bodies, request.client).await?;
    let params = read_params(&body.bytes)?;
    let report = web.scheduler.rebuild_image(&project, params).await?;
    let json = serde_json::to_vec(&image_view(&project, report))?;
    held.shrink_to(json.len() as u64);
    let body = response::parts([held.count_bytes(json.into_boxed_slice())]);
    Ok(response::of_json(StatusCode::OK, body))
}

/// The params in the body of a rebuild, which may be empty.
fn read_params(body: &[u8]) -> Result<Params, ApiError> {
    if body.trim_ascii().is_empty() {
        return Ok(Params::new());
    }
    let request: RebuildRequest = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("the request cannot be read: {error}")))?;
    let params = request.params.into_iter();
    params
        .map(|(name, value)| Ok((name.parse()?, value.into())))
        .collect::<Result<Params, ApiError>>()
}

/// The report of an image rebuild as clients read it.
pub fn image_view(project: &ProjectName, report: ImageReport) -> ImageView {
    ImageView {
        project: project.to_string(),
        image: report.image,
        duration: i64::try_from(report.took.as_nanos()).unwrap_or(i64::MAX),
        log: report.log,
        pruned: PruneView {
            images: report.images.count as u64,
            containers: report.containers as u64,
            bytes: report.images.bytes,
        },
    }
}
