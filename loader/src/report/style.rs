//! Font and colours of all plots.

use std::sync::Once;

use plotters::prelude::*;
use plotters::style::register_font;

/// Name under which the font is registered. The browser draws the texts of an SVG in its own font of this name.
const FONT: &str = "sans-serif";

/// Colour of texts and axes.
pub const INK: RGBColor = RGBColor(36, 41, 51);
/// Colour of grid lines.
pub const GRID: RGBColor = RGBColor(228, 231, 236);
/// Colour of the first or only curve.
pub const BLUE: RGBColor = RGBColor(31, 98, 180);
/// Colour of the second curve.
pub const ORANGE: RGBColor = RGBColor(200, 100, 20);

static FONT_REGISTERED: Once = Once::new();

/// Style of a text of `size` pixels. The font is built into the program (Ubuntu Light, Ubuntu font licence), so that
/// machines without fonts draw the same picture.
#[must_use]
pub fn text(size: i32) -> TextStyle<'static> {
    FONT_REGISTERED.call_once(|| {
        // An unusable font appears as an error of the first text.
        let _ = register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
    TextStyle::from((FONT, size).into_font()).color(&INK)
}
