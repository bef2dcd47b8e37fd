//! Caches of z-scores: stored values are compared with a formula computed here, and streams in every form and
//! rejections are tested.

#![expect(clippy::float_cmp, clippy::cast_precision_loss, reason = "whole numbers that f32 holds, compared bit by bit")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hiend_cache::{Cache, Manifest, VolumeReader};
use hiend_loader::batch::{Batch, VoxelForm};
use hiend_loader::convert::{Conversion, OnSuspect, Summary};
use hiend_loader::dataset::{self, Modalities};
use hiend_loader::pipeline::{Loader, LoaderOptions, StreamConfig};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::preprocess::normalize::{Normalize, Units};
use hiend_loader::scan::Scan;
use hiend_loader::transform::Chain;

/// Number of voxels of the generated scans along each axis.
const SHAPE: [usize; 3] = [22, 18, 9];
/// Voxel side lengths of the generated scans, in mm; the axes run to the right, front and head (RAS+).
const SPACING: [f32; 3] = [0.75, 0.75, 5.0];
/// Step between stored z-scores of the default range.
const STEP: f64 = 1.0 / 1024.0;

/// Writes an uncompressed NIfTI-1 file of f32 voxels, x fastest.
fn write_nifti(path: &Path, values: &[f32]) {
    let mut head = vec![0u8; 352];
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &348i32.to_le_bytes());
    for (number, dim) in [3, SHAPE[0], SHAPE[1], SHAPE[2], 1, 1, 1, 1].into_iter().enumerate() {
        put(40 + 2 * number, &i16::try_from(dim).unwrap().to_le_bytes());
    }
    put(70, &16i16.to_le_bytes());
    put(72, &32i16.to_le_bytes());
    for (number, side) in [1.0, SPACING[0], SPACING[1], SPACING[2]].into_iter().enumerate() {
        put(76 + 4 * number, &side.to_le_bytes());
    }
    put(108, &352f32.to_le_bytes());
    put(112, &1f32.to_le_bytes());
    put(254, &1i16.to_le_bytes());
    for (axis, side) in SPACING.into_iter().enumerate() {
        put(280 + 16 * axis + 4 * axis, &side.to_le_bytes());
    }
    put(344, b"n+1\0");
    head.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, head).unwrap();
}

/// Values of a synthetic MR: 0 outside a head, tissue of 200 to 1,400 inside, one bright vessel; x fastest.
fn mr(seed: usize) -> Vec<f32> {
    let [nx, ny, nz] = SHAPE;
    let value = |at: usize| {
        let (x, y, z) = (at % nx, at / nx % ny, at / (nx * ny));
        let is_head = (3..19).contains(&x) && (2..15).contains(&y) && (1..8).contains(&z);
        match (is_head, (x, y, z)) {
            (true, (9, 9, 4)) => 9000.0,
            // A cavity inside the head, which counts.
            (true, (12..15, 8..10, _)) | (false, _) => 0.0,
            (true, _) => (200 + (at * 7919 + seed * 131) % 1200) as f32,
        }
    };
    (0..nx * ny * nz).map(value).collect()
}

/// Bounding box of nonzero voxels, as start and end, and the mean and standard deviation of its voxels.
fn measured(values: &[f32]) -> ([usize; 3], [usize; 3], f64, f64) {
    let [nx, ny, _] = SHAPE;
    let place = |at: usize| [at % nx, at / nx % ny, at / (nx * ny)];
    let (mut start, mut end) = ([usize::MAX; 3], [0; 3]);
    for (at, _) in values.iter().enumerate().filter(|(_, value)| **value != 0.0) {
        for (axis, position) in place(at).into_iter().enumerate() {
            start[axis] = start[axis].min(position);
            end[axis] = end[axis].max(position + 1);
        }
    }
    let inside = |at: &usize| place(*at).into_iter().enumerate().all(|(i, p)| (start[i]..end[i]).contains(&p));
    let boxed: Vec<f64> = (0..values.len()).filter(inside).map(|at| f64::from(values[at])).collect();
    let mean = boxed.iter().sum::<f64>() / boxed.len() as f64;
    let variance = boxed.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / boxed.len() as f64;
    (start, end, mean, variance.sqrt())
}

