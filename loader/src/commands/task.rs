//! Task of a conversion, built from its flags: the cases found in the data, parameters and resources.

use std::path::{Path, PathBuf};

use super::table::count;
use crate::budget::cores;
use crate::case::shown;
use crate::cli::PreprocessArgs;
use crate::convert::ConvertOptions;
use crate::dataset::{Dataset, Exclude, Listing, Unmatched, UnusedFile, Weight, root_of, survey_of};
use crate::preprocess::PreprocessConfig;
use crate::preprocess::normalize::Normalize;
use crate::program::{UsageError, note};

/// Cases to convert, with parameters and resources.
pub(super) struct Task {
    /// Folder of the data, an absolute path.
    pub root: PathBuf,
    /// Datasets without the excluded cases.
    pub datasets: Vec<Dataset>,
    /// Number of excluded cases.
    pub excluded: usize,
    /// Files outside the datasets.
    unused: Vec<UnusedFile>,
    /// Lists all files that belong to no case.
    pub list_skipped: bool,
    /// Preprocessing parameters.
    pub config: PreprocessConfig,
    /// Resources and codec.
    pub options: ConvertOptions,
}

impl Task {
    /// Finds the cases in `data` that are not excluded.
    ///
    /// # Errors
    /// If a flag is out of range, the folder cannot be listed, or every case is excluded.
    pub(super) fn find(data: &Path, args: &PreprocessArgs) -> anyhow::Result<Self> {
        let normalize = Normalize::from(args.normalize);
        let config = PreprocessConfig {
            spacing: args.spacing.mm(),
            window: args.window.unwrap_or(normalize.default_window()),
            store: args.store.into(),
            normalize,
        };
        // The text of the error begins with the name of the option.
        config.validate().map_err(|err| UsageError::new(format!("--{err}")))?;
        let options = ConvertOptions {
            jobs: args.jobs.map_or_else(cores, usize::from),
            memory_bytes: args.memory.as_u64(),
            codec: args.codec.into(),
            on_suspect: args.on_suspect.into(),
            ..ConvertOptions::default()
        };
        let Listing { mut datasets, unused } = survey_of(data, normalize.into())?;
        let (excluded, unmatched) = Exclude::new(&args.exclude).apply(&mut datasets);
        refuse_unmatched("--exclude", &unmatched, data)?;
        note(format_args!("{}: {}", shown(data), summary(&datasets, excluded)));
        if num_cases(&datasets) == 0 {
            anyhow::bail!("{}: every case is excluded", shown(data));
        }
        for (dataset, remark) in
            datasets.iter().flat_map(|dataset| dataset.notes.iter().map(move |note| (dataset, note)))
        {
            tracing::warn!("{}: {remark}", dataset.name);
        }
        let root = root_of(data);
        let list_skipped = args.list_skipped;
        Ok(Self { root, datasets, excluded, unused, list_skipped, config, options })
    }

    /// Files that belong to no case.
    pub(super) fn all_unused(&self) -> impl Iterator<Item = &UnusedFile> {
        self.unused.iter().chain(self.datasets.iter().flat_map(|dataset| &dataset.unused))
    }

    /// Number of unused files with the given weight.
    pub(super) fn num_unused(&self, weight: Weight) -> usize {
        self.all_unused().filter(|unused| unused.reason.weight() == weight).count()
    }
}

/// Rejects patterns that match nothing: a misspelt name would otherwise change the selection silently.
pub(super) fn refuse_unmatched(flag: &str, unmatched: &[Unmatched], data: &Path) -> Result<(), UsageError> {
    if unmatched.is_empty() {
        return Ok(());
    }
    let patterns: Vec<&str> = unmatched.iter().map(|unmatched| unmatched.pattern.as_str()).collect();
    let nearest: Vec<&str> = unmatched.iter().filter_map(|unmatched| unmatched.nearest.as_deref()).collect();
    let hint = if nearest.is_empty() { String::new() } else { format!("; did you mean {}?", nearest.join(", ")) };
    let (patterns, data) = (patterns.join(", "), shown(data));
    Err(UsageError::new(format!("{flag} {patterns}: no dataset and no case of this name in {data}{hint}")))
}

/// Number of cases in datasets, skipped ones included.
pub(super) fn num_cases(datasets: &[Dataset]) -> usize {
    datasets.iter().map(Dataset::num_listed).sum()
}

/// Describes datasets and the number of their cases in one line.
pub(super) fn summary(datasets: &[Dataset], excluded: usize) -> String {
    let one = |dataset: &Dataset| {
        let labelled = dataset.cases.iter().filter(|case| case.label.is_some()).count();
        let cases = count(num_cases(std::slice::from_ref(dataset)), "case");
        format!("{} ({cases}, {labelled} with labels)", dataset.name)
    };
    let filled: Vec<&Dataset> = datasets.iter().filter(|dataset| dataset.num_listed() > 0).collect();
    let text = match filled.as_slice() {
        [] => "no cases".to_owned(),
        few if few.len() <= 6 => few.iter().copied().map(one).collect::<Vec<_>>().join(", "),
        many => format!("{} datasets, {}", many.len(), count(num_cases(datasets), "case")),
    };
    if excluded > 0 { format!("{text}; {} excluded", count(excluded, "case")) } else { text }
}
