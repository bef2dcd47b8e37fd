//! Search for scans, input by input.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use hiend_cache::{FileError, lookup};
use hiend_loader::dataset::{ChannelNames, NameRole};
use hiend_loader::preprocess::normalize::Normalize;
use hiend_loader::volume::file_stem;

use super::not_scans::NotScans;
use super::series::{DicomFiles, Reports};
use super::{Listing, ScanFile, ScanFilesError, Scans, channel_names, file_name, unread, unseen};

/// Scans of the inputs so far, and the folders that were read for them.
pub(super) struct Search {
    normalize: Normalize,
    scans: Scans,
    not_scans: NotScans,
    /// Real paths of the scans.
    seen: BTreeSet<PathBuf>,
    /// Names in each folder, listed once: files that are given one by one are read by them.
    names_in: BTreeMap<PathBuf, ChannelNames>,
    /// DICOM files of each folder from which single files were given.
    dicom_in: BTreeMap<PathBuf, DicomFiles>,
    /// Names of given files in these folders that are not slices of a series.
    others_in: BTreeMap<PathBuf, BTreeSet<OsString>>,
}

impl Search {
    pub(super) fn new(normalize: Normalize) -> Self {
        Self {
            normalize,
            scans: Scans::default(),
            not_scans: NotScans::default(),
            seen: BTreeSet::new(),
            names_in: BTreeMap::new(),
            dicom_in: BTreeMap::new(),
            others_in: BTreeMap::new(),
        }
    }

    /// Adds the scans of a folder, or a file.
    ///
    /// # Errors
    /// If the input does not exist, its folder cannot be listed, or two files are of one case.
    pub(super) fn add(&mut self, input: &Path) -> Result<(), ScanFilesError> {
        let metadata = match lookup::metadata(input) {
            Ok(Some(metadata)) => metadata,
            Ok(None) => return Err(ScanFilesError::Absent { path: input.to_owned() }),
            Err(error) => {
                self.scans.skip(file_name(input), unseen(&error));
                return Ok(());
            }
        };
        let folder = if metadata.is_dir() { input } else { lookup::parent(input) };
        if !self.names_in.contains_key(folder) {
            self.names_in.insert(folder.to_owned(), channel_names(folder)?);
        }
        let found = if metadata.is_dir() {
            self.scans_of(folder)?
        } else {
            self.scan_of(input, folder, metadata.is_file())?.into_iter().collect()
        };
        let names = &self.names_in[folder];
        for ScanFile { name, path, is_series } in found {
            if self.seen.insert(path.canonicalize().map_err(FileError::at(&path, "look up"))?) {
                self.scans.add(if is_series { NameRole::Case(&name) } else { names.role(&name) }, path)?;
            }
        }
        Ok(())
    }

    /// Scans of a folder; reports its other contents.
    fn scans_of(&mut self, folder: &Path) -> Result<Vec<ScanFile>, ScanFilesError> {
        let listing = Listing::of(folder)?.with_series(folder, self.normalize);
        if listing.files.is_empty() && listing.unusable.is_empty() {
            self.not_scans.folders.push((folder.to_owned(), listing.subfolders));
            return Ok(Vec::new());
        }
        self.scans.skipped.extend(listing.unusable);
        self.scans.passed_over.extend(listing.passed_over);
        self.scans.subfolders.extend(listing.subfolders);
        Ok(listing.files)
    }

    /// Scan that a file of `folder` is or belongs to; reports a file that is not a scan.
    fn scan_of(&mut self, file: &Path, folder: &Path, is_regular: bool) -> Result<Option<ScanFile>, ScanFilesError> {
        let name = file_name(file);
        if let Some(stem) = file_stem(&name) {
            return Ok(Some(ScanFile { name: stem.to_owned(), path: file.to_owned(), is_series: false }));
        }
        if !self.dicom_in.contains_key(folder) {
            self.dicom_in.insert(folder.to_owned(), DicomFiles::of(folder, self.normalize)?);
        }
        let files = &self.dicom_in[folder];
        if let Some(scan) = files.series_of(file) {
            return Ok(Some(scan.clone()));
        }
        if files.has_other(file) {
            let others = self.others_in.entry(folder.to_owned()).or_default();
            others.extend(file.file_name().map(ToOwned::to_owned));
            return Ok(None);
        }
        // Not opened: a FIFO would block.
        let content = if is_regular { file } else { Path::new("") };
        match unread(&name, content) {
            Some(reason) => self.scans.skip(name, reason),
            None => self.not_scans.files.push(file.to_owned()),
        }
        Ok(None)
    }

    /// Returns all scans, with remarks on the inputs that are not scans.
    ///
    /// # Errors
    /// If no input is a scan or holds one.
    pub(super) fn finish(self, inputs: &[PathBuf]) -> Result<Scans, ScanFilesError> {
        let Self { normalize, mut scans, mut not_scans, dicom_in, others_in, .. } = self;
        // Files whose folder is an input too are reported with the others of that folder.
        for (folder, given) in others_in.iter().filter(|(folder, _)| !inputs.contains(folder)) {
            let Reports { unusable, passed_over } = dicom_in[folder].reports(Some(given));
            scans.skipped.extend(unusable);
            scans.passed_over.extend(passed_over);
        }
        scans.passed_over.sort();
        if !(scans.files.is_empty() && scans.skipped.is_empty()) {
            not_scans.pass_over(&mut scans, normalize);
            return Ok(scans);
        }
        // Where no input is a scan, these files are what was meant, and an error names one.
        let part_of_study = others_in.iter().find_map(|(folder, given)| Some(folder.join(given.first()?)));
        not_scans.files.extend(part_of_study);
        not_scans.fault(normalize).map_or(Ok(scans), Err)
    }
}
