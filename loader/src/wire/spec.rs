//! Conversion of a stream configuration to its message (client) and back (server).

use prost::Message as _;

use super::{
    CaseList, FoldRule, FoldSplit, OnCorrupt, Part, SampleBy, ShotSplit, StreamSpec, VoxelForm, Window,
    stream_spec::Split,
};
use crate::pipeline::StreamConfig;
use crate::split::{self, SelectError};
use crate::{batch, pipeline, sampler};

/// Stream described by a specification.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stream {
    pub(crate) config: StreamConfig,
    pub(crate) seed: u64,
    pub(crate) rank: (usize, usize),
    pub(crate) form: batch::VoxelForm,
}

/// Error of an invalid specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream.{key}: {reason}")]
pub(crate) struct SpecError {
    key: &'static str,
    reason: String,
}

impl Stream {
    /// Converts to a specification, with the names from a list of cases in place of its file.
    ///
    /// # Errors
    /// If the list cannot be read.
    pub(crate) fn to_spec(&self) -> Result<StreamSpec, SelectError> {
        let config = &self.config;
        // A number that does not fit is out of range, and so is the largest one.
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(StreamSpec {
            seed: self.seed,
            rank: number(self.rank.0),
            ranks: number(self.rank.1),
            form: form_to_wire(self.form).into(),
            crop_size: config.crop_size.map(number).to_vec(),
            crops_per_visit: number(config.crops_per_visit),
            visits_per_batch: number(config.visits_per_batch),
            foreground_rate: config.foreground_rate,
            sample_by: match config.sample_by {
                sampler::SampleBy::Intensity => SampleBy::Intensity,
                sampler::SampleBy::Label => SampleBy::Label,
                sampler::SampleBy::Class => SampleBy::Class,
            }
            .into(),
            ignore_label: config.ignore_label.map(u32::from),
            window: config.window.map(|[low, high]| Window { low, high }),
            labels: config.labels,
            on_corrupt: match config.on_corrupt {
                pipeline::OnCorrupt::Fail => OnCorrupt::Fail,
                pipeline::OnCorrupt::Skip => OnCorrupt::Skip,
            }
            .into(),
            include: config.include.clone(),
            exclude: config.exclude.clone(),
            split: split_to_wire(&config.split.resolved()?),
            augment_json: serde_json::to_string(&config.augment).expect("a chain is JSON"),
        })
    }

    /// Converts a specification to a stream. Checks only that the message is meaningful; [`StreamConfig::validate`]
    /// checks the ranges.
    ///
    /// # Errors
    /// If a value has no meaning.
    pub(crate) fn of_spec(spec: &StreamSpec) -> Result<Self, SpecError> {
        let bad = |key, reason: String| SpecError { key, reason };
        let unknown = |key, number: i32| bad(key, format!("unknown value {number}"));
        let size: Vec<usize> = spec.crop_size.iter().map(|&n| n as usize).collect();
        let crop_size = <[usize; 3]>::try_from(size)
            .map_err(|size| bad("crop_size", format!("{} numbers; expected three", size.len())))?;
        let form = match VoxelForm::try_from(spec.form) {
            Ok(VoxelForm::Floats) => batch::VoxelForm::Floats,
            Ok(VoxelForm::Quantized) => batch::VoxelForm::Quantized,
            Ok(VoxelForm::Boxes) => batch::VoxelForm::Boxes,
            Ok(VoxelForm::Unspecified) | Err(_) => return Err(unknown("form", spec.form)),
        };
        let sample_by = match SampleBy::try_from(spec.sample_by) {
            Ok(SampleBy::Intensity) => sampler::SampleBy::Intensity,
            Ok(SampleBy::Label) => sampler::SampleBy::Label,
            Ok(SampleBy::Class) => sampler::SampleBy::Class,
            Err(_) => return Err(unknown("sample_by", spec.sample_by)),
        };
        let on_corrupt = match OnCorrupt::try_from(spec.on_corrupt) {
            Ok(OnCorrupt::Fail) => pipeline::OnCorrupt::Fail,
            Ok(OnCorrupt::Skip) => pipeline::OnCorrupt::Skip,
            Err(_) => return Err(unknown("on_corrupt", spec.on_corrupt)),
        };
        let config = StreamConfig {
            crop_size,
            crops_per_visit: spec.crops_per_visit as usize,
            visits_per_batch: spec.visits_per_batch as usize,
            foreground_rate: spec.foreground_rate,
            sample_by,
            ignore_label: spec
                .ignore_label
                .map(|label| {
                    u8::try_from(label).ok().ok_or_else(|| bad("ignore_label", format!("{label}; expected 0 to 255")))
                })
                .transpose()?,
            window: spec.window.map(|Window { low, high }| [low, high]),
            labels: spec.labels,
            on_corrupt,
            include: spec.include.clone(),
            exclude: spec.exclude.clone(),
            split: split_of_wire(spec.split.as_ref())?,
            augment: serde_json::from_str(&spec.augment_json).map_err(|err| bad("augment", err.to_string()))?,
        };
        Ok(Self { config, seed: spec.seed, rank: (spec.rank as usize, spec.ranks as usize), form })
    }
}

/// Id of the stream that a specification describes: 32 hex digits.
pub(crate) fn stream_id(spec: &StreamSpec) -> String {
    blake3::hash(&spec.encode_to_vec()).to_hex()[..32].to_owned()
}

fn form_to_wire(form: batch::VoxelForm) -> VoxelForm {
    match form {
        batch::VoxelForm::Floats => VoxelForm::Floats,
        batch::VoxelForm::Quantized => VoxelForm::Quantized,
        batch::VoxelForm::Boxes => VoxelForm::Boxes,
        // A client refuses this form before it asks, and every server refuses a stream without a form.
        batch::VoxelForm::Chunks => VoxelForm::Unspecified,
    }
}

