//! Reads NIfTI-1 files, compressed or not, and trusts nothing they say.
//!
//! The `nifti` crate parses headers and (for predictions and phantoms) writes files. Voxels are read here, because
//! that crate inflates through a slower library, copies every voxel through floats, and believes the header's sizes.
//! A volume stays in its file's data type; conversion to HU happens row by row where the values are used.

mod write;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use nifti::{Endianness, NiftiHeader, NiftiType};

use crate::geometry::{Affine, Orientation, quaternion_axes, spacing};

pub use write::write_like;

/// Bytes of a NIfTI-1 header with the four extension bytes after it.
const HEADER_LEN: usize = 348;
/// No volume larger than this is read (16 Gi voxels is beyond any scanner).
const MAX_VOXELS: u64 = 1 << 34;

/// Why a file is not usable; says the file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct NiftiError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it and, where that helps, what to do.
    pub reason: String,
}

/// What a header says, checked.
#[derive(Clone, Debug)]
pub struct NiftiInfo {
    /// Voxels along the array's own axes, the first one fastest in the file.
    pub shape: [usize; 3],
    /// `world_from_voxel` as nibabel chooses it: sform, else qform, else spacings alone.
    pub affine: Affine,
    /// How the axes lie.
    pub orientation: Orientation,
    /// Bytes the voxels take when inflated.
    pub data_bytes: u64,
    /// The header as it stands in the file.
    pub header: NiftiHeader,
    dtype: Dtype,
    data_offset: u64,
}

