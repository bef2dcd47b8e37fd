//! Readers of files and messages, which are given hostile bytes and must return a value or a one-line error.
//!
//! The program `hiend-fuzz` attacks one of them for minutes or hours with mutations of the inputs in `corpus`. These were made
//! by `make_seeds.py`; inputs that broke something join them, and a test gives all of them to their readers.

mod cache;
mod dataset;
mod folders;
#[cfg(feature = "service")]
mod messages;
pub mod mutate;
mod ranks;
#[cfg(feature = "trainer")]
mod runs;
mod scans;
mod selection;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// A reader under attack.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name on the command line, and of its folder in `corpus`.
    pub name: &'static str,
    attack: fn(&Path, &[u8]),
}

const TARGETS: &[Target] = &[
    Target { name: "nifti", attack: scans::nifti },
    Target { name: "nrrd", attack: scans::nrrd },
    Target { name: "metaimage", attack: scans::metaimage },
    Target { name: "dicom", attack: scans::dicom },
    Target { name: "dataset", attack: dataset::description },
    Target { name: "unnamed", attack: folders::unnamed },
    Target { name: "tree", attack: folders::tree },
    Target { name: "cases", attack: selection::cases },
    Target { name: "shard", attack: cache::shard },
    Target { name: "manifest", attack: cache::manifest },
    Target { name: "seen", attack: cache::seen },
    #[cfg(feature = "service")]
    Target { name: "service", attack: messages::service },
    #[cfg(feature = "service")]
    Target { name: "pem", attack: messages::pem },
    Target { name: "ranks", attack: ranks::ranks },
    #[cfg(feature = "trainer")]
    Target { name: "config", attack: runs::config },
    #[cfg(feature = "trainer")]
    Target { name: "checkpoint", attack: runs::checkpoint },
    #[cfg(feature = "trainer")]
    Target { name: "journal", attack: runs::journal },
    #[cfg(feature = "trainer")]
    Target { name: "run_cases", attack: runs::run_cases },
    #[cfg(feature = "trainer")]
    Target { name: "mlflow", attack: runs::mlflow },
    #[cfg(feature = "trainer")]
    Target { name: "pth", attack: runs::pth },
    #[cfg(feature = "trainer")]
    Target { name: "safetensors", attack: runs::safetensors },
];

impl Target {
    /// All readers of this build.
    #[must_use]
    pub fn all() -> &'static [Self] {
        TARGETS
    }

    /// Finds the reader with this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        TARGETS.iter().find(|target| target.name == name).copied()
    }

    /// Inputs in `corpus`, sorted by name.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn corpus(&self) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name);
        let paths = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
        let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        paths.into_iter().map(|path| std::fs::read(&path).map(|bytes| (path, bytes))).collect()
    }

    /// Passes bytes to the reader, as files in the folder `scratch` if it reads files.
    ///
    /// # Panics
    /// If the reader panics, returns a value that breaks its promise, or an error of several lines.
    pub fn attack(&self, scratch: &Path, bytes: &[u8]) {
        (self.attack)(scratch, bytes);
    }
}

/// Checks that an error with its sources is one line.
fn check_error(error: &dyn Error) {
    check_line(&error.to_string());
    let mut source = error.source();
    while let Some(error) = source {
        check_line(&error.to_string());
        source = error.source();
    }
}

/// Checks that a text is one line.
fn check_line(text: &str) {
    assert!(!text.contains('\n'), "an error of several lines: {text}");
}

/// Writes a file of a target.
fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
}
