//! Shards that are truncated in place while they are open.

use std::fs::File;

use hiend_cache::{Access, Cache, CodecPreset, Error, VolumeReader};

use crate::cases::{NAMES, SHARD, write_cache};

/// Without the handler of the memory map, this ends the test process with SIGBUS.
#[test]
fn shard_truncated_under_a_reader_is_an_error_that_names_it() {
    for access in [Access::Mmap, Access::Pread] {
        let dir = tempfile::tempdir().unwrap();
        // Larger than a page of any system, so that the data of all cases is beyond the end afterwards.
        write_cache(dir.path(), &NAMES, [64, 64, 64], [32; 3], CodecPreset::Fast);
        let cache = Cache::open_with(dir.path(), access).unwrap();
        let mut reader = VolumeReader::new();
        let intact = cache.cases()[1].read_whole(&mut reader).unwrap();
        File::options().write(true).open(dir.path().join(SHARD)).unwrap().set_len(100).unwrap();
        // A mapped read of the first page sees zeros in place of the bytes after the new end.
        for case in cache.cases() {
            let error = case.read_whole(&mut reader).unwrap_err();
            let path = match &error {
                Error::File(error) => &error.path,
                Error::CorruptChunk { path, .. } | Error::BadShard { path, .. } => path,
                other => panic!("{other}"),
            };
            assert_eq!(path, &dir.path().join(SHARD), "{access:?}");
        }
        assert!(matches!(Cache::open_with(dir.path(), access), Err(Error::BadShard { .. })), "{access:?}");
        assert_eq!(intact.image.len(), 64 * 64 * 64);
    }
}
