//! Target of a shard writer: a file under a temporary name, or an upload whose object is not visible yet.
//!
//! A process that is killed leaves at most a `.tmp` file, or the parts of an upload and the reservation of its name. No
//! reader opens them. The next run removes a `.tmp` file that no writer holds a lock on.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::layout::EXTENSION;
use crate::durable::{self, TemporaryFile};
use crate::error::{FileError, Result};
use crate::location::Location;
use crate::naming::{RESERVATION_PREFIX, Renamed, rename_new};
#[cfg(feature = "object-store")]
use crate::object::{Bucket, Upload};
use crate::place::Place;

const TEMPORARY_PREFIX: &str = ".shard-";
/// Buffer of a file in bytes.
const BUFFER_LEN: usize = 1 << 20;

/// Destination of a shard's bytes while it is written. Dropping it without [`Target::finish`] leaves no shard.
pub(super) enum Target {
    File(FileTarget),
    #[cfg(feature = "object-store")]
    Object(ObjectTarget),
}

/// A file that gets its name when it is finished.
pub(super) struct FileTarget {
    dir: PathBuf,
    file: BufWriter<TemporaryFile>,
    generation: u64,
    worker: u32,
}

/// An object whose name is reserved from the start.
#[cfg(feature = "object-store")]
pub(super) struct ObjectTarget {
    upload: Option<Upload>,
    reservation: Reservation,
}

/// Reservation of a shard's name, which other writers then avoid. Dropping it releases the name.
#[cfg(feature = "object-store")]
struct Reservation {
    bucket: Bucket,
    name: String,
}

impl Target {
    /// Begins a shard in a place.
    pub(super) fn create(place: &Place, generation: u64, worker: u32) -> Result<Self> {
        match place {
            Place::Folder(dir) => {
                let file = TemporaryFile::create(dir, TEMPORARY_PREFIX)
                    .map_err(FileError::at(dir, "create a file in this folder"))?;
                let file = BufWriter::with_capacity(BUFFER_LEN, file);
                Ok(Self::File(FileTarget { dir: dir.clone(), file, generation, worker }))
            }
            #[cfg(feature = "object-store")]
            Place::Bucket(bucket) => {
                let reservation = Reservation::take(bucket, generation, worker)?;
                let upload = Some(Upload::begin(bucket, &reservation.name)?);
                Ok(Self::Object(ObjectTarget { upload, reservation }))
            }
        }
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        match self {
            Self::File(FileTarget { dir, file, .. }) => {
                file.write_all(bytes).map_err(FileError::at(dir.as_path(), "write a shard in this folder"))
            }
            #[cfg(feature = "object-store")]
            Self::Object(object) => object.upload.as_mut().map_or(Ok(()), |upload| upload.write(bytes)),
        }
    }

    /// Makes the shard visible; returns its path or URL.
    pub(super) fn finish(self) -> Result<PathBuf> {
        match self {
            Self::File(target) => target.finish(),
            #[cfg(feature = "object-store")]
            Self::Object(ObjectTarget { mut upload, reservation }) => {
                if let Some(upload) = upload.take() {
                    upload.finish()?;
                }
                Ok(reservation.bucket.url_of(&reservation.name))
            }
        }
    }
}

fn shard_name(generation: u64, worker: u32, sequence: u32) -> String {
    format!("g{generation:04}-w{worker:03}-{sequence:04}.{EXTENSION}")
}

impl FileTarget {
    fn finish(self) -> Result<PathBuf> {
        let Self { dir, file, generation, worker } = self;
        let failed = FileError::at(dir.as_path(), "write a shard in this folder");
        let mut file = file.into_inner().map_err(|err| failed(err.into_error()))?;
        file.sync_all().map_err(FileError::at(&dir, "sync a shard in this folder"))?;
        for sequence in 0u32.. {
            let path = dir.join(shard_name(generation, worker, sequence));
            match rename_new(file, &path)? {
                Renamed::Done => {
                    durable::sync_dir(&dir)?;
                    return Ok(path);
                }
                Renamed::Taken(back) => file = back,
            }
        }
        unreachable!("a folder holds fewer than four billion shards of one generation")
    }
}

#[cfg(feature = "object-store")]
impl Reservation {
    /// Reserves the first free name by a small object: stores can create small objects only if the name is free, but
    /// not large ones.
    ///
    /// A name is free if no shard and no reservation has it. The reservation is released after the shard exists, so
    /// that a writer that finds no reservation looks for the shard afterwards and finds it.
    fn take(bucket: &Bucket, generation: u64, worker: u32) -> Result<Self> {
        let taken: std::collections::HashSet<String> = bucket.list("")?.into_iter().map(|object| object.name).collect();
        let author = crate::lease::unique_id();
        for sequence in 0u32.. {
            let name = shard_name(generation, worker, sequence);
            let reserved = format!("{RESERVATION_PREFIX}{name}");
            if taken.contains(&name) || taken.contains(&reserved) || !bucket.create(&reserved, author.as_bytes())? {
                continue;
            }
            let reservation = Self { bucket: bucket.clone(), name };
            if bucket.find(&reservation.name)?.is_none() {
                return Ok(reservation);
            }
        }
        unreachable!("a prefix holds fewer than four billion shards of one generation")
    }
}

#[cfg(feature = "object-store")]
impl Drop for Reservation {
    fn drop(&mut self) {
        // If this fails, the name stays unused, or the next run removes the reservation.
        let _ = self.bucket.remove(&format!("{RESERVATION_PREFIX}{}", self.name));
    }
}

/// Removes the unfinished shards that killed writers left; returns their number.
///
/// In object storage, removes the reservations of shards that were finished. The parts of unfinished ones are left to a
/// life-cycle rule of the bucket.
///
/// # Errors
/// If the location cannot be listed or a file cannot be removed.
pub fn remove_stale(at: impl Into<Location>) -> Result<usize> {
    match Place::of(&at.into())? {
        Place::Folder(dir) => Ok(durable::remove_stale_named(&dir, TEMPORARY_PREFIX)?),
        #[cfg(feature = "object-store")]
        Place::Bucket(bucket) => {
            let names: std::collections::HashSet<String> =
                bucket.list("")?.into_iter().map(|object| object.name).collect();
            let of_finished =
                |name: &&String| name.strip_prefix(RESERVATION_PREFIX).is_some_and(|shard| names.contains(shard));
            let mut removed = 0;
            for name in names.iter().filter(of_finished) {
                removed += usize::from(bucket.remove(name)?);
            }
            Ok(removed)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn name_states_the_generation() {
        for generation in [1, 9999, 10_000, u64::MAX] {
            let path = Path::new("/cache").join(shard_name(generation, 3, 2));
            assert_eq!(crate::shard::generation_in_name(&path), Some(generation));
        }
        assert_eq!(crate::shard::generation_in_name(Path::new("/cache/other.shard")), None);
    }

    #[test]
    fn stale_shards_are_removed_and_live_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let live = Target::create(&Place::Folder(dir.path().to_owned()), 1, 0).unwrap();
        std::fs::write(dir.path().join(".shard-killed.tmp"), b"half").unwrap();
        std::fs::write(dir.path().join("g0001-w000-0000.shard"), b"finished").unwrap();
        assert_eq!(remove_stale(dir.path()).unwrap(), 1);
        assert_eq!(names(dir.path()).len(), 2);
        drop(live);
        assert_eq!(names(dir.path()), ["g0001-w000-0000.shard"]);
    }
}
