//! Digests of a checkpoint's files, and the seal of `state.json`.

use std::path::Path;

use hiend_cache::regular;
use serde::{Deserialize, Serialize};

use super::{CheckpointError, Damage};

/// Length and BLAKE3 digest of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 digest, 64 hex digits.
    pub blake3: String,
}

impl FileDigest {
    /// Computes the digest of a file, read from start to end.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn of(path: &Path) -> Result<Self, CheckpointError> {
        let file = regular::open(path).map_err(CheckpointError::io(path, "read"))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(CheckpointError::io(path, "read"))?;
        Ok(Self { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
    }

    /// Compares a file with this digest.
    ///
    /// # Errors
    /// If the file cannot be read or differs.
    pub fn check(&self, path: &Path) -> Result<(), CheckpointError> {
        let found = std::fs::metadata(path).map_err(CheckpointError::io(path, "look up"))?.len();
        if found != self.bytes {
            return Err(CheckpointError::damaged(path, Damage::Length { expected: self.bytes, found }));
        }
        if Self::of(path)? != *self {
            return Err(CheckpointError::damaged(path, Damage::Digest));
        }
        Ok(())
    }
}

const SEAL_START: &[u8] = b",\n  \"checksum\": \"";
const SEAL_END: &[u8] = b"\"\n}";
/// Hex digits of a BLAKE3 digest.
const DIGITS: usize = 64;

/// Appends a last member, the digest of all bytes before it, to a pretty-printed JSON object.
pub(super) fn seal(mut json: Vec<u8>) -> Vec<u8> {
    assert!(json.ends_with(b"\n}"), "a pretty-printed JSON object");
    json.truncate(json.len() - 2);
    let digest = blake3::hash(&json).to_hex();
    [&json[..], SEAL_START, digest.as_bytes(), SEAL_END].concat()
}

/// Result of checking the digest at the end of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seal {
    /// The digest matches.
    Intact,
    /// The digest does not match.
    Broken,
    /// The bytes do not end with a digest.
    Absent,
}

pub(super) fn seal_of(bytes: &[u8]) -> Seal {
    let sealed = bytes.strip_suffix(SEAL_END).and_then(|rest| rest.split_at_checked(rest.len().checked_sub(DIGITS)?));
    match sealed.and_then(|(rest, digest)| Some((rest.strip_suffix(SEAL_START)?, digest))) {
        Some((content, digest)) if blake3::hash(content).to_hex().as_bytes() == digest => Seal::Intact,
        Some(_) => Seal::Broken,
        None => Seal::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_json_and_covers_every_byte() {
        let sealed = seal(serde_json::to_vec_pretty(&serde_json::json!({ "step": 3 })).unwrap());
        let value: serde_json::Value = serde_json::from_slice(&sealed).unwrap();
        assert_eq!((&value["step"], value["checksum"].as_str().unwrap().len()), (&3.into(), DIGITS));
        assert_eq!(seal_of(&sealed), Seal::Intact);
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut flipped = sealed.clone();
                flipped[at] ^= 1 << bit;
                assert_ne!(seal_of(&flipped), Seal::Intact, "byte {at}, bit {bit}");
            }
            assert_ne!(seal_of(&sealed[..at]), Seal::Intact, "cut at {at}");
        }
    }
}
