//! Decodes crops on the device from the stored chunks of their visits: one kernel unpacks, cuts, flips, turns and
//! converts them to floats. Not differentiable, because voxels are constants.
//!
//! Crops of linear chains are then finished. For nnU-Net's chain the kernel makes the boxes from which
//! [`crate::augment`] makes crops: a crop without flips, turns and intensity changes.
//!
//! [`CropChunks`] describes a crop. On the CPU [`CropChunks::decode`] makes it, with the cache's own codec; the kernel reads
//! the same facts from two tables.

pub(super) mod layout;

use std::sync::Arc;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use hiend_loader::batch::{ChunkSource, CropChunks};

use self::layout::{field, flag};
use super::cpu;

/// Encoded crops on the device.
#[derive(Clone, Debug)]
pub struct CodedCrops {
    /// Records of chunks, as 32-bit words.
    words: Tensor<1, Int>,
    facts: Tensor<1, Int>,
    params: Tensor<2>,
    crops: Arc<[CropChunks]>,
    crop_size: [usize; 3],
}

impl CodedCrops {
    /// Uploads `crops`, at least one, and the records among `words` that they need. `stage` prepares memory for the
    /// transfer.
    #[must_use]
    pub fn upload(
        words: &[u32],
        crops: &[CropChunks],
        crop_size: [usize; 3],
        device: &Device,
        stage: impl Fn(TensorData) -> TensorData,
    ) -> Self {
        let (words, crops) = gathered(words, crops);
        let Tables { facts, params } = Tables::of(&crops, crop_size);
        let count = words.len();
        let words = Tensor::from_data(stage(TensorData::new(words, [count])), (device, DType::U32));
        let count = facts.len();
        let facts = Tensor::from_data(TensorData::new(facts, [count]), (device, DType::I32));
        let params = Tensor::from_data(TensorData::new(params, [crops.len(), 6]), device);
        Self { words, facts, params, crops: crops.into(), crop_size }
    }

    /// Number of crops.
    #[must_use]
    pub fn num_crops(&self) -> usize {
        self.crops.len()
    }

    /// Finished crops of a linear chain, `[n, 1, x, y, z]`.
    ///
    /// # Panics
    /// If the chain is not linear.
    #[must_use]
    pub fn images(&self) -> Tensor<5> {
        assert!(self.crops.iter().all(|crop| crop.params.is_linear()), "crops of this chain are made from boxes");
        let [x, y, z] = self.crop_size;
        self.voxels().reshape([self.num_crops(), 1, x, y, z])
    }

    /// Decodes the voxels of all crops (see [`CropChunks::decode`]), one crop after the other, `[voxels]`.
    #[must_use]
    pub fn voxels(&self) -> Tensor<1> {
        let Self { words, facts, params, crops, crop_size } = self.clone();
        let (words, facts) = (words.into_dispatch(), facts.into_dispatch());
        let decoded = <Dispatch as DecodeCrops>::decode_crops(
            words,
            facts,
            params.into_dispatch(),
            Described { crops, crop_size },
        );
        Tensor::from_dispatch(decoded)
    }
}

/// Crops to decode, on the host.
#[derive(Clone, Debug)]
pub struct Described {
    /// Chunks and boxes of each crop.
    pub crops: Arc<[CropChunks]>,
    /// Voxels of a crop along x, y, z.
    pub crop_size: [usize; 3],
}

/// Decoding of crops, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait DecodeCrops: Backend {
    /// Decodes `crops` from `words` to floats `[voxels]`, crop after crop; `facts` and `params` are their tables.
    fn decode_crops(
        words: IntTensor<Self>,
        facts: IntTensor<Self>,
        params: FloatTensor<Self>,
        crops: Described,
    ) -> FloatTensor<Self>;
}

impl DecodeCrops for Flex {
    fn decode_crops(
        words: IntTensor<Self>,
        _: IntTensor<Self>,
        _: FloatTensor<Self>,
        Described { crops, crop_size }: Described,
    ) -> FloatTensor<Self> {
        let words = cpu::in_order(words);
        let words = words.as_slice::<u32>().expect("words of 32 bits in order");
        let floats: Vec<f32> = crops.iter().flat_map(|crop| crop.decode(words, crop_size)).collect();
        let count = floats.len();
        cpu::tensor(floats, [count])
    }
}

#[cfg(feature = "cube")]
impl DecodeCrops for burn::backend::Cube {
    fn decode_crops(
        words: IntTensor<Self>,
        facts: IntTensor<Self>,
        params: FloatTensor<Self>,
        Described { crops, crop_size }: Described,
    ) -> FloatTensor<Self> {
        let sizes: Vec<[usize; 3]> = crops.iter().map(|crop| crop.decoded_shape(crop_size)).collect();
        super::kernels::decode::decode(words, facts, params, &sizes)
    }
}

