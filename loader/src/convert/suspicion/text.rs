//! Reports of suspicious images, each in one line with the values found and the remedy.

use std::fmt;

use super::{EIGHT_BIT, NARROW, NORMALISED, OFFSET_SHARE, OFFSETS, PEAK_TOLERANCE, Suspicion};
use crate::convert::values::{BlankSlices, RepeatedSlices};
use crate::plural::count;
use crate::volume::Format;

/// Offset of a CT with air at this value, if programs are known to use that offset.
fn offset_of(air: f32) -> Option<f32> {
    // -1000 HU, and the lowest value of 12 bits.
    let is_air = |hu: f32| (hu + 1000.0).abs() <= PEAK_TOLERANCE || (hu + 1024.0).abs() <= PEAK_TOLERANCE;
    OFFSETS.into_iter().find(|offset| is_air(air - offset))
}

/// Remedy in the header, for formats in whose headers programs agree on an offset.
fn or_in_header(format: Format, offset: f32) -> String {
    match format {
        Format::Nifti => format!(
            ", or lower scl_inter in the header by {offset}, to -{offset} where it is 0 (and set a scl_slope of 0 to 1)"
        ),
        Format::Dicom => {
            format!(", or lower RescaleIntercept by {offset} in all files (set it to -{offset} where they lack it)")
        }
        Format::Nrrd | Format::MetaImage => String::new(),
    }
}

/// Clause that nearly all values lie between two ends; empty if all do.
fn nearly_all_within(min: f32, max: f32, [low, high]: [f32; 2]) -> String {
    if min >= low && max <= high { String::new() } else { format!(", nearly all of them from {low} to {high}") }
}

/// Value of an image, with an exponent where it has many digits.
fn short(value: f32) -> String {
    if value.abs() < 1e7 { value.to_string() } else { format!("{value:e}") }
}

/// Writes the report of an offset; `share` is that of voxels near 1024.
fn write_offset(
    f: &mut fmt::Formatter<'_>,
    [min, max]: [f32; 2],
    share: f64,
    air: Option<f32>,
    format: Format,
) -> fmt::Result {
    write!(f, "values {min} to {max}")?;
    match (air, air.and_then(offset_of)) {
        (Some(air), Some(offset)) => {
            let remedy = or_in_header(format, offset);
            write!(f, ", with air at {air}: HU with an offset of {offset}; subtract it from the voxels{remedy}")
        }
        (Some(air), None) => write!(
            f,
            ": HU with an offset; the lowest frequent value is {air}, which is about the offset - 1000 if it is air; subtract \
             the offset, or convert the original scan"
        ),
        (None, _) if share >= OFFSET_SHARE => write!(
            f,
            ", {:.0}% of them near 1024: HU with an offset, 1024 as a rule; subtract it from the voxels{}",
            share * 100.0,
            or_in_header(format, 1024.0)
        ),
        (None, _) => {
            write!(f, ": HU with an offset whose size the values do not show; convert the original scan")
        }
    }
}

/// Writes the report of values of which hardly any is below 0.
fn write_no_negatives(f: &mut fmt::Formatter<'_>, [min, max]: [f32; 2]) -> fmt::Result {
    let [what, exception] = if min >= 0.0 {
        ["none negative: an MR, or a CT that is not in HU", ""]
    } else {
        [
            "hardly any below -50: an MR, a CT that is not in HU, or one that was clipped or masked",
            "; leave it if the values are HU",
        ]
    };
    write!(f, "values {min} to {max}, {what}; exclude it, or convert the original scan{exception}")
}

/// Writes the report of noise.
fn write_noise(f: &mut fmt::Formatter<'_>, [min, max]: [f32; 2]) -> fmt::Result {
    write!(
        f,
        "values {min} to {max}, and neighbouring voxels differ as much as any two: noise, or voxels that were read with another \
         data type, byte order or shape; convert the original scan"
    )
}

/// Writes the report of air that another origin or scale has moved.
fn write_moved(f: &mut fmt::Formatter<'_>, [min, max]: [f32; 2], share: f64, [first, last]: [i32; 2]) -> fmt::Result {
    write!(
        f,
        "values {min} to {max}, {:.0}% of them from {first} to {last}, where HU have neither air nor fat: HU with another origin \
         or scale; convert the original scan",
        share * 100.0
    )
}

/// Writes the report of a scan that was clipped at a value, which is rounded down.
fn write_clipped(f: &mut fmt::Formatter<'_>, [min, max]: [f32; 2], share: f64, value: i32) -> fmt::Result {
    let whole = value as f32;
    let low = if min > whole && min < whole + 1.0 { min.ceil() } else { whole };
    write!(
        f,
        "values {min} to {max}, {:.0}% of them {value}: clipped or masked within the window, so that air counts as foreground; \
         convert the original scan, or give such scans a --window that begins at {low}",
        share * 100.0
    )
}

/// Writes the report of slices of one value, which are counted from 1.
fn write_blank(f: &mut fmt::Formatter<'_>, blank: BlankSlices) -> fmt::Result {
    let BlankSlices { value, axis, num, ends: [first, last], all, is_padded } = blank;
    let (first, last) = (first + 1, last + 1);
    match num {
        1 => write!(f, "slice {first} of {all} holds")?,
        _ if num == last + 1 - first => write!(f, "slices {first} to {last} of {all} hold")?,
        _ => write!(f, "{num} of {all} slices, from {first} to {last}, hold")?,
    }
    let across = ["the first axis of the file", "the second axis of the file", "the last axis of the file"][axis];
    write!(f, " nothing but {value} (across {across}): ")?;
    if is_padded {
        f.write_str(
            "padding or a mask, which counts as tissue within the window; give it the value of air (-1024), or exclude the \
             case",
        )
    } else {
        f.write_str(
            "the file is incomplete, or slices are missing; copy or convert the scan again, or exclude the case",
        )
    }
}

