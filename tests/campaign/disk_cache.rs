//! Power cuts, failing disks and damage below the disk cache of object storage.
//!
//! Cases are read from a web server through a disk cache that cannot hold them all, so that blocks are written, used and
//! evicted. Blocks are not synced by design. Whatever is left of them, every case has the server's voxels, the cache stays
//! within its size, and nothing temporary remains once it is used again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hiend_cache::{
    Access, Cache, CodecPreset, Copies, DiskCacheOptions, Manifest, NewCase, OpenOptions, ShardWriter, VolumeReader,
    encode,
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::conversion::{Volumes, copy, error_chain, volumes};
use crate::effort::seeds;
use crate::simulator::{Fault, Image, Loss, Plan, Recorder};
use crate::web_server;

/// Names of all cases; each is in a shard of its own.
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Voxels of a case along x, y, z: 590 kB that do not compress, which is two blocks of a shard.
const SHAPE: [usize; 3] = [64, 64, 72];
/// Size of the disk cache in bytes: less than two cases.
const SIZE: u64 = 1_200_000;
/// Number of bytes of blocks that a reader needs at a time.
const NEEDED: u64 = 1 << 20;
/// Size in bytes of a disk cache for all blocks.
const AMPLE: u64 = 4 * SIZE;
/// Cases that each recorded run reads, in this order. The second run begins with the blocks that the first one left.
const RUNS: [&[&str]; 2] = [&["a", "b", "c", "a"], &["b", "a", "c", "b"]];

/// A cache on a web server, and a folder for disk caches.
struct Store {
    _dir: tempfile::TempDir,
    root: PathBuf,
    url: String,
    volumes: Volumes,
}

/// A recorded run.
struct Run {
    names: &'static [&'static str],
    /// Disk cache before the run.
    before: PathBuf,
    /// Disk cache after the run.
    after: PathBuf,
    images: Vec<Image>,
}

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The disk cache looks up its folder, and announces its operations below the path that it finds.
        let root = std::fs::canonicalize(dir.path()).unwrap();
        let files = root.join("files");
        std::fs::create_dir(&files).unwrap();
        for (worker, name) in (0u32..).zip(NAMES) {
            let mut rng = ChaCha8Rng::seed_from_u64(u64::from(worker));
            let image: Vec<u16> =
                (0..SHAPE.iter().product::<usize>()).map(|_| rng.random_range(0..=u16::MAX)).collect();
            let case = NewCase::new("Dataset001", name, SHAPE, &image);
            let mut writer = ShardWriter::create(files.as_path(), 1, worker).unwrap();
            writer.push(encode(&case, [32; 3], CodecPreset::Fast).unwrap()).unwrap();
            writer.finish().unwrap();
        }
        Manifest::update(files.as_path(), |_| {}).unwrap();
        Self { _dir: dir, url: web_server::serve(&files), volumes: volumes(&files).unwrap(), root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Reads cases through the disk cache in a folder, as a stream does, and compares its size with `size` meanwhile.
    fn read(&self, blocks: &Path, size: u64, access: Access, names: &[&str]) -> Result<(), String> {
        let copies = Copies::Disk(DiskCacheOptions { dir: Some(blocks.to_owned()), bytes: Some(size) });
        let options = OpenOptions { access, copies, retry: Some(Duration::from_secs(5)) };
        let cache = Cache::open_with(self.url.as_str(), options).map_err(|err| error_chain(&err))?;
        let mut reader = VolumeReader::new();
        cache.disk_cache().unwrap().require(NEEDED).map_err(|err| error_chain(&err))?;
        check_size(blocks, size)?;
        for name in names {
            let key = format!("Dataset001/{name}");
            let case = cache.case(&key).ok_or_else(|| format!("{key} is not in the cache"))?;
            let volume = case.read_whole(&mut reader).map_err(|err| error_chain(&err))?;
            if volume != self.volumes[&key] {
                return Err(format!("{key} has other voxels"));
            }
            check_size(blocks, size)?;
        }
        Ok(())
    }

    /// Records the runs one after the other.
    fn record(&self) -> Vec<Run> {
        let mut before = self.path("blocks-0");
        std::fs::create_dir(&before).unwrap();
        let mut runs = Vec::new();
        for (number, names) in RUNS.into_iter().enumerate() {
            let after = self.path(&format!("blocks-{}", number + 1));
            copy(&before, &after);
            let (recorder, observation) = Recorder::start(&after, Plan { every_image: true, ..Plan::default() });
            self.read(&after, SIZE, Access::Mmap, names).unwrap();
            let images = recorder.images();
            drop(observation);
            runs.push(Run { names, before, after: after.clone(), images });
            before = after;
        }
        runs
    }

    /// Checks what is left of a disk cache: all cases can be read through it, and nothing temporary stays.
    fn check(&self, blocks: &Path, access: Access) -> Result<(), String> {
        self.read(blocks, SIZE, access, &NAMES)?;
        let is_left = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "tmp" || ending == "lock");
        let files = files(blocks);
        let left: Vec<&PathBuf> = files.keys().filter(is_left).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("used again, with {left:?} left")) }
    }
}

