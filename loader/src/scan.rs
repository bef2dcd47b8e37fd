//! One scan as training sees it: read and preprocessed from a file, or taken from a cache.
//!
//! Both give the same voxels, and a crop equals the one that the stream cuts at that place before augmentation.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hiend_cache::{Cache, Case, Geometry, VolumeReader};

use crate::case::ImageRole;
use crate::convert::{ExtentError, Judged, OnSuspect, Suspicion, check_extent, may_have};
use crate::geometry::{Affine, inverse};
use crate::pipeline::Unsuitable;
use crate::preprocess::normalize::{Normalize, Units};
use crate::preprocess::window::{Scale, Store};
use crate::preprocess::{PreprocessConfig, PreprocessError, preprocess};
use crate::sampler::box_start;
use crate::volume::{VolumeError, file_stem, read_info_for, read_volume_for};

/// Errors from loading a scan or addressing a voxel.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The file cannot be read.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The file cannot be preprocessed as in training.
    #[error("{}", path.display())]
    Unusable {
        /// Path of the file.
        path: PathBuf,
        /// Reason why the file cannot be prepared.
        source: PreprocessError,
    },
    /// The values are not those of a CT in HU.
    #[error("{}: {suspicion}", path.display())]
    Suspect {
        /// Path of the file.
        path: PathBuf,
        /// Reason why the values are suspicious.
        suspicion: Suspicion,
    },
    /// The header gives the scan a size that no scan of a body has.
    #[error("{}", path.display())]
    Extent {
        /// Path of the file.
        path: PathBuf,
        /// Reason why the size is impossible.
        source: ExtentError,
    },
    /// The cache is damaged.
    #[error(transparent)]
    Cache(#[from] hiend_cache::Error),
    /// The cache does not state how it was made, or does not hold the requested range.
    #[error("{}: {reason}", dir.display())]
    Unsuitable {
        /// Path of the cache.
        dir: PathBuf,
        /// Reason why the cache is unsuitable.
        reason: String,
    },
    /// The point lies outside the scan.
    #[error("{scan}: {point} lies outside the part of the scan that is used, its foreground from {low} to {high}")]
    Outside {
        /// Name of the scan.
        scan: String,
        /// The requested point.
        point: Point,
        /// Lowest coordinates of the scan, in the units of the point.
        low: Point,
        /// Highest coordinates of the scan, in the units of the point.
        high: Point,
    },
}

/// A scan in memory, in RAS+ order, z fastest, cropped to its foreground.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The file's name without its ending, or `DATASET/CASE`.
    pub name: String,
    /// Voxels along x, y, z.
    pub shape: [usize; 3],
    /// Position of the voxels in the world.
    pub geometry: Geometry,
    /// Unusual features of the file's header and values, each in one line.
    pub findings: Vec<String>,
    /// Meaning of the values.
    pub units: Units,
    samples: Vec<u16>,
    scale: Scale,
}

impl Scan {
    /// Reads a scan and preprocesses it as `hiend-shard` does.
    ///
    /// # Errors
    /// If the file cannot be read, has an impossible size, holds nothing above the window's lower end or one value only,
    /// or is refused by [`OnSuspect::judge`].
    pub fn read(path: &Path, config: &PreprocessConfig, on_suspect: OnSuspect) -> Result<Self, ScanError> {
        let unusable = |source| ScanError::Unusable { path: path.to_owned(), source };
        let extent = |source| ScanError::Extent { path: path.to_owned(), source };
        check_extent(&read_info_for(path, config.normalize.into())?, config).map_err(extent)?;
        let volume = read_volume_for(path, config.normalize.into())?;
        let suspect = |suspicion| ScanError::Suspect { path: path.to_owned(), suspicion };
        let judged = on_suspect.judge(&volume, ImageRole::Assumed, config.normalize, config.window);
        let Judged { findings, .. } = judged.map_err(suspect)?;
        let prepared = preprocess(&volume, None, config).map_err(unusable)?;
        Ok(Self {
            name: name_of(path),
            shape: prepared.shape,
            geometry: prepared.geometry,
            findings,
            samples: prepared.image,
            scale: config.units(None).scale(prepared.quantiser.scale, prepared.quantiser.offset),
            units: config.units(None),
        })
    }

