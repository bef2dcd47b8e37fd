use super::*;

fn key(object: u128, number: u32) -> BlockKey {
    BlockKey { object, number }
}

fn open(dir: &Path, bytes: u64) -> Arc<DiskCache> {
    let options = DiskCacheOptions { dir: Some(dir.to_owned()), bytes: Some(bytes) };
    DiskCache::open(&options, Access::Mmap).unwrap()
}

fn content(cache: &DiskCache, key: BlockKey, len: usize) -> Option<Vec<u8>> {
    cache.get(key, len).unwrap().map(|block| block.bytes().to_vec())
}

/// Bytes of all files below a folder.
fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(
            |entry| {
                if entry.file_type().unwrap().is_dir() {
                    size_of(&entry.path())
                } else {
                    entry.metadata().unwrap().len()
                }
            },
        )
        .sum()
}

#[test]
fn blocks_are_kept_and_discarded() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("new/cache");
    for access in [Access::Mmap, Access::Pread] {
        let options = DiskCacheOptions { dir: Some(place.clone()), bytes: Some(1 << 30) };
        let cache = DiskCache::open(&options, access).unwrap();
        assert_eq!(content(&cache, key(1, 0), 3), None);
        cache.put(key(1, 0), b"abc");
        assert!(cache.contains(key(1, 0), 3));
        assert!(!cache.contains(key(1, 1), 3) && !cache.contains(key(2, 0), 3));
        assert_eq!(content(&cache, key(1, 0), 3).unwrap(), b"abc");
        cache.discard(key(1, 0));
        assert_eq!(content(&cache, key(1, 0), 3), None);
    }
}

#[test]
fn block_of_another_length_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 30);
    cache.put(key(1, 0), b"abc");
    assert_eq!(content(&cache, key(1, 0), 4), None);
    assert!(!cache.contains(key(1, 0), 3), "it was removed");
}

#[test]
fn size_bounds_all_blocks_and_old_ones_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let block = vec![7; usize::try_from(BLOCK_LEN).unwrap()];
    let cache = open(dir.path(), 20 * BLOCK_LEN);
    let room = cache.room();
    for number in 0..60 {
        cache.put(key(1, number), &block);
        // Uses in the order of the numbers, also where the clock of the file system is coarse.
        let file = File::open(cache.path_of(key(1, number))).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number.into())).unwrap();
        assert!(size_of(&dir.path().join(space::BLOCKS)) <= room);
    }
    let kept: Vec<u32> = (0..60).filter(|&number| cache.contains(key(1, number), block.len())).collect();
    assert!(kept.len() >= 15, "{kept:?}");
    assert!(kept.iter().all(|&number| number >= 60 - 18), "{kept:?}");
}

#[test]
fn blocks_beyond_a_size_that_suffices_are_evicted() {
    let dir = tempfile::tempdir().unwrap();
    let block = vec![7; usize::try_from(BLOCK_LEN).unwrap()];
    {
        let cache = open(dir.path(), 20 * BLOCK_LEN);
        (0..10).for_each(|number| cache.put(key(1, number), &block));
    }
    let size = || size_of(&dir.path().join(space::BLOCKS));
    let cache = open(dir.path(), 4 * BLOCK_LEN);
    assert!(matches!(cache.require(5 * BLOCK_LEN), Err(DiskCacheError::TooSmall { .. })));
    assert_eq!(size(), 10 * BLOCK_LEN, "a size that is refused costs no block");
    cache.require(BLOCK_LEN).unwrap();
    assert!((1..=cache.room()).contains(&size()), "{}", size());
}

