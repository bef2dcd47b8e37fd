//! Shard reader. Treats every byte as untrusted until it is validated.

use std::path::{Path, PathBuf};

use super::layout::{FOOTER_LEN, FOOTER_MAGIC, HEADER_LEN, HEADER_MAGIC, MAX_DIRECTORY_LEN, VERSION, header_bytes};
use crate::codec::Voxel;
use crate::damage::{CaseIndexError, JsonError, ShardError};
use crate::error::{Error, FileError, Result};
use crate::grid::Grid;
use crate::index::{ChunkIndex, ENTRY_LEN, Entry};
#[cfg(feature = "object-store")]
use crate::object::RemoteFile;
use crate::occupancy::Occupancy;
use crate::record::{ArrayRecord, CaseRecord, Directory};
use crate::storage::{Access, Storage};

/// An open shard.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    storage: Storage,
    generation: u64,
    directory: Directory,
}

/// Chunk index and occupancy of a case, read when the case is visited.
#[derive(Clone, Debug)]
pub struct CaseIndex {
    /// Partition of the volume into chunks.
    pub grid: Grid,
    /// Index of the image's chunks.
    pub image: ChunkIndex,
    /// Index of the label map's chunks; `None` for a case without labels.
    pub label: Option<ChunkIndex>,
    /// Counts of foreground and class voxels per chunk.
    pub occupancy: Occupancy,
}

impl CaseIndex {
    /// Smallest offset of an encoded chunk; `None` if all chunks are constant.
    pub(crate) fn first_offset(&self) -> Option<u64> {
        let entries = self.image.entries.iter().chain(self.label.iter().flat_map(|label| &label.entries));
        let offset = |entry: &Entry| if let Entry::Coded { offset, .. } = entry { Some(*offset) } else { None };
        entries.filter_map(offset).min()
    }
}

impl Shard {
    /// Opens a shard file and checks header, footer and directory; reads no chunk.
    ///
    /// # Errors
    /// If the file cannot be read or is not a complete shard.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let storage = Storage::open(path, access)?;
        let mut scratch = Vec::new();
        let (generation, directory) = parse_frame(path, storage.len(), |offset, len| {
            storage.with_bytes(offset, len, &mut scratch, <[u8]>::to_vec)
        })?;
        Ok(Self { path: path.to_owned(), storage, generation, directory })
    }

    /// Opens a shard in object storage, as [`Self::open`] does. Bytes that do not match their checksum are fetched once
    /// more.
    #[cfg(feature = "object-store")]
    pub(crate) fn open_object(object: RemoteFile) -> Result<Self> {
        let parse = || {
            let frame = object.frame(HEADER_LEN as u64)?;
            parse_frame(object.url(), object.len(), |offset, len| frame.read(offset, len))
        };
        let (generation, directory) = match parse() {
            Err(Error::BadShard { .. }) => parse()?,
            parsed => parsed?,
        };
        let path = object.url().to_owned();
        Ok(Self { path, storage: Storage::of_object(object), generation, directory })
    }

    /// Path of the file, or URL of the object.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// File name of the shard.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
    /// Size of the file in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.storage.len()
    }

    /// Always `false`: a shard holds at least a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.storage.is_empty()
    }

    /// Generation of the shard, which decides the live record of a case, see [`super`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Shape of the chunks.
    #[must_use]
    pub fn chunk(&self) -> [usize; 3] {
        self.directory.chunk
    }

    /// Records of the cases, in file order.
    #[must_use]
    pub fn cases(&self) -> &[CaseRecord] {
        &self.directory.cases
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Reads and validates the index of a case.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub(crate) fn read_index(&self, case: &CaseRecord, scratch: &mut Vec<u8>) -> Result<CaseIndex> {
        let bad = |error: CaseIndexError| Error::BadShard {
            path: self.path.clone(),
            reason: ShardError::Case { case: case.key(), error },
        };
        let grid = case.grid(self.directory.chunk).map_err(|error| bad(error.into()))?;
        check_codec::<u16>("image", &case.image).map_err(bad)?;
        if let Some(label) = &case.label {
            check_codec::<u8>("label", label).map_err(bad)?;
        }
        let index_len = usize::try_from(case.span.index_len).ok().ok_or_else(|| bad(CaseIndexError::Truncated))?;
        let parse = |bytes: &[u8]| {
            if crc32c::crc32c(bytes) == case.span.index_crc32c {
                parse_index(bytes, grid, case)
            } else {
                Err(CaseIndexError::Checksum)
            }
        };
        let offset = case.span.index_offset();
        match self.storage.with_bytes(offset, index_len, scratch, parse)? {
            // Bytes from object storage are fetched once more.
            Err(CaseIndexError::Checksum) if self.storage.discard(offset, case.span.index_len) => {
                let reason = |error| match error {
                    CaseIndexError::Checksum => {
                        CaseIndexError::Fetched { start: offset, end: offset + case.span.index_len }
                    }
                    error => error,
                };
                self.storage.with_bytes(offset, index_len, scratch, parse)?.map_err(|error| bad(reason(error)))
            }
            index => index.map_err(bad),
        }
    }
}

