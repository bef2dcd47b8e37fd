//! Chart of the result as a PNG: one bar per contender, longest first.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use font8x8::UnicodeFonts as _;

const WIDTH: usize = 1200;
const MARGIN: usize = 32;
const BAR: usize = 26;
/// Distance between the tops of neighbouring bars in pixels.
const PITCH: usize = 68;
const HEAD: usize = 96;
/// Width in pixels reserved for the numbers to the right of the longest bar.
const FIGURES: usize = 330;

const BACKGROUND: [u8; 3] = [250, 250, 248];
const TEXT: [u8; 3] = [30, 34, 40];
const FAINT: [u8; 3] = [110, 116, 126];
const OURS: [u8; 3] = [0, 114, 178];
const PEER: [u8; 3] = [154, 160, 170];
const FLOOR: [u8; 3] = [214, 216, 220];

/// Kind of contender, which determines the colour of its bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A measurement of this project.
    Ours,
    /// Another compressed store.
    Peer,
    /// A lower bound without compression.
    Floor,
}

/// Bar of one contender.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Name above the bar.
    pub label: String,
    /// Crops per second.
    pub crops_per_s: f64,
    /// Size of the store in bytes per voxel.
    pub bytes_per_voxel: f64,
    /// Kind of contender.
    pub kind: Kind,
}

struct Canvas {
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    fn fill(&mut self, [x, y]: [usize; 2], [width, height]: [usize; 2], colour: [u8; 3]) {
        for row in y..(y + height).min(self.height) {
            for column in x..(x + width).min(WIDTH) {
                let at = 3 * (row * WIDTH + column);
                self.rgb[at..at + 3].copy_from_slice(&colour);
            }
        }
    }

    /// Draws text in letters of 16 x 16 pixels.
    fn text(&mut self, text: &str, [x, y]: [usize; 2], colour: [u8; 3]) {
        for (number, letter) in text.chars().enumerate() {
            let Some(glyph) = font8x8::BASIC_FONTS.get(letter) else { continue };
            for (row, bits) in glyph.iter().enumerate() {
                for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                    self.fill([x + 16 * number + 2 * column, y + 2 * row], [2, 2], colour);
                }
            }
        }
    }
}

/// Writes the chart to `path`, with a title and a note above the bars.
///
/// # Errors
/// If the file cannot be written.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "lengths in pixels"
)]
pub fn draw(path: &Path, title: &str, note: &str, mut bars: Vec<Bar>) -> anyhow::Result<()> {
    bars.sort_by(|a, b| b.crops_per_s.total_cmp(&a.crops_per_s));
    let height = HEAD + bars.len() * PITCH + MARGIN;
    let mut canvas = Canvas { height, rgb: BACKGROUND.repeat(WIDTH * height) };
    canvas.text(title, [MARGIN, 24], TEXT);
    canvas.text(note, [MARGIN, 54], FAINT);
    let longest = bars.first().map_or(1.0, |bar| bar.crops_per_s.max(1.0));
    for (number, bar) in bars.iter().enumerate() {
        let y = HEAD + number * PITCH;
        let length = ((WIDTH - 2 * MARGIN - FIGURES) as f64 * bar.crops_per_s / longest) as usize;
        let colour = match bar.kind {
            Kind::Ours => OURS,
            Kind::Peer => PEER,
            Kind::Floor => FLOOR,
        };
        canvas.text(&bar.label, [MARGIN, y], if bar.kind == Kind::Ours { OURS } else { TEXT });
        canvas.fill([MARGIN, y + 22], [length.max(2), BAR], colour);
        let figures = format!("{:.0}   {:.2} B/vox", bar.crops_per_s, bar.bytes_per_voxel);
        canvas.text(&figures, [MARGIN + length.max(2) + 12, y + 27], TEXT);
    }
    let file = BufWriter::new(File::create(path)?);
    let mut encoder = png::Encoder::new(file, u32::try_from(WIDTH)?, u32::try_from(height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&canvas.rgb)?;
    Ok(())
}
