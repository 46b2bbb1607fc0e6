//! The secret that commands over HTTP need: made, kept in a file, compared.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use subtle::ConstantTimeEq;

/// Bytes of a token that is made here: as many as nobody guesses.
const BYTES: usize = 16;

/// Characters of a token that somebody else made: 80 bits or more, even of decimal digits.
const SHORTEST: usize = 24;

/// A file is not read further than this.
const LONGEST: u64 = 1024;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be made or read.
    #[error("cannot {what} {path}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others know the token, or chose it.
    #[error("{path} is not this user's alone: chmod 600 it, or name another file",
            path = .0.display())]
    Shared(PathBuf),
    /// The file holds something else.
    #[error("{path} holds no token ({SHORTEST} or more letters and digits): remove it, and a new \
             one is made", path = .0.display())]
    NoToken(PathBuf),
    /// There is no randomness.
    #[error("cannot make a token")]
    Random(#[source] io::Error),
}

/// A secret. Who has it may command.
#[derive(Clone)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// A new one that cannot be guessed.
    ///
    /// # Errors
    /// [`TokenError::Random`].
    pub fn new() -> Result<Self, TokenError> {
        let mut bytes = [0_u8; BYTES];
        let mut random = File::open("/dev/urandom").map_err(TokenError::Random)?;
        random.read_exact(&mut bytes).map_err(TokenError::Random)?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The one in a file. A file that is not there is made, for its owner alone.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(crate) fn of_file(path: &Path) -> Result<Self, TokenError> {
        let failed = |what| move |source| TokenError::File { what, path: path.to_owned(), source };
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match made {
            Ok(mut file) => {
                let token = Self::new()?;
                writeln!(file, "{}", token.0).map_err(failed("write"))?;
                Ok(token)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Without waiting for a writer, should it be a pipe.
                let flags = OFlags::NONBLOCK.bits().cast_signed();
                let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
                let file = file.map_err(failed("read"))?;
                if !is_own(&file.metadata().map_err(failed("read"))?) {
                    return Err(TokenError::Shared(path.to_owned()));
                }
                let mut text = String::new();
                file.take(LONGEST).read_to_string(&mut text).map_err(failed("read"))?;
                let text = text.trim();
                if text.len() < SHORTEST || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                    return Err(TokenError::NoToken(path.to_owned()));
                }
                Ok(Self(text.to_owned()))
            }
            Err(error) => Err(failed("make")(error)),
        }
    }

    /// The secret itself, for who may know it.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Whether this is it. How long that takes says nothing about what is right in it.
    pub(crate) fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

/// Whether a file is this user's, and nobody else's to read.
fn is_own(file: &Metadata) -> bool {
    let owner = rustix::process::geteuid().as_raw();
    file.is_file() && file.uid() == owner && file.permissions().mode() & 0o077 == 0
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn two_tokens_are_not_the_same_and_none_is_shown() {
        let (one, other) = (Token::new().expect("random"), Token::new().expect("random"));
        assert!(one.is(one.secret()) && !one.is(other.secret()));
        for wrong in ["", "x", &one.secret()[1..], &format!("{} ", one.secret())] {
            assert!(!one.is(wrong), "'{wrong}'");
        }
        assert!(!format!("{one:?}").contains(one.secret()));
    }

    #[test]
    fn a_file_is_made_for_its_owner_alone_and_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        let token = Token::of_file(&path).expect("made");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(token.is(Token::of_file(&path).expect("read").secret()));
        assert_eq!(std::fs::read_to_string(&path).expect("text").trim(), token.secret());
    }

    #[test]
    fn a_file_that_is_no_secret_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        for (text, mode, words) in [
            ("0123456789abcdef0123456789abcdef", 0o644, "chmod 600"),
            ("0123456789abcdef0123456789abcdef", 0o660, "chmod 600"),
            ("short", 0o600, "holds no token"),
            ("", 0o600, "holds no token"),
            ("two words of quite some length", 0o600, "holds no token"),
        ] {
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
            let said = Token::of_file(&path).expect_err(text).to_string();
            assert!(said.contains(words) && said.contains("/token"), "{text}: {said}");
        }
        for path in [directory.path(), &directory.path().join("no/token")] {
            assert!(Token::of_file(path).is_err(), "{}", path.display());
        }
    }
}
