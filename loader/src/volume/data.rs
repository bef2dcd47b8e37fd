//! Voxels that follow a text header, or that lie in a separate file in the folder of the header.

use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::dtype::{Dtype, Stored};
use super::header_text::{self, quoted};
use super::{Loaded, VolumeError, VolumeFault, VolumeInfo, check_complete, inflate, open_regular, read_file, stand_in};

/// A validated text header, and the location of its voxels.
pub(super) struct Header {
    pub info: VolumeInfo,
    pub data: Data,
}

/// Location and encoding of the voxels.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Data {
    /// Name of the file that holds the voxels; `None` for the header's own file.
    pub file: Option<String>,
    /// Start of the encoded voxels in that file.
    pub start: Start,
    /// Lines to skip at `start`.
    pub skip_lines: u64,
    pub encoding: Encoding,
    /// Bytes to skip in the decoded data.
    pub skip_bytes: u64,
}

/// Position at which encoded voxels begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Offset in bytes from the beginning of the file.
    At(u64),
    /// Position of raw voxels that end with the file: its length minus their size, but not before this byte.
    FromEnd(u64),
}

/// Encoding of stored voxels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Bytes of the header's data type.
    Raw,
    /// Bytes of the header's data type, compressed with gzip.
    Gzip,
    /// Bytes of the header's data type, compressed as a zlib stream or with gzip.
    Zlib,
    /// Decimal numbers separated by white space.
    Text,
}

impl Data {
    /// Offset of the encoded voxels in a file of `len` bytes, without the lines to skip.
    fn start_in(&self, len: u64, info: &VolumeInfo) -> Result<u64, VolumeFault> {
        match self.start {
            Start::At(start) => Ok(start),
            Start::FromEnd(least) => {
                let start = len.checked_sub(info.data_bytes).filter(|start| *start >= least);
                let promised = least.saturating_add(info.data_bytes);
                let missing = promised.saturating_sub(len);
                start.ok_or(VolumeFault::Missing { shape: info.shape, missing, promised })
            }
        }
    }
}

/// Parser of a header at the beginning of a file.
pub(super) type Parse = fn(&[u8]) -> Result<Header, VolumeFault>;

impl Header {
    /// Path of the file with the voxels, given the header's path; `None` if they are in the same file.
    fn data_path(&self, header: &Path) -> Result<Option<PathBuf>, VolumeFault> {
        let Some(name) = &self.data.file else { return Ok(None) };
        let plain = name.strip_prefix("./").unwrap_or(name);
        // A header is data and must not make this program read other files than its own.
        if plain.is_empty() || plain == "." || plain == ".." || plain.contains(['/', '\\', '\0', ':']) {
            return Err(VolumeFault::DataElsewhere { name: quoted(name) });
        }
        if is_single(header) {
            return Err(VolumeFault::DetachedSingle { name: quoted(name) });
        }
        Ok(Some(header.with_file_name(plain)))
    }
}

/// Returns true if the file extension implies that header and voxels are in one file, so that no second file can change
/// separately.
fn is_single(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ["nrrd", "mha"].iter().any(|single| ending.eq_ignore_ascii_case(single)))
}

/// Reads a volume's text header. The file with raw voxels must be as long as the header says, or longer.
pub(super) fn read_info(path: &Path, parse: Parse) -> Result<VolumeInfo, VolumeFault> {
    let header = parse(&header_text::read(open_regular(path)?)?)?;
    let data_path = header.data_path(path)?;
    let Header { mut info, data } = header;
    // Lines to skip are counted when the voxels are read.
    if data.encoding == Encoding::Raw && data.skip_lines == 0 {
        let surplus = match &data_path {
            None => raw_surplus(&open_regular(path)?, &data, &info)?,
            Some(data_path) => open_regular(data_path)
                .and_then(|file| raw_surplus(&file, &data, &info))
                .map_err(|fault| of_data_file(data_path, stand_in_at(data_path).unwrap_or(fault)))?,
        };
        info.note_surplus(surplus);
    }
    Ok(info)
}

/// Number of bytes behind the last voxel of a file with raw voxels.
fn raw_surplus(file: &File, data: &Data, info: &VolumeInfo) -> Result<u64, VolumeFault> {
    let len = file.metadata().map_err(|err| VolumeFault::read(&err))?.len();
    let offset = data.start_in(len, info)?.saturating_add(data.skip_bytes);
    check_complete(info, offset, usize::try_from(len).unwrap_or(usize::MAX))?;
    Ok(surplus(info, offset, len))
}

/// Fault of a file that is known to replace one with voxels.
fn stand_in_at(path: &Path) -> Option<VolumeFault> {
    stand_in::fault(&header_text::read(open_regular(path).ok()?).ok()?)
}

/// Number of bytes behind the last voxel in a file of `len` bytes, whose first voxel lies at `offset`.
fn surplus(info: &VolumeInfo, offset: u64, len: u64) -> u64 {
    len.saturating_sub(offset.saturating_add(info.data_bytes))
}

/// Path of the separate file with the voxels of the header that `parse` understands; `None` if there is none, or the
/// header cannot be read.
pub(super) fn detached(path: &Path, parse: Parse) -> Option<PathBuf> {
    if is_single(path) {
        return None;
    }
    let head = header_text::read(open_regular(path).ok()?).ok()?;
    parse(&head).ok()?.data_path(path).ok()?
}