fn zscore() -> PreprocessConfig {
    let normalize = Normalize::Zscore;
    PreprocessConfig { spacing: None, window: normalize.default_window(), normalize, ..PreprocessConfig::default() }
}

/// A temporary folder with datasets and caches.
struct Place(tempfile::TempDir);

impl Place {
    fn with_mrs(count: usize) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        (0..count).for_each(|case| write_nifti(&place.image(case), &mr(case)));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn image(&self, case: usize) -> PathBuf {
        self.path(&format!("data/Dataset007_MR/imagesTr/mr_{case}_0000.nii"))
    }

    fn convert(&self, out: &str, config: &PreprocessConfig) -> Summary {
        let data = self.path("data");
        let datasets = dataset::survey_of(&data, Modalities::All).unwrap().datasets;
        Conversion::new(&data, &datasets, &self.path(out)).config(config.clone()).run().unwrap()
    }

    fn cache(&self, out: &str) -> Arc<Cache> {
        Arc::new(Cache::open(self.path(out)).unwrap())
    }
}

/// Runs `hiend-shard` and asserts its exit code; returns standard output and error.
fn shard(args: &[&str], code: i32) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hiend-shard")).args(args).env_remove("HIEND_LOG").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
    (out, err)
}

#[test]
fn stored_values_are_z_scores_of_the_box_of_nonzero_voxels() {
    let place = Place::with_mrs(2);
    let summary = place.convert("cache", &zscore());
    assert_eq!((summary.converted, summary.skipped.len(), &summary.findings[..]), (2, 0, &[][..]));
    let cache = place.cache("cache");
    for case in cache.cases() {
        let number: usize = case.record().case_id.trim_start_matches("mr_").parse().unwrap();
        let values = mr(number);
        let (start, end, mean, std) = measured(&values);
        let record = case.record();
        assert_eq!((record.image.offset, record.image.scale), (-20.0, STEP));
        let known = record.values.as_ref().unwrap();
        // Double precision on either side, 1,456 values up to 9,000.
        assert!((known.mean.unwrap() - mean).abs() < 1e-7 && (known.std.unwrap() - std).abs() < 1e-7, "{known:?}");
        assert_eq!((known.min, known.max, known.below, known.above), (0.0, 9000.0, 0.0, 0.0));
        assert_eq!(record.shape, [0, 1, 2].map(|axis| end[axis] - start[axis]));
        assert_eq!(record.geometry.spacing, SPACING.map(f64::from));

        let stored = case.read_whole(&mut VolumeReader::new()).unwrap();
        let [nx, ny, nz] = record.shape;
        let mut num_foreground = 0;
        for at in 0..nx * ny * nz {
            let place = [at / (ny * nz), at / nz % ny, at % nz];
            let [x, y, z] = std::array::from_fn(|axis| start[axis] + place[axis]);
            let source = values[(z * SHAPE[1] + y) * SHAPE[0] + x];
            let expected = (f64::from(source) - mean) / std;
            let found = -20.0 + STEP * f64::from(stored.image[at]);
            assert!((found - expected).abs() <= STEP / 2.0 + 1e-9, "{source}: {found}, expected {expected}");
            num_foreground += u64::from(source > 0.0);
        }
        let index = VolumeReader::new().index(case).unwrap();
        assert_eq!(index.occupancy.foreground.total(), num_foreground);

        // A file gives what the cache gives.
        let read = Scan::read(&place.image(number), &zscore(), OnSuspect::Fail).unwrap();
        let cached = Scan::of_case(&cache, case, None).unwrap();
        assert_eq!((read.units, read.shape, &read.geometry), (Units::ZScores, cached.shape, &cached.geometry));
        assert!(read.crop([-2; 3], [20, 20, 12]) == cached.crop([-2; 3], [20, 20, 12]));
        assert!(Scan::of_case(&cache, case, Some([-175.0, 250.0])).unwrap_err().to_string().contains("holds z-scores"));
    }
    assert_eq!(cache.manifest().preprocess["normalize"], "zscore");
    assert_eq!(cache.manifest().preprocess["spacing"], serde_json::Value::Null);
    // A second run finds everything there.
    assert_eq!(place.convert("cache", &zscore()).unchanged, 2);
}

