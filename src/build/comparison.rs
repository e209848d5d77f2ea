//! How the inputs of a build differ from those of an earlier one: its params, the files of its project, its image.

use std::collections::BTreeMap;
use std::io;

use super::inputs::Inputs;
use super::neighbours::Attempted;
use super::record::{self, RecordFile};
use super::store::BuildStore;
use crate::job::JobId;
use crate::project::{ProjectName, is_opaque_param};

/// Differences that are named; the others are counted.
const MAX_NAMED: usize = 20;
/// Characters of a param's value that are shown.
const MAX_VALUE: usize = 40;

/// How a file or a param differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Only the later build has it.
    Added,
    /// Only the earlier build has it.
    Removed,
    /// Both have it, with different contents.
    Changed,
}

/// A param that differs, with the beginnings of its values; `None` where there is no value, or a secret one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamDifference {
    /// Its name.
    pub name: String,
    /// How it differs.
    pub difference: Difference,
    /// Its value in the earlier build.
    pub before: Option<String>,
    /// Its value in the later build.
    pub after: Option<String>,
}

/// The differences between two builds of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Params that differ, at most [`MAX_NAMED`].
    pub params: Vec<ParamDifference>,
    /// The number of those that are not listed.
    pub more_params: usize,
    /// Files and links of the project that differ, at most [`MAX_NAMED`].
    pub files: Vec<(String, Difference)>,
    /// The number of those that are not listed.
    pub more_files: usize,
    /// The contexts differ; `files` is empty if it is not known in which files.
    pub has_other_context: bool,
    /// Only the first files of a large project were compared.
    pub is_partial: bool,
    /// The images differ. `None` where a build has none.
    pub has_other_image: Option<bool>,
}

impl BuildStore {
    /// The differences between an attempt at a job, which may have been replaced, and an earlier build; `None` if
    /// the record of one of them cannot be read.
    ///
    /// Lists of inputs that are stored beside a record are not read: they can be large. Of such builds the files
    /// in the records are compared.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn compare(
        &self,
        project: &ProjectName,
        earlier: JobId,
        later: Attempted,
    ) -> io::Result<Option<Comparison>> {
        let Some(before) = self.compared(project, earlier, None)? else {
            return Ok(None);
        };
        let Some(after) = self.compared(project, later.id, Some(later.number))? else {
            return Ok(None);
        };
        Ok(Some(compare(&before, &after)))
    }

    /// The record of the current build of a job, or of the attempt with this number.
    fn compared(
        &self,
        project: &ProjectName,
        id: JobId,
        number: Option<u32>,
    ) -> io::Result<Option<RecordFile>> {
        let is_meant = |found: &RecordFile| number.is_none_or(|number| found.view.number == number);
        for directory in [
            self.layout.pending(project, id),
            self.layout.ready(project, id),
        ] {
            let found = record::read(&directory)?.filter(is_meant);
            if found.is_some() {
                return Ok(found);
            }
        }
        match number {
            Some(number) => record::read(&self.layout.attempt(project, id, number)),
            None => Ok(None),
        }
    }
}

fn compare(before: &RecordFile, after: &RecordFile) -> Comparison {
    let (params, more_params) = params(before, after);
    let mut files = Vec::new();
    let (old, new) = (inputs(before), inputs(after));
    // What is listed beside a record comes after what is in it.
    let end = [&old, &new]
        .into_iter()
        .filter(|inputs| !inputs.is_whole)
        .map(|inputs| inputs.files.keys().next_back().cloned())
        .map(Option::unwrap_or_default)
        .min();
    let is_compared = |path: &String| end.as_ref().is_none_or(|end| path <= end);
    differences(&old.files, &new.files, is_compared, &mut files);
    if let (Some(old), Some(new)) = (&old.links, &new.links) {
        differences(old, new, |_| true, &mut files);
    }
    files.sort();
    let more_files = files.len().saturating_sub(MAX_NAMED);
    files.truncate(MAX_NAMED);
    let image = |record: &RecordFile| record.view.image.clone();
    Comparison {
        params,
        more_params,
        files,
        more_files,
        has_other_context: before.view.inputs.context != after.view.inputs.context,
        is_partial: end.is_some(),
        has_other_image: image(before).zip(image(after)).map(|(old, new)| old != new),
    }
}

/// The inputs in the record alone.
fn inputs(record: &RecordFile) -> Inputs {
    let internal = &record.internal;
    Inputs {
        files: internal.files.clone(),
        links: internal.links.clone(),
        is_whole: !internal.has_inputs,
    }
}

fn differences(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
    is_compared: impl Fn(&String) -> bool,
    found: &mut Vec<(String, Difference)>,
) {
    for (path, digest) in new.iter().filter(|(path, _)| is_compared(path)) {
        match old.get(path) {
            None => found.push((path.clone(), Difference::Added)),
            Some(before) if before != digest => found.push((path.clone(), Difference::Changed)),
            Some(_) => {}
        }
    }
    let removed = old.keys().filter(|path| !new.contains_key(*path));
    let removed = removed.filter(|path| is_compared(path));
    found.extend(removed.map(|path| (path.clone(), Difference::Removed)));
}

