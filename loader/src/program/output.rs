//! Output of a program: results on standard output, everything else on standard error.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};

use crate::escape::{escape_if, is_unsafe};

/// Standard output cannot be written, for example because its disk is full.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub struct StdoutError {
    /// Error of the system.
    pub source: io::Error,
}

/// Writes a line to standard output, with control characters escaped. Returns `false` if its reader is gone.
///
/// A closed pipe (`| head -1`) is not an error: work that has results in addition to its output continues, and a command that
/// only prints stops when this returns `false`.
///
/// # Errors
/// If the line cannot be written for another reason.
pub fn print(line: impl Display) -> Result<bool, StdoutError> {
    // One call with the whole line: other threads' lines do not end up in the middle of it.
    let line = format!("{line}\n");
    let mut stdout = io::stdout().lock();
    read_by_anybody(stdout.write_all(escape(&line).as_bytes()).and_then(|()| stdout.flush()))
}

/// Writes the text that standard output still buffers. Returns `false` if its reader is gone.
pub(super) fn flush() -> Result<bool, StdoutError> {
    read_by_anybody(io::stdout().flush())
}

pub(super) fn read_by_anybody(result: io::Result<()>) -> Result<bool, StdoutError> {
    match result {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(source) => Err(StdoutError { source }),
    }
}

/// Writes a line to standard error, with control characters escaped.
///
/// A line that cannot be written is lost, because there is no other place to report it.
pub fn note(line: impl Display) {
    let line = format!("{line}\n");
    let _ = io::stderr().lock().write_all(escape(&line).as_bytes());
}

/// Returns whether standard output and standard error lead to the same place, such as a terminal or one log file; a
/// line written to both would then appear twice. `false` where the system does not report it.
#[must_use]
pub fn is_one_output() -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let place = |path: &str| std::fs::metadata(path).ok().map(|data| (data.dev(), data.ino()));
        let [out, err] = ["/dev/fd/1", "/dev/fd/2"].map(place);
        out.is_some() && out == err
    }
    #[cfg(not(unix))]
    false
}

/// Text with its control characters written as escapes (`\u{1b}`), except line feeds and tabs.
///
/// Names of files, cases and labels come from outside; sent to a terminal as they are, they could move its cursor or
/// hide text. Marks that reverse the direction of text are escaped too.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_if(text, |c| is_unsafe(c) && !matches!(c, '\n' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_other_text_is_kept() {
        for (text, escaped) in [
            ("Größe 12 µm 語", "Größe 12 µm 語"),
            ("a\tb\nc", "a\tb\nc"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("x\r\u{7}\u{9b}", "x\\r\\u{7}\\u{9b}"),
            ("gnp\u{202e}.exe", "gnp\\u{202e}.exe"),
        ] {
            assert_eq!(escape(text), escaped);
        }
    }

    #[test]
    fn only_a_closed_pipe_is_not_an_error() {
        assert!(read_by_anybody(Ok(())).unwrap());
        assert!(!read_by_anybody(Err(ErrorKind::BrokenPipe.into())).unwrap());
        assert!(read_by_anybody(Err(ErrorKind::StorageFull.into())).is_err());
    }
}
