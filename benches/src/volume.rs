//! Volume that every contender stores, of realistic size, from a real CT if there is one.
//!
//! Small real scans are mirror-tiled: neighbouring tiles are reflections of each other, so that no seam adds an edge for
//! the codec, and noise and texture remain those of the scanner.

use std::path::Path;

use anyhow::{Context as _, bail};
use hiend_cache::{Cache, CodecPreset, Manifest, NewCase, ShardWriter, VolumeReader, encode};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::rng::DrawId;
use hiend_loader::transform::GaussianNoiseParams;

/// Shape of an abdominal CT at 1.5 mm spacing: about 20 million voxels.
pub const SHAPE: [usize; 3] = [240, 252, 328];

/// Stored values of a volume, and their meaning.
#[derive(Clone, Debug)]
pub struct Voxels {
    /// Origin of the voxels, for reports.
    pub origin: String,
    /// Shape in voxels along x, y, z.
    pub shape: [usize; 3],
    /// Stored values, z fastest.
    pub values: Vec<u16>,
    /// Significant bits of a value.
    pub bits: u8,
    /// Largest value that counts as background.
    pub foreground_above: u16,
    /// HU of the value 0; the scale is 1 HU.
    pub offset: f64,
    /// Preprocessing parameters, as in a manifest.
    pub preprocess: serde_json::Value,
}

impl Voxels {
    /// Reads the largest case of a cache, mirror-tiled to [`SHAPE`] if it is smaller.
    ///
    /// # Errors
    /// If the cache cannot be read or holds no case.
    pub fn of_cache(dir: &Path) -> anyhow::Result<Self> {
        let cache = Cache::open(dir)?;
        let by_size = |case: &&hiend_cache::Case| case.record().shape.iter().product::<usize>();
        let case = cache.cases().iter().max_by_key(by_size).context("the cache holds no cases")?;
        let record = case.record();
        if record.image.scale.to_bits() != 1f64.to_bits() {
            bail!("{}: scale of {} HU; expected 1", case.key(), record.image.scale);
        }
        let volume = case.read_whole(&mut VolumeReader::new())?;
        let mut voxels = Self {
            origin: case.key().to_owned(),
            shape: volume.shape,
            values: volume.image,
            bits: record.image.codec.bits(),
            foreground_above: record.foreground_above,
            offset: record.image.offset,
            preprocess: cache.manifest().preprocess.clone(),
        };
        if (0..3).any(|axis| voxels.shape[axis] < 192) || voxels.values.len() < SHAPE.iter().product::<usize>() * 3 / 4
        {
            voxels.values = mirror_tile(&voxels.values, voxels.shape, SHAPE);
            voxels.origin = format!("{} {:?} mirror-tiled to {SHAPE:?}", voxels.origin, voxels.shape);
            voxels.shape = SHAPE;
        }
        Ok(voxels)
    }

    /// Generates a body of soft ellipsoids with CT-like noise, for machines without a real CT.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "small positive numbers")]
    pub fn generated() -> Self {
        let config = PreprocessConfig::default();
        let quantiser = hiend_loader::preprocess::window::Quantiser::new(config.window, config.store);
        let [nx, ny, nz] = SHAPE;
        let mut hu = vec![0f32; nx * ny * nz];
        for (i, value) in hu.iter_mut().enumerate() {
            let at = [i / (ny * nz), i / nz % ny, i % nz];
            let [x, y, z] = std::array::from_fn(|a| 2.0 * at[a] as f32 / SHAPE[a] as f32 - 1.0);
            let texture = 12.0 * ((9.0 * x).sin() + (11.0 * y).sin() + (7.0 * z).sin());
            let bone = x * x + (y + 0.6) * (y + 0.6) < 0.02;
            let lung = (x.abs() - 0.4).powi(2) + y * y + (z - 0.8) * (z - 0.8) < 0.12;
            let body = x * x + y * y < 0.9;
            *value = match (body, bone, lung) {
                (false, ..) => -1000.0,
                (_, true, _) => 300.0,
                (.., true) => -830.0,
                _ => 50.0,
            } + texture;
        }
        // Neighbouring voxels of a reconstructed, resampled CT share noise: two thirds of it are smooth here.
        let mut noise = vec![0f32; hu.len()];
        GaussianNoiseParams { std: 22.0, seed: 7 }.apply(&mut noise);
        for i in 0..hu.len() {
            let near = |distance: usize| noise[(i + distance) % noise.len()];
            hu[i] += 0.5 * (near(0) + near(1) + near(nz) + near(ny * nz));
        }
        let mut values = vec![0u16; hu.len()];
        quantiser.quantise(&hu, &mut values);
        Self {
            origin: format!("generated, CT-like noise, {SHAPE:?}"),
            shape: SHAPE,
            values,
            bits: quantiser.bits,
            foreground_above: quantiser.foreground_above,
            offset: quantiser.offset,
            preprocess: serde_json::to_value(config).expect("plain numbers"),
        }
    }

