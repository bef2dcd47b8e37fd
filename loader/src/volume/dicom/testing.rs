//! DICOM files with any element, for tests.

use std::path::{Path, PathBuf};

use dicom_core::value::{DataSetSequence, PixelFragmentSequence, Value};
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

pub(crate) const EXPLICIT: &str = "1.2.840.10008.1.2.1";
pub(crate) const CT: &str = "1.2.840.10008.5.1.4.1.1.2";

/// A CT image of 3 columns of 0.5 mm and 2 rows of 0.6 mm, with pixels of 12 bits and an intercept of -1024.
#[derive(Clone)]
pub(crate) struct TestSlice {
    elements: InMemDicomObject,
    syntax: String,
}

impl TestSlice {
    /// Creates a slice whose first pixel lies at -10, 20, `z` mm (LPS) and has the value `first`; each further pixel
    /// has 10 more.
    pub(crate) fn new(z: f64, first: u16) -> Self {
        let slice = Self { elements: InMemDicomObject::new_empty(), syntax: EXPLICIT.to_owned() };
        let pixels: Vec<u16> = (0..6).map(|at| first + 10 * at).collect();
        slice
            .text(tags::SOP_CLASS_UID, VR::UI, CT)
            .text(tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\AXIAL")
            .text(tags::MODALITY, VR::CS, "CT")
            .text(tags::SERIES_INSTANCE_UID, VR::UI, "1.2.3")
            .text(tags::SERIES_NUMBER, VR::IS, "3")
            .text(tags::SERIES_DESCRIPTION, VR::LO, "Abdomen 1.5 / B30f")
            .text(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, "1\\0\\0\\0\\1\\0")
            .at([-10.0, 20.0, z])
            .text(tags::PIXEL_SPACING, VR::DS, "0.6\\0.5")
            .text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2")
            .text(tags::RESCALE_SLOPE, VR::DS, "1")
            .text(tags::RESCALE_INTERCEPT, VR::DS, "-1024")
            .text(tags::RESCALE_TYPE, VR::LO, "HU")
            .number(tags::SAMPLES_PER_PIXEL, 1)
            .number(tags::ROWS, 2)
            .number(tags::COLUMNS, 3)
            .number(tags::BITS_ALLOCATED, 16)
            .number(tags::BITS_STORED, 12)
            .number(tags::HIGH_BIT, 11)
            .number(tags::PIXEL_REPRESENTATION, 0)
            .pixels(&pixels)
    }

    fn put(mut self, tag: Tag, vr: VR, value: PrimitiveValue) -> Self {
        self.elements.put(DataElement::new(tag, vr, value));
        self
    }

    pub(crate) fn text(self, tag: Tag, vr: VR, value: &str) -> Self {
        self.put(tag, vr, PrimitiveValue::from(value))
    }

    pub(crate) fn number(self, tag: Tag, value: u16) -> Self {
        self.put(tag, VR::US, PrimitiveValue::from(value))
    }

    pub(crate) fn at(self, position: [f64; 3]) -> Self {
        let text = position.map(|part| part.to_string()).join("\\");
        self.text(tags::IMAGE_POSITION_PATIENT, VR::DS, &text)
    }

    /// Adds a sequence of items without elements.
    pub(crate) fn sequence(mut self, tag: Tag, num_items: usize) -> Self {
        let items = DataSetSequence::from(vec![InMemDicomObject::new_empty(); num_items]);
        self.elements.put(DataElement::new(tag, VR::SQ, items));
        self
    }

    pub(crate) fn without(mut self, tag: Tag) -> Self {
        self.elements.remove_element(tag);
        self
    }

    pub(crate) fn pixels(self, pixels: &[u16]) -> Self {
        self.put(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(pixels.iter().copied().collect()))
    }

    pub(crate) fn syntax(mut self, uid: &str) -> Self {
        uid.clone_into(&mut self.syntax);
        self
    }

    /// Replaces the pixels by these compressed fragments, in another transfer syntax.
    pub(crate) fn encapsulated(mut self, syntax: &str, fragments: &[&[u8]]) -> Self {
        let fragments: Vec<Vec<u8>> = fragments.iter().map(|fragment| fragment.to_vec()).collect();
        let value = Value::PixelSequence(PixelFragmentSequence::new(vec![], fragments));
        self.elements.put(DataElement::new(tags::PIXEL_DATA, VR::OB, value));
        self.syntax(syntax)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let meta = FileMetaTableBuilder::new()
            .transfer_syntax(self.syntax.as_str())
            .media_storage_sop_class_uid(CT)
            .media_storage_sop_instance_uid("1.2.3.4");
        let mut bytes = Vec::new();
        self.elements.clone().with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
        bytes
    }

    /// Writes the file, creating its folder.
    pub(crate) fn write(&self, path: &Path) -> PathBuf {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, self.to_bytes()).unwrap();
        path.to_owned()
    }
}

/// Four slices at 0, 2, 4 and 6 mm; the first pixels have the values 1000, 1100, 1200 and 1300.
pub(crate) fn slices() -> Vec<TestSlice> {
    (0..4u16).map(|number| TestSlice::new(f64::from(number) * 2.0, 1000 + 100 * number)).collect()
}

/// Writes slices as `IM_0001` and so on, the last one first.
pub(crate) fn write_series(folder: &Path, slices: &[TestSlice]) -> Vec<PathBuf> {
    let write = |(number, slice): (usize, &TestSlice)| slice.write(&folder.join(format!("IM_{number:04}")));
    slices.iter().rev().enumerate().map(write).collect()
}
