//! The picture of a run: original, masked input and reconstruction, in three planes, for some crops.
//!
//! Planes are laid out as radiologists look at them: the patient's right is on the left, anterior or superior is up.
//! (Crops that were flipped by augmentation show it.)

use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use font8x8::UnicodeFonts as _;

/// Side of a tile that is aimed at, pixels.
const TILE: usize = 288;
/// Between tiles, between crops, and around all.
const GAP: usize = 4;
const CROP_GAP: usize = 28;
const MARGIN: usize = 16;
/// Pixels of a letter.
const LETTER: usize = 16;

const BACKGROUND: [u8; 3] = [16, 18, 22];
const HIDDEN: [u8; 3] = [44, 50, 62];
const TITLE: [u8; 3] = [236, 238, 242];
const LABEL: [u8; 3] = [150, 158, 172];

const COLUMNS: [&str; 3] = ["original", "masked", "reconstruction"];
const PLANES: [Plane; 3] = [Plane::Axial, Plane::Coronal, Plane::Sagittal];

/// One crop of the picture; volumes are [x, y, z], z fastest, in units of the window.
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

#[derive(Clone, Copy)]
enum Plane {
    Axial,
    Coronal,
    Sagittal,
}

impl Plane {
    fn name(self) -> &'static str {
        match self {
            Self::Axial => "axial",
            Self::Coronal => "coronal",
            Self::Sagittal => "sagittal",
        }
    }

    /// Columns and rows of this plane through a volume.
    fn extent(self, [x, y, z]: [usize; 3]) -> [usize; 2] {
        match self {
            Self::Axial => [x, y],
            Self::Coronal => [x, z],
            Self::Sagittal => [y, z],
        }
    }

    /// The voxel at a column and row of the middle slice. Axes run towards right, anterior and superior (RAS+), the
    /// screen's towards right and down, so each is turned round.
    fn voxel(self, [x, y, z]: [usize; 3], column: usize, row: usize) -> usize {
        let [i, j, k] = match self {
            Self::Axial => [x - 1 - column, y - 1 - row, z / 2],
            Self::Coronal => [x - 1 - column, y / 2, z - 1 - row],
            Self::Sagittal => [x / 2, y - 1 - column, z - 1 - row],
        };
        (i * y + j) * z + k
    }
}

/// Pixels, row by row.
#[derive(Clone, Debug)]
pub struct Image {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    rgb: Vec<u8>,
}

impl Image {
    fn new(width: usize, height: usize) -> Self {
        Self { width, height, rgb: BACKGROUND.repeat(width * height) }
    }

    /// Takes pixels as they are, three bytes each.
    ///
    /// # Panics
    /// If they are not `width` times `height`.
    pub(super) fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Self {
        assert_eq!(rgb.len(), 3 * width * height, "three bytes a pixel");
        Self { width, height, rgb }
    }

    #[cfg(test)]
    pub(super) fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            let at = 3 * (y * self.width + x);
            self.rgb[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// Letters of twice eight pixels, from left to right or from bottom to top.
    fn text(&mut self, text: &str, [x, y]: [usize; 2], colour: [u8; 3], upwards: bool) {
        for (index, letter) in text.chars().enumerate() {
            let Some(glyph) = font8x8::BASIC_FONTS.get(letter) else { continue };
            for (row, bits) in glyph.iter().enumerate() {
                for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                    for (dx, dy) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                        let (along, across) = (index * LETTER + 2 * column + dx, 2 * row + dy);
                        if upwards {
                            self.set(x + across, y.saturating_sub(along), colour);
                        } else {
                            self.set(x + along, y + across, colour);
                        }
                    }
                }
            }
        }
    }

    /// Writes a PNG under a temporary name and renames it.
    ///
    /// # Errors
    /// If the file cannot be written. Nothing of it stays then.
    pub fn write_png(&self, path: &Path) -> io::Result<()> {
        let mut temporary = tempfile::Builder::new();
        // What the umask leaves of it, as for any other file.
        temporary.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = temporary.tempfile_in(folder)?;
        let mut out = BufWriter::new(file.as_file_mut());
        let side = |pixels: usize| u32::try_from(pixels).map_err(io::Error::other);
        let mut encoder = png::Encoder::new(&mut out, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb)?;
        writer.finish()?;
        out.flush()?;
        drop(out);
        file.persist(path)?;
        Ok(())
    }
}

