//! Series of DICOM files.

use dicom_core::VR;
use dicom_dictionary_std::tags;

use super::data::Data;
use super::dicom_file::TestSlice;
use super::nifti::{Nifti, SHAPE, SIDE, hu, origin};
use super::{Kind, Seen, Stored};

/// Class of MR images.
const MR: &str = "1.2.840.10008.5.1.4.1.1.4";

/// Writes the series of a scan in the folder `odd`, with changes to the slices of each number, and a larger one in `whole`.
fn series(data: &Data, change: impl Fn(u16, TestSlice) -> Option<TestSlice>) {
    for (name, shape) in [("odd", SHAPE), ("whole", [14, 13, 12])] {
        // Columns run to the left, and rows to the back.
        let values = Nifti::of(shape, [-SIDE, -SIDE, SIDE], hu).values();
        let pixels: Vec<u16> = values.iter().map(|value| (value + 1024).cast_unsigned()).collect();
        let [columns, rows, _] = shape.map(|length| u16::try_from(length).unwrap());
        let origin = origin(shape, [SIDE; 3]).map(f64::from);
        for (number, pixels) in (0u16..).zip(pixels.chunks(shape[0] * shape[1])) {
            let place = [origin[0], origin[1], origin[2] + f64::from(SIDE) * f64::from(number)];
            let slice = TestSlice::new(place[2], 0)
                .at(place)
                .text(tags::SERIES_INSTANCE_UID, VR::UI, if name == "odd" { "1.2.3" } else { "1.2.4" })
                .text(tags::PIXEL_SPACING, VR::DS, "6\\6")
                .number(tags::COLUMNS, columns)
                .number(tags::ROWS, rows)
                .pixels(pixels);
            let slice = if name == "odd" { change(number, slice) } else { Some(slice) };
            if let Some(slice) = slice {
                slice.write(&data.path(&format!("{name}/{number}.dcm")));
            }
        }
    }
}

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "DICOM series",
        write: |data| series(data, |_, slice| Some(slice)),
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "DICOM series with a gap",
        write: |data| series(data, |number, slice| (number != 5).then_some(slice)),
        seen: Seen::Header,
        says: &[": 1 of 10 slices missing, the first between 4.dcm and 6.dcm; copy the series again"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "DICOM series with a slice twice",
        write: |data| {
            series(data, |_, slice| Some(slice));
            std::fs::copy(data.0.join("odd/4.dcm"), data.0.join("odd/copy.dcm")).unwrap();
        },
        seen: Seen::Header,
        says: &["1 file repeats a slice with the same pixels; each slice is used once"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "DICOM series with a gantry tilt",
        write: |data| {
            series(data, |number, slice| {
                Some(slice.at([-33.0, -30.0 + 2.0 * f64::from(number), -27.0 + 6.0 * f64::from(number)]))
            });
        },
        seen: Seen::Header,
        says: &["slices tilted by 18.4 degrees against their stack (gantry tilt); the grid is sheared"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "DICOM without RescaleSlope and RescaleIntercept",
        write: |data| {
            series(data, |_, slice| Some(slice.without(tags::RESCALE_SLOPE).without(tags::RESCALE_INTERCEPT)));
        },
        seen: Seen::Header,
        says: &["no RescaleSlope and RescaleIntercept; stored values are taken as HU"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "DICOM shown inverted (MONOCHROME1)",
        write: |data| {
            let shown = |slice: TestSlice| slice.text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME1");
            series(data, |_, slice| Some(shown(slice)));
        },
        seen: Seen::Header,
        says: &["PhotometricInterpretation is MONOCHROME1, which inverts the display only"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "DICOM of another modality",
        write: |data| {
            let mr = |slice: TestSlice| slice.text(tags::MODALITY, VR::CS, "MR").text(tags::SOP_CLASS_UID, VR::UI, MR);
            series(data, |_, slice| Some(mr(slice)));
        },
        seen: Seen::Names,
        says: &["DICOM of modality MR, not a CT image; --normalize zscore converts it"],
        code: 0,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "DICOM next to a dataset of another format",
        write: |data| {
            data.odd(Nifti::scan().file());
            series(data, |_, slice| Some(slice));
        },
        seen: Seen::Names,
        says: &[
            "odd/0.dcm and 9 more files of its folder: DICOM next to datasets of other formats; convert its folder on its own",
        ],
        code: 3,
        holds: Stored::is_right,
    },
];
