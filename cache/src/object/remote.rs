//! An object read at any offset: block by block, each fetched once and kept by a [`BlockStore`].
//!
//! Missing blocks that follow one another are fetched by one request, up to [`REQUEST_LEN`]; all requests of one call run
//! at the same time. Bytes in flight are bounded by [`IN_FLIGHT_UNITS`] for the whole process. A block that another thread
//! is fetching is waited for, not fetched again.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::block::{Block, BlockKey};
use super::blocks::BlockStore;
use super::bucket::{Bucket, Object};
use super::runtime::{check_process, handle, next, wait};
use super::transport::is_hopeless;
use crate::error::FileError;

/// Longest range of one request, in bytes.
const REQUEST_LEN: u64 = 8 << 20;
/// Unit in which bytes in flight are counted.
const UNIT_LEN: u64 = 256 << 10;
/// Units in flight over all objects of the process: 64 MiB.
const IN_FLIGHT_UNITS: usize = 256;
/// Minimum number of units charged for a request, so that at most 64 run at a time.
const LEAST_UNITS: u32 = 4;
/// Length of the end of a shard that is fetched when it is opened: the directory of some 100 cases.
const TAIL_LEN: u64 = 96 << 10;
/// Number of times a block is looked for in its store before it is fetched without using the store.
const ATTEMPTS: usize = 3;

/// Largest number of bytes in flight.
pub(crate) const IN_FLIGHT_BYTES: u64 = IN_FLIGHT_UNITS as u64 * UNIT_LEN;

static IN_FLIGHT: Semaphore = Semaphore::const_new(IN_FLIGHT_UNITS);

/// An object of known version, open for reading at any offset.
#[derive(Debug)]
pub(crate) struct RemoteFile {
    bucket: Bucket,
    object: Object,
    url: PathBuf,
    id: u128,
    blocks: Arc<dyn BlockStore>,
    /// Blocks being fetched by a thread of this process.
    in_flight: Mutex<HashSet<u32>>,
    arrived: Condvar,
}

/// First and last bytes of an object, fetched to open it.
pub(crate) struct Frame<'a> {
    file: &'a RemoteFile,
    pieces: [(u64, Bytes); 2],
}