fn split_to_wire(split: &split::Split) -> Option<Split> {
    match split {
        split::Split::All(_) => None,
        &split::Split::Fold(split::FoldSplit { fold, of, part, seed, rule }) => {
            let rule = match rule {
                split::FoldRule::Hashed => FoldRule::Hashed,
                split::FoldRule::Dealt => FoldRule::Dealt,
            };
            Some(Split::Fold(FoldSplit { fold, of, part: part_to_wire(part).into(), seed, rule: rule.into() }))
        }
        &split::Split::Shots(split::ShotSplit { shots, part, seed }) => {
            Some(Split::Shots(ShotSplit { shots: shots as u64, part: part_to_wire(part).into(), seed }))
        }
        split::Split::Cases(split::CaseSplit { cases }) => Some(Split::Cases(CaseList { names: cases.clone() })),
        split::Split::List(_) | split::Split::File(_) => unreachable!("`Split::resolved` leaves no file"),
    }
}

fn split_of_wire(split: Option<&Split>) -> Result<split::Split, SpecError> {
    Ok(match split {
        None => split::Split::default(),
        Some(&Split::Fold(FoldSplit { fold, of, part, seed, rule })) => {
            let rule = match FoldRule::try_from(rule) {
                Ok(FoldRule::Hashed) => split::FoldRule::Hashed,
                Ok(FoldRule::Dealt) => split::FoldRule::Dealt,
                Err(_) => return Err(SpecError { key: "split", reason: format!("unknown rule {rule}") }),
            };
            split::Split::Fold(split::FoldSplit { fold, of, part: part_of_wire(part)?, seed, rule })
        }
        Some(&Split::Shots(ShotSplit { shots, part, seed })) => {
            let shots = usize::try_from(shots).unwrap_or(usize::MAX);
            split::Split::Shots(split::ShotSplit { shots, part: part_of_wire(part)?, seed })
        }
        Some(Split::Cases(CaseList { names })) => split::Split::Cases(split::CaseSplit { cases: names.clone() }),
    })
}

fn part_to_wire(part: split::Part) -> Part {
    match part {
        split::Part::Train => Part::Train,
        split::Part::Validation => Part::Validation,
    }
}

fn part_of_wire(part: i32) -> Result<split::Part, SpecError> {
    match Part::try_from(part) {
        Ok(Part::Train) => Ok(split::Part::Train),
        Ok(Part::Validation) => Ok(split::Part::Validation),
        Err(_) => Err(SpecError { key: "split", reason: format!("unknown part {part}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::Chain;

    #[test]
    fn every_configuration_survives_the_wire() {
        let part = split::Part::Validation;
        let splits = [
            split::Split::default(),
            split::Split::Fold(split::FoldSplit { fold: 2, of: 5, part, seed: 9, rule: split::FoldRule::Hashed }),
            split::Split::Fold(split::FoldSplit { fold: 2, of: 5, part, seed: 9, rule: split::FoldRule::Dealt }),
            split::Split::Shots(split::ShotSplit { shots: 3, part, seed: 1 }),
            split::Split::Cases(split::CaseSplit { cases: vec!["D/a".into()] }),
        ];
        for split in splits {
            for augment in [Chain::recipe(), Chain::nnunet(), Chain::plain()] {
                let config = StreamConfig {
                    crop_size: [6, 7, 8],
                    crops_per_visit: 3,
                    visits_per_batch: 5,
                    foreground_rate: 0.1,
                    sample_by: sampler::SampleBy::Class,
                    ignore_label: Some(255),
                    window: Some([-10.5, 99.0]),
                    labels: true,
                    on_corrupt: pipeline::OnCorrupt::Skip,
                    include: vec!["A".into()],
                    exclude: vec!["B*".into(), "C".into()],
                    split: split.clone(),
                    augment,
                };
                let stream = Stream { config, seed: u64::MAX, rank: (1, 5), form: batch::VoxelForm::Boxes };
                let spec = stream.to_spec().unwrap();
                let decoded = StreamSpec::decode(spec.encode_to_vec().as_slice()).unwrap();
                assert_eq!(Stream::of_spec(&decoded), Ok(stream));
                assert_eq!(stream_id(&decoded), stream_id(&spec));
            }
        }
    }

    #[test]
    fn values_without_a_meaning_are_refused_by_name() {
        let stream =
            Stream { config: StreamConfig::default(), seed: 0, rank: (0, 1), form: batch::VoxelForm::Quantized };
        let good = stream.to_spec().unwrap();
        let check = |key, change: &dyn Fn(&mut StreamSpec)| {
            let mut spec = good.clone();
            change(&mut spec);
            assert_eq!(Stream::of_spec(&spec).unwrap_err().key, key);
        };
        check("form", &|spec| spec.form = 0);
        check("form", &|spec| spec.form = 9);
        check("crop_size", &|spec| spec.crop_size.truncate(2));
        check("sample_by", &|spec| spec.sample_by = -1);
        check("on_corrupt", &|spec| spec.on_corrupt = 7);
        check("augment", &|spec| spec.augment_json = "{}".into());
        check("ignore_label", &|spec| spec.ignore_label = Some(256));
        check("split", &|spec| spec.split = Some(Split::Fold(FoldSplit { rule: 7, of: 2, ..FoldSplit::default() })));
        check("split", &|spec| spec.split = Some(Split::Fold(FoldSplit { part: 5, of: 2, ..FoldSplit::default() })));
    }
}
