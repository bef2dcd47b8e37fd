//! Pictures of volumes and crops: slices in grey, labels in colour, captions.
//!
//! Slices are shown in the radiological convention: the viewer faces the patient, so the patient's right (R) is on the
//! left of axial and coronal slices. Sagittal slices have the front (A) on the left. Letters at the edges name the
//! directions.

mod canvas;
mod case_view;
mod slice;

pub use canvas::{Canvas, LETTER, fitting};
pub use case_view::CaseView;
pub use slice::{Plane, Slice};

/// Red, green and blue.
pub type Rgb = [u8; 3];

/// Colour of the background.
pub const BACKGROUND: Rgb = [16, 18, 22];
/// Colour of captions.
pub const TEXT: Rgb = [222, 226, 232];
/// Colour of less important captions.
pub const FAINT: Rgb = [128, 136, 148];

/// Colour of the hatching over voxels without annotation.
pub const IGNORED: Rgb = [214, 216, 222];

/// Colours of labels, easy to distinguish, also on grey.
const COLOURS: [Rgb; 14] = [
    [235, 64, 52],
    [64, 156, 255],
    [72, 199, 102],
    [255, 193, 37],
    [186, 104, 240],
    [38, 208, 206],
    [255, 127, 42],
    [247, 129, 191],
    [166, 214, 51],
    [121, 134, 255],
    [205, 148, 92],
    [0, 150, 120],
    [255, 236, 139],
    [200, 60, 130],
];

/// Colour of a label; `None` for the background, 0.
#[must_use]
pub fn label_colour(label: u8) -> Option<Rgb> {
    let at = usize::from(label).checked_sub(1)?;
    let [r, g, b] = COLOURS[at % COLOURS.len()];
    // Every round of the table is shaded differently, and bright enough to be seen on black.
    let (gain, lift) = [(100, 0), (62, 0), (55, 110), (80, 45)][at / COLOURS.len() % 4];
    let shade = |value: u8| u8::try_from(usize::from(value) * gain / 100 + lift).unwrap_or(u8::MAX);
    let colour = [r, g, b].map(shade);
    Some(if at / COLOURS.len() < 4 { colour } else { [colour[1], colour[2], colour[0]] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_differ_in_colour() {
        assert_eq!(label_colour(0), None);
        let colours: std::collections::BTreeSet<_> = (1..=112).map(label_colour).collect();
        assert_eq!(colours.len(), 112);
    }
}