#[test]
fn damaged_marker_is_written_again_in_a_folder_without_other_files() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), 1 << 30).put(key(1, 0), b"abc");
    let marker = dir.path().join(marker::NAME);
    let whole = std::fs::read(&marker).unwrap();
    for damaged in [b"".as_slice(), [0; 40].as_slice(), &whole[..20]] {
        std::fs::write(&marker, damaged).unwrap();
        let cache = open(dir.path(), 1 << 30);
        assert_eq!(content(&cache, key(1, 0), 3).unwrap(), b"abc");
        assert_eq!(std::fs::read(&marker).unwrap(), whole);
    }
    std::fs::write(&marker, b"").unwrap();
    std::fs::write(dir.path().join("notes"), b"mine").unwrap();
    let options = DiskCacheOptions { dir: Some(dir.path().to_owned()), bytes: Some(1 << 30) };
    assert!(matches!(DiskCache::open(&options, Access::Mmap), Err(DiskCacheError::NotOurs { .. })));
    assert_eq!(std::fs::read(&marker).unwrap(), b"");
}

#[test]
fn folder_with_other_files_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("g0001-w000-0000.shard"), b"source").unwrap();
    let options = DiskCacheOptions { dir: Some(dir.path().to_owned()), bytes: Some(1 << 30) };
    assert!(matches!(DiskCache::open(&options, Access::Mmap), Err(DiskCacheError::NotOurs { .. })));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join(marker::NAME), b"hiend disk cache, layout 9\n").unwrap();
    let options = DiskCacheOptions { dir: Some(other.path().to_owned()), bytes: Some(1 << 30) };
    assert!(matches!(DiskCache::open(&options, Access::Mmap), Err(DiskCacheError::Version { .. })));
}

#[test]
fn eviction_removes_blocks_only() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 4 * BLOCK_LEN);
    let block = vec![7; usize::try_from(BLOCK_LEN).unwrap()];
    cache.put(key(1, 0), &block);
    // The oldest, also where the clock of the file system is coarse.
    File::open(cache.path_of(key(1, 0))).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let beside = cache.path_of(key(1, 0)).with_file_name("notes");
    std::fs::write(&beside, b"mine").unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("00000001"), b"mine too").unwrap();
    #[cfg(unix)]
    {
        let group = dir.path().join(space::BLOCKS).join("00");
        std::os::unix::fs::symlink(elsewhere.path(), group.join("0".repeat(32))).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join(space::BLOCKS).join("aa")).unwrap();
    }
    for number in 0..20 {
        cache.put(key(2, number), &block);
    }
    assert!(!cache.contains(key(1, 0), block.len()));
    assert_eq!(std::fs::read(beside).unwrap(), b"mine");
    assert_eq!(std::fs::read(elsewhere.path().join("00000001")).unwrap(), b"mine too");
}

#[test]
fn size_that_is_too_small_is_refused_with_the_smallest_sufficient_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = DiskCacheOptions { dir: Some(dir.path().to_owned()), bytes: Some(1000) };
    let Err(DiskCacheError::TooSmall { needed, .. }) = DiskCache::open(&options, Access::Mmap) else {
        panic!("opened")
    };
    let cache = open(dir.path(), needed);
    assert!(cache.require(BLOCK_LEN).is_ok());
    for bytes in [10 * BLOCK_LEN, 1 << 40] {
        let Err(DiskCacheError::TooSmall { needed, .. }) = cache.require(bytes) else { panic!("sufficient") };
        let other = tempfile::tempdir().unwrap();
        assert!(open(other.path(), needed).require(bytes).is_ok(), "{bytes}");
    }
}

#[test]
fn size_is_compared_with_the_room_that_all_processes_leave() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 30);
    let needed_bytes = 600 << 20;
    cache.require(needed_bytes).unwrap();
    cache.put(key(1, 0), b"abc");
    assert!(!cache.space.has_told());
    // Each of 16 processes may keep a sixteenth of the cache mapped.
    let others: Vec<_> = (0..15).map(|_| space::enter(dir.path()).unwrap()).collect();
    cache.put(key(1, 1), b"de");
    assert!(cache.space.has_told());
    let Err(DiskCacheError::TooSmall { needed, users, .. }) = cache.require(needed_bytes) else { panic!("sufficient") };
    assert_eq!(users, 16);
    let error = cache.require(needed_bytes).unwrap_err().to_string();
    assert!(error.contains("too small for the 16 processes that use it: at least"), "{error}");
    drop(others);
    cache.require(needed_bytes).unwrap();

    let other = tempfile::tempdir().unwrap();
    let large = open(other.path(), needed);
    let _others: Vec<_> = (0..15).map(|_| space::enter(other.path()).unwrap()).collect();
    large.require(needed_bytes).unwrap();
}

