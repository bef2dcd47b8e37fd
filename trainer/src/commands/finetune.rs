//! `hiend-train finetune --shards CACHE --init FROM`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use hiend_loader::program::{Fold, UsageError, count};
use hiend_loader::split::{FileSplit, FoldRule, FoldSplit, Part, ShotSplit, Split};

use super::ranks::{self, Rank};
use super::running::{self, Place};
use super::source::{
    Servers, Source, open_cache, refuse_flags_without_effect, warn_of_padding, warn_of_selection, with_lost_cases,
};
use super::{first_weights, micro_batch};
use crate::checkpoint::Kind;
use crate::cli::FinetuneArgs;
use crate::config::finetune::{FinetuneConfig, FinetunePreset, UnetrSettings};
use crate::config::pretrain::PretrainConfig;
use crate::config::{RunConfig as _, value_of};
use crate::finetune::{FinetuneError, Finetuning, name_fault};
use crate::initial_weights::Init;
use crate::training::{Resume, Task as _, saved_config};

pub(super) fn run(args: &FinetuneArgs) -> anyhow::Result<ExitCode> {
    refuse_flags_without_effect(&args.run)?;
    refuse_replaced_settings(args)?;
    if let (Some(fold), None) = (args.fold, &args.splits) {
        fold.dealt()?;
    }
    ranks::run(&args.run, |rank| train(args, rank))
}

fn train(args: &FinetuneArgs, mut rank: Rank) -> anyhow::Result<ExitCode> {
    let (config, place, init) = resolve(args, &rank)?;
    first_weights::note_if_unused(args.init.as_deref(), &place, &rank)?;
    let mut config = running::settle(&args.run, config)?;
    split(args, &mut config, &place)?;
    running::settle_paths(&mut config)?;
    config.train.convolutions.settle();
    // Cases are divided before any server is asked, whose own errors would name neither flags nor the cause.
    let began = place.cases()?;
    let (mut task, source) = match open_cache(&args.run, began.as_ref(), &rank)? {
        Some(cache) => {
            warn_of_selection(&cache, &config.stream, &rank);
            if began.is_none() {
                warn_of_padding(&cache, &config.stream, &rank);
            }
            let served = config.clone();
            let task = Finetuning::new(config, &cache, init)
                .map_err(|error| with_lost_cases(error, began.as_ref(), &cache))?;
            match Servers::connect(&args.run, &served, &mut rank) {
                // Batches come from the servers, and whole cases for the validation from the shards.
                Ok(Some(servers)) => {
                    servers.check_same_cases(&cache, &served)?;
                    (task, Source::Servers(Box::new(servers)))
                }
                Ok(None) => (task, Source::Shards(cache)),
                Err(error) => return rank.unless_stopped(error),
            }
        }
        None if config.validation.is_some() => return Err(FinetuneError::NoCases.into()),
        None => match Servers::connect(&args.run, &config, &mut rank) {
            Ok(servers) => {
                let servers = servers.context("clap requires --shards or --loader")?;
                servers.warn_of_selection(&rank);
                let task = Finetuning::of_servers(config, servers.manifest(), servers.unseen_labels(), init)?;
                (task, Source::Servers(Box::new(servers)))
            }
            Err(error) => return rank.unless_stopped(error),
        },
    };
    // A run of an earlier version may be finished.
    if place.resume == Resume::Begin
        && let Some(fault) = name_fault(&task.config().classes)
    {
        bail!(
            "{fault}; give each class its own name in dataset.json (then run hiend-shard again), or list `classes = [...]` in the \
             configuration"
        );
    }
    let micro_batch = micro_batch::settle(&task, &rank, &args.run, &place)?;
    task.set_micro_batch(micro_batch);
    for warning in &task.warnings {
        rank.note(format_args!("warning: {warning}"));
    }
    rank.print(format_args!(
        "{} classes: {}; {}",
        task.config().classes.len(),
        task.config().classes.join(", "),
        count(task.num_validation_cases(), "validation case")
    ))?;
    running::run(&task, source, rank, &args.run, place)
}

