//! Command-line arguments of `hiend-train`; [`crate::commands`] carries them out.

mod evaluate;
mod model;
mod predict;
mod ranks;
mod train;
mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use hiend_loader::program::{CompletionsArgs, ManArgs};

pub use self::evaluate::EvaluateArgs;
pub use self::model::{
    AttendArgs, ExportArgs, ExportFormat, ImportArgs, Layers, ModelArgs, ReconstructArgs, ScanArgs, SizesArgs,
};
pub use self::predict::PredictArgs;
pub use self::ranks::RanksArgs;
pub use self::train::{FinetuneArgs, PretrainArgs, ResumeArg, RunArgs, ServiceArgs};
use crate::device::DeviceChoice;
use crate::report::mlflow::ServerUrl;

/// Train Hi-End-MAE on CT: pre-training, fine-tuning, prediction
///
/// Without a subcommand: pre-training
#[derive(Debug, Parser)]
#[command(name = "hiend-train", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// Command to run; pre-training if absent.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Arguments of pre-training.
    #[command(flatten)]
    pub pretrain: PretrainArgs,
}

/// Commands of `hiend-train`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pre-train a masked autoencoder on shards (the same as without a command)
    Pretrain(PretrainArgs),
    /// Train a segmentation network from pre-trained weights on labelled shards
    Finetune(FinetuneArgs),
    /// Segment scans; label maps have the scans' own grids
    Predict(PredictArgs),
    /// Compare predicted label maps with the true ones (Dice, surface distances and volumes per class), or two sets of them
    Evaluate(EvaluateArgs),
    /// Check a run's checkpoints, configuration and journal for damage
    Verify(VerifyArgs),
    /// Print a built-in configuration, or list them
    Config(ConfigArgs),
    /// Draw the curves of a run from its journal
    Curves(CurvesArgs),
    /// Send a run to an MLflow server from its journal; steps already on the server are not sent again
    Track(TrackArgs),
    /// Draw original, masked input and reconstruction of scans in three planes
    Reconstruct(ReconstructArgs),
    /// Draw the attention of a patch: self-attention of the encoder, cross-attention of the decoder
    Attend(AttendArgs),
    /// Report which tensors of a .pth or .safetensors file fit the model, and write them as .safetensors
    ///
    /// Importing is optional: every --model takes such files directly
    Import(ImportArgs),
    /// Write a model's weights as .safetensors with the reference's names and layouts, or for nnU-Net (--format nnssl)
    Export(ExportArgs),
    /// Check this machine: driver, devices, libraries, small computations, and possible speed-ups
    Doctor(DoctorArgs),
    /// Print completions for a shell, such as `source <(hiend-train completions bash)`
    Completions(CompletionsArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(ManArgs),
}

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Device to compute on: auto (in a build with CUDA the first GPU, which must be there), cpu, cuda:N or vulkan:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Folder of a run, or of one of its checkpoints
    #[arg(value_name = "RUN")]
    pub run_dir: PathBuf,
}

/// Arguments of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Name of the configuration, such as vit-l-p12; with its kind if both kinds have the name, such as pretrain/tiny
    /// and finetune/tiny [default: list the names]
    #[arg(value_name = "PRESET")]
    pub preset: Option<String>,
}

/// Arguments of `curves`.
#[derive(Debug, Args)]
pub struct CurvesArgs {
    /// Folder of a run
    #[arg(value_name = "RUN")]
    pub run_dir: PathBuf,
    /// PNG file to write [default: RUN/curves.png]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of `track`.
#[derive(Debug, Args)]
pub struct TrackArgs {
    /// Folder of a run
    #[arg(value_name = "RUN")]
    pub run_dir: PathBuf,
    /// MLflow server, such as `http://127.0.0.1:5000`; credentials are taken from `MLFLOW_TRACKING_USERNAME` and
    /// `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`
    #[arg(long, value_name = "URL")]
    pub mlflow: ServerUrl,
    /// Experiment of MLflow, created if missing [default: the run's, or hiend-pretrain or hiend-finetune]
    #[arg(long, value_name = "NAME")]
    pub mlflow_experiment: Option<String>,
}

#[cfg(test)]
mod tests {
    use hiend_loader::program::Fold;

    use super::*;
    use crate::config::pretrain::PretrainPreset;

