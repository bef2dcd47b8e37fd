//! Choices of NVIDIA's libraries that a resumed run recorded: it computes by them again, or ends with one line.

use std::path::Path;

use super::error::io_error;
use super::{TrainOptions, TrainingError};
use crate::device::Compute;
use crate::vendor::cudnn::record as plans;
use crate::vendor::{algorithms, recorded};

/// A file of choices in a run's folder.
#[derive(Clone, Copy)]
enum Record {
    /// Algorithms of products.
    Products,
    /// Engines of convolutions and attentions.
    Plans,
}

impl Record {
    fn file(self) -> &'static str {
        match self {
            Self::Products => algorithms::FILE,
            Self::Plans => plans::FILE,
        }
    }

    /// Number of choices in a run's folder.
    fn count(self, run_dir: &Path) -> std::io::Result<usize> {
        match self {
            Self::Products => algorithms::count(run_dir),
            Self::Plans => plans::count(run_dir),
        }
    }

    /// Reason why the library does not compute on `compute`; `None` if it does.
    fn obstacle(self, compute: &Compute) -> Option<String> {
        if !compute.is_cuda() {
            return Some(format!("the run continues on {compute}"));
        }
        #[cfg(feature = "cuda")]
        {
            match self {
                Self::Products => crate::vendor::cublaslt::library().err().map(ToString::to_string),
                Self::Plans => crate::vendor::cudnn::library().err().map(ToString::to_string),
            }
        }
        #[cfg(not(feature = "cuda"))]
        {
            let _ = self;
            None
        }
    }
}

/// Reads the choices of a run before its first product. Returns warnings about those that cannot be used.
///
/// # Errors
/// If a record cannot be read, or was made by a library that is not used now and `options` do not allow other rounding.
pub(super) fn restore(options: &TrainOptions, compute: &Compute) -> Result<Vec<String>, TrainingError> {
    let mut warnings = vec![];
    for record in [Record::Products, Record::Plans] {
        let path = options.run_dir.join(record.file());
        let choices = record.count(&options.run_dir).map_err(io_error(&path))?;
        let Some(reason) = record.obstacle(compute).filter(|_| choices > 0) else { continue };
        let error = TrainingError::OtherKernels { path, choices, reason };
        if !options.other_rounding {
            return Err(error);
        }
        warnings.push(error.to_string());
    }
    recorded::allow_other_rounding(options.other_rounding);
    algorithms::restore(&options.run_dir).map_err(io_error(&options.run_dir.join(algorithms::FILE)))?;
    plans::restore(&options.run_dir).map_err(io_error(&options.run_dir.join(plans::FILE)))?;
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLANS: &str = r#"[{"owner": {"library": "cudnn 1", "device": "a test's"}, "problem": "of this test",
        "choice": {"engine": 2, "knobs": []}}]"#;

    #[test]
    fn a_run_does_not_continue_without_the_library_that_computed_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(plans::FILE);
        let options = TrainOptions::new(folder.path());
        let restored = |options: &TrainOptions| restore(options, &Compute::cpu()).map_err(|error| error.to_string());
        assert_eq!(restored(&options), Ok(vec![]));
        std::fs::write(&file, "[]").unwrap();
        assert_eq!(restored(&options), Ok(vec![]));
        std::fs::write(&file, PLANS).unwrap();
        let expected = format!(
            "{}: 1 choice that cannot be used again (the run continues on cpu), so that results round differently; {}",
            file.display(),
            recorded::REMEDY
        );
        assert_eq!(restored(&options), Err(expected));
    }

    #[test]
    fn a_damaged_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(algorithms::FILE);
        std::fs::write(&file, "[{}]").unwrap();
        let error = restore(&TrainOptions::new(folder.path()), &Compute::cpu()).unwrap_err().to_string();
        assert_eq!(error, file.display().to_string());
    }
}
