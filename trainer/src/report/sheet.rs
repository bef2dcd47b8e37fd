//! Table of slices: one row per plane, one column per picture, with columns grouped in titled blocks.
//!
//! Planes are oriented as radiologists view them (see [`hiend_loader::picture`]): the patient's right is on the left,
//! anterior or superior is up.

use hiend_loader::picture::{BACKGROUND, Canvas, FAINT, LETTER, Plane, Rgb, TEXT, fitting};

/// Planes of the rows, top to bottom.
pub const PLANES: [Plane; 3] = [Plane::Axial, Plane::Coronal, Plane::Sagittal];

/// Line below the titles of training crops.
pub const OF_CROPS: &str = "training crop; augmentation may have turned and mirrored it, and voxels are drawn as cubes";

const MARGIN: usize = 16;
/// Gap between tiles, pixels.
const GAP: usize = 4;
/// Gap between blocks, pixels.
const BLOCK_GAP: usize = 28;
const LINE: usize = LETTER + 6;
/// Scale of the letters of titles and headings.
const LARGE: usize = 2;
const LARGE_LINE: usize = LARGE * LETTER + 8;

/// Texts of a column.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// Heading, in large letters.
    pub heading: String,
    /// Line below the heading, in small letters.
    pub note: String,
}

impl Column {
    /// Makes a column without a note.
    pub fn new(heading: impl Into<String>) -> Self {
        Self { heading: heading.into(), note: String::new() }
    }
}

/// A group of columns.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Title, in large letters.
    pub title: String,
    /// Lines below the title, in small letters.
    pub lines: Vec<String>,
    /// Columns, left to right.
    pub columns: Vec<Column>,
}

/// A table with its headings; the caller draws the tiles.
#[derive(Clone, Debug)]
pub struct Sheet {
    /// Canvas with the headings drawn.
    pub canvas: Canvas,
    /// Left edge of every column, by block.
    lefts: Vec<Vec<usize>>,
    /// Upper edge of every row and of the footer.
    tops: [usize; 4],
}

impl Sheet {
    /// Lays out blocks; `tiles` are the sizes of a row's tiles in pixels, and `footer` pixels stay free below the rows.
    #[must_use]
    pub fn new(blocks: &[Block], tiles: [[usize; 2]; 3], footer: usize) -> Self {
        let width = tiles.iter().map(|tile| tile[0]).max().unwrap_or(0);
        let has_notes = blocks.iter().flat_map(|block| &block.columns).any(|column| !column.note.is_empty());
        let num_lines = blocks.iter().map(|block| block.lines.len()).max().unwrap_or(0);
        let headings = MARGIN + LARGE_LINE + num_lines * LINE + if num_lines > 0 { LETTER } else { 0 };
        let first = headings + LARGE_LINE + if has_notes { LINE } else { 0 };
        let mut tops = [first; 4];
        for (row, tile) in tiles.iter().enumerate() {
            tops[row + 1] = tops[row] + tile[1] + GAP;
        }
        let mut left = MARGIN;
        let mut lefts = Vec::with_capacity(blocks.len());
        for block in blocks {
            lefts.push((0..block.columns.len()).map(|column| left + column * (width + GAP)).collect::<Vec<_>>());
            left += block.columns.len() * (width + GAP) + BLOCK_GAP - GAP;
        }
        let mut canvas = Canvas::new((left + MARGIN).saturating_sub(BLOCK_GAP), tops[3] + footer + MARGIN - GAP);
        for (block, lefts) in blocks.iter().zip(&lefts) {
            let Some(&left) = lefts.first() else { continue };
            let whole = lefts.len() * (width + GAP) - GAP;
            canvas.text([left, MARGIN], LARGE, TEXT, &fitting(&block.title, whole / (LARGE * LETTER)));
            for (number, line) in block.lines.iter().enumerate() {
                let at = [left, MARGIN + LARGE_LINE + number * LINE];
                canvas.text(at, 1, FAINT, &fitting(line, whole / LETTER));
            }
            for (column, &left) in block.columns.iter().zip(lefts) {
                canvas.text([left, headings], LARGE, TEXT, &fitting(&column.heading, width / (LARGE * LETTER)));
                canvas.text([left, headings + LARGE_LINE - 4], 1, FAINT, &fitting(&column.note, width / LETTER));
            }
        }
        Self { canvas, lefts, tops }
    }

    /// Upper left corner of a tile.
    ///
    /// # Panics
    /// If there is no such tile.
    #[must_use]
    pub fn tile(&self, block: usize, column: usize, row: usize) -> [usize; 2] {
        assert!(row < PLANES.len(), "row {row}");
        [self.lefts[block][column], self.tops[row]]
    }

