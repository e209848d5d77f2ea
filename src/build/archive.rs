//! A tar of artifacts, generated piece by piece, in the format of GNU tar.
//!
//! The format is GNU tar's own (`--format=gnu`): names and link targets of any bytes and any length, and
//! times before 1970. If the client requests it, a file with holes is a sparse entry of the old GNU format
//! (type `S`), which GNU tar, bsdtar and the tar modules of Python and Go read; else its holes are sent as
//! zeros. Several names of one file are sent as one file and hard links to it.
//!
//! It is generated while the client reads it: between two pieces it is a plain value that occupies no thread.
//! The bytes that it holds are counted for its client.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, SeekFrom, Stat, seek};
use tar::{EntryType, GnuExtSparseHeader, Header};

use super::artifacts::{Artifacts, Contents};
use crate::budget::Held;
use crate::filesystem::InodeId;
use crate::pipe::{CHUNK, More, Source, read_at};

const TAR_BLOCK_BYTES: usize = 512;
/// The longest name that fits in the header.
const HEADER_NAME_BYTES: usize = 100;

/// Most entries examined in one step, which may produce no output.
const ENTRIES_PER_STEP: usize = 1_024;

/// Bytes of the paths that are kept until the other names of their files are found: some ten thousand of
/// usual length. In larger trees, further names are sent as separate files.
const MAX_LINKED_PATH_BYTES: usize = 4 << 20;
/// Memory of a kept path besides its bytes.
const LINKED_PATH_OVERHEAD_BYTES: usize = 112;

/// Most data pieces listed for a sparse file, so that the list stays below half a megabyte; holes behind them
/// are sent as zeros.
const MAX_SPARSE_PIECES: usize = 16 << 10;
/// … where less is to be held for the client.
const MAX_SPARSE_PIECES_SMALL: usize = 256;

/// A tar that is being read.
pub struct Tar {
    entries: Contents,
    sparse: bool,
    held: Held,
    /// Files with more names than were found so far, by device and inode.
    linked: HashMap<InodeId, Linked>,
    linked_bytes: usize,
    writing: Writing,
    file: Option<Sending>,
    is_over: bool,
}

impl std::fmt::Debug for Tar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Tar");
        shown
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

struct Linked {
    path: Box<[u8]>,
    /// Names that were not found yet; some may be outside of the tree.
    left: u64,
}

/// A data piece of a file, between holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    offset: u64,
    length: u64,
}

/// A file whose content is being sent.
struct Sending {
    file: File,
    /// The pieces still to be sent, the next one last.
    pieces: Vec<Piece>,
    /// Bytes that fill its last block.
    padding: usize,
}

/// Generated blocks that were not sent yet: headers, which may be longer than a chunk.
#[derive(Default)]
struct Writing {
    bytes: Vec<u8>,
    taken: usize,
}

impl Source for Tar {
    fn fill(&mut self, to: &mut Vec<u8>) -> io::Result<More> {
        let mut entries_left = ENTRIES_PER_STEP;
        while to.len() < CHUNK {
            if self.writing.take(to, CHUNK) {
                continue;
            }
            if let Some(sending) = &mut self.file {
                if !sending.read(to)? {
                    self.writing.zeros(sending.padding);
                    self.file = None;
                }
                continue;
            }
            if self.is_over {
                return Ok(More::No);
            }
            if entries_left == 0 {
                break;
            }
            entries_left -= 1;
            self.next()?;
        }
        Ok(More::Yes)
    }
}

impl Artifacts {
    /// All artifacts as a tar, names relative to the artifacts directory. With `sparse`, files with holes are
    /// sparse entries, which not every tar reader understands. `held` counts [`Tar::BYTES`], and `walk` is
    /// for [`Artifacts::contents`].
    pub fn tar(self, sparse: bool, walk: Held, held: Held) -> Tar {
        Tar::new(self.contents(walk), sparse, held)
    }
}

impl Tar {
    /// Bytes held for a client besides [`Contents::BYTES`]; tables of hard links and of holes are added to
    /// that.
    pub const BYTES: u64 = 16 << 10;

    /// A tar of `entries`. With `sparse`, files with holes are sparse entries. `held` counts the memory
    /// besides these, [`Tar::BYTES`], and grows with the tables that the tree requires.
    fn new(entries: Contents, sparse: bool, held: Held) -> Tar {
        Tar {
            entries,
            sparse,
            held,
            linked: HashMap::new(),
            linked_bytes: 0,
            writing: Writing::default(),
            file: None,
            is_over: false,
        }
    }

