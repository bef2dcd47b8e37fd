//! Headers and label maps, each compared with the value that nibabel 5.4.2 gives, unless stated otherwise.

#![expect(clippy::float_cmp, reason = "values that f32 holds exactly")]

use std::path::Path;

use super::super::{Volume, read_info, read_labels, read_volume};
use super::testing::TestFile;
use super::*;

/// File with distinct voxels, so that a mistaken axis or direction is noticed.
fn file() -> TestFile {
    let voxels: Vec<i16> = (0..2 * 3 * 4).map(|at| at * 10 - 50).collect();
    TestFile::new([2, 3, 4], &voxels)
}

fn header(file: &TestFile) -> Result<(VolumeInfo, u64), String> {
    parse_header(&file.to_bytes()).map_err(|fault| fault.to_string())
}

fn info(file: &TestFile) -> Result<VolumeInfo, String> {
    header(file).map(|(info, _)| info)
}

fn read(file: &TestFile, name: &str) -> Result<Volume, VolumeError> {
    let dir = tempfile::tempdir().unwrap();
    read_volume(&file.write(&dir.path().join(name)))
}

fn check_affine(file: &TestFile, expected: Affine, notes: &[HeaderNote]) {
    let info = info(file).unwrap();
    for (actual, expected) in info.affine.as_flattened().iter().zip(expected.as_flattened()) {
        assert!((actual - expected).abs() < 1e-6, "{:?}\nexpected {expected:?}", info.affine);
    }
    assert_eq!(info.notes, notes);
}

fn diagonal(sides: [f64; 3], origin: [f64; 3]) -> Affine {
    let row = |r: usize| -> [f64; 4] {
        std::array::from_fn(|c| {
            if c == 3 {
                origin[r]
            } else if c == r {
                sides[r]
            } else {
                0.0
            }
        })
    };
    [row(0), row(1), row(2), [0.0, 0.0, 0.0, 1.0]]
}

fn without_sform() -> TestFile {
    file().sform(0, &[[0.0; 4]; 3])
}

#[test]
fn negative_spacings_lose_their_sign() {
    let file = without_sform().sides([-0.8, 0.8, -5.0]).qform(1, [0.0; 3], [1.0, 2.0, 3.0]);
    check_affine(&file, diagonal([0.800_000_011_9, 0.800_000_011_9, 5.0], [1.0, 2.0, 3.0]), &[]);
}

#[test]
fn zero_spacings_become_one() {
    let file = without_sform().sides([0.0, 2.0, 3.0]).qform(1, [0.0; 3], [0.0; 3]);
    check_affine(&file, diagonal([1.0, 2.0, 3.0], [0.0; 3]), &[HeaderNote::ZeroSides { axes: vec![0] }]);
}

#[test]
fn without_transforms_the_first_axis_runs_to_the_left() {
    let expected = diagonal([-2.0, 2.0, 2.0], [1.0, -2.0, -3.0]);
    check_affine(&without_sform(), expected, &[HeaderNote::NoTransform]);
    let zero = HeaderNote::ZeroSides { axes: vec![1, 2] };
    let text = "voxel side of 0 along y, z (pixdim), taken as 1 mm, as in nibabel; correct the header";
    assert_eq!(zero.to_string(), text);
    let one_mm = diagonal([-2.0, 1.0, 1.0], [1.0, -1.0, -1.5]);
    check_affine(&without_sform().sides([2.0, 0.0, 0.0]), one_mm, &[zero, HeaderNote::NoTransform]);
    // A code that the standard does not know counts as none.
    check_affine(&file().put(254, &9i16.to_le_bytes()), expected, &[HeaderNote::NoTransform]);
}