/// A volume in memory, in its file's data type.
pub struct NiftiVolume {
    /// What the header says.
    pub info: NiftiInfo,
    /// BLAKE3 of the file's bytes, hex.
    pub blake3: String,
    /// Bytes of the file.
    pub file_bytes: u64,
    bytes: Vec<u8>,
    slope: f64,
    intercept: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dtype {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl Dtype {
    fn len(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

/// Reads a file's header only.
///
/// # Errors
/// If the file is no NIfTI-1 file with a 3-D array of numbers and a usable geometry.
pub fn read_info(path: &Path) -> Result<NiftiInfo, NiftiError> {
    let at = |reason| NiftiError { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|err| at(format!("cannot open: {err}")))?;
    let mut reader = std::io::BufReader::new(file);
    let mut head = Vec::with_capacity(HEADER_LEN);
    let result = if is_gzip(path) {
        MultiGzDecoder::new(reader).take(HEADER_LEN as u64).read_to_end(&mut head)
    } else {
        reader.by_ref().take(HEADER_LEN as u64).read_to_end(&mut head)
    };
    match result {
        Ok(_) => parse_header(&head).map_err(at),
        Err(err) => Err(at(gzip_error(&err))),
    }
}

/// Reads a whole volume.
///
/// # Errors
/// If [`read_info`] fails, or the file holds fewer voxels than its header promises, or is damaged.
pub fn read_volume(path: &Path) -> Result<NiftiVolume, NiftiError> {
    let at = |reason| NiftiError { path: path.to_owned(), reason };
    let file = std::fs::read(path).map_err(|err| at(format!("cannot read: {err}")))?;
    let blake3 = blake3::hash(&file).to_hex().to_string();
    let file_bytes = file.len() as u64;
    let (info, bytes) = if is_gzip(path) {
        let mut head = Vec::with_capacity(HEADER_LEN);
        MultiGzDecoder::new(file.as_slice())
            .take(HEADER_LEN as u64)
            .read_to_end(&mut head)
            .map_err(|err| at(gzip_error(&err)))?;
        let info = parse_header(&head).map_err(at)?;
        let bytes = inflate(&file, info.data_offset + info.data_bytes).map_err(at)?;
        (info, bytes)
    } else {
        (parse_header(&file).map_err(at)?, file)
    };
    let promised = info.data_offset + info.data_bytes;
    if (bytes.len() as u64) < promised {
        let missing = promised - bytes.len() as u64;
        let [x, y, z] = info.shape;
        return Err(at(format!(
            "header promises {x} x {y} x {z} voxels, but {missing} of {promised} bytes are missing"
        )));
    }
    // As nibabel: a slope of zero or one that is no number means no scaling.
    let header = &info.header;
    let scaled = header.scl_slope != 0.0 && header.scl_slope.is_finite() && header.scl_inter.is_finite();
    let (slope, intercept) = if scaled { (header.scl_slope.into(), header.scl_inter.into()) } else { (1.0, 0.0) };
    let volume = NiftiVolume { info, blake3, file_bytes, bytes, slope, intercept };
    let not_finite = volume.count_not_finite();
    if not_finite > 0 {
        return Err(at(format!(
            "{not_finite} voxels are not finite numbers; replace them (by air, -1024 HU) and try again"
        )));
    }
    Ok(volume)
}

impl NiftiVolume {
    /// Voxels `start..start + out.len()` in file order, scaled by the header's slope and intercept.
    ///
    /// # Panics
    /// If the range reaches beyond the volume.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) {
        let dtype = self.info.dtype;
        // Bounds and offsets were checked against the buffer when the volume was read.
        let first = usize::try_from(self.info.data_offset).expect("within the buffer") + start * dtype.len();
        let bytes = &self.bytes[first..first + out.len() * dtype.len()];
        let big = self.info.header.endianness == Endianness::Big;
        let (slope, intercept) = (self.slope, self.intercept);
        #[expect(clippy::float_cmp, reason = "exactly no scaling")]
        let plain = slope == 1.0 && intercept == 0.0;
        macro_rules! convert {
            ($type:ty) => {
                for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<{ size_of::<$type>() }>().0) {
                    let raw = if big { <$type>::from_be_bytes(*bytes) } else { <$type>::from_le_bytes(*bytes) };
                    *value = if plain { raw as f32 } else { (raw as f64 * slope + intercept) as f32 };
                }
            };
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_lossless,
            reason = "values \
            become f32 as in MONAI, which loads every volume as f32"
        )]
        match dtype {
            Dtype::U8 => convert!(u8),
            Dtype::I8 => convert!(i8),
            Dtype::U16 => convert!(u16),
            Dtype::I16 => convert!(i16),
            Dtype::U32 => convert!(u32),
            Dtype::I32 => convert!(i32),
            Dtype::U64 => convert!(u64),
            Dtype::I64 => convert!(i64),
            Dtype::F32 => convert!(f32),
            Dtype::F64 => convert!(f64),
        }
    }

    /// All voxels as label values, in file order.
    ///
    /// # Errors
    /// If one is no integer of 0 to 255; says which.
    pub fn to_labels(&self) -> Result<Vec<u8>, String> {
        let num_voxels = self.info.shape.iter().product();
        let mut labels = Vec::with_capacity(num_voxels);
        let mut row = vec![0f32; self.info.shape[0]];
        for start in (0..num_voxels).step_by(row.len()) {
            self.read_f32(start, &mut row);
            for &value in &row {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked right below")]
                let label = value as u8;
                if (f32::from(label) - value).abs() > 1e-3 {
                    return Err(format!("label value {value}; labels must be integers from 0 to 255"));
                }
                labels.push(label);
            }
        }
        Ok(labels)
    }

    fn count_not_finite(&self) -> usize {
        if !matches!(self.info.dtype, Dtype::F32 | Dtype::F64) {
            return 0;
        }
        let num_voxels = self.info.shape.iter().product();
        let mut row = vec![0f32; self.info.shape[0]];
        let mut count = 0;
        for start in (0..num_voxels).step_by(row.len()) {
            self.read_f32(start, &mut row);
            count += row.iter().filter(|value| !value.is_finite()).count();
        }
        count
    }
}

fn is_gzip(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"))
}

fn gzip_error(err: &std::io::Error) -> String {
    match err.kind() {
        std::io::ErrorKind::UnexpectedEof => "the gzip data ends early; the file was cut short".into(),
        _ => format!("not valid gzip data ({err})"),
    }
}

/// Inflates exactly `len` bytes; what a file holds beyond that is checked but not kept.
///
/// libdeflate takes the whole file at once and is about twice as fast as zlib. Files it does not take, of several gzip
/// members or longer than their header says, go through the streaming decoder.
fn inflate(file: &[u8], len: u64) -> Result<Vec<u8>, String> {
    let len = usize::try_from(len).map_err(|_| "volume does not fit this machine's memory".to_owned())?;
    // A gzip file cannot hold more than 1032 times its size: don't reserve what a header merely claims.
    if len / 1032 > file.len() {
        return Err(format!("header promises {len} bytes, which {} compressed bytes cannot hold", file.len()));
    }
    let mut bytes = vec![0u8; len];
    if libdeflater::Decompressor::new().gzip_decompress(file, &mut bytes) == Ok(len) {
        return Ok(bytes);
    }
    bytes.clear();
    let mut decoder = MultiGzDecoder::new(file);
    decoder.by_ref().take(len as u64).read_to_end(&mut bytes).map_err(|err| gzip_error(&err))?;
    // Reading to the end makes the decoder compare the checksum.
    std::io::copy(&mut decoder, &mut std::io::sink()).map_err(|err| gzip_error(&err))?;
    Ok(bytes)
}

fn parse_header(bytes: &[u8]) -> Result<NiftiInfo, String> {
    let no_nifti = || "not a NIfTI-1 file (no header of 348 bytes with magic n+1)".to_owned();
    if bytes.len() < HEADER_LEN {
        return Err(no_nifti());
    }
    let size = [bytes[0], bytes[1], bytes[2], bytes[3]];
    match (i32::from_le_bytes(size), i32::from_be_bytes(size)) {
        (540, _) | (_, 540) => return Err("a NIfTI-2 file; convert it to NIfTI-1 (for example with nibabel)".into()),
        (348, _) | (_, 348) => {}
        _ => return Err(no_nifti()),
    }
    match &bytes[344..348] {
        b"n+1\0" => {}
        b"ni1\0" => return Err("a header of a .hdr/.img pair; convert it to a single .nii.gz".into()),
        _ => return Err(no_nifti()),
    }
    let header = NiftiHeader::from_reader(&bytes[..HEADER_LEN]).map_err(|err| format!("bad NIfTI header: {err}"))?;
    let shape = shape(&header)?;
    let dtype = dtype(&header)?;
    let num_voxels = shape.iter().try_fold(1u64, |n, &length| n.checked_mul(length as u64));
    let Some(num_voxels) = num_voxels.filter(|&n| n <= MAX_VOXELS) else {
        return Err(format!("shape {shape:?} is larger than any scan"));
    };
    let offset = header.vox_offset;
    if !(offset >= HEADER_LEN as f32 && offset <= 1e6 && offset.fract() == 0.0) {
        return Err(format!("voxels at byte {offset}, which is no place for them"));
    }
    let affine = affine(&header, shape);
    let bad = |what: String| format!("{what}; the voxels' place in the body is unknown, mend the header");
    if let Some(side) = spacing(&affine).into_iter().find(|side| !(side.is_finite() && *side > 1e-4)) {
        return Err(bad(format!("spacing of {side} mm")));
    }
    if affine.iter().flatten().any(|value| !value.is_finite()) {
        return Err(bad("affine with values that are no numbers".into()));
    }
    let orientation = Orientation::closest(&affine).ok_or_else(|| bad("affine of a flat space".into()))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a small integer")]
    let data_offset = offset as u64;
    let data_bytes = num_voxels * dtype.len() as u64;
    Ok(NiftiInfo { shape, affine, orientation, data_bytes, header, dtype, data_offset })
}

fn shape(header: &NiftiHeader) -> Result<[usize; 3], String> {
    let rank = usize::from(header.dim[0]);
    if !(1..=7).contains(&rank) {
        return Err(format!("{rank} dimensions; a NIfTI file has 1 to 7"));
    }
    let lengths: Vec<usize> = header.dim[1..=rank].iter().map(|&length| usize::from(length)).collect();
    let longer = lengths.iter().skip(3).any(|&length| length != 1);
    if longer {
        return Err(format!("{rank}-D image of shape {lengths:?}; expected 3-D, split it into its volumes"));
    }
    match lengths.get(..3) {
        Some(&[x, y, z]) if x > 0 && y > 0 && z > 0 && x.max(y).max(z) <= 32_767 => Ok([x, y, z]),
        _ => Err(format!("image of shape {lengths:?}; expected three lengths of 1 to 32767")),
    }
}

fn dtype(header: &NiftiHeader) -> Result<Dtype, String> {
    let kind = header.data_type().map_err(|_| format!("unknown data type {}", header.datatype))?;
    Ok(match kind {
        NiftiType::Uint8 => Dtype::U8,
        NiftiType::Int8 => Dtype::I8,
        NiftiType::Uint16 => Dtype::U16,
        NiftiType::Int16 => Dtype::I16,
        NiftiType::Uint32 => Dtype::U32,
        NiftiType::Int32 => Dtype::I32,
        NiftiType::Uint64 => Dtype::U64,
        NiftiType::Int64 => Dtype::I64,
        NiftiType::Float32 => Dtype::F32,
        NiftiType::Float64 => Dtype::F64,
        other => return Err(format!("data type {other:?}; expected one number a voxel")),
    })
}

/// As nibabel's `get_best_affine`: sform if its code is set, else qform, else the spacings around the centre with x to
/// the left.
fn affine(header: &NiftiHeader, shape: [usize; 3]) -> Affine {
    let last = [0.0, 0.0, 0.0, 1.0];
    if header.sform_code > 0 {
        let [x, y, z] = [header.srow_x, header.srow_y, header.srow_z].map(|row| row.map(f64::from));
        return [x, y, z, last];
    }
    let side: [f64; 3] = std::array::from_fn(|axis| f64::from(header.pixdim[axis + 1]));
    if header.qform_code > 0 {
        let turned = if header.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
        let quaternion = [header.quatern_b, header.quatern_c, header.quatern_d];
        let axes = quaternion_axes(quaternion, [side[0], side[1], side[2] * turned]);
        let origin = [header.quatern_x, header.quatern_y, header.quatern_z].map(f64::from);
        let row = |r: usize| [axes[r][0], axes[r][1], axes[r][2], origin[r]];
        return [row(0), row(1), row(2), last];
    }
    let mut affine = [[0.0; 4], [0.0; 4], [0.0; 4], last];
    for axis in 0..3 {
        let side = if axis == 0 { -side[axis] } else { side[axis] };
        affine[axis][axis] = side;
        affine[axis][3] = -side * (shape[axis] as f64 - 1.0) / 2.0;
    }
    affine
}
