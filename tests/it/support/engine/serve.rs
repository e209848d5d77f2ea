//! The fake engine's API: paths, queries, bodies and statuses as the real one has them.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, net::UnixListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    container::{Container, State},
    image::{self, BuildSeen, Image, PullSeen},
    kind,
};

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Answer = Result<Response<Body>, (u16, String)>;
type Query = BTreeMap<String, String>;

/// Serves until it is dropped, and every connection with it. Once it is `closed`, no connection comes
/// to those that it has.
pub async fn serve(listener: UnixListener, shared: Arc<Shared>, closed: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            () = closed.cancelled() => break,
        };
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answer(shared.clone(), request));
            // A client that hangs up is no matter for the engine.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let answer = route(shared, request).await;
    Ok(answer.unwrap_or_else(|(status, message)| respond(status, &json!({ "message": message }))))
}

/// The name of a call in the tests, by its method and path.
fn call_name<'a>(method: &Method, parts: &[&'a str]) -> Option<&'a str> {
    let (get, post) = (method == Method::GET, method == Method::POST);
    Some(match *parts {
        ["_ping"] => "ping",
        ["version"] if get => "version",
        ["info"] if get => "info",
        ["networks"] if get => "networks",
        ["events"] if get => "events",
        ["images", "json"] if get => "images",
        ["images", .., "history"] if get => "history",
        ["images", .., "tag"] if post => "tag",
        ["images", ..] if method == Method::DELETE => "remove-image",
        ["images", .., "json"] if get => "inspect-image",
        ["images", "create"] if post => "pull",
        ["build"] if post => "build",
        ["containers", "json"] if get => "list",
        ["containers", "create"] if post => "create",
        ["containers", _, "json"] if get => "inspect",
        ["containers", _, "logs"] if get => "logs",
        ["containers", _, "archive"] if get => "archive",
        ["containers", _, call @ ("start" | "wait" | "kill" | "stop")] if post => call,
        ["containers", _] if method == Method::DELETE => "remove",
        _ => return None,
    })
}

async fn route(shared: Arc<Shared>, request: Request<Incoming>) -> Answer {
    shared.take_built();
    let path = unversioned(&shared, request.uri().path())?;
    let query = request.uri().query().unwrap_or("").as_bytes();
    let query: Query = form_urlencoded::parse(query).into_owned().collect();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let call = call_name(request.method(), &parts);
    let call = call.ok_or_else(|| (404, "page not found".to_owned()))?;
    if let Some(status) = shared.gates.pass(call).await {
        let said = match status {
            404 => "No such container",
            _ => "Failed",
        };
        return Err((status, format!("{said}: the test wants '{call}' to fail")));
    }
    let container = || {
        let name = parts.get(1).copied().unwrap_or("");
        let found = shared.container(name);
        found.ok_or_else(|| (404, format!("No such container: {name}")))
    };
    match call {
        "ping" => Ok(text("OK")),
        "version" => Ok(respond(200, &kind::version(&shared))),
        "networks" => Ok(respond(
            200,
            &json!([{"Name": "bridge"}, {"Name": "host"}, {"Name": "none"}]),
        )),
        "info" => {
            let driver = shared.driver.lock().unwrap().clone();
            Ok(respond(200, &json!({ "CgroupDriver": driver })))
        }
        "events" if query.contains_key("until") => Ok(past_events(&shared, &query)),
        // Nothing happens, until it goes away.
        "events" => Ok(streaming(
            "application/json",
            StreamBody::new(stream::pending()),
        )),
        "images" => Ok(respond(200, &images(&shared, &query))),
        "history" => describe_image(&shared, &parts, Image::history),
        "tag" => tag_image(&shared, &parts[1..parts.len() - 1].join("/"), &query),
        "remove-image" => remove_image(&shared, &parts[1..].join("/")),
        "inspect-image" => describe_image(
            &shared,
            &parts,
            |image| json!({ "Id": image.id, "Config": { "Labels": image.labels } }),
        ),
        "pull" => Ok(pull(&shared, &query, request.headers())),
        "build" => build(shared, query, request.into_body()).await,
        "list" => Ok(respond(200, &list(&shared, &query))),
        "create" => create(&shared, &query, request.into_body()).await,
        "inspect" => Ok(respond(200, &container()?.inspected())),
        "logs" => Ok(logs(&shared, container()?, &query)),
        // Its images have no files but those of their contexts.
        "archive" => {
            let (id, path) = (container()?.id.clone(), query.get("path"));
            let path = path.map_or("", String::as_str);
            let said = format!("Could not find the file {path} in container {id}");
            Err((404, said))
        }
        "start" => start(&shared, container()?),
        "wait" => {
            let container = container()?;
            // Like the real one: the head of the answer at once, the body when it has ended.
            let ended = async move {
                let line = json!({ "StatusCode": container.ended().await, "Error": null });
                Ok(Frame::data(Bytes::from(format!("{line}\n"))))
            };
            Ok(streaming(
                "application/json",
                StreamBody::new(stream::once(ended)),
            ))
        }
        "kill" => {
            running(&container()?)?.kill_all();
            Ok(empty())
        }
        "stop" => stop(container()?.as_ref(), &query).await,
        _ => remove(&shared, &container()?, &query).await,
    }
}

