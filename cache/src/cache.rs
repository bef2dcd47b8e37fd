//! A folder of shards, opened: the cases that count, and reading their voxels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::{Codec, Decoder, Voxel};
use crate::error::{Error, Result};
use crate::grid::Box3;
use crate::index::{ChunkIndex, Entry};
use crate::manifest::Manifest;
use crate::shard::reader::CaseIndex;
use crate::shard::record::CaseRecord;
use crate::shard::{EXTENSION, Shard};
use crate::storage::Access;

/// An open cache. Cheap to share between threads; reading needs a [`VolumeReader`] a thread.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    manifest: Manifest,
    shards: Vec<Arc<Shard>>,
    cases: Vec<Case>,
}

/// A case in an open cache.
#[derive(Clone, Debug)]
pub struct Case {
    shard: Arc<Shard>,
    idx: usize,
    key: String,
}

/// A whole volume, z fastest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVolume {
    /// Voxels along x, y, z.
    pub shape: [usize; 3],
    /// Stored image samples.
    pub image: Vec<u16>,
    /// Label map, if the case has one.
    pub label: Option<Vec<u8>>,
}

impl Cache {
    /// Opens the cache in `dir`, memory-mapped.
    ///
    /// # Errors
    /// If there is no cache, a shard is missing or not whole.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_with(dir, Access::Mmap)
    }

    /// Opens the cache in `dir`.
    ///
    /// # Errors
    /// If there is no cache, a shard is missing or not whole.
    pub fn open_with(dir: &Path, access: Access) -> Result<Self> {
        match Self::salvage(dir, access)? {
            (cache, faults) if faults.is_empty() => Ok(cache),
            (_, mut faults) => Err(faults.swap_remove(0)),
        }
    }

    /// Opens what can be opened of the cache in `dir`, and says which shards are missing or not whole.
    ///
    /// For who is about to make the lost cases anew; training on what is left would be training on other data.
    ///
    /// # Errors
    /// If there is no cache, or its folder cannot be read.
    pub fn salvage(dir: &Path, access: Access) -> Result<(Self, Vec<Error>)> {
        let manifest = Manifest::read(dir)?;
        let paths = list_shards(dir)?;
        let listed = manifest.shards.iter().map(|name| dir.join(name));
        let missing = listed.filter(|path| paths.binary_search(path).is_err());
        let mut faults: Vec<Error> = missing.map(|path| Error::MissingShard { path }).collect();
        let mut shards = Vec::with_capacity(paths.len());
        for path in paths {
            match Shard::open(&path, access) {
                Ok(shard) => shards.push(Arc::new(shard)),
                Err(fault) => faults.push(fault),
            }
        }
        let cases = live_cases(&shards);
        Ok((Self { dir: dir.to_owned(), manifest, shards, cases }, faults))
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the cache is.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Every shard, sorted by name.
    #[must_use]
    pub fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    /// The cases that count, sorted by [`Case::key`].
    #[must_use]
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// The case of this name.
    #[must_use]
    pub fn case(&self, key: &str) -> Option<&Case> {
        self.cases.binary_search_by(|case| case.key.as_str().cmp(key)).ok().map(|at| &self.cases[at])
    }

    /// Bytes of records that no longer count, because the case was converted again.
    #[must_use]
    pub fn superseded_bytes(&self) -> u64 {
        let stored: u64 = self.shards.iter().flat_map(|shard| shard.cases()).map(|case| case.span.len()).sum();
        stored.saturating_sub(self.cases.iter().map(|case| case.record().span.len()).sum())
    }

    /// Identifies the content: names, sources and parameters of the cases that count, as 32 hex digits.
    ///
    /// Equal digests mean that training on either cache sees the same voxels.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for case in &self.cases {
            let record = case.record();
            let label = record.source.label_blake3.as_deref().unwrap_or_default();
            for part in [&case.key, &record.source.image_blake3, label, &record.parameters] {
                hasher.update(part.as_bytes());
                hasher.update(&[0]);
            }
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

/// The shard files of a cache folder, sorted by name.
///
/// # Errors
/// If the folder cannot be listed.
pub fn list_shards(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
        let path = entry.map_err(Error::io(dir, "list"))?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Of several records of a case the one of the largest generation counts, then the one whose shard sorts last.
fn live_cases(shards: &[Arc<Shard>]) -> Vec<Case> {
    let mut live: BTreeMap<String, (u64, Case)> = BTreeMap::new();
    for shard in shards {
        for (idx, record) in shard.cases().iter().enumerate() {
            let key = record.key();
            if live.get(&key).is_none_or(|&(generation, _)| generation <= shard.generation()) {
                live.insert(key, (shard.generation(), Case::of(shard, idx)));
            }
        }
    }
    live.into_values().map(|(_, case)| case).collect()
}

impl Case {
    /// Record `idx` of a shard, whether it counts or not.
    pub(crate) fn of(shard: &Arc<Shard>, idx: usize) -> Self {
        Self { shard: Arc::clone(shard), idx, key: shard.cases()[idx].key() }
    }

    /// `DATASET/CASE`.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Position of its record in the shard.
    #[must_use]
    pub fn idx(&self) -> usize {
        self.idx
    }

    /// What the shard says of the case.
    #[must_use]
    pub fn record(&self) -> &CaseRecord {
        &self.shard.cases()[self.idx]
    }

    /// The shard it lies in.
    #[must_use]
    pub fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// Reads the whole volume.
    ///
    /// # Errors
    /// If a chunk cannot be read or is corrupt.
    pub fn read_whole(&self, reader: &mut VolumeReader) -> Result<StoredVolume> {
        let record = self.record();
        let index = reader.index(self)?;
        let num_voxels = record.shape.iter().product();
        let mut image = vec![0u16; num_voxels];
        let mut label = record.label.as_ref().map(|_| vec![0u8; num_voxels]);
        let (mut image_chunk, mut label_chunk) = (Vec::new(), Vec::new());
        for chunk in 0..index.grid.num_chunks() {
            let region = index.grid.chunk_box(chunk);
            reader.image_chunk(self, &index, chunk, &mut image_chunk)?;
            scatter(&image_chunk, &region, record.shape, &mut image);
            if let Some(label) = &mut label {
                reader.label_chunk(self, &index, chunk, &mut label_chunk)?;
                scatter(&label_chunk, &region, record.shape, label);
            }
        }
        Ok(StoredVolume { shape: record.shape, image, label })
    }

    /// Advises the system that the case's bytes will be read soon.
    pub fn will_need(&self) {
        let span = &self.record().span;
        let len = usize::try_from(span.data_len + span.index_len).unwrap_or(usize::MAX);
        self.shard.storage().will_need(span.offset, len);
    }
}

fn scatter<T: Copy>(chunk: &[T], region: &Box3, shape: [usize; 3], volume: &mut [T]) {
    let [_, ny, nz] = region.shape();
    for (row, samples) in chunk.chunks_exact(nz).enumerate() {
        let (x, y) = (region.start[0] + row / ny, region.start[1] + row % ny);
        let at = (x * shape[1] + y) * shape[2] + region.start[2];
        volume[at..at + nz].copy_from_slice(samples);
    }
}

/// All of a chunk, as a part of it.
fn whole(index: &CaseIndex, chunk: usize) -> Box3 {
    Box3 { start: [0; 3], end: index.grid.chunk_box(chunk).shape() }
}

/// What a thread needs to read chunks: a decoder and its buffers.
pub struct VolumeReader {
    decoder: Option<Decoder>,
    bytes: Vec<u8>,
}

impl Default for VolumeReader {
    fn default() -> Self {
        Self::new()
    }
}

impl VolumeReader {
    /// A reader; allocates nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { decoder: None, bytes: Vec::new() }
    }

    /// Reads a case's index.
    ///
    /// # Errors
    /// If it cannot be read or does not hold together.
    pub fn index(&mut self, case: &Case) -> Result<CaseIndex> {
        case.shard.read_index(case.record(), &mut self.bytes)
    }

    /// Reads one chunk of the image into `samples`, resized to the chunk's voxels.
    ///
    /// # Errors
    /// If it cannot be read or is corrupt.
    pub fn image_chunk(&mut self, case: &Case, index: &CaseIndex, chunk: usize, samples: &mut Vec<u16>) -> Result<()> {
        let part = whole(index, chunk);
        self.image_part(case, index, chunk, &part, samples)
    }

    /// Reads at least `part` of one chunk of the image, a box of the chunk's own voxels. `samples` is resized to the
    /// whole chunk; what lies outside of the part may be anything.
    ///
    /// # Errors
    /// If it cannot be read or is corrupt.
    pub fn image_part(
        &mut self,
        case: &Case,
        index: &CaseIndex,
        chunk: usize,
        part: &Box3,
        samples: &mut Vec<u16>,
    ) -> Result<()> {
        self.part(case, index, ("image", &index.image, &case.record().image.codec), (chunk, part), samples)
    }

    /// Reads one chunk of the label map into `samples`, resized to the chunk's voxels.
    ///
    /// # Errors
    /// If the case has no labels, or the chunk cannot be read or is corrupt.
    pub fn label_chunk(&mut self, case: &Case, index: &CaseIndex, chunk: usize, samples: &mut Vec<u8>) -> Result<()> {
        let part = whole(index, chunk);
        self.label_part(case, index, chunk, &part, samples)
    }

    /// Reads at least `part` of one chunk of the label map, as [`Self::image_part`] does of the image.
    ///
    /// # Errors
    /// If the case has no labels, or the chunk cannot be read or is corrupt.
    pub fn label_part(
        &mut self,
        case: &Case,
        index: &CaseIndex,
        chunk: usize,
        part: &Box3,
        samples: &mut Vec<u8>,
    ) -> Result<()> {
        let (Some(label), Some(array)) = (&index.label, &case.record().label) else {
            return Err(Error::BadCase { case: case.key.clone(), reason: "has no labels".into() });
        };
        self.part(case, index, ("label", label, &array.codec), (chunk, part), samples)
    }

    fn part<T: Voxel>(
        &mut self,
        case: &Case,
        index: &CaseIndex,
        (name, chunks, codec): (&'static str, &ChunkIndex, &Codec),
        (chunk, part): (usize, &Box3),
        samples: &mut Vec<T>,
    ) -> Result<()> {
        let shape = index.grid.chunk_box(chunk).shape();
        samples.resize(shape.iter().product(), T::default());
        let path = case.shard.path();
        let (offset, len, crc32c) = match chunks.entries[chunk] {
            Entry::Constant(value) => {
                samples.fill(T::from_u16(value));
                return Ok(());
            }
            Entry::Coded { offset, len, crc32c } => (offset, len as usize, crc32c),
        };
        let bytes =
            case.shard.storage().read(offset, len, &mut self.bytes).map_err(Error::io(path, "read a chunk of"))?;
        let decoded = if crc32c::crc32c(bytes) == crc32c {
            let decoder = match &mut self.decoder {
                Some(decoder) => decoder,
                none => none.insert(Decoder::new().map_err(Error::io(path, "make a zstd decoder for"))?),
            };
            decoder.decode_part(codec, shape, part, bytes, samples)
        } else {
            Err("checksum does not match".to_owned())
        };
        decoded.map_err(|reason| Error::CorruptChunk {
            path: path.to_owned(),
            case: case.key.clone(),
            array: name,
            chunk,
            reason,
        })
    }
}
