//! Series as scanners and archives write them, and damaged ones.

#![expect(clippy::float_cmp, reason = "values that f32 holds exactly")]

mod grid;
mod pixels;

use std::path::Path;

use dicom_core::VR;
use dicom_dictionary_std::tags;

use super::super::{Volume, read_info, read_info_for, read_series, read_volume};
use super::testing::{TestSlice, slices, write_series};
use super::*;
use crate::geometry::Affine;

const LAST_ROW: [f64; 4] = [0.0, 0.0, 0.0, 1.0];

fn read(slices: &[TestSlice]) -> Result<Volume, String> {
    let dir = tempfile::tempdir().unwrap();
    let files = write_series(dir.path(), slices);
    read_series(&files).map_err(|err| err.reason.to_string())
}

fn values(volume: &Volume) -> Vec<f32> {
    let mut values = vec![0.0; volume.info.shape.iter().product()];
    volume.read_f32(0, &mut values);
    values
}

/// HU of [`slices`].
fn expected() -> Vec<f32> {
    (0..4u8).flat_map(|z| (0..6u8).map(move |at| f32::from(z) * 100.0 + f32::from(at) * 10.0 - 24.0)).collect()
}

fn notes(volume: &Volume) -> Vec<String> {
    volume.info.notes.iter().map(ToString::to_string).collect()
}

/// Checks the message of an unusable series.
fn check_refused(slices: &[TestSlice], expected: &str) {
    let error = read(slices).unwrap_err();
    assert!(error.contains(expected) && !error.contains('\n'), "{error}\nexpected {expected}");
}

fn check_affine(affine: &Affine, expected: &Affine) {
    for (a, b) in affine.as_flattened().iter().zip(expected.as_flattened()) {
        assert!((a - b).abs() < 1e-9, "{affine:?}\nexpected {expected:?}");
    }
}

#[test]
fn slices_are_ordered_by_position_and_rescaled_to_hu() {
    let volume = read(&slices()).unwrap();
    assert_eq!(volume.info.shape, [3, 2, 4]);
    let expected_affine = [[-0.5, 0.0, 0.0, 10.0], [0.0, -0.6, 0.0, -20.0], [0.0, 0.0, 2.0, 0.0], LAST_ROW];
    check_affine(&volume.info.affine, &expected_affine);
    assert_eq!(values(&volume), expected());
    assert!(notes(&volume).is_empty(), "{:?}", notes(&volume));
}

#[test]
fn a_path_names_the_series_that_its_file_belongs_to() {
    let dir = tempfile::tempdir().unwrap();
    let files = write_series(dir.path(), &slices());
    let other: Vec<TestSlice> = slices().into_iter().map(|s| s.text(tags::SERIES_INSTANCE_UID, VR::UI, "9")).collect();
    assert_eq!(read_info(dir.path()).unwrap().shape, [3, 2, 4]);
    assert_eq!(values(&read_volume(dir.path()).unwrap()), expected());
    for (number, slice) in other.iter().take(2).enumerate() {
        slice.write(&dir.path().join(format!("other{number}.dcm")));
    }
    assert_eq!(read_info(&files[2]).unwrap().shape, [3, 2, 4]);
    assert_eq!(read_info(&dir.path().join("other1.dcm")).unwrap().shape, [3, 2, 2]);
    let error = read_info(dir.path()).unwrap_err().to_string();
    assert!(error.contains("2 CT series of DICOM files in this folder; expected one"), "{error}");
    slices()[0].clone().text(tags::MODALITY, VR::CS, "MR").write(&dir.path().join("mr.dcm"));
    let error = read_info(&dir.path().join("mr.dcm")).unwrap_err().to_string();
    assert!(error.ends_with("DICOM of modality MR; expected a CT image"), "{error}");
    // A report is not an image of any modality.
    slices()[0].clone().text(tags::MODALITY, VR::CS, "SR").write(&dir.path().join("report.dcm"));
    let error = read_info_for(&dir.path().join("report.dcm"), Wanted::CrossSections).unwrap_err().to_string();
    assert!(error.ends_with("DICOM of modality SR; expected a CT, MR, PET or NM image"), "{error}");
    std::fs::write(dir.path().join("README"), "text").unwrap();
    let error = read_info(&dir.path().join("README")).unwrap_err().to_string();
    assert!(error.contains("not a DICOM file"), "{error}");
}

