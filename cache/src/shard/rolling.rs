//! Rolling writer: a sequence of shards, each finished when it reaches its size.

use super::reader::Shard;
use super::writer::ShardWriter;
use crate::encode::EncodedCase;
use crate::error::Result;
use crate::location::Location;

/// Writes cases to shards of about equal size.
///
/// A shard is finished before the case that would take it over the limit, so only a shard with a single case can exceed
/// the limit. Dropping the writer removes the unfinished shard; finished ones stay.
pub struct RollingShardWriter {
    location: Location,
    generation: u64,
    worker: u32,
    shard_bytes: u64,
    open: Option<ShardWriter>,
    written: Written,
}

/// Shards that a [`RollingShardWriter`] has finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Number of shards.
    pub shards: usize,
    /// Total size of the shards in bytes.
    pub bytes: u64,
}

impl RollingShardWriter {
    /// Creates a writer into a location, with a shard size limit of `shard_bytes` bytes. Creates no file yet.
    ///
    /// `generation` and `worker` are those of [`ShardWriter::create`].
    #[must_use]
    pub fn new(at: impl Into<Location>, generation: u64, worker: u32, shard_bytes: u64) -> Self {
        Self { location: at.into(), generation, worker, shard_bytes, open: None, written: Written::default() }
    }

    /// Appends a case.
    ///
    /// # Errors
    /// If writing fails (disk full), or the case has another chunk shape than those before it.
    pub fn push(&mut self, case: EncodedCase) -> Result<()> {
        self.writer_for(case.len())?.push(case)
    }

    /// Appends record `idx` of another shard, see [`ShardWriter::push_copy`].
    pub(crate) fn push_copy(&mut self, shard: &Shard, idx: usize) -> Result<()> {
        self.writer_for(shard.cases()[idx].span.len())?.push_copy(shard, idx)
    }

    /// Finishes the last shard.
    ///
    /// # Errors
    /// If writing, syncing or renaming it fails.
    pub fn finish(mut self) -> Result<Written> {
        self.finish_shard()?;
        Ok(self.written)
    }

    /// Returns a shard with room for `len` bytes.
    fn writer_for(&mut self, len: u64) -> Result<&mut ShardWriter> {
        if self.open.as_ref().is_some_and(|open| !open.is_empty() && open.len() + len > self.shard_bytes) {
            self.finish_shard()?;
        }
        Ok(match &mut self.open {
            Some(open) => open,
            none => none.insert(ShardWriter::create(&self.location, self.generation, self.worker)?),
        })
    }

    /// Finishes the open shard, so that its cases are visible; the next case begins another one.
    ///
    /// # Errors
    /// If writing, syncing or naming it fails.
    pub fn finish_shard(&mut self) -> Result<()> {
        let finished = self.open.take().map(ShardWriter::finish_with_len).transpose()?.flatten();
        if let Some((_, len)) = finished {
            self.written.shards += 1;
            self.written.bytes += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::codec::CodecPreset;
    use crate::encode::{NewCase, encode};
    use crate::shard::list_shards;
    use crate::storage::Access;

    fn case(name: &str) -> EncodedCase {
        let image: Vec<u16> = (0..1000).map(|i| i * 7 % 500).collect();
        let case = NewCase { image_bits: 9, ..NewCase::new("D", name, [10; 3], &image) };
        encode(&case, [10; 3], CodecPreset::Fast).unwrap()
    }

    fn cases_per_shard(dir: &Path) -> Vec<usize> {
        let open = |path: &PathBuf| Shard::open(path, Access::Pread).unwrap().cases().len();
        list_shards(dir).unwrap().iter().map(open).collect()
    }

    fn check(limit: u64, expected: &[usize]) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RollingShardWriter::new(dir.path(), 1, 0, limit);
        for name in ["a", "b", "c", "d", "e"] {
            writer.push(case(name)).unwrap();
        }
        let written = writer.finish().unwrap();
        assert_eq!(cases_per_shard(dir.path()), expected);
        let sizes = list_shards(dir.path()).unwrap().into_iter().map(|path| std::fs::metadata(path).unwrap().len());
        assert_eq!(written, Written { shards: expected.len(), bytes: sizes.sum() });
    }

    #[test]
    fn shard_is_finished_before_it_exceeds_the_limit() {
        let case_len = case("a").len();
        check(u64::MAX, &[5]);
        check(32 + 2 * case_len, &[2, 2, 1]);
        check(31 + 2 * case_len, &[1, 1, 1, 1, 1]);
        check(0, &[1, 1, 1, 1, 1]);
    }

    #[test]
    fn writer_without_cases_writes_no_shard() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(RollingShardWriter::new(dir.path(), 1, 0, 1).finish().unwrap(), Written::default());
        assert_eq!(cases_per_shard(dir.path()), Vec::<usize>::new());
    }

    #[test]
    fn dropped_writer_keeps_finished_shards_only() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RollingShardWriter::new(dir.path(), 1, 0, 0);
        for name in ["a", "b", "c"] {
            writer.push(case(name)).unwrap();
        }
        drop(writer);
        assert_eq!(cases_per_shard(dir.path()), [1, 1]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
