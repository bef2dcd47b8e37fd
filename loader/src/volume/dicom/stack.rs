//! Arrangement of a series' slices on one grid: their order, duplicates, gaps and tilt.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::dtype::{Dtype, Stored};
use super::super::note::HeaderNote;
use super::super::place::{self, LPS};
use super::super::{Format, Loaded, VolumeError, VolumeFault, VolumeInfo, read_file};
use super::DicomFault;
use super::pixels::decode;
use super::slice::{Slice, dot, parse_elements};

/// Distance along the stack, in mm, below which two images have the same position.
const SAME_POSITION_MM: f64 = 1e-3;
/// Largest distance of a slice from its place in a regular stack, as a share of the slice distance: covers the rounding
/// of positions in headers, and is too small to change voxels noticeably.
const MAX_JITTER: f64 = 0.1;
/// Smallest reported tilt of the stack against its slices, in degrees.
const NOTED_TILT_DEGREES: f64 = 0.1;
/// Share of pixels with bits above those of `BitsStored` from which that number is doubted: overlays and the corners around a
/// round field of view (21%) have them as well.
const TOLD_CUT_SHARE: f64 = 0.25;
/// Largest difference between the components of two directions that count as equal.
const SAME_DIRECTION: f64 = 1e-3;
/// Range in HU of tissue, bone and metal; padding never lies in it.
const TISSUE_HU: std::ops::RangeInclusive<f64> = -900.0..=3071.0;
/// HU assigned to pixels outside the scanner's field of view.
const AIR_HU: f64 = -1024.0;
/// Value assigned to such pixels in images of other modalities: the one that z-scores treat as empty.
const EMPTY: f64 = 0.0;

/// Slices in the order of the stack.
#[derive(Debug)]
pub(super) struct Stack {
    pub info: VolumeInfo,
    slices: Vec<Slice>,
    /// Files whose slice repeats another slice.
    duplicates: Vec<PathBuf>,
    /// Slope and intercept, the same in all slices; `None` if they differ or cannot express padding.
    common_rescale: Option<(f64, f64)>,
}

/// Error from ordering slices: a fault of the series as a whole, or of one file.
pub(super) enum StackFault {
    Series(VolumeFault),
    File(VolumeError),
}

impl StackFault {
    /// Converts to an error at the file concerned, or at the folder of the series.
    pub(super) fn at(self, folder: &std::path::Path) -> VolumeError {
        match self {
            Self::Series(reason) => VolumeError { path: folder.to_owned(), reason },
            Self::File(error) => error,
        }
    }
}

impl From<VolumeFault> for StackFault {
    fn from(fault: VolumeFault) -> Self {
        Self::Series(fault)
    }
}

impl From<DicomFault> for StackFault {
    fn from(fault: DicomFault) -> Self {
        Self::Series(fault.into())
    }
}

impl From<VolumeError> for StackFault {
    fn from(error: VolumeError) -> Self {
        Self::File(error)
    }
}

