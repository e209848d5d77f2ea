//! A tar of artifacts, entry by entry, as GNU tar writes it.
//!
//! The format is GNU tar's own (`--format=gnu`): names and link targets of any bytes and any length, and
//! times before 1970. Where the reader asks for it, a file with holes is a sparse entry of the old GNU
//! format (type `S`), which GNU tar, bsdtar and the tar modules of Python and Go read; else its holes
//! are sent as zeros. Several names of one file are one file and hard links to it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FileType, SeekFrom, Stat, seek};
use tar::{EntryType, GnuExtSparseHeader, Header};

use crate::filesystem::Found;

const BLOCK: usize = 512;
/// Bytes that are read from a file at once.
const CHUNK: usize = 128 << 10;
/// How long a name the header itself takes.
const SHORT: usize = 100;

/// Bytes of the paths that are kept until the other names of their files are met: a few hundred
/// thousand of ordinary ones. Where a tree has more, names beyond are sent as files of their own.
const LINKED_PATHS: usize = 32 << 20;
/// What a path that is kept takes besides its bytes.
const LINKED_COST: usize = 64;

/// Pieces of data in a sparse file that are told apart, so that the list stays below a megabyte; in
/// what comes after them holes are sent as zeros.
const PIECES: usize = 32 << 10;

/// A tar that is being written.
pub(super) struct Archive<W> {
    to: W,
    sparse: bool,
    /// Files that have more names than were met, by device and inode.
    linked: HashMap<(u64, u64), Linked>,
    linked_bytes: usize,
    buffer: Vec<u8>,
}

struct Linked {
    path: Box<[u8]>,
    /// Names that were not met yet; some may be outside of the tree.
    left: u64,
}

/// A piece of a file that is no hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    offset: u64,
    length: u64,
}

impl<W: Write> Archive<W> {
    /// Begins a tar. With `sparse`, files with holes are sparse entries.
    pub(super) fn new(to: W, sparse: bool) -> Archive<W> {
        Archive {
            to,
            sparse,
            linked: HashMap::new(),
            linked_bytes: 0,
            buffer: Vec::new(),
        }
    }

    /// Appends an entry of the tree; FIFOs, sockets and devices are left out.
    ///
    /// # Errors
    /// When a file cannot be read or became shorter meanwhile; the tar is torn then.
    pub(super) fn append(&mut self, found: &Found<'_>) -> io::Result<()> {
        match found.kind() {
            FileType::Directory => {
                let header = header(EntryType::Directory, &found.stat);
                self.entry(header, found.path, None)
            }
            FileType::Symlink => {
                if self.is_linked(found)? {
                    return Ok(());
                }
                let mut header = header(EntryType::Symlink, &found.stat);
                header.set_mode(0o777);
                self.entry(header, found.path, Some(found.target()?.as_bytes()))
            }
            FileType::RegularFile => {
                if self.is_linked(found)? {
                    return Ok(());
                }
                self.file(found)
            }
            _ => Ok(()),
        }
    }

