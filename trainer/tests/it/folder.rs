//! Folder in which tests run `hiend-train`: a small cache, and configurations that suit it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use hiend_loader::convert::Conversion;
use hiend_loader::dataset;
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::finetune::FinetunePreset;
use hiend_trainer::testing::small_pretraining;

/// Folder with two small labelled phantoms in a cache, and matching configurations.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let phantoms = PhantomConfig { cases: 2, spacing_mm: [5.0, 6.0], ..PhantomConfig::default() };
        write_dataset(&folder.path("raw/Dataset001_P"), &phantoms).unwrap();
        let raw = folder.path("raw");
        let preprocess = PreprocessConfig { spacing: Some([5.0; 3]), ..PreprocessConfig::default() };
        let datasets = dataset::find(&raw).unwrap();
        Conversion::new(&raw, &datasets, &folder.path("cache")).config(preprocess).run().unwrap();
        let mut pretrain = small_pretraining(8);
        pretrain.stream.crops_per_visit = 1;
        pretrain.stream.visits_per_batch = 2;
        // Longer than a test takes to stop a run, however busy the machine is.
        pretrain.schedule.total = 1_000_000;
        fs::write(folder.path("pretrain.toml"), pretrain.to_toml()).unwrap();
        let mut finetune = FinetunePreset::Tiny.config();
        finetune.model.patch_size = 16;
        finetune.model.embed_dim = 24;
        finetune.model.num_heads = 2;
        finetune.model.feature_size = 2;
        finetune.stream.crop_size = [16; 3];
        finetune.stream.crops_per_visit = 1;
        finetune.stream.visits_per_batch = 1;
        fs::write(folder.path("finetune.toml"), finetune.to_toml()).unwrap();
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Creates the command `hiend-train` in the folder, on the CPU unless `args` name devices.
    pub(crate) fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
        let device: &[&str] = if args.contains("--devices ") { &[] } else { &["--device", "cpu"] };
        command.args(args.split_whitespace()).args(device).current_dir(self.0.path());
        command.env("XDG_CACHE_HOME", self.path("downloads"));
        command
    }

    /// Runs hiend-train in the folder.
    pub(crate) fn run(&self, args: &str) -> Output {
        self.command(args).output().unwrap()
    }

    pub(crate) fn succeed(&self, args: &str) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Asserts that the command fails with a one-line error that contains all of `parts`; returns the line.
    pub(crate) fn refuse(&self, args: &str, parts: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args}: {stderr}");
        let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && stderr.lines().last() == Some(errors[0]), "{args}: {stderr}");
        assert!(!stderr.contains("panicked"), "{args}: {stderr}");
        for part in parts {
            assert!(errors[0].contains(part), "{args}: no {part:?} in {stderr}");
        }
        errors[0].to_owned()
    }
}
