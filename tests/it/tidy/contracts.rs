//! Documents and sources agree: every route is in the document of the HTTP contract, every key of the
//! configuration in the sample and in the documents for operators.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{Tree, assert_none, one, read, root, tree};

/// `GET /job/{}/{}` for each line of the table in `web/routes.rs`.
fn routed(routes: &str) -> BTreeSet<String> {
    let (_, table) = routes.split_once("= routes! {").unwrap_or_default();
    table
        .lines()
        .take_while(|line| *line != "};")
        .filter_map(|line| line.trim().split_once(' '))
        .filter_map(|(method, rest)| Some((method, rest.split('"').nth(1)?)))
        .map(|(method, path)| unnamed(&format!("{method} {path}")))
        .collect()
}

/// The routes in the headings of the HTTP contract.
fn documented(document: &str) -> BTreeSet<String> {
    document
        .lines()
        .filter(|line| line.starts_with("### `"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .map(unnamed)
        .collect()
}

/// `/job/{}` of `/job/{id}`.
fn unnamed(path: &str) -> String {
    let mut parts = path.split('{');
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        shown.push_str("{}");
        shown.push_str(part.split_once('}').map_or("", |(_, rest)| rest));
    }
    shown
}

/// Names of the fields of a struct, as JSON spells them.
fn fields(code: &str, name: &str) -> BTreeSet<String> {
    let file = syn::parse_file(code).unwrap();
    let mut items = file.items.into_iter();
    let found = items.find_map(|item| match item {
        syn::Item::Struct(found) if found.ident == name => Some(found),
        _ => None,
    });
    let fields = found.into_iter().flat_map(|found| found.fields);
    fields
        .filter_map(|field| Some(field.ident?.to_string()))
        .collect()
}

/// The keys in the first cells of the tables below a heading cell `| HEAD |`.
fn table(document: &str, head: &str) -> BTreeSet<String> {
    let begin = format!("| {head} |");
    document
        .lines()
        .skip_while(|line| !line.starts_with(&begin))
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

/// What one of two sets has and the other has not.
fn differences(what: [&str; 2], sets: [&BTreeSet<String>; 2]) -> Vec<String> {
    let only = |a: usize, b: usize| {
        let more = sets[a].difference(sets[b]);
        more.map(move |name| format!("{name} is in {} and not in {}", what[a], what[b]))
    };
    only(0, 1).chain(only(1, 0)).collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

/// `who-has-the-power-of-root` of `## Who has the power of root`: what a heading is linked by.
fn anchors(document: &str) -> BTreeSet<String> {
    let heads = document.lines().filter(|line| line.starts_with('#'));
    heads
        .map(|head| {
            let head = head.trim_start_matches('#').trim().to_lowercase();
            let kept = |l: &char| l.is_alphanumeric() || " -_".contains(*l);
            head.chars()
                .filter(kept)
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect()
}

/// Links of documents that lead nowhere.
fn broken(documents: &Tree, is_file: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in documents.iter().filter(|(path, _)| path.ends_with(".md")) {
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let home = Path::new(path).parent().unwrap();
            let target = match (file, file.strip_prefix("../")) {
                ("", _) => path.into(),
                (_, Some(above)) => home.parent().unwrap().join(above),
                _ => home.join(file),
            };
            let there = documents.get(target.to_str().unwrap());
            let is_there = match there {
                Some(text) => anchor.is_empty() || anchors(text).contains(anchor),
                None => anchor.is_empty() && is_file(&target),
            };
            if !is_there {
                wrong.push(format!("{path}: the link to '{link}' leads nowhere"));
            }
        }
    }
    wrong
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut documents = tree("docs");
    for path in ["README.md", "CHANGELOG.md"] {
        documents.insert(path.to_owned(), read(path));
    }
    assert_none(&broken(&documents, |path| root().join(path).is_file()));
    let mut documents = one(
        "a.md",
        "[x](docs/b.md#so-it-is) [y](c) [z](#none) [w](no.md)",
    );
    documents.extend(one("docs/b.md", "## So it *is*\n[x](../a.md)\n[y](#it-is)"));
    assert_eq!(broken(&documents, |path| path == Path::new("c")).len(), 3);
}

#[test]
fn every_route_and_no_other_is_in_the_document() {
    let routes = routed(&read("src/web/routes.rs"));
    assert!(routes.len() > 10, "the routes are not found: {routes:?}");
    let names = ["web/routes.rs", "docs/http-api.md"];
    assert_none(&differences(
        names,
        [&routes, &documented(&read("docs/http-api.md"))],
    ));
}

#[test]
fn every_key_is_in_the_sample_and_in_the_documents() {
    let config = read("src/config/file.rs");
    let settings = read("src/project/settings.rs");
    let document = read("docs/operations.md");
    let sample: Value = serde_json::from_str(&read("config.sample.json")).unwrap();
    let known = fields(&config, "ConfigFile");
    assert!(known.len() > 10, "the keys are not found: {known:?}");
    for (keys, known) in [
        (keys(&sample), &known),
        (keys(&sample["gc"]), &fields(&config, "GcRules")),
        (keys(&sample["limits"]), &fields(&settings, "Limits")),
    ] {
        assert_none(&differences(
            ["config.sample.json", "the sources"],
            [&keys, known],
        ));
    }
    let names = ["docs/operations.md", "config/file.rs"];
    assert_none(&differences(names, [&table(&document, "key"), &known]));
    let names = ["docs/operations.md", "project/settings.rs"];
    let keys = table(&document, "key of `mistry.json`");
    let keys = &keys
        .into_iter()
        .filter(|key| key != "mistry.json")
        .collect();
    assert_none(&differences(names, [keys, &fields(&settings, "Settings")]));
    for key in fields(&config, "GcRules") {
        assert!(
            document.contains(&format!("`{key}`")),
            "gc.{key} is not in the document"
        );
    }
}

#[test]
fn every_metric_is_documented() {
    let source = read("src/metrics.rs");
    let (source, _) = source.split_once("#[cfg(test)]").unwrap();
    let known = source.split('"').skip(1).step_by(2);
    let known: BTreeSet<String> = known
        .filter(|text| text.starts_with("mistry_"))
        .map(str::to_owned)
        .collect();
    let document = read("docs/operations.md");
    let (_, document) = document.split_once("## Metrics").unwrap();
    let names = ["metrics.rs", "docs/operations.md"];
    assert_none(&differences(names, [&known, &table(document, "name")]));
}

#[test]
fn every_fact_about_a_build_is_documented() {
    let known: Value = serde_json::from_str(&read("docs/openapi.json")).unwrap();
    let known = keys(&known["components"]["schemas"]["BuildInfo"]["properties"]);
    let document = read("docs/http-api.md");
    let (_, document) = document.split_once("\n## Build info\n").unwrap();
    let names = ["BuildView", "the table 'Build info' of docs/http-api.md"];
    assert_none(&differences(names, [&known, &table(document, "field")]));
}

#[test]
fn every_key_is_tried_with_a_wrong_value() {
    let checked = read("src/config/checked.rs");
    let (_, tried) = checked.split_once("const WRONG").unwrap();
    let tried = tried.split("\n        (\"").skip(1);
    let tried = tried.filter_map(|row| row.split('"').next());
    let tried = tried.map(str::to_owned).collect();
    let known = fields(&read("src/config/file.rs"), "ConfigFile");
    let names = ["config/file.rs", "the wrong values in config/checked.rs"];
    assert_none(&differences(names, [&known, &tried]));
}

/// The pictures that documents show and those that are there, where they differ.
fn pictures(documents: &[String], kept: &BTreeSet<String>) -> Vec<String> {
    let shown = documents
        .iter()
        .flat_map(|text| text.split("screenshots/").skip(1));
    let shown = shown.filter_map(|rest| rest.split_once(".png"));
    let shown = shown.map(|(name, _)| format!("{name}.png")).collect();
    differences(["docs/screenshots", "a document"], [kept, &shown])
}

#[test]
fn every_picture_and_no_other_is_shown_by_a_document() {
    let kept = std::fs::read_dir(root().join("docs/screenshots")).unwrap();
    let kept = kept.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let documents = ["README.md", "docs/operations.md", "docs/ARCHITECTURE.md"].map(read);
    assert_none(&pictures(&documents, &kept.collect()));
}

#[test]
fn every_verb_is_in_the_readme() {
    let verbs = read("src/cli/mod.rs");
    let (_, verbs) = verbs.split_once("enum Verb {").unwrap();
    let verbs = verbs.lines().skip(1).take_while(|line| *line != "}");
    let verbs = verbs.filter_map(|line| line.trim().split_once('(').map(|(name, _)| name));
    let kebab = |name: &str| {
        let letters = name.chars().enumerate();
        let spelt = letters.map(|(at, l)| match l.is_uppercase() && at > 0 {
            true => format!("-{}", l.to_lowercase()),
            false => l.to_lowercase().to_string(),
        });
        spelt.collect::<String>()
    };
    let readme = read("README.md");
    let (_, usage) = readme
        .split_once("## The command line\n\n```text\n")
        .unwrap();
    let (usage, _) = usage.split_once("```").unwrap();
    let told: BTreeSet<&str> = usage.split_whitespace().collect();
    let untold = verbs
        .map(kebab)
        .filter(|verb| !told.contains(verb.as_str()));
    let untold =
        untold.map(|verb| format!("{verb} is a verb, and not in README.md, 'The command line'"));
    assert_none(&untold.collect::<Vec<_>>());
}

#[test]
fn these_checks_can_fail() {
    let routes = "routes! {\n    GET \"/no\" => z,\n}\nstatic A: B = routes! {\n\
        GET    \"/\"  READ => a,\n\
        GET \"/index\" READ => b,\n\
        GET \"/index/\" READ => b,\n\
        POST \"/p/{name}/x\" ADMIN => c,\n\
        GET \"/a/{id}\" READ => d,\n\
        GET \"/a/{id}/{*path}\" READ => d,\n};\nfn other() {\nGET \"/no\" => f,\n}\n";
    let expected = [
        "GET /",
        "GET /a/{}",
        "GET /a/{}/{}",
        "GET /index",
        "GET /index/",
        "POST /p/{}/x",
    ];
    assert_eq!(routed(routes).into_iter().collect::<Vec<_>>(), expected);
    let document = "### `GET /index/`, `GET /index`\n## `GET /no`\n### `GET /a/{id}`\n";
    let documented = documented(document);
    assert_eq!(
        documented.iter().collect::<Vec<_>>(),
        ["GET /a/{}", "GET /index", "GET /index/"]
    );
    assert_eq!(
        differences(["", ""], [&routed(routes), &documented]).len(),
        3
    );

    let kept = BTreeSet::from(["a.png", "b.png"].map(str::to_owned));
    let shown = "![x](docs/screenshots/a.png) ![y](docs/screenshots/c.png)".to_owned();
    assert_eq!(pictures(&[shown], &kept).len(), 2);

    let code = "pub struct A {\n    pub one: B,\n    #[serde(x)]\n    two_three: C<D>,\n}\nstruct E {\n f: G,\n}";
    assert_eq!(
        fields(code, "A").into_iter().collect::<Vec<_>>(),
        ["one", "two_three"]
    );
    assert_eq!(
        table(
            "| key | x |\n| - | - |\n| `a`, `b` | `c` |\n\n| `d` | |",
            "key"
        )
        .len(),
        2
    );
}
