//! Volumes recognised by their first bytes, where their names do not show that they are volumes.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;

/// Number of bytes examined: a header of `NIfTI`-1 and its magic number end before.
const HEAD_BYTES: u64 = 352;
/// First bytes of gzip data.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A format of volumes, by the content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeContent {
    /// Name of the format.
    pub format: &'static str,
    /// Ending of its files.
    pub ending: &'static str,
}

impl VolumeContent {
    /// Reads the beginning of a regular file, compressed with gzip or not; `None` if it is not that of a volume, or cannot be
    /// read.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(HEAD_BYTES).read_to_end(&mut bytes).ok()?;
        if !bytes.starts_with(&GZIP) {
            return Self::of(&bytes, false);
        }
        let mut inflated = Vec::new();
        // Damaged data count as far as they go.
        GzDecoder::new(File::open(path).ok()?).take(HEAD_BYTES).read_to_end(&mut inflated).ok();
        Self::of(&inflated, true)
    }

    fn of(bytes: &[u8], is_gzip: bool) -> Option<Self> {
        if bytes.get(344..348) == Some(b"n+1\0".as_slice()) {
            return Some(Self { format: "NIfTI", ending: if is_gzip { ".nii.gz" } else { ".nii" } });
        }
        if bytes.starts_with(b"NRRD000") {
            return Some(Self { format: "NRRD", ending: ".nrrd" });
        }
        bytes.starts_with(b"ObjectType").then_some(Self { format: "MetaImage", ending: ".mha" })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn volumes_are_known_by_their_first_bytes() {
        let nifti = [[0; 344].as_slice(), b"n+1\0"].concat();
        let dir = tempfile::tempdir().unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(dir.path().join("a"), bytes).unwrap();
            VolumeContent::read(&dir.path().join("a")).map(|content| content.ending)
        };
        let packed = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(read(&nifti), Some(".nii"));
        assert_eq!(read(&packed(&nifti)), Some(".nii.gz"));
        assert_eq!(read(b"NRRD0005\n"), Some(".nrrd"));
        assert_eq!(read(b"ObjectType = Image\n"), Some(".mha"));
        for bytes in [b"".as_slice(), b"a text", &[0; 400], &GZIP, &packed(b"a text")] {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }
}
