//! The program `hiend-shard`: exit codes, messages, and the state of the disk after failures.

mod conversion;
mod damage;
mod folders;
mod output;
mod suspects;
mod usage;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use hiend_cache::{Cache, VolumeReader};
use hiend_loader::phantom::{PhantomConfig, write_dataset};

/// Flag for coarse voxels, so that a case has a few thousand of them and is converted in milliseconds.
const SPACING: &str = "--spacing=6";

/// Output and exit code of a finished process.
pub(super) struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-shard"));
    command.args(args).env_remove("HIEND_LOG").stdin(Stdio::null());
    command
}

fn ran_of(Output { status, stdout, stderr }: Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Ran { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) };
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    ran
}

pub(super) fn run(args: &[&str]) -> Ran {
    ran_of(command(args).output().unwrap())
}

/// Runs the program and asserts its exit code; returns its output.
fn check(args: &[&str], code: i32) -> Ran {
    let ran = run(args);
    assert_eq!(ran.code, code, "{args:?}\n{}\n{}", ran.out, ran.err);
    ran
}

/// A temporary folder with a dataset.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// Creates a dataset of phantoms whose files were modified an hour ago.
    fn with_phantoms(cases: usize) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let config = PhantomConfig { cases, seed: 3, spacing_mm: [7.0, 10.0] };
        write_dataset(&place.path("data/Dataset001_Phantom"), &config).unwrap();
        for case in 0..cases {
            for file in [place.image(case), place.label(case)] {
                set_age(&file, 3600);
            }
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn image(&self, case: usize) -> PathBuf {
        self.path(&format!("data/Dataset001_Phantom/imagesTr/phantom_{case:03}_0000.nii.gz"))
    }

    fn label(&self, case: usize) -> PathBuf {
        self.path(&format!("data/Dataset001_Phantom/labelsTr/phantom_{case:03}.nii.gz"))
    }

    fn convert(&self, more: &[&str], code: i32) -> Ran {
        let (data, out) = (self.text("data"), self.text("cache"));
        check(&[&[data.as_str(), "--out", &out, SPACING], more].concat(), code)
    }

    fn verify(&self, code: i32) -> Ran {
        check(&["verify", &self.text("cache")], code)
    }
}

fn set_age(path: &Path, secs: u64) {
    let file = File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(secs)).unwrap();
}

fn voxels(cache: &Path) -> BTreeMap<String, (Vec<u16>, Option<Vec<u8>>)> {
    let cache = Cache::open(cache).unwrap();
    let mut reader = VolumeReader::new();
    let read = |case: &hiend_cache::Case| {
        let volume = case.read_whole(&mut reader).unwrap();
        (case.key().to_owned(), (volume.image, volume.label))
    };
    cache.cases().iter().map(read).collect()
}

/// Bytes of an uncompressed NIfTI-1 file with 16-bit voxels.
fn nifti(dim: &[i16], side: f32, num_voxels: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; 352];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &348i32.to_le_bytes());
    put(40, &i16::try_from(dim.len()).unwrap().to_le_bytes());
    for (axis, length) in dim.iter().enumerate() {
        put(42 + 2 * axis, &length.to_le_bytes());
    }
    put(70, &4i16.to_le_bytes());
    put(72, &16i16.to_le_bytes());
    for axis in 0..4 {
        put(76 + 4 * axis, &if axis == 0 { 1.0 } else { side }.to_le_bytes());
    }
    put(108, &352f32.to_le_bytes());
    put(254, &1i16.to_le_bytes());
    for axis in 0..3 {
        put(280 + 20 * axis, &side.to_le_bytes());
    }
    put(344, b"n+1\0");
    bytes.resize(352 + 2 * num_voxels, 0);
    bytes
}
