//! Figure of the attention of a patch over a crop, layer by layer, in three planes over the CT, as in the paper.
//!
//! Colours show the weight relative to uniform attention (1 / number of tokens), on a separate scale for each layer. The
//! colour map is perceptually uniform and readable without colour vision. Only weights above uniform attention cover the
//! CT, so anatomy stays visible elsewhere.

use colorgrad::{Gradient as _, preset};
use hiend_loader::picture::{Canvas, FAINT, LETTER, Plane, Rgb, Slice, TEXT};
use hiend_loader::scan::Scan;

use super::sheet::{Block, Column, PLANES, Sheet, tile_sizes};
use crate::inference::attention_map::AttentionMap;
use crate::model::patch_embed::grid_of;

/// Longest side of a tile, pixels.
const LONGEST: usize = 288;
/// Grey level under the colour bar, in place of the CT.
const BAR_GREY: f64 = 72.0;
/// Height of a colour bar, pixels.
const BAR: usize = 14;
/// Height of a colour bar and its labels, pixels.
const FOOTER: usize = BAR + 2 * LETTER + 20;

const QUERY: Rgb = [255, 255, 255];
const CROP: Rgb = [255, 214, 92];
/// Opacity of the colour at the top of the scale.
const OPACITY: f64 = 0.85;
/// Factor on the grey level of patches that were hidden from the encoder.
const SHADE: f64 = 0.35;
/// Fraction of patches whose weights lie within the scale; higher weights get its last colour.
const ON_SCALE: f64 = 0.995;
/// Minimum upper end of a scale, relative to uniform attention, so that tiny differences do not get full contrast.
const LEAST_TOP: f64 = 3.0;

/// Contents of a figure.
pub struct AttentionFigure<'a> {
    /// Title of the figure.
    pub title: String,
    /// Lines below the title.
    pub lines: Vec<String>,
    /// Scan from which the crop was cut.
    pub scan: &'a Scan,
    /// First voxel of the crop in the scan.
    pub origin: [i64; 3],
    /// Sides of the crop, voxels.
    pub size: [usize; 3],
    /// Side of a patch, voxels.
    pub patch_size: usize,
    /// Query patch, as its position in the grid of patches.
    pub query: [usize; 3],
    /// Voxel of the crop through which all planes pass, within the query patch.
    pub through: [usize; 3],
    /// Layers, one column each.
    pub layers: Vec<Layer>,
}

/// Attention of a layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Heading of the column.
    pub name: String,
    /// Attention weights of the query.
    pub map: AttentionMap,
}

