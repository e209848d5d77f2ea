//! Names: of projects, params, groups, jobs, pins, links, places, servers, files.
#![no_main]

use mistry::build::Place;
use mistry::build::fuzzing::{build_named, linked_id, project_named};
use mistry::client::{Address, parse_job_url};
use mistry::job::{GroupName, JobId, ParamName};
use mistry::project::ProjectName;
use mistry::web::fuzzing::{disposition, visible};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let is_file_name = |name: &str| {
        !name.is_empty()
            && name.len() <= 255
            && name != "."
            && name != ".."
            && !name.contains(['/', '\0'])
    };
    let check = |sentence: String| {
        assert!(sentence.len() < 2_000, "{} bytes", sentence.len());
        assert!(!sentence.contains(char::is_control), "{sentence:?}");
    };
    match text.parse::<ProjectName>() {
        Ok(name) => {
            assert!(name.as_str() == text && is_file_name(&text) && !text.starts_with('.'));
            check_tag(&mistry::docker::tag_for(&text));
        }
        Err(error) => check(error.to_string()),
    }
    match text.parse::<ParamName>() {
        Ok(name) => assert!(name.as_str() == text && is_file_name(&text)),
        Err(error) => check(error.to_string()),
    }
    match text.parse::<GroupName>() {
        Ok(name) => {
            let file = name.file_name();
            assert!(is_file_name(&file) && !file.starts_with('.'), "{file}");
            if !file.starts_with("%~") {
                let decoded = file
                    .replace("%2F", "/")
                    .replace("%2E", ".")
                    .replace("%25", "%");
                assert_eq!(decoded, text, "no two groups have one file");
            }
        }
        Err(error) => check(error.to_string()),
    }
    match text.parse::<JobId>() {
        Ok(id) => assert_eq!(id.to_string(), text),
        Err(error) => check(error.to_string()),
    }
    if let Some(place) = Place::parse(&text) {
        assert_eq!(Place::parse(&place.to_string()), Some(place));
    }
    let [pin, link] = build_named(&text);
    if let Some((project, id)) = pin {
        assert_eq!(format!("{project}-{id}"), text);
    }
    if let Some((project, id)) = link {
        assert_eq!(format!("link-{project}-{id}"), text);
    }
    if let Some(project) = project_named(&text) {
        assert_eq!(format!("{project}.json"), text);
    }
    if let Some(id) = linked_id(std::path::Path::new(&*text)) {
        assert!(text.contains(&id.to_string()));
    }
    if let Some((project, id)) = parse_job_url(&text) {
        assert!(text.contains(&format!("job/{project}/{id}")));
    }
    match text.parse::<Address>() {
        Ok(address) => {
            let again = address.to_string().parse::<Address>();
            // A zone is left out, since it is no business of the server.
            if !text.contains('%') {
                assert_eq!(again.as_ref(), Ok(&address), "{text}");
            }
            assert!(
                !address.host().starts_with('-'),
                "it would be an option of a transport"
            );
        }
        Err(error) => check(error.to_string()),
    }

    let header = disposition(data);
    assert!(
        header.is_ascii() && header.matches('"').count() == 2,
        "{header}"
    );
    assert!(!header.contains(char::is_control), "{header:?}");
    let shown = visible(&text);
    assert!(!shown.contains(char::is_control), "{shown:?}");
    assert_eq!(visible(&shown), shown);
});

/// Docker's grammar of references, without a registry.
fn check_tag(tag: &str) {
    let (name, version) = tag.split_once(':').unwrap_or((tag, "latest"));
    let separators: Vec<&str> = name
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .filter(|separator| !separator.is_empty())
        .collect();
    let is_separator = |separator: &&str| {
        matches!(*separator, "." | "_" | "__") || separator.chars().all(|c| c == '-')
    };
    assert!(separators.iter().all(is_separator), "{tag}");
    let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    assert!(
        name.starts_with(is_end) && name.ends_with(is_end) && name.len() <= 255,
        "{tag}"
    );
    assert!(
        version.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{tag}"
    );
}