#[test]
fn files_of_killed_processes_are_removed_and_the_rest_counted_anew() {
    let dir = tempfile::tempdir().unwrap();
    {
        let cache = open(dir.path(), 1 << 30);
        cache.put(key(1, 0), b"abc");
    }
    std::fs::write(dir.path().join(space::TMP).join(".block-killed.tmp"), b"half").unwrap();
    std::fs::write(dir.path().join(space::USERS).join("user-dead.lock"), b"").unwrap();
    std::fs::write(dir.path().join("usage"), b"torn").unwrap();
    let of_marker = dir.path().join(".hiend-killed.tmp");
    std::fs::write(&of_marker, b"half").unwrap();
    let cache = open(dir.path(), 1 << 30);
    assert_eq!(std::fs::read_dir(dir.path().join(space::TMP)).unwrap().count(), 0);
    assert!(!of_marker.exists());
    assert_eq!(std::fs::read(dir.path().join("usage")).unwrap(), 3u64.to_le_bytes());
    cache.put(key(1, 1), b"de");
    assert_eq!(std::fs::read(dir.path().join("usage")).unwrap(), 5u64.to_le_bytes());
    assert_eq!(std::fs::read_dir(dir.path().join(space::USERS)).unwrap().count(), 1);
    assert_eq!(content(&cache, key(1, 0), 3).unwrap(), b"abc");
}

#[test]
fn one_process_shares_its_cache_and_cannot_open_it_with_another_size() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 30);
    assert!(Arc::ptr_eq(&cache, &open(dir.path(), 1 << 30)));
    let options = DiskCacheOptions { dir: Some(dir.path().to_owned()), bytes: Some(1 << 20) };
    assert!(matches!(DiskCache::open(&options, Access::Mmap), Err(DiskCacheError::OtherSize { .. })));
}

#[test]
fn open_block_is_read_though_its_file_was_evicted() {
    let dir = tempfile::tempdir().unwrap();
    for access in [Access::Mmap, Access::Pread] {
        let path = dir.path().join("block");
        std::fs::write(&path, b"abc").unwrap();
        let file = File::open(&path).unwrap();
        assert!(load(&file, 4, access).unwrap().is_none(), "another length");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(load(&file, 3, access).unwrap().unwrap().bytes(), b"abc");
    }
}

#[test]
fn closed_cache_leaves_no_user() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 30);
    // Held by another handle, as by another process.
    let other = space::enter(dir.path()).unwrap();
    assert_eq!(space::num_users(dir.path()).unwrap(), 2);
    drop((cache, other));
    assert_eq!(std::fs::read_dir(dir.path().join(space::USERS)).unwrap().count(), 0);
}

#[test]
fn block_that_cannot_be_written_is_kept_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 30);
    let tmp = dir.path().join(space::TMP);
    std::fs::remove_dir(&tmp).unwrap();
    std::fs::write(&tmp, b"not a folder").unwrap();
    cache.put(key(1, 0), b"abc");
    assert!(cache.contains(key(1, 0), 3) && !cache.path_of(key(1, 0)).exists());
    assert_eq!(content(&cache, key(1, 0), 3).unwrap(), b"abc");
    std::fs::remove_file(&tmp).unwrap();
    std::fs::create_dir(&tmp).unwrap();
    cache.put(key(1, 1), b"de");
    assert!(cache.path_of(key(1, 1)).exists(), "written again once that is possible");
}
