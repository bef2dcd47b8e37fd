//! Label maps and their places.

use super::nifti::{MARKER, Nifti, PIXDIM, SCALING, SHAPE, SIDE, origin};
use super::{Kind, Seen, Stored};

/// Asserts that the odd label map is there, with class 2 at the marker and class 1 in the half around it.
fn is_labelled(stored: &Stored) {
    stored.has(&["odd+", "whole+"]);
    stored.is_placed("odd");
    stored.has_classes("odd", &[0, 1, 2]);
    let [x, y, z] = MARKER;
    let places = [[x, y, z], [x, -y, z], [-x, y, z], [x, y, -z]];
    assert_eq!(places.map(|place| stored.at("odd", place).1.unwrap()), [2, 1, 0, 1]);
}

/// The scan is left out, and no case with wrong labels is there.
fn is_left_out(stored: &Stored) {
    stored.has(&["whole+"]);
}

/// Header of a label map on the grid of the scans, as 3D Slicer writes it.
const SEGMENTS: &str = "NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 12 11 10\n\
    space directions: (6,0,0) (0,6,0) (0,0,6)\nkinds: domain domain domain\nendian: little\nencoding: raw\n\
    space origin: (-33,-30,-27)\nSegment0_LabelValue:=1\nSegment0_Name:=Spleen\nSegment1_LabelValue:=2\n\
    Segment1_Name:=Segment_2\n\n";

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "whole numbers but for rounding",
        write: |data| data.odd_label(Nifti::label().with_floats(|_, class| class * 0.999_994).file()),
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: is_labelled,
    },
    Kind {
        name: "scaling that is not exact",
        write: |data| {
            let voxels: Vec<i16> = Nifti::label().values().iter().map(|class| class * 127).collect();
            data.odd_label(Nifti::label().voxels(&voxels).floats(SCALING, &[1.0 / 127.0001, 0.0]).file());
        },
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: is_labelled,
    },
    Kind {
        name: "fractions, as after interpolation",
        write: |data| data.odd_label(Nifti::label().with_floats(|_, class| class * 0.75).file()),
        seen: Seen::Voxels,
        says: &["label value 0.75 at voxel "],
        code: 3,
        holds: is_left_out,
    },
    Kind {
        name: "negative class",
        write: |data| data.odd_label(Nifti::label().with_floats(|_, class| -class).file()),
        seen: Seen::Voxels,
        says: &["label value -1 at voxel "],
        code: 3,
        holds: is_left_out,
    },
    Kind {
        name: "classes above 255",
        write: |data| data.odd_label(Nifti::label().with_floats(|_, class| class * 300.0).file()),
        seen: Seen::Voxels,
        says: &["; label values must be whole numbers from 0 to 255; renumber the classes"],
        code: 3,
        holds: is_left_out,
    },
    Kind {
        name: "labels that are not numbers",
        write: |data| {
            let label = Nifti::label().with_floats(|number, class| if number < 9 { f32::NAN } else { class });
            data.odd_label(label.file());
        },
        seen: Seen::Voxels,
        says: &["9 of 1320 voxels NaN or infinite; label values must be whole numbers from 0 to 255"],
        code: 3,
        holds: is_left_out,
    },
    Kind {
        name: "another orientation at the same place",
        write: |data| data.odd_label(Nifti::label_with_axes([-SIDE, SIDE, -SIDE]).file()),
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: is_labelled,
    },
    Kind {
        name: "label map half a voxel off",
        write: |data| data.odd_label(shifted(SIDE / 2.0)),
        seen: Seen::Header,
        says: &["label map lies 3.00 mm (0.50 voxels) off its image by their headers; taken voxel by voxel"],
        code: 0,
        holds: is_labelled,
    },
    Kind {
        name: "label map of another place",
        write: |data| data.odd_label(shifted(100.0)),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: label lies 100.00 mm (16.67 voxels) off its image by their headers"],
        code: 3,
        holds: is_left_out,
    },
    Kind {
        name: "label map of another shape",
        write: |data| data.odd_label(Nifti::of([12, 11, 9], [SIDE; 3], |_, number| i16::from(number > 500)).file()),
        seen: Seen::Header,
        says: &[
            "Dataset001_Odd/odd: label of shape [12, 11, 9] for an image of shape [12, 11, 10]; use the label map of this image",
        ],
        code: 3,
        holds: is_left_out,
    },
    Kind {
        name: "class that dataset.json does not name",
        write: |data| {
            data.odd_label(Nifti::label().file());
            data.description(r#"{"labels": {"background": 0, "liver": 1}}"#);
        },
        seen: Seen::Cases,
        says: &["Label values that dataset.json does not name:"],
        code: 0,
        holds: is_labelled,
    },
    Kind {
        name: "class without a voxel",
        write: |data| {
            data.odd_label(Nifti::label().file());
            data.description(r#"{"labels": {"background": 0, "liver": 1, "spleen": 2, "aorta": 3}}"#);
        },
        seen: Seen::Cases,
        says: &["Classes that dataset.json names and no case has:"],
        code: 0,
        holds: is_labelled,
    },
    Kind {
        name: "segments of 3D Slicer with other names than dataset.json",
        write: |data| {
            data.odd_label("");
            std::fs::remove_file(data.path("Dataset001_Odd/labelsTr/odd.nii")).unwrap();
            let voxels: Vec<u8> = Nifti::label().values().iter().flat_map(|class| class.to_le_bytes()).collect();
            data.file("Dataset001_Odd/labelsTr/odd.nrrd", [SEGMENTS.as_bytes(), &voxels].concat());
        },
        seen: Seen::Voxels,
        says: &[
            "odd: the header of the label map calls the value 1 \"Spleen\", which is \"liver\" in dataset.json; renumber",
        ],
        code: 0,
        holds: is_labelled,
    },
    Kind {
        name: "class lost in resampling",
        write: |data| {
            // One voxel of 1.5 mm between those of the cache.
            let at = 13 * 24 * 25 + 13 * 25 + 13;
            let image = Nifti::of([25, 24, 22], [1.5; 3], |_, number| 40 + i16::try_from(number % 23).unwrap());
            let label = Nifti::of(
                [25, 24, 22],
                [1.5; 3],
                |place, number| {
                    if number == at { 2 } else { i16::from(place[0] > 0.0) }
                },
            );
            data.odd_label(label.file());
            data.file("Dataset001_Odd/imagesTr/odd_0000.nii", image.file());
        },
        seen: Seen::Voxels,
        says: &["Dataset001_Odd/odd: label 2"],
        code: 0,
        holds: |stored| stored.has_classes("odd", &[0, 1]),
    },
    Kind {
        name: "image in place of a label map",
        write: |data| {
            let texture = Nifti::of(SHAPE, [SIDE; 3], |_, number| i16::try_from(number * 7919 % 211).unwrap());
            data.odd_label(texture.file());
            data.description("{}");
        },
        seen: Seen::Voxels,
        says: &["Dataset001_Odd/odd: label map"],
        code: 0,
        holds: |stored| stored.has(&["odd+", "whole+"]),
    },
    Kind {
        name: "ignore label in another spelling",
        write: |data| {
            data.odd_label(Nifti::label().file());
            data.description(r#"{"labels": {"background": 0, "liver": 1, "Ignore": 2}}"#);
        },
        seen: Seen::Names,
        says: &["dataset.json: label 2 is called \"Ignore\" and is a class like any other, as in nnU-Net"],
        code: 0,
        holds: is_labelled,
    },
    Kind {
        name: "masks that overlap",
        write: |data| {
            let mask = |from: f64| Nifti::of(SHAPE, [SIDE; 3], move |place, _| i16::from(place[0] > from)).file();
            data.scans(&["s0001/ct.nii"]);
            data.file("s0002/ct.nii", Nifti::larger().file());
            data.file(
                "s0002/segmentations/liver.nii",
                Nifti::of([14, 13, 12], [SIDE; 3], |_, number| i16::from(number > 500)).file(),
            );
            data.file(
                "s0002/segmentations/spleen.nii",
                Nifti::of([14, 13, 12], [SIDE; 3], |_, number| i16::from(number < 500)).file(),
            );
            data.file("s0001/segmentations/liver.nii", mask(-10.0));
            data.file("s0001/segmentations/spleen.nii", mask(10.0));
        },
        seen: Seen::Voxels,
        says: &["of liver also in spleen; the name that sorts later has the shared voxels"],
        code: 0,
        holds: |stored| stored.has_classes("s0001", &[0, 1, 2]),
    },
];

/// The label map moved along z by this distance in mm.
fn shifted(mm: f32) -> Vec<u8> {
    let [x, y, z] = origin(SHAPE, [SIDE; 3]);
    let rows = [[SIDE, 0.0, 0.0, x], [0.0, SIDE, 0.0, y], [0.0, 0.0, SIDE, z + mm]];
    Nifti::label().floats(PIXDIM + 4, &[SIDE; 3]).sform(rows).file()
}
