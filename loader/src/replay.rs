//! A batch made again for inspection: the augmentation of each crop, and a contact sheet of the crops.
//!
//! No part of a batch is stored. Its step determines it, so a replay costs as much as the first time.

use serde::Serialize;

use crate::batch::{Batch, CropRecord};
use crate::picture::{Canvas, FAINT, LETTER, Plane, Rgb, TEXT, fitting};
use crate::plural::count;
use crate::preprocess::normalize::Units;

/// Description of a batch, without its voxels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replay<'a> {
    /// Step of the stream.
    pub step: u64,
    /// Digest of the batch, see [`Batch::digest`].
    pub digest: String,
    /// Shape of the crops, `[n, 1, x, y, z]`.
    pub shape: [usize; 5],
    /// Origin and augmentation of each crop, in the batch's order.
    #[serde(skip)]
    pub crops: &'a [CropRecord],
}

impl<'a> Replay<'a> {
    /// Describes a batch, which is borrowed.
    #[must_use]
    pub fn of(batch: &'a Batch) -> Self {
        Self { step: batch.step, digest: batch.digest(), shape: batch.shape, crops: &batch.crops }
    }
}

/// Width of a sheet in pixels: that of a screen, with room for two lines of caption per tile.
const WIDTH: usize = 1680;
/// Pixels between tiles.
const GAP: usize = 8;
/// Height of a line of a caption in pixels.
const LINE: usize = LETTER + 3;

/// Grid of a contact sheet, in pixels.
#[derive(Clone, Copy, Debug)]
struct Layout {
    columns: usize,
    /// Width and height of a tile, without its caption.
    tile: [usize; 2],
    /// Height of a tile's caption, in pixels.
    caption: usize,
    /// Height of the heading, in pixels.
    top: usize,
}

impl Layout {
    /// Grid for the crops of a batch, with room for the longest of their captions.
    fn of(batch: &Batch) -> Self {
        let [num_crops, _, x, y, _] = batch.shape;
        let columns = columns(num_crops);
        let width = (WIDTH - GAP) / columns - GAP;
        let tile = [width, (width * y / x).max(1)];
        let lines = batch.crops.iter().map(|crop| caption(crop, width / LETTER).len()).max().unwrap_or(0);
        Self { columns, tile, caption: lines * LINE + 4, top: 2 * GAP + 2 * LETTER + 12 }
    }

    /// Upper left corner of a crop's tile.
    fn position(&self, number: usize) -> [usize; 2] {
        let [width, height] = self.tile;
        [GAP + number % self.columns * (width + GAP), self.top + number / self.columns * (height + self.caption + GAP)]
    }

    /// Width and height of the sheet.
    fn size(&self, num_crops: usize) -> [usize; 2] {
        let [width, height] = self.tile;
        let rows = num_crops.div_ceil(self.columns);
        [self.columns * (width + GAP) + GAP, self.top + rows * (height + self.caption + GAP)]
    }
}

/// Draws the middle slice, across the third axis, of every crop of a batch, whose values are in `units`. Crops may be
/// flipped and turned, so left and right have no anatomical meaning.
#[must_use]
pub fn contact_sheet(batch: &Batch, units: Units) -> Canvas {
    let [num_crops, _, x, y, z] = batch.shape;
    let num_voxels = x * y * z;
    let layout = Layout::of(batch);
    let [tile_width, tile_height] = layout.tile;
    let (images, labels) = (batch.to_floats(), batch.to_labels());
    let [width, height] = layout.size(num_crops);
    let mut canvas = Canvas::new(width, height);
    let heading =
        format!("step {}  digest {}  {} of {x} x {y} x {z}", batch.step, batch.digest(), count(num_crops, "crop"));
    canvas.text([GAP, GAP], 2, TEXT, &fitting(&heading, WIDTH / (2 * LETTER) - 1));
    for (number, crop) in batch.crops.iter().enumerate().take(num_crops) {
        let at = layout.position(number);
        let first = number * num_voxels;
        let slice = Plane::Axial.cut([x, y, z], z / 2, labels.is_some(), |voxel| {
            (units.grey(images[first + voxel]), labels.as_ref().map_or(0, |labels| labels[first + voxel]))
        });
        canvas.slice(at, layout.tile, &slice);
        for (line, (text, colour)) in caption(crop, tile_width / LETTER).into_iter().enumerate() {
            canvas.text([at[0], at[1] + tile_height + 3 + line * LINE], 1, colour, &text);
        }
    }
    canvas
}

/// Lines below a crop's tile: its case, number and origin, each wrapped to `letters` characters.
fn caption(crop: &CropRecord, letters: usize) -> Vec<(String, Rgb)> {
    let name = crop.case.rsplit('/').next().unwrap_or_default();
    let [x, y, z] = crop.origin;
    let place = format!("{}: {x},{y},{z}", crop.crop);
    let lines = [(name, TEXT), (place.as_str(), FAINT)];
    lines.into_iter().flat_map(|(text, colour)| wrapped(text, letters).map(move |line| (line, colour))).collect()
}

