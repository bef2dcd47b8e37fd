//! One file of a series: its position, the form of its pixels, and the meaning of their values.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use dicom_core::Tag;
use dicom_dictionary_std::{tags, uids};

use super::super::{VolumeError, VolumeFault, open_regular, stand_in};
use super::DicomFault;
use super::elements::{Elements, Syntax};
use crate::escape::shown;

/// Elements read of every file.
const WANTED: [Tag; 26] = [
    tags::IMAGE_TYPE,
    tags::SOP_CLASS_UID,
    tags::MODALITY,
    tags::SERIES_DESCRIPTION,
    tags::SERIES_INSTANCE_UID,
    tags::SERIES_NUMBER,
    tags::INSTANCE_NUMBER,
    tags::SLICE_THICKNESS,
    tags::IMAGE_POSITION_PATIENT,
    tags::IMAGE_ORIENTATION_PATIENT,
    tags::SAMPLES_PER_PIXEL,
    tags::NUMBER_OF_FRAMES,
    tags::ROWS,
    tags::COLUMNS,
    tags::PIXEL_SPACING,
    tags::BITS_ALLOCATED,
    tags::BITS_STORED,
    tags::HIGH_BIT,
    tags::PIXEL_REPRESENTATION,
    tags::PIXEL_PADDING_VALUE,
    tags::PIXEL_PADDING_RANGE_LIMIT,
    tags::RESCALE_INTERCEPT,
    tags::RESCALE_SLOPE,
    tags::RESCALE_TYPE,
    tags::MODALITY_LUT_SEQUENCE,
    tags::PHOTOMETRIC_INTERPRETATION,
];

/// Reads the needed elements of a file, without its pixels.
pub(super) fn read_elements(path: &Path) -> Result<Elements, VolumeError> {
    let at = |reason| VolumeError { path: path.to_owned(), reason };
    let file: File = open_regular(path).map_err(at)?;
    let mut reader = BufReader::new(file);
    let replaced = stand_in::fault(reader.fill_buf().map_err(|err| at(VolumeFault::read(&err)))?);
    Elements::read(reader, &WANTED, false).map_err(|fault| match (fault, replaced) {
        (DicomFault::NotDicom, Some(reason)) => at(reason),
        (fault, _) => fault.at(path),
    })
}

/// Reads the elements of a file in memory, with its pixels.
pub(super) fn parse_elements(file: &[u8]) -> Result<Elements, DicomFault> {
    Elements::read(std::io::Cursor::new(file), &WANTED, true)
}

/// Returns true for the enhanced SOP classes, whose files hold all slices.
fn is_enhanced(class: &str) -> bool {
    [
        uids::ENHANCED_CT_IMAGE_STORAGE,
        uids::LEGACY_CONVERTED_ENHANCED_CT_IMAGE_STORAGE,
        uids::ENHANCED_MR_IMAGE_STORAGE,
        uids::LEGACY_CONVERTED_ENHANCED_MR_IMAGE_STORAGE,
        uids::ENHANCED_PET_IMAGE_STORAGE,
        uids::LEGACY_CONVERTED_ENHANCED_PET_IMAGE_STORAGE,
    ]
    .contains(&class)
}

/// Numbers that describe a stored pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PixelForm {
    /// Bits in which a pixel is stored, 8 or 16.
    pub bits_allocated: u16,
    /// Bits that hold the value, 1 to `bits_allocated`.
    pub bits_stored: u16,
    /// Position of the highest bit.
    pub high_bit: u16,
    pub is_signed: bool,
}

/// Lowest and highest stored value of pixels outside the scanner's field of view.
pub(super) type Padding = (i32, i32);

/// An image of a series.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own that the header states")]
pub(super) struct Slice {
    pub path: PathBuf,
    /// True for a CT; images of other modalities have values without a fixed unit.
    pub is_ct: bool,
    pub syntax: Syntax,
    /// Name of the series for messages.
    pub series: String,
    pub rows: usize,
    pub columns: usize,
    pub form: PixelForm,
    /// Position of the first pixel in mm, LPS.
    pub position: [f64; 3],
    /// Directions in which the column and the row number increase, LPS, of length 1.
    pub axes: [[f64; 3]; 2],
    /// Distances between columns and between rows, in mm.
    pub sides: [f64; 2],
    /// Number of the image in its series, if the header has it.
    pub number: Option<f64>,
    /// Thickness in mm, if the header has it.
    pub thickness: Option<f64>,
    /// Slope and intercept to HU, or to the values of another modality.
    pub rescale: (f64, f64),
    /// True if the header has a rescaling.
    pub is_rescaled: bool,
    /// Unit of the rescaled values, if the header names it.
    pub unit: Option<String>,
    /// True for `MONOCHROME1`, which displays the lowest values as white but does not change the values.
    pub is_shown_inverted: bool,
    /// True for a projection through several slices, such as one of maximum intensity.
    pub is_projection: bool,
    pub padding: Option<Padding>,
}