impl Stack {
    pub(super) fn new(mut slices: Vec<Slice>) -> Result<Self, StackFault> {
        let Some(first) = slices.first().cloned() else {
            return Err(DicomFault::OneSlice { series: "series".to_owned() }.into());
        };
        check_alike(&first, &slices)?;
        if let Some(slice) = slices.iter().find(|slice| slice.syntax.compression.is_none()) {
            return Err(StackFault::File(slice.syntax.unsupported().at(&slice.path)));
        }
        let [along_x, along_y] = first.axes;
        let normal = [
            along_x[1] * along_y[2] - along_x[2] * along_y[1],
            along_x[2] * along_y[0] - along_x[0] * along_y[2],
            along_x[0] * along_y[1] - along_x[1] * along_y[0],
        ];
        slices.sort_by(|a, b| {
            let place = |slice: &Slice| dot(slice.position, normal);
            place(a).total_cmp(&place(b)).then_with(|| a.path.cmp(&b.path))
        });
        let duplicates = remove_duplicates(&mut slices, normal)?;
        if slices.len() < 2 {
            return Err(DicomFault::OneSlice { series: first.series }.into());
        }
        let offset = slice_offset(&slices, normal)?;
        let mut notes = Vec::new();
        if !duplicates.is_empty() {
            notes.push(HeaderNote::DuplicateSlices { count: duplicates.len() });
        }
        let length = dot(offset, offset).sqrt();
        let tilt = (dot(offset, normal) / length).clamp(-1.0, 1.0).acos().to_degrees();
        if tilt > NOTED_TILT_DEGREES {
            notes.push(HeaderNote::Tilt { degrees: tilt });
        }
        if let Some(stride) = stride_of_numbers(&slices, dot(offset, normal)).filter(|_| first.is_ct) {
            notes.push(HeaderNote::NumbersSkipped { stride });
        }
        if slices.iter().any(|slice| slice.is_projection) {
            notes.push(HeaderNote::Projection);
        }
        if first.is_ct {
            notes.extend(notes_on_units(&slices));
        }
        let num_inverted = slices.iter().filter(|slice| slice.is_shown_inverted).count();
        if num_inverted > 0 {
            notes.push(HeaderNote::ShownInverted { count: num_inverted, of: slices.len() });
        }
        let of_tissue = slices.iter().filter_map(padding_of_tissue);
        if let Some(range) = of_tissue.max_by(|a, b| a[1].total_cmp(&b[1])) {
            let is_ct = first.is_ct;
            notes.push(if is_ct {
                HeaderNote::PaddingIgnored { hu: range }
            } else {
                HeaderNote::PaddingKept { range }
            });
            for slice in &mut slices {
                slice.padding = None;
            }
        }
        let [side_x, side_y] = first.sides;
        let columns = [along_x.map(|part| part * side_x), along_y.map(|part| part * side_y), offset];
        let affine = place::mirrored(place::affine(columns, slices[0].position), LPS);
        let orientation = place::orientation(&affine)?;
        let (shape, num_voxels) = place::shape(vec![first.columns, first.rows, slices.len()])?;
        let common_rescale = common_rescale(&slices);
        let dtype = match (common_rescale, first.form.is_signed) {
            (None, _) => Dtype::F32,
            (Some(_), true) => Dtype::I16,
            (Some(_), false) => Dtype::U16,
        };
        let stored = Stored { dtype, is_big_endian: false };
        let data_bytes = num_voxels * dtype.len() as u64;
        let format = Format::Dicom;
        let info = VolumeInfo {
            shape,
            affine,
            orientation,
            data_bytes,
            notes,
            format,
            names: BTreeMap::new(),
            stored,
            nifti: None,
        };
        Ok(Self { info, slices, duplicates, common_rescale })
    }

    /// Reads the voxels.
    pub(super) fn load(self) -> Result<Loaded, VolumeError> {
        let Self { mut info, slices, duplicates, common_rescale } = self;
        let mut hasher = blake3::Hasher::new();
        let mut file_bytes = 0;
        for path in duplicates {
            let at = |err: std::io::Error| VolumeError { path: path.clone(), reason: VolumeFault::read(&err) };
            file_bytes += std::fs::metadata(&path).map_err(at)?.len();
        }
        // Grows with the files that are read: a header alone reserves nothing.
        let mut bytes = Vec::new();
        let (mut num_cut, mut num_pixels) = (0, 0);
        for slice in &slices {
            let file = read_file(&slice.path)?;
            hasher.update(&file);
            file_bytes += file.len() as u64;
            let at = |fault: DicomFault| fault.at(&slice.path);
            let elements = parse_elements(&file).map_err(at)?;
            let (values, cut) = decode(slice, &elements).map_err(at)?;
            num_cut += cut;
            num_pixels += values.len();
            let (slope, intercept) = slice.rescale;
            let is_padding = |value: i32| slice.padding.is_some_and(|(low, high)| (low..=high).contains(&value));
            if common_rescale.is_some() {
                let air = air_value(slice).unwrap_or(0);
                let stored = values.iter().map(|&value| if is_padding(value) { air } else { value });
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "values of 16 bits")]
                bytes.extend(stored.flat_map(|value| (value as u16).to_le_bytes()));
            } else {
                #[expect(clippy::cast_possible_truncation, reason = "values are f32 from here on")]
                let rescaled = |value: i32| {
                    (if is_padding(value) { outside(slice) } else { f64::from(value) * slope + intercept }) as f32
                };
                bytes.extend(values.iter().flat_map(|&value| rescaled(value).to_le_bytes()));
            }
        }
        let share = num_cut as f64 / num_pixels.max(1) as f64;
        if share > TOLD_CUT_SHARE {
            info.notes.push(HeaderNote::BitsCut { share });
        }
        let blake3 = hasher.finalize().to_hex().to_string();
        Ok(Loaded { info, blake3, file_bytes, bytes, offset: 0, scaling: common_rescale.unwrap_or((1.0, 0.0)) })
    }
}

/// Difference between the `InstanceNumber`s of slices next to each other, if it is the same above 1 for all, and the
/// distance of the slices in mm is as many times their thickness.
fn stride_of_numbers(slices: &[Slice], distance: f64) -> Option<f64> {
    let numbers: Vec<f64> = slices.iter().map(|slice| slice.number).collect::<Option<_>>()?;
    let (first, second) = (*numbers.first()?, *numbers.get(1)?);
    let stride = (second - first).abs();
    let is_constant = numbers.windows(2).all(|pair| (pair[1] - pair[0] - (second - first)).abs() < 0.5);
    let is_as_far = (distance - stride * slices.first()?.thickness?).abs() <= MAX_JITTER * distance;
    (is_constant && stride > 1.5 && is_as_far).then_some(stride)
}

