//! Targets that read messages of the loader service.

use std::path::Path;

use hiend_loader::fuzzing;

/// Reads requests on the server, and header and frames of a batch on the client, in pieces of several sizes.
pub(crate) fn service(_: &Path, bytes: &[u8]) {
    fuzzing::request(bytes);
    fuzzing::header(bytes);
    for chunk in [1, 7, 4096] {
        fuzzing::frames(bytes, chunk);
    }
}