impl Slice {
    pub(super) fn read(path: &Path) -> Result<Self, VolumeError> {
        let elements = read_elements(path)?;
        Self::new(path, &elements).map_err(|fault| fault.at(path))
    }

    pub(super) fn new(path: &Path, elements: &Elements) -> Result<Self, DicomFault> {
        let series = series_name(elements);
        let frames = elements.first(tags::NUMBER_OF_FRAMES);
        let class = elements.first(tags::SOP_CLASS_UID).unwrap_or_default();
        if frames.is_some_and(|frames| frames != "1") || is_enhanced(&class) {
            return Err(DicomFault::MultiFrame { series });
        }
        let unsigned = |name, tag| {
            let problem = || DicomFault::Element { name, problem: "is missing".to_owned() };
            elements.unsigned(tag).ok_or_else(problem)
        };
        let samples = elements.unsigned(tags::SAMPLES_PER_PIXEL).unwrap_or(1);
        if samples != 1 {
            return Err(element("SamplesPerPixel", format!("is {samples}; expected 1")));
        }
        let photometric = elements.first(tags::PHOTOMETRIC_INTERPRETATION).unwrap_or_default();
        if !["", "MONOCHROME1", "MONOCHROME2"].contains(&photometric.as_str()) {
            return Err(element("PhotometricInterpretation", format!("is {photometric:?}; expected MONOCHROME2")));
        }
        let (rows, columns) = (unsigned("Rows", tags::ROWS)?.into(), unsigned("Columns", tags::COLUMNS)?.into());
        let form = form(elements)?;
        let [side_y, side_x] = numbers(elements, "PixelSpacing", tags::PIXEL_SPACING)?;
        if !(side_x > 0.0 && side_y > 0.0) {
            return Err(element("PixelSpacing", format!("is {side_y}\\{side_x}; expected positive lengths")));
        }
        let (rescale, is_rescaled) = rescale(elements)?;
        let decimal = |tag| elements.decimals(tag)?.first().copied();
        Ok(Self {
            path: path.to_owned(),
            is_ct: elements.first(tags::MODALITY).is_none_or(|modality| modality == "CT"),
            syntax: elements.syntax.clone(),
            series,
            rows,
            columns,
            form,
            position: numbers(elements, "ImagePositionPatient", tags::IMAGE_POSITION_PATIENT)?,
            axes: axes(numbers(elements, "ImageOrientationPatient", tags::IMAGE_ORIENTATION_PATIENT)?)?,
            sides: [side_x, side_y],
            number: decimal(tags::INSTANCE_NUMBER),
            thickness: decimal(tags::SLICE_THICKNESS),
            rescale,
            is_rescaled,
            unit: elements.first(tags::RESCALE_TYPE),
            is_shown_inverted: photometric == "MONOCHROME1",
            is_projection: elements.text(tags::IMAGE_TYPE).unwrap_or_default().iter().any(|part| is_projection(part)),
            padding: padding(elements, form),
        })
    }

    /// Name of the file, for messages.
    pub(super) fn file_name(&self) -> String {
        shown(Path::new(self.path.file_name().unwrap_or_default()))
    }
}

/// Returns true for a part of `ImageType` that means a projection (PS3.3 C.8.16.1.4, and usage before it).
fn is_projection(part: &str) -> bool {
    ["MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE"].contains(&part)
}

fn element(name: &'static str, problem: String) -> DicomFault {
    DicomFault::Element { name, problem }
}

fn numbers<const N: usize>(elements: &Elements, name: &'static str, tag: Tag) -> Result<[f64; N], DicomFault> {
    let numbers = elements.decimals(tag).and_then(|numbers| <[f64; N]>::try_from(numbers).ok());
    numbers.ok_or_else(|| element(name, format!("is missing or not {N} numbers")))
}

