//! Native part of the Python package `hiend`: crops of CT volumes for PyTorch.
//!
//! ```text
//!   Loader   caches, read by threads in this process, or servers, and a stream's configuration
//!   Stream   batches in the order of their steps; waits without the GIL
//!   Batch    one batch; its arrays are views of the loader's buffers
//!   Cache    cases of a cache and their voxels
//!   shard    conversion of scans to shards
//! ```
//! The package's Python files (`python/hiend`) add defaults, PyTorch's classes and documentation. This part knows
//! neither PyTorch nor defaults.

#![allow(clippy::needless_pass_by_value, reason = "PyO3 extracts arguments to values")]

mod arrays;
mod batch;
mod cache;
mod conversion;
mod error;
mod loader;
mod log;
mod names;
mod stream;
mod wait;

use pyo3::prelude::*;

/// Native part of the package `hiend`.
#[pymodule]
mod _hiend {
    #[pymodule_export]
    use crate::batch::{Batch, CropRecord, digest};
    #[pymodule_export]
    use crate::cache::Cache;
    #[pymodule_export]
    use crate::conversion::{convert, write_phantoms};
    #[pymodule_export]
    use crate::loader::{Loader, parse_bytes};
    #[pymodule_export]
    use crate::stream::Stream;

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::log::start();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
