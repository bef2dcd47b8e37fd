//! Preprocessing compared with MONAI, voxel by voxel. Every `prep_*` case of every golden folder is run; all differences
//! are reported at the end.
//!
//! Folders: the project's own (`tests/golden`), and the folder named by `HIEND_GOLDEN_DIR`, or else `shared/golden`
//! next to the repository. A case's source lies in the folder's `phantom/`, or in `ct/` next to the folder.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "counts of voxels, and values that are f32 in MONAI"
)]

use std::path::{Path, PathBuf};

use hiend_loader::geometry::Affine;
use hiend_loader::preprocess::resample::{Resampling, trilinear};
use hiend_loader::preprocess::{PreprocessConfig, preprocess};
use hiend_loader::volume::{read_labels, read_volume};
use safetensors::SafeTensors;
use serde_json::Value;

/// Largest difference of a stored voxel, in window units: rounding to whole HU moves a value by up to half of 1/425
/// (0.00118); the rest is float rounding.
const IMAGE_TOLERANCE: f64 = 0.0013;
/// Largest mean of the absolute differences of stored voxels, in window units: rounding to whole HU moves a value by a
/// quarter of 1/425 on average, and by half of it half-way between two HU, where no more than every second voxel of a
/// volume lies that is resampled half-way between its planes; (1/4 + 1/2)/2 and float rounding.
const IMAGE_MEAN_TOLERANCE: f64 = 0.38 / 425.0;
/// Largest difference of a volume's mean, in window units. Rounding errors cancel in the mean, except for values
/// half-way between two HU, which are rounded up: at most half of 1/425 for those, and for no more than every second
/// voxel of a volume that is resampled half-way between its planes.
const MEAN_TOLERANCE: f64 = 0.25 / 425.0;
/// Largest difference of a resampled voxel before rounding, in HU.
const HU_TOLERANCE: f64 = 0.01;
/// Largest difference between entries of affines.
const AFFINE_TOLERANCE: f64 = 1e-9;

#[test]
fn golden_preprocessing_agrees_with_monai() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut folders = vec![own];
    folders.extend(shared_golden());
    let mut names = Vec::new();
    let mut failures = Vec::new();
    for folder in folders {
        for path in sorted(&folder) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("prep_") && path.extension().is_some_and(|e| e == "json") {
                failures.extend(check_case(&folder, &path));
                names.push(name);
            }
        }
    }
    assert!(names.len() >= 3, "the project's own cases are missing: {names:?}");
    assert!(failures.is_empty(), "{} differences in {} cases:\n{}", failures.len(), names.len(), failures.join("\n"));
}

/// Folder with further cases, if there is one.
fn shared_golden() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("HIEND_GOLDEN_DIR") {
        return Some(dir.into());
    }
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden");
    if beside.is_dir() {
        return Some(beside);
    }
    println!("golden: HIEND_GOLDEN_DIR is not set and there is no shared/golden: the project's own phantoms only");
    None
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|err| panic!("{}: {err}", folder.display()))
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    paths
}

fn source(folder: &Path, name: &Value) -> PathBuf {
    let name = name.as_str().unwrap();
    let path =
        [folder.join("phantom"), folder.join("../ct")].map(|dir| dir.join(name)).into_iter().find(|p| p.is_file());
    path.unwrap_or_else(|| panic!("{name}: neither in phantom/ nor in ../ct"))
}