fn form(elements: &Elements) -> Result<PixelForm, DicomFault> {
    let bits_allocated = elements.unsigned(tags::BITS_ALLOCATED).unwrap_or(0);
    if ![8, 16].contains(&bits_allocated) {
        return Err(element("BitsAllocated", format!("is {bits_allocated}; expected 8 or 16")));
    }
    let bits_stored = elements.unsigned(tags::BITS_STORED).unwrap_or(bits_allocated);
    if !(1..=bits_allocated).contains(&bits_stored) {
        return Err(element("BitsStored", format!("is {bits_stored}; expected 1 to {bits_allocated}")));
    }
    let high_bit = elements.unsigned(tags::HIGH_BIT).unwrap_or(bits_stored - 1);
    if !(bits_stored - 1..bits_allocated).contains(&high_bit) {
        let problem = format!("is {high_bit}; expected {} to {}", bits_stored - 1, bits_allocated - 1);
        return Err(element("HighBit", problem));
    }
    match elements.unsigned(tags::PIXEL_REPRESENTATION) {
        Some(sign @ (0 | 1)) => Ok(PixelForm { bits_allocated, bits_stored, high_bit, is_signed: sign == 1 }),
        _ => Err(element("PixelRepresentation", "is missing or neither 0 nor 1".to_owned())),
    }
}

/// Directions of columns and rows, normalised to length 1.
fn axes([ax, ay, az, bx, by, bz]: [f64; 6]) -> Result<[[f64; 3]; 2], DicomFault> {
    let axes = [[ax, ay, az], [bx, by, bz]];
    let lengths = axes.map(|axis| dot(axis, axis).sqrt());
    let is_rotation = lengths.iter().all(|length| (length - 1.0).abs() < 0.01) && dot(axes[0], axes[1]).abs() < 0.01;
    if !is_rotation {
        return Err(element("ImageOrientationPatient", "is not two perpendicular directions".to_owned()));
    }
    Ok(std::array::from_fn(|axis| axes[axis].map(|part| part / lengths[axis])))
}

pub(super) fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn rescale(elements: &Elements) -> Result<((f64, f64), bool), DicomFault> {
    let is_there = |tag| elements.text(tag).is_some();
    if !is_there(tags::RESCALE_SLOPE) && !is_there(tags::RESCALE_INTERCEPT) {
        if elements.has(tags::MODALITY_LUT_SEQUENCE) {
            let problem = "maps the stored values by a table, which is not read; convert the series to .nii.gz";
            return Err(element("ModalityLUTSequence", problem.to_owned()));
        }
        return Ok(((1.0, 0.0), false));
    }
    let [slope] = numbers(elements, "RescaleSlope", tags::RESCALE_SLOPE)?;
    let [intercept] = numbers(elements, "RescaleIntercept", tags::RESCALE_INTERCEPT)?;
    if slope == 0.0 {
        return Err(element("RescaleSlope", "is 0; the values are unknown".to_owned()));
    }
    Ok(((slope, intercept), true))
}

fn padding(elements: &Elements, form: PixelForm) -> Option<Padding> {
    // The sign is that of the stored bits where these are the low ones; writers extend it to 16 bits or not.
    let unused = if form.high_bit + 1 == form.bits_stored { 16 - form.bits_stored } else { 0 };
    #[expect(clippy::cast_possible_wrap, reason = "a signed value is stored in these bits")]
    let value = |raw: u16| if form.is_signed { i32::from(((raw << unused) as i16) >> unused) } else { i32::from(raw) };
    let first = value(elements.unsigned(tags::PIXEL_PADDING_VALUE)?);
    let limit = elements.unsigned(tags::PIXEL_PADDING_RANGE_LIMIT).map_or(first, value);
    Some((first.min(limit), first.max(limit)))
}

/// Name of a series for messages, such as `series 3 "ABDOMEN"`, as far as the header provides it.
pub(super) fn series_name(elements: &Elements) -> String {
    let number = elements.first(tags::SERIES_NUMBER).unwrap_or_default();
    let description = elements.text(tags::SERIES_DESCRIPTION).map(|parts| parts.join(" ")).unwrap_or_default();
    let [number, description] = [number, description].map(|text| text.escape_debug().take(60).collect::<String>());
    match (number.is_empty(), description.is_empty()) {
        (false, false) => format!("series {number} \"{description}\""),
        (false, true) => format!("series {number}"),
        (true, false) => format!("series \"{description}\""),
        (true, true) => "series".to_owned(),
    }
}
