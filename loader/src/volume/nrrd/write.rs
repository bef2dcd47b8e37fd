//! Writing of NRRD files.

use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::super::VolumeInfo;
use super::super::dtype::Dtype;
use super::super::place::{LPS, mirrored};
use super::super::write::IS_BIG_ENDIAN;

/// Encodes a whole `.nrrd` file with compressed voxels, in LPS like other programs.
pub(in super::super) fn encode(scan: &VolumeInfo, dtype: Dtype, voxels: &[u8]) -> io::Result<Vec<u8>> {
    let affine = mirrored(scan.affine, LPS);
    let vector = |column: usize| format!("({},{},{})", affine[0][column], affine[1][column], affine[2][column]);
    let directions: Vec<String> = (0..3).map(vector).collect();
    let [x, y, z] = scan.shape;
    let mut file = Vec::new();
    write!(
        file,
        "NRRD0004\ntype: {}\ndimension: 3\nspace: left-posterior-superior\nsizes: {x} {y} {z}\nspace directions: {}\n\
         kinds: domain domain domain\nendian: {}\nencoding: gzip\nspace origin: {}\n\n",
        name(dtype),
        directions.join(" "),
        if IS_BIG_ENDIAN { "big" } else { "little" },
        vector(3),
    )?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    encoder.write_all(voxels)?;
    encoder.finish()
}

fn name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::U8 => "uint8",
        Dtype::I8 => "int8",
        Dtype::U16 => "uint16",
        Dtype::I16 => "int16",
        Dtype::U32 => "uint32",
        Dtype::I32 => "int32",
        Dtype::U64 => "uint64",
        Dtype::I64 => "int64",
        Dtype::F32 => "float",
        Dtype::F64 => "double",
    }
}