    /// Appends the next entry of the tree, or the end mark; FIFOs, sockets and devices are left out.
    fn next(&mut self) -> io::Result<()> {
        let Some(found) = self.entries.next_found()? else {
            self.writing.zeros(2 * TAR_BLOCK_BYTES);
            self.is_over = true;
            return Ok(());
        };
        let (kind, stat) = (found.kind(), found.stat);
        if !matches!(
            kind,
            FileType::Directory | FileType::Symlink | FileType::RegularFile
        ) {
            return Ok(());
        }
        let path = found.path().into_os_string();
        let path = path.as_bytes();
        if kind == FileType::Directory {
            let header = header(EntryType::Directory, &stat);
            self.writing.entry(header, path, None);
            return Ok(());
        }
        if stat.st_nlink > 1 {
            let id = InodeId::of(&stat);
            if let Some(first) = self.linked.get_mut(&id) {
                let header = header(EntryType::Link, &stat);
                self.writing.entry(header, path, Some(&first.path));
                first.left -= 1;
                if first.left == 0 {
                    self.linked_bytes -= first.path.len() + LINKED_PATH_OVERHEAD_BYTES;
                    self.linked.remove(&id);
                }
                return Ok(());
            }
            let cost = path.len() + LINKED_PATH_OVERHEAD_BYTES;
            let linked_bytes = self.linked_bytes + cost;
            if linked_bytes <= MAX_LINKED_PATH_BYTES && may_hold(&mut self.held, linked_bytes) {
                self.linked_bytes = linked_bytes;
                let (path, left) = (path.into(), stat.st_nlink - 1);
                self.linked.insert(id, Linked { path, left });
            }
        }
        if kind == FileType::Symlink {
            let mut header = header(EntryType::Symlink, &stat);
            header.set_mode(0o777);
            let target = found.target()?;
            self.writing.entry(header, path, Some(target.as_bytes()));
            return Ok(());
        }
        let file = found.open()?;
        let pieces = match self.sparse {
            true => pieces(&file, &stat, &mut self.held, self.linked_bytes)?,
            false => None,
        };
        self.file = Some(self.writing.file(path, &stat, file, pieces));
        Ok(())
    }
}

/// Whether tables of `bytes` may be held.
fn may_hold(held: &mut Held, bytes: usize) -> bool {
    let more = (Tar::BYTES + bytes as u64).saturating_sub(held.amount());
    more == 0 || held.grow(more)
}

impl Sending {
    /// Reads until a chunk is full; false when nothing is left.
    fn read(&mut self, to: &mut Vec<u8>) -> io::Result<bool> {
        let Some(piece) = self.pieces.last_mut() else {
            return Ok(false);
        };
        let most = CHUNK.saturating_sub(to.len());
        let most = usize::try_from(piece.length).unwrap_or(most).min(most);
        if most > 0 {
            let read = read_at(&self.file, piece.offset, most, to)?;
            if read == 0 {
                return Err(io::Error::other(
                    "an artifact became shorter while it was read",
                ));
            }
            piece.offset += read as u64;
            piece.length -= read as u64;
        }
        if piece.length == 0 {
            self.pieces.pop();
        }
        Ok(true)
    }
}

impl Writing {
    /// Moves available bytes to `to`, which is filled up to `most` bytes; false when there are none.
    fn take(&mut self, to: &mut Vec<u8>, most: usize) -> bool {
        let left = &self.bytes[self.taken..];
        if left.is_empty() {
            return false;
        }
        let count = left.len().min(most.saturating_sub(to.len()));
        to.extend_from_slice(&left[..count]);
        self.taken += count;
        if self.taken == self.bytes.len() {
            self.taken = 0;
            self.bytes.clear();
            // A path can be as long as the tree is deep.
            self.bytes.shrink_to(CHUNK);
        }
        true
    }

