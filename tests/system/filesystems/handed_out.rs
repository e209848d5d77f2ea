//! A handle to a tree that is given to another process, on real filesystems and between users.

use std::fs::{self, File, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use mistry::filesystem::hand_out;
use rustix::fs::{AtFlags, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

use super::volume::Volume;

/// A directory in there, handed out by a program that its user may run.
fn handed_out(volume: &Volume, directory: &Path) -> OwnedFd {
    let program = volume.path("mistryd");
    if !program.exists() {
        // Not by this process: a file that is open for writing cannot be executed.
        let mistryd = env!("CARGO_BIN_EXE_mistryd");
        let copied = Command::new("cp").arg(mistryd).arg(&program).status();
        assert!(copied.unwrap().success());
    }
    let opened = File::open(directory).unwrap();
    hand_out(&program, opened.as_fd(), directory).unwrap_or_else(|error| panic!("{error:#?}"))
}

fn content(handed: &OwnedFd, name: &str) -> Result<String, Errno> {
    let opened = openat(handed, name, OFlags::RDONLY, Mode::empty())?;
    Ok(std::io::read_to_string(File::from(opened)).unwrap())
}

#[test]
fn a_subvolume_is_removed_while_a_client_holds_a_directory_in_it() {
    let volume = Volume::btrfs();
    let tree = volume.tree("tree");
    fs::create_dir_all(tree.join("artifacts/deep")).unwrap();
    let file = tree.join("artifacts/file");
    fs::write(&file, "made").unwrap();
    File::open(file).unwrap().sync_all().unwrap();
    let handed = handed_out(&volume, &tree.join("artifacts"));
    let trash = volume.path("trash");
    fs::rename(&tree, &trash).unwrap();
    assert_eq!(content(&handed, "file").as_deref(), Ok("made"));
    volume.remove(&trash);
    // The kernel keeps what was on stable storage until no process holds any of it, or does not.
    let after = content(&handed, "file");
    let after = after.as_deref();
    assert!(
        matches!(after, Ok("made") | Err(&Errno::NOENT)),
        "{after:?}"
    );
    let up = statat(&handed, "..", AtFlags::empty()).unwrap();
    assert_eq!(up.st_ino, fstat(&handed).unwrap().st_ino);
}

#[test]
fn a_plain_user_hands_out_as_root_does() {
    let volume = Volume::ext4();
    let tree = volume.tree("tree");
    fs::create_dir(tree.join("artifacts")).unwrap();
    fs::write(tree.join("artifacts/file"), "made").unwrap();
    fs::write(tree.join("artifacts/closed"), "not for others").unwrap();
    fs::set_permissions(tree.join("artifacts/closed"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&tree, Permissions::from_mode(0o755)).unwrap();
    symlink("/etc/passwd", tree.join("artifacts/link")).unwrap();
    let handed = volume.as_a_plain_user(|| {
        let handed = handed_out(&volume, &tree.join("artifacts"));
        assert_eq!(content(&handed, "file").as_deref(), Ok("made"));
        // Its holder has the rights of its own user.
        assert_eq!(content(&handed, "closed"), Err(Errno::ACCESS));
        assert_eq!(content(&handed, "link"), Err(Errno::LOOP));
        handed
    });
    assert_eq!(content(&handed, "closed").as_deref(), Ok("not for others"));
    let created = openat(&handed, "new", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU);
    assert_eq!(created.unwrap_err(), Errno::ROFS);
}

/// The child that confines it has no such rights, in the namespace that it makes.
#[test]
fn what_a_container_closed_to_others_is_handed_out_by_a_daemon_that_may_open_it() {
    const SOMEBODY: u32 = 4711;
    let volume = Volume::ext4();
    let artifacts = volume.tree("tree").join("artifacts");
    fs::create_dir(&artifacts).unwrap();
    fs::write(artifacts.join("file"), "made").unwrap();
    for path in [&artifacts, &volume.path("tree")] {
        chown(path, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
    }
    let handed = handed_out(&volume, &artifacts);
    assert_eq!(content(&handed, "file").as_deref(), Ok("made"));
    // The directory itself stays closed to other users.
    volume.as_a_plain_user(|| assert_eq!(content(&handed, "file"), Err(Errno::ACCESS)));
}