impl AttentionFigure<'_> {
    /// Draws the whole scan with the crop, the crop, and the map of every layer.
    #[must_use]
    pub fn draw(&self) -> Canvas {
        let tiles = tile_sizes(self.size, self.scan.geometry.spacing, LONGEST);
        let scales: Vec<LayerScale> = self.layers.iter().map(|layer| LayerScale::of(&layer.map)).collect();
        let layers = self.layers.iter().map(|layer| Column { heading: layer.name.clone(), note: note(&layer.map) });
        let columns = [Column::new("scan"), Column::new("crop")].into_iter().chain(layers).collect();
        let block = Block { title: self.title.clone(), lines: self.lines.clone(), columns };
        let mut sheet = Sheet::new(&[block], tiles, FOOTER);
        for (row, (plane, size)) in PLANES.into_iter().zip(tiles).enumerate() {
            let slice = self.slice(plane);
            self.draw_scan(&mut sheet, row, plane, size);
            let at = sheet.tile(0, 1, row);
            sheet.canvas.slice(at, size, &slice);
            sheet.canvas.letters(at, size, plane.letters());
            self.outline_query(&mut sheet, at, size, plane);
            sheet.caption(at, size, plane.name(), &self.caption(plane));
            for (number, (layer, scale)) in self.layers.iter().zip(&scales).enumerate() {
                let at = sheet.tile(0, 2 + number, row);
                self.draw_map(&mut sheet.canvas, at, size, plane, &slice, &layer.map, scale);
                self.outline_query(&mut sheet, at, size, plane);
            }
        }
        for (number, scale) in scales.iter().enumerate() {
            let at = sheet.below(0, 2 + number);
            let width = tiles.iter().map(|tile| tile[0]).max().unwrap_or(1);
            scale.draw_bar(&mut sheet.canvas, at, width.saturating_sub(2 * LETTER).max(1));
        }
        sheet.canvas
    }

    fn slice(&self, plane: Plane) -> Slice {
        let [_, y, z] = self.size;
        plane.cut(self.size, self.through[plane.axes()[0]], false, |voxel| {
            let within = [voxel / (y * z), voxel / z % y, voxel % z];
            let at = std::array::from_fn(|axis| self.origin[axis] + within[axis] as i64);
            (self.scan.units.grey(self.scan.value(at)), 0)
        })
    }

    fn caption(&self, plane: Plane) -> String {
        let normal = plane.axes()[0];
        let voxel: [i64; 3] = std::array::from_fn(|axis| self.origin[axis] + self.through[axis] as i64);
        let mm = self.scan.world_of(voxel.map(|position| usize::try_from(position).unwrap_or(0)))[normal];
        format!("{} {mm:.0} mm", ["x", "y", "z"][normal])
    }

    /// Draws the whole scan in a tile, with crop and query outlined.
    fn draw_scan(&self, sheet: &mut Sheet, row: usize, plane: Plane, room: [usize; 2]) {
        let at = sheet.tile(0, 0, row);
        let (shape, origin) = (self.scan.shape, self.origin);
        let through: [usize; 3] = std::array::from_fn(|axis| {
            usize::try_from(origin[axis] + self.through[axis] as i64).unwrap_or(0).min(shape[axis] - 1)
        });
        let [_, across, down] = plane.axes();
        let mm = [across, down].map(|axis| shape[axis] as f64 * self.scan.geometry.spacing[axis]);
        let scale = (room[0] as f64 / mm[0]).min(room[1] as f64 / mm[1]);
        let size = mm.map(|length| ((length * scale) as usize).max(1));
        let at = [at[0] + (room[0] - size[0].min(room[0])) / 2, at[1] + (room[1] - size[1].min(room[1])) / 2];
        let [_, y, z] = shape;
        let slice = plane.cut(shape, through[plane.axes()[0]], false, |voxel| {
            let at = [voxel / (y * z), voxel / z % y, voxel % z].map(|position| position as i64);
            (self.scan.units.grey(self.scan.value(at)), 0)
        });
        sheet.canvas.slice(at, size, &slice);
        let corner =
            |offset: [usize; 3]| -> [f64; 3] { std::array::from_fn(|axis| origin[axis] as f64 + offset[axis] as f64) };
        sheet.outline(at, size, plane, shape, [corner([0; 3]), corner(self.size)], CROP);
        let [start, end] = self.query_box();
        let shifted = |within: [f64; 3]| std::array::from_fn(|axis| origin[axis] as f64 + within[axis]);
        sheet.outline(at, size, plane, shape, [shifted(start), shifted(end)], QUERY);
    }

    fn query_box(&self) -> [[f64; 3]; 2] {
        let at = |patch: usize| (patch * self.patch_size) as f64;
        [self.query.map(at), self.query.map(|patch| at(patch + 1))]
    }

    fn outline_query(&self, sheet: &mut Sheet, at: [usize; 2], size: [usize; 2], plane: Plane) {
        sheet.outline(at, size, plane, self.size, self.query_box(), QUERY);
    }

    #[expect(clippy::too_many_arguments, reason = "position, contents and colours of a tile")]
    fn draw_map(
        &self,
        canvas: &mut Canvas,
        [left, top]: [usize; 2],
        [width, height]: [usize; 2],
        plane: Plane,
        slice: &Slice,
        map: &AttentionMap,
        scale: &LayerScale,
    ) {
        let [normal, across, down] = plane.axes();
        let grid = grid_of(self.size, self.patch_size);
        let weight = |column: usize, row: usize| {
            let mut patch = [0; 3];
            patch[normal] = self.query[normal];
            (patch[across], patch[down]) = (column, row);
            map.patches[(patch[0] * grid[1] + patch[1]) * grid[2] + patch[2]]
        };
        for y in 0..height {
            for x in 0..width {
                let at = [(x as f64 + 0.5) / width as f64, (y as f64 + 0.5) / height as f64];
                let [columns, rows] = slice.size.map(|side| side as f64);
                let grey = slice.interpolate(at[0] * columns - 0.5, at[1] * rows - 0.5).clamp(0.0, 1.0);
                let grey = f64::from(grey) * 255.0;
                // Axes point to the left and upwards.
                let patches = [(1.0 - at[0]) * grid[across] as f64, (1.0 - at[1]) * grid[down] as f64];
                let pixel = match between_patches(patches, [grid[across], grid[down]], weight) {
                    Some(weight) => scale.over(grey, f64::from(weight)),
                    None => [grey * SHADE; 3],
                };
                canvas.fill([left + x, top + y], [1, 1], pixel.map(|value| value.round() as u8));
            }
        }
    }
}