/// Splits a text into lines of at most `letters` characters.
fn wrapped(text: &str, letters: usize) -> impl Iterator<Item = String> {
    let text: Vec<char> = text.chars().collect();
    let lines: Vec<String> = text.chunks(letters.max(1)).map(|line| line.iter().collect()).collect();
    lines.into_iter()
}

/// Number of columns for a sheet about as high as a screen; at least 4, so that few crops are not enlarged too much.
fn columns(num_crops: usize) -> usize {
    let columns = (4..24).find(|columns| columns * columns * 5 >= num_crops * 8);
    columns.unwrap_or(24)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchTimes, Images, PooledBuffer};
    use crate::picture::BACKGROUND;

    /// Batch of crops of 6 x 4 x 5 voxels; the middle slice of crop n has the grey level [`grey`], all other slices are
    /// white.
    fn batch(num_crops: usize) -> Batch {
        let crop = |crop| CropRecord {
            case: "D/case".into(),
            epoch: 0,
            crop,
            origin: [0; 3],
            case_key: 0,
            augmentation: Vec::new(),
        };
        let voxel = |i: usize| if i % 5 == 2 { f32::from(grey(i / 120)) / 255.0 } else { 1.0 };
        Batch {
            step: 3,
            shape: [num_crops, 1, 6, 4, 5],
            images: Images::Floats(PooledBuffer::unpooled((0..num_crops * 120).map(voxel).collect())),
            labels: None,
            crops: (0..).take(num_crops).map(crop).collect(),
            times: BatchTimes::default(),
        }
    }

    fn grey(crop: usize) -> u8 {
        u8::try_from(40 + crop % 199).unwrap()
    }

    #[test]
    fn every_tile_shows_the_middle_slice_of_its_crop_and_no_more() {
        for num_crops in [1, 8, 192, 1000] {
            let batch = batch(num_crops);
            let sheet = contact_sheet(&batch, Units::Window([-175.0, 250.0]));
            let layout = Layout::of(&batch);
            let [width, height] = layout.tile;
            assert!(layout.columns >= 4 && width * 4 / 6 == height, "{layout:?}");
            for crop in 0..num_crops {
                let [x, y] = layout.position(crop);
                for row in 0..height {
                    for column in 0..width {
                        assert_eq!(sheet.pixel([x + column, y + row]), [grey(crop); 3], "crop {crop} of {num_crops}");
                    }
                    assert_eq!(sheet.pixel([x - 1, y + row]), BACKGROUND);
                    assert_eq!(sheet.pixel([x + width, y + row]), BACKGROUND);
                }
                for column in 0..width {
                    assert_eq!(sheet.pixel([x + column, y - 1]), BACKGROUND);
                    assert_eq!(sheet.pixel([x + column, y + height]), BACKGROUND);
                }
                // The caption below, and room for all of it.
                let caption = |at: [usize; 2]| sheet.pixel(at) != BACKGROUND;
                let mut below =
                    (0..layout.caption).flat_map(|row| (0..width).map(move |column| [x + column, y + height + row]));
                assert!(below.any(caption), "crop {crop} of {num_crops} has no caption");
            }
            assert_eq!([sheet.width, sheet.height], layout.size(num_crops));
            assert!(sheet.width <= WIDTH);
        }
    }

    #[test]
    fn captions_are_wrapped_and_not_cut() {
        let crop = CropRecord {
            case: "Dataset001_A/patient_0000123".into(),
            epoch: 0,
            crop: 3,
            origin: [-12, 200, 64],
            case_key: 0,
            augmentation: Vec::new(),
        };
        for letters in [1, 7, 10, 40] {
            let lines = caption(&crop, letters);
            assert!(lines.iter().all(|(line, _)| line.chars().count() <= letters), "{lines:?}");
            let text: String = lines.into_iter().map(|(line, _)| line).collect();
            assert_eq!(text, "patient_00001233: -12,200,64");
        }
    }

    #[test]
    fn replay_describes_the_batch() {
        let batch = batch(2);
        let replay = Replay::of(&batch);
        assert_eq!((replay.step, replay.shape, replay.crops), (3, batch.shape, batch.crops.as_slice()));
        let json = serde_json::to_value(&replay).unwrap();
        assert_eq!(json, serde_json::json!({"step": 3, "digest": batch.digest(), "shape": [2, 1, 6, 4, 5]}));
    }

    #[test]
    fn z_scores_are_drawn_from_two_below_to_four_above_the_mean() {
        let mut batch = batch(1);
        // The middle slice of 1.0, all others black.
        let voxel = |i: usize| if i % 5 == 2 { 1.0 } else { -9.0 };
        batch.images = Images::Floats(PooledBuffer::unpooled((0..120).map(voxel).collect()));
        let [x, y] = Layout::of(&batch).position(0);
        assert_eq!(contact_sheet(&batch, Units::ZScores).pixel([x + 9, y + 9]), [128; 3]);
    }
}
