//! Private readers of this crate, for the program in `tests/fuzz`.

pub use crate::wire::hostile::{frames, header, request};

/// Reads certificates and a private key from a file in PEM; returns the errors.
#[must_use]
pub fn pem(bytes: &[u8]) -> Vec<String> {
    let certificates = crate::pem::certificates(bytes);
    let refused = certificates.as_ref().err().map(ToString::to_string);
    let key = crate::pem::check_key(bytes, certificates.unwrap_or_default());
    refused.into_iter().chain(key.err().map(|err| err.to_string())).collect()
}