#[test]
fn images_that_make_no_volume_are_refused_with_the_difference() {
    let with = |change: &dyn Fn(TestSlice) -> TestSlice| {
        let mut series = slices();
        series[1] = change(series[1].clone());
        series
    };
    let series = "series 3 \"Abdomen 1.5 / B30f\": images of different";
    let mixed =
        |property: &str| format!("{series} {property} in one series, such as IM_0000 and IM_0002; separate them");
    check_refused(&with(&|s| s.number(tags::ROWS, 3).pixels(&[0; 9])), &mixed("sizes"));
    let turned = "1\\0\\0\\0\\0\\-1";
    check_refused(&with(&|s| s.text(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, turned)), &mixed("orientations"));
    check_refused(&with(&|s| s.text(tags::PIXEL_SPACING, VR::DS, "0.7\\0.5")), &mixed("pixel spacings"));
    check_refused(&with(&|s| s.number(tags::PIXEL_REPRESENTATION, 1)), &mixed("pixel representations"));
    check_refused(&with(&|s| s.text(tags::NUMBER_OF_FRAMES, VR::IS, "2")), "enhanced multi-frame DICOM; convert it");
    let enhanced = "1.2.840.10008.5.1.4.1.1.2.1";
    check_refused(&with(&|s| s.text(tags::SOP_CLASS_UID, VR::UI, enhanced)), "enhanced multi-frame DICOM");
    check_refused(&with(&|s| s.number(tags::SAMPLES_PER_PIXEL, 3)), "SamplesPerPixel is 3; expected 1");
    check_refused(
        &with(&|s| s.without(tags::IMAGE_POSITION_PATIENT)),
        "ImagePositionPatient is missing or not 3 numbers",
    );
    check_refused(&with(&|s| s.text(tags::PIXEL_SPACING, VR::DS, "0\\1")), "PixelSpacing is 0\\1; expected positive");
    check_refused(&with(&|s| s.text(tags::RESCALE_SLOPE, VR::DS, "0")), "RescaleSlope is 0");
    check_refused(&with(&|s| s.text(tags::RESCALE_SLOPE, VR::DS, "one")), "RescaleSlope is missing or not 1 numbers");
    check_refused(&with(&|s| s.number(tags::BITS_ALLOCATED, 32)), "BitsAllocated is 32; expected 8 or 16");
    check_refused(&with(&|s| s.number(tags::HIGH_BIT, 16)), "HighBit is 16");
    check_refused(&with(&|s| s.pixels(&[1; 5])), "pixel data: 10 bytes; expected 12 for 3 x 2 pixels");
    check_refused(&with(&|s| s.without(tags::PIXEL_DATA)), "pixel data: missing");
    check_refused(
        &with(&|s| s.text(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, "1\\0\\0\\1\\0\\0")),
        "ImageOrientationPatient is not two perpendicular directions",
    );
}

#[test]
fn damaged_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let files = write_series(dir.path(), &slices());
    let whole = std::fs::read(&files[1]).unwrap();
    for len in 0..whole.len() {
        std::fs::write(&files[1], &whole[..len]).unwrap();
        assert!(read_series(&files).is_err(), "{len} of {} bytes", whole.len());
    }
    // Any byte, changed in any way, may be an error or another value, and is never a panic.
    let mut state = 1u32;
    for at in 128..whole.len() {
        for _ in 0..2 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mut damaged = whole.clone();
            damaged[at] = state.to_le_bytes()[3];
            std::fs::write(&files[1], &damaged).unwrap();
            let _ = read_series(&files);
        }
    }
}

#[test]
fn hostile_lengths_and_nesting_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = write_series(dir.path(), &slices());
    let whole = std::fs::read(&files[0]).unwrap();
    let meta_len = usize::try_from(u32::from_le_bytes(whole[140..144].try_into().unwrap())).unwrap();
    let read = |dataset: &[u8]| {
        std::fs::write(&files[0], [&whole[..144 + meta_len], dataset].concat()).unwrap();
        read_series(&files).unwrap_err().reason.to_string()
    };
    // The end of an item outside of any, and an item behind it.
    let stray = [0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0, 0xfe, 0xff, 0x00, 0xe0, 0, 0, 0, 0];
    assert!(read(&stray).contains("the end of an item that did not begin"), "{}", read(&stray));
    // An undefined length in a sequence in a sequence, and so on.
    let sequence: &[u8] = &[0x08, 0, 0x40, 0x11, b'S', b'Q', 0, 0, 255, 255, 255, 255];
    let item: &[u8] = &[0xfe, 0xff, 0x00, 0xe0, 255, 255, 255, 255];
    assert!(read(&[sequence, item].concat().repeat(100_000)).contains("nested too deeply"));
    // Four gigabytes of text.
    let text = [0x08, 0, 0x3e, 0x10, b'U', b'T', 0, 0, 0xf0, 255, 255, 255, b'a'];
    assert!(read(&text).contains("is missing"), "{}", read(&text));
    assert_eq!(read(b""), "Rows is missing");
}

