//! Fetching the chunks of a case in object storage before they are read.

use std::ops::Range;
#[cfg(feature = "object-store")]
use std::sync::Arc;

use crate::case::{Case, VolumeReader};
use crate::damage::ChunkError;
use crate::error::{Error, Result};
use crate::index::{ChunkIndex, Entry};
use crate::shard::reader::CaseIndex;

/// Largest number of bytes on their way from object storage at any time, over all caches of the process.
#[cfg(feature = "object-store")]
pub const IN_FLIGHT_BYTES: u64 = crate::object::IN_FLIGHT_BYTES;
/// Largest number of bytes on their way from object storage at any time: 0 in a build without object storage.
#[cfg(not(feature = "object-store"))]
pub const IN_FLIGHT_BYTES: u64 = 0;

/// Upper bound on the bytes of blocks, mapped or in memory, that this process holds for the objects with these cases; 0
/// for cases on a local disk. A block store shared by several cases is counted once.
#[must_use]
pub fn held_bytes<'a>(cases: impl IntoIterator<Item = &'a Case>) -> u64 {
    #[cfg(feature = "object-store")]
    {
        let objects = cases.into_iter().filter_map(|case| case.shard().storage().object());
        let mut stores: Vec<_> = objects.map(crate::object::RemoteFile::blocks).collect();
        stores.sort_unstable_by_key(|store| Arc::as_ptr(store).addr());
        stores.dedup_by_key(|store| Arc::as_ptr(store).addr());
        stores.into_iter().map(|store| store.held_bytes()).sum()
    }
    #[cfg(not(feature = "object-store"))]
    {
        let _ = cases;
        0
    }
}

impl Case {
    /// Returns `true` if the case lies in object storage.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        #[cfg(feature = "object-store")]
        return self.shard().storage().object().is_some();
        #[cfg(not(feature = "object-store"))]
        return false;
    }

    /// Returns `true` if the case can be read without fetching a byte from object storage.
    #[must_use]
    pub fn is_at_hand(&self) -> bool {
        #[cfg(feature = "object-store")]
        if let Some(object) = self.shard().storage().object() {
            let span = self.record().span;
            return object.has(&(span.offset..span.offset + span.len()));
        }
        true
    }

    /// Fetches image chunks, and label chunks if `labels` is set, and checks them against their checksums. Waits until
    /// their blocks are available locally. Does nothing for a case on a local disk.
    ///
    /// # Errors
    /// If they cannot be fetched, or a chunk does not match its checksum after it was fetched twice.
    ///
    /// # Panics
    /// If a number in `chunks` is not that of a chunk.
    pub fn fetch(&self, index: &CaseIndex, chunks: &[usize], labels: bool, reader: &mut VolumeReader) -> Result<()> {
        #[cfg(feature = "object-store")]
        if let Some(object) = self.shard().storage().object() {
            let arrays = [("image", Some(&index.image)), ("label", index.label.as_ref().filter(|_| labels))];
            let missing: Vec<Missing> = arrays
                .into_iter()
                .flat_map(|(array, entries)| coded(array, entries, chunks))
                .filter(|missing| !object.has(&missing.range))
                .collect();
            let ranges: Vec<Range<u64>> = missing.iter().map(|missing| missing.range.clone()).collect();
            object.ensure(&ranges)?;
            return missing.iter().try_for_each(|missing| self.check_fetched(missing, reader));
        }
        let _ = (index, chunks, labels, reader);
        Ok(())
    }

    /// Checks a chunk that was just fetched, and fetches it once more if it does not match.
    #[cfg(feature = "object-store")]
    fn check_fetched(&self, missing: &Missing, reader: &mut VolumeReader) -> Result<()> {
        let Missing { array, chunk, range, crc32c } = missing;
        let storage = self.shard().storage();
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        for _ in 0..2 {
            let matches = |bytes: &[u8]| crc32c::crc32c(bytes) == *crc32c;
            if storage.with_bytes(range.start, len, reader.scratch(), matches)? {
                return Ok(());
            }
            storage.discard(range.start, range.end - range.start);
        }
        Err(Error::CorruptChunk {
            path: storage.path().to_owned(),
            case: self.key().to_owned(),
            array,
            chunk: *chunk,
            reason: ChunkError::Fetched { start: range.start, end: range.end },
        })
    }
}

/// An encoded chunk whose bytes are not available locally.
#[cfg(feature = "object-store")]
struct Missing {
    array: &'static str,
    chunk: usize,
    range: Range<u64>,
    crc32c: u32,
}

/// Selects the encoded chunks among `chunks` of an array; constant chunks have no bytes to fetch.
#[cfg(feature = "object-store")]
fn coded<'a>(
    array: &'static str,
    index: Option<&'a ChunkIndex>,
    chunks: &'a [usize],
) -> impl Iterator<Item = Missing> + 'a {
    index.into_iter().flat_map(move |index| {
        chunks.iter().filter_map(move |&chunk| match index.entries[chunk] {
            Entry::Constant(_) => None,
            Entry::Coded { offset, len, crc32c } => {
                Some(Missing { array, chunk, range: offset..offset + u64::from(len), crc32c })
            }
        })
    })
}