/// Writes the report of slices that repeat others, which are counted from 1.
fn write_repeated(f: &mut fmt::Formatter<'_>, RepeatedSlices { num, first, all }: RepeatedSlices) -> fmt::Result {
    let slice = first + 1;
    if num == 1 {
        write!(f, "slice {slice} of {all} repeats")?;
    } else {
        write!(f, "{num} of {all} slices, the first of them slice {slice}, repeat")?;
    }
    f.write_str(
        " the one before voxel by voxel: slices are missing and were filled, or the scan was resampled without interpolation; \
         convert the original scan, or exclude the case",
    )
}

fn write_beyond(f: &mut fmt::Formatter<'_>, [min, max]: [f32; 2], share: f64) -> fmt::Result {
    write!(
        f,
        "values {} to {}, {:.0}% of them beyond -65536 to 65536: not HU; convert the original scan, or give padding the \
         value of air (-1024)",
        short(min),
        short(max),
        share * 100.0
    )
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: &f64| share * 100.0;
        match self {
            Self::Constant { value } => {
                write!(f, "every voxel is {value}: an empty scan or mask; replace the file, or exclude the case")
            }
            Self::LabelMap { num, min, max } if *min >= 0.0 => {
                write!(f, "a label map by its values ({num} whole numbers up to {max}); expected an image")
            }
            Self::LabelMap { num, min, max } => {
                write!(f, "a label map by its values ({num} whole numbers from {min} to {max}); expected an image")
            }
            Self::Probabilities { min, max } => {
                write!(
                    f,
                    "values {min} to {max}, nearly all close to 0 or 1: probabilities of a class; expected an image"
                )
            }
            &Self::Normalised { min, max } => {
                let most = nearly_all_within(min, max, NORMALISED);
                write!(f, "values {min} to {max}{most}: normalised, not HU; convert the original scan")
            }
            &Self::EightBit { min, max } => {
                let most = nearly_all_within(min, max, EIGHT_BIT);
                write!(f, "values {min} to {max}{most}: an 8-bit picture, not HU; convert the original scan")
            }
            &Self::Narrow { min, max } => {
                let most = nearly_all_within(min, max, NARROW);
                write!(
                    f,
                    "values {min} to {max}{most}: in another scale, or clipped to a part of the range of HU, or masked; convert \
                     the original scan"
                )
            }
            &Self::Offset { min, max, share, air, format } => write_offset(f, [min, max], share, air, format),
            Self::Tenfold { min, max, share } => write!(
                f,
                "values {min} to {max}, {:.0}% of them near -10000: HU times 10; divide them by 10, or convert the original \
                 scan",
                percent(share)
            ),
            Self::Tens { min, max } => write!(
                f,
                "values {min} to {max}, multiples of 10: HU times 10; divide them by 10, or convert the original scan"
            ),
            Self::Inverted { min, max, share } => write!(
                f,
                "values {min} to {max}, {:.0}% of them near 1000 and hardly any above: HU with inverted sign; multiply them \
                 by -1, or convert the original scan",
                percent(share)
            ),
            Self::Tenth { min, max, share } => write!(
                f,
                "values {min} to {max}, {:.0}% of them near -100: HU divided by 10; multiply them by 10, or convert the \
                 original scan",
                percent(share)
            ),
            Self::FarBelow { min, max, share } => write!(
                f,
                "values {min} to {max}, {:.0}% of them below -1250 and different: HU in another scale; convert the original \
                 scan",
                percent(share)
            ),
            &Self::Beyond { min, max, share } => write_beyond(f, [min, max], share),
            &Self::NoNegatives { min, max } => write_no_negatives(f, [min, max]),
            Self::AboveWindow { share } => {
                write!(
                    f,
                    "{:.1}% of the voxels lie above the window; not HU, or another --window is needed",
                    percent(share)
                )
            }
            Self::BelowWindow { share } => {
                write!(f, "{:.2}% of the voxels lie below the window; not HU, or a nearly empty scan", percent(share))
            }
            &Self::Noise { min, max } => write_noise(f, [min, max]),
            &Self::Moved { min, max, share, ends } => write_moved(f, [min, max], share, ends),
            &Self::Clipped { min, max, share, value } => write_clipped(f, [min, max], share, value),
            &Self::Blank(blank) => write_blank(f, blank),
            &Self::Repeated(repeated) => write_repeated(f, repeated),
            Self::Extremes { num, value, spread } => write!(
                f,
                "{} more than 20 standard deviations from the mean, up to the value {value}, with most of the variance: the \
                 z-scores of all other voxels have a deviation of {spread:.1e} in place of about 1; clip these values in the \
                 file, or exclude the case",
                count(*num, "voxel")
            ),
            Self::Clamped { share } => {
                write!(
                    f,
                    "{:.3}% of the voxels lie beyond the range of z-scores and are clamped; --window -100,100 keeps more",
                    percent(share)
                )
            }
        }
    }
}
