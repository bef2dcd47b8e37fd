//! Positions of slices, and the grid that they make.

use super::*;
use crate::preprocess::{PreprocessConfig, preprocess};
use crate::volume::HeaderNote;

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
fn slices_that_are_there_twice_are_used_once() {
    let mut series = slices();
    series.insert(2, series[1].clone());
    series.insert(2, series[1].clone());
    let volume = read(&series).unwrap();
    assert_eq!((volume.info.shape, values(&volume)), ([3, 2, 4], expected()));
    assert_eq!(notes(&volume), ["2 files repeat a slice with the same pixels; each slice is used once"]);
    assert!(HeaderNote::DuplicateSlices { count: 1 }.to_string().starts_with("1 file repeats a slice "));
    series[2] = TestSlice::new(2.0, 1101);
    check_refused(
        &series,
        "series 3 \"Abdomen 1.5 / B30f\": 1 image at the position of a different one, such as IM_000",
    );
}

#[test]
fn different_images_at_one_position_have_no_order() {
    let name = "series 3 \"Abdomen 1.5 / B30f\":";
    let anonymised: Vec<TestSlice> = slices().into_iter().map(|slice| slice.at([0.0; 3])).collect();
    check_refused(
        &anonymised,
        &format!("{name} ImagePositionPatient is the same in all 4 images; the order of slices is unknown"),
    );
    // Positions of coronal images under the orientation of axial ones.
    let shifted = slices().into_iter().zip([0.0, 2.0, 4.0, 6.0]).map(|(slice, y)| slice.at([-10.0, y, 0.0]));
    check_refused(
        &shifted.collect::<Vec<_>>(),
        &format!(
            "{name} ImagePositionPatient puts all 4 images into one plane of ImageOrientationPatient; the order of slices \
             is unknown"
        ),
    );
    // Two phases of two slices.
    let phases = [(0.0, 1000), (0.0, 1500), (2.0, 1000), (2.0, 1500)].map(|(z, first)| TestSlice::new(z, first));
    check_refused(&phases, &format!("{name} 2 images at the position of a different one"));
    // The same image again and again is one slice.
    check_refused(&[0, 1, 2].map(|_| TestSlice::new(0.0, 1000)), "only one slice; a volume needs two or more");
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
    check_refused(&at(&[0.0]), "only one slice; a volume needs two or more");
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
fn numbers_that_leave_out_slices_of_the_thickness_between_others_are_told() {
    let of = |numbers: [u8; 4], thickness: &str| -> Vec<String> {
        let series = slices().into_iter().zip(numbers).map(|(slice, number)| {
            let slice = slice.text(tags::INSTANCE_NUMBER, VR::IS, &number.to_string());
            slice.text(tags::SLICE_THICKNESS, VR::DS, thickness)
        });
        notes(&read(&series.collect::<Vec<_>>()).unwrap())
    };
    let expected = "InstanceNumber differs by 2 from slice to slice, and their distance is 2 times SliceThickness; check \
                    whether the slices in between are missing";
    assert_eq!(of([1, 3, 5, 7], "1"), [expected]);
    assert_eq!(of([8, 6, 4, 2], "1.0"), [expected]);
    // Slices without gaps, gaps between consecutive numbers, and numbers without order.
    for (numbers, thickness) in [([1, 3, 5, 7], "2"), ([1, 2, 3, 4], "1"), ([1, 3, 5, 6], "1")] {
        assert!(of(numbers, thickness).is_empty(), "{numbers:?} {thickness}");
    }
}
