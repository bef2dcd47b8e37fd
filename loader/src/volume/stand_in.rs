//! Files that replace a volume: left under its name by version control, a server or an archive.

use super::VolumeFault;

/// Description and remedy for a web server's page.
const PAGE: (&str, &str) = ("an HTML page in place of the file, as servers send on errors", "download it again");
/// Description and remedy for a message of object storage.
const DOCUMENT: (&str, &str) =
    ("an XML document in place of the file, as object storage sends on errors", "download it again");
/// Description and remedy for a Git LFS pointer.
const LFS: (&str, &str) = ("a Git LFS pointer in place of the file", "run git lfs pull");

/// First bytes of such files, ignoring case, each with description and remedy.
const BEGINNINGS: [(&str, (&str, &str)); 8] = [
    ("version https://git-lfs.github.com/spec/", LFS),
    ("version https://hawser.github.com/spec/", LFS),
    ("/annex/objects/", ("a git-annex pointer in place of the file", "run git annex get")),
    ("<!doctype html", PAGE),
    ("<html", PAGE),
    ("<?xml", DOCUMENT),
    ("<error>", DOCUMENT),
    ("PK\u{3}\u{4}", ("a ZIP archive in place of the file", "unpack it")),
];

/// Fault of a file that begins with these bytes, if it is known to replace a volume. No readable volume begins with
/// them.
pub(super) fn fault(head: &[u8]) -> Option<VolumeFault> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let begins = |text: &str| head.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()));
    let &(_, (found, remedy)) = BEGINNINGS.iter().find(|(beginning, _)| begins(beginning))?;
    Some(VolumeFault::StandIn { found, remedy })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;

    use super::super::{read_info, read_labels, read_volume};

    const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    const PAGE: &str = "\u{feff}\r\n<!DOCTYPE HTML>\n<html lang=\"en\"><body>404</body></html>";

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn check(path: &Path, content: &[u8], expected: &str) {
        std::fs::write(path, content).unwrap();
        let faults = [read_info(path).err(), read_volume(path).err(), read_labels(path).err()];
        for fault in faults {
            let reason = fault.unwrap().reason.to_string();
            assert_eq!(reason, expected, "{}", path.display());
        }
    }

    #[test]
    fn files_in_place_of_a_volume_are_named_by_their_kind() {
        let dir = tempfile::tempdir().unwrap();
        let pointer = "a Git LFS pointer in place of the file; run git lfs pull";
        let page = "an HTML page in place of the file, as servers send on errors; download it again";
        for name in ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"] {
            let path = dir.path().join(name);
            check(&path, POINTER.as_bytes(), pointer);
            check(&path, PAGE.as_bytes(), page);
            check(&path, b"<html>", page);
            check(
                &path,
                b"/annex/objects/SHA256E-s9--ab.nii.gz\n",
                "a git-annex pointer in place of the file; run git annex get",
            );
            check(
                &path,
                b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code></Error>",
                "an XML document in place of the file, as object storage sends on errors; download it again",
            );
            check(&path, b"PK\x03\x04\x14\0\0\0\x08\0", "a ZIP archive in place of the file; unpack it");
        }
        // A server that compresses what it sends.
        check(&dir.path().join("a.nii.gz"), &gzip(PAGE.as_bytes()), page);
    }

    #[test]
    fn a_file_compressed_twice_is_called_that() {
        let dir = tempfile::tempdir().unwrap();
        let twice = gzip(&gzip(&[0; 1000]));
        check(
            &dir.path().join("a.nii.gz"),
            &twice,
            "compressed with gzip twice; decompress it once, for example with gunzip",
        );
    }

    #[test]
    fn voxels_of_a_header_may_be_replaced_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.mhd");
        let header = "ObjectType = Image\nNDims = 3\nDimSize = 2 3 2\nElementSpacing = 1 1 1\nElementType = MET_SHORT\n\
                      ElementDataFile = a.raw\n";
        std::fs::write(&path, header).unwrap();
        std::fs::write(dir.path().join("a.raw"), &POINTER[..20]).unwrap();
        let reason = read_volume(&path).unwrap_err().reason.to_string();
        assert!(reason.contains("bytes are missing"), "{reason}");
        std::fs::write(dir.path().join("a.raw"), &POINTER[..48]).unwrap();
        assert!(read_volume(&path).is_ok());
        std::fs::write(&path, header.replace("2 3 2", "20 30 20")).unwrap();
        let reason = read_volume(&path).unwrap_err().reason.to_string();
        let expected = "voxels in the file \"a.raw\" next to this header: a Git LFS pointer in place of the file; run git lfs \
                        pull; copy both files again, or correct the header";
        assert_eq!(reason, expected);
    }

    #[cfg(feature = "dicom")]
    #[test]
    fn a_slice_may_be_replaced_as_well() {
        use super::super::dicom::testing::{slices, write_series};
        use super::super::{dicom, read_series};

        let dir = tempfile::tempdir().unwrap();
        let mut files = write_series(dir.path(), &slices());
        files[1] = dir.path().join("slice.dcm");
        std::fs::write(&files[1], POINTER).unwrap();
        let reason = "a Git LFS pointer in place of the file; run git lfs pull";
        assert_eq!(read_series(&files).unwrap_err().reason.to_string(), reason);
        let others = dicom::sort(&files[1..2]).others;
        assert_eq!(others[0].reason.to_string(), reason);
        // A page without the ending of DICOM files may be there for another purpose.
        std::fs::write(dir.path().join("README"), PAGE).unwrap();
        assert_eq!(dicom::sort(&[dir.path().join("README")]).others[0].reason, dicom::Other::NotDicom);
    }
}
