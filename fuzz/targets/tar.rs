//! The tar of a server, unpacked by the client. Beside the target lies a directory, and in the target
//! are links to it: nothing may be written there, whatever the tar says.
#![no_main]

use std::path::Path;

use mistry::cli::fuzzing::unpack;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let home = mistry_fuzz::directory();
    let (outside, target) = (home.path().join("outside"), home.path().join("target"));
    for path in [&outside, &target] {
        std::fs::create_dir(path).expect("a directory");
    }
    std::fs::write(outside.join("file"), "kept").expect("a file");
    std::os::unix::fs::symlink("../outside", target.join("link")).expect("a link");
    std::os::unix::fs::symlink("../outside/file", target.join("a")).expect("a link");
    let before = seen(home.path());

    // A header of a tar has a checksum, which no fuzzer guesses.
    let _ = unpack(&with_checksums(data), &target);

    assert_eq!(
        seen(home.path()),
        before,
        "something outside of the target has changed"
    );
    open_all(&target);
});

/// What is in the directory of the trial and outside of the target.
fn seen(home: &Path) -> Vec<(String, u64, Vec<u8>)> {
    use std::os::unix::fs::MetadataExt;
    let mut all = Vec::new();
    for directory in [home.to_owned(), home.join("outside")] {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let entry = entry.expect("an entry");
            let metadata = entry.metadata().expect("metadata");
            let name = entry.file_name().to_string_lossy().into_owned();
            let content = match metadata.is_file() {
                true => std::fs::read(entry.path()).expect("a file"),
                false => Vec::new(),
            };
            // Second names count.
            let links = if metadata.is_file() {
                metadata.nlink()
            } else {
                0
            };
            all.push((format!("{name} {:o}", metadata.mode()), links, content));
        }
    }
    all.retain(|(name, _, _)| !name.starts_with("target "));
    all.sort();
    all
}

/// The data with the right checksum in each header, as far as its sizes lead.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 512;
    let mut data = data.to_vec();
    let mut at = 0;
    while at + BLOCK <= data.len() {
        let block = &mut data[at..at + BLOCK];
        if block.iter().all(|byte| *byte == 0) {
            break;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&block[124..136]).unwrap_or_default();
        let size = usize::from_str_radix(size.trim_matches(['\0', ' ']), 8).unwrap_or(0);
        at = at
            .saturating_add(BLOCK)
            .saturating_add(size.div_ceil(BLOCK).saturating_mul(BLOCK));
    }
    data
}

/// Opens what the tar has closed, so that it can be removed.
fn open_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o700);
    let _ = std::fs::set_permissions(directory, mode);
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_all(&entry.path());
        }
    }
}
