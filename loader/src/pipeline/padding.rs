//! Share of padding in the crops of a stream, whose crops may be larger than its cases.

use hiend_cache::Cache;

use super::{StreamConfig, cases_of};
use crate::plural::count;

/// Share of padding among the voxels of all crops from which it is reported.
const NOTABLE: f64 = 0.5;

/// Remark that at least half of the voxels in the crops of a stream are padding, because its cases are smaller; `None` if fewer
/// are, or the stream cannot be opened.
#[must_use]
pub fn remark_on_padding<'a>(caches: impl IntoIterator<Item = &'a Cache>, config: &StreamConfig) -> Option<String> {
    let size = config.crop_size;
    let (mut num, mut num_smaller, mut filled) = (0_usize, 0_usize, 0.0);
    for cache in caches {
        let (cases, _) = cases_of(cache, config).ok()?;
        for idx in cases {
            let shape = cache.cases()[idx].record().shape;
            let axes = || shape.into_iter().zip(size);
            num += 1;
            num_smaller += usize::from(axes().any(|(side, crop)| side < crop));
            filled += axes().map(|(side, crop)| side.min(crop) as f64 / crop as f64).product::<f64>();
        }
    }
    let padding = 1.0 - filled / num.max(1) as f64;
    let verb = if num_smaller == 1 { "is" } else { "are" };
    (num > 0 && padding >= NOTABLE).then(|| {
        format!(
            "crop_size: {num_smaller} of {} {verb} smaller than {size:?} along an axis, and {:.0}% of the voxels of all crops are \
             padding; choose a smaller crop_size",
            count(num, "case"),
            padding * 100.0
        )
    })
}

#[cfg(test)]
mod tests {
    use hiend_cache::{CodecPreset, Manifest, NewCase, ShardWriter, encode};

    use super::*;
    use crate::preprocess::PreprocessConfig;

    #[test]
    fn crops_that_are_mostly_padding_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::create(dir.path(), 1, 0).unwrap();
        for (case_id, shape) in [("flat", [8, 8, 4]), ("whole", [8, 8, 8])] {
            let image = vec![100_u16; shape.iter().product()];
            let mut case = NewCase::new("D", case_id, shape, &image);
            case.image_bits = 9;
            case.image_offset = -175.0;
            writer.push(encode(&case, [4; 3], CodecPreset::Fast).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        let preprocess = serde_json::to_value(PreprocessConfig::default()).unwrap();
        Manifest { preprocess, ..Manifest::default() }.write(dir.path()).unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let remark = |crop_size, include: &[&str]| {
            let include = include.iter().map(|&name| name.to_owned()).collect();
            remark_on_padding([&cache], &StreamConfig { crop_size, include, ..StreamConfig::default() })
        };
        // Cases fill 3/4 of the crops, and 3/32 of crops that are twice as long.
        assert_eq!(remark([8; 3], &[]), None);
        let expected = "crop_size: 2 of 2 cases are smaller than [16, 16, 16] along an axis, and 91% of the voxels of all crops are \
                        padding; choose a smaller crop_size";
        assert_eq!(remark([16; 3], &[]).as_deref(), Some(expected));
        assert_eq!(remark([16; 3], &["E"]), None);
    }
}