/// Reads a volume with a text header.
pub(super) fn load(path: &Path, parse: Parse) -> Result<Loaded, VolumeError> {
    let at = |reason| VolumeError { path: path.to_owned(), reason };
    let file = read_file(path)?;
    let header = parse(&file).map_err(at)?;
    let data_path = header.data_path(path).map_err(at)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&file);
    let mut file_bytes = file.len() as u64;
    let bytes = match &data_path {
        None => file,
        Some(data_path) => {
            let data = read_file(data_path).map_err(|err| at(of_data_file(data_path, err.reason)))?;
            hasher.update(&data);
            file_bytes += data.len() as u64;
            data
        }
    };
    let Header { mut info, data } = header;
    let replaced = stand_in::fault(&bytes);
    let decoded = decode(bytes, &data, &info).and_then(|(bytes, offset, surplus)| {
        check_complete(&info, offset, bytes.len())?;
        Ok((bytes, offset, surplus))
    });
    let (bytes, offset, surplus) = decoded.map_err(|fault| match &data_path {
        None => at(fault),
        Some(data_path) => at(of_data_file(data_path, replaced.unwrap_or(fault))),
    })?;
    info.note_surplus(surplus);
    let blake3 = hasher.finalize().to_hex().to_string();
    Ok(Loaded { info, blake3, file_bytes, bytes, offset, scaling: (1.0, 0.0) })
}

/// Fault of a header whose voxels are in a separate file, given the fault of that file.
pub(crate) fn of_data_file(data_path: &Path, problem: impl Display) -> VolumeFault {
    let name = data_path.file_name().unwrap_or_default().to_string_lossy();
    VolumeFault::DataFile { name: quoted(&name), problem: problem.to_string() }
}

/// Returns the decoded bytes, the offset of the first voxel, and the number of bytes behind the last one.
fn decode(file: Vec<u8>, data: &Data, info: &VolumeInfo) -> Result<(Vec<u8>, u64, u64), VolumeFault> {
    let len = file.len() as u64;
    let mut start = data.start_in(len, info)?;
    let rest = |start: u64| usize::try_from(start).ok().and_then(|start| file.get(start..)).unwrap_or_default();
    for _ in 0..data.skip_lines {
        match rest(start).iter().position(|&byte| byte == b'\n') {
            Some(end) => start += end as u64 + 1,
            // The voxels are then missing.
            None => start = len,
        }
    }
    let end = data.skip_bytes.saturating_add(info.data_bytes);
    let inflated = |(bytes, surplus)| (bytes, data.skip_bytes, surplus);
    match data.encoding {
        Encoding::Raw => {
            let offset = start.saturating_add(data.skip_bytes);
            let surplus = surplus(info, offset, len);
            Ok((file, offset, surplus))
        }
        Encoding::Zlib if !rest(start).starts_with(&inflate::GZIP_MAGIC) => {
            inflate::zlib(rest(start), end).map(inflated)
        }
        Encoding::Gzip | Encoding::Zlib => inflate::gzip(rest(start), end).map(inflated),
        Encoding::Text => {
            let skipped = usize::try_from(data.skip_bytes).unwrap_or(usize::MAX);
            Ok((numbers(rest(start).get(skipped..).unwrap_or_default(), info)?, 0, 0))
        }
    }
}

/// Parses decimal numbers into voxels of the header's data type.
fn numbers(text: &[u8], info: &VolumeInfo) -> Result<Vec<u8>, VolumeFault> {
    let num_voxels: u64 = info.shape.iter().map(|&length| length as u64).product();
    let promised = info.data_bytes;
    // A number takes a digit and a separator: no memory is reserved for what a header merely claims.
    if num_voxels > text.len() as u64 {
        return Err(VolumeFault::Missing { shape: info.shape, missing: promised - text.len() as u64, promised });
    }
    let mut bytes = Vec::new();
    let words = text.split(|byte| byte.is_ascii_whitespace() || *byte == b',').filter(|word| !word.is_empty());
    for (number, word) in (0..num_voxels).zip(words) {
        let word = String::from_utf8_lossy(word);
        let fault = || VolumeFault::VoxelText { number, value: quoted(&word) };
        push(&mut bytes, &word, info.stored).ok_or_else(fault)?;
    }
    Ok(bytes)
}

/// Appends a number in the stored form; `None` if the text is not a number of the type.
fn push(bytes: &mut Vec<u8>, word: &str, Stored { dtype, is_big_endian }: Stored) -> Option<()> {
    macro_rules! push {
        ($type:ty) => {{
            let value: $type = word.parse().ok()?;
            bytes.extend(if is_big_endian { value.to_be_bytes() } else { value.to_le_bytes() });
        }};
    }
    match dtype {
        Dtype::U8 => push!(u8),
        Dtype::I8 => push!(i8),
        Dtype::U16 => push!(u16),
        Dtype::I16 => push!(i16),
        Dtype::U32 => push!(u32),
        Dtype::I32 => push!(i32),
        Dtype::U64 => push!(u64),
        Dtype::I64 => push!(i64),
        Dtype::F32 => push!(f32),
        Dtype::F64 => push!(f64),
    }
    Some(())
}
