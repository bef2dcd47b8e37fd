//! A FIFO in place of a file of a cache is an error, and nothing waits for a writer.

use std::path::Path;

use hiend_cache::lock::FileLock;
use hiend_cache::shard::open_named;
use hiend_cache::verify::survey;
use hiend_cache::{Access, Cache, Manifest, Shard, with_sources};
use rustix::fs::{CWD, FileType, Mode, mknodat};

const REASON: &str = "a FIFO, socket or device in place of a regular file; move it away";

fn make_fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn a_fifo_in_place_of_a_manifest_a_shard_or_a_lock_is_one_error() {
    let dir = tempfile::tempdir().unwrap();
    Manifest::update(dir.path(), |_| {}).unwrap();
    let name = "g0001-w000-0000.shard";
    let shard = dir.path().join(name);
    make_fifo(&shard);
    let expected = format!("{}: cannot open: {REASON}", shard.display());
    for access in [Access::Mmap, Access::Pread] {
        assert_eq!(with_sources(&Shard::open(&shard, access).unwrap_err()), expected);
    }
    assert_eq!(with_sources(&open_named(dir.path(), name).unwrap_err()), expected);
    assert_eq!(with_sources(&Cache::open(dir.path()).unwrap_err()), expected);
    let faults = survey(dir.path()).unwrap().faults;
    assert!(faults.iter().any(|fault| fault.path == shard && fault.unread), "{faults:?}");

    let manifest = dir.path().join("manifest.json");
    std::fs::remove_file(&manifest).unwrap();
    make_fifo(&manifest);
    let expected = format!("{}: cannot read: {REASON}", manifest.display());
    assert_eq!(with_sources(&Cache::open(dir.path()).unwrap_err()), expected);

    let lock = dir.path().join("lock");
    make_fifo(&lock);
    let expected = format!("{}: cannot open the lock file: {REASON}", lock.display());
    assert_eq!(with_sources(&FileLock::exclusive(&lock).unwrap_err()), expected);
}
