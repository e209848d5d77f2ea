//! Unpacks a tar stream into a target, in bounded memory.
//!
//! The stream is not trusted: names, sizes, kinds and long headers are checked here; [`Target`] ensures
//! that no name leads outside. `tar::Archive` is not used, because it accepts a stream that ends between
//! two entries, and holds long names of any length.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header, PaxExtensions};

use super::Error;
use super::metadata::Modified;
use super::target::Target;

const BLOCK: usize = 512;
/// Longest name, link target or extended header. The kernel accepts paths of 4,096 bytes at once, but trees
/// may be deeper if each directory is entered separately: this is 2,000 names of 255 bytes.
const MAX_EXTRA: u64 = 512 << 10;
/// Most pieces of one sparse file: 16 MiB of memory.
const MAX_PIECES: usize = 1 << 20;
/// Most bytes after the end mark: tar pads its output to full records.
const MAX_TRAILER: u64 = 1 << 20;
/// Bytes copied at once.
const COPY_BUFFER_SIZE: usize = 128 << 10;

/// The values of the extension headers before an entry.
#[derive(Default)]
struct Extra {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    modified: Option<Modified>,
    /// A size that the entry's own header must repeat, since only that is used.
    size: Option<u64>,
}

/// Unpacks until the end mark.
///
/// # Errors
/// [`Error::Torn`] when the stream ends before its end mark, [`Error::Hostile`], or an error of the target.
/// Entries before the error stay; the file that was being written does not.
pub(super) fn unpack(mut from: impl Read, target: &mut Target) -> Result<(), Error> {
    let mut extra = Extra::default();
    let mut buffer = vec![0; COPY_BUFFER_SIZE];
    loop {
        let mut block = [0; BLOCK];
        from.read_exact(&mut block).map_err(Error::Torn)?;
        if block.iter().all(|b| *b == 0) {
            break;
        }
        let header = Header::from_byte_slice(&block);
        let size = check(header, &block)?;
        match header.entry_type() {
            EntryType::GNULongName => extra.name = Some(text(&mut from, size)?),
            EntryType::GNULongLink => extra.link = Some(text(&mut from, size)?),
            EntryType::XHeader => extended(&extra_bytes(&mut from, size)?, &mut extra)?,
            // Its content does not matter; its size is bounded nevertheless.
            EntryType::XGlobalHeader => drop(extra_bytes(&mut from, size)?),
            _ => {
                let extra = std::mem::take(&mut extra);
                entry(&mut from, header, size, extra, target, &mut buffer)?;
            }
        }
    }
    target.finish()?;
    // Read to the end, so that a stream that breaks in its last piece is noticed, too.
    let rest = io::copy(&mut from.take(MAX_TRAILER), &mut io::sink()).map_err(Error::Torn)?;
    if rest == MAX_TRAILER {
        return Err(Error::Hostile(String::new(), "data after the end"));
    }
    Ok(())
}

/// Checks a header and returns the size of what follows it.
fn check(header: &Header, block: &[u8; BLOCK]) -> Result<u64, Error> {
    let name = || String::from_utf8_lossy(&header.path_bytes()).into_owned();
    let wrong = |why| Error::Hostile(name(), why);
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| match at {
            148..156 => u32::from(b' '),
            _ => u32::from(*byte),
        })
        .sum();
    if header.cksum().ok() != Some(sum) {
        return Err(wrong("its header is damaged"));
    }
    header
        .entry_size()
        .map_err(|_| wrong("its size is no number"))
}