/// Irregularities of the units of CT slices.
fn notes_on_units(slices: &[Slice]) -> Vec<HeaderNote> {
    let mut notes = Vec::new();
    // `check_alike` refuses a series with both.
    if slices.iter().any(|slice| !slice.is_rescaled) {
        notes.push(HeaderNote::NoRescale);
    }
    if let Some(unit) = slices.iter().find_map(|slice| slice.unit.as_ref().filter(|unit| *unit != "HU")) {
        notes.push(HeaderNote::Unit { unit: unit.escape_debug().take(32).collect() });
    }
    notes
}

/// Value assigned to pixels of a slice outside the scanner's field of view.
fn outside(slice: &Slice) -> f64 {
    if slice.is_ct { AIR_HU } else { EMPTY }
}

/// Lowest and highest value of a slice's padding, in HU for a CT, if the range contains values of tissue: programs that
/// rescale images keep the tag of the original, and zero would be both padding and water. In other modalities, tissue
/// may have any value above 0, the value that replaces padding.
fn padding_of_tissue(slice: &Slice) -> Option<[f64; 2]> {
    let (slope, intercept) = slice.rescale;
    let (first, limit) = slice.padding?;
    let [first, limit] = [first, limit].map(|value| f64::from(value) * slope + intercept);
    let (low, high) = (first.min(limit), first.max(limit));
    let is_tissue = if slice.is_ct { low <= *TISSUE_HU.end() && high >= *TISSUE_HU.start() } else { high > EMPTY };
    is_tissue.then_some([low, high])
}

/// Stored value of pixels outside the field of view, if the slice has one.
fn air_value(slice: &Slice) -> Option<i32> {
    let (slope, intercept) = slice.rescale;
    let value = (outside(slice) - intercept) / slope;
    let range = if slice.form.is_signed { -32_768.0..=32_767.0 } else { 0.0..=65_535.0 };
    #[expect(clippy::cast_possible_truncation, reason = "a whole number of 16 bits")]
    (value.fract() == 0.0 && range.contains(&value)).then_some(value as i32)
}

/// Rescaling shared by all slices, with which stored values can be kept unchanged; `None` if they differ.
fn common_rescale(slices: &[Slice]) -> Option<(f64, f64)> {
    let first = &slices[0];
    let is_common = slices.iter().all(|slice| slice.rescale == first.rescale);
    let is_padded = slices.iter().all(|slice| slice.padding.is_none() || air_value(slice).is_some());
    (is_common && is_padded).then_some(first.rescale)
}

/// Checks that all images can be slices of one volume.
fn check_alike(first: &Slice, slices: &[Slice]) -> Result<(), DicomFault> {
    let close = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < SAME_DIRECTION);
    let differs = |slice: &Slice| {
        if (slice.rows, slice.columns) != (first.rows, first.columns) {
            Some("sizes")
        } else if !(close(slice.axes[0], first.axes[0]) && close(slice.axes[1], first.axes[1])) {
            Some("orientations")
        } else if slice.sides.iter().zip(first.sides).any(|(a, b)| (a - b).abs() > SAME_DIRECTION * b) {
            Some("pixel spacings")
        } else if slice.form.is_signed != first.form.is_signed {
            Some("pixel representations")
        } else if slice.is_ct != first.is_ct {
            Some("modalities")
        } else if slice.is_ct && unit(slice) != unit(first) {
            Some("rescale types")
        } else {
            None
        }
    };
    match slices.iter().find_map(|slice| Some((slice, differs(slice)?))) {
        None => check_rescaled(slices),
        Some((other, property)) => Err(DicomFault::Mixed {
            series: first.series.clone(),
            property,
            first: first.file_name(),
            other: other.file_name(),
        }),
    }
}

/// Unit of a CT's values; HU unless another one is named.
fn unit(slice: &Slice) -> &str {
    slice.unit.as_deref().unwrap_or("HU")
}

/// Checks that either all images are rescaled or none: stored values and HU cannot be mixed in one volume.
fn check_rescaled(slices: &[Slice]) -> Result<(), DicomFault> {
    let (rescaled, plain): (Vec<&Slice>, Vec<&Slice>) = slices.iter().partition(|slice| slice.is_rescaled);
    let (Some(_), Some(example)) = (rescaled.first(), plain.first()) else { return Ok(()) };
    Err(DicomFault::SomeUnscaled {
        series: example.series.clone(),
        count: plain.len(),
        of: slices.len(),
        example: example.file_name(),
    })
}

