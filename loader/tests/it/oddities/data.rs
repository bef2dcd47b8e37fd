//! Folders of examples.

use std::path::PathBuf;

use super::nifti::Nifti;

/// Folder of an example.
pub(super) struct Data(pub PathBuf);

impl Data {
    /// Path of a file or folder in the example, whose folder is created.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub(super) fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Writes a scan under each of these names.
    pub(super) fn scans(&self, names: &[&str]) {
        for name in names {
            let scan = Nifti::scan();
            self.file(name, if name.to_lowercase().ends_with(".gz") { scan.gzip() } else { scan.file() });
        }
    }

    /// Writes a label map under each of these names.
    pub(super) fn labels(&self, names: &[&str]) {
        for name in names {
            self.file(name, Nifti::label().file());
        }
    }

    /// Writes the odd case of a dataset in nnU-Net's layout, next to a larger one without oddities.
    pub(super) fn odd(&self, image: impl AsRef<[u8]>) {
        self.file("Dataset001_Odd/imagesTr/odd_0000.nii", image);
        self.file("Dataset001_Odd/imagesTr/whole_0000.nii", Nifti::larger().file());
    }

    /// Writes the label map of a scan, next to a larger case without oddities; `dataset.json` names the classes 1 and 2.
    pub(super) fn odd_label(&self, label: impl AsRef<[u8]>) {
        self.odd(Nifti::scan().file());
        self.file("Dataset001_Odd/labelsTr/odd.nii", label);
        let whole = Nifti::of([14, 13, 12], [super::nifti::SIDE; 3], |place, _| {
            i16::from(place[0] > 0.0) + i16::from(place[0] > 20.0)
        });
        self.file("Dataset001_Odd/labelsTr/whole.nii", whole.file());
        self.description(r#"{"labels": {"background": 0, "liver": 1, "spleen": 2}}"#);
    }

    pub(super) fn description(&self, json: &str) {
        self.file("Dataset001_Odd/dataset.json", json);
    }
}
