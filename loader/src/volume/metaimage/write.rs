//! Writing of `MetaImage` files.

use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::super::VolumeInfo;
use super::super::dtype::Dtype;
use super::super::place::{LPS, mirrored};
use super::super::write::IS_BIG_ENDIAN;
use crate::geometry::spacing;

/// Encodes a whole `.mha` file with compressed voxels.
pub(in super::super) fn encode(scan: &VolumeInfo, dtype: Dtype, voxels: &[u8]) -> io::Result<Vec<u8>> {
    let affine = mirrored(scan.affine, LPS);
    let sides = spacing(&affine);
    let directions: Vec<String> =
        (0..3).flat_map(|axis| (0..3).map(move |row| (affine[row][axis] / sides[axis]).to_string())).collect();
    let [sx, sy, sz] = sides;
    let [x, y, z] = scan.shape;
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(voxels)?;
    let compressed = encoder.finish()?;
    let mut file = Vec::new();
    write!(
        file,
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = {}\nCompressedData = True\n\
         CompressedDataSize = {}\nTransformMatrix = {}\nOffset = {} {} {}\nCenterOfRotation = 0 0 0\n\
         ElementSpacing = {sx} {sy} {sz}\nDimSize = {x} {y} {z}\nElementType = {}\nElementDataFile = LOCAL\n",
        if IS_BIG_ENDIAN { "True" } else { "False" },
        compressed.len(),
        directions.join(" "),
        affine[0][3],
        affine[1][3],
        affine[2][3],
        name(dtype),
    )?;
    file.extend(compressed);
    Ok(file)
}

fn name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::U8 => "MET_UCHAR",
        Dtype::I8 => "MET_CHAR",
        Dtype::U16 => "MET_USHORT",
        Dtype::I16 => "MET_SHORT",
        Dtype::U32 => "MET_UINT",
        Dtype::I32 => "MET_INT",
        Dtype::U64 => "MET_ULONG_LONG",
        Dtype::I64 => "MET_LONG_LONG",
        Dtype::F32 => "MET_FLOAT",
        Dtype::F64 => "MET_DOUBLE",
    }
}
