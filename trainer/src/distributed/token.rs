//! The secret that ranks of one run share, and proofs that a process knows it.
//!
//! The secret never crosses the network: both sides send a random number, and each answers with a keyed BLAKE3 hash of
//! both numbers and of its claim. Everything after that is neither encrypted nor signed: the network between the ranks
//! must be one that strangers cannot write to.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};

/// Environment variable with the secret.
pub(super) const VARIABLE: &str = "HIEND_TOKEN";
/// Minimum length of a secret, characters.
const MIN_LENGTH: usize = 16;
/// Purpose of the derived key.
const CONTEXT: &str = "hiend-train 2026 rendezvous of ranks";

/// Length of a random number and of a proof, bytes.
pub(super) const NONCE: usize = 32;

/// The secret of a run. Its debug output hides it.
#[derive(Clone)]
pub struct Token {
    text: String,
}

/// A missing or unsuitable secret.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No secret in the environment.
    #[error("{VARIABLE} is not set; give all ranks the same secret, such as {VARIABLE}=$(openssl rand -hex 16)")]
    Missing,
    /// A secret that can be guessed.
    #[error("{VARIABLE} has {0} characters, at least {MIN_LENGTH} are needed")]
    Short(usize),
    /// The system has no random numbers.
    #[error("/dev/urandom")]
    Random(#[source] io::Error),
}

impl Token {
    /// Takes the secret from the environment variable `HIEND_TOKEN`.
    ///
    /// # Errors
    /// If it is not set or too short.
    pub fn of_environment() -> Result<Self, TokenError> {
        Self::new(std::env::var(VARIABLE).ok().ok_or(TokenError::Missing)?)
    }

    /// Makes a secret of a text.
    ///
    /// # Errors
    /// If it is too short.
    pub fn new(text: String) -> Result<Self, TokenError> {
        match text.chars().count() {
            length if length < MIN_LENGTH => Err(TokenError::Short(length)),
            _ => Ok(Self { text }),
        }
    }

    /// Makes a random secret.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn random() -> Result<Self, TokenError> {
        let bytes = random().map_err(TokenError::Random)?;
        Ok(Self { text: blake3::Hash::from_bytes(bytes).to_hex().to_string() })
    }

    /// The secret, for the environment of a child process.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Proof of knowledge over `claim`. Comparing two proofs takes the same time wherever they differ.
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

/// Random bytes of the system.
pub(super) fn random() -> io::Result<[u8; NONCE]> {
    let mut bytes = [0; NONCE];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
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
