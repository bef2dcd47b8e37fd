//! Pictures of volumes and crops, to look at: slices in grey, labels in colour, a caption.
//!
//! Slices are shown as radiologists have them: the viewer faces the patient, so the patient's right (R) is on the left
//! of axial and coronal slices; sagittal slices have the front (A) on the left. Letters at the edges say so.

use std::io::{BufWriter, Write as _};
use std::path::Path;

use font8x8::UnicodeFonts as _;

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// Behind everything.
pub const BACKGROUND: Rgb = [16, 18, 22];
/// Captions.
pub const TEXT: Rgb = [222, 226, 232];
/// Less important captions.
pub const FAINT: Rgb = [128, 136, 148];

/// Side of a letter at scale 1, in pixels.
pub const LETTER: usize = 8;

/// Colours that are far apart, also on grey.
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

/// Colour of a label; 0 is the background and has none.
#[must_use]
pub fn label_colour(label: u8) -> Option<Rgb> {
    let at = usize::from(label).checked_sub(1)?;
    let [r, g, b] = COLOURS[at % COLOURS.len()];
    // Each round differs from those before and stays bright enough to be seen on black.
    let (gain, lift) = [(100, 0), (62, 0), (55, 110), (80, 45)][at / COLOURS.len() % 4];
    let shade = |value: u8| u8::try_from(usize::from(value) * gain / 100 + lift).unwrap_or(u8::MAX);
    let colour = [r, g, b].map(shade);
    Some(if at / COLOURS.len() < 4 { colour } else { [colour[1], colour[2], colour[0]] })
}

/// A slice through a volume, columns fastest, as it is seen on a screen.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Columns and rows.
    pub size: [usize; 2],
    /// Grey values; 0 is black, 1 is white.
    pub values: Vec<f32>,
    /// Label of every pixel.
    pub labels: Option<Vec<u8>>,
}

/// The plane of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Across the body.
    Axial,
    /// From ear to ear.
    Coronal,
    /// From front to back.
    Sagittal,
}

impl Plane {
    /// The axis that the slice stands on, then those along its columns and rows.
    #[must_use]
    pub fn axes(self) -> [usize; 3] {
        match self {
            Self::Axial => [2, 0, 1],
            Self::Coronal => [1, 0, 2],
            Self::Sagittal => [0, 1, 2],
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Axial => "axial",
            Self::Coronal => "coronal",
            Self::Sagittal => "sagittal",
        }
    }

    /// What lies at the left, right, upper and lower edge.
    #[must_use]
    pub fn letters(self) -> [char; 4] {
        match self {
            Self::Axial => ['R', 'L', 'A', 'P'],
            Self::Coronal => ['R', 'L', 'S', 'I'],
            Self::Sagittal => ['A', 'P', 'S', 'I'],
        }
    }

    /// Cuts a slice out of an array in RAS+ order, z fastest. `value` gives grey value and label of a voxel.
    pub fn cut(self, shape: [usize; 3], at: usize, with_labels: bool, value: impl Fn(usize) -> (f32, u8)) -> Slice {
        let [normal, across, down] = self.axes();
        let size = [shape[across], shape[down]];
        let mut slice = Slice { size, values: Vec::new(), labels: with_labels.then(Vec::new) };
        let mut voxel = [0; 3];
        voxel[normal] = at.min(shape[normal] - 1);
        // Every axis of RAS+ grows to where the screen begins: R, A and S are left or up.
        for row in (0..size[1]).rev() {
            voxel[down] = row;
            for column in (0..size[0]).rev() {
                voxel[across] = column;
                let (grey, label) = value((voxel[0] * shape[1] + voxel[1]) * shape[2] + voxel[2]);
                slice.values.push(grey);
                if let Some(labels) = &mut slice.labels {
                    labels.push(label);
                }
            }
        }
        slice
    }
}

/// A picture being drawn.
#[derive(Clone, Debug)]
pub struct Canvas {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    pixels: Vec<Rgb>,
}

