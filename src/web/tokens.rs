//! The tokens file: what each token allows over TCP.
//!
//! One line each: `NAME SCOPE[,SCOPE] sha256:HEX`. The file holds hashes, so reading it grants no access. It
//! is read again when it has changed, so a new token is valid at once.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use parking_lot::Mutex;

use crate::read_limiter::{self, ReadLimiter};

/// The scope of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// May read everything.
    Read,
    /// May submit jobs.
    Build,
    /// Unlimited.
    Admin,
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(name: &str) -> Result<Scope, ()> {
        match name {
            "read" => Ok(Scope::Read),
            "build" => Ok(Scope::Build),
            "admin" => Ok(Scope::Admin),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Read => "read",
            Scope::Build => "build",
            Scope::Admin => "admin",
        })
    }
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The name of its owner.
    pub name: String,
    /// Its scopes.
    pub scopes: Vec<Scope>,
    hash: [u8; 32],
}

impl Token {
    /// The line for a token with this `secret`.
    pub fn of(name: &str, scopes: Vec<Scope>, secret: &str) -> Token {
        Token {
            name: name.to_owned(),
            scopes,
            hash: Sha256::digest(secret).into(),
        }
    }

    /// The stored hash of the secret.
    pub(super) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    fn allows(&self, wanted: Scope) -> bool {
        self.scopes.iter().any(|scope| match scope {
            Scope::Admin => true,
            // A client that may build may also read.
            Scope::Build => wanted != Scope::Admin,
            Scope::Read => wanted == Scope::Read,
        })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.name)?;
        for (at, scope) in self.scopes.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{scope}")?;
        }
        write!(f, " sha256:{}", hex::encode(self.hash))
    }
}

impl FromStr for Token {
    type Err = &'static str;

    fn from_str(line: &str) -> Result<Token, &'static str> {
        const EXPECTED: &str =
            "expected 'NAME SCOPE[,SCOPE] sha256:HEX' with scopes read, build, admin";
        let mut words = line.split_whitespace();
        let (Some(name), Some(scopes), Some(hash), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(EXPECTED);
        };
        let scopes = scopes.split(',').map(str::parse).collect::<Result<_, _>>();
        let digits = hash.strip_prefix("sha256:").ok_or(EXPECTED)?;
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash).map_err(|_| EXPECTED)?;
        Ok(Token {
            name: name.to_owned(),
            scopes: scopes.map_err(|()| EXPECTED)?,
            hash,
        })
    }
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("could not read the tokens file '{}'", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// A line is invalid.
    #[error("the tokens file '{}' is wrong in line {line}: {expected}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// The expected syntax.
        expected: &'static str,
    },
}

type Stamp = (u64, u64, i64, i64);

/// The file, and its content when it was last read.
#[derive(Debug)]
pub struct TokensFile {
    path: PathBuf,
    /// Locked for a comparison of stamps.
    read: Mutex<(Stamp, Arc<[Token]>)>,
    /// Limits the checks of it for requests.
    pub(super) limiter: ReadLimiter,
}

impl TokensError {
    /// The file exists, but we may not read it.
    pub fn is_closed(&self) -> bool {
        matches!(self, TokensError::Read(_, error) if error.kind() == io::ErrorKind::PermissionDenied)
    }
}

impl TokensFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Names the file and the line.
    pub fn open(path: &Path) -> Result<TokensFile, TokensError> {
        Ok(TokensFile {
            path: path.to_owned(),
            read: Mutex::new(load(path)?),
            limiter: ReadLimiter::new(read_limiter::TOKENS),
        })
    }

    /// The current tokens of the file. Blocks.
    ///
    /// # Errors
    /// Names the file and the line. An invalid file admits no client.
    pub fn current(&self) -> Result<Arc<[Token]>, TokensError> {
        let stamp = stamp(&self.path)?;
        let mut read = self.read.lock();
        if read.0 != stamp {
            *read = load(&self.path)?;
        }
        Ok(read.1.clone())
    }
}

/// The token whose secret is `secret`. Hashes are compared, in constant time.
pub(super) fn find<'a>(tokens: &'a [Token], secret: &str) -> Option<&'a Token> {
    let hash: [u8; 32] = Sha256::digest(secret).into();
    tokens.iter().find(|token| token.hash.ct_eq(&hash).into())
}

pub(super) fn allows(token: &Token, wanted: Scope) -> bool {
    token.allows(wanted)
}

fn stamp(path: &Path) -> Result<Stamp, TokensError> {
    let found =
        std::fs::metadata(path).map_err(|error| TokensError::Read(path.to_owned(), error))?;
    Ok((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

fn load(path: &Path) -> Result<(Stamp, Arc<[Token]>), TokensError> {
    let stamp = stamp(path)?;
    let text =
        std::fs::read_to_string(path).map_err(|error| TokensError::Read(path.to_owned(), error))?;
    let tokens = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|(at, line)| {
            line.parse().map_err(|expected| TokensError::Line {
                path: path.to_owned(),
                line: at + 1,
                expected,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok((stamp, tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_by_its_hash_and_allows_its_scopes() {
        let tokens: Vec<Token> = [("ci", "build"), ("eye", "read"), ("root", "admin,read")]
            .map(|(name, scopes)| {
                let scopes = scopes.split(',').map(|s| s.parse().unwrap()).collect();
                Token::of(name, scopes, &format!("secret of {name}"))
            })
            .to_vec();
        let line = tokens[2].to_string();
        assert_eq!(line.parse::<Token>().unwrap(), tokens[2]);
        assert!(!line.contains("secret"));
        let may = |name: &str, scope| {
            find(&tokens, &format!("secret of {name}")).is_some_and(|token| allows(token, scope))
        };
        assert!(may("ci", Scope::Build) && may("ci", Scope::Read) && !may("ci", Scope::Admin));
        assert!(may("eye", Scope::Read) && !may("eye", Scope::Build));
        assert!(may("root", Scope::Admin) && may("root", Scope::Build));
        assert!(!may("unknown", Scope::Read));
    }

    #[test]
    fn a_wrong_line_is_named_and_a_new_token_works_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, "# comment\n\n").unwrap();
        let file = TokensFile::open(&path).unwrap();
        assert!(file.current().unwrap().is_empty());
        let token = Token::of("a", vec![Scope::Read], "s");
        std::fs::write(&path, format!("# comment\n{token}\n")).unwrap();
        assert_eq!(file.current().unwrap().len(), 1);
        for wrong in [
            "a",
            "a read",
            "a fly sha256:00",
            "a read md5:00",
            &format!("{token} x"),
        ] {
            std::fs::write(&path, format!("#\n{wrong}\n")).unwrap();
            let error = TokensFile::open(&path).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{wrong}: {error}");
        }
    }
}
