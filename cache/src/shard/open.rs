//! Opening all shards of a cache.

#[cfg(feature = "object-store")]
use std::collections::BTreeSet;
#[cfg(feature = "object-store")]
use std::path::Path;
use std::path::PathBuf;
#[cfg(feature = "object-store")]
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(feature = "object-store")]
use super::is_shard;
use super::{Shard, list_shards};
#[cfg(feature = "object-store")]
use crate::error::Error;
use crate::error::Result;
use crate::options::OpenOptions;
use crate::place::Place;
use crate::storage::Access;

/// Shards of a cache, sorted by name, each open or with the error that prevented it.
pub(crate) struct Opened {
    /// Path or URL of each shard, with the open shard or its error.
    pub(crate) shards: Vec<(PathBuf, Result<Shard>)>,
    /// Paths of shards that the manifest lists and that do not exist.
    pub(crate) missing: Vec<PathBuf>,
    #[cfg(feature = "object-store")]
    pub(crate) disk_cache: Option<Arc<crate::disk_cache::DiskCache>>,
}

/// Opens every shard in a place. `listed` are the names in the manifest.
pub(crate) fn open_all(place: &Place, listed: &[String], options: &OpenOptions) -> Result<Opened> {
    match place {
        Place::Folder(dir) => {
            let paths = list_shards(dir.as_path())?;
            let missing = listed.iter().map(|name| dir.join(name)).filter(|path| paths.binary_search(path).is_err());
            Ok(Opened {
                missing: missing.collect(),
                shards: paths.iter().map(|path| (path.clone(), Shard::open(path, options.access))).collect(),
                #[cfg(feature = "object-store")]
                disk_cache: None,
            })
        }
        #[cfg(feature = "object-store")]
        Place::Bucket(bucket) => open_objects(bucket, listed, options),
    }
}

/// Opens one shard in a place, to read it once.
pub(crate) fn open_one(place: &Place, name: &str) -> Result<Shard> {
    match place {
        Place::Folder(dir) => Shard::open(&dir.join(name), Access::Pread),
        #[cfg(feature = "object-store")]
        Place::Bucket(bucket) => {
            let Some(object) = bucket.find(name)? else {
                return Err(Error::MissingShard { path: bucket.url_of(name) });
            };
            let blocks = Arc::new(crate::object::MemoryBlocks::new());
            Shard::open_object(crate::object::RemoteFile::new(bucket, object, blocks))
        }
    }
}

/// Number of shards opened at a time: a request takes tens of milliseconds, most of them waiting.
#[cfg(feature = "object-store")]
const OPENED_AT_A_TIME: usize = 16;

/// Shards below a bucket's prefix, sorted by name, and the URLs of listed ones that do not exist.
#[cfg(feature = "object-store")]
fn find_objects(
    bucket: &crate::object::Bucket,
    listed: &[String],
) -> Result<(Vec<crate::object::Object>, Vec<PathBuf>)> {
    let mut missing = Vec::new();
    let mut objects = Vec::with_capacity(listed.len());
    if bucket.location().is_read_only() {
        // A web server cannot list its files.
        for name in listed {
            match bucket.find(name)? {
                Some(object) => objects.push(object),
                None => missing.push(bucket.url_of(name)),
            }
        }
    } else {
        objects.extend(bucket.list("")?.into_iter().filter(|object| is_shard(Path::new(&object.name))));
        let names: BTreeSet<&str> = objects.iter().map(|object| object.name.as_str()).collect();
        missing.extend(listed.iter().filter(|name| !names.contains(name.as_str())).map(|name| bucket.url_of(name)));
    }
    objects.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((objects, missing))
}

#[cfg(feature = "object-store")]
fn open_objects(bucket: &crate::object::Bucket, listed: &[String], options: &OpenOptions) -> Result<Opened> {
    use crate::disk_cache::DiskCache;
    use crate::object::{BlockStore, MemoryBlocks, RemoteFile};
    use crate::options::Copies;

    let (objects, missing) = find_objects(bucket, listed)?;
    let (blocks, disk_cache): (Arc<dyn BlockStore>, _) = match &options.copies {
        Copies::Disk(disk) => {
            let cache = DiskCache::open(disk, options.access)?;
            (Arc::clone(&cache) as Arc<dyn BlockStore>, Some(cache))
        }
        Copies::Memory => (Arc::new(MemoryBlocks::new()) as Arc<dyn BlockStore>, None),
    };
    let num_objects = objects.len();
    let queue = Mutex::new(objects.into_iter().enumerate());
    let opened = Mutex::new(Vec::with_capacity(num_objects));
    let work = || {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, object)) = next else { return };
            let file = RemoteFile::new(bucket, object, Arc::clone(&blocks));
            let shard = (file.url().to_owned(), Shard::open_object(file));
            opened.lock().unwrap_or_else(PoisonError::into_inner).push((number, shard));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..OPENED_AT_A_TIME.min(num_objects) {
            scope.spawn(work);
        }
    });
    let mut opened = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
    opened.sort_by_key(|&(number, _)| number);
    Ok(Opened { shards: opened.into_iter().map(|(_, shard)| shard).collect(), missing, disk_cache })
}