    /// Reads a case of a cache. Values are in units of `window` (by default the cache's own), or z-scores.
    ///
    /// # Errors
    /// If the case cannot be read, or the cache does not know its window, holds less than the one asked for, or holds
    /// z-scores and a window is asked for.
    pub fn of_case(cache: &Cache, case: &Case, window: Option<[f64; 2]>) -> Result<Self, ScanError> {
        let unsuitable = |reason| ScanError::Unsuitable { dir: cache.dir().to_owned(), reason };
        let preprocess: PreprocessConfig = serde_json::from_value(cache.manifest().preprocess.clone())
            .map_err(|err| unsuitable(format!("manifest.json: preprocess: {err}")))?;
        if Normalize::of_case(case.record()) != preprocess.normalize {
            let (key, values) = (case.key(), preprocess.normalize.values());
            let reason =
                format!("case {key} does not hold {values}, as manifest.json says; run hiend-shard again to the end");
            return Err(unsuitable(reason));
        }
        if !may_have(case.record(), &preprocess) {
            let reason = Unsuitable::OtherParameters { case: case.key().to_owned() };
            return Err(unsuitable(reason.to_string()));
        }
        if let Some([low, high]) = window.filter(|_| !preprocess.normalize.is_hu()) {
            return Err(unsuitable(format!("holds z-scores, which have no window in HU; leave out {low},{high}")));
        }
        let units = preprocess.units(window);
        let ([low, high], window) = (preprocess.window, window.unwrap_or(preprocess.window));
        if preprocess.store == Store::Window && (window[0] < low || high < window[1]) {
            let wanted = format!("window {},{} needs a cache made with --store full", window[0], window[1]);
            return Err(unsuitable(format!("holds only {low} to {high} HU; {wanted}")));
        }
        let record = case.record();
        let volume = case.read_whole(&mut VolumeReader::new())?;
        Ok(Self {
            name: case.key().to_owned(),
            shape: volume.shape,
            geometry: record.geometry.clone(),
            findings: record.values.as_ref().map(|values| values.findings.clone()).unwrap_or_default(),
            samples: volume.image,
            scale: units.scale(record.image.scale, record.image.offset),
            units,
        })
    }

    /// Value of a voxel in [`Self::units`]; 0 outside the scan, as crops are padded.
    #[must_use]
    pub fn value(&self, voxel: [i64; 3]) -> f32 {
        let mut at = 0;
        for (&position, &len) in voxel.iter().zip(&self.shape) {
            match usize::try_from(position) {
                Ok(position) if position < len => at = at * len + position,
                _ => return 0.0,
            }
        }
        self.scale.apply(self.samples[at])
    }

    /// First voxel of the crop of `size` centred at a voxel; crops that would cross the border are moved inside, as in
    /// the stream.
    #[must_use]
    pub fn crop_origin(&self, centre: [usize; 3], size: [usize; 3]) -> [i64; 3] {
        std::array::from_fn(|axis| box_start(centre[axis], self.shape[axis], size[axis]))
    }

    /// Crop of `size` that begins at voxel `origin`, z fastest.
    #[must_use]
    pub fn crop(&self, origin: [i64; 3], size: [usize; 3]) -> Vec<f32> {
        let mut values = Vec::with_capacity(size.iter().product());
        let along = |axis: usize| (origin[axis]..).take(size[axis]);
        for x in along(0) {
            for y in along(1) {
                values.extend(along(2).map(|z| self.value([x, y, z])));
            }
        }
        values
    }

    /// Index of the middle voxel.
    #[must_use]
    pub fn middle(&self) -> [usize; 3] {
        self.shape.map(|len| len / 2)
    }

