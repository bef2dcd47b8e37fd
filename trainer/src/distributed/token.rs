//! Secret that the ranks of one run share, and proofs that a process knows it.
//!
//! The secret never crosses the network: both sides send a random number, and each answers with a keyed BLAKE3 hash of
//! both numbers and of its claim. All later traffic is neither encrypted nor signed, so strangers must not be able to
//! write to the network between the ranks.

use std::fmt;
use std::io;

use crate::variable::{self, NotText};

/// Environment variable with the secret.
pub(super) const VARIABLE: &str = "HIEND_TOKEN";
/// Minimum length of a secret, in characters.
const MIN_LENGTH: usize = 16;
/// Context string for deriving the key.
const CONTEXT: &str = "hiend-train 2026 rendezvous of ranks";

/// Length of a random number and of a proof, in bytes.
pub(super) const NONCE: usize = 32;

/// Secret of a run. Its debug output hides it.
#[derive(Clone)]
pub struct Token {
    text: String,
}

/// A missing or unsuitable secret.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The environment holds no secret.
    #[error(
        "{VARIABLE} is not set or is empty; give all ranks the same secret, such as {VARIABLE}=$(openssl rand -hex 16)"
    )]
    Missing,
    /// The environment holds bytes that are not text.
    #[error(transparent)]
    NotText(#[from] NotText),
    /// A secret short enough to be guessed.
    #[error("{VARIABLE} has {0} characters, at least {MIN_LENGTH} are needed")]
    Short(usize),
    /// The system provides no random numbers.
    #[error("no random numbers from the system")]
    Random(#[source] io::Error),
}

impl Token {
    /// Reads the secret from the environment variable `HIEND_TOKEN`.
    ///
    /// # Errors
    /// If it is not set, not text or too short.
    pub fn of_environment() -> Result<Self, TokenError> {
        Self::new(variable::text(VARIABLE)?.ok_or(TokenError::Missing)?)
    }

    /// Creates a secret from a text.
    ///
    /// # Errors
    /// If it is too short.
    pub fn new(text: String) -> Result<Self, TokenError> {
        match text.chars().count() {
            length if length < MIN_LENGTH => Err(TokenError::Short(length)),
            _ => Ok(Self { text }),
        }
    }

    /// Creates a random secret.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn random() -> Result<Self, TokenError> {
        let bytes = random().map_err(TokenError::Random)?;
        Ok(Self { text: blake3::Hash::from_bytes(bytes).to_hex().to_string() })
    }

    /// Text of the secret, for the environment of a child process.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Proof of knowing the secret, computed over `claim`. Comparing two proofs takes constant time.
    pub(super) fn proof(&self, claim: &[&[u8]]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key(CONTEXT, self.text.as_bytes()));
        for part in claim {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Reads random bytes from the system.
pub(super) fn random() -> io::Result<[u8; NONCE]> {
    let mut bytes = [0; NONCE];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_depend_on_secret_and_claim() {
        let [a, b] = ["a", "b"].map(|end| Token::new(format!("0123456789abcde{end}")).unwrap());
        assert_eq!(a.proof(&[b"x", b"y"]), a.proof(&[b"x", b"y"]));
        assert_ne!(a.proof(&[b"x", b"y"]), b.proof(&[b"x", b"y"]));
        assert_ne!(a.proof(&[b"xy"]), a.proof(&[b"x", b"y"]));
        assert_ne!(Token::random().unwrap().text(), Token::random().unwrap().text());
    }

    #[test]
    fn short_secret_is_refused_and_none_is_shown() {
        assert!(matches!(Token::new("secret".into()), Err(TokenError::Short(6))));
        assert_eq!(format!("{:?}", Token::random().unwrap()), "Token(hidden)");
    }
}