#[test]
fn an_impossible_quaternion_is_refused_where_it_is_used() {
    let file = without_sform().qform(1, [0.9, 0.9, 0.0], [0.0; 3]);
    assert!(info(&file).unwrap_err().contains("impossible quaternion 0.9, 0.9, 0"));
    let with_sform = file.sform(1, &[[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]);
    check_affine(&with_sform, diagonal([2.0; 3], [0.0; 3]), &[]);
    // Longer than 1 by rounding is a half turn.
    let file = without_sform().qform(1, [0.0, 0.0, 1.000_000_1], [0.0; 3]);
    check_affine(&file, diagonal([-2.0, -2.0, 2.0], [0.0; 3]), &[]);
}

#[test]
fn a_sform_with_other_sides_than_pixdim_is_used_and_told() {
    let rows = [[-4.0, 0.0, 0.0, 9.0], [0.0, -2.0, 0.0, 7.0], [0.0, 0.0, 2.0, -5.0]];
    let expected = diagonal([-4.0, -2.0, 2.0], [9.0, 7.0, -5.0]);
    let told = |pixdim: [f64; 3]| [HeaderNote::SformSides { sform: [4.0, 2.0, 2.0], pixdim }];
    // The qform changes nothing, set or not, readable or not.
    for code in [0, 1] {
        for quaternion in [[0.0, 0.0, 1.0], [0.9, 0.9, 0.0], [f32::NAN, 0.0, 0.0]] {
            let scan = file().sform(1, &rows).sides([2.0; 3]).qform(code, quaternion, [1.0, 2.0, 3.0]);
            check_affine(&scan, expected, &told([2.0; 3]));
        }
    }
    check_affine(&file().sform(1, &rows).sides([0.0; 3]), expected, &told([0.0; 3]));
    let text = "sform with sides 4 x 2 x 2, pixdim with 2 x 2 x 2: the sform is used, as in nibabel (MONAI may take the \
                qform); correct the header";
    assert_eq!(told([2.0; 3])[0].to_string(), text);
}

#[test]
fn a_sheared_sform_keeps_its_shear() {
    // A gantry tilted by 20 degrees: `pixdim` has the distance of the slices, the third column is longer.
    let rows = [[-2.0, 0.0, 0.0, 0.0], [0.0, -2.0, 0.73, 0.0], [0.0, 0.0, 2.0, 0.0]];
    let scan = info(&file().sform(1, &rows).sides([2.0; 3]).qform(1, [0.0, 0.0, 1.0], [0.0; 3])).unwrap();
    assert!((scan.affine[1][2] - 0.73).abs() < 1e-6, "{:?}", scan.affine);
}

#[test]
fn sides_that_differ_by_rounding_are_not_told() {
    let with = |side: f32| {
        let rows = [[-side, 0.0, 0.0, 9.0], [0.0, -2.0, 0.0, 7.0], [0.0, 0.0, 2.0, -5.0]];
        info(&file().sform(1, &rows).sides([2.0; 3])).unwrap()
    };
    assert!(with(2.001).notes.is_empty());
    assert_eq!(with(2.5).notes.len(), 1);
}

#[test]
fn disagreeing_transforms_are_reported_and_the_sform_is_used() {
    let sform = diagonal([-2.0, -2.0, 2.0], [9.0, 7.0, -5.0]);
    // The same place in both: a half turn about z.
    check_affine(&file().qform(1, [0.0, 0.0, 1.0], [9.0, 7.0, -5.0]), sform, &[]);
    check_affine(&file().qform(0, [0.0; 3], [0.0; 3]), sform, &[]);
    let shifted = file().qform(1, [0.0, 0.0, 1.0], [9.0, 7.0, 5.0]);
    check_affine(&shifted, sform, &[HeaderNote::TransformsDisagree { shift_mm: 10.0 }]);
}

#[test]
fn units_of_length_become_millimetres() {
    let scaled = |factor: f32| {
        let rows = [[-2.0, 0.0, 0.0, 9.0], [0.0, -2.0, 0.0, 7.0], [0.0, 0.0, 2.0, -5.0]];
        file().sform(1, &rows.map(|row: [f32; 4]| row.map(|value| value * factor)))
    };
    let mm = diagonal([-2.0, -2.0, 2.0], [9.0, 7.0, -5.0]);
    check_affine(&scaled(1e3).units(3), mm, &[HeaderNote::Converted { unit: "microns" }]);
    check_affine(&scaled(1e-3).units(1), mm, &[HeaderNote::Converted { unit: "metres" }]);
    // Seconds as unit of time change nothing.
    check_affine(&file().units(2 | 8), mm, &[]);
    check_affine(&file().units(0), mm, &[]);
    let ignored = |unit, side_mm| [HeaderNote::UnitIgnored { unit, side_mm }];
    check_affine(&file().units(3), mm, &ignored("microns", 2e-3));
    check_affine(&file().units(1), mm, &ignored("metres", 2e3));
}

#[test]
fn voxels_may_begin_where_nibabel_lets_them() {
    let with_offset = |offset: f32| file().floats(108, &[offset]);
    assert_eq!(header(&with_offset(0.0)).unwrap().1, 352);
    assert_eq!(header(&with_offset(352.0)).unwrap().1, 352);
    for offset in [348.0, 352.5, -352.0, f32::NAN, f32::INFINITY] {
        assert!(info(&with_offset(offset)).unwrap_err().contains("invalid vox_offset"), "{offset}");
    }
}

#[test]
fn voxels_may_begin_anywhere_up_to_the_end_of_the_file() {
    // 2 MB of extensions, as some programs store a whole protocol in the header.
    let bytes = file().floats(108, &[2e6]).to_bytes();
    let (head, data) = bytes.split_at(352);
    let far = [head, &vec![0; 2_000_000 - 352], data].concat();
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: &[u8]| -> Result<[f32; 2], VolumeFault> {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut values = [0.0; 24];
        read_volume(&path).map(|volume| volume.read_f32(0, &mut values)).map_err(|err| err.reason)?;
        Ok([values[0], values[23]])
    };
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    assert_eq!(check("a.nii", &far), Ok([-50.0, 180.0]));
    assert_eq!(check("a.nii.gz", &gzip(&far)), Ok([-50.0, 180.0]));
    let beyond = |offset: u64, len: usize| Err(VolumeFault::VoxOffsetBeyond { offset, len });
    assert_eq!(check("b.nii", &bytes), beyond(2_000_000, 400));
    // Offsets that no addition may overflow.
    let largest = file().floats(108, &[f32::MAX]).to_bytes();
    assert_eq!(check("c.nii", &largest), beyond(u64::MAX, 400));
    assert!(matches!(check("c.nii.gz", &gzip(&largest)), Err(VolumeFault::Promise { .. })));
    let fault = beyond(2_000_000, 400).unwrap_err().to_string();
    assert_eq!(
        fault,
        "vox_offset 2000000 lies beyond the 400 bytes of the file; copy the file again, or correct the header"
    );
}

#[test]
fn scaling_is_applied_left_out_or_refused_as_in_nibabel() {
    let first = |file: &TestFile| {
        let mut row = [0.0; 2];
        read(file, "a.nii").map(|volume| volume.read_f32(0, &mut row)).map(|()| row)
    };
    assert_eq!(first(&file()).unwrap(), [-50.0, -40.0]);
    assert_eq!(first(&file().scaling(0.5, 7.0)).unwrap(), [-18.0, -13.0]);
    for slope in [0.0, f32::NAN, f32::INFINITY] {
        assert_eq!(first(&file().scaling(slope, 7.0)).unwrap(), [-50.0, -40.0], "{slope}");
    }
    for intercept in [f32::NAN, f32::NEG_INFINITY] {
        let message = first(&file().scaling(0.5, intercept)).unwrap_err().to_string();
        assert!(message.contains("valid slope 0.5 but invalid intercept"), "{message}");
    }
}

#[test]
fn compression_is_recognised_by_content() {
    let dir = tempfile::tempdir().unwrap();
    let plain = file().to_bytes();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &plain).unwrap();
    let gzip = encoder.finish().unwrap();
    for (name, bytes) in [("a.nii", &plain), ("b.nii.gz", &plain), ("c.nii", &gzip), ("D.NII.GZ", &gzip)] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read_info(&path).unwrap().shape, [2, 3, 4], "{name}");
        let mut values = [0.0; 24];
        read_volume(&path).unwrap().read_f32(0, &mut values);
        assert_eq!((values[0], values[23]), (-50.0, 180.0), "{name}");
    }
}