/// The path without `/v1.N`, if the version is one that is spoken.
fn unversioned(shared: &Shared, path: &str) -> Result<String, (u16, String)> {
    let Some((version, rest)) = path.strip_prefix("/v1.").and_then(|p| p.split_once('/')) else {
        return Ok(path.to_owned());
    };
    let asked: usize = version
        .parse()
        .map_err(|_| (400, "bad version".to_owned()))?;
    let newest = shared.api.0.load(Ordering::Relaxed);
    let oldest = shared.api.1.load(Ordering::Relaxed);
    let (age, word, bound) = match asked {
        _ if asked > newest => ("new", "Maximum", newest),
        _ if asked < oldest => ("old", "Minimum", oldest),
        _ => return Ok(format!("/{rest}")),
    };
    let message =
        format!("client version 1.{asked} is too {age}. {word} supported API version is 1.{bound}");
    Err((400, message))
}

/// The values of one filter; the API knows lists, and maps to booleans.
fn filter(query: &Query, name: &str) -> Vec<String> {
    let filters = query
        .get("filters")
        .and_then(|text| serde_json::from_str::<Value>(text).ok());
    match filters.map(|filters| filters[name].clone()) {
        Some(Value::Array(values)) => values
            .iter()
            .filter_map(|v| v.as_str())
            .map(str::to_owned)
            .collect(),
        Some(Value::Object(map)) => map.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

fn has_all(labels: &BTreeMap<String, String>, wanted: &[String]) -> bool {
    wanted.iter().all(|wanted| match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
        None => labels.contains_key(wanted),
    })
}

fn images(shared: &Shared, query: &Query) -> Value {
    let wanted = filter(query, "label");
    let images = shared.images.lock().unwrap();
    images
        .iter()
        .rev()
        .filter(|image| has_all(&image.labels, &wanted))
        .map(Image::summary)
        .collect()
}

/// As the real one without `force`: what has two names or a container stays.
fn remove_image(shared: &Shared, name: &str) -> Answer {
    let containers = shared.containers.lock().unwrap();
    let mut images = shared.images.lock().unwrap();
    let Some(at) = images.iter().position(|image| image.is(name)) else {
        return Err(no_such_image(name));
    };
    let id = images[at].id.clone();
    let is_used = containers
        .values()
        .any(|container| container.spec["Image"] == id.as_str());
    if images[at].id != name && images[at].tags.len() > 1 {
        images[at].tags.retain(|tag| tag != &with_tag(name));
        return Ok(respond(200, &json!([{ "Untagged": name }])));
    }
    if is_used || images[at].tags.len() > 1 {
        return Err((409, format!("conflict: unable to delete {id}")));
    }
    images.remove(at);
    Ok(respond(200, &json!([{ "Deleted": id }])))
}

fn tag_image(shared: &Shared, image: &str, query: &Query) -> Answer {
    let part = |key: &str| query.get(key).map_or("", String::as_str);
    let mut images = shared.images.lock().unwrap();
    let Some(at) = images.iter().position(|known| known.is(image)) else {
        return Err(no_such_image(image));
    };
    move_tag(
        &mut images,
        at,
        &format!("{}:{}", part("repo"), part("tag")),
    );
    Ok(text(""))
}

fn with_tag(name: &str) -> String {
    match name.contains(':') {
        true => name.to_owned(),
        false => format!("{name}:latest"),
    }
}

/// Another image loses the tag.
fn move_tag(images: &mut [Image], to: usize, tag: &str) {
    images.iter_mut().for_each(|image| {
        image.tags.remove(tag);
    });
    images[to].tags.insert(tag.to_owned());
}

fn pull(shared: &Shared, query: &Query, headers: &hyper::HeaderMap) -> Response<Body> {
    let get = |name: &str| query.get(name).cloned().unwrap_or_default();
    let credentials = headers.get("x-registry-auth");
    shared.pulls.lock().unwrap().push(PullSeen {
        image: get("fromImage"),
        tag: get("tag"),
        credentials: credentials.map(|value| value.to_str().unwrap().to_owned()),
    });
    // An error is a line of an answer that has begun.
    respond(
        200,
        &match shared.registry.load(Ordering::Relaxed) {
            true => json!({ "status": "Pull complete" }),
            false => json!({ "errorDetail": { "message": "denied" }, "error": "denied" }),
        },
    )
}

async fn build(shared: Arc<Shared>, query: Query, mut body: Incoming) -> Answer {
    let number = shared.next();
    let spool = shared.dir().join(format!("context-{number}.tar"));
    let mut file = tokio::fs::File::create(&spool).await.map_err(internal)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| (500, format!("unexpected EOF: {e}")))?;
        if let Some(data) = frame.data_ref() {
            file.write_all(data).await.map_err(internal)?;
        }
    }
    file.flush().await.map_err(internal)?;
    let root = shared.dir().join(format!("image-{number}"));
    let to = root.clone();
    let unpacked = tokio::task::spawn_blocking(move || {
        let unpacked = image::unpack(std::fs::File::open(&spool)?, &to);
        std::fs::remove_file(&spool)?;
        unpacked
    });
    let (files, mut digest) = unpacked.await.map_err(internal)?.map_err(internal)?;
    let map = |name: &str| -> BTreeMap<String, String> {
        let text = query.get(name).map_or("{}", String::as_str);
        serde_json::from_str(text).unwrap_or_default()
    };
    let flag = |name: &str| query.get(name).is_some_and(|v| v == "true" || v == "1");
    let seen = BuildSeen {
        tag: query.get("t").cloned().unwrap_or_default(),
        labels: map("labels"),
        build_args: map("buildargs"),
        network: query.get("networkmode").cloned().unwrap_or_default(),
        target: query.get("target").cloned().unwrap_or_default(),
        nocache: flag("nocache"),
        pull: flag("pull"),
        files,
    };
    shared.builds.lock().unwrap().push(seen.clone());
    let mut steps = image::parse(&root)?;
    let labels = seen.labels.iter();
    steps.extend(labels.map(|(key, value)| format!("LABEL {key}={value}")));
    let pulls = shared.registry.load(Ordering::Relaxed) || !seen.pull;
    let (text, failure) = image::build(&steps, |base| match base {
        "scratch" => Ok(()),
        _ if pulls => Ok(()),
        _ => Err(format!(
            "pull access denied for {base}, repository does not exist"
        )),
    });
    let mut lines: Vec<Value> = text
        .into_iter()
        .map(|text| json!({ "stream": text }))
        .collect();
    match failure {
        Some(said) => lines.push(json!({ "errorDetail": { "message": said }, "error": said })),
        None => {
            digest.update(format!("{:?}{:?}", seen.labels, seen.build_args));
            // The cache makes the same of the same.
            if seen.nocache {
                digest.update(number.to_le_bytes());
            }
            let id = store(&shared, &seen, digest, number, root);
            lines.push(json!({ "aux": { "ID": id } }));
            lines.push(json!({ "stream": format!("Successfully built {}\n", &id[7..19]) }));
            lines.push(json!({ "stream": format!("Successfully tagged {}\n", seen.tag) }));
        }
    }
    let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    Ok(streaming("application/json", Full::new(Bytes::from(text))))
}

