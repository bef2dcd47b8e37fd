//! Messages of the loader service.

use std::path::Path;

use hiend_loader::fuzzing;

/// Requests for the server; header and frames of a batch for the client, in pieces of a few sizes.
pub(crate) fn service(_: &Path, bytes: &[u8]) {
    fuzzing::request(bytes);
    fuzzing::header(bytes);
    for chunk in [1, 7, 4096] {
        fuzzing::frames(bytes, chunk);
    }
}