fn labels(file: &TestFile) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = file.write(&dir.path().join("label.nii"));
    read_labels(&path).map(|label| label.voxels).map_err(|err| err.reason.to_string())
}

#[test]
fn labels_are_rounded() {
    let floats = |values: [f32; 4]| labels(&TestFile::new([2, 2, 1], &[]).with_f32(&values));
    assert_eq!(floats([0.0, 7.999_954, 4.000_08, 255.0]), Ok(vec![0, 8, 4, 255]));
    assert_eq!(floats([-0.000_1, 1.0, 1.0, 1.0]), Ok(vec![0, 1, 1, 1]));
    // 8-bit storage of 0 to 13 with a slope of 13/255 is off by up to half of it.
    let coarse = TestFile::new([2, 2, 1], &[]).with_u8(&[0, 255, 157, 98]).scaling(13.0 / 255.0, 0.0);
    assert_eq!(labels(&coarse), Ok(vec![0, 13, 8, 5]));
}

#[test]
fn voxels_that_are_not_labels_are_reported_with_their_place() {
    let floats = |values: [f32; 4]| labels(&TestFile::new([2, 2, 1], &[]).with_f32(&values)).unwrap_err();
    assert!(floats([0.0, 1.0, 2.4, 0.0]).starts_with("label value 2.4 at voxel 0,1,0;"));
    assert!(floats([0.0, -1.0, 2.0, 0.0]).starts_with("label value -1 at voxel 1,0,0;"));
    let too_large = floats([0.0, 1.0, 2.0, 256.0]);
    assert!(too_large.starts_with("label value 256 at voxel 1,1,0;") && too_large.ends_with("; renumber the classes"));
    let message = floats([f32::NAN, 1.0, f32::INFINITY, 2.5]);
    assert!(message.starts_with("2 of 4 voxels NaN or infinite;"), "{message}");
}