/// Determines the configuration, the run's folder and the initial weights from flags, files and the device.
fn resolve(args: &FinetuneArgs, rank: &Rank) -> anyhow::Result<(FinetuneConfig, Place, Init)> {
    let place = |name: &str| Place::of(&args.run, &format!("finetune-{name}"));
    if let Some(path) = &args.run.config {
        let (text, name) = running::read_config(path)?;
        let config = FinetuneConfig::parse(&text, &path.display().to_string())
            .map_err(|error| running::of_another_command::<PretrainConfig>(error, &text, "hiend-train pretrain"))?;
        let place = place(&name)?;
        let init = init(args, &place, rank)?;
        return Ok((config, place, init));
    }
    let default = if rank.compute.is_cpu() { FinetunePreset::Tiny } else { FinetunePreset::Recipe };
    let preset = args.preset.unwrap_or(default);
    let place = place(preset.name())?;
    if place.resume != Resume::Begin {
        // The run's folder has its configuration, the sizes of the pre-trained encoder included.
        let saved: FinetuneConfig = saved_config(&place.run_dir, Kind::Finetune, place.resume)?;
        let config = match args.preset {
            Some(preset) => named_again(preset, &saved),
            None => saved,
        };
        let init = init(args, &place, rank)?;
        return Ok((config, place, init));
    }
    if args.preset.is_none() {
        running::announce_preset(preset.name(), rank)?;
    }
    let init = init(args, &place, rank)?;
    let mut config = preset.config();
    // A preset is for a kind of data; the encoder has the sizes of the pre-trained one.
    if let Some(sizes) = init.sizes() {
        let Some(model) = config.model.with_encoder_of(sizes) else {
            bail!("the pre-trained model has {}; UNETR needs three", count(sizes.taps.len(), "tap"));
        };
        if model != config.model {
            rank.print(format_args!(
                "sizes of the pre-trained encoder: embed_dim {}, depth {}, num_heads {}, patch_size {}",
                model.embed_dim, model.depth, model.num_heads, model.patch_size
            ))?;
            config.model = model;
        }
    }
    config.validate(preset.name())?;
    Ok((config, place, init))
}

/// Configuration of a preset that is named again for a run that has already begun; it is compared with the run's
/// configuration `saved` when the run is resumed. As at the beginning, the encoder has the sizes of the pre-trained
/// encoder, which need not exist any more; the run also keeps its rule of folds.
fn named_again(preset: FinetunePreset, saved: &FinetuneConfig) -> FinetuneConfig {
    let mut config = preset.config();
    config.model = UnetrSettings { feature_size: config.model.feature_size, ..saved.model.clone() };
    for (split, saved) in config.splits_mut().into_iter().zip(saved.splits()) {
        if let (Split::Fold(split), Split::Fold(saved)) = (split, saved) {
            split.rule = saved.rule;
        }
    }
    config
}

/// Reads the first weights, which a new run must name.
fn init(args: &FinetuneArgs, place: &Place, rank: &Rank) -> anyhow::Result<Init> {
    first_weights::read(args.init.as_deref(), place, rank)?.ok_or_else(|| first_weights::absent(place))
}

/// Refuses a flag that selects cases next to a setting of the command line that it would replace.
fn refuse_replaced_settings(args: &FinetuneArgs) -> Result<(), UsageError> {
    let flag = match args {
        FinetuneArgs { no_validation: true, .. } => "--no-validation",
        FinetuneArgs { fold: Some(_), .. } => "--fold",
        FinetuneArgs { shots: Some(_), .. } => "--shots",
        _ => return Ok(()),
    };
    // A section may be set as a whole: `stream={batch=2, split="all"}`.
    let split_of = |key: &str, value: &str, section: &str| match key.strip_prefix(section)? {
        "" => value_of(value).get("split").cloned(),
        ".split" => Some(value_of(value)),
        rest => rest.starts_with(".split.").then(|| value_of(value)),
    };
    let is_replaced = |(key, value): &&(String, String)| {
        let split = split_of(key, value, "stream");
        if args.no_validation {
            let is_validation = key == "validation" || key.starts_with("validation.");
            is_validation || split.is_some_and(|split| split.as_str() != Some("all"))
        } else {
            split.is_some() || split_of(key, value, "validation").is_some()
        }
    };
    match args.run.set.iter().find(is_replaced) {
        Some((key, value)) => {
            let message =
                format!("{flag} cannot be used with --set {key}={value}, which it replaces; leave one of the two out");
            Err(UsageError::new(message))
        }
        None => Ok(()),
    }
}

