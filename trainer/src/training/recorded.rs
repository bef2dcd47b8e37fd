//! Choices of NVIDIA's libraries that a run recorded: when it is resumed, it computes by them again or ends with an error. A
//! run without a record warns that it continues in another way.

use std::path::Path;

use hiend_loader::plural::count;

use super::error::io_error;
use super::run_dir::JOURNAL;
use super::{Task, TrainOptions, TrainingError};
use crate::checkpoint::Kind;
use crate::config::{Convolutions, RunConfig as _};
use crate::device::Compute;
use crate::journal::{self, Entry};
use crate::ops::attention::Computation;
use crate::vendor::algorithms::Algorithms;
use crate::vendor::choices::Owner;
use crate::vendor::cudnn::record::Engines;
use crate::vendor::recorded;

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
            Self::Products => Algorithms::FILE,
            Self::Plans => Engines::FILE,
        }
    }

    /// Name of the library that makes the choices.
    fn library(self) -> &'static str {
        match self {
            Self::Products => "cuBLASLt",
            Self::Plans => "cuDNN",
        }
    }

    /// Libraries and devices of the choices in a run's folder, one per choice.
    fn owners(self, run_dir: &Path) -> std::io::Result<Vec<Owner>> {
        match self {
            Self::Products => Algorithms::owners(run_dir),
            Self::Plans => Engines::owners(run_dir),
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

/// Reads the choices of a run before its first product. Returns warnings about those that cannot be used, and about steps
/// that were computed in another way.
///
/// # Errors
/// If a record cannot be read, or was made by a library that is not used now and `options` do not allow other rounding.
pub(super) fn restore<T: Task>(
    task: &T,
    options: &TrainOptions,
    compute: &Compute,
) -> Result<Vec<String>, TrainingError> {
    let train = task.config().train();
    let convolves = T::KIND == Kind::Finetune && train.convolutions == Convolutions::Cudnn;
    let uses_cudnn = convolves || train.attention == Computation::Cudnn;
    let warnings = judge(options, compute, uses_cudnn, |record| record.obstacle(compute))?;
    recorded::allow_other_rounding(options.other_rounding);
    Algorithms::restore(&options.run_dir).map_err(io_error(&options.run_dir.join(Algorithms::FILE), "read"))?;
    Engines::restore(&options.run_dir).map_err(io_error(&options.run_dir.join(Engines::FILE), "read"))?;
    Ok(warnings)
}

/// Compares how a run was computed with how it continues: with the libraries for which `obstacle` returns nothing.
fn judge(
    options: &TrainOptions,
    compute: &Compute,
    uses_cudnn: bool,
    obstacle: impl Fn(Record) -> Option<String>,
) -> Result<Vec<String>, TrainingError> {
    let (mut warnings, mut unrecorded) = (vec![], vec![]);
    for record in [Record::Products, Record::Plans] {
        let path = options.run_dir.join(record.file());
        let mut owners = record.owners(&options.run_dir).map_err(io_error(&path, "read"))?;
        let num_choices = owners.len();
        owners.dedup();
        match (obstacle(record), num_choices) {
            (Some(reason), 1..) => {
                let of = owners.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
                let lost = format!(
                    "{}: {} of {of} that cannot be used again ({reason}), so that results round differently",
                    path.display(),
                    count(num_choices, "choice")
                );
                if !options.other_rounding {
                    return Err(TrainingError::OtherKernels { lost });
                }
                warnings.push(lost);
            }
            (None, 0) if uses_cudnn || matches!(record, Record::Products) => unrecorded.push(format!(
                "{}: no choice of {} (the steps so far were computed without it, or the file is lost), so that results may \
                 round differently from here on",
                path.display(),
                record.library()
            )),
            _ => {}
        }
    }
    if warnings.is_empty() {
        warnings = other_device(&options.run_dir, compute).map_or(unrecorded, |warning| vec![warning]);
    }
    Ok(warnings)
}

/// Warning about a run whose last session computed on another kind of device.
fn other_device(run_dir: &Path, compute: &Compute) -> Option<String> {
    let path = run_dir.join(JOURNAL);
    let started = |entry| match entry {
        Entry::Started { device, .. } => Some(device),
        _ => None,
    };
    // A line that cannot be read is reported with the curves.
    let before = journal::read(&path).ok()?.map_while(Result::ok).filter_map(started).last()?;
    (kind_of(&before) != kind_of(&compute.to_string())).then(|| {
        format!(
            "{}: computed on {before}, continues on {compute}: results round differently from here on",
            path.display()
        )
    })
}

/// Kind of the devices with these names.
fn kind_of(devices: &str) -> &'static str {
    ["cuda", "vulkan"].into_iter().find(|kind| devices.contains(kind)).unwrap_or("cpu")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;

    const PLANS: &str = r#"[{"owner": {"library": "cudnn 1", "device": "a test's"}, "problem": "of this test",
        "choice": {"engine": 2, "knobs": []}}]"#;

    fn judged(options: &TrainOptions, obstacle: Option<&str>) -> Result<Vec<String>, String> {
        let judged = judge(options, &Compute::cpu(), false, |_| obstacle.map(str::to_owned));
        judged.map_err(|error| error.to_string())
    }

    #[test]
    fn a_run_does_not_continue_without_the_library_that_computed_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(Engines::FILE);
        let mut options = TrainOptions::new(folder.path());
        let missing = Some("it is missing");
        assert_eq!(judged(&options, missing), Ok(vec![]));
        std::fs::write(&file, "[]").unwrap();
        assert_eq!(judged(&options, missing), Ok(vec![]));
        std::fs::write(&file, PLANS).unwrap();
        let lost = format!(
            "{}: 1 choice of cudnn 1 on a test's that cannot be used again (it is missing), so that results round differently",
            file.display()
        );
        assert_eq!(judged(&options, missing), Err(format!("{lost}; {}", recorded::REMEDY)));
        options.other_rounding = true;
        assert_eq!(judged(&options, missing), Ok(vec![lost]));
    }

    #[test]
    fn a_cpu_is_a_reason_not_to_use_a_record() {
        let reason = Some("the run continues on cpu".to_owned());
        assert_eq!(
            [Record::Products, Record::Plans].map(|record| record.obstacle(&Compute::cpu())),
            [reason.clone(), reason]
        );
    }

    #[test]
    fn a_library_that_did_not_compute_the_run_before_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let options = TrainOptions::new(folder.path());
        let [products]: [String; 1] = judged(&options, None).unwrap().try_into().unwrap();
        assert!(products.contains("products.json: no choice of cuBLASLt"), "{products}");
        let both = judge(&options, &Compute::cpu(), true, |_| None).unwrap();
        assert!(both.len() == 2 && both[1].contains("plans.json: no choice of cuDNN"), "{both:?}");
        std::fs::write(folder.path().join(Engines::FILE), PLANS).unwrap();
        assert_eq!(judge(&options, &Compute::cpu(), true, |_| None).unwrap(), [products]);
    }

    #[test]
    fn a_run_that_continues_on_another_kind_of_device_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let options = TrainOptions::new(folder.path());
        let path = folder.path().join(JOURNAL);
        let after = |device: &str| {
            let mut journal = Journal::open(&path, false).unwrap();
            journal.write(&Entry::Started { step: 0, device: "cuda:7".to_owned() }).unwrap();
            journal.write(&Entry::Started { step: 1, device: device.to_owned() }).unwrap();
            judged(&options, Some("it is missing")).unwrap()
        };
        assert_eq!(after("cpu in 2 ranks"), Vec::<String>::new());
        let expected =
            "journal.jsonl: computed on cuda:0 + cuda:1, continues on cpu: results round differently from here on";
        let [warning]: [String; 1] = after("cuda:0 + cuda:1").try_into().unwrap();
        assert!(warning.ends_with(expected), "{warning}");
    }

    #[test]
    fn a_damaged_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(Algorithms::FILE);
        std::fs::write(&file, "[{}]").unwrap();
        assert_eq!(judged(&TrainOptions::new(folder.path()), None), Err(format!("{}: cannot read", file.display())));
    }
}