/// Removes slices that repeat another slice at the same position, pixel by pixel.
fn remove_duplicates(slices: &mut Vec<Slice>, normal: [f64; 3]) -> Result<Vec<PathBuf>, StackFault> {
    let num_images = slices.len();
    let mut duplicates = Vec::new();
    // True if all images with equal places along the normal have equal positions.
    let mut is_one_position = true;
    let mut different: Option<(usize, String, String)> = None;
    let mut kept: Vec<Slice> = Vec::with_capacity(slices.len());
    // Position of the slice kept last, and its pixels once they are needed.
    let mut group: Option<(f64, Option<Vec<i32>>)> = None;
    for slice in slices.drain(..) {
        let place = dot(slice.position, normal);
        let near = group.as_mut().filter(|group| place - group.0 < SAME_POSITION_MM);
        let Some((other, (_, first))) = kept.last().zip(near) else {
            group = Some((place, None));
            kept.push(slice);
            continue;
        };
        let pixels = match first {
            Some(pixels) => &*pixels,
            None => &*first.insert(values_of(other)?),
        };
        let is_there = slice.position.iter().zip(other.position).all(|(a, b)| (a - b).abs() < SAME_POSITION_MM);
        is_one_position &= is_there;
        let (a, b) = (slice.rescale, other.rescale);
        let is_same = is_there && a == b && *pixels == values_of(&slice)?;
        if is_same {
            duplicates.push(slice.path);
        } else {
            let (count, ..) = different.get_or_insert_with(|| (0, other.file_name(), slice.file_name()));
            *count += 1;
        }
    }
    if let Some((count, first, other)) = different {
        let series = kept.first().map(|slice| slice.series.clone()).unwrap_or_default();
        return Err(match (kept.len(), is_one_position) {
            (1, true) => DicomFault::OnePosition { series, count: num_images },
            (1, false) => DicomFault::OnePlane { series, count: num_images },
            _ => DicomFault::SeveralImages { series, count, first, other },
        }
        .into());
    }
    *slices = kept;
    Ok(duplicates)
}

fn values_of(slice: &Slice) -> Result<Vec<i32>, VolumeError> {
    let file = read_file(&slice.path)?;
    let at = |fault: DicomFault| fault.at(&slice.path);
    Ok(decode(slice, &parse_elements(&file).map_err(at)?).map_err(at)?.0)
}

/// Returns the vector from one slice to the next, which must be the same for all.
fn slice_offset(slices: &[Slice], normal: [f64; 3]) -> Result<[f64; 3], DicomFault> {
    let (first, last) = (slices[0].position, slices[slices.len() - 1].position);
    let intervals = slices.len() as f64 - 1.0;
    let offset: [f64; 3] = std::array::from_fn(|axis| (last[axis] - first[axis]) / intervals);
    let length = dot(offset, normal);
    let is_regular = slices.iter().enumerate().all(|(number, slice)| {
        let off: [f64; 3] =
            std::array::from_fn(|axis| slice.position[axis] - first[axis] - offset[axis] * number as f64);
        dot(off, off).sqrt() <= MAX_JITTER * length
    });
    if is_regular {
        return Ok(offset);
    }
    let series = slices[0].series.clone();
    let places: Vec<f64> = slices.iter().map(|slice| dot(slice.position, normal)).collect();
    let gaps: Vec<f64> = places.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mut ordered = gaps.clone();
    ordered.sort_by(f64::total_cmp);
    let median = ordered[ordered.len() / 2];
    let intervals_in = |gap: f64| (gap / median).round().max(1.0);
    let are_multiples = gaps.iter().all(|gap| (gap - intervals_in(*gap) * median).abs() <= MAX_JITTER * median);
    let first_gap = gaps.iter().position(|gap| intervals_in(*gap) > 1.0);
    if let Some(at) = first_gap.filter(|_| are_multiples) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive whole number")]
        let missing = gaps.iter().map(|gap| intervals_in(*gap) - 1.0).sum::<f64>() as usize;
        let (before, after) = (slices[at].file_name(), slices[at + 1].file_name());
        return Err(DicomFault::MissingSlices { series, missing, of: slices.len() + missing, before, after });
    }
    // Distances along the stack may be equal while images are shifted in their planes.
    let lengths = slices.windows(2).map(|pair| {
        let [a, b] = [&pair[0], &pair[1]];
        let way: [f64; 3] = std::array::from_fn(|axis| b.position[axis] - a.position[axis]);
        dot(way, way).sqrt()
    });
    let range = lengths.fold((f64::INFINITY, 0.0f64), |(low, high), length| (low.min(length), high.max(length)));
    Err(DicomFault::Varying { series, least: range.0, most: range.1 })
}