fn entry(
    from: &mut impl Read,
    header: &Header,
    size: u64,
    extra: Extra,
    target: &mut Target,
    buffer: &mut [u8],
) -> Result<(), Error> {
    let name = extra
        .name
        .unwrap_or_else(|| header.path_bytes().into_owned());
    let shown = String::from_utf8_lossy(&name).into_owned();
    let hostile = |why| Error::Hostile(shown.clone(), why);
    let path = path_in_target(&name).map_err(hostile)?;
    if extra.size.is_some_and(|said| said != size) {
        return Err(hostile("it has two sizes"));
    }
    let kind = header.entry_type();
    if path.as_os_str().is_empty() {
        // "./" is the target itself, whose mode is the user's.
        return if kind == EntryType::Directory && size == 0 {
            Ok(())
        } else {
            Err(hostile("it has no name"))
        };
    }
    let mode = header
        .mode()
        .map_err(|_| hostile("its mode is no number"))?;
    let at = extra.modified.unwrap_or_else(|| modified(header));
    let link = || {
        let link = extra.link.clone();
        link.or_else(|| header.link_name_bytes().map(|l| l.into_owned()))
            .filter(|to| !to.is_empty() && !to.contains(&0))
            .ok_or_else(|| hostile("it is a link to nothing"))
    };
    match kind {
        EntryType::Regular | EntryType::Continuous if !name.ends_with(b"/") => {
            let pieces = [(0, size)];
            file(from, &pieces, size, path, (mode, at), target, buffer)
        }
        EntryType::GNUSparse if !name.ends_with(b"/") => {
            let (pieces, length) = sparse(from, header, size, &hostile)?;
            file(from, &pieces, length, path, (mode, at), target, buffer)
        }
        _ if size != 0 => Err(hostile("only files have content")),
        EntryType::Directory | EntryType::Regular => target.make_directory(&path, mode, at),
        EntryType::Symlink => target.make_symlink(&path, OsStr::from_bytes(&link()?), at),
        EntryType::Link => {
            let to = path_in_target(&link()?).map_err(hostile)?;
            target.make_hard_link(&path, &to)
        }
        EntryType::Char | EntryType::Block => Err(hostile("it is a device")),
        EntryType::Fifo => Err(hostile("it is a pipe")),
        _ => Err(hostile("it is of an unknown kind")),
    }
}

/// Writes a file of `length` bytes, of which `pieces` (offset, length) are in the stream; the rest is holes.
fn file(
    from: &mut impl Read,
    pieces: &[(u64, u64)],
    length: u64,
    path: PathBuf,
    (mode, at): (u32, Modified),
    target: &mut Target,
    buffer: &mut [u8],
) -> Result<(), Error> {
    let mut draft = target.begin_file(&path)?;
    let mut read = 0;
    for (start, size) in pieces {
        draft.skip_to(*start);
        let mut left = *size;
        while left > 0 {
            let want = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = match from.read(&mut buffer[..want]) {
                Ok(0) => return Err(Error::Torn(io::ErrorKind::UnexpectedEof.into())),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::Torn(error)),
            };
            draft
                .write(&buffer[..got])
                .map_err(|error| Error::Write(path.display().to_string(), error))?;
            left -= got as u64;
        }
        read += size;
    }
    draft.skip_to(length);
    skip_padding(from, read)?;
    target.finish_file(&path, draft, mode, at)
}