    /// Writes the end mark.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.to.write_all(&[0; 2 * BLOCK])?;
        self.to.flush()
    }

    /// Appends a hard link if the file was sent under another name before.
    fn is_linked(&mut self, found: &Found<'_>) -> io::Result<bool> {
        let stat = &found.stat;
        if stat.st_nlink <= 1 {
            return Ok(false);
        }
        let id = (stat.st_dev, stat.st_ino);
        let path = found.path.as_os_str().as_bytes();
        let Some(mut first) = self.linked.remove(&id) else {
            let cost = path.len() + LINKED_COST;
            if self.linked_bytes + cost <= LINKED_PATHS {
                self.linked_bytes += cost;
                let (path, left) = (path.into(), stat.st_nlink - 1);
                self.linked.insert(id, Linked { path, left });
            }
            return Ok(false);
        };
        self.entry(header(EntryType::Link, stat), found.path, Some(&first.path))?;
        first.left -= 1;
        if first.left > 0 {
            self.linked.insert(id, first);
        } else {
            self.linked_bytes -= first.path.len() + LINKED_COST;
        }
        Ok(true)
    }

    fn file(&mut self, found: &Found<'_>) -> io::Result<()> {
        let file = found.open()?;
        let size = u64::try_from(found.stat.st_size).unwrap_or(0);
        let pieces = match self.sparse {
            true => pieces(&file, &found.stat)?,
            false => None,
        };
        let Some(pieces) = pieces else {
            let mut header = header(EntryType::Regular, &found.stat);
            header.set_size(size);
            self.entry(header, found.path, None)?;
            let whole = Piece {
                offset: 0,
                length: size,
            };
            self.data(&file, whole)?;
            return self.pad(size);
        };
        let sent = pieces.iter().map(|piece| piece.length).sum();
        let mut header = header(EntryType::GNUSparse, &found.stat);
        header.set_size(sent);
        let mut rest = pieces.as_slice();
        if let Some(gnu) = header.as_gnu_mut() {
            gnu.set_real_size(size);
            for slot in &mut gnu.sparse {
                rest = fill(slot, rest);
            }
            gnu.set_is_extended(!rest.is_empty());
        }
        self.entry(header, found.path, None)?;
        while !rest.is_empty() {
            let mut more = GnuExtSparseHeader::new();
            for slot in more.sparse_mut() {
                rest = fill(slot, rest);
            }
            more.set_is_extended(!rest.is_empty());
            self.to.write_all(more.as_bytes())?;
        }
        for piece in &pieces {
            self.data(&file, *piece)?;
        }
        self.pad(sent)
    }

    /// Writes what comes before the content of an entry.
    fn entry(&mut self, mut header: Header, path: &Path, target: Option<&[u8]>) -> io::Result<()> {
        if let Some(target) = target {
            self.put(
                EntryType::GNULongLink,
                target,
                &mut header.as_old_mut().linkname,
            )?;
        }
        let name = path.as_os_str().as_bytes();
        self.put(EntryType::GNULongName, name, &mut header.as_old_mut().name)?;
        header.set_cksum();
        self.to.write_all(header.as_bytes())
    }

    /// Puts a name into its field of the header; one that is too long goes before the header, and its
    /// beginning into the field.
    fn put(&mut self, kind: EntryType, name: &[u8], field: &mut [u8; SHORT]) -> io::Result<()> {
        for (to, from) in field.iter_mut().zip(name) {
            *to = *from;
        }
        if name.len() < SHORT {
            return Ok(());
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
        // With the zero that ends it.
        let size = name.len() as u64 + 1;
        header.set_size(size);
        header.set_cksum();
        self.to.write_all(header.as_bytes())?;
        self.to.write_all(name)?;
        self.to.write_all(&[0])?;
        self.pad(size)
    }

    fn data(&mut self, file: &File, piece: Piece) -> io::Result<()> {
        self.buffer.resize(CHUNK, 0);
        let (mut at, mut left) = (piece.offset, piece.length);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let read = match file.read_at(&mut self.buffer[..most], at) {
                Ok(0) => {
                    return Err(io::Error::other(
                        "an artifact became shorter while it was read",
                    ));
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.to.write_all(&self.buffer[..read])?;
            at += read as u64;
            left -= read as u64;
        }
        Ok(())
    }

    /// Fills the last block after content of so many bytes.
    fn pad(&mut self, size: u64) -> io::Result<()> {
        let odd = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        match odd {
            0 => Ok(()),
            odd => self.to.write_all(&[0; BLOCK][odd..]),
        }
    }
}

/// Owner 0 and no setuid, setgid or sticky bit: neither means anything at the other end.
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
            // A number below zero is binary, in two's complement, over the whole field.
            let field = &mut header.as_old_mut().mtime;
            field.fill(0xff);
            if let Some(end) = field.last_chunk_mut() {
                *end = stat.st_mtime.to_be_bytes();
            }
        }
    }
    header
}

/// Writes the first piece into a slot of a sparse map; gives the others.
fn fill<'a>(slot: &mut tar::GnuSparseHeader, pieces: &'a [Piece]) -> &'a [Piece] {
    let Some((first, rest)) = pieces.split_first() else {
        return pieces;
    };
    slot.set_offset(first.offset);
    slot.set_length(first.length);
    rest
}

/// The pieces of a file with holes, with an empty one at its end as GNU tar writes it; `None` for a
/// file without holes, and where the filesystem does not tell.
fn pieces(file: &File, stat: &Stat) -> io::Result<Option<Vec<Piece>>> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    // Blocks are of 512 bytes here, whatever the filesystem's are.
    if u64::try_from(stat.st_blocks).unwrap_or(0) * 512 >= size {
        return Ok(None);
    }
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            // Nothing but a hole from here on.
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let end = match pieces.len() < PIECES {
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