/// Puts the image among the others and gives it its tag, which another may lose.
fn store(
    shared: &Shared,
    seen: &BuildSeen,
    digest: Sha256,
    number: usize,
    root: std::path::PathBuf,
) -> String {
    let digits: String = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let id = format!("sha256:{digits}");
    let mut images = shared.images.lock().unwrap();
    let known = images.iter().position(|image| image.id == id);
    let at = known.unwrap_or_else(|| {
        images.push(Image {
            id: id.clone(),
            tags: [].into(),
            labels: seen.labels.clone(),
            created: 1_700_000_000 + number as i64,
            root,
        });
        images.len() - 1
    });
    move_tag(&mut images, at, &with_tag(&seen.tag));
    id
}

async fn create(shared: &Shared, query: &Query, body: Incoming) -> Answer {
    let bytes = body.collect().await.map_err(internal)?.to_bytes();
    let spec: Value = serde_json::from_slice(&bytes).map_err(|e| (400, e.to_string()))?;
    let image = spec["Image"].as_str().unwrap_or("");
    let is_podman = shared.podman.lock().unwrap().is_some();
    kind::check_log_driver(&spec, is_podman)?;
    let root = {
        let images = shared.images.lock().unwrap();
        let found = images.iter().find(|one| one.is(image));
        found.ok_or_else(|| no_such_image(image))?.root.clone()
    };
    for mount in spec["HostConfig"]["Mounts"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let source = mount["Source"].as_str().unwrap_or("");
        if is_podman {
            std::fs::create_dir_all(source).map_err(internal)?;
        } else if !std::path::Path::new(source).exists() {
            let said = "invalid mount config for type \"bind\": bind source path does not exist";
            return Err((400, format!("{said}: {source}")));
        }
    }
    let number = shared.next();
    let id: String = Sha256::digest(number.to_le_bytes())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let name = query
        .get("name")
        .cloned()
        .unwrap_or_else(|| format!("nameless_{number}"));
    if let Some(other) = shared.container(&name) {
        return Err(kind::name_taken(&name, &other.id, is_podman));
    }
    let container = Container::new(id.clone(), name, spec, root);
    shared.seen.lock().unwrap().push(container.clone());
    shared
        .containers
        .lock()
        .unwrap()
        .insert(id.clone(), container);
    Ok(respond(201, &json!({ "Id": id, "Warnings": [] })))
}

