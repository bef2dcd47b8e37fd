//! Power cuts and failing disks while results are written: label maps of `predict`, weights of `export`, the CSV file and
//! the HTML report of `evaluate`, pictures of a run, and its link to `MLflow`.
//!
//! After each cut a file that was reported as written is there with all its bytes, and one that was not is whole or absent.
//! Writing again completes the folders and leaves no temporary file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hiend_cache::durable::operation::Operation;
use hiend_cache::{FileError, durable};
use hiend_loader::picture::Canvas;
use hiend_loader::report::Page;
use hiend_loader::volume::{VolumeInfo, write_like};
use hiend_trainer::label_space::LabelSpace;
use hiend_trainer::metric::LabelMap;
use hiend_trainer::metric::bootstrap::Bootstrap;
use hiend_trainer::metric::evaluation::{Conventions, Evaluation, evaluate_case};
use hiend_trainer::report::mlflow::Link;
use hiend_trainer::weights::{HostTensor, StateDict, safetensors};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::conversion::error_chain;
use crate::effort::seeds;
use crate::simulator::{Fault, Image, Loss, Plan, Recorder, Selection};

/// Names of the files in the order of their writing. The last ones replace earlier ones. Each kind has a folder of its own,
/// in which nothing else removes its temporary files.
const NAMES: [&str; 14] = [
    "labels/a.nii.gz",
    "labels/b.nii",
    "labels/c.nrrd",
    "labels/d.mha",
    "weights/e.safetensors",
    "scores/cases.csv",
    "report/index.html",
    "pictures/step-000001.png",
    "run/mlflow.json",
    "labels/a.nii.gz",
    "scores/cases.csv",
    "report/index.html",
    "pictures/step-000001.png",
    "run/mlflow.json",
];
/// Voxels of a label map along x, y, z.
const SHAPE: [usize; 3] = [24, 20, 16];

/// Writes the file of this number, whose content depends on the number alone.
fn write(folder: &Path, number: usize) -> Result<(), String> {
    let path = folder.join(NAMES[number]);
    let parent = path.parent().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
    let kind = path.extension().unwrap().to_str().unwrap();
    // A report creates its folder by itself.
    if kind != "html" {
        durable::create_dir_all(parent).map_err(|err| error_chain(&err))?;
    }
    match kind {
        "safetensors" => safetensors::write(&path, &weights(&mut rng)).map_err(|err| error_chain(&err)),
        "csv" => evaluation(&mut rng).write_csv(&path).map_err(|err| error_chain(&err)),
        "html" => page(&mut rng).write(parent).map(drop).map_err(|err| error_chain(&err)),
        // The caller names the file.
        "png" => picture(&mut rng).write_png(&path).map_err(|err| error_chain(&FileError::at(&path, "write")(err))),
        "json" => link(&mut rng).write(parent).map_err(|err| error_chain(&err)),
        _ => {
            let axis = |axis: usize| std::array::from_fn(|column| if column == axis { 1.5 } else { 0.0 });
            let scan = VolumeInfo::new(SHAPE, [axis(0), axis(1), axis(2), [0.0, 0.0, 0.0, 1.0]]).unwrap();
            let voxels: Vec<u8> = (0..SHAPE.iter().product::<usize>()).map(|_| rng.random_range(0..4)).collect();
            write_like(&path, &scan, &voxels).map_err(|err| error_chain(&err))
        }
    }
}

fn weights(rng: &mut ChaCha8Rng) -> StateDict {
    let values: Vec<f32> = (0..8000).map(|_| rng.random_range(-1.0..1.0)).collect();
    let tensor = HostTensor { shape: vec![values.len()], values };
    StateDict { tensors: [("weight".to_owned(), tensor)].into(), ..StateDict::default() }
}