/// Gathers the records of `crops` without the unused words between visits; returns them with the crops adjusted to
/// their new positions.
fn gathered(words: &[u32], crops: &[CropChunks]) -> (Vec<u32>, Vec<CropChunks>) {
    let visits = crops.chunk_by(|a, b| a.words == b.words).map(|visit| visit[0].words.clone());
    // With room for one more word: a tensor without values has no buffer, and visits of constant chunks have no
    // records.
    let mut kept = Vec::with_capacity(visits.map(|range| range.len()).sum::<usize>() + 1);
    let mut moved = Vec::with_capacity(crops.len());
    for visit in crops.chunk_by(|a, b| a.words == b.words) {
        let range = visit[0].words.clone();
        let start = kept.len();
        kept.extend_from_slice(&words[range]);
        moved.extend(visit.iter().map(|crop| CropChunks { words: start..kept.len(), ..crop.clone() }));
    }
    if kept.is_empty() {
        kept.push(0);
    }
    (kept, moved)
}

/// Descriptions of crops, in the layout read by the kernel.
struct Tables {
    /// [`field::COUNT`] fields per crop, then the sources of all chunks, crop after crop: the first word of a record, or
    /// the value of a constant chunk in the low 16 bits of a negative number.
    facts: Vec<i32>,
    /// Dequantization parameters of each crop, see [`hiend_loader::batch::Dequantize::row`].
    params: Vec<f32>,
}

