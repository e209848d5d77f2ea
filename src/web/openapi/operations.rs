//! What each operation is about: its query, headers and body, and its answers, as far as neither the types nor
//! the table of routes say it.

use serde_json::{Value, json};

use super::operation::{Operation, PAGE, READERS_FULL, TEXT, events, operation, text};
use super::schemas::{JSON, Types, any_of, of};
use crate::api::{
    AttemptView, BuildView, CancelRequest, GcRequest, GcView, GroupItem, GroupRequest, HostView,
    ImageView, IndexItem, JobRequest, JobState, JobView, LogEnd, LogLines, LogMatches, LogTimes,
    ManifestItem, ProjectItem, ProjectView, RebuildRequest, RemovedBase,
};
use crate::web::jobs::MAX_LIST;

const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const IMAGES: [&str; 5] = [
    "image/avif",
    "image/gif",
    "image/jpeg",
    "image/png",
    "image/webp",
];

const MISTRY_LOG: &str = "Text and JSON: which log it is, from its first byte to its end. A job that is asked \
    for again has another.";

const ATTEMPT: &str = "The attempt at the job with this number, as Number of a build's info; else the build that \
    is not over, or the one that is served.";

/// The schema of the number of an attempt.
fn attempt() -> Value {
    json!({ "type": "integer", "minimum": 1 })
}

