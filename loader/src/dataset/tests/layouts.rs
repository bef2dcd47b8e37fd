//! Layouts with folders and lists of their own kinds, and the reasons for files outside of them.

use super::*;

#[test]
fn dicom_without_an_ending_is_named_next_to_other_formats() {
    let image = "Dataset001_A/imagesTr/x_0000.nii";
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(&data, &[image, "LICENSE", "pacs/z.dcm.gz"]);
    let whole = [[0; 128].as_slice(), b"DICM"].concat();
    let whole = whole.as_slice();
    let bare: &[u8] = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100\x08\x00\x08\x00CS\x08\x00ORIGINAL";
    for (path, bytes) in [
        ("pacs/IM0000", whole),
        ("pacs/1.2.840.1", whole),
        ("Dataset001_A/imagesTr/IM0001", whole),
        ("pacs/old", bare),
        ("pacs/table.csv", whole),
    ] {
        std::fs::create_dir_all(data.join(path).parent().unwrap()).unwrap();
        std::fs::write(data.join(path), bytes).unwrap();
    }
    let found = Found { listing: survey(&data).unwrap(), dir };
    found.unused(&[
        ("Dataset001_A/imagesTr/IM0001", UnusedReason::DicomInDataset),
        ("LICENSE", UnusedReason::NotAVolume),
        ("pacs/1.2.840.1", UnusedReason::DicomInDataset),
        ("pacs/IM0000", UnusedReason::DicomInDataset),
        ("pacs/old", UnusedReason::DicomWithoutPreamble),
        ("pacs/table.csv", UnusedReason::NotAVolume),
        ("pacs/z.dcm.gz", UnusedReason::Format { name: "DICOM compressed with gzip" }),
    ]);
}
