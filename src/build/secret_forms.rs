//! The texts by which a secret can be recognised in the output of a program: the value itself, its lines, and
//! what common encodings make of it.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Shortest text that is masked, in bytes: shorter ones are words of ordinary output.
pub const MIN_SECRET: usize = 6;
/// Longest value that is masked, in bytes: certificates and the configuration of clusters are shorter.
const MAX_SECRET: usize = 64 << 10;
/// Most bytes of all values of a build that are masked. Each byte takes some dozens in memory.
const MAX_SECRETS: usize = 64 << 10;
/// Longest value whose encoded forms are masked, too, in bytes: all of them are many times as long.
const MAX_ENCODED: usize = 4 << 10;
/// Most bytes of all values of a build whose encoded forms are masked.
const MAX_ALL_ENCODED: usize = 8 << 10;
/// Last digits of Base64 that are compared where the secret is the end of the encoded text: the last one may
/// be made of less than six bits.
const BASE64_END: usize = 16;

/// A budget for the values of one build, in the order in which they are masked.
#[derive(Debug, Default)]
pub(super) struct SecretForms {
    texts: BTreeSet<Vec<u8>>,
    literal: usize,
    encoded: usize,
}

impl SecretForms {
    /// Adds a value. False if it is not masked: it is too short or too long, or there are too many.
    pub(super) fn add(&mut self, value: &str) -> bool {
        let value = trimmed(value);
        let bytes = value.len();
        if is_short(value) || bytes > MAX_SECRET || self.literal + bytes > MAX_SECRETS {
            return false;
        }
        self.literal += bytes;
        let is_encoded = bytes <= MAX_ENCODED && self.encoded + bytes <= MAX_ALL_ENCODED;
        let lines = value.split(['\n', '\r']);
        for text in std::iter::once(value).chain(lines) {
            self.insert(text.as_bytes());
            if is_encoded && text.len() >= MIN_SECRET {
                for form in url_forms(text).into_iter().chain(json_forms(text)) {
                    self.insert(form.as_bytes());
                }
            }
        }
        if is_encoded {
            self.encoded += bytes;
            self.insert_base64(value);
        }
        true
    }

    /// The texts, shortest first.
    pub(super) fn into_texts(self) -> Vec<Vec<u8>> {
        let mut texts: Vec<Vec<u8>> = self.texts.into_iter().collect();
        texts.sort_by_key(Vec::len);
        texts
    }

    fn insert(&mut self, text: &[u8]) {
        if text.len() >= MIN_SECRET {
            self.texts.insert(text.to_vec());
        }
    }

    /// Base64 of any text that contains the value: it begins at one of three positions within a group of
    /// three bytes. The digits that depend on the bytes before or behind it are left out, except where it is
    /// the end of the text, with or without a line feed.
    fn insert_base64(&mut self, value: &str) {
        for alphabet in [&STANDARD, &URL_SAFE] {
            for before in 0..3 {
                let first = (before * 8_usize).div_ceil(6);
                let text = [&vec![0; before], value.as_bytes()].concat();
                let digits = alphabet.encode(&text);
                self.insert(&digits.as_bytes()[first..text.len() * 8 / 6]);
                for end in ["", "\n"] {
                    let digits = alphabet.encode([&text, end.as_bytes()].concat());
                    let from = digits.len().saturating_sub(BASE64_END).max(first);
                    let digits = &digits[from..];
                    self.insert(digits.as_bytes());
                    self.insert(digits.trim_end_matches('=').as_bytes());
                }
            }
        }
    }
}

/// Whether a value is too short to be masked.
pub(super) fn is_short(value: &str) -> bool {
    trimmed(value).len() < MIN_SECRET
}

/// Whether a value has nothing to mask.
pub(super) fn is_empty(value: &str) -> bool {
    trimmed(value).is_empty()
}

/// Programs print a value that ends with a line feed without it, or end a line with it.
fn trimmed(value: &str) -> &str {
    value.trim_matches(['\n', '\r'])
}

/// Percent-encoding, as addresses, forms and JavaScript have it; with lower-case digits, and with `/` as it is.
fn url_forms(text: &str) -> [String; 5] {
    enum Digits {
        Upper,
        Lower,
    }
    fn encode(text: &str, also_kept: &str, space: &str, digits: &Digits) -> String {
        let mut encoded = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b' ' => encoded.push_str(space),
                _ if byte.is_ascii_alphanumeric() || also_kept.as_bytes().contains(&byte) => {
                    encoded.push(char::from(byte));
                }
                _ => encoded.push_str(&match digits {
                    Digits::Upper => format!("%{byte:02X}"),
                    Digits::Lower => format!("%{byte:02x}"),
                }),
            }
        }
        encoded
    }
    [
        encode(text, "-._~", "%20", &Digits::Upper),
        encode(text, "-._~", "%20", &Digits::Lower),
        encode(text, "-._~/", "%20", &Digits::Upper),
        encode(text, "-._~!'()*", "%20", &Digits::Upper),
        encode(text, "-._*", "+", &Digits::Upper),
    ]
}

