//! Reads golden cases, and measures the differences from them.
//!
//! Every comparison prints one line, `golden CASE: QUANTITY ERROR (tolerance T)`; with `--nocapture`, these lines are the
//! table of the largest errors.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

/// One tensor of a case, as f64 so that reading it is exact.
#[derive(Clone)]
pub(crate) struct Golden {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Golden {
    pub(crate) fn f32(&self) -> Vec<f32> {
        self.values.iter().map(|&v| v as f32).collect()
    }

    pub(crate) fn data(&self) -> TensorData {
        TensorData::new(self.f32(), self.shape.clone())
    }
}

/// A golden case: its settings and its tensors.
pub(crate) struct Case {
    pub name: String,
    pub folder: PathBuf,
    pub settings: serde_json::Value,
    pub tensors: BTreeMap<String, Golden>,
}

impl Case {
    fn read(json: &Path) -> Self {
        let settings = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
        let bytes = fs::read(json.with_extension("safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file
            .iter()
            .map(|(name, view)| {
                let values = match view.dtype() {
                    Dtype::F32 => view
                        .data()
                        .chunks_exact(4)
                        .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                        .collect(),
                    Dtype::F64 => {
                        view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
                    }
                    other => panic!("{name}: {other:?} is not expected in a golden case"),
                };
                (name.to_owned(), Golden { shape: view.shape().to_vec(), values })
            })
            .collect();
        let name = json.file_stem().unwrap().to_string_lossy().into_owned();
        Self { name, folder: json.parent().unwrap().to_owned(), settings, tensors }
    }

    pub(crate) fn tensor(&self, name: &str) -> &Golden {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.name))
    }

    pub(crate) fn int(&self, key: &str) -> usize {
        self.settings[key].as_u64().unwrap_or_else(|| panic!("{}: no number {key}", self.name)) as usize
    }
}

/// Cases whose names start with `prefix`: those in the project and those in the golden folder.
///
/// # Panics
/// If there is none, since a test without a case compares nothing.
pub(crate) fn cases(prefix: &str) -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("../tests/golden")];
    if let Some(folder) = golden_dir(root) {
        folders.push(folder);
    } else {
        println!("golden: HIEND_GOLDEN_DIR is not set and there is no shared/golden: the project's own cases only");
    }
    let mut cases = BTreeMap::new();
    for folder in folders {
        for json in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = json.file_name().unwrap().to_string_lossy().into_owned();
            if !name.starts_with(prefix) || json.extension().is_none_or(|e| e != "json") {
                continue;
            }
            if json.with_extension("safetensors").exists() {
                cases.insert(name, Case::read(&json));
            } else {
                println!("golden: {name} comes without tensors to compare with");
            }
        }
    }
    assert!(!cases.is_empty(), "there is no golden case {prefix}*, so nothing would be compared");
    cases.into_values().collect()
}

fn golden_dir(root: &Path) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("HIEND_GOLDEN_DIR") {
        let folder = PathBuf::from(folder);
        assert!(folder.is_dir(), "HIEND_GOLDEN_DIR names no folder: {}", folder.display());
        return Some(folder);
    }
    Some(root.join("../../shared/golden")).filter(|folder| folder.is_dir())
}

/// Largest difference, relative to the largest expected magnitude.
pub(crate) fn relative_error<T: Copy + Into<f64>>(actual: &[T], expected: &Golden) -> f64 {
    assert_eq!(actual.len(), expected.values.len());
    let scale = expected.values.iter().fold(0f64, |m, v| m.max(v.abs()));
    let difference = actual.iter().zip(&expected.values).fold(0f64, |m, (&a, &e)| {
        let d = (a.into() - e).abs();
        if d.is_nan() { f64::INFINITY } else { m.max(d) }
    });
    if difference == 0.0 { 0.0 } else { difference / scale.max(f64::MIN_POSITIVE) }
}

/// Comparisons of a test: each is printed and failures are collected, so that one failure does not hide the others.
#[derive(Default)]
pub(crate) struct Comparisons {
    failures: Vec<String>,
}

impl Comparisons {
    /// Adds one error of a case.
    pub(crate) fn check(&mut self, case: &Case, what: &str, error: f64, tolerance: f64) {
        let line = format!("golden {}: {what:<40} {error:.1e} (tolerance {tolerance:.0e})", case.name);
        println!("{line}");
        if error.is_nan() || error > tolerance {
            self.failures.push(line);
        }
    }

    /// Adds the worst of several errors, each with its name, and prints that name.
    pub(crate) fn check_worst(&mut self, case: &Case, what: &str, errors: &[(String, f64)], tolerance: f64) {
        let worst = errors.iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("something to compare");
        self.check(case, &format!("worst of {} {what}, {}", errors.len(), worst.0), worst.1, tolerance);
    }

    /// Panics if any error was above its tolerance.
    pub(crate) fn finish(self) {
        assert!(self.failures.is_empty(), "{:#?}", self.failures);
    }
}

/// Gradients of a model's parameters by path, in the reference's layout: linear weights, the only matrices, are `[out,
/// in]` in the reference and `[in, out]` in the model. Parameters without a gradient are absent.
pub(crate) fn gradients_by_path<M: Module>(model: &M, grads: &GradientsParams) -> BTreeMap<String, Vec<f64>> {
    let mut gradients = Gradients { grads, path: vec![], found: BTreeMap::new() };
    model.visit(&mut gradients);
    gradients.found
}

struct Gradients<'a> {
    grads: &'a GradientsParams,
    path: Vec<String>,
    found: BTreeMap<String, Vec<f64>>,
}

impl ModuleVisitor for Gradients<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(grad) = self.grads.get::<D>(param.id) else { return };
        let grad = if D == 2 { grad.swap_dims(0, 1) } else { grad };
        self.found.insert(self.path.join("."), grad.into_data().iter::<f64>().collect());
    }
}

/// Euclidean norm.
pub(crate) fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Extracts the numbers from `text`, which must match `pattern` with a number in place of each `#`.
///
/// # Panics
/// If it is not: a case that is computed by another formula must not be compared with this one.
pub(crate) fn numbers_in(text: &str, pattern: &str) -> Vec<usize> {
    let mut numbers = vec![];
    let mut rest = text;
    for (position, part) in pattern.split('#').enumerate() {
        if position > 0 {
            let len = rest.bytes().take_while(u8::is_ascii_digit).count();
            numbers.push(rest[..len].parse().unwrap_or_else(|_| panic!("{text} is not of the form {pattern}")));
            rest = &rest[len..];
        }
        rest = rest.strip_prefix(part).unwrap_or_else(|| panic!("{text} is not of the form {pattern}"));
    }
    assert!(rest.is_empty(), "{text} is not of the form {pattern}");
    numbers
}