fn list(shared: &Shared, query: &Query) -> Value {
    let (wanted, ids) = (filter(query, "label"), filter(query, "id"));
    let all = query.get("all").is_some_and(|v| v == "true" || v == "1");
    let containers = shared.containers.lock().unwrap();
    let shown = containers.values().filter(|container| {
        let is_meant = ids.is_empty() || ids.iter().any(|id| container.id.starts_with(id));
        let is_shown = all || container.state() == State::Running;
        is_meant && is_shown && has_all(&container.labels(), &wanted)
    });
    shown.map(|container| container.summary()).collect()
}

fn start(shared: &Shared, container: Arc<Container>) -> Answer {
    if container.state() != State::Created {
        return Ok(status(304));
    }
    shared.started.lock().unwrap().insert(container.id.clone());
    let supervisor = container.start().map_err(|said| (400, said))?;
    shared
        .supervisors
        .lock()
        .unwrap()
        .push(tokio::spawn(supervisor));
    Ok(empty())
}

fn logs(shared: &Shared, container: Arc<Container>, query: &Query) -> Response<Body> {
    let follow = query.get("follow").is_some_and(|v| v == "true" || v == "1");
    let lossy = follow && shared.lossy.load(Ordering::Relaxed);
    let behind = usize::from(lossy);
    if query.get("tail").is_some_and(|tail| tail == "1") {
        let last = container.last().unwrap_or_default();
        return streaming("application/octet-stream", Full::new(last));
    }
    let timed = query
        .get("timestamps")
        .is_some_and(|v| v == "true" || v == "1");
    let frames = stream::unfold((container, 0), move |(container, at)| async move {
        let frame = container.frame(at, follow, behind, timed).await?;
        Some((Ok(Frame::data(frame)), (container, at + 1)))
    });
    streaming("application/octet-stream", StreamBody::new(frames))
}