#[test]
fn resampled_z_scores_are_those_of_the_resampled_scan() {
    let place = Place::with_mrs(1);
    let config = PreprocessConfig { spacing: Some([1.5, 1.5, 5.0]), ..zscore() };
    place.convert("cache", &config);
    let cache = place.cache("cache");
    let case = &cache.cases()[0];
    let values = mr(0);
    let (_, _, mean, std) = measured(&values);
    assert_eq!(case.record().geometry.spacing, [1.5, 1.5, 5.0]);
    // Every other voxel of the file, since the grid begins at the first one.
    let begin = case.record().geometry.foreground_box.start;
    let stored = case.read_whole(&mut VolumeReader::new()).unwrap();
    let [_, ny, nz] = case.record().shape;
    for (at, &quantized) in stored.image.iter().enumerate() {
        let place = [at / (ny * nz), at / nz % ny, at % nz];
        let [x, y, z]: [usize; 3] = std::array::from_fn(|axis| begin[axis] + place[axis]);
        let source = values[(z * SHAPE[1] + 2 * y) * SHAPE[0] + 2 * x];
        let (found, expected) = (-20.0 + STEP * f64::from(quantized), (f64::from(source) - mean) / std);
        // Coordinates are rounded to f32, and neighbours differ by up to 9,000: 9,000 · 2^-20 / std < 1e-4.
        assert!((found - expected).abs() <= STEP / 2.0 + 1e-4, "{source}: {found}, expected {expected}");
    }
}

#[test]
fn crops_of_every_form_are_the_same_z_scores() {
    let place = Place::with_mrs(3);
    place.convert("cache", &zscore());
    let cache = place.cache("cache");
    // Larger than the scans along z, so that crops are padded.
    let config = |augment| StreamConfig {
        crop_size: [12, 12, 20],
        crops_per_visit: 3,
        visits_per_batch: 4,
        augment,
        ..StreamConfig::default()
    };
    let batches = |augment: Chain, form, threads| -> Vec<Batch> {
        let options = LoaderOptions { threads, memory_bytes: 256 << 20, form, ..LoaderOptions::default() };
        let loader = Loader::open(Arc::clone(&cache), config(augment), 5, &options).unwrap();
        assert_eq!(loader.units(), Units::ZScores);
        loader.stream(0).take(3).map(Result::unwrap).collect()
    };
    let bits = |batch: &Batch| batch.to_floats().iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
    let linear = [VoxelForm::Floats, VoxelForm::Quantized, VoxelForm::Boxes, VoxelForm::Chunks];
    for (chain, forms) in
        [(Chain::plain(), &linear[..]), (Chain::recipe(), &linear), (Chain::nnunet(), &[VoxelForm::Boxes])]
    {
        let expected = batches(chain, VoxelForm::Floats, 1);
        for &form in forms {
            for (expected, found) in expected.iter().zip(batches(chain, form, 3)) {
                assert_eq!(bits(expected), bits(&found), "{chain:?} {form:?}");
                assert_eq!(expected.digest(), found.digest());
            }
        }
    }
    // Without augmentation a crop holds what the cache stores, and exactly 0 outside.
    for batch in batches(Chain::plain(), VoxelForm::Floats, 2) {
        for (crop, image) in batch.crops.iter().zip(batch.to_floats().chunks_exact(12 * 12 * 20)) {
            let scan = Scan::of_case(&cache, cache.case(&crop.case).unwrap(), None).unwrap();
            assert!(scan.crop(crop.origin, [12, 12, 20]) == image);
            assert!(image.iter().any(|&z| z < -0.5) && image.iter().any(|&z| z > 0.5));
            let outside = (0..20).filter(|z| !(0..7).contains(&(crop.origin[2] + z)));
            assert!(outside.map(|z| image[usize::try_from(z).unwrap()]).all(|value| value.to_bits() == 0));
        }
    }
}

