//! Layouts of folders, and scans in them that are not converted.

use super::nifti::{Nifti, SHAPE, SIDE};
use super::{Kind, Seen, Stored};

/// Asserts one labelled case of this name, in its place.
fn has_one(stored: &Stored, name: &str) {
    stored.has(&[&format!("{name}+")]);
    stored.is_placed(name);
    stored.has_classes(name, &[0, 1, 2]);
}

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "TotalSegmentator: a folder of masks per case",
        write: |data| {
            let mask =
                |class: bool| Nifti::of(SHAPE, [SIDE; 3], move |place, _| i16::from((place[0] > 0.0) == class)).file();
            data.scans(&["s0001/ct.nii.gz"]);
            data.file("s0001/segmentations/liver.nii", mask(true));
            data.file("s0001/segmentations/spleen.nii", mask(false));
        },
        seen: Seen::Names,
        says: &[],
        code: 0,
        holds: |stored| {
            stored.has(&["s0001+"]);
            stored.is_placed("s0001");
            let labels = [1.0, -1.0].map(|side| stored.at("s0001", [side * 9.0, 6.0, 9.0]).1);
            assert_eq!(labels, [Some(1), Some(2)]);
            let names = &stored.0.manifest().datasets["data"].labels;
            assert_eq!([&names[&1], &names[&2]], ["liver", "spleen"]);
        },
    },
    Kind {
        name: "KiTS: imaging and segmentation per case",
        write: |data| {
            data.scans(&["case_00001/imaging.nii.gz"]);
            data.labels(&["case_00001/segmentation.nii"]);
        },
        seen: Seen::Names,
        says: &[],
        code: 0,
        holds: |stored| has_one(stored, "case_00001"),
    },
    Kind {
        name: "BTCV: img next to label",
        write: |data| {
            data.scans(&["Training/img/img0001.nii.gz"]);
            data.labels(&["Training/label/label0001.nii"]);
        },
        seen: Seen::Names,
        says: &[],
        code: 0,
        holds: |stored| has_one(stored, "img0001"),
    },
    Kind {
        name: "LiTS: volume-1 next to segmentation-1",
        write: |data| {
            data.scans(&["volume-1.nii"]);
            data.labels(&["segmentation-1.nii"]);
        },
        seen: Seen::Names,
        says: &[],
        code: 0,
        holds: |stored| has_one(stored, "volume-1"),
    },
    Kind {
        name: "nnU-Net one folder higher than expected",
        write: |data| {
            data.scans(&["more/nnUNet_raw/Dataset001_A/imagesTr/a_0000.nii.gz"]);
            data.labels(&["more/nnUNet_raw/Dataset001_A/labelsTr/a.nii"]);
        },
        seen: Seen::Names,
        says: &[],
        code: 0,
        holds: |stored| has_one(stored, "a"),
    },
    Kind {
        name: "only test folders of nnU-Net",
        write: |data| {
            data.scans(&["Dataset001_A/imagesTs/a_0000.nii.gz"]);
            data.labels(&["Dataset001_A/labelsTs/a.nii"]);
        },
        seen: Seen::Names,
        says: &[],
        code: 0,
        holds: |stored| has_one(stored, "a"),
    },
    Kind {
        name: "test data next to training data",
        write: |data| {
            data.scans(&["Training/img/img0001.nii.gz", "Testing/img/img0061.nii.gz"]);
            data.labels(&["Training/label/label0001.nii", "Testing/label/label0061.nii"]);
        },
        seen: Seen::Names,
        says: &["img0061.nii.gz: test data next to training data; converted from a folder of their own only"],
        code: 0,
        holds: |stored| has_one(stored, "img0001"),
    },
    Kind {
        name: "second channel",
        write: |data| {
            let names = ["odd_0000", "odd_0001", "whole_0000"];
            data.scans(&names.map(|name| format!("Dataset001_Odd/imagesTr/{name}.nii")).each_ref().map(String::as_str));
        },
        seen: Seen::Names,
        says: &["Dataset001_Odd/odd: numbered like a case of several channels (_0000, _0001); one is expected"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "PET next to the CT of its case",
        write: |data| data.scans(&["imagesTr/A__CT.nii.gz", "imagesTr/A__PT.nii.gz"]),
        seen: Seen::Names,
        says: &["A__PT.nii.gz: `pt` in its name says that it is not a CT, and the CT of its case is used"],
        code: 0,
        holds: |stored| stored.has(&["A__CT"]),
    },
    Kind {
        name: "predictions and preprocessed data of nnU-Net",
        write: |data| {
            data.scans(&["nnUNet_raw/Dataset001_A/imagesTr/a_0000.nii.gz"]);
            data.labels(&[
                "nnUNet_raw/Dataset001_A/labelsTr/a.nii",
                "nnUNet_results/Dataset001_A/fold_0/validation/a.nii",
            ]);
        },
        seen: Seen::Names,
        says: &["written by nnU-Net (nnUNet_results): a prediction or preprocessed data, not an image"],
        code: 0,
        holds: |stored| has_one(stored, "a"),
    },
    Kind {
        name: "several folders of label maps for the same images",
        write: |data| {
            data.scans(&["images/a.nii", "images/b.nii"]);
            let folders = ["Lung_Mask", "Infection_Mask"];
            data.labels(&folders.map(|folder| format!("{folder}/a.nii")).each_ref().map(String::as_str));
        },
        seen: Seen::Names,
        says: &["several folders have label maps for the same images (Infection_Mask, Lung_Mask), and none is used"],
        code: 3,
        holds: |stored| stored.has(&["a", "b"]),
    },
    Kind {
        name: "label maps of two organs apart from their images",
        write: |data| {
            data.scans(&["scans/deep/a.nii", "scans/deep/b.nii"]);
            data.labels(&["masks/liver/a.nii", "masks/lung/b.nii"]);
        },
        seen: Seen::Names,
        says: &[
            "masks/liver/a.nii: label map by its name or folder, but no image of the same name next to it",
            "masks/lung/b.nii: label map by its name or folder, but no image of the same name next to it",
        ],
        code: 3,
        holds: |stored| stored.has(&["scans/deep/a", "scans/deep/b"]),
    },
    Kind {
        name: "label maps of two organs next to their images",
        write: |data| {
            data.scans(&["c1/ct.nii", "c2/ct.nii"]);
            data.labels(&["c1/liver_seg.nii", "c2/spleen_seg.nii"]);
        },
        seen: Seen::Names,
        says: &[
            "label maps may be of different organs by their names, such as liver_seg.nii of c1 and spleen_seg.nii of c2: the \
             value 1 is one class in all of a dataset",
        ],
        code: 0,
        holds: |stored| stored.has(&["c1+", "c2+"]),
    },
    Kind {
        name: "label map without its image",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.labels(&["Dataset001_Odd/labelsTr/other.nii"]);
        },
        seen: Seen::Names,
        says: &["labelsTr/other.nii: label map without an image of the same name"],
        code: 3,
        holds: Stored::is_right,
    },
];
