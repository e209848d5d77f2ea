//! Where a message of HTTP/1.1 ends: its head, its length or its chunks.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// A request or an answer: its head, and how its body ends.
pub struct Message {
    pub first: String,
    pub head: Vec<u8>,
    pub framing: Framing,
}

impl Message {
    /// Reads a head; what has come of the body stays in `read`. Of an answer, `is_head` says whether
    /// only its head was asked for. `None` where the other side has ended.
    pub async fn read(
        from: &mut UnixStream,
        read: &mut Vec<u8>,
        is_head: Option<bool>,
    ) -> io::Result<Option<Message>> {
        const END: &[u8] = b"\r\n\r\n";
        let end = loop {
            if let Some(at) = read.windows(END.len()).position(|at| at == END) {
                break at + END.len();
            }
            if from.read_buf(read).await? == 0 {
                return Ok(None);
            }
        };
        let head: Vec<u8> = read.drain(..end).collect();
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let field = |name: &str| {
            let lines = text.lines().skip(1).filter_map(|line| line.split_once(':'));
            let mut found = lines.filter(|(key, _)| *key == name);
            found.next().map(|(_, value)| value.trim().to_owned())
        };
        let status = text.split(' ').nth(1).unwrap_or_default();
        let has_no_body = match is_head {
            Some(is_head) => is_head || status.starts_with('1') || matches!(status, "204" | "304"),
            None => false,
        };
        let framing = if has_no_body {
            Framing::Bytes(0)
        } else if field("transfer-encoding").is_some_and(|how| how.contains("chunked")) {
            Framing::chunks()
        } else if let Some(length) = field("content-length") {
            Framing::Bytes(length.parse().map_err(io::Error::other)?)
        } else if is_head.is_some() {
            Framing::Close
        } else {
            Framing::Bytes(0)
        };
        let first = String::from_utf8_lossy(&head);
        Ok(Some(Message {
            first: first.lines().next().unwrap_or_default().to_owned(),
            framing,
            head,
        }))
    }
}

/// How the end of a body is known.
#[derive(Debug)]
pub enum Framing {
    /// By its length; so many bytes are to come.
    Bytes(usize),
    /// By a chunk of no length.
    Chunks {
        /// Of the chunk under way, with its line end.
        left: usize,
        is_last: bool,
        /// In what was taken last: where its last whole chunk ends.
        end: usize,
    },
    /// By the end of the connection.
    Close,
}

impl Framing {
    pub fn chunks() -> Framing {
        Framing::Chunks {
            left: 0,
            is_last: false,
            end: 0,
        }
    }

    /// How much of `bytes` belongs to the body, and whether it is over then. Chunk sizes that have not
    /// come whole are left.
    pub fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        match self {
            Framing::Close => (bytes.len(), false),
            Framing::Bytes(left) => {
                let taken = bytes.len().min(*left);
                *left -= taken;
                (taken, *left == 0)
            }
            Framing::Chunks { left, is_last, end } => {
                let mut at = 0;
                *end = 0;
                loop {
                    let taken = (bytes.len() - at).min(*left);
                    at += taken;
                    *left -= taken;
                    if *left > 0 {
                        return (at, false);
                    }
                    if *is_last {
                        return (at, true);
                    }
                    *end = at;
                    let rest = &bytes[at..];
                    let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else {
                        return (at, false);
                    };
                    let digits = String::from_utf8_lossy(&rest[..line]);
                    let size = usize::from_str_radix(digits.trim(), 16).expect("a chunk's size");
                    *is_last = size == 0;
                    // The size's line, the chunk and the end of its line; of the last, an empty one.
                    *left = line + 2 + size + 2;
                }
            }
        }
    }
}

#[test]
fn the_end_of_a_body_is_known_wherever_it_is_cut() {
    let text = b"3\r\nabc\r\nb\r\nhello\r\n you\r\n0\r\n\r\nNEXT";
    for cut in 0..text.len() {
        let mut framing = Framing::chunks();
        let (first, is_over) = framing.take(&text[..cut]);
        let (second, is_over) = match is_over {
            true => (0, true),
            false => framing.take(&text[first..]),
        };
        assert!(is_over, "{cut}");
        assert_eq!(&text[first + second..], b"NEXT", "{cut}");
    }
}