/// Evaluation of 40 cases of 8 voxels.
fn evaluation(rng: &mut ChaCha8Rng) -> Evaluation {
    let case = |number: usize| {
        let [label, pred]: [Vec<u8>; 2] = std::array::from_fn(|_| (0..8).map(|_| rng.random_range(0..3)).collect());
        let [label, pred] = [&label, &pred].map(|map| LabelMap::new(map, [2; 3], [1.5; 3]).unwrap());
        evaluate_case(&format!("case-{number}"), &label, &pred, LabelSpace::new(3), &Conventions::default()).unwrap()
    };
    let cases = (0..40).map(case).collect();
    Evaluation {
        class_names: (0..).zip(["background", "liver", "spleen"].map(str::to_owned)).collect(),
        conventions: Conventions::default(),
        bootstrap: Bootstrap { resamples: 0, seed: 0 },
        cases,
    }
}

fn page(rng: &mut ChaCha8Rng) -> Page {
    let mut page = Page::new("Evaluation");
    let rows = (0..60).map(|case| vec![format!("case-{case}"), rng.random_range(0.0..1.0f64).to_string()]);
    page.table(&["case", "dice"], 1.., rows);
    page
}

fn picture(rng: &mut ChaCha8Rng) -> Canvas {
    let rgb: Vec<u8> = (0..3 * 40 * 30).map(|_| rng.random_range(0..=u8::MAX)).collect();
    Canvas::from_rgb(40, 30, &rgb)
}

fn link(rng: &mut ChaCha8Rng) -> Link {
    let mut id = || rng.random_range(0..=u64::MAX).to_string();
    let (key, run_id) = (id(), id());
    // Longer than one block of the disk.
    let experiment = "experiment ".repeat(100);
    Link { key, experiment, start_ms: 0, experiment_id: None, run_id: Some(run_id), described: false }
}

/// Content of each file after it was written, without disturbance, and the states of the folder meanwhile.
struct Recorded {
    written: Vec<Vec<u8>>,
    images: Vec<Image>,
}

impl Recorded {
    /// Records the writing of all files in a new folder `root`.
    fn new(root: &Path, ignored_sync: Option<Selection>) -> Self {
        std::fs::create_dir(root).unwrap();
        let plan = Plan { every_image: true, ignored_sync, ..Plan::default() };
        let (recorder, _observation) = Recorder::start(root, plan);
        let folder = root.join("out");
        let one = |number: usize| {
            write(&folder, number).unwrap();
            recorder.report();
            std::fs::read(folder.join(NAMES[number])).unwrap()
        };
        Self { written: (0..NAMES.len()).map(one).collect(), images: recorder.images() }
    }

    /// Checks the folder after the first `num_reported` files had been reported.
    fn check(&self, root: &Path, num_reported: usize) -> Result<(), String> {
        for name in BTreeSet::from(NAMES) {
            let versions: Vec<usize> = (0..NAMES.len()).filter(|&number| NAMES[number] == name).collect();
            let reported = versions.iter().rposition(|&number| number < num_reported);
            let path = root.join("out").join(name);
            match std::fs::read(&path) {
                Ok(bytes) => {
                    let allowed = &versions[reported.unwrap_or(0)..];
                    if !allowed.iter().any(|&number| self.written[number] == bytes) {
                        return Err(format!("{name} has other bytes than were written"));
                    }
                }
                Err(err) if err.kind() == std::io::ErrorKind::NotFound && reported.is_none() => {}
                Err(err) => return Err(format!("{name}, which was reported: {err}")),
            }
        }
        Ok(())
    }

    /// Checks the folder as [`Self::check`] does, and then writes all files again.
    fn check_and_complete(&self, root: &Path, num_reported: usize) -> Result<(), String> {
        self.check(root, num_reported)?;
        (0..NAMES.len()).try_for_each(|number| write(&root.join("out"), number))?;
        self.check(root, NAMES.len())?;
        let folders = BTreeSet::from(NAMES.map(|name| Path::new(name).parent().unwrap()));
        let files = folders.iter().flat_map(|folder| {
            let entries = std::fs::read_dir(root.join("out").join(folder)).unwrap();
            entries.map(move |entry| folder.join(entry.unwrap().file_name()))
        });
        let left: Vec<PathBuf> = files.filter(|file| !NAMES.iter().any(|name| file == Path::new(name))).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("written again, with {left:?} left")) }
    }
}

