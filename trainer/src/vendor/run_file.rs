//! Files in the folder of a run with tables of a library's choices.

use std::io;
use std::path::Path;

/// Reads `file` of a run with `parse`; `None` if the run has no such file, as on a CPU.
///
/// # Errors
/// If the file cannot be read or parsed.
pub(super) fn read<T>(
    run_dir: &Path,
    file: &str,
    parse: impl FnOnce(&str) -> Result<T, serde_json::Error>,
) -> io::Result<Option<T>> {
    match std::fs::read_to_string(run_dir.join(file)) {
        Ok(text) => Ok(Some(parse(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes `json` to `file` of a run, completely or not at all; does nothing for `None`.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn write(run_dir: &Path, file: &str, json: Option<String>) -> io::Result<()> {
    let Some(json) = json else { return Ok(()) };
    // The caller names the file.
    hiend_cache::durable::write(&run_dir.join(file), json.as_bytes()).map_err(|error| error.source)
}
