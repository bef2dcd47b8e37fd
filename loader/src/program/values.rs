//! Types and parsers of command-line values: codecs, sizes, shapes, spacings, windows, ranks.

use std::str::FromStr;

use bytesize::ByteSize;
use clap::ValueEnum;
use hiend_cache::CodecPreset;

use super::UsageError;
use crate::convert::OnSuspect;
use crate::preprocess::normalize::Normalize;

/// Error of a value that cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct Expected(
    /// Form of a valid value, with an example.
    pub &'static str,
);

/// Command-line value of [`OnSuspect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnSuspectArg {
    /// Use the image and report it; a label map is skipped unless the layout of its dataset calls it an image
    Warn,
    /// Skip the case
    Skip,
    /// End the run
    Fail,
}

impl From<OnSuspectArg> for OnSuspect {
    fn from(arg: OnSuspectArg) -> Self {
        match arg {
            OnSuspectArg::Warn => Self::Warn,
            OnSuspectArg::Skip => Self::Skip,
            OnSuspectArg::Fail => Self::Fail,
        }
    }
}

/// Command-line value of [`CodecPreset`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CodecArg {
    /// Packed bits: fastest to decode
    Fast,
    /// Bit planes through Zstandard: a little smaller, half as fast
    Dense,
    /// Bit planes through LZ4, for comparison: larger than either
    Lz4,
}

impl From<CodecArg> for CodecPreset {
    fn from(arg: CodecArg) -> Self {
        match arg {
            CodecArg::Fast => Self::Fast,
            CodecArg::Dense => Self::Dense,
            CodecArg::Lz4 => Self::Lz4,
        }
    }
}

/// Voxel side lengths of a conversion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spacing {
    /// Spacing of each scan's file.
    Native,
    /// One spacing for all scans, along x, y, z in mm.
    Mm([f64; 3]),
}

impl Spacing {
    /// Side lengths along x, y, z in mm; `None` for each file's own, in the form that
    /// [`PreprocessConfig`](crate::preprocess::PreprocessConfig) expects.
    #[must_use]
    pub fn mm(&self) -> Option<[f64; 3]> {
        match self {
            Self::Native => None,
            Self::Mm(sides) => Some(*sides),
        }
    }
}

/// Command-line value of [`Normalize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NormalizeArg {
    /// Hounsfield units of a CT
    Hu,
    /// Z-scores by each scan's own mean and standard deviation, as nnssl computes them, for MR and other modalities
    Zscore,
}

impl From<NormalizeArg> for Normalize {
    fn from(arg: NormalizeArg) -> Self {
        match arg {
            NormalizeArg::Hu => Self::Hu,
            NormalizeArg::Zscore => Self::Zscore,
        }
    }
}

/// Parses numbers separated by commas; `None` if any of them is not a number.
fn numbers<T: FromStr>(text: &str) -> Option<Vec<T>> {
    text.split(',').map(|part| part.trim().parse().ok()).collect()
}

/// Parses one number for all axes, or three numbers for x, y, z.
fn one_or_three<T: Copy + FromStr>(text: &str) -> Option<[T; 3]> {
    match numbers(text)?.as_slice() {
        [all] => Some([*all; 3]),
        [x, y, z] => Some([*x, *y, *z]),
        _ => None,
    }
}

/// Parses a spacing: `native` (or `original`), `1.5` or `1,1,3`.
///
/// # Errors
/// If the text has another form. [`PreprocessConfig::validate`](crate::preprocess::PreprocessConfig::validate) checks
/// the range.
pub fn parse_spacing(text: &str) -> Result<Spacing, Expected> {
    let sides = match text {
        "native" | "original" => return Ok(Spacing::Native),
        text => one_or_three(text),
    };
    sides.map(Spacing::Mm).ok_or(Expected("`native`, one number or three, such as 1.5 or 1,1,3"))
}

/// Parses a number of voxels along x, y, z: `96` or `96,96,48`.
///
/// # Errors
/// If the text has another form.
pub fn parse_shape(text: &str) -> Result<[usize; 3], Expected> {
    one_or_three(text).ok_or(Expected("one whole number or three, such as 96 or 96,96,48"))
}

/// Parses a size in bytes: `512MiB`, `4GB`.
///
/// # Errors
/// If the text has another form.
pub fn parse_bytes(text: &str) -> Result<ByteSize, Expected> {
    text.parse().ok().ok_or(Expected("a size, such as 512MiB or 4GiB"))
}

/// Parses a size in bytes that is not 0.
///
/// # Errors
/// If the text has another form, or the size is 0.
pub fn parse_some_bytes(text: &str) -> Result<ByteSize, Expected> {
    let size = parse_bytes(text).ok().filter(|size| size.as_u64() > 0);
    size.ok_or(Expected("a size of at least 1B, such as 512MiB or 4GiB"))
}

