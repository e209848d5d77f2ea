//! What a Dockerfile needs: the images that it names, so that each can be pulled by itself, and the builder
//! that knows its words.
//!
//! Only the necessary part of the language is read. Names that are unknown before the build (with a variable
//! that has no default) are left out.

use std::collections::BTreeMap;
use std::ops::Range;

use super::instructions::{Directives, Instruction, directives, instructions};
use super::session_mounts::{SessionMount, session_mounts};

/// Bytes of the longest text in which variables are replaced: far more than an image reference may have. Each
/// of a few lines can double the length of the line before it.
const MAX_EXPANDED: usize = 4_096;

/// Types of mounts for which BuildKit asks its client.
const SESSION_MOUNTS: [&str; 2] = ["secret", "ssh"];

/// Variables that only BuildKit sets.
const PLATFORM_ARGS: [&str; 8] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETARCH",
    "TARGETVARIANT",
];

/// What a Dockerfile needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dockerfile {
    /// The images that `FROM`, `COPY --from` and `RUN --mount=from=` name, each once and in order; not
    /// `scratch` and not the stages of the Dockerfile itself.
    pub images: Vec<String>,
    /// The image of the program that reads the Dockerfile, from `# syntax=`.
    pub frontend: Option<Frontend>,
    /// What only BuildKit knows, in order.
    pub features: Vec<Feature>,
    /// The mounts for which BuildKit asks its client, in order.
    pub session_mounts: Vec<SessionMount>,
}

/// The image of the program that is to read a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Its reference.
    pub image: String,
    /// What stands in the Dockerfile in place of its name if the Engine's own reads it.
    pub without: Vec<Patch>,
}

/// Bytes of a file that are replaced by as many others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The first byte.
    pub at: u64,
    /// What is there instead.
    pub bytes: Vec<u8>,
}

/// The name of a here-document among the features.
const HERE_DOCUMENT: &str = "a here-document";

impl Frontend {
    /// Whether it is Docker's own, of which each Engine with BuildKit has a version built in.
    pub fn is_built_in(&self) -> bool {
        let name = self.image.trim_start_matches("docker.io/");
        let repository = name.split(['@', ':']).next().unwrap_or(name);
        matches!(
            repository,
            "docker/dockerfile" | "docker/dockerfile-upstream"
        )
    }
}

/// Something that only BuildKit knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// As people call it.
    pub name: String,
    /// The line of its instruction, from 1.
    pub line: usize,
    /// The first major version of the Engine whose BuildKit knows it, if not all do.
    pub since: Option<u32>,
}

impl Dockerfile {
    /// Reads a Dockerfile. A text that is none names nothing; the builder refuses it.
    pub fn parse(text: &[u8]) -> Dockerfile {
        Dockerfile::parse_for(text, &BTreeMap::new(), "")
    }

    /// The same, for a build with these values of its `ARG`s, of this stage if it is not empty. Images that only
    /// later stages name are left out.
    pub fn parse_for(
        text: &[u8],
        build_args: &BTreeMap<String, String>,
        target: &str,
    ) -> Dockerfile {
        // Comments may have any bytes. Before the first other byte, places in the text are those in the file.
        let text = String::from_utf8_lossy(text);
        let instructions = instructions(&text);
        Dockerfile {
            images: named_images(&instructions, build_args, target),
            frontend: frontend(directives(&text)),
            features: instructions.iter().flat_map(features).collect(),
            session_mounts: session_mounts(&instructions),
        }
    }

    /// The first here-document, which the classic builder of some Engines leaves out without an error.
    pub fn here_document(&self) -> Option<&Feature> {
        let mut features = self.features.iter();
        features.find(|feature| feature.name == HERE_DOCUMENT)
    }

    /// Whether only BuildKit can build it.
    pub fn needs_buildkit(&self) -> bool {
        self.frontend.is_some() || !self.features.is_empty()
    }
}

fn frontend(directives: Directives) -> Option<Frontend> {
    let (value, line) = directives.syntax?;
    let image = value.split_whitespace().next()?.to_owned();
    let blank = |range: &Range<usize>| Patch {
        at: range.start as u64,
        bytes: vec![b' '; range.len()],
    };
    let mut without = blank(&line);
    let mut patches = Vec::new();
    if let Some((escape, other)) = directives.escape {
        // A line that is no directive ends the directives, so this one takes its place. `escape=` is as long as
        // `syntax=`, and both have a value.
        let directive = format!("escape={escape}");
        let length = directive.len().min(without.bytes.len());
        without.bytes[..length].copy_from_slice(&directive.as_bytes()[..length]);
        patches.push(blank(&other));
    }
    patches.insert(0, without);
    Some(Frontend {
        image,
        without: patches,
    })
}

