//! The mounts of a Dockerfile for which BuildKit asks its client: build secrets, and an agent of ssh.

use super::instructions::Instruction;

/// The id of the agent that a mount of ssh means if it names none.
pub(super) const DEFAULT_AGENT: &str = "default";

/// Such a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionMount {
    /// The line of its instruction, from 1.
    pub(super) line: usize,
    pub(super) kind: SessionKind,
    /// What it asks for; `None` if that is known only when it is built.
    pub(super) id: Option<String>,
    /// It says that its step runs without, too: `required=false`.
    pub(super) is_optional: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionKind {
    Secret,
    Ssh,
}

impl SessionMount {
    /// How a Dockerfile writes it.
    pub(super) fn instruction(&self) -> &'static str {
        match self.kind {
            SessionKind::Secret => "RUN --mount=type=secret",
            SessionKind::Ssh => "RUN --mount=type=ssh",
        }
    }
}

/// The mounts of all `RUN` instructions, in order.
pub(super) fn session_mounts(instructions: &[Instruction]) -> Vec<SessionMount> {
    let mut mounts = Vec::new();
    for instruction in instructions {
        let mut words = instruction.text.split_whitespace();
        if !words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("RUN"))
        {
            continue;
        }
        let flags = words.take_while(|word| word.starts_with("--"));
        let options = flags.filter_map(|flag| flag.strip_prefix("--mount="));
        mounts.extend(options.filter_map(|options| mount(options, instruction.line)));
    }
    mounts
}

/// The mount of some options, if BuildKit asks its client for it.
fn mount(options: &str, line: usize) -> Option<SessionMount> {
    let option = |names: &[&str]| {
        let mut pairs = options
            .split(',')
            .map(|option| option.split_once('=').unwrap_or((option, "true")));
        pairs.find_map(|(name, value)| {
            let is_one = names.iter().any(|one| one.eq_ignore_ascii_case(name));
            is_one.then_some(value)
        })
    };
    let kind = match option(&["type"])?.to_ascii_lowercase().as_str() {
        "secret" => SessionKind::Secret,
        "ssh" => SessionKind::Ssh,
        _ => return None,
    };
    let named = match kind {
        SessionKind::Secret => option(&["source", "src", "id"]),
        SessionKind::Ssh => option(&["id"]),
    };
    let id = named.or_else(|| match kind {
        SessionKind::Ssh => Some(DEFAULT_AGENT),
        SessionKind::Secret => {
            let target = option(&["target", "dst", "destination"])?;
            target.rsplit('/').next()
        }
    });
    Some(SessionMount {
        line,
        kind,
        id: id.filter(|id| !id.contains('$')).map(str::to_owned),
        is_optional: option(&["required"]) == Some("false"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::instructions::instructions;
    use super::*;

    #[test]
    fn the_id_is_that_which_buildkit_asks_for() {
        use SessionKind::{Secret, Ssh};
        for (options, kind, id, is_optional) in [
            ("type=secret,id=a", Secret, Some("a"), false),
            ("id=a.b,type=secret,required", Secret, Some("a.b"), false),
            (
                "type=secret,target=/etc/.netrc",
                Secret,
                Some(".netrc"),
                false,
            ),
            ("Type=Secret,ID=a", Secret, Some("a"), false),
            ("type=secret,src=a,target=/b", Secret, Some("a"), false),
            ("type=secret,id=$A", Secret, None, false),
            ("type=secret,id=a,required=false", Secret, Some("a"), true),
            ("type=ssh", Ssh, Some("default"), false),
            ("type=ssh,id=b,mode=0600", Ssh, Some("b"), false),
        ] {
            let text = format!("FROM a\nrun --network=none --mount={options} x\n");
            let expected = SessionMount {
                line: 2,
                kind,
                id: id.map(str::to_owned),
                is_optional,
            };
            assert_eq!(
                session_mounts(&instructions(&text)),
                [expected],
                "{options}"
            );
        }
        for other in [
            "RUN --mount=type=cache,target=/c,id=a x",
            "RUN x --mount=type=secret,id=a",
            "COPY --mount=type=secret,id=a x y",
            "# RUN --mount=type=secret,id=a x",
        ] {
            assert_eq!(session_mounts(&instructions(other)), [], "{other}");
        }
    }
}
