//! `hiend-train track RUN --mlflow URL`.

use std::path::Path;
use std::process::ExitCode;

use hiend_cache::{FileError, regular};
use hiend_loader::program::count;

use super::tracking::default_experiment;
use crate::checkpoint::{self, Kind};
use crate::cli::TrackArgs;
use crate::config::RunConfig as _;
use crate::config::finetune::FinetuneConfig;
use crate::config::pretrain::PretrainConfig;
use crate::journal;
use crate::report::mlflow::{Client, Credentials, Description, Link, Sender, Status};
use crate::training::{CHECKPOINTS, CONFIG, JOURNAL};

pub(super) fn run(args: &TrackArgs) -> anyhow::Result<ExitCode> {
    let run_dir = &args.run_dir;
    // Before anything is created on the server.
    journal::read(&run_dir.join(JOURNAL))?;
    let client = Client::new(&args.mlflow, Credentials::of_environment()?)?;
    let experiment = match (&args.mlflow_experiment, Link::read(run_dir)?) {
        (Some(name), _) => name.clone(),
        (None, Some(link)) => link.experiment,
        (None, None) => default_experiment(kind_of(run_dir)?).to_owned(),
    };
    let description = Description {
        experiment,
        is_named: args.mlflow_experiment.is_some(),
        stream_digest: stream_digest(run_dir),
        ..Description::default()
    };
    let mut sender = Sender::open(client, run_dir, description)?;
    sender.catch_up()?;
    let (sent, page) = (count(sender.num_steps(), "step"), sender.page().unwrap_or_default());
    let status = sender.status();
    if status == Status::Running {
        let reason = "the journal has no end: the run is in progress, or was ended from outside";
        super::print(format_args!("{sent} sent to {page}; {reason}"))?;
    } else {
        sender.finish(status)?;
        super::print(format_args!("{sent} sent to {page}; {}", status.name()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Kind of a run by its configuration: only fine-tuning has classes, validation or a `feature_size` of the model.
///
/// # Errors
/// If the file cannot be read, or is not a configuration of its kind.
fn kind_of(run_dir: &Path) -> anyhow::Result<Kind> {
    let path = run_dir.join(CONFIG);
    let text = regular::read_to_string(&path).map_err(FileError::at(&path, "read"))?;
    let origin = path.display().to_string();
    let is_finetuning = |table: toml::Table| {
        let has_feature_size = || table.get("model").is_some_and(|model| model.get("feature_size").is_some());
        ["classes", "validation"].iter().any(|key| table.contains_key(*key)) || has_feature_size()
    };
    if text.parse::<toml::Table>().is_ok_and(is_finetuning) {
        FinetuneConfig::parse(&text, &origin)?;
        Ok(Kind::Finetune)
    } else {
        PretrainConfig::parse(&text, &origin)?;
        Ok(Kind::Pretrain)
    }
}

/// Digest of the run's stream, read from its checkpoints; `None` if they are damaged, which `verify` reports.
fn stream_digest(run_dir: &Path) -> Option<String> {
    let checkpoint = checkpoint::latest(&run_dir.join(CHECKPOINTS)).ok()??;
    match checkpoint::read_head(&checkpoint).ok()?.kind {
        Kind::Pretrain => {
            checkpoint::read_state::<PretrainConfig>(&checkpoint, Kind::Pretrain).ok().map(|state| state.cache_digest)
        }
        Kind::Finetune => {
            checkpoint::read_state::<FinetuneConfig>(&checkpoint, Kind::Finetune).ok().map(|state| state.cache_digest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::finetune::FinetunePreset;
    use crate::config::pretrain::PretrainPreset;

    #[test]
    fn errors_of_a_configuration_are_those_of_its_kind() {
        let run = tempfile::tempdir().unwrap();
        let kind = |text: &str| {
            std::fs::write(run.path().join(CONFIG), text).unwrap();
            kind_of(run.path()).map_err(|error| error.to_string())
        };
        assert_eq!(kind(FinetunePreset::Tiny.toml()), Ok(Kind::Finetune));
        assert_eq!(kind(PretrainPreset::Tiny.toml()), Ok(Kind::Pretrain));
        let error = kind(&FinetunePreset::Tiny.toml().replacen("every = ", "ever = ", 1)).unwrap_err();
        assert!(error.contains("unknown key `validation.ever`; did you mean `validation.every`?"), "{error}");
        let error = kind(&FinetunePreset::Tiny.toml().replacen("feature_size = ", "feature_sise = ", 1)).unwrap_err();
        assert!(error.contains("unknown key `model.feature_sise`; did you mean `model.feature_size`?"), "{error}");
    }
}
