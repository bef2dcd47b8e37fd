//! A batch made again, to be looked at: what was drawn for each crop, and a contact sheet of the crops.
//!
//! Nothing of a batch is stored. Its step decides it, so making it again costs what making it cost.

use serde::Serialize;

use crate::batch::{Batch, CropRecord};
use crate::picture::{Canvas, FAINT, LETTER, Plane, TEXT, fitting};

/// A batch without its voxels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replay<'a> {
    /// Step of the stream.
    pub step: u64,
    /// [`Batch::digest`].
    pub digest: String,
    /// `[n, 1, x, y, z]`.
    pub shape: [usize; 5],
    /// The crops, in the batch's order.
    #[serde(skip)]
    pub crops: &'a [CropRecord],
}

impl<'a> Replay<'a> {
    /// What can be said of a batch.
    #[must_use]
    pub fn of(batch: &'a Batch) -> Self {
        Self { step: batch.step, digest: batch.digest(), shape: batch.shape, crops: &batch.crops }
    }
}

/// Wide enough for a screen, and for two lines of caption a tile.
const WIDTH: usize = 1680;
const GAP: usize = 8;
const CAPTION: usize = 2 * (LETTER + 3) + 4;

/// The middle slice, across the third axis, of every crop of a batch. Crops may be flipped and turned, so left and
/// right mean nothing here.
#[must_use]
pub fn contact_sheet(batch: &Batch) -> Canvas {
    let [num_crops, _, x, y, z] = batch.shape;
    let num_voxels = x * y * z;
    let columns = columns(num_crops);
    let tile = (WIDTH - GAP) / columns - GAP;
    let height = (tile * y / x).max(1);
    let rows = num_crops.div_ceil(columns);
    let top = 2 * GAP + 2 * LETTER + 12;
    let (images, labels) = (batch.to_floats(), batch.to_labels());
    let mut canvas = Canvas::new(columns * (tile + GAP) + GAP, top + rows * (height + CAPTION + GAP));
    let headline = format!("step {}  digest {}  {num_crops} crops of {x} x {y} x {z}", batch.step, batch.digest());
    canvas.text([GAP, GAP], 2, TEXT, &fitting(&headline, WIDTH / (2 * LETTER) - 1));
    for (number, crop) in batch.crops.iter().enumerate().take(num_crops) {
        let at = [GAP + number % columns * (tile + GAP), top + number / columns * (height + CAPTION + GAP)];
        let first = number * num_voxels;
        let slice = Plane::Axial.cut([x, y, z], z / 2, labels.is_some(), |voxel| {
            (images[first + voxel], labels.as_ref().map_or(0, |labels| labels[first + voxel]))
        });
        canvas.slice(at, [tile, height], &slice);
        let name = crop.case.rsplit('/').next().unwrap_or_default();
        let [ox, oy, oz] = crop.origin;
        canvas.text([at[0], at[1] + height + 3], 1, TEXT, &fitting(name, tile / LETTER));
        let place = format!("{}: {ox},{oy},{oz}", crop.crop);
        canvas.text([at[0], at[1] + height + LETTER + 6], 1, FAINT, &fitting(&place, tile / LETTER));
    }
    canvas
}

/// So many columns that the sheet is about as high as a screen, and tiles are never blown up beyond use.
fn columns(num_crops: usize) -> usize {
    let columns = (4..24).find(|columns| columns * columns * 5 >= num_crops * 8);
    columns.unwrap_or(24)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchTimes, Images, PooledBuffer};

    #[test]
    fn every_crop_has_its_tile() {
        for num_crops in [1, 8, 192, 1000] {
            let columns = columns(num_crops);
            let crop = |crop| CropRecord {
                case: "D/case".into(),
                epoch: 0,
                crop,
                origin: [0; 3],
                case_key: 0,
                augmentation: Vec::new(),
            };
            let batch = Batch {
                step: 3,
                shape: [num_crops, 1, 4, 4, 4],
                images: Images::Floats(PooledBuffer::unpooled(vec![0.5; num_crops * 64])),
                labels: None,
                crops: (0..).take(num_crops).map(crop).collect(),
                times: BatchTimes::default(),
            };
            assert!(columns >= 4 && contact_sheet(&batch).write_png(std::path::Path::new("/")).is_err());
        }
    }
}