/// Returns one line per difference. Voxels of volumes whose shapes differ are not compared.
fn check_case(folder: &Path, json: &Path) -> Vec<String> {
    let name = json.file_stem().unwrap().to_string_lossy().into_owned();
    let case: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let tensors = std::fs::read(json.with_extension("safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&tensors).unwrap();
    let image = read_volume(&source(folder, &case["source"])).unwrap();
    let label = case["label"].as_str().map(|_| read_labels(&source(folder, &case["label"])).unwrap());
    let config = PreprocessConfig::default();
    let step = |step: &str| &case["steps"][step]["image"];
    let mut differing = Differing { name: name.clone(), found: Vec::new() };

    // Load and orient: shapes and affines.
    differing.unless_equal("shape after loading", image.info.shape, shape(&step("load")["shape"]));
    let oriented_shape = image.info.orientation.shape(image.info.shape);
    differing.unless_equal("shape after orientation", oriented_shape, shape(&step("orient")["shape"]));
    let mut affine_error = largest(&image.info.affine, &step("load")["affine"]);
    let oriented = image.info.orientation.affine(&image.info.affine, image.info.shape);
    affine_error = affine_error.max(largest(&oriented, &step("orient")["affine"]));

    // Resample: shape, affine, HU before any rounding.
    let resampling = Resampling::new(&image.info, config.spacing);
    let resampled = resampling.shape();
    differing.unless_equal("shape after resampling", resampled, shape(&step("spacing")["shape"]));
    affine_error = affine_error.max(largest(&resampling.affine(), &step("spacing")["affine"]));
    differing.unless(affine_error < AFFINE_TOLERANCE, || format!("affines differ by {affine_error}"));
    if !differing.found.is_empty() {
        return differing.found;
    }
    let mut hu = vec![0f32; resampled.iter().product()];
    trilinear(&image, &resampling, &mut hu, |values, _, out| out.copy_from_slice(values));
    let hu_error = compare(&hu, resampled, [0; 3], [8; 3], &tensors, "expect/spacing_hu_stride8");

    // Window and crop: the volume that is stored.
    let prepared = preprocess(&image, label.as_ref(), &config).unwrap();
    let region = prepared.geometry.foreground_box;
    differing.unless_equal("start of the foreground box", region.start, shape(&case["foreground_start"]));
    differing.unless_equal("end of the foreground box", region.end, shape(&case["foreground_end"]));
    differing.unless_equal("shape after the crop", prepared.shape, shape(&step("crop")["shape"]));
    if !differing.found.is_empty() {
        return differing.found;
    }
    affine_error = affine_error.max(largest(&prepared.geometry.affine, &step("crop")["affine"]));
    let [low, high] = config.window;
    let scale = |&sample: &u16| ((f64::from(sample) + prepared.quantiser.offset - low) / (high - low)) as f32;
    let scaled: Vec<f32> = prepared.image.iter().map(scale).collect();
    let image_error = compare(&scaled, prepared.shape, [0; 3], [4; 3], &tensors, "expect/image_stride4");
    let centre = shape(&case["center48_start"]);
    let block_error = compare(&scaled, prepared.shape, centre, [1; 3], &tensors, "expect/image_center48");
    let mean = scaled.iter().map(|&v| f64::from(v)).sum::<f64>() / scaled.len() as f64;
    let mean_error = (mean - case["image_mean"].as_f64().unwrap()).abs();

    // Labels: every voxel counted, every second one compared.
    let mut wrong_labels = 0;
    let mut equal_counts = true;
    if let Some(labels) = &prepared.label {
        let values: Vec<f32> = labels.iter().map(|&l| f32::from(l)).collect();
        let errors = compare(&values, prepared.shape, [0; 3], [2; 3], &tensors, "expect/label_stride2");
        wrong_labels = errors.wrong;
        let mut counts = [0u64; 256];
        for &label in labels {
            counts[usize::from(label)] += 1;
        }
        let mut expected = [0u64; 256];
        for (value, count) in case["label_counts"].as_object().unwrap() {
            expected[value.parse::<usize>().unwrap()] = count.as_u64().unwrap();
        }
        equal_counts = counts == expected;
    }
    println!(
        "{name}: shapes and box equal, label counts {}; labels {wrong_labels} wrong; affine {affine_error:.1e}; HU max \
         {:.1e}; [0,1] max {:.6} mean {:.6} (block max {:.6}); mean of the volume off by {mean_error:.1e}",
        if equal_counts { "equal" } else { "differ" },
        hu_error.max,
        image_error.max,
        image_error.mean,
        block_error.max
    );
    differing.unless(equal_counts, || "voxels by label differ".into());
    differing.unless_equal("wrong labels among every second voxel", wrong_labels, 0);
    differing.unless(affine_error < AFFINE_TOLERANCE, || format!("affines differ by {affine_error}"));
    differing.unless(hu_error.max < HU_TOLERANCE, || format!("HU differ by {}", hu_error.max));
    let worst = image_error.max.max(block_error.max);
    differing.unless(worst < IMAGE_TOLERANCE, || format!("image differs by {worst}"));
    let mean = image_error.mean;
    differing.unless(mean < IMAGE_MEAN_TOLERANCE, || format!("image differs by {mean} on average"));
    differing.unless(mean_error < MEAN_TOLERANCE, || format!("mean of the volume differs by {mean_error}"));
    differing.found
}

/// Differences found in one case.
struct Differing {
    name: String,
    found: Vec<String>,
}

impl Differing {
    fn unless(&mut self, is_equal: bool, what: impl FnOnce() -> String) {
        if !is_equal {
            self.found.push(format!("{}: {}", self.name, what()));
        }
    }

    fn unless_equal<T: Copy + PartialEq + std::fmt::Debug>(&mut self, what: &str, actual: T, expected: T) {
        self.unless(actual == expected, || format!("{what} {actual:?}, expected {expected:?}"));
    }
}

fn shape(value: &Value) -> [usize; 3] {
    let lengths: Vec<usize> = value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect();
    lengths[lengths.len() - 3..].try_into().unwrap()
}

fn largest(affine: &Affine, expected: &Value) -> f64 {
    let differences = (0..16).map(|at| (affine[at / 4][at % 4] - expected[at / 4][at % 4].as_f64().unwrap()).abs());
    differences.fold(0.0, f64::max)
}

struct Errors {
    max: f64,
    mean: f64,
    wrong: usize,
}

/// Compares every `stride`-th voxel from `start` with a tensor.
fn compare(
    volume: &[f32],
    shape: [usize; 3],
    start: [usize; 3],
    stride: [usize; 3],
    tensors: &SafeTensors<'_>,
    key: &str,
) -> Errors {
    let tensor = tensors.tensor(key).unwrap_or_else(|err| panic!("{key}: {err}"));
    let expected: Vec<f64> = match tensor.dtype() {
        safetensors::Dtype::F32 => {
            tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect()
        }
        safetensors::Dtype::I16 => {
            tensor.data().as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b).into()).collect()
        }
        safetensors::Dtype::I32 => {
            tensor.data().as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect()
        }
        safetensors::Dtype::U16 => {
            tensor.data().as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b).into()).collect()
        }
        safetensors::Dtype::F64 => tensor.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        safetensors::Dtype::I64 => {
            tensor.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect()
        }
        safetensors::Dtype::U8 => tensor.data().iter().map(|&b| b.into()).collect(),
        other => panic!("{key}: {other:?}"),
    };
    let lengths = &tensor.shape()[tensor.shape().len() - 3..];
    let (mut max, mut sum, mut wrong) = (0f64, 0f64, 0);
    for (at, &expected) in expected.iter().enumerate() {
        let voxel = [at / (lengths[1] * lengths[2]), at / lengths[2] % lengths[1], at % lengths[2]];
        let [x, y, z]: [usize; 3] = std::array::from_fn(|a| start[a] + stride[a] * voxel[a]);
        let error = (f64::from(volume[(x * shape[1] + y) * shape[2] + z]) - expected).abs();
        max = max.max(error);
        sum += error;
        wrong += usize::from(error > 0.0);
    }
    Errors { max, mean: sum / expected.len() as f64, wrong }
}
