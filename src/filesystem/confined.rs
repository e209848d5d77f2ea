//! Confined directories for clients: a descriptor that gives access to a directory and its contents, and to
//! nothing else.
//!
//! A plain directory descriptor gives access to everything: `..` leads to its parent, links that a container
//! planted lead anywhere, and files that its user may write can be written. This descriptor is the root of a
//! separate mount, which is in no process's tree:
//!
//! - `..` of its root is the root; no link below it is followed, whatever its target (`nosymfollow`);
//! - nothing can be written, created or removed, and no mode changed (read-only, for root too);
//! - set-uid bits, device nodes and programs in it have no effect (`nosuid,nodev,noexec`);
//! - it can be neither remounted, cloned nor mounted anywhere, since no namespace contains it any more.
//!
//! Limits: permissions are still checked, for each process that holds the descriptor. An opened directory may
//! be listed; each name in it is looked up and opened with the rights of the calling process, which needs
//! search permission on the directory and read permission on the file. The directories above are not checked.
//! The tree is not kept, either: it may be removed under the descriptor, which then refers to a directory
//! without names (on Btrfs, where a subvolume is removed as a whole, perhaps to the old contents), and the
//! space is free when the last descriptor is closed. Until then the filesystem stays busy, wherever it is
//! unmounted. Superusers can access everything anyway.
//!
//! Mounting requires a namespace in which that is permitted, and namespaces require a single-threaded
//! process. So [`hand_out`] starts a child that does it, from the given program: `mistryd` with the verb
//! [`VERB`], which calls [`confine`]. The directory is passed as the child's working directory, opened by the
//! parent under its own rules; there is no path that could be changed meanwhile, and it needs no rights,
//! which the child would not have in its user namespace. The returned descriptor is checked before it is
//! passed on. If the kernel refuses, the result is an error and never a less confined descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatVfsMountFlags, fstat, fstatvfs, openat, statat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, mount_remount,
    move_mount, open_tree,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::thread::UnshareFlags;

use super::error::{Error, Fault};
use super::inode::InodeId;

/// The running program, even if its file was replaced meanwhile.
pub const OURSELVES: &str = "/proc/self/exe";
/// The one argument with which `mistryd` calls [`confine`]; it is undocumented.
pub const VERB: &str = "confine";

/// Starting a program and some mounts take milliseconds. A D-Bus client waits 25 s for its answer, and must
/// get one.
const CONFINE_TIMEOUT: Duration = Duration::from_secs(10);

/// The flags of the mount.
const MOUNT_FLAGS: MountFlags = MountFlags::RDONLY
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC)
    .union(MountFlags::NOSYMFOLLOW);
/// The same flags in statfs(2); the last is `ST_NOSYMFOLLOW`, which Linux has from 5.10 on.
const REPORTED_FLAGS: StatVfsMountFlags = StatVfsMountFlags::RDONLY
    .union(StatVfsMountFlags::NOSUID)
    .union(StatVfsMountFlags::NODEV)
    .union(StatVfsMountFlags::NOEXEC)
    .union(StatVfsMountFlags::from_bits_retain(0x2000));

/// The child's steps, in order; their numbers identify the step that failed.
const STEPS: [&str; 6] = [
    "make namespaces for",
    "make mounts private for",
    "clone the mount of",
    "mount in its own namespace",
    "make read-only and without links",
    "detach the mount of",
];
/// Sent in place of a step number: success.
const MESSAGE_DONE: u8 = u8::MAX;
/// A step number, and the number of an error.
const FAILURE_MESSAGE_BYTES: usize = 1 + size_of::<i32>();

/// A descriptor, open for reading, that gives access to `directory` and nothing else; see the module
/// documentation. `program` is `mistryd`, [`OURSELVES`] for the daemon; `path` is for messages.
///
/// # Errors
/// [`Error::Confine`] if this host forbids it, [`Error::HandOut`] for anything else.
pub fn hand_out(program: &Path, directory: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Error> {
    let fault = |context| {
        move |source: io::Error| Error::HandOut {
            path: path.to_owned(),
            source: Fault::new(context, path, source),
        }
    };
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|errno| fault("make a socket for")(errno.into()))?;
    // Before it executes its program, the child has the parent's descriptors. The command is dropped at once,
    // and with it the parent's copy of the child's end: so the stream ends when the child dies.
    let _child = Command::new(program)
        .arg0("mistryd")
        .arg(VERB)
        .env_clear()
        .current_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(Reaped)
        .map_err(fault("start the program that confines"))?;
    let reply = receive(&ours).map_err(fault("be told of"))?;
    let mount = match reply {
        Reply::Mount(mount) => mount,
        Reply::Refused(step, errno) => return Err(refused(path, step, errno)),
    };
    // Opened by the parent and not by the child: files that a container made inaccessible are readable with
    // capabilities, which the child has dropped. When `mount` is closed, its namespace is gone and this
    // stays.
    let open = || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(&mount, c".", flags, Mode::empty())?;
        Ok::<_, Errno>((is_same(opened.as_fd(), directory)?, opened))
    };
    let (is_same, opened) = open().map_err(|errno| fault("open")(errno.into()))?;
    if !is_same {
        let other = io::Error::other("another directory came back");
        return Err(fault("recognise")(other));
    }
    drop(mount);
    // An older kernel ignores unknown flags.
    let filesystem = fstatvfs(&opened).map_err(|errno| fault("look at")(errno.into()))?;
    if !filesystem.f_flag.contains(REPORTED_FLAGS) {
        return Err(refused(path, "give all its flags to", Errno::OPNOTSUPP));
    }
    Ok(opened)
}

