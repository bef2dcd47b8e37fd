//! `hiend-shard inspect`: the content of a cache or a case, as tables and pictures.

mod case;
mod report;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use hiend_cache::{Cache, Case, CaseRecord, Manifest, OpenOptions, SourceValues};
use serde_json::json;

use super::table::{Table, count, facts, size};
use crate::case::{case_named, shown};
use crate::cli::Inspect;
use crate::preprocess::PreprocessConfig;
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
            case::describe(&cache, case)?;
            if let Some(path) = &args.png {
                case::draw(&cache, case, path)?;
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

fn label_name(cache: &Cache, dataset: &str, label: u8) -> String {
    let names = cache.manifest().datasets.get(dataset).map(|info| &info.labels);
    let unnamed = || if label == 0 { "background".to_owned() } else { format!("label {label}") };
    names.and_then(|names| names.get(&label)).map_or_else(unnamed, |name| escape_name(name).into_owned())
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