    /// Finds the voxel at a point.
    ///
    /// # Errors
    /// [`ScanError::Outside`], with the range that the scan covers, if the point lies outside.
    pub fn voxel_at(&self, point: Point) -> Result<[usize; 3], ScanError> {
        let voxel = self.voxel_of(point);
        let inside = (0..3).all(|axis| (-0.5..self.shape[axis] as f64 - 0.5).contains(&voxel[axis]));
        if !inside {
            let corners: Vec<[f64; 3]> = (0..8)
                .map(|at| {
                    std::array::from_fn(|axis| if at >> axis & 1 == 1 { self.shape[axis] as f64 - 1.0 } else { 0.0 })
                })
                .map(|corner| self.place_of(corner, point).numbers())
                .collect();
            let extreme = |choose: fn(f64, f64) -> f64| -> [f64; 3] {
                std::array::from_fn(|axis| corners.iter().map(|corner| corner[axis]).reduce(choose).unwrap_or(0.0))
            };
            let (low, high) = (point.with(extreme(f64::min)), point.with(extreme(f64::max)));
            return Err(ScanError::Outside { scan: self.name.clone(), point, low, high });
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie inside")]
        Ok(voxel.map(|position| position.round().max(0.0) as usize))
    }

    /// World coordinates of a voxel in mm (RAS+).
    #[must_use]
    pub fn world_of(&self, voxel: [usize; 3]) -> [f64; 3] {
        apply(&self.geometry.affine, voxel.map(|position| position as f64))
    }

    fn voxel_of(&self, point: Point) -> [f64; 3] {
        let world = match point {
            Point::World(world) => world,
            Point::Voxel(voxel) => apply(&self.geometry.source_affine, voxel),
        };
        // Affines were checked when the scan was read; without an inverse nothing lies inside.
        inverse(&self.geometry.affine).map_or([f64::NAN; 3], |inverse| apply(&inverse, world))
    }

    /// Coordinates of a voxel in the same units as the point `like`.
    fn place_of(&self, voxel: [f64; 3], like: Point) -> Point {
        let world = apply(&self.geometry.affine, voxel);
        match like {
            Point::World(_) => Point::World(world),
            Point::Voxel(_) => {
                Point::Voxel(inverse(&self.geometry.source_affine).map_or([f64::NAN; 3], |to| apply(&to, world)))
            }
        }
    }
}

/// Name of a file's scan: the file's name without the extension of its format.
#[must_use]
pub fn name_of(path: &Path) -> String {
    let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    file_stem(&file_name).map(str::to_owned).unwrap_or(file_name)
}

fn apply(affine: &Affine, [x, y, z]: [f64; 3]) -> [f64; 3] {
    std::array::from_fn(|row| affine[row][0] * x + affine[row][1] * y + affine[row][2] * z + affine[row][3])
}

/// A point in a scan, as given on the command line: `120,80,64` is a voxel of the file, `-12.5,30,1040mm` a point in
/// the world (RAS+).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Point {
    /// Index of a voxel in the source file, from 0.
    Voxel([f64; 3]),
    /// World coordinates in mm, towards the patient's right, front and head (RAS+).
    World([f64; 3]),
}

impl Point {
    fn numbers(self) -> [f64; 3] {
        let (Self::Voxel(numbers) | Self::World(numbers)) = self;
        numbers
    }