/// The inside of a JSON text: as short as possible, in ASCII, safe in HTML, and with `/` escaped.
fn json_forms(text: &str) -> [String; 4] {
    let plain = serde_json::Value::from(text).to_string();
    let plain = plain[1..plain.len() - 1].to_owned();
    let escape = |letter: char| {
        let mut units = [0; 2];
        let units = letter.encode_utf16(&mut units).iter();
        units.map(|unit| format!("\\u{unit:04x}")).collect()
    };
    let escaped = |is_escaped: fn(char) -> bool| -> String {
        let letters = plain.chars();
        let letters = letters.map(|letter| match is_escaped(letter) {
            true => escape(letter),
            false => String::from(letter),
        });
        letters.collect()
    };
    [
        escaped(|letter| !letter.is_ascii()),
        escaped(|letter| "<>&\u{2028}\u{2029}".contains(letter)),
        plain.replace('/', "\\/"),
        plain,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(values: &[&str]) -> Vec<String> {
        let mut forms = SecretForms::default();
        for value in values {
            forms.add(value);
        }
        let texts = forms.into_texts().into_iter();
        texts.map(|text| String::from_utf8(text).unwrap()).collect()
    }

    #[test]
    fn a_secret_is_recognised_as_common_programs_print_it() {
        let has = |value: &str, forms: &[&str]| {
            let texts = texts(&[value]);
            for form in forms {
                assert!(
                    texts.iter().any(|text| text == form),
                    "{value}: {form}: {texts:?}"
                );
            }
        };
        has(
            "hunter2 & more",
            &[
                "hunter2 & more",
                "hunter2%20%26%20more",
                "hunter2+%26+more",
                r"hunter2 \u0026 more",
            ],
        );
        has(
            "pass/word=ü",
            &[
                "pass%2Fword%3D%C3%BC",
                "pass%2fword%3d%c3%bc",
                "pass/word%3D%C3%BC",
                r"pass\/word=ü",
                r"pass/word=\u00fc",
            ],
        );
        has("say \"x\"\n", &["say \"x\"", r#"say \"x\""#]);
        // A key in several lines: whole, each line, and in one line of JSON.
        has(
            "first line\nx\nlast line\n",
            &[
                "first line\nx\nlast line",
                "first line",
                "last line",
                r"first line\nx\nlast line",
            ],
        );
    }

    #[test]
    fn base64_is_recognised_wherever_the_secret_is_in_the_encoded_text() {
        for secret in [
            "hunter",
            "hunter2",
            "hunter22",
            "\u{ff}\u{fe}?>?>?>",
            &"x".repeat(57),
        ] {
            let texts = texts(&[secret]);
            for before in ["", "a", "bb", "ccc", "user:"] {
                for behind in ["", "\n", "a", "bb", "ccc"] {
                    for alphabet in [&STANDARD, &URL_SAFE] {
                        let text = format!("{before}{secret}{behind}");
                        let encoded = alphabet.encode(&text);
                        let mut left = encoded.clone();
                        let is_found = texts.iter().any(|text| encoded.contains(text.as_str()));
                        assert!(is_found, "{text}: {encoded}");
                        // Nothing of the end is left where it is the end.
                        for text in texts.iter().rev() {
                            if let Some(at) = encoded.find(text.as_str()) {
                                left.replace_range(at..at + text.len(), &" ".repeat(text.len()));
                            }
                        }
                        if behind.trim().is_empty() && left.len() > 8 {
                            assert!(left.ends_with(' '), "{text}: {encoded}: {left}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn short_texts_are_not_masked_and_the_number_of_bytes_is_bounded() {
        let mut forms = SecretForms::default();
        for unmasked in [
            "",
            "12345",
            "12345\n",
            "\n\n\n\n\n\n\n",
            &"x".repeat(MAX_SECRET + 1),
        ] {
            assert!(!forms.add(unmasked), "{}", unmasked.len());
        }
        assert!(forms.add("123456"));
        assert!(forms.add("a\nb\nc\nlonger\n"));
        assert!(forms.texts.iter().all(|text| text.len() >= MIN_SECRET));
        assert!(!forms.add(&"x".repeat(MAX_SECRET)));
        assert!(forms.add(&"x".repeat(MAX_SECRET - 100)));
        assert!(!forms.add(&"y".repeat(100)));
        // Values that every encoding makes as long as possible.
        let mut forms = SecretForms::default();
        for letter in ["\u{1}", "\u{2}", "\u{3}"] {
            assert!(forms.add(&letter.repeat(MAX_ENCODED)));
        }
        let bytes: usize = forms.texts.iter().map(Vec::len).sum();
        assert!(bytes < 400 << 10, "{bytes}");
    }
}
