//! The form that starts a build of a project. It needs scripts, as all changes do.

use super::super::format;
use crate::build::BuildInfo;
use crate::project::{ParamSchema, is_opaque_param};

/// Fields of a form.
const MAX_FIELDS: usize = 50;
/// Bytes of a value that a form is filled with: lists have no more of it.
const MAX_VALUE: usize = 200;

/// The form.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) group: String,
    pub(super) fields: Vec<Field>,
    /// The project takes any params: rows can be added.
    pub(super) is_free: bool,
    /// What is not in the form; "" if nothing is missing.
    pub(super) missing: &'static str,
}

/// A param.
#[derive(Debug, Default)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) value: String,
    /// The latest build has a value that the field cannot be filled with.
    pub(super) is_left_out: bool,
    pub(super) default: Option<String>,
    /// The values that it may have; none if any.
    pub(super) values: Vec<String>,
    pub(super) is_required: bool,
    pub(super) is_secret: bool,
}

/// The form of a project, filled with the params of its newest build.
pub(super) fn form(schema: Option<&ParamSchema>, newest: Option<&BuildInfo>) -> Form {
    match schema {
        Some(schema) => of_schema(schema, newest),
        None => free(newest),
    }
}

fn of_schema(schema: &ParamSchema, newest: Option<&BuildInfo>) -> Form {
    let before = |name: &str| newest?.params.get(name)?.as_deref();
    let fields = schema.iter().take(MAX_FIELDS).map(|(name, rule)| Field {
        name: name.to_owned(),
        description: format::visible(rule.description.as_deref().unwrap_or_default()),
        value: before(name)
            .filter(|value| fits(value))
            .unwrap_or_default()
            .to_owned(),
        is_left_out: before(name).is_some_and(|value| !fits(value)),
        default: rule.default.as_deref().map(format::visible),
        values: rule.values.clone().unwrap_or_default(),
        is_required: rule.required,
        is_secret: is_opaque_param(name),
    });
    Form {
        group: group(newest),
        fields: fields.collect(),
        is_free: false,
        missing: match schema.iter().count() > MAX_FIELDS {
            true => {
                "The project takes more params than the form has fields: a build with those is started from a terminal."
            }
            false => "",
        },
    }
}

/// A value that a field can hold as it is.
fn fits(value: &str) -> bool {
    value.len() <= MAX_VALUE && format::visible(value) == value
}

/// The form of a project without a schema, with the params of its newest build.
fn free(newest: Option<&BuildInfo>) -> Form {
    let params = newest.map(|newest| &newest.params);
    let all = params.into_iter().flatten();
    let fields: Vec<Field> = all
        .take(MAX_FIELDS)
        .filter(|(_, value)| value.as_deref().is_none_or(fits))
        .map(|(name, value)| Field {
            name: name.clone(),
            value: value.as_deref().unwrap_or_default().to_owned(),
            is_secret: is_opaque_param(name),
            ..Field::default()
        })
        .collect();
    let count = newest.map_or(0, |newest| newest.params.len());
    Form {
        group: group(newest),
        is_free: true,
        missing: match fields.len() < count {
            true => "The params of the latest build are too many or too long to be listed here.",
            false => "",
        },
        fields,
    }
}

/// The group that the form proposes: that of the newest build, unless its name would mislead.
fn group(newest: Option<&BuildInfo>) -> String {
    let group = newest.map_or("", BuildInfo::group_name);
    match format::visible(group) == group {
        true => group.to_owned(),
        false => String::new(),
    }
}
