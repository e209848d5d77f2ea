//! One operation of the document, and what follows for it from the table of routes.

use std::collections::BTreeMap;

use hyper::Method;
use serde_json::{Value, json};

use super::schemas::{Content, JSON, Types, of};
use crate::job::{Outcome, State};
use crate::web::filter::MAX_TEXT;
use crate::web::routes::Route;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const PAGE: &str = "text/html; charset=utf-8";
pub(super) const READERS_FULL: &str =
    "too many requests wait until something is read from the disk for them";

pub(super) fn text(media: &'static str) -> Content {
    (media, of(json!({ "type": "string" })))
}

pub(super) fn events() -> Content {
    ("text/event-stream; charset=utf-8", json!({}))
}

/// An error, which is told as the client reads it.
pub(super) fn error(about: &str) -> Value {
    let error = of(json!({ "$ref": "#/components/schemas/Error" }));
    let content = BTreeMap::from([(JSON, error), text(TEXT), text(PAGE)]);
    json!({ "description": about, "content": content })
}

pub(super) fn with_header(mut response: Value, name: &str, about: &str) -> Value {
    response["headers"][name] = json!({ "description": about, "schema": { "type": "string" } });
    response
}

/// The errors that many operations share.
pub(super) fn errors() -> BTreeMap<u16, Value> {
    let unknown = error("A token is needed, or this one is not known.");
    let busy = format!("The server holds as much as it may for its clients, or {READERS_FULL}.");
    BTreeMap::from([
        (400, error("What cannot be read, naming what.")),
        (401, with_header(unknown, "WWW-Authenticate", "Bearer")),
        (
            403,
            error("This token, or a page of another site, may not do that."),
        ),
        (404, error("No such project, job or file.")),
        (
            307,
            with_header(
                json!({ "description": "A browser that asked with a short id." }),
                "Location",
                "The address with the whole id.",
            ),
        ),
        (
            409,
            error("Several builds have ids that begin with the given digits."),
        ),
        (
            408,
            error(
                "Less than 64 KiB of the body came within a minute, and the body was not complete.",
            ),
        ),
        (413, error("More than 64 KiB.")),
        (415, error("No Content-Type: application/json.")),
        (421, error("A Host that is not this server's.")),
        (422, error("A name that breaks its rule.")),
        (
            500,
            error("A fault of the server; the cause is in its log under the id of the request."),
        ),
        (503, with_header(error(&busy), "Retry-After", "Seconds.")),
    ])
}

/// One method of one address.
#[derive(Default)]
pub(super) struct Operation {
    summary: &'static str,
    /// Those that are not in the path.
    parameters: Vec<Value>,
    /// A body that is read.
    body: Option<Value>,
    responses: BTreeMap<u16, Value>,
}

pub(super) fn operation(summary: &'static str) -> Operation {
    Operation {
        summary,
        ..Operation::default()
    }
}

impl Operation {
    fn parameter(mut self, place: &str, name: &str, about: &str, more: Value) -> Operation {
        let mut parameter =
            json!({ "name": name, "in": place, "description": about, "required": false });
        for (key, value) in more.as_object().unwrap() {
            parameter[key] = value.clone();
        }
        self.parameters.push(parameter);
        self
    }

    pub(super) fn query(self, name: &str, about: &str, schema: Value) -> Operation {
        self.parameter("query", name, about, of(schema))
    }

    /// A name in the query that needs no value.
    pub(super) fn flag(self, name: &str, about: &str) -> Operation {
        let flag = json!({ "allowEmptyValue": true, "schema": { "type": "string" } });
        self.parameter("query", name, about, flag)
    }

    pub(super) fn header(self, name: &str, about: &str) -> Operation {
        self.parameter("header", name, about, of(json!({ "type": "string" })))
    }