    /// Upper left corner of the footer of a column.
    ///
    /// # Panics
    /// If there is no such column.
    #[must_use]
    pub fn below(&self, block: usize, column: usize) -> [usize; 2] {
        [self.lefts[block][column], self.tops[3]]
    }

    /// Writes the name of a plane into the upper left corner of a tile and `text` into the lower left corner.
    pub fn caption(&mut self, [x, y]: [usize; 2], [_, height]: [usize; 2], plane: &str, text: &str) {
        for (text, top) in [(plane, y + 4), (text, (y + height).saturating_sub(LETTER + 4))] {
            if !text.is_empty() {
                tag(&mut self.canvas, [x + 4, top], text);
            }
        }
    }

    /// Outlines a box of voxels in the tile of a plane of a volume of `shape`.
    pub fn outline(
        &mut self,
        [x, y]: [usize; 2],
        [width, height]: [usize; 2],
        plane: Plane,
        shape: [usize; 3],
        [start, end]: [[f64; 3]; 2],
        colour: Rgb,
    ) {
        let [_, across, down] = plane.axes();
        // Axes point to the left and upwards.
        let pixels = |axis: usize, length: usize| {
            let scale = length as f64 / shape[axis] as f64;
            let at =
                |voxel: f64| ((shape[axis] as f64 - voxel).clamp(0.0, shape[axis] as f64) * scale).round() as usize;
            (at(end[axis]), at(start[axis]))
        };
        let ((left, right), (top, bottom)) = (pixels(across, width), pixels(down, height));
        // A dark border keeps the line visible on bone and on bright colours.
        let (at, size) = ([x + left, y + top], [right.saturating_sub(left), bottom.saturating_sub(top)]);
        self.canvas.frame(
            [at[0].saturating_sub(1), at[1].saturating_sub(1)],
            [size[0] + 2, size[1] + 2],
            4,
            BACKGROUND,
        );
        self.canvas.frame(at, size, 2, colour);
    }
}

/// Writes small letters on a filled background, which keeps them legible on any image.
pub fn tag(canvas: &mut Canvas, [x, y]: [usize; 2], text: &str) {
    canvas.fill([x - 2, y - 2], [text.chars().count() * LETTER + 4, LETTER + 4], BACKGROUND);
    canvas.text([x, y], 1, TEXT, text);
}

/// Computes the sizes of a volume's three tiles in true proportion; the longest side has `longest` pixels.
#[must_use]
pub fn tile_sizes(shape: [usize; 3], spacing: [f64; 3], longest: usize) -> [[usize; 2]; 3] {
    let millimetres: [f64; 3] = std::array::from_fn(|axis| shape[axis] as f64 * spacing[axis]);
    let scale = longest as f64 / millimetres.into_iter().fold(1e-6, f64::max);
    let pixels = millimetres.map(|length| ((length * scale).round() as usize).max(1));
    PLANES.map(|plane| [pixels[plane.axes()[1]], pixels[plane.axes()[2]]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_proportional_and_disjoint() {
        let tiles = tile_sizes([100, 50, 40], [1.0, 1.0, 5.0], 200);
        assert_eq!(tiles, [[100, 50], [100, 200], [50, 200]]);
        let block = Block { columns: vec![Column::new("a"), Column::new("b")], ..Block::default() };
        let sheet = Sheet::new(&[block.clone(), block], tiles, 10);
        assert!(sheet.tile(0, 1, 0)[0] >= sheet.tile(0, 0, 0)[0] + 100);
        assert!(sheet.tile(1, 0, 0)[0] >= sheet.tile(0, 1, 0)[0] + 100);
        assert!(sheet.tile(0, 0, 2)[1] >= sheet.tile(0, 0, 1)[1] + 200);
        assert!(sheet.below(1, 1)[1] + 10 <= sheet.canvas.height && sheet.below(1, 1)[0] + 100 < sheet.canvas.width);
    }

    #[test]
    fn box_is_outlined_at_its_voxels() {
        let block = Block { columns: vec![Column::new("a")], ..Block::default() };
        let mut sheet = Sheet::new(&[block], [[100, 100]; 3], 0);
        let at = sheet.tile(0, 0, 0);
        // Voxels 0 to 1 along x are at the right edge, 8 to 10 along y at the upper one.
        let corners = [[0.0, 8.0, 0.0], [1.0, 10.0, 1.0]];
        sheet.outline(at, [100, 100], Plane::Axial, [10, 10, 10], corners, [1, 2, 3]);
        assert_eq!(sheet.canvas.pixel([at[0] + 99, at[1] + 19]), [1, 2, 3]);
        assert_eq!(sheet.canvas.pixel([at[0] + 90, at[1]]), [1, 2, 3]);
        assert_ne!(sheet.canvas.pixel([at[0] + 50, at[1] + 50]), [1, 2, 3]);
    }
}
