//! Values that are not Hounsfield units, and scans that are not whole.

use super::nifti::{Nifti, SHAPE, SIDE};
use super::{Kind, Seen, Stored};

/// Number of voxels of a slice.
const SLICE: usize = SHAPE[0] * SHAPE[1];

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "offset of 1024 without an intercept",
        write: |data| data.odd(Nifti::of_hu(|hu| hu + 1024).file()),
        seen: Seen::Voxels,
        says: &[
            ": HU with an offset, 1024 as a rule; subtract it from the voxels, or lower scl_inter in the header by 1024",
        ],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "values from 0 to 1",
        write: |data| data.odd(Nifti::scan().with_floats(|_, hu| (hu + 1024.0) / 1300.0).file()),
        seen: Seen::Voxels,
        says: &[": normalised, not HU; convert the original scan"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "8-bit picture",
        write: |data| data.odd(Nifti::of_hu(|hu| ((hu + 160) * 255 / 400).clamp(0, 255)).file()),
        seen: Seen::Voxels,
        says: &[": an 8-bit picture, not HU; convert the original scan"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "MR in place of a CT",
        write: |data| data.odd(Nifti::of_hu(|hu| 600 + hu / 2 + hu.max(0)).file()),
        seen: Seen::Voxels,
        says: &["none negative: an MR, or a CT that is not in HU; exclude it, or convert the original scan"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "HU times 10",
        // Bone in place of fat, as times 10 fat is near -1000.
        write: |data| data.odd(Nifti::of_hu(|hu| if (-200..0).contains(&hu) { 4000 + hu } else { hu * 10 }).file()),
        seen: Seen::Voxels,
        says: &[", multiples of 10: HU times 10; divide them by 10"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "inverted sign",
        write: |data| data.odd(Nifti::of_hu(|hu| -hu).file()),
        seen: Seen::Voxels,
        says: &["HU with inverted sign; multiply them by -1"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "clipped within the window",
        write: |data| data.odd(Nifti::of_hu(|hu| hu.clamp(-150, 250)).file()),
        seen: Seen::Voxels,
        says: &["clipped or masked within the window, so that air counts as foreground"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "bytes in the other order",
        write: |data| data.odd(Nifti::of_hu(i16::swap_bytes).file()),
        seen: Seen::Voxels,
        says: &["below -1250 and different: HU in another scale; convert the original scan"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "noise, as of a wrong data type",
        write: |data| {
            let noise = |number: usize| i16::try_from(number * 48_271 % 65_521 % 1400).unwrap() - 700;
            data.odd(Nifti::of(SHAPE, [SIDE; 3], |_, number| noise(number)).file());
        },
        seen: Seen::Voxels,
        says: &["noise, or voxels that were read with another data type, byte order or shape"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "one value only",
        write: |data| data.odd(Nifti::of_hu(|_| 0).file()),
        seen: Seen::Voxels,
        says: &["every voxel is 0: an empty scan or mask; replace the file, or exclude the case"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "nothing but air",
        write: |data| data.odd(Nifti::of_hu(|hu| hu.min(-900)).file()),
        seen: Seen::Voxels,
        says: &["Dataset001_Odd/odd: no voxel above -175 HU; is this a CT in Hounsfield units?"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "voxels that are not numbers",
        write: |data| data.odd(Nifti::scan().with_floats(|number, hu| if number < 7 { f32::NAN } else { hu }).file()),
        seen: Seen::Voxels,
        says: &["Dataset001_Odd/odd: 7 of 1320 voxels NaN or infinite; replace them (in a CT by air, -1024 HU)"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "slices that are zeros",
        write: |data| {
            let mut voxels = Nifti::scan().values();
            voxels[4 * SLICE..6 * SLICE].fill(0);
            data.odd(Nifti::scan().voxels(&voxels).file());
        },
        seen: Seen::Voxels,
        says: &["slices 5 to 6 of 10 hold nothing but 0"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "slice that repeats the one before",
        write: |data| {
            let mut voxels = Nifti::scan().values();
            voxels.copy_within(2 * SLICE..3 * SLICE, 3 * SLICE);
            data.odd(Nifti::scan().voxels(&voxels).file());
        },
        seen: Seen::Voxels,
        says: &["slice 4 of 10 repeats the one before voxel by voxel"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "label map in the folder of images",
        write: |data| data.odd(Nifti::label().file()),
        seen: Seen::Voxels,
        says: &["a label map by its values (3 whole numbers up to 2); expected an image; converted as the image"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "label map in a plain folder",
        write: |data| {
            data.file("odd.nii", Nifti::label().file());
            data.file("whole.nii", Nifti::larger().file());
        },
        seen: Seen::Voxels,
        says: &["data/odd: a label map by its values (3 whole numbers up to 2); expected an image"],
        code: 3,
        holds: Stored::is_left_out,
    },
];
