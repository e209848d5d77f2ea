//! How a browser treats an artifact. Only its name decides: the file of a container is not inspected.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::format;

/// A kind of file, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    /// Plain text.
    Text,
    /// Text that a browser would treat as a page: shown as text, never sent with its own type.
    Markup,
    /// A picture, and its type. SVG is not included: it is a page, too.
    Image(&'static str),
    /// Anything else.
    Unknown,
}

const TEXTS: &str = "\
    ada asc awk bash bat bib c cc cfg changes clj cmake conf cpp cs css csv cxx d dart diff \
    dockerfile dot dsc el env erl ex exs fish go gradle groovy h hh hpp hs ini java js json \
    jsonl jsx kt less list lock log lua m4 make map markdown md mjs mk ml ndjson nim nix out \
    patch php pl pm po properties proto ps1 py r rb rs rst sass scala scss sfv sh sha1 sha256 \
    sha512 sql srt sum swift tap tcl tex text tf toml ts tsv tsx txt vim vue yaml yml zig zsh";
const MARKUP: &str = "htm html mhtml shtml svg xht xhtml xml xsl";
const IMAGES: &[(&str, &str)] = &[
    ("avif", "image/avif"),
    ("gif", "image/gif"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("png", "image/png"),
    ("webp", "image/webp"),
];
/// Well-known names without an extension.
const NAMES: &str = "\
    authors changelog changes contributing copying copyright dockerfile install licence license \
    makefile manifest md5sums news notice readme release sha256sums sha512sums stderr stdout \
    todo version";

/// Reads a file's name.
pub(super) fn of(name: &[u8]) -> Media {
    let Ok(name) = std::str::from_utf8(name) else {
        return Media::Unknown;
    };
    let name = name.to_ascii_lowercase();
    let Some((_, extension)) = name.rsplit_once('.') else {
        return if is_among(NAMES, &name) {
            Media::Text
        } else {
            Media::Unknown
        };
    };
    let image = IMAGES.iter().find(|(known, _)| *known == extension);
    match image {
        Some((_, media)) => Media::Image(media),
        None if is_among(MARKUP, extension) => Media::Markup,
        None if is_among(TEXTS, extension) => Media::Text,
        None => Media::Unknown,
    }
}

fn is_among(words: &str, word: &str) -> bool {
    words.split(' ').any(|known| known == word)
}

impl Media {
    /// The type with which it may be shown inline; `None` if it may not.
    pub(super) fn inline(self) -> Option<&'static str> {
        match self {
            Media::Text => Some("text/plain; charset=utf-8"),
            Media::Image(media) => Some(media),
            Media::Markup | Media::Unknown => None,
        }
    }
}

/// The characters that RFC 8187 allows in `filename*`.
const IN_PARAMETER: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'~');

/// A `Content-Disposition` (RFC 6266) that suggests `name`. Characters that would hide the true end of a name
/// are escaped; old clients get it in ASCII.
pub(super) fn disposition(kind: &str, name: &[u8]) -> String {
    let name = format::visible(&String::from_utf8_lossy(name));
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-+~ ".contains(letter);
    if name.chars().all(is_plain) {
        return format!("{kind}; filename=\"{name}\"");
    }
    let plain: String = name
        .chars()
        .map(|letter| if is_plain(letter) { letter } else { '_' })
        .collect();
    let exact = utf8_percent_encode(&name, IN_PARAMETER);
    format!("{kind}; filename=\"{plain}\"; filename*=UTF-8''{exact}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_media_types_are_shown_inline() {
        for (name, media) in [
            ("a.txt", Media::Text),
            ("A.LOG", Media::Text),
            ("README", Media::Text),
            ("readme.exe", Media::Unknown),
            ("app.js", Media::Text),
            ("x.png", Media::Image("image/png")),
            ("x.txt.JPG", Media::Image("image/jpeg")),
            ("x.svg", Media::Markup),
            ("x.png.svg", Media::Markup),
            ("index.html", Media::Markup),
            ("x.pdf", Media::Unknown),
            ("x.swf", Media::Unknown),
            ("x.txt ", Media::Unknown),
            ("x.txt.", Media::Unknown),
            ("x", Media::Unknown),
            (".", Media::Unknown),
            ("", Media::Unknown),
            (".png", Media::Image("image/png")),
        ] {
            assert_eq!(of(name.as_bytes()), media, "{name}");
        }
        assert_eq!(of(b"\xff.txt"), Media::Unknown);
        for words in [TEXTS, NAMES] {
            assert!(words.split(' ').all(|word| !is_among(MARKUP, word)));
        }
        for words in [TEXTS, MARKUP, NAMES] {
            assert!(words.split(' ').all(|word| !word.is_empty()));
            assert!(IMAGES.iter().all(|(image, _)| !is_among(words, image)));
        }
        assert_eq!(Media::Markup.inline(), None);
        assert_eq!(Media::Unknown.inline(), None);
    }

    #[test]
    fn a_name_cannot_break_the_header_or_hide_its_extension() {
        for (name, value) in [
            (&b"a b.txt"[..], "attachment; filename=\"a b.txt\""),
            (
                b"d\xc3\xa9p\xc3\xb4t",
                "attachment; filename=\"d_p_t\"; filename*=UTF-8''d%C3%A9p%C3%B4t",
            ),
            (
                b"x\"; y=\"\r\nZ: 1",
                "attachment; filename=\"x__ y___U+000D__Z_ 1\"; filename*=UTF-8''x%22%3B%20y%3D%22%3CU%2B000D%3E%E2%8F%8EZ%3A%201",
            ),
            (
                b"a\xff",
                "attachment; filename=\"a_\"; filename*=UTF-8''a%EF%BF%BD",
            ),
            (
                "gpj\u{202e}.exe".as_bytes(),
                "attachment; filename=\"gpj_U+202E_.exe\"; filename*=UTF-8''gpj%3CU%2B202E%3E.exe",
            ),
        ] {
            let given = disposition("attachment", name);
            assert!(given.parse::<hyper::header::HeaderValue>().is_ok());
            assert_eq!(given, value);
            assert!(
                given.is_ascii() && given.matches('"').count() == 2,
                "{given}"
            );
        }
    }
}
