//! The OpenAPI document, which `GET /openapi.json` answers, derived for `docs/openapi.json`: for tests only.
//!
//! Its schemas are those of the types in [`crate::api`]. Addresses, methods and scopes are those of the table
//! of routes, and so are the errors that follow from them. What remains is written in `operations`: the meaning
//! of each query, header and status, and the type of each answer.

mod operation;
mod operations;
mod schemas;

use std::collections::{BTreeMap, BTreeSet};
use std::{env, fs};

use serde_json::{Value, json};

use super::routes::{ROUTES, Route};
use crate::api::ErrorView;
use operation::errors;
use schemas::{JSON, Types, of};

const ABOUT: &str = "Errors are `Error` as JSON, or the sentence as text where the client accepts no JSON. \
    A browser (whose Accept names text/html) that needs a token is answered 401 with a page that asks for one. \
    Every answer carries X-Request-Id. A HEAD is answered like the GET, without its body, and OPTIONS with 204 \
    and Allow. Flags of a query (a parameter that may be empty) are set by nothing, true or 1, and not set by \
    false or 0. Bounds, events and the rules of tokens are told in docs/http-api.md.";
const NOT_READ: &str = "Nothing of it is read. What changes something is sent as JSON, so that no page of \
    another site can send it.";

fn document() -> Value {
    let mut types = Types::new();
    types.answer::<ErrorView>();
    let operations = operations::all(&mut types);
    // `/index` is another spelling of `/index/`.
    let routes = ROUTES.iter().filter(|route| route.path != "/index");
    let routes: BTreeMap<String, &Route> = routes
        .map(|route| (format!("{} {}", route.method, route.path), route))
        .collect();
    let described: BTreeSet<&str> = operations.iter().map(|(name, _)| *name).collect();
    let known: BTreeSet<&str> = routes.keys().map(String::as_str).collect();
    let (missing, gone): (Vec<_>, Vec<_>) = (
        known.difference(&described).collect(),
        described.difference(&known).collect(),
    );
    assert!(
        missing.is_empty() && gone.is_empty(),
        "src/web/openapi/operations.rs lacks {missing:?} of the table of routes, and has {gone:?}, which is not in it"
    );
    let mut paths = json!({ "/index": { "$ref": "#/paths/~1index~1" } });
    for (name, operation) in operations {
        let route = routes[name];
        let (path, method) = (
            route.path.replace("{*", "{"),
            route.method.as_str().to_lowercase(),
        );
        paths[path][method] = operation.document(route);
    }
    let token = "Needed only where the server has a tokens file, and not over its unix socket.";
    let not_read = json!({
        "description": NOT_READ, "required": true, "content": { JSON: of(json!({ "type": "object" })) },
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "mistry",
            "version": "1",
            "license": { "name": "GPL-3.0-only", "identifier": "GPL-3.0-only" },
            "description": ABOUT,
        },
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "description": token } },
            "requestBodies": { "NotRead": not_read },
            "responses": errors(),
            "schemas": types.schemas(),
        },
    })
}

#[test]
fn the_document_is_derived_from_types_and_routes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let derived = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if env::var_os("MISTRY_BLESS").is_some() {
        fs::write(path, &derived).unwrap();
    }
    assert!(
        fs::read_to_string(path).unwrap() == derived,
        "docs/openapi.json is not what types and routes say: `MISTRY_BLESS=1 cargo test --locked --lib openapi` writes it anew"
    );
}
