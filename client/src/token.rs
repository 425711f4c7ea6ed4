//! The secret that tells the daemon who calls.

use std::fmt;
use std::path::Path;

use tonic::metadata::AsciiMetadataValue;
use tonic::metadata::errors::InvalidMetadataValue;

use crate::Error;

/// Environment variable that holds a token.
pub const TOKEN_VARIABLE: &str = "HEARTH_TOKEN";

/// A bearer token. It is never printed: not by `Debug`, not in an error.
#[derive(Clone)]
pub struct Token(AsciiMetadataValue);

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// There is nothing in it.
    #[error("the token is empty")]
    Empty,
    /// It holds a blank, a line break or something that is not ASCII.
    #[error("the token holds characters that no token has: blanks, line breaks or others beyond ASCII")]
    Characters,
}

impl Token {
    /// A token as it was given out. Blanks and line breaks around it are no part of it.
    ///
    /// # Errors
    /// Where it is empty, or holds what a header cannot carry.
    pub fn new(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        if text.is_empty() {
            return Err(BadToken::Empty);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BadToken::Characters);
        }
        let header = |text: String| -> Result<AsciiMetadataValue, InvalidMetadataValue> { text.parse() };
        let mut value = header(format!("Bearer {text}")).map_err(|_| BadToken::Characters)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The token in a file.
    ///
    /// # Errors
    /// Where the file cannot be read, or holds no token.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Secret { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        Ok(Self::new(&text)?)
    }

    /// What [`TOKEN_VARIABLE`] holds; none where it is unset or empty.
    ///
    /// # Errors
    /// Where it holds what is no token.
    pub fn from_env() -> Result<Option<Self>, BadToken> {
        match std::env::var(TOKEN_VARIABLE) {
            Ok(text) if !text.is_empty() => Self::new(&text).map(Some),
            Err(std::env::VarError::NotUnicode(_)) => Err(BadToken::Characters),
            _ => Ok(None),
        }
    }

    /// As the header `authorization` carries it.
    pub(crate) fn header(&self) -> AsciiMetadataValue {
        self.0.clone()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_printed() {
        let token = Token::new(" s3cret\n").expect("a token");
        assert_eq!(token.header(), "Bearer s3cret");
        assert!(!format!("{token:?} {:?}", token.header()).contains("s3cret"));
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_told() {
        assert_eq!(Token::new(" \n").expect_err("empty"), BadToken::Empty);
        for text in ["a b", "a\nb", "é"] {
            assert_eq!(Token::new(text).expect_err("no token"), BadToken::Characters, "{text}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Token::from_file(Path::new("/nowhere/token")).expect_err("no such file");
        assert!(error.to_string().contains("/nowhere/token"), "{error}");
    }
}