    fn with(self, numbers: [f64; 3]) -> Self {
        match self {
            Self::Voxel(_) => Self::Voxel(numbers),
            Self::World(_) => Self::World(numbers),
        }
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (numbers, point): (_, fn([f64; 3]) -> Self) = match text.strip_suffix("mm") {
            Some(numbers) => (numbers, Self::World),
            None => (text, Self::Voxel),
        };
        let parsed: Vec<f64> = numbers.split(',').filter_map(|part| part.trim().parse().ok()).collect();
        match parsed.as_slice() {
            &[x, y, z] if numbers.split(',').count() == 3 && [x, y, z].iter().all(|v| v.is_finite()) => {
                Ok(point([x, y, z]))
            }
            _ => Err("expected a voxel of the file, as 120,80,64, or millimetres, as -12.5,30,1040mm".to_owned()),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.numbers();
        match self {
            Self::Voxel(_) => write!(f, "voxel {x:.0},{y:.0},{z:.0}"),
            Self::World(_) => write!(f, "{x:.1},{y:.1},{z:.1}mm"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::convert::Conversion;
    use crate::dataset;
    use crate::phantom::{PhantomConfig, write_dataset};
    use crate::pipeline::{Loader, LoaderOptions, StreamConfig};
    use crate::transform::Chain;
    use crate::volume::nifti::testing::TestFile;

    #[test]
    fn file_cache_and_stream_give_the_same_voxels() {
        let folder = tempfile::tempdir().unwrap();
        let (raw, shards) = (folder.path().join("raw"), folder.path().join("cache"));
        let phantoms = PhantomConfig { cases: 2, spacing_mm: [4.0, 6.0], ..PhantomConfig::default() };
        write_dataset(&raw.join("Dataset001_P"), &phantoms).unwrap();
        let config = PreprocessConfig { spacing: Some([5.0; 3]), ..PreprocessConfig::default() };
        let datasets = dataset::find(&raw).unwrap();
        Conversion::new(&raw, &datasets, &shards).config(config.clone()).run().unwrap();
        let cache = Arc::new(Cache::open(&shards).unwrap());

        let size = [24, 24, 80];
        let stream = StreamConfig {
            crop_size: size,
            visits_per_batch: 2,
            crops_per_visit: 3,
            augment: Chain::plain(),
            ..StreamConfig::default()
        };
        let loader = Loader::open(cache.clone(), stream, 1, &LoaderOptions::default()).unwrap();
        let batch = loader.stream(0).next().unwrap().unwrap();
        for (crop, images) in batch.crops.iter().zip(batch.to_floats().chunks_exact(size.iter().product())) {
            let case = cache.case(&crop.case).unwrap();
            let cached = Scan::of_case(&cache, case, None).unwrap();
            let file = raw.join("Dataset001_P/imagesTr").join(format!("{}_0000.nii.gz", case.record().case_id));
            let read = Scan::read(&file, &config, OnSuspect::Fail).unwrap();
            assert!(cached.crop(crop.origin, size) == images, "{} at {:?}", crop.case, crop.origin);
            assert!(read.crop(crop.origin, size) == images, "{} at {:?}", crop.case, crop.origin);
            assert_eq!(read.geometry, cached.geometry);

            let voxel = [3, 5, 7];
            let world = read.world_of(voxel);
            assert_eq!(read.voxel_at(Point::World(world)).unwrap(), voxel);
            let message = read.voxel_at(Point::World([1e4; 3])).unwrap_err().to_string();
            assert!(
                message.contains(
                    "10000.0,10000.0,10000.0mm lies outside the part of the scan that is used, its foreground from"
                ),
                "{message}"
            );
            assert!(read.voxel_at(Point::Voxel([-9.0; 3])).is_err());
        }
    }

    #[test]
    fn suspicious_scans_are_reported_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let shape = [12, 10, 8];
        let inside = |at: usize| (3..9).contains(&(at % 12)) && (2..8).contains(&(at / 12 % 10));
        let voxels = |of: &dyn Fn(usize) -> i16| (0..960).map(of).collect::<Vec<i16>>();
        let noise = |at: usize| i16::try_from(at * 7919 % 41).unwrap();
        let offset = voxels(&|at| noise(at) + if inside(at) { 1040 } else { 0 });
        let labels = voxels(&|at| i16::from(inside(at)));
        let write = |name: &str, voxels: &[i16]| TestFile::new(shape, voxels).write(&folder.path().join(name));
        let (offset, labels) = (write("offset.nii", &offset), write("labels.nii", &labels));
        let read = |path: &Path, on_suspect| Scan::read(path, &PreprocessConfig::default(), on_suspect);
        let findings = read(&offset, OnSuspect::Warn).unwrap().findings;
        assert!(findings.len() == 1 && findings[0].contains("HU with an offset"), "{findings:?}");
        for on_suspect in [OnSuspect::Skip, OnSuspect::Fail] {
            assert!(matches!(read(&offset, on_suspect), Err(ScanError::Suspect { .. })));
        }
        let error = read(&labels, OnSuspect::Warn).unwrap_err().to_string();
        assert!(error.contains("labels.nii: a label map by its values"), "{error}");
    }

    #[test]
    fn points_are_read_or_refused() {
        let check = |text: &str, expected: Option<Point>| assert_eq!(text.parse().ok(), expected, "{text}");
        check("1,2,3", Some(Point::Voxel([1.0, 2.0, 3.0])));
        check("-1.5, 2,3mm", Some(Point::World([-1.5, 2.0, 3.0])));
        check("1,2", None);
        check("1,2,x,4", None);
        check("1,2,infmm", None);
    }
}
