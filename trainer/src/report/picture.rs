//! Pictures of original, masked input and reconstruction in three planes, for crops during training and for crops or
//! whole scans on request.
//!
//! The reconstruction keeps the visible patches, as in the paper's figure, and each hidden patch has its true mean and
//! contrast, as in the reference's pictures.

use hiend_loader::picture::{Canvas, Rgb};
use hiend_loader::preprocess::normalize::Units;

use super::sheet::{Block, Column, OF_CROPS, PLANES, Sheet, tile_sizes};

/// Longest side of a tile of a single view, pixels.
const LONGEST_OF_ONE: usize = 432;
/// Longest side of a tile of several views, pixels.
const LONGEST_OF_SEVERAL: usize = 288;

const HIDDEN: Rgb = [44, 50, 62];

/// A training crop; volumes are [x, y, z], z fastest.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Title, drawn at the top.
    pub title: String,
    /// Sides of the crop, in voxels.
    pub size: [usize; 3],
    /// Voxels of the input.
    pub original: Vec<f32>,
    /// Voxels of the decoder's output.
    pub pred: Vec<f32>,
    /// True if each voxel was hidden from the encoder.
    pub hidden: Vec<bool>,
}

/// A volume to draw; voxels are numbered z fastest.
pub struct View<'a> {
    /// Title, drawn at the top.
    pub title: String,
    /// Lines below the title.
    pub lines: Vec<String>,
    /// Number of voxels along x, y, z.
    pub shape: [usize; 3],
    /// Voxel side lengths along x, y, z, in mm.
    pub spacing: [f64; 3],
    /// Voxel through which all planes pass.
    pub through: [usize; 3],
    /// Position of each plane as text, empty if unknown.
    pub places: [String; 3],
    /// True to name planes and sides of the patient; training crops may be turned and mirrored, and have axes instead.
    pub letters: bool,
    /// Units of the values.
    pub units: Units,
    /// Value of a voxel of the input.
    pub original: &'a dyn Fn(usize) -> f32,
    /// Value of the decoder's output at a voxel; `None` if the voxel was visible to the encoder.
    pub reconstructed: &'a dyn Fn(usize) -> Option<f32>,
}

/// Draws training crops side by side, all of one size, whose values are in `units`.
///
/// # Panics
/// If a panel's volumes do not have its size.
#[must_use]
pub fn render(panels: &[Panel], units: Units) -> Canvas {
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
            lines: vec![OF_CROPS.to_owned()],
            shape: panel.size,
            spacing: [1.0; 3],
            through: panel.size.map(|side| side / 2),
            places: Default::default(),
            letters: false,
            units,
            original,
            reconstructed,
        })
        .collect();
    draw(&views)
}

/// Draws views side by side, all of one shape and spacing.
#[must_use]
pub fn draw(views: &[View<'_>]) -> Canvas {
    let longest = if views.len() == 1 { LONGEST_OF_ONE } else { LONGEST_OF_SEVERAL };
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
        let whole = |voxel: usize| (view.units.grey((view.original)(voxel)), 0);
        let filled = |voxel: usize| {
            let value = (view.reconstructed)(voxel).unwrap_or_else(|| (view.original)(voxel));
            (view.units.grey(value), 0)
        };
        for (row, (plane, size)) in PLANES.into_iter().zip(tiles).enumerate() {
            let at = view.through[plane.axes()[0]];
            let [original, masked, reconstruction] = [0, 1, 2].map(|column| sheet.tile(block, column, row));
            let slice = plane.cut(view.shape, at, false, whole);
            sheet.canvas.slice(original, size, &slice);
            sheet.canvas.slice(masked, size, &slice);
            sheet.canvas.slice(reconstruction, size, &plane.cut(view.shape, at, false, filled));
            // The borders of patches are those of voxels: nearest neighbour, no interpolation.
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
            let name = if view.letters { plane.name() } else { plane.axis_names() };
            sheet.caption(original, size, name, &view.places[row]);
        }
    }
    sheet.canvas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_voxels_are_marked_and_reconstructed() {
        let size = [4, 4, 4];
        let hidden: Vec<bool> = (0..64).map(|i| i >= 32).collect();
        let panel = Panel { title: "case".into(), size, original: vec![1.0; 64], pred: vec![0.5; 64], hidden };
        let canvas = render(std::slice::from_ref(&panel), Units::Window([-175.0, 250.0]));
        let (title, lines) = ("case".into(), vec![OF_CROPS.to_owned()]);
        let blocks = [Block { columns: vec![Column::default(); 3], title, lines }];
        let sheet = Sheet::new(&blocks, tile_sizes(size, [1.0; 3], LONGEST_OF_ONE), 0);
        let pixel = |column: usize, x: usize| {
            let [left, top] = sheet.tile(0, column, 0);
            canvas.pixel([left + x, top + 1])
        };
        // Large x is hidden, and drawn on the left.
        assert_eq!(pixel(0, 1), [255; 3]);
        assert_eq!(pixel(1, 1), HIDDEN);
        assert_eq!(pixel(1, LONGEST_OF_ONE - 2), [255; 3]);
        assert_eq!(pixel(2, 1), [128; 3]);
    }
}