/// What only BuildKit knows of an instruction.
fn features(instruction: &Instruction) -> Vec<Feature> {
    let feature = |name: String, since| Feature {
        name,
        line: instruction.line,
        since,
    };
    let mut found = Vec::new();
    if instruction.has_here_document {
        found.push(feature(HERE_DOCUMENT.to_owned(), Some(23)));
    }
    let mut words = instruction.text.split_whitespace();
    let word = words.next().unwrap_or_default().to_ascii_uppercase();
    let rest: Vec<&str> = words.collect();
    let flags = rest.iter().take_while(|word| word.starts_with("--"));
    let uses = |arg: &&&str| PLATFORM_ARGS.iter().any(|name| refers_to(arg, name));
    match word.as_str() {
        "RUN" => found.extend(flags.map(|flag| {
            let session = SESSION_MOUNTS.iter().find(|kind| is_mount_of(flag, kind));
            match session {
                Some(kind) => feature(format!("RUN --mount=type={kind}"), None),
                None => feature(format!("RUN {}", flag_name(flag)), None),
            }
        })),
        "COPY" | "ADD" => {
            let new = flags.map(|flag| flag_name(flag));
            let new = new.filter(|flag| !matches!(*flag, "--from" | "--chown"));
            found.extend(new.map(|flag| {
                let since = (flag == "--link").then_some(23);
                feature(format!("{word} {flag}"), since)
            }));
        }
        "FROM" => found.extend(
            rest.iter()
                .filter(|word| word.contains('$'))
                .find(uses)
                .map(|word| feature(format!("FROM {word}"), None)),
        ),
        "ARG" => {
            let set = rest.iter().find(|name| PLATFORM_ARGS.contains(name));
            found.extend(set.map(|name| feature(format!("ARG {name}"), None)));
        }
        _ => {}
    }
    found
}

fn flag_name(flag: &str) -> &str {
    flag.split('=').next().unwrap_or(flag)
}

/// Whether a flag is a mount of this type.
fn is_mount_of(flag: &str, kind: &str) -> bool {
    let options = flag.strip_prefix("--mount=").unwrap_or_default();
    options
        .split(',')
        .any(|option| option.strip_prefix("type=") == Some(kind))
}

/// Whether a word has `$NAME` or `${NAME…}`.
fn refers_to(word: &str, name: &str) -> bool {
    word.split('$').skip(1).any(|after| {
        let after = after.strip_prefix('{').unwrap_or(after);
        let rest = after.strip_prefix(name);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    })
}

