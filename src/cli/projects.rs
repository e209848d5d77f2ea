//! `mistry projects [NAME]`: lists the projects, or the params of one.

use clap::Args;

use super::Error;
use super::format::format_time;
use super::json_result::Document;
use super::output::{print_message, print_table};
use crate::api::ParamView;
use crate::client::Client;
use crate::project::ProjectName;

/// List the projects that can be built, or show the params of one
#[derive(Debug, Args)]
pub(super) struct Projects {
    /// The project whose params are shown; without it, all projects are listed
    #[arg(value_name = "NAME")]
    name: Option<ProjectName>,
    /// Print JSON, as the server sends it
    #[arg(long)]
    pub(super) json: bool,
}

impl Projects {
    pub(super) async fn run(&self, client: &Client, document: &mut Document) -> Result<(), Error> {
        match &self.name {
            Some(name) if self.json => document.print(&client.project_json(name).await?),
            Some(name) => print_params(client, name).await,
            None if self.json => document.print(&client.projects_json().await?),
            None => print_projects(client).await,
        }
    }
}

async fn print_projects(client: &Client) -> Result<(), Error> {
    let rows = client.projects().await?.into_iter().map(|project| {
        let latest = project.latest;
        let latest = latest.map_or_else(|| "never".to_owned(), format_time);
        [project.name, project.builds.to_string(), latest]
    });
    let rows: Vec<[String; 3]> = rows.collect();
    print_table(["PROJECT", "BUILDS", "LATEST"], &rows)
}

async fn print_params(client: &Client, name: &ProjectName) -> Result<(), Error> {
    let project = client.project(name).await?;
    if let Some(fault) = project.error {
        return Err(Error::Refused(fault));
    }
    let Some(params) = project.params else {
        print_message(&format!(
            "project '{name}' takes any params: its mistry.json does not describe them"
        ));
        return Ok(());
    };
    if params.is_empty() {
        print_message(&format!("project '{name}' takes no params"));
        return Ok(());
    }
    let rows: Vec<[String; 4]> = params.into_iter().map(row).collect();
    print_table(["PARAM", "NEEDED", "VALUES", "DESCRIPTION"], &rows)
}

fn row(param: ParamView) -> [String; 4] {
    let needed = match (param.required, &param.default) {
        (true, _) => "required".to_owned(),
        (false, Some(default)) => format!("default '{default}'"),
        (false, None) => "optional".to_owned(),
    };
    let values = match (param.values, param.secret) {
        (Some(values), _) => values.join(", "),
        (None, true) => "any (secret)".to_owned(),
        (None, false) => "any".to_owned(),
    };
    let description = param.description.unwrap_or_default();
    [param.name, needed, values, description]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_param_is_shown_in_words() {
        let param = |json: &str| row(serde_json::from_str(json).unwrap()).join(" | ");
        for (json, shown) in [
            (
                r#"{"Name":"lock","Required":true,"Description":"the lock file","Default":null,"Values":null,"Secret":false}"#,
                "lock | required | any | the lock file",
            ),
            (
                r#"{"Name":"env","Required":false,"Description":null,"Default":"b","Values":["a","b"],"Secret":false}"#,
                "env | default 'b' | a, b | ",
            ),
            (
                r#"{"Name":"_token","Required":false,"Description":null,"Default":null,"Values":null,"Secret":true}"#,
                "_token | optional | any (secret) | ",
            ),
        ] {
            assert_eq!(param(json), shown);
        }
    }
}