/// The pieces of a sparse file, and its length: GNU's own format, whose map begins in the header and
/// continues in blocks before the data.
fn sparse(
    from: &mut impl Read,
    header: &Header,
    size: u64,
    hostile: &impl Fn(&'static str) -> Error,
) -> Result<(Vec<(u64, u64)>, u64), Error> {
    let damaged = || hostile("its map of holes is damaged");
    let header = header.as_gnu().ok_or_else(damaged)?;
    let length = header.real_size().map_err(|_| damaged())?;
    let mut pieces = Vec::new();
    add_pieces(&header.sparse, &mut pieces).ok_or_else(damaged)?;
    let mut goes_on = header.is_extended();
    while goes_on {
        if pieces.len() > MAX_PIECES {
            return Err(hostile("it has too many holes"));
        }
        let mut more = GnuExtSparseHeader::new();
        from.read_exact(more.as_mut_bytes()).map_err(Error::Torn)?;
        add_pieces(more.sparse(), &mut pieces).ok_or_else(damaged)?;
        goes_on = more.is_extended();
    }
    let (mut end, mut sum) = (0, 0);
    for (start, count) in &pieces {
        let next = start.checked_add(*count).ok_or_else(damaged)?;
        if *start < end || next > length {
            return Err(damaged());
        }
        end = next;
        sum += count;
    }
    if sum != size {
        return Err(damaged());
    }
    Ok((pieces, length))
}

/// The used entries of a map; `None` if one is no pair of numbers.
fn add_pieces(map: &[GnuSparseHeader], pieces: &mut Vec<(u64, u64)>) -> Option<()> {
    for entry in map.iter().filter(|entry| !entry.is_empty()) {
        pieces.push((entry.offset().ok()?, entry.length().ok()?));
    }
    Some(())
}

/// The content of an extension header for the next entry.
fn extra_bytes(from: &mut impl Read, size: u64) -> Result<Vec<u8>, Error> {
    if size > MAX_EXTRA {
        return Err(Error::Hostile(String::new(), "its name is too long"));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    from.read_exact(&mut bytes).map_err(Error::Torn)?;
    skip_padding(from, size)?;
    Ok(bytes)
}

/// The same as text that ends at a NUL.
fn text(from: &mut impl Read, size: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = extra_bytes(from, size)?;
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    Ok(bytes)
}

fn extended(bytes: &[u8], extra: &mut Extra) -> Result<(), Error> {
    let wrong = || Error::Hostile(String::new(), "its extended header is damaged");
    for field in PaxExtensions::new(bytes) {
        let field = field.map_err(|_| wrong())?;
        let value = field.value_bytes();
        match field.key_bytes() {
            b"path" => extra.name = Some(value.to_owned()),
            b"linkpath" => extra.link = Some(value.to_owned()),
            b"mtime" => extra.modified = Some(parse_time(value).ok_or_else(wrong)?),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|t| t.parse().ok());
                extra.size = Some(size.ok_or_else(wrong)?);
            }
            // Its data would begin with a map that is not read here.
            b"GNU.sparse.major" | b"GNU.sparse.map" | b"GNU.sparse.offset" => {
                let what = "it is sparse in a format that is not known";
                return Err(Error::Hostile(String::new(), what));
            }
            _ => {}
        }
    }
    Ok(())
}

/// `1700000000.25`; `-1.25` is that much before 1970.
fn parse_time(text: &[u8]) -> Option<Modified> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let (whole, nanos): (i64, u32) = (seconds.parse().ok()?, digits.parse().ok()?);
    // The fraction is counted away from zero in the text, and forward in a file's time.
    Some(if seconds.starts_with('-') && nanos > 0 {
        Modified {
            seconds: whole.checked_sub(1)?,
            nanos: 1_000_000_000 - nanos,
        }
    } else {
        Modified {
            seconds: whole,
            nanos,
        }
    })
}

/// The time in an entry's own header, in whole seconds: octal, or a binary number that may be negative.
fn modified(header: &Header) -> Modified {
    let seconds = match &header.as_old().mtime {
        [0xff, _, _, _, low @ ..] => i64::from_be_bytes(*low),
        _ => i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(i64::MAX),
    };
    Modified { seconds, nanos: 0 }
}

fn skip_padding(from: &mut impl Read, size: u64) -> Result<(), Error> {
    let odd = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if odd > 0 {
        let mut padding = [0; BLOCK];
        from.read_exact(&mut padding[odd..]).map_err(Error::Torn)?;
    }
    Ok(())
}

/// The path of an entry in the target; "" is the target itself.
///
/// # Errors
/// Says why the name is not allowed.
fn path_in_target(name: &[u8]) -> Result<PathBuf, &'static str> {
    if name.starts_with(b"/") {
        return Err("its name is absolute");
    }
    if name.contains(&0) {
        return Err("its name holds a NUL");
    }
    let mut path = PathBuf::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its name leads out of the target"),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}
