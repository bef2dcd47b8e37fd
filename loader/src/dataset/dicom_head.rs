//! First bytes of DICOM files, by which files without an extension are recognised.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Length of the preamble, in bytes; `DICM` follows.
const PREAMBLE: usize = 128;
/// Number of bytes examined.
const HEAD_BYTES: u64 = 512;
/// Groups of elements that a file can begin with: those of its own encoding, and those that name the image.
const FIRST_GROUPS: [u16; 2] = [0x0002, 0x0008];

/// Beginning of a DICOM file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DicomHead {
    /// The preamble that the standard demands.
    Whole,
    /// The first element without a preamble: old programs write such files.
    WithoutPreamble,
}

impl DicomHead {
    /// Reads the beginning of a regular file; `None` if it is not that of DICOM, or cannot be read.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(HEAD_BYTES).read_to_end(&mut bytes).ok()?;
        Self::of(&bytes)
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.get(PREAMBLE..).is_some_and(|rest| rest.starts_with(b"DICM")) {
            return Some(Self::Whole);
        }
        // Two elements in ascending order.
        let (first, second) = (tag_at(bytes, 0)?, tag_at(bytes, end_of_first(bytes)?)?);
        let is_known = [first, second].iter().all(|(group, _)| FIRST_GROUPS.contains(group));
        (is_known && first < second).then_some(Self::WithoutPreamble)
    }
}

/// Returns true for a DICOM file that begins with its first element, in place of the preamble that the standard demands.
#[must_use]
pub fn is_without_preamble(path: &Path) -> bool {
    DicomHead::read(path) == Some(DicomHead::WithoutPreamble)
}

/// Group and element, little-endian.
fn tag_at(bytes: &[u8], at: usize) -> Option<(u16, u16)> {
    let &[a, b, c, d] = bytes.get(at..)?.first_chunk::<4>()?;
    Some((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])))
}

/// Position after the first element, whose length is stored in two bytes after two capital letters for its type, or in
/// four bytes.
fn end_of_first(bytes: &[u8]) -> Option<usize> {
    let &[a, b, c, d] = bytes.get(4..)?.first_chunk::<4>()?;
    let is_explicit = a.is_ascii_uppercase() && b.is_ascii_uppercase();
    let length = if is_explicit { u32::from(u16::from_le_bytes([c, d])) } else { u32::from_le_bytes([a, b, c, d]) };
    usize::try_from(length).ok()?.checked_add(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An element of group 8 with an even number of bytes; with its type if one is given.
    fn element(number: u16, kind: Option<&[u8; 2]>, value: &[u8]) -> Vec<u8> {
        let mut bytes = [8u16.to_le_bytes(), number.to_le_bytes()].concat();
        let length = u16::try_from(value.len()).unwrap();
        match kind {
            Some(kind) => {
                bytes.extend(kind);
                bytes.extend(length.to_le_bytes());
            }
            None => bytes.extend(u32::from(length).to_le_bytes()),
        }
        bytes.extend(value);
        bytes
    }

    #[test]
    fn dicom_is_known_with_and_without_its_preamble() {
        let whole = [[0; PREAMBLE].as_slice(), b"DICM"].concat();
        assert_eq!(DicomHead::of(&whole), Some(DicomHead::Whole));
        for kind in [Some(b"CS"), None] {
            let (first, second) = (element(0x0005, kind, b"ISO_IR 100"), element(0x0008, kind, b"ORIGINAL"));
            let bytes = [first.as_slice(), second.as_slice()].concat();
            assert_eq!(DicomHead::of(&bytes), Some(DicomHead::WithoutPreamble), "{kind:?}");
            let reversed = [second.as_slice(), first.as_slice()].concat();
            assert_eq!(DicomHead::of(&reversed), None, "{kind:?}");
            for end in 0..first.len() + 4 {
                assert_eq!(DicomHead::of(&bytes[..end]), None, "{kind:?} {end}");
            }
        }
    }

    #[test]
    fn other_files_are_not_dicom() {
        let numbers: Vec<u8> = [8u32, 4, 8, 16, 32].iter().flat_map(|number| number.to_le_bytes()).collect();
        for bytes in [b"".as_slice(), b"0", b"This is the licence of a data set.\n", &[0; 512], &[8; 512], &numbers] {
            assert_eq!(DicomHead::of(bytes), None, "{bytes:?}");
        }
        assert_eq!(DicomHead::read(Path::new("/nonexistent/IM0001")), None);
    }
}