/// Reads header, footer and directory of a shard of `len` bytes with `read`, which takes offset and length; returns
/// generation and directory.
fn parse_frame<B: AsRef<[u8]>>(
    path: &Path,
    len: u64,
    mut read: impl FnMut(u64, usize) -> Result<B, FileError>,
) -> Result<(u64, Directory)> {
    let bad = |reason: ShardError| Error::BadShard { path: path.to_owned(), reason };
    if len < (HEADER_LEN + FOOTER_LEN) as u64 {
        return Err(bad(ShardError::TooShort(len)));
    }
    let generation = parse_header(array(read(0, HEADER_LEN)?.as_ref())).map_err(bad)?;
    let end = len - FOOTER_LEN as u64;
    let footer = array(read(end, FOOTER_LEN)?.as_ref());
    let (offset, directory_len, crc) = parse_footer(footer).map_err(bad)?;
    let whole = offset.checked_add(directory_len) == Some(end) && offset >= HEADER_LEN as u64;
    let directory_bytes = usize::try_from(directory_len).ok().filter(|_| directory_len <= MAX_DIRECTORY_LEN);
    let (true, Some(directory_bytes)) = (whole, directory_bytes) else {
        return Err(bad(ShardError::DirectoryRange { offset, len: directory_len, end }));
    };
    let bytes = read(offset, directory_bytes)?;
    if crc32c::crc32c(bytes.as_ref()) != crc {
        return Err(bad(ShardError::DirectoryChecksum));
    }
    Ok((generation, parse_directory(bytes.as_ref(), offset).map_err(bad)?))
}

/// Checks that the codec of an array exists and its values fit the stored type.
fn check_codec<T: Voxel>(array: &'static str, record: &ArrayRecord) -> Result<(), CaseIndexError> {
    record.codec.validate(T::BITS).map_err(|error| CaseIndexError::Codec { array, error })
}

fn parse_index(bytes: &[u8], grid: Grid, case: &CaseRecord) -> Result<CaseIndex, CaseIndexError> {
    let data_end = case.span.index_offset();
    let (image, rest) = parse_array("image", &case.image, &grid, data_end, bytes)?;
    let (label, rest) = match &case.label {
        Some(record) => {
            let (label, rest) = parse_array("label", record, &grid, data_end, rest)?;
            (Some(label), rest)
        }
        None => (None, rest),
    };
    let occupancy = Occupancy::from_bytes(rest, &grid)?;
    Ok(CaseIndex { grid, image, label, occupancy })
}

/// Parses the entries of an array; also returns the bytes after them.
fn parse_array<'a>(
    array: &'static str,
    record: &ArrayRecord,
    grid: &Grid,
    data_end: u64,
    bytes: &'a [u8],
) -> Result<(ChunkIndex, &'a [u8]), CaseIndexError> {
    let len = grid.num_chunks().saturating_mul(ENTRY_LEN);
    let (entries, rest) = bytes.split_at_checked(len).ok_or(CaseIndexError::Truncated)?;
    let index = ChunkIndex::from_bytes(entries, &record.codec, grid, data_end);
    Ok((index.map_err(|error| CaseIndexError::Index { array, error })?, rest))
}

fn parse_directory(bytes: &[u8], offset: u64) -> Result<Directory, ShardError> {
    let directory = serde_json::from_slice(bytes).map_err(JsonError::from)?;
    check_spans(&directory, offset)?;
    Ok(directory)
}

/// Copies a slice into an array; the caller guarantees that the lengths are equal.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

/// Parses the header and returns the generation.
fn parse_header(bytes: [u8; HEADER_LEN]) -> Result<u64, ShardError> {
    if bytes[..8] != HEADER_MAGIC {
        return Err(ShardError::Magic);
    }
    let version = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if version != VERSION {
        return Err(ShardError::Version { found: version, expected: VERSION });
    }
    let generation: [u8; 8] = bytes[16..24].try_into().expect("eight bytes");
    let generation = u64::from_le_bytes(generation);
    if bytes != header_bytes(generation) {
        return Err(ShardError::Header);
    }
    Ok(generation)
}

/// Parses the footer and returns offset, length and checksum of the directory.
fn parse_footer(bytes: [u8; FOOTER_LEN]) -> Result<(u64, u64, u32), ShardError> {
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    if bytes[24..] != FOOTER_MAGIC || u32_at(20) != VERSION {
        return Err(ShardError::Footer);
    }
    Ok((u64_at(0), u64_at(8), u32_at(16)))
}

/// Checks that the cases tile the bytes between header and directory, so that no byte escapes the checksums.
fn check_spans(directory: &Directory, end: u64) -> Result<(), ShardError> {
    let mut at = HEADER_LEN as u64;
    for case in &directory.cases {
        let span = &case.span;
        let next = span.offset.checked_add(span.data_len).and_then(|sum| sum.checked_add(span.index_len));
        match next {
            Some(next) if span.offset == at && next <= end => at = next,
            _ => return Err(ShardError::Span { case: case.key() }),
        }
    }
    if at == end { Ok(()) } else { Err(ShardError::Gap { start: at, end }) }
}
