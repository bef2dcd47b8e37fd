//! Golden cases on disk: where they are, their tensors, and the comparison every golden test prints.

// Each test binary compiles this file on its own and uses a part of it.
#![allow(dead_code, reason = "shared by several test binaries")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// A tensor of a case, widened to f64, with its shape.
pub struct GoldenTensor {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl GoldenTensor {
    pub fn f32(&self) -> Vec<f32> {
        #[allow(clippy::cast_possible_truncation, reason = "the file holds f32")]
        self.values.iter().map(|&value| value as f32).collect()
    }
}

/// One case: `NAME.json` and `NAME.safetensors`.
pub struct GoldenCase {
    pub name: String,
    pub folder: PathBuf,
    pub json: serde_json::Value,
    pub tensors: BTreeMap<String, GoldenTensor>,
}

impl GoldenCase {
    pub fn tensor(&self, name: &str) -> &GoldenTensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.name))
    }

    pub fn size(&self, key: &str) -> usize {
        let number = self.json[key].as_u64().unwrap_or_else(|| panic!("{}: no number {key}", self.name));
        usize::try_from(number).expect("a size")
    }
}

/// Cases whose name starts with `prefix`: those kept beside the tests, then those of the golden folder.
///
/// The golden folder is `HIEND_GOLDEN_DIR`, or `../shared/golden` beside the repository. When there is none, or it
/// has no such case, that is said; under `CI=true` it is a failure, so that a green run never means a skipped one.
pub fn golden_cases(prefix: &str) -> Vec<GoldenCase> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let outside =
        std::env::var_os("HIEND_GOLDEN_DIR").map_or_else(|| manifest.join("../../shared/golden"), PathBuf::from);
    let mut cases = cases_in(&manifest.join("../tests/golden"), prefix);
    let from_outside = cases_in(&outside, prefix);
    if from_outside.is_empty() {
        println!("golden {prefix}*: NO CASES in {}", outside.display());
        assert!(std::env::var("CI").as_deref() != Ok("true"), "golden cases {prefix}* are required under CI");
    }
    cases.extend(from_outside);
    cases
}

fn cases_in(folder: &Path, prefix: &str) -> Vec<GoldenCase> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder entry").path()).collect();
    files.sort();
    let matching = files.into_iter().filter(|file| {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        stem.starts_with(prefix) && file.extension().is_some_and(|ext| ext == "safetensors")
    });
    matching.map(|file| load(folder, &file)).collect()
}

fn load(folder: &Path, file: &Path) -> GoldenCase {
    let bytes = std::fs::read(file).expect("a readable case");
    let parsed = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let tensors = parsed
        .iter()
        .map(|(name, view)| {
            let values = match view.dtype() {
                Dtype::F32 => {
                    view.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
                }
                Dtype::F64 => view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
                other => panic!("{name}: {other:?}"),
            };
            (name.to_owned(), GoldenTensor { shape: view.shape().to_vec(), values })
        })
        .collect();
    let json = std::fs::read_to_string(file.with_extension("json")).expect("the case's json");
    GoldenCase {
        name: file.file_stem().and_then(|stem| stem.to_str()).expect("a case name").to_owned(),
        folder: folder.to_owned(),
        json: serde_json::from_str(&json).expect("valid json"),
        tensors,
    }
}

/// Largest difference relative to the largest expected magnitude; prints it and fails above `tolerance`.
pub fn compare(case: &str, what: &str, got: &[f32], want: &[f64], tolerance: f64) -> f64 {
    assert_eq!(got.len(), want.len(), "{case}: {what}: number of values");
    let scale = want.iter().fold(0.0_f64, |top, value| top.max(value.abs())).max(f64::MIN_POSITIVE);
    let worst = got.iter().zip(want).map(|(&got, want)| (f64::from(got) - want).abs()).fold(0.0, f64::max) / scale;
    println!("golden {case}: {what}: largest relative error {worst:.2e} (tolerance {tolerance:.0e})");
    assert!(
        got.iter().all(|value| value.is_finite()) && worst <= tolerance,
        "{case}: {what}: {worst:e} > {tolerance:e}"
    );
    worst
}