/// Replaces the training and validation cases by those given by flags.
fn split(args: &FinetuneArgs, config: &mut FinetuneConfig, place: &Place) -> anyhow::Result<()> {
    // A run keeps the rule of folds that it began with.
    let rule = match place.resume {
        Resume::Begin => FoldRule::Dealt,
        resume => match saved_config::<FinetuneConfig>(&place.run_dir, Kind::Finetune, resume)?.stream.split {
            Split::Fold(FoldSplit { rule, .. }) => rule,
            _ => FoldRule::Dealt,
        },
    };
    let split = |part| match (args.fold, &args.splits, args.shots) {
        (Some(Fold { number: fold, of }), Some(splits), _) => {
            Some(Split::File(FileSplit { splits: splits.clone(), fold, of, part }))
        }
        // Without a number of folds, `run` has refused it.
        (Some(Fold { number: fold, of }), None, _) => {
            Some(Split::Fold(FoldSplit { fold, of: of.unwrap_or_default(), part, seed: 0, rule }))
        }
        (None, _, Some(shots)) => Some(Split::Shots(ShotSplit { shots, part, seed: 0 })),
        (None, _, None) => None,
    };
    if args.no_validation {
        if matches!(config.stream.split, Split::List(_) | Split::File(_) | Split::Cases(_)) {
            bail!("--no-validation trains on all cases, but stream.split names cases; leave one of the two out");
        }
        config.stream.split = Split::default();
        config.validation = None;
    }
    if let (Some(train), Some(held_out)) = (split(Part::Train), split(Part::Validation)) {
        let Some(validation) = &mut config.validation else {
            bail!("--fold and --shots need a [validation] section in the configuration");
        };
        config.stream.split = train;
        validation.split = held_out;
    }
    config.validate("command line")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::model::hi_end_mae::HiEndMaeConfig;

    #[test]
    fn settings_that_a_flag_would_replace_are_refused() {
        let refused = |flags: &[&str]| {
            let words = ["hiend-train", "finetune", "--shards", "c", "--init", "none"];
            let cli = Cli::try_parse_from(words.iter().chain(flags)).unwrap();
            let Some(Command::Finetune(args)) = cli.command else { panic!("the command is finetune") };
            refuse_replaced_settings(&args).err().map(|error| error.to_string())
        };
        let check = |flags: &[&str], expected: &str| {
            let message = refused(flags).unwrap_or_default();
            assert!(message.starts_with(expected) && !message.contains('\n'), "{flags:?}: {message:?}");
        };
        let fold = "stream.split={fold=0,of=2,part=\"train\"}";
        let shots = "stream.split={shots=1,part=\"train\"}";
        check(&["--no-validation", "--set", fold], &format!("--no-validation cannot be used with --set {fold}, "));
        check(&["--no-validation", "--set", shots], "--no-validation cannot");
        check(&["--no-validation", "--set", "stream.split.fold=1"], "--no-validation cannot");
        check(&["--no-validation", "--set", "validation.every=5"], "--no-validation cannot");
        check(&["--fold", "0/2", "--set", shots], "--fold cannot be used with --set stream.split=");
        check(
            &["--shots", "1", "--set", "validation.split.shots=2"],
            "--shots cannot be used with --set validation.split.",
        );
        // Whole sections.
        for flags in [
            ["--fold", "0/2", "--set", "stream={split=\"all\"}"],
            ["--fold", "0/2", "--set", "validation={every=5, split={fold=0, of=2, part=\"validation\"}}"],
            ["--shots", "1", "--set", "validation={every=5, split.shots=2}"],
        ] {
            check(&flags, &format!("{} cannot be used with --set {}, ", flags[0], flags[3]));
        }
        check(&["--no-validation", "--set", "stream={split={shots=1, part=\"train\"}}"], "--no-validation cannot");
        for flags in [
            &["--set", fold][..],
            &["--no-validation", "--set", "stream={split=\"all\"}"],
            &["--fold", "0/2", "--set", "stream={batch=2}"],
            &["--no-validation", "--set", "stream.split=all", "--set", "optim.lr=1e-4"],
            &["--fold", "0/2", "--set", "validation.every=5"],
        ] {
            assert_eq!(refused(flags), None, "{flags:?}");
        }
    }

    #[test]
    fn a_preset_named_for_a_run_that_has_begun_is_compared_with_the_run() {
        let sizes = HiEndMaeConfig { patch_size: 16, ..HiEndMaeConfig::tiny() };
        let mut saved = FinetunePreset::Recipe.config();
        saved.model = saved.model.with_encoder_of(&sizes).unwrap();
        let changes = |preset, saved: &FinetuneConfig| -> Vec<String> {
            named_again(preset, saved).changes_since(saved).into_iter().map(|change| change.0).collect()
        };
        assert_eq!(named_again(FinetunePreset::Recipe, &saved), saved);
        assert_eq!(changes(FinetunePreset::Btcv, &saved), ["classes", "stream.include"]);
        let tiny = changes(FinetunePreset::Tiny, &saved);
        assert!(tiny.contains(&"model.feature_size".to_owned()), "{tiny:?}");
        assert!(!tiny.contains(&"model.embed_dim".to_owned()), "{tiny:?}");

        // A run of an earlier version, whose presets named no rule of folds.
        for split in saved.splits_mut() {
            let Split::Fold(split) = split else { panic!("the preset has folds") };
            split.rule = FoldRule::Hashed;
        }
        assert!(changes(FinetunePreset::Recipe, &saved).is_empty());
        let mut other_fold = saved.clone();
        other_fold.stream.split =
            Split::Fold(FoldSplit { fold: 1, of: 5, part: Part::Train, seed: 0, rule: FoldRule::Hashed });
        assert_eq!(changes(FinetunePreset::Recipe, &other_fold), ["stream.split.fold"]);
    }
}
