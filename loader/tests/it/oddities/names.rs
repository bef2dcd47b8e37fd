//! Names of files, links, and files that are not regular.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::nifti::Nifti;
use super::{Kind, Seen, Stored};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "no channel number among names that have one",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.scans(&["Dataset001_Odd/imagesTr/noending.nii"]);
        },
        seen: Seen::Names,
        says: &["noending.nii: no channel number such as _0000 at the end of its name, as nnU-Net expects"],
        code: 3,
        holds: Stored::is_right,
    },
    Kind {
        name: "three digits in place of a channel number",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.scans(&["Dataset001_Odd/imagesTr/short_000.nii"]);
        },
        seen: Seen::Names,
        says: &["short_000.nii: no channel number such as _0000 at the end of its name, as nnU-Net expects"],
        code: 3,
        holds: Stored::is_right,
    },
    Kind {
        name: "second channel without the first",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.scans(&["Dataset001_Odd/imagesTr/other_0001.nii"]);
        },
        seen: Seen::Names,
        says: &[
            "other_0001.nii: further channel of a case, not its first one (_0000); rename it if its number counts scans",
        ],
        code: 3,
        holds: Stored::is_right,
    },
    Kind {
        name: "no channel numbers at all",
        write: |data| data.scans(&["Dataset001_Odd/imagesTr/odd.nii", "Dataset001_Odd/imagesTr/whole.nii"]),
        seen: Seen::Names,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "ending in capital letters",
        write: |data| {
            data.scans(&["Dataset001_Odd/imagesTr/odd_0000.NII.GZ", "Dataset001_Odd/imagesTr/whole_0000.nii"]);
        },
        seen: Seen::Names,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "copies of macOS (`._NAME`)",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.file("Dataset001_Odd/imagesTr/._odd_0000.nii", "Mac OS X");
        },
        seen: Seen::Names,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "name that is not UTF-8",
        write: |data| {
            data.odd(Nifti::scan().file());
            let name = OsStr::from_bytes(b"Dataset001_Odd/imagesTr/M\xfcller_0000.nii");
            std::fs::write(data.0.join(name), Nifti::scan().file()).unwrap();
        },
        seen: Seen::Names,
        says: &["name is not UTF-8 or has control characters; rename it"],
        code: 3,
        holds: Stored::is_right,
    },
    Kind {
        name: "incomplete download",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.file("Dataset001_Odd/imagesTr/next_0000.nii.gz.part", b"");
        },
        seen: Seen::Names,
        says: &[
            "next_0000.nii.gz.part: more behind .nii.gz in its name: an incomplete download, a copy or packed data",
        ],
        code: 3,
        holds: Stored::is_right,
    },
    Kind {
        name: "one case in two formats",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.file("Dataset001_Odd/imagesTr/odd_0000.nii.gz", Nifti::of_hu(|hu| hu / 2).gzip());
            data.description(r#"{"file_ending": ".nii"}"#);
        },
        seen: Seen::Names,
        says: &["Dataset001_Odd/odd: next to a file of the same case; keep one ("],
        code: 3,
        holds: Stored::is_right,
    },
    Kind {
        name: "link to a folder above",
        write: |data| {
            data.odd(Nifti::scan().file());
            symlink(&data.0, data.0.join("again")).unwrap();
        },
        seen: Seen::Names,
        says: &[", which contains it"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "link to a scan that is there itself",
        write: |data| {
            data.scans(&["odd.nii", "whole.nii"]);
            symlink("odd.nii", data.0.join("second.nii")).unwrap();
        },
        seen: Seen::Names,
        says: &["second.nii: the same as "],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "link to nothing",
        write: |data| {
            data.odd(Nifti::scan().file());
            symlink("gone.nii", data.0.join("Dataset001_Odd/imagesTr/next_0000.nii")).unwrap();
        },
        seen: Seen::Names,
        says: &["Dataset001_Odd/next: cannot "],
        code: 3,
        holds: Stored::is_right,
    },
    Kind {
        name: "FIFO among the scans",
        write: |data| {
            data.odd(Nifti::scan().file());
            let path = data.0.join("Dataset001_Odd/imagesTr/next_0000.nii");
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        },
        seen: Seen::Names,
        says: &["next_0000.nii: FIFO, socket or device; expected a regular file"],
        code: 3,
        holds: Stored::is_right,
    },
];