    /// The query that lists and streams share.
    pub(super) fn filter(self, types: &mut Types) -> Operation {
        let words =
            "Only those whose project, group, params or beginning of id hold each of these words.";
        let any = || json!({ "type": "string" });
        self.query("project", "Only of this project.", any())
            .query("group", "Only of this group; empty: without one.", any())
            .query("state", "Only in this state.", types.answer::<State>())
            .query(
                "outcome",
                "Only those that ended so.",
                types.answer::<Outcome>(),
            )
            .query(
                "text",
                words,
                json!({ "type": "string", "maxLength": MAX_TEXT }),
            )
            .query(
                "asked_by",
                "Only those that this client requested first, as AskedBy names it.",
                any(),
            )
            .query(
                "kind",
                "Only those that started empty, or as a clone of a base.",
                json!({ "type": "string", "enum": ["cold", "incremental"] }),
            )
    }

    pub(super) fn without_log(self) -> Operation {
        self.query(
            "log",
            "none leaves the log out.",
            json!({ "type": "string", "enum": ["none"] }),
        )
    }

    pub(super) fn reads(mut self, body: Value) -> Operation {
        self.body = Some(body);
        self
    }

    pub(super) fn answers<const N: usize>(
        mut self,
        status: u16,
        about: &str,
        content: [Content; N],
    ) -> Operation {
        let mut response = json!({ "description": about });
        if N > 0 {
            response["content"] = content.into_iter().collect();
        }
        self.responses.insert(status, response);
        self
    }

    /// An error about which more is to be said than of the others of its status.
    pub(super) fn fails(mut self, status: u16, about: &str) -> Operation {
        self.responses.insert(status, error(about));
        match status {
            503 => self.carries(503, "Retry-After", "Seconds."),
            _ => self,
        }
    }

    /// The answer of that status has a header.
    pub(super) fn carries(mut self, status: u16, name: &str, about: &str) -> Operation {
        let response = self.responses.remove(&status).unwrap();
        self.responses
            .insert(status, with_header(response, name, about));
        self
    }

    /// The operation as the document has it, with what follows from its place in the table of routes.
    pub(super) fn document(mut self, route: &Route) -> Value {
        let changes = route.method != Method::GET;
        let mut parameters = path_parameters(route.path);
        parameters.append(&mut self.parameters);
        let names = |name: &str| parameters.iter().any(|it| it["name"] == name);
        let (names_project, names_job) = (names("project"), names("id"));
        for (status, is_possible) in [
            (400, true),
            (401, route.scope.is_some()),
            (403, route.scope.is_some() || changes),
            (404, route.path.contains('{')),
            (307, names_job && !changes),
            (408, self.body.is_some()),
            (409, names_job),
            (413, self.body.is_some()),
            (415, changes),
            (421, true),
            (422, names_project),
            (500, true),
            (503, true),
        ] {
            if is_possible {
                let shared = json!({ "$ref": format!("#/components/responses/{status}") });
                self.responses.entry(status).or_insert(shared);
            }
        }
        let scope = route
            .scope
            .map_or("none".to_owned(), |scope| scope.to_string());
        let mut document =
            json!({ "summary": self.summary, "responses": self.responses, "x-scope": scope });
        if !parameters.is_empty() {
            document["parameters"] = parameters.into();
        }
        if changes {
            let not_read = json!({ "$ref": "#/components/requestBodies/NotRead" });
            document["requestBody"] = self.body.unwrap_or(not_read);
        }
        if route.scope.is_none() {
            document["security"] = json!([]);
        }
        document
    }
}

fn path_parameters(path: &str) -> Vec<Value> {
    let segments = path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{'));
    let parameters = segments.map(|segment| {
        let name = segment.trim_matches(['*', '}']);
        let (about, more) = match name {
            "id" => ("The job's id, or the first digits of it.", json!({ "pattern": "^[0-9a-f]{1,64}$" })),
            "name" => ("A file.", json!({ "enum": ["style.css"] })),
            "path" => ("May hold slashes; bytes that are not allowed in addresses are percent-encoded.", json!({})),
            _ => ("1 to 128 of A-Z a-z 0-9 . _ - that begin with a letter or digit.", json!({})),
        };
        let mut schema = more;
        schema["type"] = "string".into();
        json!({ "name": name, "in": "path", "required": true, "description": about, "schema": schema })
    });
    parameters.collect()
}
