//! Picture of a fine-tuning step: slices of some crops with the true and the predicted labels side by side.
//!
//! Voxels with the ignore label are hatched. No letters mark the patient's sides, because augmentation mirrors and turns
//! crops.

use std::path::Path;

use burn::module::Module as _;
use burn::tensor::{Int, Tensor};
use hiend_loader::picture::{Canvas, FAINT, IGNORED, LETTER, Plane, Rgb, Slice, TEXT, fitting, label_colour};
use hiend_loader::preprocess::normalize::Units;

use crate::feed::DeviceBatch;
use crate::loss::class_map::ClassMap;
use crate::model::unetr::Unetr;
use crate::report::sheet::{OF_CROPS, tag};
use crate::training::PictureError;

/// Number of crops shown.
const CROPS: usize = 2;
/// Side of a tile, in pixels.
const TILE: usize = 288;
/// Pixels between two tiles of a crop.
const GAP: usize = 4;
/// Pixels between two crops.
const CROP_GAP: usize = 28;
/// Pixels between the picture's border and its content.
const MARGIN: usize = 16;
/// Number of pixels per dot of a letter.
const SCALE: usize = 2;
/// Height of a line of text, in pixels.
const LINE: usize = LETTER * SCALE + 10;
/// Height of the title, the line below it and the names of the columns, in pixels.
const HEADER: usize = 3 * LINE;
const PLANES: [Plane; 3] = [Plane::Axial, Plane::Coronal, Plane::Sagittal];

/// A crop with its true and predicted labels, all z fastest.
struct Shown {
    title: String,
    size: [usize; 3],
    image: Vec<f32>,
    label: Vec<u8>,
    pred: Vec<u8>,
    /// Label of voxels without annotation.
    ignored: Option<u8>,
}

/// Returns true for the label of a class other than the background.
fn is_labelled(label: u8, ignored: Option<u8>) -> bool {
    label > 0 && Some(label) != ignored
}

/// Draws the crops of the batch's first part that have the most labelled voxels, as a PNG file.
///
/// # Errors
/// If the device fails or the file cannot be written.
pub(super) fn draw(
    model: &Unetr,
    batch: &DeviceBatch<ClassMap>,
    classes: &[String],
    units: Units,
    path: &Path,
) -> Result<(), PictureError> {
    let shown = shown(model, batch)?;
    render(&shown, classes, units).write_png(path).map_err(PictureError::Write)
}

fn shown(model: &Unetr, batch: &DeviceBatch<ClassMap>) -> Result<Vec<Shown>, PictureError> {
    let part = batch.parts.first().ok_or(PictureError::NoCrop)?;
    let images = part.images();
    let [n, _, x, y, z] = images.dims();
    let voxels = x * y * z;
    let (labels, ignored) = (ints(part.target.labels())?, part.target.space().ignore());
    let labelled =
        |crop: usize| labels[crop * voxels..][..voxels].iter().filter(|&&label| is_labelled(label, ignored)).count();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&crop| std::cmp::Reverse(labelled(crop)));
    let model = model.valid();
    order
        .into_iter()
        .take(CROPS)
        .map(|crop| {
            let image = images.clone().narrow(0, crop, 1);
            let pred = ints(model.forward(image.clone()).argmax(1))?;
            let image = image.try_into_data().map_err(PictureError::device)?;
            Ok(Shown {
                title: batch.crops.get(crop).map(|record| record.case.clone()).unwrap_or_default(),
                size: [x, y, z],
                image: image.try_to_vec().map_err(PictureError::device)?,
                label: labels[crop * voxels..][..voxels].to_vec(),
                pred,
                ignored,
            })
        })
        .collect()
}

/// Reads labels back, whatever integer type the device uses.
fn ints(tensor: Tensor<5, Int>) -> Result<Vec<u8>, PictureError> {
    let data = tensor.try_into_data().map_err(PictureError::device)?;
    Ok(data.iter::<i64>().map(|class| u8::try_from(class).unwrap_or(u8::MAX)).collect())
}

