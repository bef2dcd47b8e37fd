//! Python module `hiend`.

use pyo3::prelude::*;

/// Module `hiend._hiend`.
#[pymodule]
mod _hiend {}