    /// Number of voxels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Returns `false`: a volume has voxels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Largest value, which becomes 1 as a float.
    #[must_use]
    pub fn top(&self) -> f32 {
        f32::from(self.values.iter().copied().max().unwrap_or(1).max(1))
    }

    /// Converts the volume to float32 in [0, 1], as the float stores hold it.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let top = self.top();
        self.values.iter().map(|&s| f32::from(s) / top).collect()
    }

    /// Writes a cache with the volume as its one case; returns the encoded bytes.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write_cache(&self, dir: &Path, chunk: [usize; 3], preset: CodecPreset) -> anyhow::Result<u64> {
        self.write(dir, chunk, preset, None)
    }

    /// Writes a cache as [`Self::write_cache`] does, with a label map of `classes` classes: boxes of 40 voxels a side inside
    /// of the body, whose surface is as rough as the image.
    ///
    /// # Errors
    /// If the folder cannot be written.
    ///
    /// # Panics
    /// If there are fewer than two classes.
    pub fn write_labelled_cache(
        &self,
        dir: &Path,
        chunk: [usize; 3],
        preset: CodecPreset,
        classes: u8,
    ) -> anyhow::Result<u64> {
        let [_, ny, nz] = self.shape;
        let class = |at: usize| {
            let [x, y, z] = [at / (ny * nz), at / nz % ny, at % nz].map(|along| along / 40);
            1 + u8::try_from((x + 3 * y + 5 * z) % usize::from(classes - 1)).expect("below the number of classes")
        };
        let labels: Vec<u8> = (0..)
            .zip(&self.values)
            .map(|(at, &value)| if value > self.foreground_above { class(at) } else { 0 })
            .collect();
        self.write(dir, chunk, preset, Some(&labels))
    }

    fn write(&self, dir: &Path, chunk: [usize; 3], preset: CodecPreset, label: Option<&[u8]>) -> anyhow::Result<u64> {
        let case = NewCase {
            label,
            image_bits: self.bits,
            image_offset: self.offset,
            foreground_above: self.foreground_above,
            parameters: "bench".into(),
            ..NewCase::new("Dataset001_Bench", "volume", self.shape, &self.values)
        };
        let encoded = encode(&case, chunk, preset)?;
        let bytes = encoded.len();
        let mut writer = ShardWriter::create(dir, 1, 0)?;
        writer.push(encoded)?;
        writer.finish()?;
        Manifest { preprocess: self.preprocess.clone(), ..Manifest::default() }.write(dir)?;
        Ok(bytes)
    }

    /// Origin of crop number `n`: uniform over the volume, equal for every contender.
    #[must_use]
    pub fn crop_start(&self, n: u32, crop_size: [usize; 3]) -> [usize; 3] {
        use rand::RngExt as _;
        let mut rng = DrawId { seed: 1, epoch: 0, case: 0, crop: n }.rng(hiend_loader::rng::Operation::Centre);
        std::array::from_fn(|axis| rng.random_range(0..=self.shape[axis] - crop_size[axis]))
    }
}

/// Extends a volume by reflection to `shape`.
#[must_use]
pub fn mirror_tile(values: &[u16], from: [usize; 3], shape: [usize; 3]) -> Vec<u16> {
    let reflect = |at: usize, len: usize| if (at / len).is_multiple_of(2) { at % len } else { len - 1 - at % len };
    let mut tiled = Vec::with_capacity(shape.iter().product());
    for x in 0..shape[0] {
        for y in 0..shape[1] {
            let row = (reflect(x, from[0]) * from[1] + reflect(y, from[1])) * from[2];
            tiled.extend((0..shape[2]).map(|z| values[row + reflect(z, from[2])]));
        }
    }
    tiled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_labelled_cache_holds_every_class() {
        let shape = [80, 120, 120];
        let values: Vec<u16> = (0..shape.iter().product::<usize>()).map(|at| u16::from(at % 7 != 0)).collect();
        let voxels = Voxels {
            origin: "a test".to_owned(),
            shape,
            values,
            bits: 1,
            foreground_above: 0,
            offset: 0.0,
            preprocess: serde_json::json!({}),
        };
        let folder = tempfile::tempdir().unwrap();
        voxels.write_labelled_cache(folder.path(), [32; 3], CodecPreset::Fast, 5).unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let index = VolumeReader::new().index(&cache.cases()[0]).unwrap();
        let classes: Vec<u32> = index.occupancy.classes.iter().map(|(label, _)| *label).collect();
        assert_eq!(classes, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn neighbouring_tiles_are_reflections() {
        let tiled = mirror_tile(&[1, 2, 3, 4], [1, 2, 2], [2, 3, 5]);
        assert_eq!(&tiled[..15], [1, 2, 2, 1, 1, 3, 4, 4, 3, 3, 3, 4, 4, 3, 3]);
        assert_eq!(tiled[..15], tiled[15..]);
    }
}