/// Files below a folder by their paths in it, with their contents.
fn files(folder: &Path) -> HashMap<PathBuf, Vec<u8>> {
    let mut found = HashMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn check_size(blocks: &Path, size: u64) -> Result<(), String> {
    let bytes: usize = files(blocks).values().map(Vec::len).sum();
    if bytes as u64 <= size { Ok(()) } else { Err(format!("{bytes} bytes in a disk cache of {size}")) }
}

/// Access to blocks in the try with this seed.
fn access(seed: u64) -> Access {
    if seed.is_multiple_of(2) { Access::Mmap } else { Access::Pread }
}

#[test]
fn power_cut_costs_blocks_and_no_voxels() {
    const SEEDS: u64 = 120;
    let store = Store::new();
    let runs = store.record();
    let ample = store.path("ample");
    store.read(&ample, AMPLE, Access::Mmap, &NAMES).unwrap();
    let whole = files(&ample);
    let mut num_damaged = 0;
    for seed in seeds(SEEDS) {
        let number = usize::try_from(seed).unwrap();
        // Every eighth seed loses everything, in each of the runs.
        let run = &runs[number / 8 % runs.len()];
        // A stride that has no factor in common with the number of images visits all of them.
        let image = &run.images[number * 7919 % run.images.len()];
        let left = store.path(&format!("left-{seed}"));
        image.leave(Loss::of_seed(seed), &left);
        let is_damaged = |(path, bytes): (PathBuf, Vec<u8>)| {
            path.starts_with("blocks") && whole[&path].len() == bytes.len() && whole[&path] != bytes
        };
        num_damaged += usize::from(files(&left).into_iter().any(is_damaged));
        let result = store.check(&left, access(seed));
        assert_eq!(result, Ok(()), "HIEND_CAMPAIGN_SEED={seed}: {:?}, cut before {}", run.names, image.before);
        std::fs::remove_dir_all(&left).unwrap();
    }
    let is_short = (seeds(SEEDS).count() as u64) < SEEDS;
    assert!(is_short || num_damaged > 0, "no cut left a block with other bytes");
}

/// A kill leaves temporary files and a count of bytes that is wrong; the next process corrects both.
#[test]
fn kill_before_any_operation_of_the_disk_cache_leaves_nothing_behind() {
    let store = Store::new();
    for run in store.record() {
        for (number, image) in run.images.iter().enumerate() {
            let left = store.path(&format!("killed-{number}"));
            image.leave(Loss::Nothing, &left);
            let result = store.check(&left, access(number as u64));
            assert_eq!(result, Ok(()), "{:?}, killed before {}", run.names, image.before);
            std::fs::remove_dir_all(&left).unwrap();
        }
    }
}

/// Each operation fails with one of several errors, and writes are short at random. A run reads the server's voxels all the
/// same, or ends with an error that names a path in the disk cache; the next run goes on with what is there.
#[test]
fn failing_disk_below_the_disk_cache_changes_no_voxel() {
    let store = Store::new();
    let runs = store.record();
    for seed in seeds(60) {
        let number = usize::try_from(seed).unwrap();
        let run = &runs[number % runs.len()];
        let blocks = store.path(&format!("failed-{seed}"));
        copy(&run.before, &blocks);
        let operation = number / runs.len() * 7919 % run.images.len();
        // ENOSPC, EIO, EDQUOT, EROFS.
        let errno = [28, 5, 122, 30][number / 7 % 4];
        let plan = Plan { fault: Some(Fault { operation, errno }), short_writes: Some(seed), ..Plan::default() };
        let (recorder, observation) = Recorder::start(&blocks, plan);
        let result = store.read(&blocks, SIZE, access(seed), run.names);
        drop((recorder, observation));
        let place = format!("HIEND_CAMPAIGN_SEED={seed}: {:?}, operation {operation}, error {errno}", run.names);
        if let Err(chain) = result {
            assert!(chain.contains(&*blocks.to_string_lossy()) && chain.contains("os error"), "{place}: {chain}");
        }
        assert_eq!(store.check(&blocks, access(seed + 1)), Ok(()), "{place}");
        std::fs::remove_dir_all(&blocks).unwrap();
    }
}

/// Damages a block, the count of bytes or the marker. The disk cache is used further, or filled again; only a marker that
/// names another layout by chance is refused.
#[test]
fn damaged_files_of_the_disk_cache_are_replaced() {
    let store = Store::new();
    let run = store.record().pop().unwrap();
    let mut paths: Vec<PathBuf> = files(&run.after).into_keys().collect();
    paths.sort();
    for seed in seeds(60) {
        let blocks = store.path(&format!("damaged-{seed}"));
        copy(&run.after, &blocks);
        let name = &paths[usize::try_from(seed).unwrap() % paths.len()];
        let damage = damage(&blocks.join(name), seed);
        let place = format!("HIEND_CAMPAIGN_SEED={seed}: {damage} {}", name.display());
        match store.check(&blocks, access(seed)) {
            Err(chain) if name == Path::new("hiend-disk-cache") && chain.contains("disk cache of another version") => {}
            result => assert_eq!(result, Ok(()), "{place}"),
        }
        std::fs::remove_dir_all(&blocks).unwrap();
    }
}

/// Damages a file, in a way that the seed decides; returns a word for it.
fn damage(path: &Path, seed: u64) -> &'static str {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut bytes = std::fs::read(path).unwrap();
    let at = rng.random_range(0..bytes.len());
    let word = match rng.random_range(0..4) {
        0 => {
            bytes[at] ^= 1u8 << rng.random_range(0..8u32);
            "flipped a bit of"
        }
        1 => {
            bytes.truncate(at);
            "truncated"
        }
        2 => {
            bytes[at..].fill(0);
            "filled with zeros"
        }
        _ => {
            bytes.push(0);
            "extended"
        }
    };
    std::fs::write(path, bytes).unwrap();
    word
}