#[test]
fn files_are_sorted_into_series() {
    let dir = tempfile::tempdir().unwrap();
    let in_series = |uid: &str, number: &str, name: &str| {
        let slice = TestSlice::new(0.0, 1000).text(tags::SERIES_INSTANCE_UID, VR::UI, uid);
        slice.text(tags::SERIES_NUMBER, VR::IS, number).text(tags::SERIES_DESCRIPTION, VR::LO, name)
    };
    let write = |name: &str, slice: &TestSlice| slice.write(&dir.path().join(name));
    write("a1.dcm", &in_series("1.1", "2", "Thorax 1.5 B30f"));
    write("a2.dcm", &in_series("1.1", "2", "Thorax 1.5 B30f"));
    write("b.dcm", &in_series("1.2", "2", "Thorax 1.5 B30f"));
    write("c.IMA", &in_series("1.3", "11", "../../Größe"));
    write("1.2.840.7", &in_series("1.4", "", ""));
    write("topo", &in_series("1.5", "1", "Topogram").text(tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\LOCALIZER"));
    write("mr.dcm", &in_series("1.6", "1", "").text(tags::MODALITY, VR::CS, "MR"));
    write("shot.dcm", &in_series("1.7", "1", "").text(tags::SOP_CLASS_UID, VR::UI, "1.2.840.10008.5.1.4.1.1.7"));
    write("dir.dcm", &in_series("1.8", "1", "").without(tags::MODALITY));
    write("bare.dcm", &in_series("1.9", "1", "").without(tags::SOP_CLASS_UID));
    write("lone.dcm", &in_series("1.10", "1", "").without(tags::SERIES_INSTANCE_UID));
    let shot = in_series("1.11", "1", "").text(tags::SOP_CLASS_UID, VR::UI, "1.2.840.10008.5.1.4.1.1.7");
    write("lone_shot.dcm", &shot.without(tags::SERIES_INSTANCE_UID));
    std::fs::write(dir.path().join("LICENSE"), "text").unwrap();
    std::fs::write(dir.path().join("empty.dcm"), "").unwrap();
    std::fs::write(dir.path().join("notes.txt"), "text").unwrap();
    let Sorted { series, others } = sort(&candidates(dir.path()).unwrap());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let found: Vec<(String, Vec<String>)> =
        series.iter().map(|s| (s.name.clone(), s.files.iter().map(|file| name(file)).collect())).collect();
    let digest = |uid: &str| blake3::hash(uid.as_bytes()).to_hex()[..8].to_owned();
    let mut wanted = vec![
        (format!("002-Thorax_1.5_B30f-{}", digest("1.1")), vec!["a1.dcm".to_owned(), "a2.dcm".to_owned()]),
        (format!("002-Thorax_1.5_B30f-{}", digest("1.2")), vec!["b.dcm".to_owned()]),
        ("011-Gr__e".to_owned(), vec!["c.IMA".to_owned()]),
        (digest("1.4"), vec!["1.2.840.7".to_owned()]),
    ];
    wanted.sort();
    assert_eq!(found, wanted);
    let others: Vec<(String, String)> =
        others.iter().map(|other| (name(&other.path), other.reason.to_string())).collect();
    let other = |name: &str, reason: &str| (name.to_owned(), reason.to_owned());
    assert_eq!(
        others,
        [
            other("LICENSE", "not a DICOM file"),
            other("bare.dcm", "file without the element SOPClassUID"),
            other("dir.dcm", "file without the element Modality"),
            other("empty.dcm", "the file is empty (0 bytes)"),
            other("lone.dcm", "file without the element SeriesInstanceUID"),
            other("lone_shot.dcm", "of class 1.2.840.10008.5.1.4.1.1.7 (a screen shot or a report)"),
            other("mr.dcm", "of modality MR"),
            other("shot.dcm", "of class 1.2.840.10008.5.1.4.1.1.7 (a screen shot or a report)"),
            other("topo", "localizer"),
        ]
    );
}
