//! The status of a server, in groups for people; what needs attention comes first.

use serde_json::Value;

use super::format::format_size;

/// Less free space than this part of the disk needs attention.
const LOW_SPACE_PART: u64 = 20;

/// The lines of the status, a name and a value each.
pub(super) fn lines(address: &str, status: &Value) -> Vec<(String, String)> {
    let mut left = status.clone();
    let mut lines = warnings(status);
    let version = match text(&mut left, "Version") {
        Some(version) => format!("{address}, mistryd {version}"),
        None => address.to_owned(),
    };
    lines.push(("server", version));
    if let Some((running, slots)) = pair(&mut left, "Running", "Slots")
        && let Some((queued, backlog)) = pair(&mut left, "Queued", "Backlog")
    {
        let builds = format!("{running} of {slots} running, {queued} of {backlog} waiting");
        lines.push(("builds", builds));
    }
    if let Some(engine) = take(&mut left, "Engine") {
        let engine = match engine.as_str() {
            Some(version) => format!("reachable, version {version}"),
            None => "NOT REACHABLE".to_owned(),
        };
        lines.push(("docker", engine));
    }
    if let Some((free, size)) = pair(&mut left, "DiskFree", "DiskSize") {
        let filesystem = match text(&mut left, "Filesystem") {
            Some(name) => format!(" (filesystem: {name})"),
            None => String::new(),
        };
        let disk = format!("{} of {} free", format_size(free), format_size(size));
        lines.push(("disk", format!("{disk}{filesystem}")));
    }
    take(&mut left, "Paused");
    let named = lines
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    named.chain(rest("", &left)).collect()
}

fn warnings(status: &Value) -> Vec<(&'static str, String)> {
    let mut warnings = Vec::new();
    let number = |name: &str| status.get(name).and_then(Value::as_u64);
    if status.get("Engine") == Some(&Value::Null) {
        let text = "Docker does not answer: cached builds are served, new ones are refused. See that it runs \
                    on the server, and that mistryd may use its socket";
        warnings.push(text.to_owned());
    }
    if status.get("Paused") == Some(&Value::Bool(true)) {
        warnings.push("the queue is paused: no build is started until 'mistry resume'".to_owned());
    }
    if let (Some(queued), Some(backlog)) = (number("Queued"), number("Backlog"))
        && queued > 0
        && queued >= backlog
    {
        warnings.push("the queue is full: new jobs are refused (job_backlog)".to_owned());
    }
    if let (Some(free), Some(size)) = (number("DiskFree"), number("DiskSize"))
        && free < size / LOW_SPACE_PART
    {
        let free = format_size(free);
        warnings.push(format!(
            "only {free} are free on the disk; 'mistry gc' removes builds"
        ));
    }
    warnings.into_iter().map(|text| ("WARNING", text)).collect()
}

/// What this program does not know: nested names joined by dots.
fn rest(name: &str, value: &Value) -> Vec<(String, String)> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, value)| match name {
                "" => rest(key, value),
                name => rest(&format!("{name}.{key}"), value),
            })
            .collect(),
        Value::Null => Vec::new(),
        Value::String(text) => vec![(name.to_owned(), text.clone())],
        other => vec![(name.to_owned(), other.to_string())],
    }
}

fn take(from: &mut Value, name: &str) -> Option<Value> {
    from.as_object_mut()?.remove(name)
}

fn text(from: &mut Value, name: &str) -> Option<String> {
    take(from, name)?.as_str().map(str::to_owned)
}

fn pair(from: &mut Value, first: &str, second: &str) -> Option<(u64, u64)> {
    let numbers = (from.get(first)?.as_u64()?, from.get(second)?.as_u64()?);
    take(from, first);
    take(from, second);
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(status: &Value) -> Vec<String> {
        let lines = lines("http://h:1", status).into_iter();
        lines
            .map(|(name, value)| format!("{name}: {value}"))
            .collect()
    }

    #[test]
    fn a_status_is_shown_in_groups_and_unknown_fields_after_them() {
        let status = serde_json::json!({
            "Backlog": 4, "DiskFree": 13_000_000_000_u64, "DiskSize": 26_000_000_000_u64,
            "Engine": "28.1", "Filesystem": "plain", "Paused": false, "Queued": 0, "Running": 1,
            "Slots": 2, "Version": "0.1.0", "New": {"A": 1, "B": null},
        });
        assert_eq!(
            shown(&status),
            [
                "server: http://h:1, mistryd 0.1.0",
                "builds: 1 of 2 running, 0 of 4 waiting",
                "docker: reachable, version 28.1",
                "disk: 12 GiB of 24 GiB free (filesystem: plain)",
                "New.A: 1",
            ]
        );
        assert_eq!(shown(&Value::Null), ["server: http://h:1"]);
    }

    #[test]
    fn what_needs_attention_comes_first() {
        let status = serde_json::json!({
            "Backlog": 4, "DiskFree": 1_000, "DiskSize": 1_000_000, "Engine": null,
            "Paused": true, "Queued": 4, "Running": 2, "Slots": 2,
        });
        let shown = shown(&status);
        for (line, words) in shown.iter().zip([
            "Docker does not answer",
            "the queue is paused",
            "the queue is full",
            "only 1000 B are free",
        ]) {
            assert!(
                line.starts_with("WARNING: ") && line.contains(words),
                "{line}"
            );
        }
        assert!(
            shown.contains(&"docker: NOT REACHABLE".to_owned()),
            "{shown:?}"
        );
    }
}