/// Interpolates weights linearly between patch centres, at a position in patches; hidden neighbours are ignored. `None`
/// inside a hidden patch.
fn between_patches(at: [f64; 2], len: [usize; 2], weight: impl Fn(usize, usize) -> Option<f32>) -> Option<f32> {
    let nearest = [0, 1].map(|axis| (at[axis] as usize).min(len[axis] - 1));
    weight(nearest[0], nearest[1])?;
    let around = [0, 1].map(|axis| {
        let centred = (at[axis] - 0.5).clamp(0.0, len[axis] as f64 - 1.0);
        let low = centred as usize;
        [(low, 1.0 - centred.fract()), ((low + 1).min(len[axis] - 1), centred.fract())]
    });
    let (mut sum, mut share) = (0.0, 0.0);
    for (column, by_column) in around[0] {
        for (row, by_row) in around[1] {
            if let Some(weight) = weight(column, row) {
                sum += f64::from(weight) * by_column * by_row;
                share += by_column * by_row;
            }
        }
    }
    Some((sum / share) as f32)
}

fn note(map: &AttentionMap) -> String {
    map.cls_token.map_or_else(String::new, |weight| format!("class token {:.1} %", weight * 100.0))
}

/// Colour scale of a layer.
struct LayerScale {
    /// Weight of a token under uniform attention.
    even: f64,
    /// Upper end of the scale, as a multiple of the uniform weight `even`.
    top: f64,
    /// Largest weight, as a multiple of `even`.
    largest: f64,
}

impl LayerScale {
    fn of(map: &AttentionMap) -> Self {
        let even = 1.0 / map.num_tokens().max(1) as f64;
        let mut weights: Vec<f64> = map.patches.iter().flatten().map(|&weight| f64::from(weight) / even).collect();
        weights.sort_by(f64::total_cmp);
        let largest = weights.last().copied().unwrap_or(1.0);
        let at = (weights.len() as f64 * ON_SCALE) as usize;
        let top = weights.get(at.min(weights.len().saturating_sub(1))).copied().unwrap_or(1.0);
        Self { even, top: top.max(LEAST_TOP), largest }
    }

    fn over(&self, grey: f64, weight: f64) -> [f64; 3] {
        let shares = weight / self.even;
        let opacity = OPACITY * ((shares - 1.0) / (self.top - 1.0)).clamp(0.0, 1.0).sqrt();
        colour((shares / self.top).clamp(0.0, 1.0)).map(|value| grey + (f64::from(value) - grey) * opacity)
    }

    fn draw_bar(&self, canvas: &mut Canvas, [left, top]: [usize; 2], width: usize) {
        let y = top + 8;
        for x in 0..width {
            let weight = (x as f64 + 0.5) / width as f64 * self.top * self.even;
            canvas.fill([left + x, y], [1, BAR], self.over(BAR_GREY, weight).map(|value| value.round() as u8));
        }
        let even_at = (width as f64 / self.top) as usize;
        canvas.fill([left + even_at, y], [1, BAR], TEXT);
        let line = y + BAR + 4;
        let last = if self.largest > self.top * 1.05 {
            format!("{:.1} (max {:.1})", self.top, self.largest)
        } else {
            format!("{:.1}", self.top)
        };
        canvas.text([left, line], 1, TEXT, "0");
        canvas.text([left + width.saturating_sub(last.chars().count() * LETTER), line], 1, TEXT, &last);
        // Only if there is room between the ends.
        if (2 * LETTER..width.saturating_sub((last.chars().count() + 2) * LETTER)).contains(&even_at) {
            canvas.text([left + even_at - LETTER / 2, line], 1, TEXT, "1");
        }
        let even = format!("times uniform attention ({:.2} %)", self.even * 100.0);
        canvas.text([left, line + LETTER + 4], 1, FAINT, &even);
        debug_assert!(line + 2 * LETTER + 4 <= top + FOOTER);
    }
}

fn colour(part: f64) -> Rgb {
    let [red, green, blue, _] = preset::inferno().at(part as f32).to_rgba8();
    [red, green, blue]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_interpolated_between_visible_patches() {
        let weight = |column: usize, row: usize| (column != 2).then_some((column + 10 * row) as f32);
        let check = |at: [f64; 2], expected: Option<f32>| assert_eq!(between_patches(at, [3, 2], weight), expected);
        check([0.5, 0.5], Some(0.0));
        check([1.5, 1.5], Some(11.0));
        check([1.0, 0.5], Some(0.5));
        check([0.0, 0.0], Some(0.0));
        // Next to the hidden patch only the visible ones count.
        check([1.9, 0.5], Some(1.0));
        check([2.1, 0.5], None);
    }

    #[test]
    fn scale_excludes_the_few_largest_weights() {
        let mut patches = vec![Some(0.001); 999];
        patches.push(Some(0.5));
        let scale = LayerScale::of(&AttentionMap { patches, cls_token: None });
        assert!((scale.top - LEAST_TOP).abs() < 1e-9 && (scale.largest - 500.0).abs() < 1e-3);
        let change = |weight: f64| scale.over(100.0, weight).map(|value| (value - 100.0).abs()).iter().sum::<f64>();
        assert!(change(0.0) < 1e-9 && change(0.5) > 100.0);
    }
}