impl Canvas {
    /// An empty picture.
    #[must_use]
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![BACKGROUND; width * height] }
    }

    /// A picture of pixels that are there already, as red, green and blue, row by row.
    ///
    /// # Panics
    /// If there are not as many as the picture has.
    #[must_use]
    pub fn from_rgb(width: usize, height: usize, rgb: &[u8]) -> Self {
        let (pixels, rest) = rgb.as_chunks();
        assert!(rest.is_empty() && pixels.len() == width * height, "{} bytes for {width} x {height}", rgb.len());
        Self { width, height, pixels: pixels.to_vec() }
    }

    /// The colour of a pixel.
    ///
    /// # Panics
    /// Outside the picture.
    #[must_use]
    pub fn pixel(&self, [x, y]: [usize; 2]) -> Rgb {
        assert!(x < self.width && y < self.height, "({x}, {y}) in {} x {}", self.width, self.height);
        self.pixels[y * self.width + x]
    }

    /// Draws the edge of a rectangle, `thickness` pixels wide and inside it.
    pub fn frame(&mut self, [x, y]: [usize; 2], [width, height]: [usize; 2], thickness: usize, colour: Rgb) {
        let (right, bottom) = ((x + width).saturating_sub(thickness), (y + height).saturating_sub(thickness));
        self.fill([x, y], [width, thickness], colour);
        self.fill([x, bottom], [width, thickness], colour);
        self.fill([x, y], [thickness, height], colour);
        self.fill([right, y], [thickness, height], colour);
    }

    /// Fills a rectangle; what lies outside the picture is cut off.
    pub fn fill(&mut self, [x, y]: [usize; 2], [width, height]: [usize; 2], colour: Rgb) {
        for row in y..(y + height).min(self.height) {
            let columns = x.min(self.width)..(x + width).min(self.width);
            self.pixels[row * self.width..(row + 1) * self.width][columns].fill(colour);
        }
    }

    /// Writes text of [`LETTER`] times `scale` pixels a letter from its upper left corner on.
    pub fn text(&mut self, [x, y]: [usize; 2], scale: usize, colour: Rgb, text: &str) {
        for (number, letter) in text.chars().enumerate() {
            let glyph = font8x8::BASIC_FONTS.get(letter).or_else(|| font8x8::LATIN_FONTS.get(letter));
            for (row, bits) in glyph.unwrap_or([0x3C; 8]).into_iter().enumerate() {
                for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
                    let at = [x + (number * LETTER + column) * scale, y + row * scale];
                    self.fill(at, [scale, scale], colour);
                }
            }
        }
    }

    /// Draws a slice into a rectangle: grey between pixels interpolated, labels tinted and outlined.
    pub fn slice(&mut self, [left, top]: [usize; 2], [width, height]: [usize; 2], slice: &Slice) {
        let scale = [slice.size[0] as f64 / width as f64, slice.size[1] as f64 / height as f64];
        let centre = |pixel: usize, axis: usize| (pixel as f64 + 0.5) * scale[axis];
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positions in a slice")]
        let nearest = |pixel: usize, axis: usize| (centre(pixel, axis) as usize).min(slice.size[axis] - 1);
        let label = |column: usize, row: usize| {
            let labels = slice.labels.as_ref()?;
            label_colour(labels[nearest(row, 1) * slice.size[0] + nearest(column, 0)])
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
                    let weight = if inside { 0.32 } else { 0.95 };
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

    /// Writes the picture, under another name first: a file of this name is whole.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_png(&self, path: &Path) -> std::io::Result<()> {
        let mut temporary = tempfile::Builder::new();
        // What the umask leaves of it, as for any other file.
        #[cfg(unix)]
        temporary.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = temporary.tempfile_in(folder)?;
        let mut out = BufWriter::new(file.as_file_mut());
        let side = |length: usize| u32::try_from(length).map_err(std::io::Error::other);
        let mut encoder = png::Encoder::new(&mut out, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(self.pixels.as_flattened())?;
        writer.finish()?;
        out.flush()?;
        drop(out);
        file.persist(path)?;
        Ok(())
    }
}

impl Slice {
    /// The grey value between pixels; beyond the border that of the border.
    #[must_use]
    pub fn interpolate(&self, x: f64, y: f64) -> f32 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positions in a slice")]
        let corner = |at: f64, length: usize| {
            let at = at.clamp(0.0, length as f64 - 1.0);
            let low = at as usize;
            (low, (low + 1).min(length - 1), (at - at.floor()) as f32)
        };
        let (x0, x1, fx) = corner(x, self.size[0]);
        let (y0, y1, fy) = corner(y, self.size[1]);
        let at = |x: usize, y: usize| self.values[y * self.size[0] + x];
        let upper = at(x0, y0) * (1.0 - fx) + at(x1, y0) * fx;
        let lower = at(x0, y1) * (1.0 - fx) + at(x1, y1) * fx;
        upper * (1.0 - fy) + lower * fy
    }
}

