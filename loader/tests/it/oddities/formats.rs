//! Formats, compression, and files that hold something else.

use super::nifti::{Nifti, SIDE, gzip};
use super::{Kind, Seen, Stored};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "gzip in several members, with zeros behind them",
        write: |data| {
            let file = Nifti::scan().file();
            let (first, second) = file.split_at(file.len() / 2);
            data.odd([gzip(first), gzip(second), vec![0; 512]].concat());
        },
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "gzip longer than its header states, with zeros behind it",
        write: |data| data.odd([gzip(&[Nifti::scan().file(), vec![0; 50]].concat()), vec![0; 512]].concat()),
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "`.nii.gz` that is not compressed",
        write: |data| {
            data.file("Dataset001_Odd/imagesTr/odd_0000.nii.gz", Nifti::scan().file());
            data.scans(&["Dataset001_Odd/imagesTr/whole_0000.nii"]);
        },
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "compressed twice",
        write: |data| data.odd(gzip(&Nifti::scan().gzip())),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: compressed with gzip twice; decompress it once, for example with gunzip"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "compressed file that was cut short",
        write: |data| {
            let file = Nifti::scan().gzip();
            data.odd(&file[..file.len() - 200]);
        },
        seen: Seen::Voxels,
        says: &["Dataset001_Odd/odd: the compressed data ends early; the file was cut short"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "empty file",
        write: |data| data.odd(b""),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: the file is empty (0 bytes)"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "pointer of Git LFS",
        write: |data| data.odd("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: a Git LFS pointer in place of the file; run git lfs pull"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "page of a server in place of the scan",
        write: |data| data.odd("<!DOCTYPE html>\n<html><body>403 Forbidden</body></html>\n"),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: an HTML page in place of the file, as servers send on errors; download it again"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "text with the name of a scan",
        write: |data| data.odd("to be replaced ".repeat(100)),
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: not a NIfTI-1 file (no header of 348 bytes with magic n+1)"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "NIfTI-2",
        write: |data| {
            let mut file = vec![0; 1000];
            file[..4].copy_from_slice(&540i32.to_le_bytes());
            file[4..12].copy_from_slice(b"n+2\0\r\n\x1a\n");
            data.odd(file);
        },
        seen: Seen::Header,
        says: &["Dataset001_Odd/odd: a NIfTI-2 file; convert it to NIfTI-1 (for example with nibabel)"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "pair of `.hdr` and `.img`",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.file("Dataset001_Odd/imagesTr/next_0000.hdr", &Nifti::scan().file()[..348]);
        },
        seen: Seen::Names,
        says: &["next_0000.hdr: the Analyze or NIfTI pair .hdr/.img is not read; convert it to .nii.gz"],
        code: 3,
        holds: Stored::is_right,
    },
    Kind {
        name: "formats that are not read (MGH, TIFF)",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.file("Dataset001_Odd/imagesTr/a_0000.mgz", b"");
            data.file("Dataset001_Odd/imagesTr/b_0000.tif", b"");
        },
        seen: Seen::Names,
        says: &["a_0000.mgz: FreeSurfer's MGH is not read", "b_0000.tif: TIFF is not read"],
        code: 3,
        holds: Stored::is_right,
    },
    Kind {
        name: "archive among the scans",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.file("Dataset001_Odd/imagesTr.zip", b"PK\x03\x04");
        },
        seen: Seen::Names,
        says: &["imagesTr.zip: packed archive; unpack it to convert its content"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "arrays of NumPy",
        write: |data| {
            data.odd(Nifti::scan().file());
            data.file("Dataset001_Odd/imagesTr/next.npy", b"\x93NUMPY");
        },
        seen: Seen::Names,
        says: &["next.npy: NumPy's format is not read; a scan in it has to be converted to .nii.gz, with its spacing"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "NRRD in LPS",
        write: |data| {
            data.file("odd.nrrd", [NRRD.as_bytes(), &lps()].concat());
            data.scans(&["whole.nii"]);
        },
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "MetaImage",
        write: |data| {
            let header = format!("{META}ElementDataFile = LOCAL\n");
            data.file("odd.mha", [header.as_bytes(), &lps()].concat());
            data.scans(&["whole.nii"]);
        },
        seen: Seen::Header,
        says: &[],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "NRRD that was cut short",
        write: |data| {
            let voxels = lps();
            data.file("odd.nrrd", [NRRD.as_bytes(), &voxels[..voxels.len() - 10]].concat());
            data.scans(&["whole.nii"]);
        },
        seen: Seen::Header,
        says: &["odd: header promises 12 x 11 x 10 voxels, but 10 of"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "MetaImage with more voxels than its header states",
        write: |data| {
            data.file("odd.mhd", format!("{META}ElementDataFile = odd.raw\n"));
            data.file("odd.raw", [lps(), vec![0; 12 * 11 * 2]].concat());
            data.scans(&["whole.nii"]);
        },
        seen: Seen::Header,
        says: &["data/odd: the file holds voxels behind the last slice of its header, enough for 1 more"],
        code: 0,
        holds: Stored::is_right,
    },
    Kind {
        name: "pointer of Git LFS in place of the voxels of a header",
        write: |data| {
            data.file("odd.mhd", format!("{META}ElementDataFile = odd.raw\n"));
            data.file("odd.raw", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n");
            data.scans(&["whole.nii"]);
        },
        seen: Seen::Header,
        says: &["\"odd.raw\" next to this header: a Git LFS pointer in place of the file; run git lfs pull"],
        code: 3,
        holds: Stored::is_left_out,
    },
    Kind {
        name: "header whose file of voxels is missing",
        write: |data| {
            data.file("odd.mhd", format!("{META}ElementDataFile = odd.raw\n"));
            data.scans(&["whole.nii"]);
        },
        seen: Seen::Header,
        says: &["odd.raw"],
        code: 3,
        holds: Stored::is_left_out,
    },
];

/// Header of an NRRD file in LPS.
const NRRD: &str = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 12 11 10\n\
    space directions: (6,0,0) (0,6,0) (0,0,6)\nkinds: domain domain domain\nendian: little\nencoding: raw\n\
    space origin: (-33,-30,-27)\n\n";

/// Header of a `MetaImage` in LPS, without the place of its voxels.
const META: &str = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n\
    CompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = -33 -30 -27\nElementSpacing = 6 6 6\n\
    DimSize = 12 11 10\nElementType = MET_SHORT\n";

/// Voxels of a scan whose axes run to the left, to the back and up, as in LPS, and whose first voxel lies at -33, -30, -27 mm
/// (LPS).
fn lps() -> Vec<u8> {
    Nifti::with_axes([-SIDE, -SIDE, SIDE]).values().iter().flat_map(|value| value.to_le_bytes()).collect()
}
