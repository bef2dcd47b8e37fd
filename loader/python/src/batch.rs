//! `Batch`: one batch of crops, whose arrays are views of the loader's buffers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hiend_loader::Images;
use hiend_loader::batch as loader;
use numpy::{PyArray2, PyArray5, PyReadonlyArray5, PyUntypedArrayMethods as _};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::Voxels;
use crate::error::Failure;

/// Batch of crops. Its arrays share its memory, which returns to the loader when the last array is dropped.
#[pyclass(frozen, module = "hiend._hiend")]
pub(crate) struct Batch {
    inner: loader::Batch,
    image: Image,
    label: Option<Voxels<u8>>,
    /// Number of batches of this stream that Python holds.
    alive: Arc<AtomicUsize>,
}

/// Voxels of the images.
#[derive(Clone, Copy)]
enum Image {
    Floats(Voxels<f32>),
    Quantized(Voxels<u16>),
}

impl Batch {
    /// Wraps a batch and counts it in `alive` for as long as it exists.
    ///
    /// # Errors
    /// If the batch holds boxes or chunks, which do not form one array.
    pub(crate) fn new(mut batch: loader::Batch, alive: &Arc<AtomicUsize>) -> Result<Self, Failure> {
        let shape = batch.shape;
        let image = match &mut batch.images {
            Images::Floats(values) => Image::Floats(Voxels::new(values, shape)),
            Images::Quantized(values, _) => Image::Quantized(Voxels::new(values, shape)),
            Images::Boxes(..) | Images::Chunks(..) => {
                return Err(Failure::other("a batch of boxes or chunks has no array of crops (a bug)"));
            }
        };
        let label = batch.labels.as_mut().map(|values| Voxels::new(values, shape));
        alive.fetch_add(1, Ordering::Relaxed);
        Ok(Self { inner: batch, image, label, alive: Arc::clone(alive) })
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

#[pymethods]
impl Batch {
    /// Step of the stream, from 0.
    #[getter]
    fn step(&self) -> u64 {
        self.inner.step
    }

    /// Shape of the arrays, `(n, 1, x, y, z)`.
    #[getter]
    fn shape(&self) -> (usize, usize, usize, usize, usize) {
        self.inner.shape.into()
    }

    /// Images as an array that shares the batch's memory.
    #[getter]
    #[expect(unsafe_code, reason = "the contract of `Voxels::view`")]
    fn image(slf: Bound<'_, Self>) -> Bound<'_, PyAny> {
        let image = slf.get().image;
        // SAFETY: the batch owns its buffers, whose memory stays in place until the batch is dropped. It reads them in
        // `digest`, whose documentation says when that is allowed.
        unsafe {
            match image {
                Image::Floats(voxels) => voxels.view(slf.into_any()).into_any(),
                Image::Quantized(voxels) => voxels.view(slf.into_any()).into_any(),
            }
        }
    }

    /// Labels as an array that shares the batch's memory; `None` if the stream carries none.
    #[getter]
    #[expect(unsafe_code, reason = "the contract of `Voxels::view`")]
    fn label(slf: Bound<'_, Self>) -> Option<Bound<'_, PyArray5<u8>>> {
        let label = slf.get().label?;
        // SAFETY: as for `image`.
        Some(unsafe { label.view(slf.into_any()) })
    }

    /// Conversion of each crop's quantized values to floats, an array of `n` rows `(gain, bias, low, high,
    /// factor, shift)`;
    /// `None` for a batch of floats.
    #[getter]
    fn dequantize<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyArray2<f32>>>> {
        let Images::Quantized(_, crops) = &self.inner.images else { return Ok(None) };
        let row = |crop: &loader::Dequantize| crop.row().to_vec();
        let rows: Vec<Vec<f32>> = crops.iter().map(row).collect();
        if rows.is_empty() {
            return Ok(Some(PyArray2::zeros(py, [0, 6], false)));
        }
        Ok(Some(PyArray2::from_vec2(py, &rows)?))
    }

    /// Origin and augmentation of each crop.
    #[getter]
    fn crops(&self) -> Vec<CropRecord> {
        self.inner.crops.iter().map(|record| CropRecord { record: record.clone() }).collect()
    }

    /// Seconds spent on the stages of this batch, by name.
    #[getter]
    fn times<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let times = &self.inner.times;
        let dict = PyDict::new(py);
        for (name, secs) in [
            ("read_secs", times.read_secs),
            ("decode_secs", times.decode_secs),
            ("augment_secs", times.augment_secs),
            ("elapsed_secs", times.elapsed_secs),
            ("buffer_wait_secs", times.buffer_wait_secs),
            ("wait_secs", times.wait_secs),
        ] {
            dict.set_item(name, secs)?;
        }
        Ok(dict)
    }

    /// BLAKE3 hash of the finished voxels and labels, 16 hex digits. No other thread may write to the arrays meanwhile.
    fn digest(&self, py: Python<'_>) -> String {
        py.detach(|| self.inner.digest())
    }
}

/// Digest of finished crops and their labels, in the same way as [`Batch::digest`].
#[pyfunction]
pub(crate) fn digest(image: PyReadonlyArray5<'_, f32>, label: Option<PyReadonlyArray5<'_, u8>>) -> PyResult<String> {
    let shape = image.shape().try_into().expect("five dimensions, by its type");
    let batch = loader::Batch {
        step: 0,
        shape,
        images: Images::Floats(loader::PooledBuffer::unpooled(image.as_slice()?.to_vec())),
        labels: label
            .map(|label| Ok::<_, PyErr>(loader::PooledBuffer::unpooled(label.as_slice()?.to_vec())))
            .transpose()?,
        crops: Vec::new(),
        times: loader::BatchTimes::default(),
    };
    Ok(batch.digest())
}

/// Origin and augmentation of one crop.
#[derive(PartialEq, Eq, Hash)]
#[pyclass(frozen, eq, hash, module = "hiend._hiend")]
pub(crate) struct CropRecord {
    record: loader::CropRecord,
}

#[pymethods]
impl CropRecord {
    /// Restores a record from the JSON that `pickle` keeps of it.
    #[new]
    fn new(json: &str) -> PyResult<Self> {
        let record = serde_json::from_str(json).map_err(|err| Failure::config(format!("CropRecord: {err}")))?;
        Ok(Self { record })
    }

    /// Arguments with which `pickle` calls the constructor.
    fn __getnewargs__(&self) -> PyResult<(String,)> {
        let json = serde_json::to_string(&self.record).map_err(|err| Failure::other(err.to_string()))?;
        Ok((json,))
    }

    /// `DATASET/CASE`.
    #[getter]
    fn case(&self) -> &str {
        &self.record.case
    }

    /// Epoch of the visit, from 0.
    #[getter]
    fn epoch(&self) -> u64 {
        self.record.epoch
    }

    /// Number of the crop within its visit, from 0.
    #[getter]
    fn crop(&self) -> u32 {
        self.record.crop
    }

    /// First voxel of the crop's box in the stored volume; negative where a small volume is padded.
    #[getter]
    fn origin(&self) -> (i64, i64, i64) {
        let [x, y, z] = self.record.origin;
        (x, y, z)
    }

    /// Transforms applied, in order, with their parameters.
    #[getter]
    fn augmentation(&self) -> Vec<String> {
        self.record.augmentation.clone()
    }

    fn __repr__(&self) -> String {
        let loader::CropRecord { case, epoch, crop, origin: [x, y, z], augmentation, .. } = &self.record;
        format!(
            "CropRecord(case={case:?}, epoch={epoch}, crop={crop}, origin=({x}, {y}, {z}), \
             augmentation={augmentation:?})"
        )
    }
}
