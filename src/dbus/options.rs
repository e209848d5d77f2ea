//! Options of methods (`a{sv}`): named, optional, and refused when unknown.

use std::collections::HashMap;
use std::time::Duration;

use zbus::OwnedVariant;

use super::error::{Error, Kind};
use crate::build::{Filter, Place};
use crate::job::State;
use crate::policy::Policy;

/// Names and values as received.
pub(super) type Options = HashMap<String, OwnedVariant>;

/// The options of `SubmitJob`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Submit {
    /// Make a new image and a new build.
    pub(super) rebuild: bool,
    /// Make a build that starts empty.
    pub(super) cold: bool,
    /// Cancel the build when the caller leaves the bus.
    pub(super) cancel_on_disconnect: bool,
}

impl Submit {
    pub(super) fn read(options: &Options) -> Result<Submit, Error> {
        known(options, &["rebuild", "cold", "cancel_on_disconnect"])?;
        Ok(Submit {
            rebuild: flag(options, "rebuild")?,
            cold: flag(options, "cold")?,
            cancel_on_disconnect: flag(options, "cancel_on_disconnect")?,
        })
    }
}

/// The options of `CollectGarbage`: the rules of `gc` in the configuration, and `dry_run`.
pub(super) fn policy(options: &Options) -> Result<(Policy, bool), Error> {
    known(
        options,
        &["dry_run", "max_age", "max_bytes", "min_free", "keep_last"],
    )?;
    let policy = Policy {
        max_age: number(options, "max_age")?.map(Duration::from_secs),
        max_bytes: number(options, "max_bytes")?,
        min_free: number(options, "min_free")?,
        keep_last: number(options, "keep_last")?,
    };
    Ok((policy, flag(options, "dry_run")?))
}

/// The default of `limit` of `ListBuilds`.
const PAGE: u64 = 100;
const MAX_PAGE: u64 = 1_000;

/// The filter of `ListBuilds`, and the number of builds.
pub(super) fn filter(options: &Options) -> Result<(Filter, usize), Error> {
    known(options, &["project", "group", "state", "before", "limit"])?;
    let wrong = |what: &str| Error::new(Kind::InvalidArgs, what);
    let filter = Filter {
        project: text(options, "project")?
            .map(str::parse)
            .transpose()
            .map_err(Error::from)?,
        group: text(options, "group")?.map(str::to_owned),
        state: match text(options, "state")? {
            None => None,
            Some("pending") => Some(State::Pending),
            Some("ready") => Some(State::Ready),
            Some(_) => return Err(wrong("option 'state': expected pending or ready")),
        },
        before: match text(options, "before")? {
            None => None,
            Some(place) => Some(Place::parse(place).ok_or_else(|| {
                wrong("option 'before': expected what ListBuilds has returned as 'next'")
            })?),
        },
        ..Filter::default()
    };
    let limit = number(options, "limit")?.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(wrong("option 'limit': expected 1 to 1000"));
    }
    Ok((filter, usize::try_from(limit).unwrap_or(usize::MAX)))
}

fn known(options: &Options, names: &[&str]) -> Result<(), Error> {
    match options.keys().find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::InvalidArgs,
            format!(
                "option '{}' is not known: expected {}",
                shown(name),
                names.join(", ")
            ),
        )),
    }
}

/// A name shortened for error messages.
fn shown(name: &str) -> String {
    /// Enough characters to recognise it.
    const MOST: usize = 40;
    name.chars()
        .take(MOST)
        .flat_map(char::escape_debug)
        .collect()
}

fn flag(options: &Options, name: &str) -> Result<bool, Error> {
    match options.get(name) {
        None => Ok(false),
        Some(value) => bool::try_from(value).map_err(|_| expected(name, "a boolean (b)")),
    }
}

fn text<'a>(options: &'a Options, name: &str) -> Result<Option<&'a str>, Error> {
    match options.get(name) {
        None => Ok(None),
        Some(value) => <&str>::try_from(value)
            .map(Some)
            .map_err(|_| expected(name, "a string (s)")),
    }
}

/// Any integer that is not negative.
fn number(options: &Options, name: &str) -> Result<Option<u64>, Error> {
    let Some(value) = options.get(name) else {
        return Ok(None);
    };
    let read = u64::try_from(value)
        .ok()
        .or_else(|| u32::try_from(value).ok().map(u64::from))
        .or_else(|| i32::try_from(value).ok().and_then(|n| n.try_into().ok()))
        .or_else(|| i64::try_from(value).ok().and_then(|n| n.try_into().ok()));
    read.map(Some)
        .ok_or_else(|| expected(name, "an integer (t) that is not negative"))
}

fn expected(name: &str, what: &str) -> Error {
    Error::new(
        Kind::InvalidArgs,
        format!("option '{name}': expected {what}"),
    )
}

#[cfg(test)]
mod tests {
    use zbus::{DBusError, Variant};

    use super::*;

    fn options(given: Vec<(&str, Variant<'_>)>) -> Options {
        given
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.try_to_owned().unwrap()))
            .collect()
    }

    fn sentence<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
        result.unwrap_err().description().unwrap().to_owned()
    }

    #[test]
    fn an_unknown_or_wrong_option_is_named() {
        let message = sentence(Submit::read(&options(vec![("rebild", true.into())])));
        assert!(
            message.contains("'rebild'") && message.contains("rebuild"),
            "{message}"
        );
        let message = sentence(Submit::read(&options(vec![("rebuild", "yes".into())])));
        assert_eq!(message, "option 'rebuild': expected a boolean (b)");
        let message = sentence(policy(&options(vec![("max_age", (-1_i32).into())])));
        assert!(message.starts_with("option 'max_age'"), "{message}");
        let message = sentence(filter(&options(vec![("limit", 0_u32.into())])));
        assert_eq!(message, "option 'limit': expected 1 to 1000");
        assert!(filter(&options(vec![("project", "../x".into())])).is_err());
        assert!(filter(&options(vec![("before", "x".into())])).is_err());
    }

    #[test]
    fn integers_of_every_width_are_accepted() {
        for value in [
            Variant::from(7_u64),
            7_u32.into(),
            7_i32.into(),
            7_i64.into(),
        ] {
            let (policy, dry_run) = policy(&options(vec![("keep_last", value)])).unwrap();
            assert_eq!((policy.keep_last, dry_run), (Some(7), false));
        }
    }
}
