//! Headers of NIfTI files.

use super::nifti::{
    DATA_TYPE, DIM, Nifti, PIXDIM, QFORM_CODE, QUATERNION, SCALING, SHAPE, SIDE, UNITS, VOX_OFFSET, origin,
};
use super::{Kind, Seen, Stored};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "negative voxel sides",
        write: |data| data.odd(Nifti::scan().qform().floats(PIXDIM + 4, &[-SIDE, -SIDE, SIDE]).file()),
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "axes that run left, back and down",
        write: |data| data.odd(Nifti::with_axes([-SIDE, -SIDE, -SIDE]).file()),
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "voxel side of 0",
        write: |data| data.odd(Nifti::scan().qform().floats(PIXDIM + 12, &[0.0]).file()),
        seen: Seen::Header,
        says: &[
            "Dataset001_Odd/odd: voxel side of 0 along z (pixdim), taken as 1 mm, as in nibabel; correct the header",
        ],
        code: 0,
        holds: |stored| {
            stored.has(&["odd", "whole"]);
            // 10 slices of 1 mm.
            assert_eq!(stored.case("odd").record().shape[2], 2);
        },
    },
    Kind {
        name: "lengths in metres",
        write: |data| {
            let steps = [SIDE / 1000.0; 3];
            data.odd(Nifti::scan().bytes(UNITS, &[1]).floats(PIXDIM + 4, &steps).in_unit(1000.0).file());
        },
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: header in metres; converted to mm"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "mm called microns",
        write: |data| data.odd(Nifti::scan().bytes(UNITS, &[3]).file()),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: header says microns, which would make voxels of 6.00e-3 mm; taken as mm"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "lengths in metres called mm",
        write: |data| data.odd(Nifti::with_axes([SIDE / 1e4; 3]).file()),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: the whole scan measures 7.2e-3 x 6.6e-3 x 6.0e-3 mm"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "lengths in centimetres called mm",
        write: |data| data.odd(Nifti::with_axes([0.3, 0.3, 0.5]).file()),
        seen: Seen::Header,
        says: &["check the units of the header (cm in place of mm?)"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "no transform",
        write: |data| data.odd(Nifti::scan().numbers(QFORM_CODE, &[0, 0]).file()),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: neither sform nor qform is set; orientation LAS is assumed, as in nibabel"],
        code: 0,
        holds: |stored| {
            // The first axis runs to the left, so the marker lies on the other side.
            let [x, y, z] = super::MARKER;
            assert!((stored.at("odd", [-x, y, z]).0 - 200.0).abs() < 1.0);
        },
    },
    Kind {
        name: "identity as the transform",
        write: |data| {
            let rows = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
            data.odd(Nifti::scan().floats(PIXDIM + 4, &[1.0; 3]).sform(rows).file());
        },
        seen: Seen::Header,
        says: &["the affine is the identity, as programs write it that lost the header"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "sform and qform that disagree",
        write: |data| {
            let scan = Nifti::scan().qform().numbers(QFORM_CODE, &[1, 1]).floats(QUATERNION, &[1.0, 0.0, 0.0]);
            data.odd(scan.file());
        },
        seen: Seen::Header,
        says: &["; the sform is used, as in nibabel and MONAI"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "sform and pixdim of different voxel sides",
        write: |data| data.odd(Nifti::scan().floats(PIXDIM + 4, &[5.0; 3]).file()),
        seen: Seen::Header,
        says: &["sform with sides 6 x 6 x 6, pixdim with 5 x 5 x 5: the sform is used"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "quaternion longer than 1",
        write: |data| data.odd(Nifti::scan().qform().floats(QUATERNION, &[1.0, 1.0, 0.0]).file()),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: impossible quaternion 1, 1, 0 (longer than 1); correct the header's qform"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "transform that is not a number",
        write: |data| {
            let nan = f32::NAN;
            data.odd(Nifti::scan().sform([[nan; 4], [nan; 4], [nan; 4]]).file());
        },
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: spacing of NaN mm; the voxels' place in the body is unknown, correct the header"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "gantry tilt",
        write: |data| {
            let [x, y, z] = origin(SHAPE, [SIDE; 3]);
            let shear = 2.0;
            let rows = [[SIDE, 0.0, 0.0, x], [0.0, SIDE, shear, y - shear * 4.5], [0.0, 0.0, SIDE, z]];
            let sides = [SIDE, SIDE, SIDE.hypot(shear)];
            data.odd(Nifti::scan().floats(PIXDIM + 4, &sides).sform(rows).file());
        },
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: |stored| {
            // Slice 6 lies 1.5 steps above the middle, and the shear moves its marker to the front by as many times 2 mm.
            let [x, y, z] = super::MARKER;
            assert!(stored.at("odd", [x, y + 3.0, z]).0 > 150.0);
        },
    },
    Kind {
        name: "valid slope with an intercept that is not a number",
        write: |data| data.odd(Nifti::scan().floats(SCALING, &[0.5, f32::NAN]).file()),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: valid slope 0.5 but invalid intercept NaN; correct scl_inter in the header"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "slope of 0",
        write: |data| data.odd(Nifti::scan().floats(SCALING, &[0.0, -1024.0]).file()),
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "stored values with an offset and an intercept",
        write: |data| data.odd(Nifti::of_hu(|hu| hu + 1024).floats(SCALING, &[1.0, -1024.0]).file()),
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "big-endian numbers",
        write: |data| data.odd(Nifti::scan().big_endian()),
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "several volumes in one file",
        write: |data| data.odd(Nifti::scan().numbers(DIM, &[4, 12, 11, 5, 2]).file()),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: 4-D image of shape [12, 11, 5, 2]; expected 3-D, split it into its volumes"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "fourth dimension of one volume",
        write: |data| data.odd(Nifti::scan().numbers(DIM, &[4, 12, 11, 10, 1]).file()),
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "colours in place of values",
        write: |data| data.odd(Nifti::scan().numbers(DATA_TYPE, &[128, 24]).file()),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: data type Rgb24; expected one number per voxel"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "single slice",
        write: |data| {
            data.odd(Nifti::of([12, 11, 1], [SIDE; 3], |place, _| if place[0] > 0.0 { 40 } else { -900 }).file());
        },
        seen: Seen::Header,
        says: &["a single slice of 12 x 11 x 1 voxels, not a volume"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "fewer voxels than promised",
        write: |data| {
            let whole = Nifti::scan().file();
            data.odd(&whole[..whole.len() - 100]);
        },
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: header promises 12 x 11 x 10 voxels, but 100 of 2992 bytes are missing"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "more slices than promised",
        write: |data| data.odd(Nifti::scan().numbers(DIM + 6, &[8]).file()),
        seen: Seen::Header,
        says: &["the file holds voxels behind the last slice of its header, enough for 2 more; correct the header"],
        code: 0,
        holds: |stored| stored.has(&["odd", "whole"]),
    },
    Kind {
        name: "beginning of the voxels within the header",
        write: |data| data.odd(Nifti::scan().floats(VOX_OFFSET, &[348.0]).file()),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: invalid vox_offset 348; expected a whole number from 352"],
        code: 3,
        holds: Stored::is_left_out,
    },
];