#[test]
fn other_normalisations_do_not_mix() {
    let place = Place::with_mrs(2);
    place.convert("z", &zscore());
    place.convert("hu", &PreprocessConfig { spacing: None, ..PreprocessConfig::default() });
    let caches = |names: [&str; 2]| names.map(|name| (place.cache(name), 1)).to_vec();
    let open = |names, config| Loader::open_mix(caches(names), config, 5, &LoaderOptions::default());
    let small = || StreamConfig { crop_size: [8; 3], visits_per_batch: 2, ..StreamConfig::default() };
    let message = open(["hu", "z"], small()).err().unwrap().to_string();
    assert!(message.contains("z: the cache holds z-scores, but the first one HU; stream caches of one"), "{message}");
    let message = open(["z", "hu"], small()).err().unwrap().to_string();
    assert!(message.contains("hu: the cache holds HU, but the first one z-scores"), "{message}");
    let window = StreamConfig { window: Some([-100.0, 100.0]), ..small() };
    let message = open(["z", "z"], window).err().unwrap().to_string();
    assert!(
        message.contains("holds z-scores, but stream.window is -100 to 100 HU; leave stream.window out"),
        "{message}"
    );

    // As a conversion leaves a cache that is interrupted before it writes the manifest.
    place.convert("cut", &zscore());
    let mut of_hu = Manifest::read(place.path("cut")).unwrap();
    of_hu.preprocess = Manifest::read(place.path("hu")).unwrap().preprocess;
    of_hu.write(place.path("cut")).unwrap();
    let message = open(["cut", "cut"], small()).err().unwrap().to_string();
    assert!(message.contains("does not hold HU, as manifest.json says of the cache"), "{message}");
    let cut = place.cache("cut");
    let message = Scan::of_case(&cut, &cut.cases()[0], None).unwrap_err().to_string();
    assert!(message.contains("does not hold HU, as manifest.json says"), "{message}");

    // Another normalisation of the same cases is another set of parameters.
    let (_, err) =
        shard(&[&place.text("data"), "--out", &place.text("hu"), "--spacing", "native", "--normalize", "zscore"], 1);
    assert!(err.contains("normalisation hu to zscore, window -175,250 HU to -20,40 standard deviations"), "{err}");
}

#[test]
fn the_command_converts_and_shows_z_scores() {
    let place = Place::with_mrs(1);
    let (data, out) = (place.text("data"), place.text("cache"));
    // One value only, and a bright voxel beyond the range.
    write_nifti(&place.image(1), &vec![3.5; SHAPE.iter().product()]);
    let args = [data.as_str(), "--out", &out, "--normalize", "zscore", "--spacing", "native"];
    let (_, err) = shard(&args, 3);
    assert!(err.contains("z-scores need values that differ"), "{err}");
    assert!(!err.contains("HU"), "{err}");
    let (shown, _) = shard(&["inspect", &out], 0);
    assert!(shown.contains("z-scores by each scan's own mean and standard deviation"), "{shown}");
    assert!(shown.contains("-20 to 40 standard deviations, in multiples of 1/1024"), "{shown}");
    let report = place.text("report");
    shard(&["inspect", &out, "--report", &report], 0);
    let html = std::fs::read_to_string(place.path("report/index.html")).unwrap();
    for part in ["z-score of -20 or less", "z-score of 40 or more", "0 in the file"] {
        assert!(html.contains(part), "{part}");
    }
    for part in ["the window", "air or padding"] {
        assert!(!html.contains(part), "{part}");
    }
    let (_, _, mean, std) = measured(&mr(0));
    let png = place.text("case.png");
    let (shown, _) = shard(&["inspect", &out, "mr_0", "--png", &png], 0);
    assert!(shown.contains(&format!("{mean:.6} and {std:.6}")), "{shown}");
    assert!(place.path("case.png").exists());
    shard(&["replay", &out, "--step", "0", "--crop-size", "8", "--visits-per-batch", "1", "--png", &png], 0);
    let (clamped, _) = shard(&[&data, "--out", &place.text("narrow"), "--normalize", "zscore", "--window", "-1,1"], 3);
    assert!(clamped.contains("beyond the range of z-scores and are clamped"), "{clamped}");
    for (flags, expected) in [
        (["--store", "full"], "store full: keeps the range of HU, but z-scores have none"),
        (["--window", "5,40"], "window 5,40: expected a range of z-scores"),
        (["--window", "-20,400"], "window -20,400: expected a range of z-scores"),
    ] {
        let (_, err) = shard(&[&args[..], &flags].concat(), 2);
        assert!(err.contains(expected), "{err}");
    }
}