impl Tables {
    /// # Panics
    /// If a number has more than 31 bits: a loader gives fewer words, and no axis of a volume is that long.
    fn of(crops: &[CropChunks], crop_size: [usize; 3]) -> Self {
        let number = |n: usize| i32::try_from(n).expect("numbers of 31 bits");
        let mut target = 0;
        let mut facts = Vec::new();
        let mut sources = Vec::new();
        let mut params = Vec::new();
        for crop in crops {
            let chunk = crop.grid.chunk();
            let region = crop.region();
            let first: [usize; 3] = std::array::from_fn(|axis| region.map_or(0, |r| r.start[axis] / chunk[axis]));
            let met: [usize; 3] =
                std::array::from_fn(|axis| region.map_or(0, |r| r.end[axis].div_ceil(chunk[axis]) - first[axis]));
            let map = crop.params.axis_map();
            let flags = [
                (map.source[0] == 1, flag::TURNED),
                (map.flipped[0], flag::FLIPPED_X),
                (map.flipped[1], flag::FLIPPED_Y),
                (map.flipped[2], flag::FLIPPED_Z),
                (crop.packed.bits > 12, flag::WIDE_HEADERS),
            ];
            let mut entry = [0; field::COUNT as usize];
            let mut set = |first: u32, values: &[i32]| entry[first as usize..][..values.len()].copy_from_slice(values);
            set(field::BOX_START, &crop.box_start.map(|start| i32::try_from(start).expect("numbers of 31 bits")));
            set(field::VOLUME, &crop.grid.shape().map(number));
            set(field::CHUNK, &chunk.map(number));
            set(field::FIRST, &first.map(number));
            set(field::MET, &[number(met[1]), number(met[2])]);
            set(field::SOURCES, &[number(crops.len() * field::COUNT as usize + sources.len())]);
            set(field::OUTSIDE, &[i32::from(crop.scale.outside())]);
            set(field::SIZE, &crop.decoded_shape(crop_size).map(number));
            set(field::TARGET, &[number(target)]);
            target += crop.num_decoded(crop_size);
            set(field::FLAGS, &[flags.iter().map(|&(is_set, flag)| if is_set { flag } else { 0 }).sum()]);
            facts.extend(entry);
            sources.extend(crop.chunks.iter().map(|source| match *source {
                ChunkSource::Constant(value) => i32::MIN | i32::from(value),
                ChunkSource::Record(word) => number(crop.words.start + word as usize),
            }));
            params.extend(crop.dequantize().row());
        }
        facts.extend(sources);
        Self { facts, params }
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{largest_difference, on_devices};
    use hiend_cache::{Cache, CodecPreset, Manifest, NewCase, ShardWriter, encode};
    use hiend_loader::batch::{Images, VoxelForm};
    use hiend_loader::pipeline::{Loader, LoaderOptions, StreamConfig};
    use hiend_loader::preprocess::PreprocessConfig;
    use hiend_loader::preprocess::window::Scale;
    use hiend_loader::transform::{Chain, RecipeParams, SampledParams};

    /// Calls `check` with the words and crops of several batches: crops that reach beyond the volume, constant chunks,
    /// boxes of every width, and headers of both lengths.
    fn each_batch(augment: Chain, check: impl Fn(&[u32], &[CropChunks], [usize; 3])) {
        let streams = [
            ([8, 8, 8], 9, [12, 12, 10]),
            ([5, 7, 9], 9, [16, 16, 9]),
            ([16, 16, 16], 16, [24, 24, 17]),
            ([32, 32, 32], 12, [40, 40, 40]),
        ];
        for (chunk, bits, crop_size) in streams {
            let dir = tempfile::tempdir().expect("a folder");
            let mut writer = ShardWriter::create(dir.path(), 1, 0).expect("a shard");
            for (number, shape) in [[40, 37, 50], [11, 30, 14], [33, 9, 21]].into_iter().enumerate() {
                // Noise of a width that grows along z, and air beyond.
                let value = |at: usize| {
                    let z = at % shape[2];
                    let width = (1 + z * usize::from(bits) / shape[2]) as u32;
                    if z + 9 > shape[2] { 0 } else { (at * 40_503 % (1 << width)) as u16 }
                };
                let image: Vec<u16> = (0..shape.iter().product()).map(value).collect();
                let case = NewCase {
                    image_bits: bits,
                    image_offset: if bits == 16 { -32_768.0 } else { -175.0 },
                    ..NewCase::new("D", &number.to_string(), shape, &image)
                };
                writer.push(encode(&case, chunk, CodecPreset::Fast).expect("valid")).expect("pushed");
            }
            writer.finish().expect("finished");
            let preprocess = serde_json::to_value(PreprocessConfig::default()).expect("JSON");
            Manifest { preprocess, ..Manifest::default() }.write(dir.path()).expect("written");
            let config =
                StreamConfig { crop_size, crops_per_visit: 4, visits_per_batch: 3, augment, ..StreamConfig::default() };
            let options = LoaderOptions { threads: 1, form: VoxelForm::Chunks, ..LoaderOptions::default() };
            let cache = Arc::new(Cache::open(dir.path()).expect("a cache"));
            let loader = Loader::open(cache, config, 1, &options).expect("a loader");
            for batch in loader.stream(0).take(4) {
                let batch = batch.expect("a batch");
                let Images::Chunks(words, crops) = &batch.images else { panic!("made as chunks") };
                check(words, crops, crop_size);
                // As the second part of a batch, which begins within a visit.
                check(words, &crops[3..], crop_size);
            }
        }
    }

    fn decoded(words: &[u32], crops: &[CropChunks], crop_size: [usize; 3], device: &Device) -> Vec<f32> {
        let coded = CodedCrops::upload(words, crops, crop_size, device, |data| data);
        assert_eq!(coded.num_crops(), crops.len());
        if crops.iter().any(|crop| !crop.params.is_linear()) {
            return coded.voxels().into_data().try_to_vec().expect("f32");
        }
        let images = coded.images();
        let [x, y, z] = crop_size;
        assert_eq!(images.dims(), [crops.len(), 1, x, y, z]);
        images.into_data().try_to_vec().expect("f32")
    }

    fn floats_are_those_of_the_loader(device: &Device) {
        each_batch(Chain::recipe(), |words, crops, crop_size| {
            let expected: Vec<f32> = crops.iter().flat_map(|crop| crop.to_floats(words, crop_size)).collect();
            let error = largest_difference(&decoded(words, crops, crop_size, device), &expected);
            // A GPU may round a product and a sum once instead of twice: 2^-23 of values up to 1.2.
            assert!(error <= 2e-7, "{device:?}: {error:e}");
        });
    }

    /// Boxes differ in size, and some are larger than a volume.
    fn boxes_are_those_of_the_loader(device: &Device) {
        each_batch(Chain::nnunet(), |words, crops, crop_size| {
            let expected: Vec<f32> = crops.iter().flat_map(|crop| crop.decode(words, crop_size)).collect();
            assert_eq!(expected.len(), crops.iter().map(|crop| crop.num_decoded(crop_size)).sum::<usize>());
            let error = largest_difference(&decoded(words, crops, crop_size, device), &expected);
            // As above.
            assert!(error <= 2e-7, "{device:?}: {error:e}");
        });
    }

    /// Stored values are multiplied by a power of two, so that no result is rounded.
    fn stored_values_are_exact(device: &Device) {
        let fractions = Scale { gain: 1.0 / 65_536.0, bias: 0.0, low: 0.0, high: 1.0 };
        let zscores = Scale::unchanged(1.0 / 1024.0, -20.0);
        assert_eq!([fractions, zscores].map(Scale::outside), [0, 20_480]);
        each_batch(Chain::recipe(), |words, crops, crop_size| {
            for scale in [fractions, zscores] {
                let without_intensities = |params| match params {
                    SampledParams::Recipe(params) => {
                        SampledParams::Recipe(RecipeParams { scale_intensity: None, shift_intensity: None, ..params })
                    }
                    other => other,
                };
                let exact =
                    |crop: &CropChunks| CropChunks { scale, params: without_intensities(crop.params), ..crop.clone() };
                let crops: Vec<CropChunks> = crops.iter().map(exact).collect();
                let expected: Vec<f32> = crops.iter().flat_map(|crop| crop.to_floats(words, crop_size)).collect();
                assert!(decoded(words, &crops, crop_size, device) == expected, "{device:?}: {crop_size:?}");
            }
        });
    }

    on_devices!(boxes_are_those_of_the_loader, floats_are_those_of_the_loader, stored_values_are_exact);
}