fn refused(path: &Path, step: &'static str, errno: Errno) -> Error {
    Error::Confine {
        path: path.to_owned(),
        source: Fault::new(step, path, errno),
    }
}

/// Whether both `opened` and its `..` are `directory`.
fn is_same(opened: BorrowedFd<'_>, directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    let expected = InodeId::of(&fstat(directory)?);
    let found = [fstat(opened)?, statat(opened, c"..", AtFlags::empty())?];
    Ok(found.iter().all(|found| InodeId::of(found) == expected))
}

/// A child that is killed and reaped on drop. It has nothing to do after its one message.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It may have exited by itself. Only a call that hangs in the kernel survives SIGKILL, and that would
        // hang each process that uses this disk.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The child's message.
enum Reply {
    Mount(OwnedFd),
    Refused(&'static str, Errno),
}

fn receive(socket: &OwnedFd) -> io::Result<Reply> {
    await_readable(socket)?;
    let mut message = [0; FAILURE_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut message)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut parts, &mut control, flags)?;
    let mount = control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match (received.bytes, message, mount) {
        (0, _, _) => Err(io::Error::other(
            "the child process ended without an answer",
        )),
        (_, [MESSAGE_DONE, ..], Some(mount)) => Ok(Reply::Mount(mount)),
        (FAILURE_MESSAGE_BYTES, [step, errno @ ..], None) => {
            let step = STEPS.get(usize::from(step));
            let unknown = || io::Error::other("the child process sent an unknown answer");
            let step = *step.ok_or_else(unknown)?;
            let errno = Errno::from_raw_os_error(i32::from_ne_bytes(errno));
            Ok(Reply::Refused(step, errno))
        }
        _ => Err(io::Error::other("the child process sent an unknown answer")),
    }
}

fn await_readable(socket: &OwnedFd) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        let Some(left) = CONFINE_TIMEOUT.checked_sub(begun.elapsed()) else {
            return Err(io::ErrorKind::TimedOut.into());
        };
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut sockets = [PollFd::new(socket, PollFlags::IN)];
        match poll(&mut sockets, Some(&left)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The child's main function: creates a confined mount of its working directory, and sends it over the socket
/// that is its standard input. Must be called before threads start.
pub fn confine() -> ExitCode {
    let sent = match detach() {
        Ok(mount) => send(&[MESSAGE_DONE], Some(mount.as_fd())),
        Err((step, errno)) => {
            let [a, b, c, d] = errno.raw_os_error().to_ne_bytes();
            send(&[step, a, b, c, d], None)
        }
    };
    match sent {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => {
            eprintln!("mistryd: {VERB} is what mistryd does for itself");
            ExitCode::FAILURE
        }
    }
}

fn send(message: &[u8], mount: Option<BorrowedFd<'_>>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = mount.into_iter().collect();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS);
    }
    let parts = [IoSlice::new(message)];
    sendmsg(io::stdin(), &parts, &mut control, SendFlags::NOSIGNAL)
}

/// The working directory as a detached mount; else the step that failed, and why.
fn detach() -> Result<OwnedFd, (u8, Errno)> {
    let at = |step| move |errno| (step, errno);
    unshare().map_err(at(0))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private).map_err(at(1))?;
    // Without `AT_RECURSIVE`: nested mounts are not cloned. An empty path looks nothing up, so it requires no
    // permission; the kernel has moved the working directory to this process's copy of its mount.
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(CWD, c"", clone).map_err(at(2))?;
    // Flags are changed on the mounted copy, by mount(2): rustix lacks mount_setattr(2), the call for
    // detached mounts.
    let onto_itself =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&mount, c"", CWD, c"", onto_itself).map_err(at(3))?;
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    mount_remount(path, MOUNT_FLAGS | MountFlags::BIND, c"").map_err(at(4))?;
    // This mount disappears with the process's namespace. Its clone keeps the flags and belongs to no
    // namespace.
    open_tree(&mount, c"", clone).map_err(at(5))
}

/// Creates user and mount namespaces; if a superuser may not create the first, which other users need for the
/// second, only the second.
#[expect(
    deprecated,
    reason = "what makes it unsafe in rustix are separate tables of files, which are not asked for"
)]
fn unshare() -> Result<(), Errno> {
    let (users, mounts) = (UnshareFlags::NEWUSER, UnshareFlags::NEWNS);
    rustix::thread::unshare(users | mounts)
        .or_else(|first| rustix::thread::unshare(mounts).map_err(|_| first))
}