    /// Appends a file's header and returns its content.
    fn file(
        &mut self,
        path: &[u8],
        stat: &Stat,
        file: File,
        pieces: Option<Vec<Piece>>,
    ) -> Sending {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let Some(mut pieces) = pieces else {
            let mut header = header(EntryType::Regular, stat);
            header.set_size(size);
            self.entry(header, path, None);
            let whole = Piece {
                offset: 0,
                length: size,
            };
            return Sending {
                file,
                pieces: vec![whole],
                padding: padding(size),
            };
        };
        let sent = pieces.iter().map(|piece| piece.length).sum();
        let mut header = header(EntryType::GNUSparse, stat);
        header.set_size(sent);
        let mut rest = pieces.as_slice();
        if let Some(gnu) = header.as_gnu_mut() {
            gnu.set_real_size(size);
            for slot in &mut gnu.sparse {
                rest = fill(slot, rest);
            }
            gnu.set_is_extended(!rest.is_empty());
        }
        self.entry(header, path, None);
        while !rest.is_empty() {
            let mut more = GnuExtSparseHeader::new();
            for slot in more.sparse_mut() {
                rest = fill(slot, rest);
            }
            more.set_is_extended(!rest.is_empty());
            self.bytes.extend_from_slice(more.as_bytes());
        }
        pieces.reverse();
        Sending {
            file,
            pieces,
            padding: padding(sent),
        }
    }

    /// Appends the headers of an entry.
    fn entry(&mut self, mut header: Header, path: &[u8], target: Option<&[u8]>) {
        if let Some(target) = target {
            let field = &mut header.as_old_mut().linkname;
            self.put(EntryType::GNULongLink, target, field);
        }
        self.put(EntryType::GNULongName, path, &mut header.as_old_mut().name);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
    }

    /// Writes a name into its header field; a name that is too long is written before the header, and its
    /// beginning into the field.
    fn put(&mut self, kind: EntryType, name: &[u8], field: &mut [u8; HEADER_NAME_BYTES]) {
        for (to, from) in field.iter_mut().zip(name) {
            *to = *from;
        }
        if name.len() < HEADER_NAME_BYTES {
            return;
        }
        let mut header = Header::new_gnu();
        let mark = b"././@LongLink";
        for (to, from) in header.as_old_mut().name.iter_mut().zip(mark) {
            *to = *from;
        }
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        // With its terminating zero.
        let size = name.len() as u64 + 1;
        header.set_size(size);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name);
        self.zeros(1 + padding(size));
    }

    fn zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }
}

/// The padding of the last block after `size` bytes.
fn padding(size: u64) -> usize {
    let odd = usize::try_from(size % TAR_BLOCK_BYTES as u64).unwrap_or(0);
    (TAR_BLOCK_BYTES - odd) % TAR_BLOCK_BYTES
}

/// Owner 0 and no setuid, setgid or sticky bit: neither has a meaning for the receiver.
fn header(kind: EntryType, stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(stat.st_mode & 0o777);
    match u64::try_from(stat.st_mtime) {
        Ok(time) => header.set_mtime(time),
        Err(_) => {
            // A negative number is binary, in two's complement, over the whole field.
            let field = &mut header.as_old_mut().mtime;
            field.fill(0xff);
            if let Some(end) = field.last_chunk_mut() {
                *end = stat.st_mtime.to_be_bytes();
            }
        }
    }
    header
}

/// Writes the first piece into a slot of a sparse map; returns the others.
fn fill<'a>(slot: &mut tar::GnuSparseHeader, pieces: &'a [Piece]) -> &'a [Piece] {
    let Some((first, rest)) = pieces.split_first() else {
        return pieces;
    };
    slot.set_offset(first.offset);
    slot.set_length(first.length);
    rest
}

/// The pieces of a file with holes, with an empty one at its end as GNU tar writes it; `None` for a file
/// without holes, and if the filesystem cannot tell. The list is counted while it is built and sent, in
/// addition to `linked` bytes.
fn pieces(
    file: &File,
    stat: &Stat,
    held: &mut Held,
    linked: usize,
) -> io::Result<Option<Vec<Piece>>> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    // These blocks are 512 bytes, whatever the filesystem's block size is.
    if u64::try_from(stat.st_blocks).unwrap_or(0) * 512 >= size {
        return Ok(None);
    }
    // The list, and the blocks in which it is written.
    let most = match may_hold(held, linked + MAX_SPARSE_PIECES * 3 * size_of::<Piece>()) {
        true => MAX_SPARSE_PIECES,
        false => MAX_SPARSE_PIECES_SMALL,
    };
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            // Only a hole follows.
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let end = match pieces.len() < most {
            true => seek(file, SeekFrom::Hole(start))?.min(size),
            false => size,
        };
        if end <= start {
            break;
        }
        pieces.push(Piece {
            offset: start,
            length: end - start,
        });
        at = end;
    }
    let is_whole = matches!(pieces.as_slice(), [Piece { offset: 0, length }] if *length == size);
    if is_whole {
        return Ok(None);
    }
    pieces.push(Piece {
        offset: size,
        length: 0,
    });
    Ok(Some(pieces))
}