fn named_images(
    instructions: &[Instruction],
    build_args: &BTreeMap<String, String>,
    target: &str,
) -> Vec<String> {
    let mut args = platform_args();
    let mut stages: Vec<String> = Vec::new();
    let mut count = 0;
    let mut is_target = false;
    let mut is_global = true;
    let mut images: Vec<String> = Vec::new();
    for instruction in instructions {
        let words: Vec<&str> = instruction.text.split_whitespace().collect();
        let Some((word, rest)) = words.split_first() else {
            continue;
        };
        let flags = rest.iter().take_while(|word| word.starts_with("--"));
        let mut stage = None;
        let found: Vec<String> = match word.to_ascii_uppercase().as_str() {
            "ARG" if is_global => {
                set_args(&mut args, rest, build_args);
                Vec::new()
            }
            // Stages after the one that is built are not needed.
            "FROM" if is_target => break,
            "FROM" => {
                is_global = false;
                is_target = target == count.to_string();
                count += 1;
                let names = &rest[flags.count()..];
                if let [_, word, name, ..] = names
                    && word.eq_ignore_ascii_case("as")
                {
                    is_target |= name.eq_ignore_ascii_case(target);
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

/// Adds the values of an `ARG` before the first stage.
fn set_args(
    args: &mut BTreeMap<String, String>,
    words: &[&str],
    build_args: &BTreeMap<String, String>,
) {
    for word in words {
        let (name, default) = match word.split_once('=') {
            Some((name, default)) => (name, Some(default)),
            None => (*word, None),
        };
        let default = default.map(|text| expanded(text.trim_matches(['"', '\'']), args));
        let value = build_args.get(name).cloned();
        // Without a value, one that BuildKit sets keeps it.
        if let Some(value) = value.or(default.map(Option::unwrap_or_default)) {
            args.insert(name.to_owned(), value);
        }
    }
}

/// The values that BuildKit gives to the platform's variables, for builds on this host.
fn platform_args() -> BTreeMap<String, String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut args = BTreeMap::new();
    for kind in ["BUILD", "TARGET"] {
        args.insert(format!("{kind}OS"), "linux".to_owned());
        args.insert(format!("{kind}ARCH"), architecture.to_owned());
        args.insert(format!("{kind}PLATFORM"), format!("linux/{architecture}"));
    }
    args
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
                let default = inner.split_once(":-").or_else(|| inner.split_once('-'));
                let (name, default) = match default {
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

    fn images(dockerfile: &str) -> Vec<String> {
        Dockerfile::parse(dockerfile.as_bytes()).images
    }

    #[test]
    fn images_are_those_of_the_args_and_of_the_stages_up_to_the_target() {
        let text = "ARG BASE=debian\nARG TAG\nFROM ${BASE}:${TAG:-1} AS one\nFROM two AS Two\n\
            COPY --from=tools /a /a\nFROM three\nFROM four\n";
        let images = |args: &[(&str, &str)], target: &str| {
            let args = args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            Dockerfile::parse_for(text.as_bytes(), &args.collect(), target).images
        };
        let all = ["debian:1", "two", "tools", "three", "four"];
        assert_eq!(images(&[], ""), all);
        assert_eq!(images(&[], "none-such"), all);
        assert_eq!(images(&[], "two"), all[..3]);
        assert_eq!(images(&[], "1"), all[..3]);
        assert_eq!(images(&[], "2"), all[..4]);
        let args = [("BASE", "r.example/x"), ("TAG", "7"), ("other", "y")];
        assert_eq!(images(&args, "one"), ["r.example/x:7"]);
    }

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
            images(dockerfile),
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
        assert_eq!(images(&dockerfile), ["x".repeat(32)]);
        let long = "x".repeat(MAX_EXPANDED);
        assert_eq!(images(&format!("FROM {long}")), [&*long]);
        assert_eq!(images(&format!("FROM {long}x")), [""; 0]);
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
            assert_eq!(images(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn what_only_buildkit_knows_is_found_with_its_line() {
        for (instruction, name, since) in [
            ("RUN --mount=type=cache,target=/c make", "RUN --mount", None),
            ("run --network=none make", "RUN --network", None),
            (
                "RUN --mount=id=a,type=secret make",
                "RUN --mount=type=secret",
                None,
            ),
            ("RUN --mount=type=ssh make", "RUN --mount=type=ssh", None),
            ("COPY --chmod=755 a b", "COPY --chmod", None),
            ("COPY --from=x --link a b", "COPY --link", Some(23)),
            ("ADD --checksum=sha256:0 a b", "ADD --checksum", None),
            ("RUN <<EOF\nFROM x\nEOF", "a here-document", Some(23)),
            ("COPY <<EOF /a\nEOF", "a here-document", Some(23)),
            (
                "FROM --platform=$BUILDPLATFORM x",
                "FROM --platform=$BUILDPLATFORM",
                None,
            ),
            ("FROM x-${TARGETARCH:-a}", "FROM x-${TARGETARCH:-a}", None),
            ("ARG TARGETARCH", "ARG TARGETARCH", None),
        ] {
            let found = Dockerfile::parse(format!("FROM a\n\n{instruction}\n").as_bytes());
            let expected = Feature {
                name: name.to_owned(),
                line: 3,
                since,
            };
            assert_eq!(found.features, [expected], "{instruction}");
            assert!(found.needs_buildkit());
        }
        for instruction in [
            "COPY --from=b --chown=1:2 a b",
            "RUN make --mount=x",
            "ADD a b",
            "ARG TARGETARCH=amd64",
            "FROM x-$TARGETARCHS",
            "ENV A=$TARGETARCH",
            "# RUN --mount=x",
        ] {
            let found = Dockerfile::parse(format!("FROM a\n{instruction}\n").as_bytes());
            assert!(!found.needs_buildkit(), "{instruction}: {found:?}");
        }
    }

    #[test]
    fn the_frontend_is_that_of_the_first_line() {
        let frontend = |text: &str| Dockerfile::parse(text.as_bytes()).frontend;
        for (text, image, is_built_in) in [
            (
                "# syntax=docker/dockerfile:1.7-labs\n",
                "docker/dockerfile:1.7-labs",
                true,
            ),
            (
                "#syntax=docker.io/docker/dockerfile@sha256:00 --x\n",
                "docker.io/docker/dockerfile@sha256:00",
                true,
            ),
            ("# syntax=docker/dockerfile\n", "docker/dockerfile", true),
            (
                "# syntax=example.org/docker/dockerfile:1\n",
                "example.org/docker/dockerfile:1",
                false,
            ),
        ] {
            let found = frontend(text).unwrap();
            assert_eq!((&*found.image, found.is_built_in()), (image, is_built_in));
        }
        assert_eq!(frontend("# a\n# syntax=b\nFROM c\n"), None);
    }

    #[test]
    fn without_the_frontends_name_the_other_directives_stay() {
        for (text, expected) in [
            ("#syntax=a\nFROM a\n", "#        \nFROM a\n"),
            (
                "#syntax=a\n# escape=`\nFROM a\n",
                "#escape=`\n#         \nFROM a\n",
            ),
        ] {
            let mut bytes = text.as_bytes().to_vec();
            for patch in Dockerfile::parse(&bytes).frontend.unwrap().without {
                let at = patch.at as usize;
                bytes[at..at + patch.bytes.len()].copy_from_slice(&patch.bytes);
            }
            assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        }
        // Bytes that are no text.
        let found = Dockerfile::parse(b"FROM a\n# \xe9\nRUN --mount=type=tmpfs,target=/t x\n");
        assert!(found.needs_buildkit());
    }
}
