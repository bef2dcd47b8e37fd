//! Opens a shard and believes nothing it has not checked.

use std::path::{Path, PathBuf};

use super::record::{CaseRecord, Directory};
use super::{FOOTER_LEN, FOOTER_MAGIC, HEADER_LEN, HEADER_MAGIC, MAX_DIRECTORY_LEN, VERSION, header_bytes};
use crate::codec::check_fits;
use crate::error::{Error, Result};
use crate::grid::Grid;
use crate::index::{ChunkIndex, ENTRY_LEN, Entry};
use crate::occupancy::Occupancy;
use crate::storage::{Access, Storage};

/// An open shard.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    storage: Storage,
    generation: u64,
    directory: Directory,
}

/// A case's chunks and counts, read when the case is visited.
#[derive(Clone, Debug)]
pub struct CaseIndex {
    /// How the volume is cut.
    pub grid: Grid,
    /// Chunks of the image.
    pub image: ChunkIndex,
    /// Chunks of the label map.
    pub label: Option<ChunkIndex>,
    /// Counts.
    pub occupancy: Occupancy,
}

impl CaseIndex {
    /// Where the first of the coded chunks lies.
    pub(crate) fn first_offset(&self) -> Option<u64> {
        let entries = self.image.entries.iter().chain(self.label.iter().flat_map(|label| &label.entries));
        let offset = |entry: &Entry| if let Entry::Coded { offset, .. } = entry { Some(*offset) } else { None };
        entries.filter_map(offset).min()
    }
}

impl Shard {
    /// Opens a shard: checks header, footer and directory; touches no chunk.
    ///
    /// # Errors
    /// If the file cannot be read or is not whole.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let bad = |reason: String| Error::BadShard { path: path.to_owned(), reason };
        let storage = Storage::open(path, access)?;
        let len = storage.len();
        if len < (HEADER_LEN + FOOTER_LEN) as u64 {
            return Err(bad(format!("{len} bytes are too few")));
        }
        let mut scratch = Vec::new();
        let io = Error::io(path, "read");
        let header: [u8; HEADER_LEN] = match storage.read(0, HEADER_LEN, &mut scratch) {
            Ok(bytes) => array(bytes),
            Err(err) => return Err(io(err)),
        };
        let generation = parse_header(header).map_err(bad)?;
        let data_end = len - FOOTER_LEN as u64;
        let footer: [u8; FOOTER_LEN] = match storage.read(data_end, FOOTER_LEN, &mut scratch) {
            Ok(bytes) => array(bytes),
            Err(err) => return Err(io(err)),
        };
        let (offset, directory_len, crc) = parse_footer(footer).map_err(bad)?;
        let whole = offset.checked_add(directory_len) == Some(data_end) && offset >= HEADER_LEN as u64;
        if !whole || directory_len > MAX_DIRECTORY_LEN {
            return Err(bad(format!("directory at {offset}+{directory_len} does not end at {data_end}")));
        }
        let directory_len = usize::try_from(directory_len).map_err(|err| bad(err.to_string()))?;
        let bytes = storage.read(offset, directory_len, &mut scratch).map_err(io)?;
        if crc32c::crc32c(bytes) != crc {
            return Err(bad("checksum of the directory does not match".into()));
        }
        let directory: Directory = serde_json::from_slice(bytes).map_err(|err| bad(format!("directory: {err}")))?;
        check_spans(&directory, offset).map_err(bad)?;
        Ok(Self { path: path.to_owned(), storage, generation, directory })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.storage.len()
    }

    /// Never: a shard holds at least a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.storage.is_empty()
    }

    /// See [`super`]: which record of a case counts.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Shape of the chunks.
    #[must_use]
    pub fn chunk(&self) -> [usize; 3] {
        self.directory.chunk
    }

    /// The cases, in file order.
    #[must_use]
    pub fn cases(&self) -> &[CaseRecord] {
        &self.directory.cases
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Reads and checks a case's index.
    ///
    /// # Errors
    /// If it cannot be read or does not hold together.
    pub fn read_index(&self, case: &CaseRecord, scratch: &mut Vec<u8>) -> Result<CaseIndex> {
        let bad = |reason: String| Error::BadShard {
            path: self.path.clone(),
            reason: format!("case {}: {reason}", case.key()),
        };
        let grid = case.grid(self.directory.chunk).map_err(bad)?;
        check_fits::<u16>(case.image.codec, &case.key())?;
        let span = &case.span;
        let index_len = usize::try_from(span.index_len).map_err(|err| bad(err.to_string()))?;
        let bytes =
            self.storage.read(span.index_offset(), index_len, scratch).map_err(Error::io(&self.path, "read"))?;
        if crc32c::crc32c(bytes) != span.index_crc32c {
            return Err(bad("checksum of the index does not match".into()));
        }
        let entries_len = grid.num_chunks().saturating_mul(ENTRY_LEN);
        let split = |bytes| <[u8]>::split_at_checked(bytes, entries_len).ok_or_else(|| bad("index ends early".into()));
        let data_end = span.index_offset();
        let (image, rest) = split(bytes)?;
        let image = ChunkIndex::from_bytes(image, &case.image.codec, &grid, data_end).map_err(bad)?;
        let (label, rest) = match &case.label {
            Some(array) => {
                check_fits::<u8>(array.codec, &case.key())?;
                let (label, rest) = split(rest)?;
                (Some(ChunkIndex::from_bytes(label, &array.codec, &grid, data_end).map_err(bad)?), rest)
            }
            None => (None, rest),
        };
        let occupancy = Occupancy::from_bytes(rest, &grid).map_err(bad)?;
        Ok(CaseIndex { grid, image, label, occupancy })
    }
}

/// As many bytes as were asked for.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

fn parse_header(bytes: [u8; HEADER_LEN]) -> Result<u64, String> {
    if bytes[..8] != HEADER_MAGIC {
        return Err("does not begin as a shard does".into());
    }
    let version = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if version != VERSION {
        return Err(format!("format version {version}; this program reads version {VERSION}"));
    }
    let generation: [u8; 8] = bytes[16..24].try_into().expect("eight bytes");
    let generation = u64::from_le_bytes(generation);
    if bytes != header_bytes(generation) {
        return Err("checksum of the header does not match".into());
    }
    Ok(generation)
}

fn parse_footer(bytes: [u8; FOOTER_LEN]) -> Result<(u64, u64, u32), String> {
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    if bytes[24..] != FOOTER_MAGIC || u32_at(20) != VERSION {
        return Err("does not end as a shard does: it was cut short or not written to the end".into());
    }
    Ok((u64_at(0), u64_at(8), u32_at(16)))
}

/// Cases must tile the bytes between header and directory, or a damaged byte between them could go unseen.
fn check_spans(directory: &Directory, end: u64) -> Result<(), String> {
    let mut at = HEADER_LEN as u64;
    for case in &directory.cases {
        let span = &case.span;
        let next = span.offset.checked_add(span.data_len).and_then(|sum| sum.checked_add(span.index_len));
        match next {
            Some(next) if span.offset == at && next <= end => at = next,
            _ => return Err(format!("case {} lies where no case can", case.key())),
        }
    }
    if at == end { Ok(()) } else { Err(format!("bytes {at} to {end} belong to no case")) }
}
