//! `dataset.json` and its lists.

use super::nifti::Nifti;
use super::{Kind, Seen, Stored};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "list without channel numbers over files that have them",
        write: |data| {
            data.scans(&["Task101_Liver/imagesTr/odd_0000.nii.gz"]);
            data.labels(&["Task101_Liver/labelsTr/odd.nii"]);
            let list = r#"{"training": [{"image": "./imagesTr/odd.nii.gz", "label": "./labelsTr/odd.nii"}]}"#;
            data.file("Task101_Liver/dataset.json", list);
        },
        seen: Seen::Names,
        says: &[],
        code: 0,
        holds: |stored| {
            stored.has(&["odd+"]);
            stored.is_placed("odd");
        },
    },
    Kind {
        name: "list of nnU-Net 2 (`dataset`) to other folders",
        write: |data| {
            data.scans(&["Dataset001_Odd/scans/odd.nii.gz"]);
            data.labels(&["Dataset001_Odd/truth/odd.nii"]);
            data.description(r#"{"dataset": {"odd": {"images": ["scans/odd.nii.gz"], "label": "truth/odd.nii"}}}"#);
        },
        seen: Seen::Names,
        says: &[],
        code: 0,
        holds: |stored| {
            stored.has(&["odd+"]);
            stored.is_placed("odd");
        },
    },
    Kind {
        name: "listed image that is missing",
        write: |data| {
            data.scans(&["Dataset001_Odd/imagesTr/whole.nii.gz"]);
            data.description(r#"{"training": ["imagesTr/whole.nii.gz", "imagesTr/odd.nii.gz"]}"#);
        },
        seen: Seen::Names,
        says: &["Dataset001_Odd/odd: listed in dataset.json but missing ("],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "listed path out of the data",
        write: |data| {
            data.file("../outside.nii", Nifti::scan().file());
            data.scans(&["Dataset001_Odd/imagesTr/odd.nii.gz", "Dataset002_Whole/imagesTr/whole_0000.nii"]);
            data.description(r#"{"training": ["imagesTr/odd.nii.gz", "../../outside.nii"]}"#);
        },
        seen: Seen::Names,
        says: &["; the dataset is left out", "Dataset001_Odd/dataset.json: ../../outside.nii lies outside "],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "image that is not listed",
        write: |data| {
            data.scans(&["Dataset001_Odd/imagesTr/whole.nii.gz", "Dataset001_Odd/imagesTr/odd.nii.gz"]);
            data.description(r#"{"training": ["imagesTr/whole.nii.gz"]}"#);
        },
        seen: Seen::Names,
        says: &["odd.nii.gz: not listed in dataset.json"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "one label map listed for two images",
        write: |data| {
            data.scans(&["Dataset001_Odd/imagesTr/odd.nii.gz"]);
            data.file("Dataset001_Odd/imagesTr/whole.nii.gz", Nifti::of_hu(|hu| hu + 1).gzip());
            data.labels(&["Dataset001_Odd/labelsTr/odd.nii"]);
            let case = |name: &str| format!(r#"{{"image": "imagesTr/{name}.nii.gz", "label": "labelsTr/odd.nii"}}"#);
            data.description(&format!(r#"{{"training": [{}, {}]}}"#, case("odd"), case("whole")));
        },
        seen: Seen::Names,
        says: &["labelsTr/odd.nii for odd and for whole; correct the list"],
        code: 0,
        holds: |stored| stored.has(&["odd+", "whole+"]),
    },
    Kind {
        name: "fewer cases than `numTraining`",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.description(r#"{"numTraining": 24}"#);
        },
        seen: Seen::Names,
        says: &["dataset.json claims 24 training cases (numTraining), 2 are here"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "description of an MR",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.description(r#"{"channel_names": {"0": "T2"}}"#);
        },
        seen: Seen::Names,
        says: &["dataset.json says that the images are `T2`, not CT"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "`dataset.json` that is not JSON",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.description("{\"labels\": ");
            data.scans(&["Dataset002_Whole/imagesTr/whole_0000.nii"]);
        },
        seen: Seen::Names,
        says: &["; the dataset is left out", "Dataset001_Odd/dataset.json: "],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "two classes of one name",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.description(r#"{"labels": {"0": "background", "1": "liver", "2": "liver"}}"#);
            data.scans(&["Dataset002_Whole/imagesTr/whole_0000.nii"]);
        },
        seen: Seen::Names,
        says: &["; the dataset is left out", "Dataset001_Odd/dataset.json: "],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "`Dataset.json` in capital letters",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.file("Dataset001_Odd/Dataset.json", r#"{"labels": {"background": 0}}"#);
        },
        seen: Seen::Names,
        says: &["Dataset.json: not read, with the names of classes in it; rename it to dataset.json, in small letters"],
        code: 3,
        holds: Stored::is_right,
    },
    Kind {
        name: "ignore label",
        write: |data| {
            data.scans(&["Dataset001_Odd/imagesTr/odd_0000.nii"]);
            data.labels(&["Dataset001_Odd/labelsTr/odd.nii"]);
            data.description(r#"{"labels": {"background": 0, "liver": 1, "ignore": 2}}"#);
        },
        seen: Seen::Names,
        says: &[],
        code: 0,
        holds: |stored| {
            stored.has_classes("odd", &[0, 1, 2]);
            assert_eq!(stored.0.manifest().datasets["Dataset001_Odd"].ignore, Some(2));
        },
    },
    Kind {
        name: "regions",
        write: |data| {
            data.scans(&["Dataset001_Odd/imagesTr/odd_0000.nii"]);
            data.labels(&["Dataset001_Odd/labelsTr/odd.nii"]);
            data.description(r#"{"labels": {"background": 0, "organ": [1, 2], "tumour": [2]}}"#);
        },
        seen: Seen::Names,
        says: &[],
        code: 0,
        holds: |stored| {
            stored.has_classes("odd", &[0, 1, 2]);
            assert_eq!(stored.0.manifest().datasets["Dataset001_Odd"].regions["organ"], [1, 2]);
        },
    },
];
