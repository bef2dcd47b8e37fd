//! Chart of the result as a PNG: one bar per contender, longest first.

use std::path::Path;

use anyhow::Context as _;
use hiend_loader::picture::{Canvas, Rgb};

const WIDTH: usize = 1200;
const MARGIN: usize = 32;
const BAR: usize = 26;
/// Distance between the tops of neighbouring bars in pixels.
const PITCH: usize = 68;
const HEAD: usize = 96;
/// Width in pixels reserved for the numbers to the right of the longest bar.
const FIGURES: usize = 330;
/// Scale of the letters, which makes them 16 x 16 pixels.
const LETTERS: usize = 2;

const BACKGROUND: Rgb = [250, 250, 248];
const TEXT: Rgb = [30, 34, 40];
const FAINT: Rgb = [110, 116, 126];
const OURS: Rgb = [0, 114, 178];
const PEER: Rgb = [154, 160, 170];
const FLOOR: Rgb = [214, 216, 220];

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
    let mut canvas = Canvas::new(WIDTH, height);
    canvas.fill([0, 0], [WIDTH, height], BACKGROUND);
    canvas.text([MARGIN, 24], LETTERS, TEXT, title);
    canvas.text([MARGIN, 54], LETTERS, FAINT, note);
    let longest = bars.first().map_or(1.0, |bar| bar.crops_per_s.max(1.0));
    for (number, bar) in bars.iter().enumerate() {
        let y = HEAD + number * PITCH;
        let length = ((WIDTH - 2 * MARGIN - FIGURES) as f64 * bar.crops_per_s / longest) as usize;
        let colour = match bar.kind {
            Kind::Ours => OURS,
            Kind::Peer => PEER,
            Kind::Floor => FLOOR,
        };
        canvas.text([MARGIN, y], LETTERS, if bar.kind == Kind::Ours { OURS } else { TEXT }, &bar.label);
        canvas.fill([MARGIN, y + 22], [length.max(2), BAR], colour);
        let figures = format!("{:.0}   {:.2} B/vox", bar.crops_per_s, bar.bytes_per_voxel);
        canvas.text([MARGIN + length.max(2) + 12, y + 27], LETTERS, TEXT, &figures);
    }
    canvas.write_png(path).with_context(|| path.display().to_string())
}
