//! Headers made of lines of text, as in NRRD and `MetaImage`.

use std::io::Read;

use super::VolumeFault;

/// Largest size of a header in bytes; segmentations with hundreds of named segments take some 100 kB.
pub(super) const MAX_HEADER: u64 = 1 << 20;
/// Largest number of characters of a header that an error message repeats.
const MAX_SHOWN: usize = 60;

/// Reads a file up to the largest size of a header.
pub(super) fn read(reader: impl Read) -> Result<Vec<u8>, VolumeFault> {
    let mut head = Vec::new();
    reader.take(MAX_HEADER).read_to_end(&mut head).map_err(|err| VolumeFault::read(&err))?;
    Ok(head)
}

/// Lines of a header, each with the offset of the first byte after it.
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(file: &'a [u8]) -> Self {
        let limit = usize::try_from(MAX_HEADER).unwrap_or(usize::MAX);
        Self { bytes: &file[..file.len().min(limit)], at: 0 }
    }

    /// Offset of the first byte not yet read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Returns the next line without its end, which is `\n` or `\r\n`; `None` at the end of the file.
    ///
    /// # Errors
    /// If the header is larger than [`MAX_HEADER`].
    pub(super) fn next(&mut self) -> Result<Option<String>, VolumeFault> {
        let rest = &self.bytes[self.at..];
        let (line, len) = match rest.iter().position(|&byte| byte == b'\n') {
            Some(end) => (&rest[..end], end + 1),
            None if self.bytes.len() as u64 == MAX_HEADER => {
                return Err(VolumeFault::HeaderEnd { limit: MAX_HEADER });
            }
            None if rest.is_empty() => return Ok(None),
            None => (rest, rest.len()),
        };
        self.at += len;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(Some(String::from_utf8_lossy(line).into_owned()))
    }
}

/// Formats a part of a header for a message: in quotation marks, escaped and shortened.
pub(super) fn quoted(text: &str) -> String {
    let short: String = text.chars().take(MAX_SHOWN).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{more}")
}

/// Creates the fault of a field with an unusable value.
pub(super) fn bad(field: &'static str, value: &str, expected: impl Into<String>) -> VolumeFault {
    VolumeFault::Field { field, value: quoted(value), expected: expected.into() }
}

/// Value of a required field; an error if it is missing.
pub(super) fn need<'a>(field: &'static str, value: Option<&'a String>) -> Result<&'a str, VolumeFault> {
    value.map(String::as_str).ok_or(VolumeFault::NoField { field })
}

/// Numbers of a field, separated by white space.
pub(super) fn numbers(field: &'static str, value: &str) -> Result<Vec<f64>, VolumeFault> {
    let parsed: Option<Vec<f64>> = value.split_whitespace().map(|part| part.parse().ok()).collect();
    parsed.ok_or_else(|| bad(field, value, "numbers"))
}

/// Exactly three finite numbers of a field.
pub(super) fn three(field: &'static str, value: &str) -> Result<[f64; 3], VolumeFault> {
    match numbers(field, value)?.as_slice() {
        &[x, y, z] if [x, y, z].iter().all(|number| number.is_finite()) => Ok([x, y, z]),
        _ => Err(bad(field, value, "three numbers")),
    }
}

/// Lengths of an array along its axes.
pub(super) fn lengths(field: &'static str, value: &str) -> Result<Vec<usize>, VolumeFault> {
    let parsed: Option<Vec<usize>> = value.split_whitespace().map(|part| part.parse().ok()).collect();
    parsed.filter(|lengths| lengths.len() <= 16).ok_or_else(|| bad(field, value, "whole numbers of voxels"))
}
