//! Targets that read volumes in files of every format.

use std::path::Path;

use hiend_loader::volume::{read_info, read_labels, read_volume};

use crate::{check_error, write};

/// Reads a `NIfTI` file, compressed or not.
pub(crate) fn nifti(scratch: &Path, bytes: &[u8]) {
    volume(scratch, "scan.nii", bytes);
}

/// Reads an NRRD file, and the same header with its voxels in a file of zeros.
pub(crate) fn nrrd(scratch: &Path, bytes: &[u8]) {
    detached(scratch);
    volume(scratch, "scan.nrrd", bytes);
    volume(scratch, "scan.nhdr", bytes);
}

/// Reads a `MetaImage` file, and the same header with its voxels in a file of zeros.
pub(crate) fn metaimage(scratch: &Path, bytes: &[u8]) {
    detached(scratch);
    volume(scratch, "scan.mha", bytes);
    volume(scratch, "scan.mhd", bytes);
}

/// Reads the last slice of a DICOM series, after three intact ones.
pub(crate) fn dicom(scratch: &Path, bytes: &[u8]) {
    let series = scratch.join("series");
    let intact = [
        &include_bytes!("../corpus/dicom/slice-0")[..],
        &include_bytes!("../corpus/dicom/slice-1")[..],
        &include_bytes!("../corpus/dicom/slice-2")[..],
    ];
    if !series.exists() {
        std::fs::create_dir(&series).expect("the scratch folder is writable");
        for (number, slice) in intact.iter().enumerate() {
            write(&series.join(format!("IM_{number:04}")), slice);
        }
    }
    write(&series.join("IM_0003"), bytes);
    read(&series);
}

/// Writes the file of voxels that headers in `corpus` name.
fn detached(scratch: &Path) {
    let path = scratch.join("scan.raw");
    if !path.exists() {
        write(&path, &[0; 4096]);
    }
}

fn volume(scratch: &Path, name: &str, bytes: &[u8]) {
    let path = scratch.join(name);
    write(&path, bytes);
    read(&path);
}

/// Reads header, voxels and labels of a file or a series.
fn read(path: &Path) {
    let info = read_info(path);
    if let Err(err) = &info {
        check_error(err);
    }
    match read_volume(path) {
        Ok(volume) => {
            let info = info.expect("a header whose voxels can be read is readable");
            assert_eq!(volume.info.shape, info.shape);
            assert!(!info.shape.contains(&0), "a volume of shape {:?}", info.shape);
            let mut num_voxels = 0;
            volume.for_each_row(|row| num_voxels += row.len());
            assert_eq!(num_voxels, info.shape.iter().product::<usize>());
        }
        Err(err) => check_error(&err),
    }
    if let Err(err) = read_labels(path) {
        check_error(&err);
    }
}