    #[test]
    fn command_line_definition_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn pretraining_works_with_and_without_its_command() {
        let cli = Cli::try_parse_from(["hiend-train", "--shards", "cache", "--preset", "tiny"]).unwrap();
        assert_eq!(cli.pretrain.preset, Some(PretrainPreset::Tiny));
        let cli = Cli::try_parse_from(["hiend-train", "pretrain", "--shards", "cache"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Pretrain(args)) if args.run.shards == Some("cache".into())));
        let finetune = |flags: &[&str]| {
            let words = ["hiend-train", "finetune", "--shards", "c"].into_iter().chain(flags.iter().copied());
            Cli::try_parse_from(words)
        };
        let cli = finetune(&["--init", "none", "--fold", "1/5"]).unwrap();
        assert!(
            matches!(cli.command, Some(Command::Finetune(args)) if args.fold == Some(Fold { number: 1, of: Some(5) }))
        );
        assert!(finetune(&[]).is_err());
        assert!(finetune(&["--resume"]).is_ok());
        assert!(finetune(&["--resume-from", "500"]).is_ok());
        assert!(finetune(&["--resume", "--resume-from", "500"]).is_err());
        let resume = |flags: &[&str]| match finetune(flags).unwrap().command {
            Some(Command::Finetune(args)) => args.run.resume,
            _ => None,
        };
        assert_eq!(resume(&["--resume", "--keep", "1"]), Some(ResumeArg::Always));
        assert_eq!(resume(&["--resume", "auto"]), Some(ResumeArg::Auto));
        assert!(finetune(&["--init", "none", "--fold", "5/5"]).is_err());
        assert!(finetune(&["--init", "none", "--fold", "0/5", "--shots", "1"]).is_err());
        assert!(Cli::try_parse_from(["hiend-train"]).is_err());
        assert!(Cli::try_parse_from(["hiend-train", "pretrain"]).is_err());
        assert!(Cli::try_parse_from(["hiend-train", "--shards", "c", "--device", "gpu"]).is_err());
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused_with_their_range() {
        let refused = |args: &str| {
            let error = Cli::try_parse_from(["hiend-train"].into_iter().chain(args.split_whitespace())).unwrap_err();
            let text = error.to_string();
            text.lines().next().unwrap_or_default().to_owned()
        };
        for flag in ["--max-steps", "--resume-from", "--keep", "--stalled-after", "--join-timeout"] {
            for value in ["0", "-1", "1.5"] {
                let line = refused(&format!("--shards c {flag}={value}"));
                assert!(line.contains(flag) && line.ends_with(": expected a whole number from 1 on"), "{line}");
            }
        }
        for flag in ["--checkpoint-every", "--log-every", "--seed"] {
            let line = refused(&format!("--shards c {flag}=-1"));
            assert!(line.contains(flag) && line.ends_with(": expected a whole number from 0 on"), "{line}");
        }
        for flag in ["--threads", "--headspace"] {
            let line = refused(&format!("--shards c {flag}=0"));
            assert!(line.contains(flag) && line.contains("0 is not in 1..="), "{line}");
        }
        let line = refused("predict --model m in --out o --sw-batch-size=0");
        assert!(line.ends_with(": expected a whole number from 1 on"), "{line}");
        for overlap in ["1", "-0.5", "NaN"] {
            let line = refused(&format!("predict --model m in --out o --overlap={overlap}"));
            assert!(line.ends_with("expected a fraction from 0 to less than 1"), "{line}");
        }
        for mm in ["-1", "NaN", "inf"] {
            let line = refused(&format!("evaluate --labels l --predictions p --tolerance-mm={mm}"));
            assert!(line.ends_with("expected a distance in mm of 0 or more"), "{line}");
        }
        for number in ["1", "99", "-1", "1000001"] {
            let line = refused(&format!("evaluate --labels l --predictions p --bootstrap={number}"));
            assert!(line.ends_with("expected 0 or a number of resamples from 100 to 1000000"), "{line}");
        }
        for ratio in ["0", "1", "-1", "NaN"] {
            let line = refused(&format!("reconstruct --model m in --out o --mask-ratio={ratio}"));
            assert!(line.ends_with("expected a fraction above 0 and below 1"), "{line}");
        }
    }

    #[test]
    fn servers_replace_shards() {
        let parse = |flags: &str| Cli::try_parse_from(["hiend-train"].into_iter().chain(flags.split_whitespace()));
        let cli = parse("--loader http://a:1,unix:///b --loader-token-file t").unwrap();
        assert_eq!(cli.pretrain.run.service.loader, ["http://a:1", "unix:///b"]);
        assert!(parse("finetune --init none --no-validation --loader http://a:1").is_ok());
        assert!(parse("finetune --init none --shards c --loader http://a:1").is_ok());
        assert!(parse("--shards c --loader-token-file t").is_err());
        assert!(parse("--loader http://a:1 --threads 4").is_err());
        assert!(parse("--shards c --headspace --smoke").is_err());
        assert_eq!(parse("--shards c --headspace").unwrap().pretrain.run.headspace, Some(20));
        assert!(parse("--shards c --metrics-listen 9464").is_err());
        assert!(parse("--shards c --metrics-listen [::1]:9464").is_ok());
    }

    #[test]
    fn servers_of_mlflow_have_addresses() {
        let parse = |flags: &str| Cli::try_parse_from(["hiend-train"].into_iter().chain(flags.split_whitespace()));
        let cli = parse("--shards c --mlflow http://127.0.0.1:5000 --mlflow-experiment a").unwrap();
        assert_eq!(cli.pretrain.run.mlflow.unwrap().to_string(), "http://127.0.0.1:5000");
        assert!(parse("finetune --init none --shards c --mlflow https://host/mlflow").is_ok());
        assert!(parse("--shards c --mlflow localhost:5000").is_err());
        assert!(parse("--shards c --mlflow-experiment a").is_err());
        assert!(parse("--shards c --mlflow http://host --headspace").is_err());
        assert!(parse("track run --mlflow http://host").is_ok());
        assert!(parse("track run").is_err());
    }
}
