//! Original, masked input and reconstruction in three planes: of crops while training, of a crop or a whole scan on
//! request.
//!
//! The reconstruction keeps what was visible, as in the paper's figure, and each hidden patch has its true mean and
//! contrast, as in the reference's pictures.

use hiend_loader::picture::{Canvas, Rgb};

use super::sheet::{Block, Column, PLANES, Sheet, tile_sizes};

/// Longest side of a tile in pixels, for one view and for several side by side.
const ALONE: usize = 432;
const BESIDE: usize = 288;

const HIDDEN: Rgb = [44, 50, 62];

/// A crop of the training; volumes are [x, y, z], z fastest, in units of the window.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Written above.
    pub title: String,
    /// Sides of the crop, voxels.
    pub size: [usize; 3],
    /// What was put in.
    pub original: Vec<f32>,
    /// What the decoder made of it.
    pub pred: Vec<f32>,
    /// Which voxels were hidden from the encoder.
    pub hidden: Vec<bool>,
}

/// A volume to be shown; voxels are numbered z fastest.
pub struct View<'a> {
    /// Written above.
    pub title: String,
    /// Beneath it.
    pub lines: Vec<String>,
    /// Voxels along x, y, z.
    pub shape: [usize; 3],
    /// Their sides, mm.
    pub spacing: [f64; 3],
    /// The voxel that all planes go through.
    pub through: [usize; 3],
    /// Where each plane lies, if that is known.
    pub places: [String; 3],
    /// Whether right and left, front and back are the patient's: crops of the training may be mirrored.
    pub letters: bool,
    /// What was put in, in units of the window.
    pub original: &'a dyn Fn(usize) -> f32,
    /// What the decoder made of a voxel, if it was hidden from the encoder.
    pub reconstructed: &'a dyn Fn(usize) -> Option<f32>,
}

/// Draws crops of the training side by side, all of one size.
///
/// # Panics
/// If a panel's volumes do not have its size.
#[must_use]
pub fn render(panels: &[Panel]) -> Canvas {
    let closures: Vec<_> = panels
        .iter()
        .map(|panel| {
            let original = |voxel: usize| panel.original[voxel];
            (original, |voxel: usize| panel.hidden[voxel].then(|| panel.pred[voxel]))
        })
        .collect();
    let views: Vec<View<'_>> = panels
        .iter()
        .zip(&closures)
        .map(|(panel, (original, reconstructed))| View {
            title: panel.title.clone(),
            lines: vec![],
            shape: panel.size,
            spacing: [1.0; 3],
            through: panel.size.map(|side| side / 2),
            places: Default::default(),
            letters: false,
            original,
            reconstructed,
        })
        .collect();
    draw(&views)
}

/// Draws views side by side, all of one shape and spacing.
#[must_use]
pub fn draw(views: &[View<'_>]) -> Canvas {
    let longest = if views.len() == 1 { ALONE } else { BESIDE };
    let tiles = views.first().map_or([[1; 2]; 3], |view| tile_sizes(view.shape, view.spacing, longest));
    let blocks: Vec<Block> = views
        .iter()
        .map(|view| Block {
            title: view.title.clone(),
            lines: view.lines.clone(),
            columns: ["original", "masked", "reconstruction"].map(Column::new).to_vec(),
        })
        .collect();
    let mut sheet = Sheet::new(&blocks, tiles, 0);
    for (block, view) in views.iter().enumerate() {
        let whole = |voxel: usize| ((view.original)(voxel), 0);
        let filled = |voxel: usize| ((view.reconstructed)(voxel).unwrap_or_else(|| (view.original)(voxel)), 0);
        for (row, (plane, size)) in PLANES.into_iter().zip(tiles).enumerate() {
            let at = view.through[plane.axes()[0]];
            let [original, masked, reconstruction] = [0, 1, 2].map(|column| sheet.tile(block, column, row));
            let slice = plane.cut(view.shape, at, false, whole);
            sheet.canvas.slice(original, size, &slice);
            sheet.canvas.slice(masked, size, &slice);
            sheet.canvas.slice(reconstruction, size, &plane.cut(view.shape, at, false, filled));
            // Patches end where voxels do: nothing is interpolated here.
            let hidden = plane
                .cut(view.shape, at, false, |voxel| (f32::from(u8::from((view.reconstructed)(voxel).is_some())), 0));
            let [columns, rows] = hidden.size;
            for y in 0..size[1] {
                for x in 0..size[0] {
                    if hidden.values[y * rows / size[1] * columns + x * columns / size[0]] > 0.0 {
                        sheet.canvas.fill([masked[0] + x, masked[1] + y], [1, 1], HIDDEN);
                    }
                }
            }
            if view.letters {
                sheet.canvas.letters(original, size, plane.letters());
            }
            sheet.caption(original, size, plane, &view.places[row]);
        }
    }
    sheet.canvas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_voxels_are_marked_and_filled() {
        let size = [4, 4, 4];
        let hidden: Vec<bool> = (0..64).map(|i| i >= 32).collect();
        let panel = Panel { title: "case".into(), size, original: vec![1.0; 64], pred: vec![0.5; 64], hidden };
        let canvas = render(std::slice::from_ref(&panel));
        let blocks = [Block { columns: vec![Column::default(); 3], title: "case".into(), ..Block::default() }];
        let sheet = Sheet::new(&blocks, tile_sizes(size, [1.0; 3], ALONE), 0);
        let pixel = |column: usize, x: usize| {
            let [left, top] = sheet.tile(0, column, 0);
            canvas.pixel([left + x, top + 1])
        };
        // Large x is hidden, and large x is on the left.
        assert_eq!(pixel(0, 1), [255; 3]);
        assert_eq!(pixel(1, 1), HIDDEN);
        assert_eq!(pixel(1, ALONE - 2), [255; 3]);
        assert_eq!(pixel(2, 1), [128; 3]);
    }
}
