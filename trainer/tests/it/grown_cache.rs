//! Tests of caches that change before a run is finished: the run goes on with its own cases, or names those that are lost.

use std::fs;
use std::process::Command;

use hiend_cache::{Cache, Case};
use hiend_loader::convert::Conversion;
use hiend_loader::dataset;
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_trainer::journal::{self, Entry};
use hiend_trainer::training::RunCases;

use crate::folder::Folder;
use crate::service::{PRETRAIN, Server, losses};

/// Writes phantoms into a dataset of the folder, and converts its datasets into its cache again.
fn convert(folder: &Folder, name: &str, cases: usize, seed: u64) {
    let raw = folder.path("raw");
    write_dataset(&raw.join(name), &PhantomConfig { cases, seed, spacing_mm: [5.0, 6.0] }).unwrap();
    let preprocess = PreprocessConfig { spacing: Some([5.0; 3]), ..PreprocessConfig::default() };
    let datasets = dataset::find(&raw).unwrap();
    Conversion::new(&raw, &datasets, &folder.path("cache")).config(preprocess).run().unwrap();
}

#[test]
fn a_run_goes_on_without_cases_that_were_added_to_its_cache() {
    let folder = Folder::new();
    let train = format!("{PRETRAIN} --set train.micro_batch=1");
    folder.succeed(&format!("{train} --shards cache --run-dir undisturbed --max-steps 6"));
    folder.succeed(&format!("{train} --shards cache --run-dir run --max-steps 2"));
    convert(&folder, "Dataset000_A", 1, 9);
    let resume = |flags: &str| {
        let args = format!("{train} --shards cache --run-dir run --resume {flags}");
        let output = folder.command(&args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args}: {stderr}");
        let told = "1 case was added to the cache since this run began; it goes on without it";
        assert_eq!(stderr.lines().filter(|line| line.ends_with(told)).count(), 1, "{args}: {stderr}");
    };
    resume("--max-steps 4");
    // Each rank leaves them out.
    resume("--max-steps 6 --devices cpu,cpu");
    let undisturbed = losses(&folder, "undisturbed");
    assert_eq!(losses(&folder, "run"), undisturbed);
    // With the added case the losses are others.
    folder.succeed(&format!("{train} --shards cache --run-dir grown --max-steps 6"));
    assert_ne!(losses(&folder, "grown"), undisturbed);
    // Servers stream every case that they have.
    let server = Server::of_cache(&folder, "a", &folder.path("cache").display().to_string(), &[]);
    folder.refuse(
        &format!("{train} --loader {} --run-dir run --resume", server.url),
        &["cannot resume: the servers stream other cases", "with --shards and without --loader"],
    );
    // A run that was killed before its first checkpoint begins again with its own cases.
    fs::remove_dir_all(folder.path("run/checkpoints")).unwrap();
    resume("--max-steps 6");
    assert_eq!(losses(&folder, "run"), undisturbed);
}

#[test]
fn folds_of_a_run_stay_when_its_cache_grows() {
    let folder = Folder::new();
    let finetune = "finetune --shards cache --config finetune.toml --fold 0/2";
    folder.succeed(&format!("{finetune} --init none --run-dir undisturbed --max-steps 2"));
    folder.succeed(&format!("{finetune} --init none --run-dir run --max-steps 1"));
    // Dealt first, so that each of the other cases changes its fold.
    convert(&folder, "Dataset000_A", 1, 9);
    folder.succeed(&format!("{finetune} --run-dir run --resume --max-steps 2"));
    assert_eq!(losses(&folder, "run"), losses(&folder, "undisturbed"));
    let validated = |run: &str| {
        let entries = journal::read(&folder.path(run).join("journal.jsonl")).unwrap().map(Result::unwrap);
        let validations = entries.filter_map(|entry| match entry {
            Entry::Validation(record) => Some((record.step, record.num_cases, record.mean_dice.to_bits())),
            _ => None,
        });
        validations.last().unwrap()
    };
    let (step, num_cases, _) = validated("run");
    assert_eq!((step, num_cases), (2, 1));
    assert_eq!(validated("run"), validated("undisturbed"));
}