/// Draws `panels` side by side, all of one size.
///
/// # Panics
/// If a panel's volumes do not have its size.
#[must_use]
pub fn render(panels: &[Panel]) -> Image {
    let largest = panels.iter().flat_map(|p| p.size).max().unwrap_or(1);
    let scale = (TILE / largest).max(1);
    let tile = largest * scale;
    let labels = LETTER + 8;
    let header = 2 * (LETTER + 10);
    let panel_width = COLUMNS.len() * tile + (COLUMNS.len() - 1) * GAP;
    let width = 2 * MARGIN + labels + panels.len() * panel_width + panels.len().saturating_sub(1) * CROP_GAP;
    let height = 2 * MARGIN + header + PLANES.len() * tile + (PLANES.len() - 1) * GAP;
    let mut image = Image::new(width, height);
    for (row, plane) in PLANES.iter().enumerate() {
        let centre = MARGIN + header + row * (tile + GAP) + tile / 2;
        let from = centre + plane.name().len() * LETTER / 2;
        image.text(plane.name(), [MARGIN, from], LABEL, true);
    }
    for (index, panel) in panels.iter().enumerate() {
        let left = MARGIN + labels + index * (panel_width + CROP_GAP);
        let heading: String = panel.title.chars().take(panel_width / LETTER).collect();
        image.text(&heading, [left, MARGIN], TITLE, false);
        for (column, name) in COLUMNS.iter().enumerate() {
            let x = left + column * (tile + GAP);
            image.text(name, [x, MARGIN + LETTER + 10], LABEL, false);
            for (row, &plane) in PLANES.iter().enumerate() {
                let y = MARGIN + header + row * (tile + GAP);
                draw(&mut image, panel, plane, column, [x, y], scale);
            }
        }
    }
    image
}

/// One tile: bilinear between voxels, so that eight-bit steps show and voxels do not.
fn draw(image: &mut Image, panel: &Panel, plane: Plane, column: usize, [left, top]: [usize; 2], scale: usize) {
    let [columns, rows] = plane.extent(panel.size);
    let value = |c: usize, r: usize| {
        let at = plane.voxel(panel.size, c, r);
        // The reconstruction keeps what was visible, as in the paper's figure.
        if column == 2 && panel.hidden[at] { panel.pred[at] } else { panel.original[at] }
    };
    let between = |pixel: usize, len: usize| {
        let position = ((pixel as f32 + 0.5) / scale as f32 - 0.5).clamp(0.0, (len - 1) as f32);
        let low = position as usize;
        (low, (low + 1).min(len - 1), position - low as f32)
    };
    for y in 0..rows * scale {
        let (r0, r1, fr) = between(y, rows);
        for x in 0..columns * scale {
            if column == 1 && panel.hidden[plane.voxel(panel.size, x / scale, y / scale)] {
                image.set(left + x, top + y, HIDDEN);
                continue;
            }
            let (c0, c1, fc) = between(x, columns);
            let upper = value(c0, r0) * (1.0 - fc) + value(c1, r0) * fc;
            let lower = value(c0, r1) * (1.0 - fc) + value(c1, r1) * fc;
            let grey = ((upper * (1.0 - fr) + lower * fr).clamp(0.0, 1.0) * 255.0).round() as u8;
            image.set(left + x, top + y, [grey; 3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_voxels_are_marked_and_filled() {
        let size = [4, 4, 4];
        let hidden: Vec<bool> = (0..64).map(|i| i >= 32).collect();
        let panel = Panel { title: "case".into(), size, original: vec![1.0; 64], pred: vec![0.5; 64], hidden };
        let image = render(&[panel]);
        let tile = 4 * (TILE / 4);
        let pixel = |x: usize, y: usize| &image.rgb[3 * (y * image.width + x)..][..3];
        let (left, top) = (MARGIN + LETTER + 8, MARGIN + 2 * (LETTER + 10));
        // Large x is hidden, and large x is on the left.
        assert_eq!(pixel(left + 1, top + 1), [255; 3]);
        assert_eq!(pixel(left + tile + GAP + 1, top + 1), HIDDEN);
        assert_eq!(pixel(left + 2 * tile + GAP - 1, top + 1), [255; 3]);
        assert_eq!(pixel(left + 2 * (tile + GAP) + 1, top + 1), [128; 3]);
    }
}