/// Parses a range of HU or z-scores: `-175,250`.
///
/// # Errors
/// If the text has another form.
pub fn parse_window(text: &str) -> Result<[f64; 2], Expected> {
    match numbers(text).as_deref() {
        Some([low, high]) => Ok([*low, *high]),
        _ => Err(Expected("two numbers, such as -175,250")),
    }
}

/// Parses a position among several, from 0: rank 1 of 4 is `1/4`.
///
/// # Errors
/// If the text has another form, or the position is not below the count.
pub fn parse_rank(text: &str) -> Result<(usize, usize), Expected> {
    position(text).ok_or(Expected("I/N with I from 0 to N-1, such as 0/4"))
}

/// Fold of a cross-validation on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Number of the fold, from 0.
    pub number: u32,
    /// Number of folds, if it was given.
    pub of: Option<u32>,
}

impl Fold {
    /// Number of folds that cases are dealt to, where no file lists the folds.
    ///
    /// # Errors
    /// If it was not given, or is below 2.
    pub fn dealt(self) -> Result<u32, UsageError> {
        let of = self.of.filter(|&of| of >= 2);
        of.ok_or_else(|| {
            let given = self.of.map_or_else(String::new, |of| format!("/{of}"));
            let message = format!(
                "--fold {}{given}: expected K/N with N of 2 or more, such as 0/5; the number of folds may be left out, or be 1, \
                 with --splits",
                self.number
            );
            UsageError::new(message)
        })
    }
}

/// Parses a fold of a cross-validation, from 0: the first of five is `0/5`, or `0` where a file lists the folds.
///
/// # Errors
/// If the text has another form, or the fold is not below the count.
pub fn parse_fold(text: &str) -> Result<Fold, Expected> {
    let of_count = position(text).map(|(number, of)| Fold { number, of: Some(of) });
    let alone = || text.parse().ok().map(|number| Fold { number, of: None });
    of_count.or_else(alone).ok_or(Expected("K/N with K from 0 to N-1, such as 0/5, or K alone with --splits"))
}

fn position<T: FromStr + PartialOrd>(text: &str) -> Option<(T, T)> {
    let (position, count) = text.split_once('/')?;
    let (position, count) = (position.parse().ok()?, count.parse().ok()?);
    (position < count).then_some((position, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_values_are_parsed() {
        assert_eq!(parse_spacing("native"), Ok(Spacing::Native));
        assert_eq!(parse_spacing("original"), Ok(Spacing::Native));
        assert_eq!(parse_spacing("1.5"), Ok(Spacing::Mm([1.5; 3])));
        assert_eq!(parse_spacing("1, 1,3"), Ok(Spacing::Mm([1.0, 1.0, 3.0])));
        assert_eq!(parse_shape("96"), Ok([96; 3]));
        assert_eq!(parse_bytes("2KiB"), Ok(ByteSize(2048)));
        assert_eq!(parse_window("-175,250"), Ok([-175.0, 250.0]));
        assert_eq!(parse_rank("1/4"), Ok((1, 4)));
        assert_eq!(parse_rank("0/1"), Ok((0, 1)));
        assert_eq!(parse_fold("4/5"), Ok(Fold { number: 4, of: Some(5) }));
        assert_eq!(parse_fold("4"), Ok(Fold { number: 4, of: None }));
    }

    #[test]
    fn invalid_values_are_refused() {
        for text in ["", "1,2", "1,2,x", "1,2,3,4", "Original"] {
            assert!(parse_spacing(text).is_err(), "{text}");
        }
        assert!(parse_shape("1.5").is_err());
        assert!(parse_shape("-1").is_err());
        for text in ["", "lots", "-1", "4 parsecs"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert!(parse_some_bytes("1").is_ok());
        for text in ["0", "0MiB", "0.4", "lots"] {
            assert!(parse_some_bytes(text).is_err(), "{text}");
        }
        assert!(parse_window("5").is_err());
        for text in ["4/4", "1", "a/4", "-1/4", "0/0", "0/4/4"] {
            assert!(parse_rank(text).is_err(), "{text}");
        }
        for text in ["5/5", "0/0", "-1", "a", "0/5/5", "/5", ""] {
            assert!(parse_fold(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_fold_without_a_file_needs_at_least_two() {
        let dealt = |text: &str| parse_fold(text).unwrap().dealt().map_err(|error| error.to_string());
        assert_eq!(dealt("1/2"), Ok(2));
        for text in ["0", "0/1"] {
            let error = dealt(text).unwrap_err();
            assert!(error.starts_with(&format!("--fold {text}: ")) && error.contains("--splits"), "{error}");
        }
    }
}