/// The params that differ, and the number of further ones. Of secrets only names are known.
fn params(before: &RecordFile, after: &RecordFile) -> (Vec<ParamDifference>, usize) {
    let (old, new) = (&before.view.params, &after.view.params);
    let mut found = Vec::new();
    let mut more = 0;
    let added = new.keys().filter(|name| !old.contains_key(*name));
    for name in old.keys().chain(added) {
        let is_secret = is_opaque_param(name);
        let difference = match (old.get(name), new.get(name)) {
            (None, _) => Difference::Added,
            (_, None) => Difference::Removed,
            (old, new) if is_secret || old == new => continue,
            _ => Difference::Changed,
        };
        if found.len() == MAX_NAMED {
            more += 1;
            continue;
        }
        let shown = |params: &BTreeMap<String, Option<std::sync::Arc<str>>>| {
            let value = params.get(name).filter(|_| !is_secret)?.as_deref()?;
            Some(cut(value))
        };
        found.push(ParamDifference {
            name: name.clone(),
            difference,
            before: shown(old),
            after: shown(new),
        });
    }
    (found, more)
}

fn cut(value: &str) -> String {
    match value.char_indices().nth(MAX_VALUE) {
        Some((at, _)) => format!("{}…", &value[..at]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::record::MAX_INPUT_FILES;

    fn record(params: &[(&str, &str)], files: &[(&str, &str)]) -> RecordFile {
        let mut record: RecordFile = RecordFile::default();
        for (name, value) in params {
            let value = Some((*value).into());
            record.view.params.insert((*name).to_owned(), value);
        }
        for (path, digest) in files {
            let (path, digest) = ((*path).to_owned(), (*digest).to_owned());
            record.internal.files.insert(path, digest);
        }
        record.internal.links = Some(BTreeMap::new());
        record.view.inputs.context = format!("{files:?}");
        record
    }

    #[test]
    fn params_files_and_images_that_differ_are_named() {
        let mut before = record(
            &[("rev", "1"), ("old", "x"), ("same", "s"), ("_token", "a")],
            &[("Dockerfile", "1"), ("gone", "2"), ("same", "3")],
        );
        let mut after = record(
            &[("rev", "2"), ("new", "y"), ("same", "s"), ("_token", "b")],
            &[("Dockerfile", "9"), ("made", "2"), ("same", "3")],
        );
        before.view.image = Some("sha256:1".to_owned());
        let found = compare(&before, &after);
        assert_eq!(found.has_other_image, None);
        after.view.image = Some("sha256:2".to_owned());
        let found = compare(&before, &after);
        assert_eq!(found.has_other_image, Some(true));
        let params: Vec<_> = found
            .params
            .iter()
            .map(|param| {
                (
                    &*param.name,
                    param.difference,
                    param.before.as_deref(),
                    param.after.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            params,
            [
                ("old", Difference::Removed, Some("x"), None),
                ("rev", Difference::Changed, Some("1"), Some("2")),
                ("new", Difference::Added, None, Some("y")),
            ]
        );
        let files: Vec<_> = found
            .files
            .iter()
            .map(|(path, how)| (&**path, *how))
            .collect();
        assert_eq!(
            files,
            [
                ("Dockerfile", Difference::Changed),
                ("gone", Difference::Removed),
                ("made", Difference::Added),
            ]
        );
        assert!(found.has_other_context && !found.is_partial);
    }

    #[test]
    fn lists_of_differences_are_bounded_and_the_rest_is_counted() {
        let names: Vec<String> = (0..MAX_INPUT_FILES).map(|n| format!("{n:05}")).collect();
        let all: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "long value")).collect();
        let mut before = record(&[], &all);
        let mut after = record(&all, &all[1..]);
        let found = compare(&before, &after);
        assert_eq!(found.params.len(), MAX_NAMED);
        assert_eq!(found.more_params, MAX_INPUT_FILES - MAX_NAMED);
        assert_eq!(found.files, [("00000".to_owned(), Difference::Removed)]);
        // The record of the earlier build has only the first files: later ones are not compared.
        before.internal.has_inputs = true;
        after
            .internal
            .files
            .insert("99999".to_owned(), "x".to_owned());
        let found = compare(&before, &after);
        assert!(found.is_partial);
        assert_eq!(found.files, [("00000".to_owned(), Difference::Removed)]);
        let found = compare(&record(&[], &[]), &record(&[], &all));
        assert_eq!(
            (found.files.len(), found.more_files),
            (MAX_NAMED, MAX_INPUT_FILES - MAX_NAMED)
        );
    }

    #[test]
    fn a_long_value_is_cut() {
        let found = compare(
            &record(&[("a", "1")], &[]),
            &record(&[("a", &"é".repeat(99))], &[]),
        );
        let after = found.params[0].after.as_deref().unwrap();
        assert_eq!(after.chars().count(), MAX_VALUE + 1);
    }
}
