//! Lists of the kernels: those that are launched are also compiled for a GPU on machines without one.

use std::fs;
use std::path::{Path, PathBuf};

/// Source files below a folder.
pub(super) fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Names of the functions that a source file marks as launched kernels.
fn launched(source: &str) -> Vec<String> {
    // In two parts, so that this file has none.
    let mark = concat!("#[cube(", "launch");
    let kernel = |after: &str| {
        let (_, signature) = after.split_once("fn ").expect("a kernel is a function");
        signature.split(['(', '<']).next().unwrap_or_default().to_owned()
    };
    source.split(mark).skip(1).map(kernel).collect()
}

/// `ops/kernels/ptx.rs` compiles each kernel by the code generator that CUDA devices use. No CI runs it on a device, so a
/// kernel that it lacks would meet that generator on a user's machine first.
#[test]
fn every_launched_kernel_is_compiled_without_a_device() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let ptx = fs::read_to_string(folder.join("ops/kernels/ptx.rs")).unwrap();
    let mut kernels = 0;
    for file in sources(&folder) {
        for kernel in launched(&fs::read_to_string(&file).unwrap()) {
            assert!(ptx.contains(&format!("::{kernel}::")), "{}: {kernel} is not in ptx.rs", file.display());
            kernels += 1;
        }
    }
    assert!(kernels >= 25, "only {kernels} kernels were found");
}

#[test]
fn launched_kernels_are_found_by_their_marks() {
    let mark = concat!("#[cube(", "launch");
    let source = format!(
        "{mark}_unchecked)]\npub(super) fn one<T: Float>(x: &[T]) {{}}\n#[cube]\nfn not_launched() {{}}\n{mark})]\nfn two(\n"
    );
    assert_eq!(launched(&source), ["one", "two"]);
}
