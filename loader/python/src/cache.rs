//! `Cache`: the cases of a cache, their records and voxels.

use std::path::PathBuf;

use hiend_cache::{Access, VolumeReader};
use hiend_loader::nearest::nearest_case;
use hiend_loader::stop::Stop;
use numpy::ndarray::Array3;
use numpy::{IntoPyArray as _, PyArray2, PyArray3};
use pyo3::prelude::*;

use crate::error::Failure;
use crate::wait::wait;

/// Cases of a cache.
#[pyclass(frozen, module = "hiend._hiend")]
pub(crate) struct Cache {
    cache: hiend_cache::Cache,
}

/// Image in HU or z-scores, label map and `world_from_voxel` of a case.
type Volume<'py> = (Bound<'py, PyArray3<f32>>, Option<Bound<'py, PyArray3<u8>>>, Bound<'py, PyArray2<f64>>);

#[pymethods]
impl Cache {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let cache = wait(py, &Stop::new(), || Ok(hiend_cache::Cache::open_with(&path, Access::Mmap)?))?;
        Ok(Self { cache })
    }

    /// Path or URL of the cache, as a string, because Python's paths merge the two slashes of a URL.
    #[getter]
    fn path(&self) -> &std::ffi::OsStr {
        self.cache.dir().as_os_str()
    }

    /// Names of the cases, `DATASET/CASE`, sorted.
    #[getter]
    fn cases(&self) -> Vec<&str> {
        self.cache.cases().iter().map(hiend_cache::Case::key).collect()
    }

    /// Digest of the content, 32 hex digits.
    #[getter]
    fn digest(&self) -> String {
        self.cache.digest()
    }

    /// Manifest as JSON.
    fn manifest_json(&self) -> PyResult<String> {
        json(self.cache.manifest())
    }

    /// Record of a case as JSON.
    fn record_json(&self, case: &str) -> PyResult<String> {
        json(self.case(case)?.record())
    }

    /// Reads a case: its image in HU or z-scores, its label map, and `world_from_voxel`.
    fn read<'py>(&self, py: Python<'py>, case: &str) -> PyResult<Volume<'py>> {
        let case = self.case(case)?;
        let record = case.record();
        let read = || -> Result<_, Failure> {
            let volume = case.read_whole(&mut VolumeReader::new())?;
            let (scale, offset) = (record.image.scale, record.image.offset);
            #[expect(clippy::cast_possible_truncation, reason = "meaning of 16-bit values as f32")]
            let image: Vec<f32> =
                volume.image.iter().map(|&value| (offset + scale * f64::from(value)) as f32).collect();
            Ok((volume.shape, image, volume.label))
        };
        let (shape, image, label) = wait(py, &Stop::new(), read)?;
        let affine: Vec<Vec<f64>> = record.geometry.affine.iter().map(|row| row.to_vec()).collect();
        Ok((
            array(shape, image)?.into_pyarray(py),
            label.map(|label| array(shape, label)).transpose()?.map(|label| label.into_pyarray(py)),
            PyArray2::from_vec2(py, &affine)?,
        ))
    }
}

impl Cache {
    /// Finds a case by its name: `DATASET/CASE`, or `CASE` where that is unique.
    fn case(&self, name: &str) -> Result<&hiend_cache::Case, Failure> {
        if let Some(case) = self.cache.case(name) {
            return Ok(case);
        }
        let mut found = self.cache.cases().iter().filter(|case| case.record().case_id == name);
        let dir = self.cache.dir().display();
        match (found.next(), found.next()) {
            (Some(case), None) => Ok(case),
            (Some(first), Some(second)) => {
                let (first, second) = (first.key(), second.key());
                Err(Failure::config(format!("{dir}: {name:?} is ambiguous; expected {first} or {second}")))
            }
            (None, _) => {
                let nearest = nearest_case(name, self.cache.cases().iter().map(hiend_cache::Case::key));
                let hint = nearest.map_or_else(
                    || "expected DATASET/CASE or CASE, as in Cache.cases".to_owned(),
                    |key| format!("did you mean {key:?}?"),
                );
                Err(Failure::config(format!("{dir}: no case is named {name:?}; {hint}")))
            }
        }
    }
}

fn json(value: &impl serde::Serialize) -> PyResult<String> {
    Ok(serde_json::to_string(value).map_err(|err| Failure::other(err.to_string()))?)
}

fn array<T>(shape: [usize; 3], values: Vec<T>) -> Result<Array3<T>, Failure> {
    Array3::from_shape_vec(shape, values).map_err(|err| Failure::other(err.to_string()))
}
