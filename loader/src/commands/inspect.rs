//! `hiend-shard inspect`: the content of a cache or a case, as tables and pictures.

mod report;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use hiend_cache::{Cache, Case, CaseRecord, Manifest, OpenOptions, SourceValues, VolumeReader};
use serde_json::json;

use super::table::{Table, count, facts, size};
use crate::case::{case_named, shown};
use crate::cli::Inspect;
use crate::geometry::Affine;
use crate::picture::CaseView;
use crate::preprocess::PreprocessConfig;
use crate::preprocess::normalize::Units;
use crate::preprocess::window::{Store, zscore_scale};
use crate::program::{check_extension, check_output_file, check_output_folder, escape_name, note, print};

pub(super) fn run(args: &Inspect) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.png {
        check_extension(path, "png")?;
        check_output_file(path)?;
    }
    if let Some(folder) = &args.report {
        check_output_folder(folder)?;
    }
    args.retry.check(&args.cache)?;
    let cache = Cache::open_with(args.retry.location(&args.cache), OpenOptions::for_one_pass())?;
    match &args.case {
        None if args.json => {
            print(as_json(&cache))?;
        }
        None => {
            summary(&cache, args.rows)?;
            if let Some(folder) = &args.report {
                note(format_args!("report: {}", shown(&report::write(&cache, folder)?)));
            }
        }
        Some(name) => {
            let case = case_named(&cache, name)?;
            describe(&cache, case)?;
            if let Some(path) = &args.png {
                draw(&cache, case, path)?;
                note(format_args!("picture: {}", shown(path)));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn num_voxels(case: &Case) -> u64 {
    case.record().shape.iter().map(|&n| n as u64).product()
}

fn per_voxel(bytes: u64, voxels: u64) -> String {
    if voxels == 0 { "-".into() } else { format!("{:.2}", bytes as f64 / voxels as f64) }
}

fn listed<T: std::fmt::Display>(values: impl IntoIterator<Item = T>, between: &str) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(between)
}

fn rounded(values: [f64; 3]) -> String {
    listed(values.map(|value| (value * 1000.0).round() / 1000.0), " x ")
}

/// Lowest and highest value of a source image.
fn value_range(values: &SourceValues) -> String {
    format!("{} to {}", short(values.min), short(values.max))
}

/// Rounds a number to seven significant digits; images are read in single precision, which has no more.
fn short(value: f64) -> f64 {
    format!("{value:.6e}").parse().unwrap_or(value)
}

fn parameters(manifest: &Manifest) -> Vec<(&'static str, String)> {
    match serde_json::from_value::<PreprocessConfig>(manifest.preprocess.clone()) {
        Ok(config) => {
            let spacing = config.spacing.map_or_else(|| "that of each scan".into(), |side| rounded(side) + " mm");
            let [low, high] = config.window;
            if !config.normalize.is_hu() {
                let per_unit = 1.0 / zscore_scale(config.window);
                return vec![
                    ("spacing", spacing),
                    ("normalisation", "z-scores by each scan's own mean and standard deviation".into()),
                    ("values kept", format!("{low} to {high} standard deviations, in multiples of 1/{per_unit}")),
                ];
            }
            let kept = match config.store {
                Store::Window => "inside the window",
                Store::Full => "full range",
            };
            vec![("spacing", spacing), ("window", format!("{low} to {high} HU")), ("values kept", kept.into())]
        }
        Err(_) => vec![("parameters", manifest.preprocess.to_string())],
    }
}

/// Parameters of a cache's conversion; the default ones if this build cannot parse them.
fn parameters_of(cache: &Cache) -> PreprocessConfig {
    serde_json::from_value(cache.manifest().preprocess.clone()).unwrap_or_default()
}

/// Cases whose values do not look like those of the expected kind of image, with the reasons.
fn suspects(cache: &Cache) -> Vec<(&str, Vec<String>)> {
    let findings = |case: &Case| case.record().values.clone().map(|values| values.findings).unwrap_or_default();
    let cases = cache.cases().iter().map(|case| (case.key(), findings(case)));
    cases.filter(|(_, findings)| !findings.is_empty()).collect()
}

/// Totals and parameters of a cache, by name.
fn totals(cache: &Cache) -> Vec<(&'static str, String)> {
    let (cases, manifest) = (cache.cases(), cache.manifest());
    let voxels: u64 = cases.iter().map(num_voxels).sum();
    let bytes: u64 = cases.iter().map(|case| case.record().span.len()).sum();
    let on_disk: u64 = cache.shards().iter().map(|shard| shard.len()).sum();
    let labelled = cases.iter().filter(|case| case.record().label.is_some()).count();
    let mut rows = vec![
        ("cases", format!("{} ({labelled} with labels)", count(cases.len(), "case"))),
        ("shards", format!("{}, {}", count(cache.shards().len(), "shard"), size(on_disk))),
        ("superseded", size(cache.superseded_bytes())),
        ("voxels", format!("{:.1} million, {} B/voxel", voxels as f64 / 1e6, per_voxel(bytes, voxels))),
        ("suspicious", count(suspects(cache).len(), "case")),
    ];
    rows.extend(parameters(manifest));
    rows.extend([("written by", manifest.created_by.clone()), ("digest", cache.digest())]);
    rows
}

/// Header and rows of the table of datasets.
fn by_dataset(cache: &Cache) -> ([&'static str; 7], Vec<[String; 7]>) {
    let mut datasets: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in cache.cases() {
        datasets.entry(&case.record().dataset).or_default().push(case);
    }
    let row = |(name, cases): (&str, Vec<&Case>)| {
        let (mut voxels, mut bytes, mut labelled) = (0, 0, 0);
        for case in &cases {
            voxels += num_voxels(case);
            bytes += case.record().span.len();
            labelled += usize::from(case.record().label.is_some());
        }
        let labels = cache.manifest().datasets.get(name).map(|info| &info.labels);
        [
            name.to_owned(),
            cases.len().to_string(),
            labelled.to_string(),
            format!("{:.1}", voxels as f64 / 1e6),
            size(bytes),
            per_voxel(bytes, voxels),
            labels
                .map(|names| listed(names.iter().map(|(value, name)| format!("{value} {}", escape_name(name))), ", "))
                .unwrap_or_default(),
        ]
    };
    let header = ["dataset", "cases", "labelled", "million voxels", "size", "B/voxel", "labels"];
    (header, datasets.into_iter().map(row).collect())
}

fn summary(cache: &Cache, max_rows: usize) -> anyhow::Result<()> {
    let (cases, suspects) = (cache.cases(), suspects(cache));
    print(facts(totals(cache)))?;
    let (header, rows) = by_dataset(cache);
    let mut datasets = Table::bordered().with_header(header);
    for row in rows {
        datasets.row(row);
    }
    print(datasets.align_right(1..6))?;

    let mut by_case =
        Table::bordered().with_header(["case", "shape", "spacing, mm", "labels", "size", "B/voxel", "shard"]);
    let shown = if max_rows == 0 { cases.len() } else { max_rows };
    for case in cases.iter().take(shown) {
        let record = case.record();
        by_case.row([
            case.key().to_owned(),
            listed(record.shape, " x "),
            rounded(record.geometry.spacing),
            if record.label.is_some() { "yes" } else { "no" }.to_owned(),
            size(record.span.len()),
            per_voxel(record.span.len(), num_voxels(case)),
            file_name(case.shard().path()),
        ]);
    }
    print(by_case.align_right([4, 5]).in_two_lines(1..4))?;
    if cases.len() > shown {
        print(format_args!("... and {} more; --rows 0 lists all", cases.len() - shown))?;
    }
    if suspects.is_empty() {
        return Ok(());
    }
    print("Check these cases:")?;
    for (case, findings) in suspects.iter().take(shown) {
        for text in findings {
            print(format_args!("  {case}: {text}"))?;
        }
    }
    if suspects.len() > shown {
        print(format_args!("  ... and {} more; --rows 0 lists all", suspects.len() - shown))?;
    }
    Ok(())
}

/// Content of a cache: its manifest's parameters and datasets, and the record of each case.
fn as_json(cache: &Cache) -> serde_json::Value {
    let case = |case: &Case| {
        let CaseRecord { dataset, case_id, shape, geometry, label, source, parameters, values, span, .. } =
            case.record();
        json!({
            "dataset": dataset,
            "case_id": case_id,
            "shape": shape,
            "spacing": geometry.spacing,
            "labels": label.is_some(),
            "bytes": span.len(),
            "shard": file_name(case.shard().path()),
            "source": source,
            "parameters": parameters,
            "values": values,
        })
    };
    let Manifest { created_by, preprocess, datasets, .. } = cache.manifest();
    json!({
        "digest": cache.digest(),
        "created_by": created_by,
        "preprocess": preprocess,
        "datasets": datasets,
        "superseded_bytes": cache.superseded_bytes(),
        "cases": cache.cases().iter().map(case).collect::<Vec<_>>(),
    })
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn matrix(affine: &Affine) -> String {
    let row = |row: &[f64; 4]| {
        let [a, b, c, d] = row;
        format!("{a:10.3}{b:10.3}{c:10.3}{d:10.3}")
    };
    listed(affine.iter().take(3).map(row), "\n")
}

fn label_name(cache: &Cache, dataset: &str, label: u8) -> String {
    let names = cache.manifest().datasets.get(dataset).map(|info| &info.labels);
    let unnamed = || if label == 0 { "background".to_owned() } else { format!("label {label}") };
    names.and_then(|names| names.get(&label)).map_or_else(unnamed, |name| escape_name(name).into_owned())
}

fn describe(cache: &Cache, case: &Case) -> anyhow::Result<()> {
    let record = case.record();
    let index = VolumeReader::new().index(case)?;
    let (voxels, geometry) = (num_voxels(case), &record.geometry);
    let region = geometry.foreground_box;
    let source = |path: &str, hash: &str| format!("{path}\nblake3 {hash}");
    let label = record.source.label.as_deref().zip(record.source.label_blake3.as_deref());
    let share = |count: u64| format!("{count} ({:.1} %)", count as f64 * 100.0 / voxels as f64);
    print(facts([
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
    ]))?;
    if let Some(values) = &record.values {
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
        print(facts(rows))?;
    }
    if !index.occupancy.classes.is_empty() {
        let mut classes = Table::bordered().with_header(["label", "name", "voxels", "%", "ml"]);
        let millilitres: f64 = geometry.spacing.iter().product::<f64>() / 1e3;
        for (class, counts) in &index.occupancy.classes {
            let total = counts.total();
            classes.row([
                class.to_string(),
                label_name(cache, &record.dataset, u8::try_from(*class).unwrap_or(u8::MAX)),
                total.to_string(),
                format!("{:.2}", total as f64 * 100.0 / voxels as f64),
                format!("{:.1}", total as f64 * millilitres),
            ]);
        }
        print(classes.align_right([0, 2, 3, 4]))?;
    }
    Ok(())
}

fn draw(cache: &Cache, case: &Case, path: &Path) -> anyhow::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_exact_as_single_precision() {
        for (value, text) in [
            (63.871_704_101_562_5, "63.8717"),
            (-1024.0, "-1024"),
            (f64::from(0.1_f32), "0.1"),
            (1_234_567.0, "1234567"),
            (1e7, "10000000"),
            (0.0, "0"),
        ] {
            assert_eq!(short(value).to_string(), text);
        }
    }
}
