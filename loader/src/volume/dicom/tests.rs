//! Series as scanners and archives leave them.

#![expect(clippy::float_cmp, reason = "values that f32 holds exactly")]

use std::path::Path;

use dicom_core::VR;
use dicom_dictionary_std::tags;

use super::super::{Volume, read_info, read_info_for, read_series, read_volume};
use super::testing::{TestSlice, slices, write_series};
use super::*;
use crate::geometry::Affine;
use crate::preprocess::normalize::Normalize;
use crate::preprocess::{PreprocessConfig, preprocess};

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
    // Z-scores are for any modality.
    slices()[0].clone().text(tags::MODALITY, VR::CS, "SR").write(&dir.path().join("report.dcm"));
    let error = read_info_for(&dir.path().join("report.dcm"), Normalize::Zscore).unwrap_err().to_string();
    assert!(error.ends_with("DICOM of modality SR; expected a CT, MR, PET or NM image"), "{error}");
    std::fs::write(dir.path().join("README"), "text").unwrap();
    let error = read_info(&dir.path().join("README")).unwrap_err().to_string();
    assert!(error.contains("not a DICOM file"), "{error}");
}

#[test]
fn every_slice_lies_where_its_header_says() {
    // Coronal, sagittal and oblique images, and ones that run against the axes.
    let (c, s) = (0.3f64.cos(), 0.3f64.sin());
    for axes in [
        [1.0, 0.0, 0.0, 0.0, 0.0, -1.0],
        [0.0, 1.0, 0.0, 0.0, 0.0, -1.0],
        [-1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        [c, s, 0.0, -s, c, 0.0],
        [c, 0.0, s, 0.0, 1.0, 0.0],
    ] {
        let [ax, ay, az, bx, by, bz] = axes;
        let normal = [ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx];
        // The numbers of the files run against the normal.
        let position = |number: u16| normal.map(|part| 5.0 - 3.0 * part * f64::from(number));
        let text = axes.map(|part| format!("{part:.12}")).join("\\");
        let series: Vec<TestSlice> = (0..4)
            .map(|number| {
                let slice = TestSlice::new(0.0, 1000 + 100 * number).at(position(number));
                slice.text(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, &text)
            })
            .collect();
        let volume = read(&series).unwrap();
        let read = values(&volume);
        let affine = volume.info.affine;
        for z in 0..4usize {
            // The number of the file whose pixels are here.
            let number = [0u16, 1, 2, 3].into_iter().find(|n| read[z * 6] == f32::from(100 * n) - 24.0).unwrap();
            for (x, y) in [(0, 0), (2, 0), (0, 1)] {
                let (side_x, side_y) = (0.5 * x as f64, 0.6 * y as f64);
                let first = position(number);
                let lps = [
                    first[0] + side_x * ax + side_y * bx,
                    first[1] + side_x * ay + side_y * by,
                    first[2] + side_x * az + side_y * bz,
                ];
                let ras = [-lps[0], -lps[1], lps[2]];
                for row in 0..3 {
                    let world = affine[row][0] * x as f64
                        + affine[row][1] * y as f64
                        + affine[row][2] * z as f64
                        + affine[row][3];
                    assert!((world - ras[row]).abs() < 1e-6, "{axes:?} at {x},{y},{z}: {world} not {}", ras[row]);
                }
                assert_eq!(read[z * 6 + y * 3 + x], read[z * 6] + (y * 3 + x) as f32 * 10.0);
            }
        }
        assert!(notes(&volume).is_empty(), "{:?}", notes(&volume));
    }
}

#[test]
fn values_of_other_modalities_have_no_unit() {
    let mr = |slice: TestSlice| {
        let slice = slice.text(tags::MODALITY, VR::CS, "MR").without(tags::RESCALE_SLOPE);
        slice.without(tags::RESCALE_INTERCEPT).text(tags::RESCALE_TYPE, VR::LO, "US")
    };
    let series: Vec<TestSlice> = slices().into_iter().map(mr).collect();
    let stored: Vec<f32> = expected().into_iter().map(|hu| hu + 1024.0).collect();
    let volume = read(&series).unwrap();
    assert_eq!(values(&volume), stored);
    assert!(notes(&volume).is_empty(), "{:?}", notes(&volume));
    // Padding of 0 is what padding becomes; another value may be tissue.
    let padded = |value: u16| -> Vec<TestSlice> {
        series.iter().map(|slice| slice.clone().number(tags::PIXEL_PADDING_VALUE, value)).collect()
    };
    let volume = read(&padded(0)).unwrap();
    assert!(values(&volume) == stored && notes(&volume).is_empty(), "{:?}", notes(&volume));
    let volume = read(&padded(1010)).unwrap();
    assert_eq!(values(&volume), stored);
    assert_eq!(notes(&volume), ["PixelPaddingValue means 1010, which tissue may have; such voxels are kept"]);
    // A range that begins with 0, in any slice.
    for first_slice in [0, 1] {
        let mut series = padded(0);
        for slice in &mut series[first_slice..] {
            *slice = slice.clone().number(tags::PIXEL_PADDING_RANGE_LIMIT, 1010);
        }
        let volume = read(&series).unwrap();
        assert_eq!(values(&volume), stored);
        let text =
            "PixelPaddingValue to PixelPaddingRangeLimit means 0 to 1010, which tissue may have; such voxels are kept";
        assert_eq!(notes(&volume), [text]);
    }
    // Below 0 nothing but padding is expected: such voxels become empty.
    let negative: Vec<TestSlice> = slices()
        .into_iter()
        .map(|slice| {
            let slice = slice.text(tags::MODALITY, VR::CS, "MR").text(tags::RESCALE_INTERCEPT, VR::DS, "-1010");
            slice.number(tags::PIXEL_PADDING_VALUE, 1000)
        })
        .collect();
    let volume = read(&negative).unwrap();
    let mut wanted: Vec<f32> = stored.iter().map(|value| value - 1010.0).collect();
    wanted[0] = 0.0;
    assert_eq!(values(&volume), wanted);
    let mut mixed = slices();
    mixed[2] = mr(mixed[2].clone());
    check_refused(&mixed, "images of different modalities in one series");
}

#[test]
fn each_slice_has_its_own_rescaling() {
    let mut series = slices();
    series[1] =
        series[1].clone().text(tags::RESCALE_SLOPE, VR::DS, "2.5").text(tags::RESCALE_INTERCEPT, VR::DS, "+1E2 ");
    let read_values = values(&read(&series).unwrap());
    let mut wanted = expected();
    for (at, value) in wanted[6..12].iter_mut().enumerate() {
        *value = (1100.0 + 10.0 * at as f32) * 2.5 + 100.0;
    }
    assert_eq!(read_values, wanted);
    let plain: Vec<TestSlice> =
        slices().iter().map(|s| s.clone().without(tags::RESCALE_SLOPE).without(tags::RESCALE_INTERCEPT)).collect();
    let volume = read(&plain).unwrap();
    assert_eq!(values(&volume)[0], 1000.0);
    assert_eq!(notes(&volume), ["no RescaleSlope and RescaleIntercept; stored values are taken as HU"]);
    let other: Vec<TestSlice> = slices().iter().map(|s| s.clone().text(tags::RESCALE_TYPE, VR::LO, "US")).collect();
    assert_eq!(notes(&read(&other).unwrap()), ["RescaleType is US, not HU; values are taken as HU"]);
}

#[test]
fn a_series_with_a_rescaling_in_some_images_only_is_refused() {
    let mut series = slices();
    for slice in &mut series[1..3] {
        *slice = slice.clone().without(tags::RESCALE_SLOPE).without(tags::RESCALE_INTERCEPT);
    }
    let text = "series 3 \"Abdomen 1.5 / B30f\": 2 of 4 images without RescaleSlope and RescaleIntercept, such as \
                IM_0001, which the others have;";
    check_refused(&series, text);
    let as_mr = |slice: &TestSlice| slice.clone().text(tags::MODALITY, VR::CS, "MR");
    check_refused(&series.iter().map(as_mr).collect::<Vec<_>>(), text);
    series[1] = series[1].clone().text(tags::RESCALE_SLOPE, VR::DS, "1");
    check_refused(&series, "RescaleIntercept is missing");
    let mut series = slices();
    series[2] = series[2].clone().text(tags::RESCALE_TYPE, VR::LO, "US");
    check_refused(&series, "images of different rescale types in one series");
    // HU is what an unnamed unit means.
    series[2] = series[2].clone().without(tags::RESCALE_TYPE);
    assert!(notes(&read(&series).unwrap()).is_empty());
}

#[test]
fn an_inverted_display_is_told_and_the_values_are_kept() {
    let inverted = |slice: TestSlice| slice.text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME1");
    let series: Vec<TestSlice> = slices().into_iter().map(inverted).collect();
    let volume = read(&series).unwrap();
    assert_eq!(values(&volume), expected());
    let text = "PhotometricInterpretation is MONOCHROME1, which inverts the display only (DICOM PS3.3 C.7.6.3.1.2); values \
                are not inverted";
    assert_eq!(notes(&volume), [text]);
}

#[test]
fn padding_becomes_air() {
    // With one rescaling, and with several.
    let padded = |value: u16| {
        let slice = |slice: &TestSlice| {
            let slice = slice.clone().text(tags::RESCALE_INTERCEPT, VR::DS, "-3000");
            slice.number(tags::PIXEL_PADDING_VALUE, value)
        };
        slices().iter().map(slice).collect::<Vec<TestSlice>>()
    };
    for intercept in ["-3000", "-2976.5"] {
        let mut series = padded(1010);
        series[3] = series[3].clone().text(tags::RESCALE_INTERCEPT, VR::DS, intercept);
        let values = values(&read(&series).unwrap());
        assert_eq!(values[..3], [-2000.0, -1024.0, -1980.0], "{intercept}");
    }
    let range: Vec<TestSlice> =
        padded(1020).iter().map(|s| s.clone().number(tags::PIXEL_PADDING_RANGE_LIMIT, 1005)).collect();
    assert_eq!(values(&read(&range).unwrap())[..4], [-2000.0, -1024.0, -1024.0, -1970.0]);
}

#[test]
fn padding_with_a_value_of_tissue_is_not_taken_as_padding() {
    // -14 HU, as programs leave it that rescale images and keep the tag.
    let series: Vec<TestSlice> = slices().iter().map(|s| s.clone().number(tags::PIXEL_PADDING_VALUE, 1010)).collect();
    let volume = read(&series).unwrap();
    assert_eq!(values(&volume)[..3], [-24.0, -14.0, -4.0]);
    assert_eq!(notes(&volume), ["PixelPaddingValue means -14 HU, a value of tissue; such voxels are kept"]);
    // Tissue between two values that are not of tissue.
    let range = |slice: TestSlice| {
        let slice = slice.number(tags::PIXEL_PADDING_VALUE, 0);
        slice.number(tags::PIXEL_PADDING_RANGE_LIMIT, 5000)
    };
    let volume = read(&slices().into_iter().map(range).collect::<Vec<_>>()).unwrap();
    assert_eq!(values(&volume), expected());
    let text = "PixelPaddingValue to PixelPaddingRangeLimit means -1024 to 3976 HU, with values of tissue; such voxels are kept";
    assert_eq!(notes(&volume), [text]);
}

#[test]
fn stored_bits_are_numbers_and_others_are_not() {
    let form = |pixels: &[u16], signed: u16, stored: u16, high: u16| {
        let series: Vec<TestSlice> = slices()
            .iter()
            .map(|s| {
                let s = s.clone().pixels(pixels).number(tags::PIXEL_REPRESENTATION, signed);
                s.number(tags::BITS_STORED, stored).number(tags::HIGH_BIT, high)
            })
            .collect();
        values(&read(&series).unwrap())[..3].to_vec()
    };
    assert_eq!(form(&[0xf3e8, 0x0000, 0x8fff, 0, 0, 0], 0, 12, 11), [-24.0, -1024.0, 3071.0]);
    assert_eq!(form(&[0xffff, 0x0fff, 0x0800, 0, 0, 0], 1, 12, 11), [-1025.0, -1025.0, -3072.0]);
    assert_eq!(form(&[0xfff0, 0x0010, 0x8000, 0, 0, 0], 1, 12, 15), [-1025.0, -1023.0, -3072.0]);
    assert_eq!(form(&[0xf830, 0x8000, 0x7fff, 0, 0, 0], 1, 16, 15), [-3024.0, -33792.0, 31743.0]);
    assert_eq!(form(&[0xffff, 0x8000, 0x0000, 0, 0, 0], 0, 16, 15), [64511.0, 31744.0, -1024.0]);
}

#[test]
fn slices_that_are_there_twice_are_used_once() {
    let mut series = slices();
    series.insert(2, series[1].clone());
    series.insert(2, series[1].clone());
    let volume = read(&series).unwrap();
    assert_eq!((volume.info.shape, values(&volume)), ([3, 2, 4], expected()));
    assert_eq!(notes(&volume), ["2 files repeat a slice with the same pixels; each slice is used once"]);
    series[2] = TestSlice::new(2.0, 1101);
    check_refused(
        &series,
        "series 3 \"Abdomen 1.5 / B30f\": 1 images share their position with a different one, such as IM_000",
    );
}

#[test]
fn gaps_and_varying_distances_are_refused() {
    let at = |places: &[f64]| places.iter().map(|z| TestSlice::new(*z, 1000)).collect::<Vec<_>>();
    // Files are numbered from the end.
    check_refused(
        &at(&[0.0, 2.0, 4.0, 8.0, 10.0, 16.0]),
        "3 of 9 slices missing, the first between IM_0003 and IM_0002",
    );
    check_refused(&at(&[0.0, 2.0, 4.0, 6.0, 10.0]), "1 of 6 slices missing, the first between IM_0001 and IM_0000");
    check_refused(
        &at(&[0.0, 2.0, 4.0, 7.0, 10.0]),
        "distances between slices from 2.000 to 3.000 mm; expected equal ones",
    );
    check_refused(&at(&[0.0]), "only one slice; a volume takes two or more");
    // Positions that were rounded to a tenth of a millimetre.
    let rounded = read(&at(&[0.0, 1.3, 2.5, 3.8, 5.0])).unwrap();
    check_affine(
        &rounded.info.affine,
        &[[-0.5, 0.0, 0.0, 10.0], [0.0, -0.6, 0.0, -20.0], [0.0, 0.0, 1.25, 0.0], LAST_ROW],
    );
    // A jump sideways.
    let mut series = at(&[0.0, 2.0, 4.0, 6.0]);
    series[1] = series[1].clone().at([-9.0, 20.0, 2.0]);
    check_refused(&series, "distances between slices from 2.000 to 2.236 mm");
}

#[test]
fn a_tilted_gantry_shears_the_grid() {
    let series: Vec<TestSlice> = slices()
        .into_iter()
        .enumerate()
        .map(|(number, slice)| slice.at([-10.0, 20.0 + number as f64, 2.0 * number as f64]))
        .collect();
    let volume = read(&series).unwrap();
    let sheared = [[-0.5, 0.0, 0.0, 10.0], [0.0, -0.6, -1.0, -20.0], [0.0, 0.0, 2.0, 0.0], LAST_ROW];
    check_affine(&volume.info.affine, &sheared);
    let expected = "slices tilted by 26.6 degrees against their stack (gantry tilt); the grid is sheared";
    assert_eq!(notes(&volume), [expected]);
    // MONAI's grid has perpendicular axes.
    let config = PreprocessConfig { spacing: Some([0.5; 3]), ..PreprocessConfig::default() };
    let upright = preprocess(&volume, None, &config).unwrap().geometry.affine;
    let column = |axis: usize| [upright[0][axis], upright[1][axis], upright[2][axis]];
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        assert!(slice::dot(column(a), column(b)).abs() < 1e-9, "{upright:?}");
    }
}

