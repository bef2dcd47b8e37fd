//! Disks that fill up, and places that take no file.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser as _;
use hiend_cache::durable::operation::{Observer, Operation, observe};
use hiend_loader::program::error_text;
use hiend_loader::volume::read_labels;
use hiend_trainer::cli::Cli;
use hiend_trainer::commands;

use super::{Folder, write_scan};

/// Environment variable that makes [`full_disk_process`] predict: the folder of model and scans.
const PREDICT: &str = "HIEND_TEST_FULL_DISK";

/// Disk that is full once a file has its name.
#[derive(Default)]
struct FullAfterOne(AtomicBool);

impl Observer for FullAfterOne {
    fn before(&self, operation: &Operation<'_>) -> io::Result<()> {
        let is_full = self.0.load(Ordering::Relaxed) && matches!(operation, Operation::SyncFile { .. });
        // ENOSPC.
        if is_full { Err(io::Error::from_raw_os_error(28)) } else { Ok(()) }
    }

    fn after(&self, operation: &Operation<'_>) {
        self.0.fetch_or(matches!(operation, Operation::Rename { .. }), Ordering::Relaxed);
    }
}

/// The next test runs this one in a process of its own: a program sets defaults of the whole process.
#[test]
#[ignore = "a process that another test starts"]
fn full_disk_process() {
    let Some(folder) = std::env::var_os(PREDICT).map(PathBuf::from) else { return };
    let [run, scans, out] = ["run", "scans", "out"].map(|name| folder.join(name).display().to_string());
    let _observation = observe(out.as_ref(), Arc::new(FullAfterOne::default()));
    let args = ["hiend-train", "predict", "--device", "cpu", "--model", &run, &scans, "--out", &out];
    let error = commands::run(&Cli::try_parse_from(args).unwrap()).unwrap_err();
    println!("\nFAILED {}", error_text(&error));
}

#[test]
fn full_disk_ends_a_prediction_and_keeps_the_label_maps_that_are_finished() {
    let folder = Folder::new();
    for name in ["a", "b", "c"] {
        write_scan(&folder.at(&format!("scans/{name}_0000.nii")), [0.0; 3]);
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["predict::disk::full_disk_process", "--exact", "--ignored", "--nocapture"])
        .env(PREDICT, folder.at(""))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("FAILED ")).unwrap_or_else(|| {
        panic!("{text}{}", String::from_utf8_lossy(&output.stderr));
    });
    let label = folder.at("out/b.nii.gz").display().to_string();
    for part in ["stopped after 1 of 3 scans: ", &label, "os error 28"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let names = || {
        let entries = std::fs::read_dir(folder.at("out")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["a.nii.gz"]);
    read_labels(&folder.at("out/a.nii.gz")).unwrap();
    // With room again, the others are predicted.
    folder.check("scans", "out", &["--skip-existing"], 0, "");
    assert_eq!(names(), ["a.nii.gz", "b.nii.gz", "c.nii.gz"]);
}

/// No user may create anything in sysfs, root included.
#[cfg(target_os = "linux")]
#[test]
fn place_that_takes_no_file_is_named_before_a_scan_is_predicted() {
    let folder = Folder::new();
    write_scan(&folder.at("scans/a_0000.nii"), [0.0; 3]);
    if std::path::Path::new("/sys/kernel").exists() {
        folder.check("scans", "/sys/hiend-out", &[], 1, "error: /sys/hiend-out: ");
    } else {
        println!("nothing was tested: sysfs is not mounted");
    }
}