#[test]
fn changed_and_missing_cases_of_a_run_are_named() {
    let folder = Folder::new();
    let train = |cache: &str| format!("{PRETRAIN} --shards {cache} --run-dir run");
    let finetune = "finetune --shards cache --config finetune.toml --fold 0/2 --run-dir fine";
    folder.succeed(&format!("{} --max-steps 1", train("cache")));
    folder.succeed(&format!("{finetune} --init none --max-steps 1"));
    fs::rename(folder.path("cache"), folder.path("kept")).unwrap();
    for file in ["imagesTr/phantom_001_0000.nii.gz", "labelsTr/phantom_001.nii.gz"] {
        fs::remove_file(folder.path("raw/Dataset001_P").join(file)).unwrap();
    }
    convert(&folder, "Dataset001_P", 1, 4);
    let named = "(changed: Dataset001_P/phantom_000; missing: Dataset001_P/phantom_001)";
    folder.refuse(
        &format!("{} --resume --max-steps 2", train("cache")),
        &["cannot resume: the cases of the cache are not those that the run began with", named, "--init RUN"],
    );
    // The folds of the other cases are not the cause.
    folder.refuse(&format!("{finetune} --resume --max-steps 2"), &[&format!("{named}: cases to train on"), "2 folds"]);
    folder.succeed(&format!("{} --resume --max-steps 2", train("kept")));
    // A run that was killed before its first checkpoint has nothing to lose.
    fs::remove_dir_all(folder.path("run/checkpoints")).unwrap();
    let told = folder.succeed(&format!("{} --resume --max-steps 2", train("cache")));
    let expected = format!("run/cases.json: the cache has other cases than when the run began {named}");
    assert!(told.contains(&expected), "{told}");
    folder.succeed(&format!("{} --resume --max-steps 3", train("cache")));
}

#[test]
fn added_cases_stay_out_next_to_lost_ones() {
    let folder = Folder::new();
    let open = || Cache::open(folder.path("cache")).unwrap();
    let began = RunCases::of(&open());
    convert(&folder, "Dataset000_A", 1, 9);
    convert(&folder, "Dataset001_P", 2, 4);
    let (cache, num_added) = began.without_added(open());
    assert_eq!(num_added, 1);
    let keys: Vec<_> = cache.cases().iter().map(Case::key).collect();
    assert_eq!(keys, ["Dataset001_P/phantom_000", "Dataset001_P/phantom_001"]);
    let changes = began.changes(&RunCases::of(&cache));
    assert_eq!((changes.changed.len(), changes.missing.len(), changes.added.len()), (2, 0, 0));
}

#[test]
fn a_damaged_record_of_cases_is_named_and_a_run_without_one_needs_exactly_its_cases() {
    let folder = Folder::new();
    let train = format!("{PRETRAIN} --shards cache --run-dir run");
    folder.succeed(&format!("{train} --max-steps 1"));
    let verify = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
        let output = command.arg("verify").arg(folder.path("run")).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (is_whole, checked) = verify();
    assert!(is_whole && checked.contains("cases.json: cases: 2"), "{checked}");
    let path = folder.path("run/cases.json");
    let recorded = fs::read_to_string(&path).unwrap();
    fs::write(&path, recorded.replace("phantom_001", "phantom_002")).unwrap();
    let (is_whole, checked) = verify();
    assert!(!is_whole && checked.contains("cases.json: DAMAGED"), "{checked}");
    folder.refuse(
        &format!("{train} --resume --max-steps 2"),
        &["run/cases.json: its content is not what the run wrote", "delete it"],
    );
    // Like a run of an earlier version, which records its cases when it is resumed.
    fs::remove_file(&path).unwrap();
    assert!(verify().0);
    folder.succeed(&format!("{train} --resume --max-steps 2"));
    assert_eq!(fs::read_to_string(&path).unwrap(), recorded);
    fs::remove_file(&path).unwrap();
    convert(&folder, "Dataset000_A", 1, 9);
    folder.refuse(
        &format!("{train} --resume --max-steps 3"),
        &["cannot resume: the cases of the cache or their voxels differ", "cases were added", "--init RUN"],
    );
}
