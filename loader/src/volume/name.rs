//! Formats of volumes, and the names of their files.

use std::path::Path;

/// A file format of volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// `NIfTI`: `.nii`, `.nii.gz`.
    Nifti,
    /// NRRD: `.nrrd`, and `.nhdr` with its voxels in another file.
    Nrrd,
    /// `MetaImage`: `.mha`, and `.mhd` with its voxels in another file.
    MetaImage,
    /// A series of DICOM files in one folder.
    Dicom,
}

impl Format {
    /// Extension of the files in which results for a volume of this format are written: its own if it holds a whole
    /// volume in one file, otherwise that of `NIfTI`.
    #[must_use]
    pub fn result_ending(self) -> &'static str {
        match self {
            Self::Nifti | Self::Dicom => ".nii.gz",
            Self::Nrrd => ".nrrd",
            Self::MetaImage => ".mha",
        }
    }

    /// Format that a file's name implies; `None` for other names.
    #[must_use]
    pub fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        ending_of(name).map(|(_, format)| format)
    }
}

/// Extensions of single-file volumes and of separate headers; longer ones first.
const ENDINGS: [(&str, Format); 6] = [
    (".nii.gz", Format::Nifti),
    (".nii", Format::Nifti),
    (".nrrd", Format::Nrrd),
    (".nhdr", Format::Nrrd),
    (".mha", Format::MetaImage),
    (".mhd", Format::MetaImage),
];

fn ending_of(name: &str) -> Option<(usize, Format)> {
    if name.starts_with('.') {
        return None;
    }
    ENDINGS.into_iter().find_map(|(ending, format)| {
        let at = name.len().checked_sub(ending.len())?;
        name.get(at..)?.eq_ignore_ascii_case(ending).then_some((at, format))
    })
}

/// File name without the extension of a volume (`.nii`, `.nii.gz`, `.nrrd`, `.nhdr`, `.mha`, `.mhd`), in upper or lower
/// case; `None` for other files, and for hidden ones, such as the `._x.nii.gz` that macOS leaves in archives.
#[must_use]
pub fn file_stem(name: &str) -> Option<&str> {
    ending_of(name).map(|(at, _)| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_recognised_in_any_case() {
        for (name, stem) in [
            ("a.nii", Some("a")),
            ("a.b.nii.gz", Some("a.b")),
            ("BIG_0000.NII.GZ", Some("BIG_0000")),
            ("é.Nii", Some("é")),
            ("a.seg.nrrd", Some("a.seg")),
            ("a.NHDR", Some("a")),
            ("a.Mha", Some("a")),
            ("1.3.6.1.mhd", Some("1.3.6.1")),
            ("a.nii.bz2", None),
            ("nii", None),
            ("é", None),
            (".nii.gz", None),
            ("._a.nii.gz", None),
            ("._a.mha", None),
        ] {
            assert_eq!(file_stem(name), stem, "{name}");
        }
        assert_eq!(Format::of_name(Path::new("in/a_0000.MHD")), Some(Format::MetaImage));
        assert_eq!(Format::of_name(Path::new("in/a.dcm")), None);
    }
}