#[test]
fn numbers_of_the_shape_are_reported_with_their_sign() {
    let dim = |number: usize, value: i16| info(&file().put(40 + 2 * number, &value.to_le_bytes())).unwrap_err();
    for rank in [-3, 0, 8] {
        assert_eq!(dim(0, rank), format!("{rank} dimensions; a NIfTI file has 1 to 7"));
    }
    assert_eq!(dim(1, -18), "dim[1] is -18; expected a length of 1 to 32767");
    assert_eq!(dim(3, 0), "image of shape [2, 3, 0]; expected three lengths of 1 to 32767");
    let big_endian = file().put(0, &348i32.to_be_bytes()).put(40, &(-3i16).to_be_bytes());
    assert_eq!(info(&big_endian).unwrap_err(), "-3 dimensions; a NIfTI file has 1 to 7");
}

#[test]
fn an_empty_file_of_any_format_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mhd"] {
        let path = dir.path().join(name);
        std::fs::write(&path, "").unwrap();
        assert_eq!(read_info(&path).unwrap_err().reason, VolumeFault::Empty, "{name}");
        assert_eq!(read_volume(&path).unwrap_err().reason, VolumeFault::Empty, "{name}");
    }
}

#[test]
fn images_with_nan_are_refused() {
    let file = TestFile::new([2, 2, 1], &[]).with_f32(&[0.0, f32::NAN, 1.0, 2.0]);
    assert!(read(&file, "a.nii").unwrap_err().reason.to_string().starts_with("1 of 4 voxels NaN or infinite"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_fifo_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.nii.gz");
    super::testing::make_fifo(&path);
    assert_eq!(read_info(&path).unwrap_err().reason, VolumeFault::NotRegular);
    assert_eq!(read_volume(Path::new(&path)).unwrap_err().reason, VolumeFault::NotRegular);
}
