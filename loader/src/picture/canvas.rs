//! A picture in memory, with functions that draw rectangles, text and slices and write a PNG file.

use std::io;
use std::path::Path;

use font8x8::UnicodeFonts as _;
use hiend_cache::durable;

use super::slice::Slice;
use super::{BACKGROUND, IGNORED, Rgb, label_colour};

/// Side of a letter at scale 1, in pixels.
pub const LETTER: usize = 8;

/// Distance between two lines of a hatching, in pixels.
const HATCH: usize = 6;

/// A picture in memory.
#[derive(Clone, Debug)]
pub struct Canvas {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    pixels: Vec<Rgb>,
}

impl Canvas {
    /// Creates a picture filled with [`BACKGROUND`].
    #[must_use]
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![BACKGROUND; width * height] }
    }

    /// Creates a picture from its pixels: red, green and blue, row by row.
    ///
    /// # Panics
    /// If `rgb` does not have three bytes for every pixel.
    #[must_use]
    pub fn from_rgb(width: usize, height: usize, rgb: &[u8]) -> Self {
        let (pixels, rest) = rgb.as_chunks();
        assert!(rest.is_empty() && pixels.len() == width * height, "{} bytes for {width} x {height}", rgb.len());
        Self { width, height, pixels: pixels.to_vec() }
    }

    /// Colour of a pixel.
    ///
    /// # Panics
    /// If the pixel lies outside the picture.
    #[must_use]
    pub fn pixel(&self, [x, y]: [usize; 2]) -> Rgb {
        assert!(x < self.width && y < self.height, "({x}, {y}) in {} x {}", self.width, self.height);
        self.pixels[y * self.width + x]
    }

    /// Draws the border of a rectangle, `thickness` pixels wide, inside the rectangle.
    pub fn frame(&mut self, [x, y]: [usize; 2], [width, height]: [usize; 2], thickness: usize, colour: Rgb) {
        let (right, bottom) = ((x + width).saturating_sub(thickness), (y + height).saturating_sub(thickness));
        self.fill([x, y], [width, thickness], colour);
        self.fill([x, bottom], [width, thickness], colour);
        self.fill([x, y], [thickness, height], colour);
        self.fill([right, y], [thickness, height], colour);
    }

    /// Fills a rectangle, clipped to the picture.
    pub fn fill(&mut self, [x, y]: [usize; 2], [width, height]: [usize; 2], colour: Rgb) {
        for row in y..(y + height).min(self.height) {
            let columns = x.min(self.width)..(x + width).min(self.width);
            self.pixels[row * self.width..(row + 1) * self.width][columns].fill(colour);
        }
    }

    /// Draws text from its upper left corner on, in letters of [`LETTER`] times `scale` pixels. A letter that the font lacks is
    /// drawn as a similar one, or as `?`.
    pub fn text(&mut self, [x, y]: [usize; 2], scale: usize, colour: Rgb, text: &str) {
        for (number, letter) in text.chars().enumerate() {
            for (row, bits) in glyph(letter).into_iter().enumerate() {
                for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
                    let at = [x + (number * LETTER + column) * scale, y + row * scale];
                    self.fill(at, [scale, scale], colour);
                }
            }
        }
    }

    /// Draws a slice scaled to a rectangle: grey values interpolated, labels tinted and outlined, voxels without annotation
    /// hatched.
    pub fn slice(&mut self, [left, top]: [usize; 2], [width, height]: [usize; 2], slice: &Slice) {
        let scale = [slice.size[0] as f64 / width as f64, slice.size[1] as f64 / height as f64];
        let centre = |pixel: usize, axis: usize| (pixel as f64 + 0.5) * scale[axis];
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positions in a slice")]
        let nearest = |pixel: usize, axis: usize| (centre(pixel, axis) as usize).min(slice.size[axis] - 1);
        let label = |column: usize, row: usize| {
            let labels = slice.labels.as_ref()?;
            let label = labels[nearest(row, 1) * slice.size[0] + nearest(column, 0)];
            if slice.ignored == Some(label) { Some(IGNORED) } else { label_colour(label) }
        };
        for row in 0..height.min(self.height.saturating_sub(top)) {
            for column in 0..width.min(self.width.saturating_sub(left)) {
                let grey = f64::from(slice.interpolate(centre(column, 0) - 0.5, centre(row, 1) - 0.5).clamp(0.0, 1.0));
                let mut pixel = [grey * 255.0; 3];
                if let Some(colour) = label(column, row) {
                    let inside = column > 0
                        && row > 0
                        && column + 1 < width
                        && row + 1 < height
                        && [(column - 1, row), (column + 1, row), (column, row - 1), (column, row + 1)]
                            .into_iter()
                            .all(|(x, y)| label(x, y) == Some(colour));
                    let weight = match (inside, colour == IGNORED) {
                        (false, _) => 0.95,
                        (true, false) => 0.32,
                        (true, true) if (column + row).is_multiple_of(HATCH) => 0.6,
                        (true, true) => 0.0,
                    };
                    for (value, colour) in pixel.iter_mut().zip(colour) {
                        *value += (f64::from(colour) - *value) * weight;
                    }
                }
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 255")]
                let pixel = pixel.map(|value| value.round() as u8);
                self.pixels[(top + row) * self.width + left + column] = pixel;
            }
        }
    }

    /// Writes the picture as a PNG file. The file appears complete or not at all.
    ///
    /// Removes temporary files that killed processes left in its folder.
    ///
    /// # Errors
    /// If the file cannot be written; the error does not name it.
    pub fn write_png(&self, path: &Path) -> io::Result<()> {
        durable::remove_stale_beside(path);
        durable::write_with(path, |out| self.encode_png(out)).map_err(|error| error.source)
    }

    /// The picture as the bytes of a PNG file.
    ///
    /// # Errors
    /// If a side is 0 or too long for the format.
    pub fn to_png(&self) -> io::Result<Vec<u8>> {
        let mut png = Vec::new();
        self.encode_png(&mut png)?;
        Ok(png)
    }

    fn encode_png(&self, out: &mut impl io::Write) -> io::Result<()> {
        let side = |length: usize| u32::try_from(length).map_err(io::Error::other);
        let mut encoder = png::Encoder::new(out, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(self.pixels.as_flattened())?;
        Ok(writer.finish()?)
    }

    /// Draws the anatomical directions (`Plane::letters`) at the left, right, upper and lower edge of a slice.
    pub fn letters(&mut self, [x, y]: [usize; 2], [width, height]: [usize; 2], [left, right, up, down]: [char; 4]) {
        let (middle, centre) = (y + (height / 2).saturating_sub(LETTER), x + (width / 2).saturating_sub(LETTER));
        for (at, letter) in [
            ([x + 4, middle], left),
            ([x + width.saturating_sub(2 * LETTER + 2), middle], right),
            ([centre, y + 4], up),
            ([centre, y + height.saturating_sub(2 * LETTER + 2)], down),
        ] {
            // A shadow keeps letters legible on bone.
            self.text([at[0] + 1, at[1] + 1], 2, [0, 0, 0], &letter.to_string());
            self.text(at, 2, [255, 214, 92], &letter.to_string());
        }
    }
}