async fn remove(shared: &Shared, container: &Arc<Container>, query: &Query) -> Answer {
    if container.state() == State::Running {
        if !query.get("force").is_some_and(|v| v == "true" || v == "1") {
            return Err((409, "You cannot remove a running container".to_owned()));
        }
        container.kill_all();
        container.ended().await;
    }
    shared.containers.lock().unwrap().remove(&container.id);
    Ok(empty())
}

fn running(container: &Arc<Container>) -> Result<&Arc<Container>, (u16, String)> {
    match container.state() {
        State::Running => Ok(container),
        _ => Err((409, format!("Container {} is not running", container.id))),
    }
}

fn no_such_image(name: &str) -> (u16, String) {
    (404, format!("No such image: {name}"))
}

fn internal(error: impl std::fmt::Display) -> (u16, String) {
    (500, error.to_string())
}

fn respond(status: u16, value: &Value) -> Response<Body> {
    let mut response = streaming(
        "application/json",
        Full::new(Bytes::from(value.to_string())),
    );
    *response.status_mut() = status.try_into().unwrap();
    response
}

fn streaming<B>(kind: &str, body: B) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let response = Response::builder().header("Content-Type", kind);
    response.body(UnsyncBoxBody::new(body)).unwrap()
}

fn text(text: &'static str) -> Response<Body> {
    streaming("text/plain", Full::new(Bytes::from_static(text.as_bytes())))
}

fn status(status: u16) -> Response<Body> {
    let body = UnsyncBoxBody::new(http_body_util::Empty::new());
    Response::builder().status(status).body(body).unwrap()
}

fn empty() -> Response<Body> {
    status(204)
}

/// The events since its start.
fn past_events(shared: &Shared, query: &Query) -> Response<Body> {
    let started = shared.started.lock().unwrap();
    let container = filter(query, "container").concat();
    let event = json!({ "Type": "container", "Action": "start" });
    let events = if started.contains(&container) {
        format!("{event}\n")
    } else {
        String::new()
    };
    streaming("application/json", Full::new(Bytes::from(events)))
}

/// What is known of the image that `parts` name, between `images` and the last part.
fn describe_image(shared: &Shared, parts: &[&str], describe: impl Fn(&Image) -> Value) -> Answer {
    let name = parts[1..parts.len() - 1].join("/");
    let images = shared.images.lock().unwrap();
    let found = images.iter().find(|image| image.is(&name));
    let found = found.ok_or_else(|| no_such_image(&name))?;
    Ok(respond(200, &describe(found)))
}

async fn stop(container: &Container, query: &Query) -> Answer {
    if container.state() == State::Running {
        let grace = query.get("t").and_then(|t| t.parse().ok()).unwrap_or(10);
        container.signal(Signal::TERM);
        let ended = tokio::time::timeout(Duration::from_secs(grace), container.ended());
        if ended.await.is_err() {
            container.kill_all();
        }
        container.ended().await;
    }
    Ok(empty())
}
