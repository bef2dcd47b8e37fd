//! Targets that read messages of the loader service, and the files that secure it.

use std::path::Path;

use hiend_loader::fuzzing;

use crate::check_line;

/// Reads requests on the server, and header and frames of a batch on the client, in pieces of several sizes.
pub(crate) fn service(_: &Path, bytes: &[u8]) {
    fuzzing::request(bytes);
    fuzzing::header(bytes);
    for chunk in [1, 7, 4096] {
        fuzzing::frames(bytes, chunk);
    }
}

/// Reads certificates and private keys.
pub(crate) fn pem(_: &Path, bytes: &[u8]) {
    for error in fuzzing::pem(bytes) {
        check_line(&error);
    }
}
