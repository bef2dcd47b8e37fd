//! Files that are not named like a volume that is read: other formats, archives, incomplete downloads, DICOM by its content.

use std::path::Path;

use super::content::VolumeContent;
use super::description::FILE_NAME;
use super::dicom_head::DicomHead;
use super::tree::TreeFile;
use super::unused::reason::UnusedReason;

/// Content of a file by its ending.
#[derive(Clone, Copy)]
enum Content {
    /// A volume in a format of this name, or a compressed one.
    Volume(&'static str),
    /// Arrays, meshes or other data in a format of this name, which may be a scan.
    Arrays(&'static str),
    Archive,
}

use Content::{Archive, Arrays, Volume};

/// Endings in lower case; longer ones first.
const ENDINGS: [(&str, Content); 38] = [
    (".dcm.gz", Volume("DICOM compressed with gzip")),
    (".dicom.gz", Volume("DICOM compressed with gzip")),
    (".ima.gz", Volume("DICOM compressed with gzip")),
    (".nii.bz2", Volume("bzip2 compression")),
    (".nii.xz", Volume("xz compression")),
    (".nii.zst", Volume("zstd compression")),
    (".nii.lz4", Volume("LZ4 compression")),
    (".nii.zip", Volume("zip compression")),
    (".hdr.gz", Volume("the Analyze or NIfTI pair .hdr/.img")),
    (".img.gz", Volume("the Analyze or NIfTI pair .hdr/.img")),
    (".tar.bz2", Archive),
    (".tar.zst", Archive),
    (".tar.gz", Archive),
    (".tar.xz", Archive),
    (".hdr", Volume("the Analyze or NIfTI pair .hdr/.img")),
    (".img", Volume("the Analyze or NIfTI pair .hdr/.img")),
    (".mgz", Volume("FreeSurfer's MGH")),
    (".mgh", Volume("FreeSurfer's MGH")),
    (".mnc", Volume("MINC")),
    (".tif", Volume("TIFF")),
    (".tiff", Volume("TIFF")),
    (".nia", Volume("ASCII NIfTI")),
    (".vti", Arrays("VTK's format")),
    (".vtk", Arrays("VTK's format")),
    (".npy", Arrays("NumPy's format")),
    (".npz", Arrays("NumPy's format")),
    (".h5", Arrays("HDF5")),
    (".hdf5", Arrays("HDF5")),
    (".mat", Arrays("MATLAB's format")),
    (".b2nd", Arrays("Blosc2")),
    (".zip", Archive),
    (".tar", Archive),
    (".tgz", Archive),
    (".txz", Archive),
    (".tbz", Archive),
    (".tbz2", Archive),
    (".7z", Archive),
    (".rar", Archive),
];

/// Endings of volumes and slices that are read, in lower case; longer ones first.
const VOLUMES: [&str; 9] = [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".dicom", ".ima"];

/// Endings of raw voxels, in lower case.
pub(super) const RAW_ENDINGS: [&str; 3] = [".raw.gz", ".zraw", ".raw"];

/// Endings of archives, which parts of an archive have inside their names, in lower case.
const ARCHIVES: [&str; 5] = [".tar", ".tgz", ".zip", ".7z", ".rar"];

/// Endings of files without a volume, also where they are added to the name of one: texts, tables, checksums, pictures, programs
/// and their data. Such files are not opened.
const COMPANIONS: [&str; 57] = [
    "json", "jsonl", "txt", "md", "rst", "log", "xml", "yaml", "yml", "toml", "ini", "cfg", "conf", "html", "htm",
    "css", "js", "csv", "tsv", "xls", "xlsx", "doc", "docx", "ppt", "pptx", "pdf", "png", "jpg", "jpeg", "gif", "svg",
    "bmp", "md5", "sha1", "sha256", "sha512", "crc", "crc32", "sig", "asc", "dvc", "lock", "pkl", "pickle", "pt",
    "pth", "ckpt", "onnx", "py", "pyc", "ipynb", "sh", "bval", "bvec", "parquet", "db", "sqlite",
];

/// The reason that a file's name gives, or its first bytes; `None` for a file that is named like a volume.
pub(super) fn of_other_file(file: &TreeFile) -> Option<UnusedReason> {
    file.stem().is_none().then(|| other_file(&file.name, &file.path))
}

/// The reason not to read a file that is not named like a volume, by its name or its first bytes.
#[must_use]
pub fn other_file(file_name: &str, path: &Path) -> UnusedReason {
    let name = file_name.to_lowercase();
    if name == FILE_NAME && file_name != FILE_NAME {
        return UnusedReason::DescriptionName;
    }
    if is_raw(&name) {
        return UnusedReason::RawVoxels;
    }
    let ending = last_ending(&name);
    let of_name = other_format(&name);
    // Scanners name files of DICOM like pictures, too.
    let may_be_other = matches!(of_name, None | Some(UnusedReason::Format { .. }));
    if !may_be_other || is_companion(&name) {
        return of_name.unwrap_or(UnusedReason::NotAVolume);
    }
    // Files of scanners and archives have no ending, or the last number of an identifier.
    let may_be_dicom = ending.is_none_or(|ending| ending.bytes().all(|byte| byte.is_ascii_digit()));
    match DicomHead::read(path) {
        Some(DicomHead::Whole) if may_be_dicom => return UnusedReason::DicomInDataset,
        Some(DicomHead::WithoutPreamble) if may_be_dicom => return UnusedReason::DicomWithoutPreamble,
        Some(DicomHead::Whole) => return UnusedReason::DicomByContent,
        _ => {}
    }
    let by_content = || VolumeContent::read(path).map(UnusedReason::VolumeByContent);
    of_name.or_else(by_content).unwrap_or(UnusedReason::NotAVolume)
}

/// Returns true for a file without a volume by its ending, and for an editor's copy of one, as `a.dcm.html~`.
fn is_companion(name: &str) -> bool {
    let ending = last_ending(name.trim_end_matches('~')).unwrap_or_default();
    // `md5sum` and `md5`.
    COMPANIONS.contains(&ending.strip_suffix("sum").unwrap_or(ending))
}

fn last_ending(name: &str) -> Option<&str> {
    name.rsplit_once('.').map(|(_, ending)| ending)
}

/// Returns true for a name, in any case, that is that of a volume or other data: a volume that is read or not, arrays, raw
/// voxels, or an archive.
pub(super) fn is_data(file: &TreeFile) -> bool {
    let name = file.name.to_lowercase();
    file.stem().is_some() || is_raw(&name) || other_format(&name).is_some()
}

fn is_raw(name: &str) -> bool {
    RAW_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The reason not to read a file with the ending of a volume in another format or of an archive, or with more behind such an
/// ending, as an incomplete download; `None` for all other names. The name is in lower case.
fn other_format(name: &str) -> Option<UnusedReason> {
    if [".dcm", ".dicom", ".ima"].iter().any(|ending| name.ends_with(ending)) {
        return Some(UnusedReason::DicomInDataset);
    }
    let content = ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, content)| *content);
    match content {
        Some(Volume(name)) => Some(UnusedReason::Format { name }),
        Some(Arrays(name)) => Some(UnusedReason::Arrays { name }),
        Some(Archive) => Some(UnusedReason::Archive),
        None => behind_ending(name),
    }
}

/// The reason for a name, in lower case, with an ending inside: `a.nii.gz.part`, `a.nii (1).gz`, `a.nii.gz~`, `a.zip.001`.
fn behind_ending(name: &str) -> Option<UnusedReason> {
    if is_companion(name) {
        return None;
    }
    let last = last_ending(name).unwrap_or_default();
    let is_inside = |ending: &&str| {
        let at = name.find(*ending).filter(|at| *at > 0);
        let next = at.and_then(|at| name[at + ending.len()..].chars().next());
        next.is_some_and(|next| !next.is_alphanumeric())
    };
    if let Some(ending) = VOLUMES.into_iter().find(is_inside) {
        return Some(UnusedReason::BehindEnding { ending });
    }
    // `a.z01`, a part of `a.zip`.
    let is_zip =
        last.strip_prefix('z').is_some_and(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit()));
    (is_zip || ARCHIVES.iter().any(is_inside)).then_some(UnusedReason::Archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_more_behind_the_ending_of_a_volume_are_not_passed_over() {
        for (name, ending) in [
            ("a.nii.gz.part", ".nii.gz"),
            ("B.NII.GZ.crdownload", ".nii.gz"),
            ("c.nii.tmp", ".nii"),
            ("d.nii (1).gz", ".nii"),
            ("e.nii.gz.gz", ".nii.gz"),
            ("g.nii.gz.aria2", ".nii.gz"),
            ("h.nii.gz~", ".nii.gz"),
            ("i.mha.bak", ".mha"),
            ("s3.dcm.part", ".dcm"),
            ("k.nii.gz.1", ".nii.gz"),
        ] {
            assert_eq!(other_format(&name.to_lowercase()), Some(UnusedReason::BehindEnding { ending }), "{name}");
        }
        for name in ["a.nii.gz.json", "a.nii.gz.md5", "a.nii2", "a.niix.txt", ".nii.x", "notes.txt", "x.dcmtk", "e"] {
            assert_eq!(other_format(name), None, "{name}");
        }
        for name in ["a.nii.gz.pkl", "a.nii.gz.md5sum", "a.nii.toml", "a.dcm.html~", "a.nii.gz.crc"] {
            assert_eq!(other_format(name), None, "{name}");
        }
    }

    #[test]
    fn archives_in_parts_and_arrays_are_known() {
        for name in ["a.tar.xz", "a.TAR.BZ2", "a.zip.001", "a.z01", "a.tar.gz.aa", "a.tgz", "b.zip.crdownload"] {
            assert_eq!(other_format(&name.to_lowercase()), Some(UnusedReason::Archive), "{name}");
        }
        for (name, format) in [("data.npy", "NumPy's format"), ("c.h5", "HDF5"), ("c.b2nd", "Blosc2")] {
            assert_eq!(other_format(name), Some(UnusedReason::Arrays { name: format }), "{name}");
        }
        assert_eq!(other_format("f.nii.lz4"), Some(UnusedReason::Format { name: "LZ4 compression" }));
        assert_eq!(other_format("a.z"), None);
    }
}