fn render(shown: &[Shown], classes: &[String], units: Units) -> Canvas {
    let columns = ["image", "label", "prediction"];
    let panel_width = columns.len() * TILE + (columns.len() - 1) * GAP;
    let crops = shown.len().max(1);
    let width = 2 * MARGIN + crops * panel_width + (crops - 1) * CROP_GAP;
    let entries = legend(shown, classes);
    let names: Vec<&str> = entries.iter().map(|(_, name)| *name).collect();
    let legend = legend_rows(&names, width);
    let height = 2 * MARGIN + HEADER + PLANES.len() * (TILE + GAP) + legend.len() * LINE;
    let mut canvas = Canvas::new(width, height);
    for (number, crop) in shown.iter().enumerate() {
        let left = MARGIN + number * (panel_width + CROP_GAP);
        canvas.text([left, MARGIN], SCALE, TEXT, &fitting(&crop.title, panel_width / (LETTER * SCALE)));
        canvas.text([left, MARGIN + LINE], 1, FAINT, OF_CROPS);
        for (column, name) in columns.into_iter().enumerate() {
            let x = left + column * (TILE + GAP);
            canvas.text([x, MARGIN + 2 * LINE], SCALE, FAINT, name);
            for (row, plane) in PLANES.into_iter().enumerate() {
                let labels = [None, Some(&crop.label), Some(&crop.pred)][column];
                let value = |voxel: usize| (units.grey(crop.image[voxel]), labels.map_or(0, |labels| labels[voxel]));
                let at = busiest(crop, plane);
                let slice = Slice { ignored: crop.ignored, ..plane.cut(crop.size, at, labels.is_some(), value) };
                let corner = [x, MARGIN + HEADER + row * (TILE + GAP)];
                canvas.slice(corner, fitted(slice.size), &slice);
                if column == 0 {
                    tag(&mut canvas, corner.map(|edge| edge + 4), plane.axis_names());
                }
            }
        }
    }
    for (row, places) in legend.iter().enumerate() {
        let y = MARGIN + HEADER + PLANES.len() * (TILE + GAP) + row * LINE;
        for &(x, entry) in places {
            let (colour, name) = entries[entry];
            canvas.fill([x, y], [LETTER * SCALE, LETTER * SCALE], colour);
            canvas.text([x + LETTER * SCALE + 6, y], SCALE, FAINT, name);
        }
    }
    canvas
}

/// Colours and names of the classes, and of voxels without annotation if any are shown.
fn legend<'a>(shown: &[Shown], classes: &'a [String]) -> Vec<(Rgb, &'a str)> {
    let colour = |class: usize| u8::try_from(class).ok().and_then(label_colour);
    let classes = classes.iter().enumerate().filter_map(|(class, name)| Some((colour(class)?, name.as_str())));
    let has_ignored = shown.iter().any(|crop| crop.ignored.is_some_and(|ignored| crop.label.contains(&ignored)));
    classes.chain(has_ignored.then_some((IGNORED, "ignored (hatched)"))).collect()
}

/// Index of the slice with the most labelled voxels; the middle one if there are none.
fn busiest(crop: &Shown, plane: Plane) -> usize {
    let normal = plane.axes()[0];
    let [_, y, z] = crop.size;
    let mut counts = vec![0usize; crop.size[normal]];
    for (voxel, _) in crop.label.iter().enumerate().filter(|(_, label)| is_labelled(**label, crop.ignored)) {
        counts[[voxel / (y * z), voxel / z % y, voxel % z][normal]] += 1;
    }
    let middle = counts.len() / 2;
    (0..counts.len()).max_by_key(|&at| (counts[at], std::cmp::Reverse(at.abs_diff(middle)))).unwrap_or(0)
}

/// Size in pixels of a slice whose longer side fills the tile.
fn fitted([columns, rows]: [usize; 2]) -> [usize; 2] {
    let longest = columns.max(rows).max(1);
    [columns * TILE / longest, rows * TILE / longest]
}

