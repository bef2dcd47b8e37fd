//! `hiend-shard inspect CACHE CASE`: the record of a case as tables, and its picture.

use std::path::Path;

use anyhow::Context as _;
use hiend_cache::{Cache, Case, CaseIndex, Occupancy, SourceValues, VolumeReader};

use super::super::table::{Table, facts, size};
use super::{file_name, label_name, listed, num_voxels, parameters_of, per_voxel, rounded, value_range};
use crate::case::shown;
use crate::geometry::{Affine, voxel_ml};
use crate::picture::CaseView;
use crate::preprocess::normalize::Units;
use crate::program::print;

/// Prints the record of a case, the values of its source image, and its classes.
pub(super) fn describe(cache: &Cache, case: &Case) -> anyhow::Result<()> {
    let index = VolumeReader::new().index(case)?;
    print(facts(record_rows(case, &index)))?;
    if let Some(values) = &case.record().values {
        print(facts(value_rows(values)))?;
    }
    if !index.occupancy.classes.is_empty() {
        print(class_table(cache, case, &index.occupancy))?;
    }
    Ok(())
}

fn record_rows(case: &Case, index: &CaseIndex) -> Vec<(&'static str, String)> {
    let record = case.record();
    let (voxels, geometry) = (num_voxels(case), &record.geometry);
    let region = geometry.foreground_box;
    let source = |path: &str, hash: &str| format!("{path}\nblake3 {hash}");
    let label = record.source.label.as_deref().zip(record.source.label_blake3.as_deref());
    let share = |count: u64| format!("{count} ({:.1} %)", count as f64 * 100.0 / voxels as f64);
    vec![
        ("case", case.key().to_owned()),
        ("shape", format!("{} voxels, RAS+", listed(record.shape, " x "))),
        ("spacing", format!("{} mm", rounded(geometry.spacing))),
        ("world from voxel", matrix(&geometry.affine)),
        ("source shape", listed(geometry.source_shape, " x ")),
        ("source world from voxel", matrix(&geometry.source_affine)),
        (
            "foreground box",
            format!("{} to {} of the resampled scan", listed(region.start, ", "), listed(region.end, ", ")),
        ),
        ("foreground", share(index.occupancy.foreground.total())),
        ("image", source(&record.source.image, &record.source.image_blake3)),
        ("label", label.map_or_else(|| "none".into(), |(path, hash)| source(path, hash))),
        ("in the folder", record.source.folder.clone().unwrap_or_else(|| "unknown".into())),
        ("source size", size(record.source.bytes)),
        ("parameters", record.parameters.clone()),
        ("stored in", file_name(case.shard().path())),
        ("size", format!("{}, {} B/voxel", size(record.span.len()), per_voxel(record.span.len(), voxels))),
        ("chunks", format!("{} of {}", index.grid.num_chunks(), listed(index.grid.chunk_box(0).shape(), " x "))),
        ("image chunks", size(index.image.coded_bytes())),
        ("label chunks", index.label.as_ref().map_or_else(|| "none".into(), |label| size(label.coded_bytes()))),
    ]
}

fn value_rows(values: &SourceValues) -> Vec<(&'static str, String)> {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let (below, above, air) = (percent(values.below), percent(values.above), percent(values.air));
    let mut rows = vec![("source values", value_range(values))];
    if let (Some(mean), Some(std)) = (values.mean, values.std) {
        rows.push(("mean and deviation", format!("{mean:.6} and {std:.6}, in the box of nonzero voxels")));
        let share = |share: f64| format!("{:.4} %", share * 100.0);
        rows.push(("clamped", format!("{} below, {} above", share(values.below), share(values.above))));
        rows.push(("zero", air));
    } else {
        rows.push(("at the window's ends", format!("{below} below, {above} above")));
        rows.push(("air", air));
    }
    let findings = if values.findings.is_empty() { "none".into() } else { values.findings.join("\n") };
    rows.push(("findings", findings));
    rows
}

fn class_table(cache: &Cache, case: &Case, occupancy: &Occupancy) -> Table {
    let (record, voxels) = (case.record(), num_voxels(case));
    let mut table = Table::bordered().with_header(["label", "name", "voxels", "%", "ml"]);
    let millilitres = voxel_ml(&record.geometry.affine);
    for (class, counts) in &occupancy.classes {
        let total = counts.total();
        table.row([
            class.to_string(),
            label_name(cache, &record.dataset, u8::try_from(*class).unwrap_or(u8::MAX)),
            total.to_string(),
            format!("{:.2}", total as f64 * 100.0 / voxels as f64),
            format!("{:.1}", total as f64 * millilitres),
        ]);
    }
    table.align_right([0, 2, 3, 4])
}

fn matrix(affine: &Affine) -> String {
    let row = |row: &[f64; 4]| {
        let [a, b, c, d] = row;
        format!("{a:10.3}{b:10.3}{c:10.3}{d:10.3}")
    };
    listed(affine.iter().take(3).map(row), "\n")
}

/// Writes the picture of a case.
pub(super) fn draw(cache: &Cache, case: &Case, path: &Path) -> anyhow::Result<()> {
    let mut reader = VolumeReader::new();
    let volume = case.read_whole(&mut reader)?;
    let record = case.record();
    let units = parameters_of(cache).units(None);
    let scale = units.scale(record.image.scale, record.image.offset);
    let range = match units {
        Units::Window([low, high]) => format!("window {low} to {high} HU"),
        Units::ZScores => {
            let [black, white] = units.shown_range();
            format!("z-scores {black} to {white}")
        }
    };
    let classes = reader.index(case)?.occupancy.classes;
    let legend: Vec<(u8, String)> = classes
        .iter()
        .filter_map(|(class, _)| u8::try_from(*class).ok().filter(|&class| class > 0))
        .map(|class| (class, label_name(cache, &record.dataset, class)))
        .collect();
    let grey = |voxel: usize| units.grey(scale.apply(volume.image[voxel]));
    let subtitle = format!(
        "{} voxels of {} mm   {range}   patient's right is on the left",
        listed(record.shape, " x "),
        rounded(record.geometry.spacing)
    );
    let view = CaseView {
        title: case.key(),
        subtitle: &subtitle,
        shape: volume.shape,
        spacing: record.geometry.spacing,
        grey: &grey,
        labels: volume.label.as_deref(),
        legend: &legend,
    };
    view.draw().write_png(path).with_context(|| format!("{}: cannot write the picture", shown(path)))
}
