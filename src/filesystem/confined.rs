//! A directory that is handed to clients: a descriptor that leads to it, to what is in it, and nowhere
//! else.
//!
//! A plain descriptor of a directory is a way to everywhere: `..` leads to its parent, links that a
//! container planted lead wherever they say, and what its user may write can be written. This one is
//! the root of a mount of its own, which stands in no process's tree:
//!
//! - `..` of its root is the root; no link in there is followed, whatever it says (`nosymfollow`);
//! - nothing can be written, created, removed or given other modes (read-only, for root too);
//! - set-uid bits, device nodes and programs in there are worth nothing (`nosuid,nodev,noexec`);
//! - it can be neither remounted, cloned nor mounted anywhere, since no namespace holds it any more.
//!
//! What it does not do: permissions count as ever, for each process that holds it. A directory that was opened
//! may be listed; each name in there is looked up and opened with the rights of the process that does
//! it, for which it takes search permission on the directory and read permission on the file. The
//! directories above are not asked. Nothing keeps the tree, either: it may be removed under the
//! descriptor, which then leads to a directory without names (on Btrfs, where a subvolume goes as a
//! whole, perhaps to what was there), and the space is free when the last descriptor is closed. Until
//! then the filesystem stays busy, wherever it is unmounted. Superusers have their own ways to
//! everything.
//!
//! Mounts take a namespace where one has the right to make them, and namespaces take a process with
//! one thread. So [`hand_out`] starts a child that does it, from the program that is told: `mistryd`
//! with the verb [`VERB`], which is [`confine`]. The directory is handed down as the child's working
//! directory, opened by the parent under its own rules; there is no path that could be changed
//! meanwhile, and it needs no rights, which in its user namespace the child would not have. What comes
//! back is checked before it is handed on. Where the kernel refuses, there is an error and no plainer
//! descriptor instead.

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

/// The program that runs, also when its file was replaced meanwhile.
pub const OURSELVES: &str = "/proc/self/exe";
/// The one argument with which `mistryd` calls [`confine`], and which it does not document.
pub const VERB: &str = "confine";

/// A program that starts and some mounts take milliseconds. A client of D-Bus waits 25 s for its
/// answer, and is to get one.
const CONFINE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the mount is.
const MOUNT_FLAGS: MountFlags = MountFlags::RDONLY
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC)
    .union(MountFlags::NOSYMFOLLOW);
/// The same as statfs(2) tells them; the last is `ST_NOSYMFOLLOW`, which Linux has from 5.10 on.
const REPORTED_FLAGS: StatVfsMountFlags = StatVfsMountFlags::RDONLY
    .union(StatVfsMountFlags::NOSUID)
    .union(StatVfsMountFlags::NODEV)
    .union(StatVfsMountFlags::NOEXEC)
    .union(StatVfsMountFlags::from_bits_retain(0x2000));

/// What the child does, in order; its number is how it tells where it failed.
const STEPS: [&str; 6] = [
    "make namespaces for",
    "make mounts private for",
    "clone the mount of",
    "mount in its own namespace",
    "make read-only and without links",
    "detach the mount of",
];
/// In the place of such a number: it is done.
const MESSAGE_DONE: u8 = u8::MAX;
/// A number, and the number of an error.
const FAILURE_MESSAGE_BYTES: usize = 1 + size_of::<i32>();

/// A descriptor, open for reading, that leads to `directory` and to nothing else; see the head of the
/// file. `program` is `mistryd`, [`OURSELVES`] for the daemon; `path` is for messages.
///
/// # Errors
/// [`Error::Confine`] where this host does not let us, [`Error::HandOut`] for anything else.
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
    // Before it executes its program, the child has our descriptors. The command is dropped at once,
    // and with it our copy of the child's end: so that its death is the end of the stream.
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
    let told = receive(&ours).map_err(fault("be told of"))?;
    let mount = match told {
        Reply::Mount(mount) => mount,
        Reply::Refused(step, errno) => return Err(refused(path, step, errno)),
    };
    // Opened by us and not by the child: what a container closed to others is open to our capabilities,
    // which the child left behind. When `mount` is closed, its namespace is gone and this stays.
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
    // An older kernel passes over a flag that it does not know.
    let told = fstatvfs(&opened).map_err(|errno| fault("look at")(errno.into()))?;
    if !told.f_flag.contains(REPORTED_FLAGS) {
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

/// Whether `opened` is `directory`, and its `..` too.
fn is_same(opened: BorrowedFd<'_>, directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    let expected = InodeId::of(&fstat(directory)?);
    let found = [fstat(opened)?, statat(opened, c"..", AtFlags::empty())?];
    Ok(found.iter().all(|found| InodeId::of(found) == expected))
}

/// A child that is gone when this is dropped. It has nothing to do after its one message.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It may have ended by itself. Nothing outlives SIGKILL but a call that hangs in the kernel,
        // and that would hang each process that touches this disk.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the child says.
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
        (0, _, _) => Err(io::Error::other("the child ended without a word")),
        (_, [MESSAGE_DONE, ..], Some(mount)) => Ok(Reply::Mount(mount)),
        (FAILURE_MESSAGE_BYTES, [step, errno @ ..], None) => {
            let step = STEPS.get(usize::from(step));
            let unknown = || io::Error::other("the child said what we do not understand");
            let step = *step.ok_or_else(unknown)?;
            let errno = Errno::from_raw_os_error(i32::from_ne_bytes(errno));
            Ok(Reply::Refused(step, errno))
        }
        _ => Err(io::Error::other("the child said what we do not understand")),
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

/// All that the child does: makes a confined mount of the directory that it was started in, and sends
/// it over the socket that is its standard input. To be called before there are threads.
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

/// The working directory as a mount that is nowhere; else the step that failed, and why.
fn detach() -> Result<OwnedFd, (u8, Errno)> {
    let at = |step| move |errno| (step, errno);
    unshare().map_err(at(0))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private).map_err(at(1))?;
    // Without `AT_RECURSIVE`: what is mounted in there does not come along. An empty path looks
    // nothing up, so it takes no permission; the kernel has moved the working directory to our copy
    // of its mount.
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(CWD, c"", clone).map_err(at(2))?;
    // Flags are changed where it is mounted, by mount(2): a call for those that are not, which is
    // mount_setattr(2), rustix does not have.
    let onto_itself =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&mount, c"", CWD, c"", onto_itself).map_err(at(3))?;
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    mount_remount(path, MOUNT_FLAGS | MountFlags::BIND, c"").map_err(at(4))?;
    // What is mounted here goes with our namespace. Its clone keeps the flags and belongs to no namespace.
    open_tree(&mount, c"", clone).map_err(at(5))
}

/// Namespaces of our own for users and mounts; where a superuser may not have the first, which
/// others would need to be allowed the second, the second alone.
#[expect(
    deprecated,
    reason = "what makes it unsafe in rustix are separate tables of files, which are not asked for"
)]
fn unshare() -> Result<(), Errno> {
    let (users, mounts) = (UnshareFlags::NEWUSER, UnshareFlags::NEWNS);
    rustix::thread::unshare(users | mounts)
        .or_else(|first| rustix::thread::unshare(mounts).map_err(|_| first))
}