/// Operations by method and address, as the table of routes spells them.
pub(super) type Operations = Vec<(&'static str, Operation)>;

/// All of them.
pub(super) fn all(types: &mut Types) -> Operations {
    let parts = [
        jobs,
        builds,
        administration,
        logs,
        artifacts,
        projects,
        host,
    ];
    parts.iter().flat_map(|part| part(types)).collect()
}

fn index(types: &mut Types) -> Operation {
    let page_size = json!({ "type": "integer", "minimum": 1, "maximum": MAX_LIST });
    operation("Builds, newest first.")
        .filter(types)
        .flag(
            "pinned",
            "Only pinned builds; with 0 or false, only those that are not.",
        )
        .query(
            "limit",
            &format!("At most this many; {MAX_LIST} without it."),
            page_size,
        )
        .query(
            "before",
            "Where the page before ended: the value in its Link header.",
            json!({ "type": "string" }),
        )
        .answers(200, "The builds.", [types.json::<Vec<IndexItem>>()])
        .carries(
            200,
            "Link",
            "rel=\"next\": the next page; absent on the last.",
        )
}

fn jobs(types: &mut Types) -> Operations {
    let create = operation("Asks for a job and waits for its build.")
        .flag("async", "Answer as soon as the job is on stable storage.")
        .flag("fail", "A build that has not succeeded is answered with 422.")
        .without_log()
        .header("Accept", "text/event-stream: state, log and result as events.")
        .reads(types.request::<JobRequest>(true))
        .answers(200, "The stream of events, with Accept: text/event-stream.", [events()])
        .answers(201, "The build's info, whatever its exit code; with ?async where the job is.", [any_of([types.answer::<BuildView>(), types.answer::<JobState>()])])
        .carries(201, "Location", "/job/P/ID, with ?async.")
        .fails(404, "Unknown project.")
        .fails(409, "The project changed while it was being read.")
        .fails(413, "More than 16 MiB.")
        .answers(422, "With ?fail: a build that has not succeeded. Else an error: a name that breaks its rule, or a project that cannot be built as it is.", [types.or_error::<BuildView>(), text(TEXT), text(PAGE)])
        .fails(500, "An error of the server; or the build could not be run to its end: then `job` and Location say where it is found.")
        .carries(500, "Location", "/job/P/ID")
        .fails(503, "Overloaded, no Docker Engine, or the server is stopping.")
        .carries(503, "Location", "/job/P/ID, when the job was accepted.");
    vec![("POST /jobs", create), ("GET /index/", index(types))]
}

fn builds(types: &mut Types) -> Operations {
    let get = operation("One build.")
        .flag("wait", "Answer when the build is over.")
        .flag("fail", "A build that is over and has not succeeded is answered with 422.")
        .query("attempt", ATTEMPT, attempt())
        .without_log()
        .header("Accept", "application/json, else a page. (Content-Type: application/json is understood in its place.)")
        .answers(200, "The build.", [types.json::<JobView>(), text(PAGE)])
        .answers(422, "With ?fail: a build that has not succeeded. Else an error: a name that breaks its rule.", [types.or_error::<JobView>(), text(TEXT), text(PAGE)])
        .fails(503, &format!("With ?wait: the server is stopping. Without: {READERS_FULL}."))
        .carries(503, "Location", "/job/P/ID");
    let attempts = operation("The attempts at a job, newest first.")
        .answers(
            200,
            "The attempts that are kept.",
            [types.json::<Vec<AttemptView>>()],
        )
        .fails(
            503,
            &format!("{READERS_FULL}: ask again after Retry-After seconds."),
        );
    let cancel = operation("Stop a build.")
        .reads(types.request::<CancelRequest>(false))
        .answers(202, "It is written down that the build is stopped.", [types.json::<JobState>()])
        .fails(403, "This token, or a page of another site, may not do that; or another user asked for the build.")
        .fails(409, "The build is over.")
        .fails(422, "A name that breaks its rule, or a reason that is not one line of at most 1,000 bytes.")
        .fails(503, "The server is stopping.")
        .carries(503, "Location", "/job/P/ID");
    vec![
        ("GET /job/{project}/{id}", get),
        ("GET /job/{project}/{id}/attempts", attempts),
        ("POST /job/{project}/{id}/cancel", cancel),
    ]
}

fn administration(types: &mut Types) -> Operations {
    let remove = operation("Removes a build that is over.")
        .flag(
            "base",
            "Also where a link names it: the next build of its group starts empty then.",
        )
        .answers(
            200,
            "With ?base: it is gone.",
            [types.json::<RemovedBase>()],
        )
        .answers(204, "Without ?base: it is gone.", [])
        .fails(
            409,
            "It stays: a link names it (without ?base), it is pinned, in use, or not over.",
        );
    let pin = operation("Keeps a build from garbage collection.").answers(204, "It is pinned.", []);
    let unpin = operation("Lets a build go.").answers(204, "It is not pinned.", []);
    let collect =
        operation("Collects garbage by the configured rules, or those given in their place.")
            .reads(types.request::<GcRequest>(false))
            .answers(200, "What went, or would go.", [types.json::<GcView>()])
            .fails(422, "No rule says what is to go.");
    let pause = operation("No new build starts; running builds continue.").answers(
        204,
        "It is paused, also when it was before; that is on stable storage.",
        [],
    );
    let resume = operation("Has the server begin jobs again, first those that wait.").answers(
        204,
        "It is not paused, also when it was not before.",
        [],
    );
    let begin = operation("A client that shows a token gets a cookie by which a browser reads, for 30 days.")
        .answers(204, "The token is good.", [])
        .carries(204, "Set-Cookie", "mistry-read, which reads and does nothing else; absent where no token was shown, or reading needs none.");
    let end = operation("Takes the cookie back.")
        .answers(204, "There is none any more.", [])
        .carries(204, "Set-Cookie", "mistry-read, ended.");
    vec![
        ("DELETE /job/{project}/{id}", remove),
        ("PUT /job/{project}/{id}/pin", pin),
        ("DELETE /job/{project}/{id}/pin", unpin),
        ("POST /gc", collect),
        ("POST /queue/pause", pause),
        ("POST /queue/resume", resume),
        ("POST /session", begin),
        ("DELETE /session", end),
    ]
}

fn logs(types: &mut Types) -> Operations {
    // The data of its last event, `end`, which no answer of JSON has.
    types.answer::<LogEnd>();
    let found = json!({ "type": "string", "minLength": 1, "maxLength": 200 });
    let etag = "Text, unless it is followed: names the bytes that there are.";
    let get = operation("The log of a build, on while it grows.")
        .flag("text", "As text, like Accept: text/plain.")
        .flag("follow", "As text: on until the build ends.")
        .query("from", "With follow: from this byte on.", json!({ "type": "integer", "minimum": 0 }))
        .query("attempt", ATTEMPT, attempt())
        .flag("lines", "As JSON: where lines begin.")
        .flag("times", "As JSON: when they were written.")
        .query("find", "As JSON: the lines that hold this text, in what a reader sees of them.", found)
        .header("Accept", "text/plain: byte for byte; else events.")
        .header("Last-Event-ID", "Events: go on after this byte offset.")
        .header("Range", "Text, unless it is followed: bytes; several ranges that do not come to one are answered whole.")
        .header("If-Match", "Text: only the content that has this ETag.")
        .header("If-None-Match", "Text: 304 where it is the content that has this ETag.")
        .header("If-Range", "Text: the range only of the content that has this ETag.")
        .header("Mistry-Log", "Text and JSON: only of this log.")
        .answers(200, "The log.", [events(), text(TEXT), any_of([types.answer::<LogLines>(), types.answer::<LogMatches>(), types.answer::<LogTimes>()])])
        .carries(200, "ETag", etag)
        .carries(200, "Mistry-Log", MISTRY_LOG)
        .answers(204, "Events: nothing comes after Last-Event-ID, and the build is over.", [])
        .answers(206, "Text: the range.", [text(TEXT)])
        .carries(206, "Content-Range", "bytes FIRST-LAST/LENGTH")
        .carries(206, "ETag", etag)
        .carries(206, "Mistry-Log", MISTRY_LOG)
        .answers(304, "Text: it is that content.", [])
        .fails(412, "Another log than Mistry-Log names: the job was asked for again. Or, for text, other content than If-Match names.")
        .answers(416, "Text: no such range.", [text(TEXT)])
        .carries(416, "Content-Range", "bytes */LENGTH")
        .fails(503, &format!("JSON: {READERS_FULL}, or until a log is looked through; ask again after Retry-After seconds."));
    vec![("GET /log/{project}/{id}", get)]
}

fn artifacts(types: &mut Types) -> Operations {
    let busy = format!(
        "As many tars and manifests are sent as may be at once, there is no room for another answer, or {READERS_FULL}: ask again after Retry-After seconds."
    );
    let [avif, gif, jpeg, png, webp] = IMAGES.map(text);
    let part = [
        text("application/octet-stream"),
        text(TEXT),
        avif,
        gif,
        jpeg,
        png,
        webp,
    ];
    let [bytes, plain, avif, gif, jpeg, png, webp] = part.clone();
    let whole = [bytes, text(PAGE), plain, avif, gif, jpeg, png, webp];
    let tar = operation("All artifacts of a ready build as a tar, or a list of them.")
        .header("Accept-Encoding", "zstd is honoured.")
        .flag("manifest", "A list instead of the tar.")
        .flag("sparse", "Files with holes are sparse entries of the old GNU format; else their holes are sent as zeros.")
        .answers(200, "The tar; an error in its middle ends the connection. With ?manifest, the list, which ends alike.", [text("application/x-tar"), types.json::<Vec<ManifestItem>>()])
        .carries(200, "Content-Encoding", "zstd, when it was accepted.")
        .carries(200, "Content-Disposition", "A name for the tar.")
        .fails(503, &busy);
    let entry = operation("One file, or what is in a directory; also as a page.")
        .flag("view", "A page for people that shows the file in place.")
        .flag("inline", "What by its name is plain text or a picture, to be shown in place; anything else is sent as without it.")
        .header("Range", "One range of bytes.")
        .header("If-Range", "The range only of this version.")
        .header("If-None-Match", "304 when it is this version.")
        .header("If-Match", "Only the content that has this ETag.")
        .answers(200, "The file, or a page of it or of the directory.", whole)
        .carries(200, "ETag", "Of a file.")
        .carries(200, "Content-Disposition", "attachment, or inline, and the file's name.")
        .answers(206, "The range.", part)
        .carries(206, "Content-Range", "bytes FIRST-LAST/LENGTH")
        .answers(304, "It is that version.", [])
        .fails(412, "Other content than If-Match names.")
        .answers(416, "No such range.", [text(TEXT)])
        .carries(416, "Content-Range", "bytes */LENGTH")
        .fails(503, &busy);
    vec![
        ("GET /artifacts/{project}/{id}", tar),
        ("GET /artifacts/{project}/{id}/{*path}", entry),
    ]
}

fn projects(types: &mut Types) -> Operations {
    let list = operation("What can be built.").answers(
        200,
        "The projects, by name.",
        [types.json::<Vec<ProjectItem>>(), text(PAGE)],
    );
    let get = operation("One project: its groups and its newest builds.").answers(
        200,
        "The project.",
        [types.json::<ProjectView>(), text(PAGE)],
    );
    let rebuild = operation("Builds the project's image again, with its bases pulled and nothing cached; then removes this server's images and containers that are not used any more.")
        .reads(types.request::<RebuildRequest>(false))
        .answers(200, "The new image.", [types.json::<ImageView>()])
        .fails(409, "The image stays as it is, because the value of a build secret is missing; or the project changed while it was being read.")
        .fails(503, "No Docker Engine.");
    let groups = operation("The groups of a project that have a base, by name.").answers(
        200,
        "The groups.",
        [types.json::<Vec<GroupItem>>()],
    );
    let reset = operation("Resets a group: its next build starts empty. Its builds stay, and one that is under way becomes its base when it succeeds.")
        .reads(types.request::<GroupRequest>(true))
        .answers(204, "It is reset, durably.", [])
        .fails(404, "Unknown project, or group; the sentence names the known groups.");
    vec![
        ("GET /projects", list),
        ("GET /project/{project}", get),
        ("POST /project/{project}/rebuild", rebuild),
        ("GET /project/{project}/groups", groups),
        ("POST /project/{project}/groups/reset", reset),
    ]
}

fn host(types: &mut Types) -> Operations {
    let any = || json!({ "type": "string" });
    let overview = operation("The web view: the newest builds.")
        .query("project", "Only of this project.", any())
        .answers(200, "A page.", [text(PAGE)]);
    let file = operation("What the pages need.").answers(
        200,
        "The file.",
        [text("text/css; charset=utf-8")],
    );
    let status = operation("The host: slots, queue, disk, Engine.").answers(
        200,
        "How it stands.",
        [types.json::<HostView>(), text(PAGE)],
    );
    let follow = operation(
        "What happens to jobs and the host, as events: the present first, then the news.",
    )
    .filter(types)
    .query("rows", "Jobs as rows of the web view.", any())
    .header("Last-Event-ID", "The id of the last event that was read.")
    .answers(200, "The stream.", [events()]);
    let metrics = operation("Prometheus text.").answers(200, "The metrics.", [text(METRICS)]);
    let healthz =
        operation("Whether the server answers. Needs no token.").answers(200, "ok", [text(TEXT)]);
    let openapi = operation("This document.").answers(
        200,
        "This document.",
        [(JSON, of(json!({ "type": "object" })))],
    );
    vec![
        ("GET /", overview),
        ("GET /static/{name}", file),
        ("GET /status", status),
        ("GET /events", follow),
        ("GET /metrics", metrics),
        ("GET /healthz", healthz),
        ("GET /openapi.json", openapi),
    ]
}