impl RemoteFile {
    /// Opens an object whose description is known. Makes no request.
    pub(crate) fn new(bucket: &Bucket, object: Object, blocks: Arc<dyn BlockStore>) -> Self {
        let url = bucket.url_of(&object.name);
        let mut hasher = blake3::Hasher::new();
        let modified = object.modified.duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        // The time distinguishes versions only where the server has no better means.
        let (tag, number) = (object.version.e_tag.as_deref(), object.version.number.as_deref());
        let time = if tag.or(number).is_none() { modified.to_string() } else { String::new() };
        let len = object.len.to_string();
        for part in [url.to_string_lossy().as_ref(), tag.unwrap_or_default(), number.unwrap_or_default(), &time, &len] {
            hasher.update(part.as_bytes());
            hasher.update(&[0]);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self {
            bucket: bucket.clone(),
            url,
            id: u128::from_le_bytes(id),
            object,
            blocks,
            in_flight: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    /// URL of the object, in the form of a path.
    pub(crate) fn url(&self) -> &Path {
        &self.url
    }

    /// Store that keeps the object's blocks.
    pub(crate) fn blocks(&self) -> &Arc<dyn BlockStore> {
        &self.blocks
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.object.len
    }

    /// Fetches the first `head_len` bytes and the end of the object.
    pub(crate) fn frame(&self, head_len: u64) -> Result<Frame<'_>, FileError> {
        if self.len() == 0 {
            // A range of no bytes cannot be requested.
            return Ok(Frame { file: self, pieces: [(0, Bytes::new()), (0, Bytes::new())] });
        }
        let tail_start = self.len().saturating_sub(TAIL_LEN);
        let fetch = |range| self.bucket.range(&self.object.name, &self.object.version, range);
        let (head, tail) = (fetch(0..head_len.min(self.len())), fetch(tail_start..self.len()));
        let both = wait(async move { futures::future::try_join(head, tail).await }).and_then(|both| both);
        let (head, tail) = both.map_err(FileError::at(&self.url, "fetch"))?;
        Ok(Frame { file: self, pieces: [(0, head), (tail_start, tail)] })
    }

    /// Calls `visit` with `len` bytes from `offset`, which lie in the object.
    pub(crate) fn with_bytes<R>(
        &self,
        offset: u64,
        len: usize,
        scratch: &mut Vec<u8>,
        visit: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, FileError> {
        let range = offset..offset + len as u64;
        check_process().map_err(FileError::at(&self.url, "read"))?;
        let numbers = self.numbers(&range);
        let failed = || FileError::at(&self.url, "read the disk cache's copy of");
        let part = |block: &Block, number: u32| {
            let start = u64::from(number) * self.blocks.block_len();
            let from = range.start.saturating_sub(start);
            let to = (range.end - start).min(block.bytes().len() as u64);
            // Both are below the block's length, which is a `usize`.
            usize::try_from(from).unwrap_or(usize::MAX)..usize::try_from(to).unwrap_or(usize::MAX)
        };
        if numbers.is_empty() {
            return Ok(visit(&[]));
        }
        if numbers.len() == 1 {
            let block = self.block(numbers.start, &range)?;
            let result = visit(&block.bytes()[part(&block, numbers.start)]);
            block.check().map_err(failed())?;
            return Ok(result);
        }
        scratch.clear();
        scratch.reserve(len);
        for number in numbers {
            let block = self.block(number, &range)?;
            scratch.extend_from_slice(&block.bytes()[part(&block, number)]);
            block.check().map_err(failed())?;
        }
        Ok(visit(scratch))
    }

    /// Returns `true` if all bytes of a range are in the block store now.
    pub(crate) fn has(&self, range: &Range<u64>) -> bool {
        self.numbers(range).all(|number| self.blocks.contains(self.key(number), self.block_len(number)))
    }

    /// Forgets the blocks of a range, whose bytes turned out to be wrong.
    pub(crate) fn discard(&self, range: &Range<u64>) {
        self.numbers(range).for_each(|number| self.blocks.discard(self.key(number)));
    }

    /// Fetches the missing blocks of the ranges, and waits until the store holds them.
    pub(crate) fn ensure(&self, ranges: &[Range<u64>]) -> Result<(), FileError> {
        check_process().map_err(FileError::at(&self.url, "fetch"))?;
        let mut wanted: BTreeSet<u32> = ranges.iter().flat_map(|range| self.numbers(range)).collect();
        loop {
            wanted.retain(|&number| !self.blocks.contains(self.key(number), self.block_len(number)));
            if wanted.is_empty() {
                return Ok(());
            }
            let claimed = self.claim(&wanted);
            // Another thread may have kept some between the look and the claim.
            let is_missing = |&number: &u32| !self.blocks.contains(self.key(number), self.block_len(number));
            let missing: Vec<u32> = claimed.numbers.iter().copied().filter(is_missing).collect();
            self.fetch(&missing)?;
            // Not looked up again: in a cache that is too small, they may be gone already.
            claimed.numbers.iter().for_each(|number| {
                wanted.remove(number);
            });
        }
    }

    /// Claims the wanted blocks that no other thread is fetching; if there are none, waits for the threads that fetch
    /// them.
    fn claim(&self, wanted: &BTreeSet<u32>) -> Claimed<'_> {
        let mut in_flight = self.lock();
        let numbers: Vec<u32> = wanted.iter().copied().filter(|number| !in_flight.contains(number)).collect();
        if numbers.is_empty() {
            drop(self.arrived.wait(in_flight).unwrap_or_else(PoisonError::into_inner));
        } else {
            in_flight.extend(&numbers);
        }
        Claimed { file: self, numbers }
    }

    /// Fetches blocks, in increasing order, and keeps them.
    fn fetch(&self, numbers: &[u32]) -> Result<(), FileError> {
        let most = u32::try_from(REQUEST_LEN / self.blocks.block_len()).unwrap_or(1).max(1);
        let failed = || FileError::at(&self.url, "fetch");
        let handle = handle().map_err(failed())?;
        let (sender, receiver) = mpsc::channel();
        for run in runs(numbers, most) {
            let range = self.bytes_of(&run);
            let units =
                u32::try_from((range.end - range.start).div_ceil(UNIT_LEN)).unwrap_or(u32::MAX).max(LEAST_UNITS);
            let bytes = self.bucket.range(&self.object.name, &self.object.version, range);
            let sender = sender.clone();
            handle.spawn(async move {
                // Held until the bytes are kept. The semaphore is never closed.
                let permit = IN_FLIGHT.acquire_many(units).await.ok();
                // After an error, no receiver is left.
                let _ = sender.send((run, bytes.await, permit));
            });
        }
        drop(sender);
        while let Some((run, bytes, _permit)) = next(&receiver, is_hopeless).map_err(failed())? {
            let mut rest = bytes.map_err(failed())?;
            for number in run {
                let block = rest.split_to(self.block_len(number).min(rest.len()));
                self.blocks.put(self.key(number), &block);
            }
        }
        Ok(())
    }

    /// A block, fetched together with the rest of `range` if it is missing.
    fn block(&self, number: u32, range: &Range<u64>) -> Result<Arc<Block>, FileError> {
        let (key, len) = (self.key(number), self.block_len(number));
        for _ in 0..ATTEMPTS {
            if let Some(block) = self.blocks.get(key, len)? {
                return Ok(block);
            }
            self.ensure(std::slice::from_ref(range))?;
        }
        // Evicted as soon as it is kept: the store is shared with others that fill it.
        let bytes =
            wait(self.bucket.range(&self.object.name, &self.object.version, self.bytes_of(&(number..number + 1))));
        let bytes = bytes.and_then(|bytes| bytes).map_err(FileError::at(&self.url, "fetch"))?;
        Ok(Arc::new(Block::Owned(bytes.as_ref().into())))
    }

    /// Numbers of the blocks that hold a range of the object.
    fn numbers(&self, range: &Range<u64>) -> Range<u32> {
        let len = self.blocks.block_len();
        let number = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
        if range.is_empty() { 0..0 } else { number(range.start / len)..number(range.end.div_ceil(len)) }
    }

    /// Byte range of a run of blocks.
    fn bytes_of(&self, run: &Range<u32>) -> Range<u64> {
        let len = self.blocks.block_len();
        u64::from(run.start) * len..(u64::from(run.end) * len).min(self.len())
    }

    fn block_len(&self, number: u32) -> usize {
        let bytes = self.bytes_of(&(number..number + 1));
        usize::try_from(bytes.end.saturating_sub(bytes.start)).unwrap_or(usize::MAX)
    }

    fn key(&self, number: u32) -> BlockKey {
        BlockKey { object: self.id, number }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Frame<'_> {
    /// Reads bytes of the object: from the fetched ends if they lie there, otherwise with a request.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Bytes, FileError> {
        for (start, bytes) in &self.pieces {
            let from = offset.checked_sub(*start).and_then(|from| usize::try_from(from).ok());
            if let Some(from) = from
                && let Some(end) = from.checked_add(len).filter(|&end| end <= bytes.len())
            {
                return Ok(bytes.slice(from..end));
            }
        }
        let RemoteFile { bucket, object, url, .. } = self.file;
        let end = offset.checked_add(len as u64).filter(|&end| end <= object.len);
        let Some(end) = end else {
            let reason = "the range runs past the end of the object";
            return Err(FileError::at(url, "fetch")(io::Error::new(io::ErrorKind::UnexpectedEof, reason)));
        };
        let bytes = wait(bucket.range(&object.name, &object.version, offset..end)).and_then(|bytes| bytes);
        bytes.map_err(FileError::at(url, "fetch"))
    }
}

/// Claim of one thread on the blocks it is fetching. Dropping the claim lets other threads fetch them.
struct Claimed<'a> {
    file: &'a RemoteFile,
    numbers: Vec<u32>,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.file.lock();
        for number in &self.numbers {
            in_flight.remove(number);
        }
        self.file.arrived.notify_all();
    }
}

/// Splits increasing numbers into runs of consecutive ones, of at most `most` numbers.
fn runs(numbers: &[u32], most: u32) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some(run) if run.end == number && run.end - run.start < most => run.end += 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::object::MemoryBlocks;
    use crate::object::bucket::Version;

    #[test]
    fn an_empty_object_has_an_empty_frame() {
        let (bucket, name) = (Bucket::of_memory(), "a.shard".to_owned());
        let object = Object { name, len: 0, modified: SystemTime::UNIX_EPOCH, version: Version::default() };
        let file = RemoteFile::new(&bucket, object, Arc::new(MemoryBlocks::new()));
        // A request would fail: the bucket has no object.
        let frame = file.frame(64).unwrap();
        assert!(frame.read(0, 0).unwrap().is_empty());
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "runs are ranges")]
    fn consecutive_blocks_become_runs() {
        assert_eq!(runs(&[], 4), []);
        assert_eq!(runs(&[3], 4), [3..4]);
        assert_eq!(runs(&[0, 1, 2, 5, 7, 8], 4), [0..3, 5..6, 7..9]);
        assert_eq!(runs(&[0, 1, 2, 3, 4], 2), [0..2, 2..4, 4..5]);
    }
}