/// A volume to be pictured.
pub struct CaseView<'a> {
    /// Headline.
    pub title: &'a str,
    /// Second line.
    pub subtitle: &'a str,
    /// Voxels along x, y, z (RAS+).
    pub shape: [usize; 3],
    /// Voxel side lengths in mm.
    pub spacing: [f64; 3],
    /// Grey values, z fastest.
    pub grey: &'a dyn Fn(usize) -> f32,
    /// Labels.
    pub labels: Option<&'a [u8]>,
    /// Labels to explain.
    pub legend: &'a [(u8, String)],
}

/// The longest side of a volume in a picture, in pixels.
const LONGEST: f64 = 520.0;
const MARGIN: usize = 20;
/// From a slice's heading to the slice.
const HEADING: usize = 20;

impl CaseView<'_> {
    /// The middle slices in three planes side by side, in true proportion, with a legend.
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
        // Shallow scans: the two upright planes stand one above the other beside the axial one.
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

impl Canvas {
    /// Writes what lies at the left, right, upper and lower edge of a slice ([`Plane::letters`]).
    pub fn letters(&mut self, [x, y]: [usize; 2], [width, height]: [usize; 2], [left, right, up, down]: [char; 4]) {
        let (middle, centre) = (y + (height / 2).saturating_sub(LETTER), x + (width / 2).saturating_sub(LETTER));
        for (at, letter) in [
            ([x + 4, middle], left),
            ([x + width.saturating_sub(2 * LETTER + 2), middle], right),
            ([centre, y + 4], up),
            ([centre, y + height.saturating_sub(2 * LETTER + 2)], down),
        ] {
            // A shadow keeps the letter legible on bone.
            self.text([at[0] + 1, at[1] + 1], 2, [0, 0, 0], &letter.to_string());
            self.text(at, 2, [255, 214, 92], &letter.to_string());
        }
    }
}

/// The text, cut to so many letters.
#[must_use]
pub fn fitting(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    let head: String = text.chars().take(letters.saturating_sub(2)).collect();
    head + ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_seen_as_radiologists_see_them() {
        let shape = [3, 4, 5];
        let value = |voxel: usize| (voxel as f32, 0);
        let at = |x: usize, y: usize, z: usize| ((x * 4 + y) * 5 + z) as f32;
        let axial = Plane::Axial.cut(shape, 2, false, value);
        assert_eq!((axial.size, axial.values[0], axial.values[11]), ([3, 4], at(2, 3, 2), at(0, 0, 2)));
        let coronal = Plane::Coronal.cut(shape, 1, false, value);
        assert_eq!((coronal.size, coronal.values[0]), ([3, 5], at(2, 1, 4)));
        let sagittal = Plane::Sagittal.cut(shape, 1, false, value);
        assert_eq!((sagittal.size, sagittal.values[0], sagittal.values[1]), ([4, 5], at(1, 3, 4), at(1, 2, 4)));
    }

    #[test]
    fn neighbouring_labels_differ_in_colour() {
        assert_eq!(label_colour(0), None);
        let colours: std::collections::BTreeSet<_> = (1..=112).map(label_colour).collect();
        assert_eq!(colours.len(), 112);
    }

    #[test]
    fn drawing_outside_is_cut_off() {
        let mut canvas = Canvas::new(10, 6);
        canvas.fill([8, 4], [10, 10], TEXT);
        canvas.text([7, 3], 2, TEXT, "Wß語");
        let slice = Slice { size: [2, 2], values: vec![0.0, 1.0, 1.0, 0.0], labels: Some(vec![0, 1, 1, 0]) };
        canvas.slice([4, 2], [20, 20], &slice);
        assert_eq!(canvas.pixels.len(), 60);
    }
}