/// Shortens a text to at most `letters` characters.
#[must_use]
pub fn fitting(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    let head: String = text.chars().take(letters.saturating_sub(2)).collect();
    head + ".."
}

/// Rows of a letter from the top, one bit per column, the left one lowest.
fn glyph(letter: char) -> [u8; LETTER] {
    let similar = match letter {
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        '\u{2018}' | '\u{2019}' => '\'',
        '\u{201c}' | '\u{201d}' => '"',
        '\u{2026}' => '.',
        _ => '?',
    };
    let known = |letter| font8x8::BASIC_FONTS.get(letter).or_else(|| font8x8::LATIN_FONTS.get(letter));
    known(letter).or_else(|| known(similar)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::TEXT;

    #[test]
    fn drawing_is_clipped_to_the_picture() {
        let mut canvas = Canvas::new(10, 6);
        canvas.fill([8, 4], [10, 10], TEXT);
        canvas.text([7, 3], 2, TEXT, "Wß語");
        let slice =
            Slice { size: [2, 2], values: vec![0.0, 1.0, 1.0, 0.0], labels: Some(vec![0, 1, 1, 0]), ignored: None };
        canvas.slice([4, 2], [20, 20], &slice);
        assert_eq!(canvas.pixels.len(), 60);
        assert_eq!(canvas.pixel([0, 0]), BACKGROUND);
        assert_ne!(canvas.pixel([9, 5]), BACKGROUND);
    }

    #[test]
    fn voxels_without_annotation_are_hatched_and_not_tinted_as_a_class() {
        let drawn = |ignored| {
            let mut canvas = Canvas::new(20, 20);
            let slice = Slice { size: [1, 1], values: vec![0.0], labels: Some(vec![3]), ignored };
            canvas.slice([0, 0], [20, 20], &slice);
            canvas
        };
        let is_grey = |[r, g, b]: Rgb| r.abs_diff(g) < 10 && g.abs_diff(b) < 10;
        let (class, ignored) = (drawn(None), drawn(Some(3)));
        assert!(class.pixels.iter().all(|pixel| !is_grey(*pixel)));
        assert!(ignored.pixels.iter().all(|pixel| is_grey(*pixel)));
        assert_eq!(ignored.pixel([8, 8]), [0; 3]);
        assert_ne!(ignored.pixel([6, 6]), [0; 3]);
    }

    #[test]
    fn letters_that_the_font_lacks_are_drawn_as_others() {
        let drawn = |text: &str| {
            let mut canvas = Canvas::new(8 * LETTER, LETTER);
            canvas.text([0, 0], 1, TEXT, text);
            canvas.pixels
        };
        assert!(drawn("a\u{2013}b \u{2018}c\u{2019}") == drawn("a-b 'c'"));
        assert!(drawn("語") == drawn("?") && drawn("?") != drawn(""));
    }

    #[test]
    fn long_text_is_shortened() {
        assert_eq!(fitting("phantom", 7), "phantom");
        assert_eq!(fitting("phantom_000", 7), "phant..");
    }

    #[test]
    fn a_written_picture_is_read_back_and_leaves_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".hiend-killed.tmp"), b"half a picture").unwrap();
        let mut canvas = Canvas::new(3, 2);
        canvas.fill([1, 0], [1, 2], TEXT);
        for _ in 0..2 {
            canvas.write_png(&dir.path().join("a.png")).unwrap();
        }
        let file = std::io::BufReader::new(std::fs::File::open(dir.path().join("a.png")).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        assert_eq!(Canvas::from_rgb(3, 2, &rgb).pixels, canvas.pixels);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
