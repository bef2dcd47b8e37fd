//! The picture of a case: middle slices in three planes with a legend of labels.

use super::canvas::{Canvas, LETTER, fitting};
use super::slice::Plane;
use super::{FAINT, TEXT, label_colour};

/// A picture of a volume: its middle slices in three planes, with captions and a legend.
pub struct CaseView<'a> {
    /// First line.
    pub title: &'a str,
    /// Second line.
    pub subtitle: &'a str,
    /// Voxels along x, y, z (RAS+).
    pub shape: [usize; 3],
    /// Voxel side lengths in mm.
    pub spacing: [f64; 3],
    /// Grey value of a voxel by its number, z fastest; 0 is black, 1 is white.
    pub grey: &'a dyn Fn(usize) -> f32,
    /// Label map, z fastest.
    pub labels: Option<&'a [u8]>,
    /// Labels of the legend, with their names.
    pub legend: &'a [(u8, String)],
}

/// Longest side of a volume in a picture, in pixels.
const LONGEST: f64 = 520.0;
/// Distance between parts of the picture, in pixels.
const MARGIN: usize = 20;
/// Distance from a slice's heading to the slice, in pixels.
const HEADING: usize = 20;

impl CaseView<'_> {
    /// Draws the middle slices in true proportion.
    #[must_use]
    pub fn draw(&self) -> Canvas {
        let millimetres: [f64; 3] = std::array::from_fn(|axis| self.shape[axis] as f64 * self.spacing[axis]);
        let scale = LONGEST / millimetres.into_iter().fold(1e-6, f64::max);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most LONGEST")]
        let pixels = millimetres.map(|length| ((length * scale).round() as usize).max(1));
        let panels: Vec<(Plane, [usize; 2])> = [Plane::Axial, Plane::Coronal, Plane::Sagittal]
            .into_iter()
            .map(|plane| (plane, [pixels[plane.axes()[1]], pixels[plane.axes()[2]]]))
            .collect();
        let least = 16 * LETTER;
        // In flat volumes, the coronal slice is drawn above the sagittal one, to the right of the axial one.
        let [axial, coronal, sagittal] = [panels[0].1, panels[1].1, panels[2].1];
        let second = axial[0].max(least) + MARGIN;
        let third = coronal[0].max(least) + MARGIN;
        let below = coronal[1] + MARGIN + HEADING;
        let stacked = below + sagittal[1] <= axial[1] + axial[1] / 4;
        let places =
            if stacked { [[0, 0], [second, 0], [second, below]] } else { [[0, 0], [second, 0], [second + third, 0]] };
        let edge = |axis: usize, extra: usize| {
            let ends = places.iter().zip(&panels).map(|(at, (_, size))| at[axis] + size[axis].max(extra));
            ends.max().unwrap_or(0)
        };
        let (width, tallest) = (edge(0, least) + 2 * MARGIN, edge(1, 0));
        let longest_name = self.legend.iter().map(|(_, name)| name.chars().count()).max().unwrap_or(0);
        let entry = (longest_name + 4) * LETTER;
        let columns = ((width - 2 * MARGIN) / entry.max(1)).max(1);
        let legend = self.legend.len().div_ceil(columns) * 18;
        let top = MARGIN + 2 * LETTER + 8 + LETTER + HEADING;
        let bottom = top + HEADING + tallest + MARGIN;
        let mut canvas = Canvas::new(width, bottom + legend + if legend > 0 { MARGIN } else { 0 });
        canvas.text([MARGIN, MARGIN], 2, TEXT, &fitting(self.title, (width - 2 * MARGIN) / (2 * LETTER)));
        let line = fitting(self.subtitle, (width - 2 * MARGIN) / LETTER);
        canvas.text([MARGIN, MARGIN + 2 * LETTER + 8], 1, FAINT, &line);
        for ((plane, size), place) in panels.into_iter().zip(places) {
            let normal = plane.axes()[0];
            let at = self.shape[normal] / 2;
            let [left, head] = [MARGIN + place[0], top + place[1]];
            canvas.text([left, head], 1, TEXT, &format!("{} {}", plane.name(), ["x", "y", "z"][normal]));
            canvas.text([left + 11 * LETTER, head], 1, FAINT, &format!("{at}"));
            let slice = plane.cut(self.shape, at, self.labels.is_some(), |voxel| {
                ((self.grey)(voxel), self.labels.map_or(0, |labels| labels[voxel]))
            });
            let from = [left, head + HEADING];
            canvas.slice(from, size, &slice);
            canvas.letters(from, size, plane.letters());
        }
        for (number, (label, name)) in self.legend.iter().enumerate() {
            let at = [MARGIN + number % columns * entry, bottom + number / columns * 18];
            canvas.fill(at, [12, 12], label_colour(*label).unwrap_or(FAINT));
            canvas.text([at[0] + 18, at[1] + 2], 1, TEXT, name);
        }
        canvas
    }
}