/// Rows of the legend: horizontal position in pixels and number of each name.
fn legend_rows(names: &[&str], width: usize) -> Vec<Vec<(usize, usize)>> {
    let mut rows = vec![vec![]];
    let mut x = MARGIN;
    for (number, name) in names.iter().enumerate() {
        let entry = (name.chars().count() + 2) * LETTER * SCALE + 12;
        if x > MARGIN && x + entry > width - MARGIN {
            rows.push(vec![]);
            x = MARGIN;
        }
        if let Some(row) = rows.last_mut() {
            row.push((x, number));
        }
        x += entry;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slice_with_most_labels_is_shown() {
        let size = [4, 5, 6];
        let mut label = vec![0; 120];
        // x = 1, y = 3, two voxels along z.
        label[30 + 18 + 2] = 1;
        label[30 + 18 + 4] = 1;
        // Voxels without annotation do not count.
        label[60..90].fill(9);
        let (image, pred) = (vec![0.0; 120], label.clone());
        let mut crop = Shown { title: String::new(), size, image, pred, label, ignored: Some(9) };
        assert_eq!([Plane::Sagittal, Plane::Coronal].map(|plane| busiest(&crop, plane)), [1, 3]);
        crop.label.fill(0);
        assert_eq!(busiest(&crop, Plane::Axial), 3);
    }

    #[test]
    fn planes_are_named_on_the_image() {
        let voxels = || vec![0; 64];
        let (title, image) = (String::new(), vec![1.0; 64]);
        let crop = Shown { title, size: [4; 3], image, label: voxels(), pred: voxels(), ignored: None };
        let classes = ["background", "liver"].map(str::to_owned);
        let canvas = render(&[crop], &classes, Units::Window([-175.0, 250.0]));
        for (row, plane) in PLANES.into_iter().enumerate() {
            let top = MARGIN + HEADER + row * (TILE + GAP);
            let inked = |column: usize| {
                let left = MARGIN + column * (TILE + GAP);
                let width = plane.axis_names().len() * LETTER;
                (0..width * LETTER)
                    .filter(|at| canvas.pixel([left + 4 + at % width, top + 4 + at / width]) == TEXT)
                    .count()
            };
            assert!(inked(0) > plane.axis_names().len(), "{}", plane.axis_names());
            assert_eq!(inked(1), 0);
        }
    }

    #[test]
    fn voxels_without_annotation_are_hatched_and_named() {
        let classes = ["background", "liver"].map(str::to_owned);
        let shown = |label: u8| {
            let (title, image) = (String::new(), vec![0.0; 64]);
            Shown { title, size: [4; 3], image, label: vec![label; 64], pred: vec![1; 64], ignored: Some(9) }
        };
        let names = |label: u8| legend(&[shown(label)], &classes).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(names(1), ["liver"]);
        assert_eq!(names(9), ["liver", "ignored (hatched)"]);
        let canvas = render(&[shown(9)], &classes, Units::Window([-175.0, 250.0]));
        let pixel = |column: usize| canvas.pixel([MARGIN + column * (TILE + GAP) + 100, MARGIN + HEADER + 100]);
        let [r, g, b] = pixel(1);
        assert!(r.abs_diff(g) < 10 && g.abs_diff(b) < 10, "{:?}", pixel(1));
        assert_ne!(pixel(1), pixel(2));
    }

    #[test]
    fn legends_stay_inside_the_picture() {
        let names: Vec<String> = (1..40).map(|class| format!("structure {class}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let rows = legend_rows(&names, 900);
        assert!(rows.len() > 5);
        assert_eq!(rows.iter().flatten().map(|&(_, name)| name).collect::<Vec<_>>(), (0..39).collect::<Vec<_>>());
        let end = |&(x, name): &(usize, usize)| x + (names[name].len() + 2) * LETTER * SCALE;
        assert!(rows.iter().flatten().all(|entry| end(entry) <= 900));
    }
}