#[test]
fn images_that_make_no_volume_are_refused_by_what_differs() {
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

/// Pixels 1000, 1010, …, 1050 as JPEG Lossless of 12 bits (made with liblj92, and read alike by two other decoders).
const JPEG: &str = "ffd8ffc40016000101010000000000000000000000000004050bffc3000b0c0002000301001100ffda0008010000060000cf9d4abcf780\
                    ffd9";

fn jpeg() -> Vec<u8> {
    let digits = JPEG.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// Pixels 1000, 1010, …, 1050 as RLE.
fn rle() -> Vec<u8> {
    let mut data: Vec<u8> = [2u32, 64, 70].into_iter().chain([0; 13]).flat_map(u32::to_le_bytes).collect();
    let pixels: Vec<u16> = (0..6).map(|at| 1000 + 10 * at).collect();
    // Literal runs: the high bytes with one byte too many for an even length, then the low bytes.
    data.extend([254, 3, 254, 4, 128, 128]);
    data.push(5);
    data.extend(pixels.iter().map(|pixel| pixel.to_le_bytes()[0]));
    data.push(128);
    data
}

#[test]
fn transfer_syntaxes_give_the_same_pixels_or_are_named() {
    for syntax in ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"] {
        let series: Vec<TestSlice> = slices().into_iter().map(|slice| slice.syntax(syntax)).collect();
        let volume = read(&series).unwrap();
        assert_eq!(values(&volume), expected(), "{syntax}");
    }
    let compressed = |syntax: &str, fragments: &[&[u8]]| {
        let series: Vec<TestSlice> = slices().into_iter().map(|slice| slice.encapsulated(syntax, fragments)).collect();
        read(&series).map(|volume| values(&volume)[..6].to_vec())
    };
    let wanted: Vec<f32> = expected()[..6].to_vec();
    let whole = jpeg();
    for syntax in ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57"] {
        assert_eq!(compressed(syntax, &[&whole]), Ok(wanted.clone()));
        assert_eq!(compressed(syntax, &[&whole[..30], &whole[30..]]), Ok(wanted.clone()), "two fragments");
    }
    let damaged = compressed("1.2.840.10008.1.2.4.70", &[&whole[..20]]).unwrap_err();
    assert!(damaged.contains("damaged JPEG data"), "{damaged}");
    let mut wide = whole.clone();
    // The height in the frame's header.
    let at = wide.windows(2).position(|pair| pair == [0xff, 0xc3]).unwrap();
    wide[at + 5..at + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    let message = compressed("1.2.840.10008.1.2.4.70", &[&wide]).unwrap_err();
    assert!(message.contains("a JPEG of 65535 x 65535 pixels; expected 3 x 2"), "{message}");
    assert_eq!(compressed("1.2.840.10008.1.2.5", &[&rle()]), Ok(wanted));
    assert_eq!(compressed("1.2.840.10008.1.2.5", &[&rle()[..70]]), Err("pixel data: damaged RLE data".to_owned()));
    for (uid, name) in [("1.2.840.10008.1.2.4.90", "JPEG 2000"), ("1.2.840.10008.1.2.4.80", "JPEG-LS")] {
        let message = compressed(uid, &[&whole]).unwrap_err();
        let end = format!("({uid}) is not read; decompress the files first");
        assert!(message.contains(name) && message.ends_with(&end), "{message}");
    }
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
            other("dir.dcm", "file without the element Modality"),
            other("empty.dcm", "the file is empty (0 bytes)"),
            other("mr.dcm", "of modality MR"),
            other("shot.dcm", "of class 1.2.840.10008.5.1.4.1.1.7 (a screen shot or a report)"),
            other("topo", "localizer"),
        ]
    );
}
