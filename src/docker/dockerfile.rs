//! The images that a Dockerfile names, so that each can be pulled by itself.
//!
//! Only the necessary part of the language is parsed. Names that are unknown before the build (with a
//! variable that has no default) are left out.

use std::collections::BTreeMap;

/// Bytes of the longest text in which variables are replaced: far more than an image reference may have. Each
/// of a few lines can double the length of the line before it.
const MAX_EXPANDED: usize = 4_096;

/// The images that `FROM`, `COPY --from` and `RUN --mount=from=` name, each once and in order; not
/// `scratch` and not the stages of the Dockerfile itself.
pub fn named_images(dockerfile: &str) -> Vec<String> {
    let mut args = BTreeMap::new();
    let mut stages: Vec<String> = Vec::new();
    let mut is_global = true;
    let mut images: Vec<String> = Vec::new();
    for instruction in instructions(dockerfile) {
        let words: Vec<&str> = instruction.split_whitespace().collect();
        let Some((word, rest)) = words.split_first() else {
            continue;
        };
        let flags = rest.iter().take_while(|word| word.starts_with("--"));
        let mut stage = None;
        let found: Vec<String> = match word.to_ascii_uppercase().as_str() {
            "ARG" if is_global => {
                for (name, value) in rest.iter().filter_map(|word| word.split_once('=')) {
                    let value = expanded(value.trim_matches(['"', '\'']), &args);
                    args.insert(name.to_owned(), value.unwrap_or_default());
                }
                Vec::new()
            }
            "FROM" => {
                is_global = false;
                let names = &rest[flags.count()..];
                if let [_, word, name, ..] = names
                    && word.eq_ignore_ascii_case("as")
                {
                    stage = Some(name.to_ascii_lowercase());
                }
                let name = names.first().and_then(|name| expanded(name, &args));
                name.into_iter().collect()
            }
            "COPY" | "ADD" => flags
                .filter_map(|flag| flag.strip_prefix("--from="))
                .map(str::to_owned)
                .collect(),
            "RUN" => flags
                .filter_map(|flag| flag.strip_prefix("--mount="))
                .flat_map(|mount| mount.split(','))
                .filter_map(|option| option.strip_prefix("from="))
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        };
        for name in found {
            let is_stage =
                stages.contains(&name.to_ascii_lowercase()) || name.parse::<usize>().is_ok();
            let is_known = name.is_empty() || name == "scratch" || images.contains(&name);
            if !is_stage && !is_known && !name.contains('$') {
                images.push(name);
            }
        }
        stages.extend(stage);
    }
    images
}

/// The instructions of a Dockerfile, each on one line, without comments.
fn instructions(dockerfile: &str) -> Vec<String> {
    let is_backtick = dockerfile
        .lines()
        .take_while(|line| line.trim_start().starts_with('#'))
        .filter_map(|line| line.trim_start_matches(['#', ' ']).split_once('='))
        .any(|(name, value)| name.trim().eq_ignore_ascii_case("escape") && value.trim() == "`");
    let escape = if is_backtick { '`' } else { '\\' };
    let mut instructions = Vec::new();
    let mut current = String::new();
    for line in dockerfile.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.strip_suffix(escape) {
            Some(part) => {
                current.push_str(part);
                current.push(' ');
            }
            None => {
                current.push_str(line);
                instructions.push(std::mem::take(&mut current));
            }
        }
    }
    if !current.is_empty() {
        instructions.push(current);
    }
    instructions
}

/// `text` with `$X`, `${X}` and `${X:-default}` replaced; `None` where a variable has no value, or the
/// result is longer than [`MAX_EXPANDED`].
fn expanded(text: &str, args: &BTreeMap<String, String>) -> Option<String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        let (name, default, left) = match after.strip_prefix('{') {
            Some(braced) => {
                let (inner, left) = braced.split_once('}')?;
                let (name, default) = match inner.split_once(":-") {
                    Some((name, default)) => (name, Some(default)),
                    None => (inner, None),
                };
                (name, default, left)
            }
            None => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
                (&after[..end], None, &after[end..])
            }
        };
        let value = args.get(name).map(String::as_str);
        result.push_str(value.filter(|value| !value.is_empty()).or(default)?);
        if result.len() > MAX_EXPANDED {
            return None;
        }
        rest = left;
    }
    result.push_str(rest);
    (result.len() <= MAX_EXPANDED).then_some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_listed_once_without_stages() {
        let dockerfile = "# escape=\\\n\
            ARG VERSION=12\nARG BASE=\"debian:${VERSION}\"\n\
            FROM --platform=linux/amd64 $BASE AS Build\n\
            RUN --mount=type=cache,target=/c --mount=type=bind,from=tools:1,target=/t \\\n# no\n  x\n\
            FROM build as next\nCOPY --chown=1 --from=local/b /a /b\nCOPY --from=0 /a /c\n\
            FROM scratch\nCOPY --from=BUILD /a /d\nCOPY --from=tools:1 /a /e\n\
            FROM ${MISSING:-alpine}\nFROM $UNKNOWN\n";
        assert_eq!(
            named_images(dockerfile),
            ["debian:12", "tools:1", "local/b", "alpine"]
        );
    }

    #[test]
    fn variables_that_double_each_other_cost_bounded_memory() {
        let mut dockerfile = "ARG A0=xxxxxxxx\n".to_owned();
        for at in 0..60 {
            dockerfile.push_str(&format!("ARG A{}=$A{at}$A{at}\n", at + 1));
        }
        dockerfile.push_str("FROM $A60\nFROM $A2\n");
        assert_eq!(named_images(&dockerfile), ["x".repeat(32)]);
        let long = "x".repeat(MAX_EXPANDED);
        assert_eq!(named_images(&format!("FROM {long}")), [&*long]);
        assert_eq!(named_images(&format!("FROM {long}x")), [""; 0]);
    }

    #[test]
    fn a_text_that_is_no_dockerfile_names_no_image() {
        for text in [
            "",
            "FROM",
            "FROM --platform=x",
            "COPY --from=",
            "ARG",
            "FROM ${",
            "\\",
        ] {
            assert_eq!(named_images(text), [""; 0], "{text}");
        }
    }
}