/// Failures found with power cuts by these seeds; after every `completed`th cut the files are written again.
fn failures(seeds: std::ops::Range<u64>, completed: u64, ignored_sync: Option<Selection>) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let recorded = Recorded::new(&dir.path().join("straight"), ignored_sync);
    let cut = |seed: u64| {
        // A stride that has no factor in common with the number of images visits all of them.
        let image = &recorded.images[usize::try_from(seed).unwrap() * 7919 % recorded.images.len()];
        let left: PathBuf = dir.path().join(format!("left-{seed}"));
        image.leave(Loss::of_seed(seed), &left);
        let result = if seed.is_multiple_of(completed) {
            recorded.check_and_complete(&left, image.num_reported)
        } else {
            recorded.check(&left, image.num_reported)
        };
        std::fs::remove_dir_all(&left).unwrap();
        result.err().map(|fault| format!("HIEND_CAMPAIGN_SEED={seed}: cut before {}: {fault}", image.before))
    };
    seeds.filter_map(cut).collect()
}

#[test]
fn power_cut_loses_no_result_that_was_reported() {
    assert_eq!(failures(seeds(400), 10, None), Vec::<String>::new());
}

/// A disk that ignores one kind of sync loses results, so the simulator notices a missing sync.
#[test]
fn ignored_sync_of_results_is_found() {
    fn syncs(operation: &Operation<'_>, part: &str) -> bool {
        matches!(operation, Operation::SyncFile { path } if path.to_string_lossy().contains(part))
    }
    let kinds: [(&str, Selection); 8] = [
        ("NIfTI files", |operation| syncs(operation, ".nii")),
        ("NRRD and MetaImage files", |operation| syncs(operation, "/out/labels/") && !syncs(operation, ".nii")),
        ("weights", |operation| syncs(operation, ".safetensors")),
        ("CSV files", |operation| syncs(operation, "/out/scores/")),
        ("HTML reports", |operation| syncs(operation, "/out/report/")),
        ("pictures", |operation| syncs(operation, "/out/pictures/")),
        ("links to MLflow", |operation| syncs(operation, "/out/run/")),
        ("names", |operation| matches!(operation, Operation::SyncDir { .. })),
    ];
    for (kind, ignored) in kinds {
        assert!(!failures(0..120, u64::MAX, Some(ignored)).is_empty(), "no power cut shows that {kind} are not synced");
    }
}

/// Each operation fails with one of several errors, and writes are short at random. The error names a path of the folder;
/// files that were reported stay, and writing again completes the folder.
#[test]
fn failing_disk_loses_no_result_that_was_reported() {
    let dir = tempfile::tempdir().unwrap();
    let straight = Recorded::new(&dir.path().join("straight"), None);
    for seed in seeds(120) {
        let root = dir.path().join(format!("failed-{seed}"));
        std::fs::create_dir(&root).unwrap();
        let operation = usize::try_from(seed).unwrap() % straight.images.len();
        // ENOSPC, EIO, EDQUOT, EROFS.
        let errno = [28, 5, 122, 30][usize::try_from(seed / 7 % 4).unwrap()];
        let plan = Plan { fault: Some(Fault { operation, errno }), short_writes: Some(seed), ..Plan::default() };
        let (recorder, observation) = Recorder::start(&root, plan);
        let mut num_reported = 0;
        let result: Result<(), String> = (0..NAMES.len()).try_for_each(|number| {
            write(&root.join("out"), number)?;
            num_reported += 1;
            Ok(())
        });
        let num_operations = recorder.num_operations();
        drop(observation);
        let place = format!("HIEND_CAMPAIGN_SEED={seed}: operation {operation}, error {errno}");
        match result {
            Ok(()) => assert!(num_operations <= operation, "{place}: no error although it failed"),
            Err(chain) => {
                assert!(chain.contains(&*root.to_string_lossy()) && chain.contains("os error"), "{place}: {chain}");
            }
        }
        assert_eq!(straight.check_and_complete(&root, num_reported), Ok(()), "{place}");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
