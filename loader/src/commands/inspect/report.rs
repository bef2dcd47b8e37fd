//! `hiend-shard inspect CACHE --report DIR`: a cache as one HTML page.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hiend_cache::{Cache, Case, StoredVolume, VolumeReader};

use super::{by_dataset, label_name, listed, parameters_of, rounded, suspects, totals, value_range};
use crate::geometry::{spacing, voxel_ml};
use crate::picture::{Canvas, Plane, fitting, label_colour};
use crate::preprocess::PreprocessConfig;
use crate::preprocess::normalize::Units;
use crate::program::count;
use crate::report::{Bars, Group, NAME_LETTERS, Page, box_plots, histogram};

/// Largest number of cases whose voxels are read.
const MOST_SAMPLED: usize = 24;
/// Longest side of a slice, in pixels.
const SLICE: f64 = 208.0;
/// Number of bars of a histogram of cases.
const BARS: usize = 24;
/// Number of bars of a histogram of voxels.
const VOXEL_BARS: usize = 85;
/// Largest number of labelled cases in object storage whose indices are read; each takes a request.
const MOST_FETCHED: usize = 200;
/// Largest number of rows of a table of cases.
const MOST_ROWS: usize = 500;
/// Largest number of classes with a box plot.
const MOST_CLASSES: usize = 120;

/// Writes the page and returns its path.
pub(super) fn write(cache: &Cache, folder: &Path) -> anyhow::Result<PathBuf> {
    let mut page = Page::new(format!("Cache {}", cache.location()));
    page.facts(totals(cache));
    page.heading("Datasets");
    let (header, rows) = by_dataset(cache);
    page.table(&header, 1..6, rows.into_iter().map(Vec::from));
    if cache.cases().is_empty() {
        return Ok(page.write(folder)?);
    }
    let sample = sampled(cache.cases());
    suspicious(&mut page, cache);
    geometry(&mut page, cache)?;
    let volumes = Volumes::read(cache, &sample)?;
    values(&mut page, cache, &volumes, sample.len())?;
    let found = classes(&mut page, cache)?;
    page.heading("Middle axial slices");
    page.paragraph(&format!("{} with labels in colour; the patient's right is on the left.", of_all(cache, &sample)));
    legends(&mut page, cache, &found);
    page.pictures(volumes.pictures)?;
    cases(&mut page, cache);
    Ok(page.write(folder)?)
}

/// Selects up to [`MOST_SAMPLED`] cases, evenly spaced.
fn sampled(cases: &[Case]) -> Vec<&Case> {
    let num = cases.len().min(MOST_SAMPLED);
    (0..num).map(|at| &cases[at * cases.len() / num]).collect()
}

/// Subject of a sentence about the sampled cases: `All cases`, or their number and the total.
fn of_all(cache: &Cache, sample: &[&Case]) -> String {
    let all = cache.cases().len();
    if sample.len() == all { "All cases".into() } else { format!("{} of {all} cases, evenly spaced,", sample.len()) }
}

fn suspicious(page: &mut Page, cache: &Cache) {
    page.heading("Suspicious cases");
    let suspects = suspects(cache);
    if suspects.is_empty() {
        page.paragraph("None.");
        return;
    }
    let rows = suspects.iter().map(|(case, findings)| vec![(*case).to_owned(), findings.join("\n")]);
    page.table(&["case", "finding"], 2.., rows);
}

/// Adds histograms of spacings and sizes.
fn geometry(page: &mut Page, cache: &Cache) -> anyhow::Result<()> {
    let sides = |case: &Case| {
        let mut sides = spacing(&case.record().geometry.source_affine);
        sides.sort_by(f64::total_cmp);
        sides
    };
    let height = |case: &Case| case.record().shape[2] as f64 * case.record().geometry.spacing[2] / 10.0;
    let voxels = |case: &Case| super::num_voxels(case) as f64 / 1e6;
    let cases = || cache.cases().iter();
    let charts = [
        ("finest source spacing, mm", cases().map(|case| sides(case)[0]).collect::<Vec<f64>>()),
        ("coarsest source spacing, mm", cases().map(|case| sides(case)[2]).collect()),
        ("height of the stored volume, cm", cases().map(height).collect()),
        ("stored voxels, millions", cases().map(voxels).collect()),
    ];
    page.heading("Geometry");
    page.charts(bar_charts(charts, "cases", BARS)?);
    Ok(())
}

fn bar_charts<const N: usize>(
    charts: [(&str, Vec<f64>); N],
    counted: &str,
    num_bars: usize,
) -> anyhow::Result<Vec<String>> {
    let charts = charts.into_iter().filter_map(|(name, values)| Some((name, Bars::of(values, num_bars)?)));
    charts.map(|(name, bars)| Ok(histogram(name, counted, &bars)?)).collect()
}

/// Ends of the histogram's range: the window, or for z-scores the range of pictures.
fn shown_range(cache: &Cache) -> [f64; 2] {
    let config = parameters_of(cache);
    match config.units(None) {
        Units::Window(window) => window,
        units @ Units::ZScores => units.shown_range().map(f64::from),
    }
}

/// Voxels of the sampled cases: their histogram and slices.
struct Volumes {
    histogram: Bars,
    pictures: Vec<(Canvas, String)>,
}

impl Volumes {
    fn read(cache: &Cache, sample: &[&Case]) -> anyhow::Result<Self> {
        let config = parameters_of(cache);
        let (units, [low, high]) = (config.units(None), shown_range(cache));
        let width = (high - low) / VOXEL_BARS as f64;
        let mut counts = vec![0_u64; VOXEL_BARS];
        let mut pictures = Vec::new();
        let mut reader = VolumeReader::new();
        for case in sample {
            let volume = case.read_whole(&mut reader)?;
            let image = &case.record().image;
            for &voxel in &volume.image {
                let value = image.offset + image.scale * f64::from(voxel);
                // Values beyond the range count at its ends.
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the bars")]
                let bar = ((value - low) / width).clamp(0.0, (VOXEL_BARS - 1) as f64) as usize;
                counts[bar] += 1;
            }
            let shape = listed(volume.shape, " x ");
            let caption = format!("{}, {shape} voxels of {} mm", case.key(), rounded(case.record().geometry.spacing));
            pictures.push((slice(case, &volume, units), caption));
        }
        let edges = (0..=VOXEL_BARS).map(|edge| low + width * edge as f64).collect();
        let total = counts.iter().sum::<u64>().max(1) as f64;
        let heights = counts.into_iter().map(|count| count as f64 * 100.0 / total).collect();
        Ok(Self { histogram: Bars { edges, heights }, pictures })
    }
}

/// Middle axial slice with true proportions.
fn slice(case: &Case, volume: &StoredVolume, units: Units) -> Canvas {
    let record = case.record();
    let length_mm = |axis: usize| volume.shape[axis] as f64 * record.geometry.spacing[axis];
    let per_mm = SLICE / length_mm(0).max(length_mm(1)).max(1e-6);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most SLICE")]
    let size = [0, 1].map(|axis| ((length_mm(axis) * per_mm).round() as usize).max(1));
    let scale = units.scale(record.image.scale, record.image.offset);
    let grey = |voxel: usize| units.grey(scale.apply(volume.image[voxel]));
    let cut = Plane::Axial.cut(volume.shape, volume.shape[2] / 2, volume.label.is_some(), |voxel| {
        (grey(voxel), volume.label.as_ref().map_or(0, |labels| labels[voxel]))
    });
    let mut canvas = Canvas::new(size[0], size[1]);
    canvas.slice([0, 0], size, &cut);
    canvas
}

/// Adds a histogram of the stored values, and box plots of the shares of voxels at the ends of the kept range.
fn values(page: &mut Page, cache: &Cache, volumes: &Volumes, num_sampled: usize) -> anyhow::Result<()> {
    let PreprocessConfig { normalize, window: [low, high], .. } = parameters_of(cache);
    let [below, above, empty] = if normalize.is_hu() {
        ["at or below the window", "at or above the window", "air or padding"].map(str::to_owned)
    } else {
        [format!("z-score of {low} or less"), format!("z-score of {high} or more"), "0 in the file".to_owned()]
    };
    let values = normalize.values();
    page.heading("Values");
    page.paragraph(&format!(
        "Stored values of {}; those beyond the axis count at its ends. Shares are those of the source images of all cases \
         before they were cropped.",
        count(num_sampled, "case")
    ));
    page.charts([histogram(values, "% of voxels", &volumes.histogram)?]);
    let recorded = || cache.cases().iter().filter_map(|case| case.record().values.as_ref());
    let shares = [
        Group { name: below, values: recorded().map(|values| values.below * 100.0).collect() },
        Group { name: above, values: recorded().map(|values| values.above * 100.0).collect() },
        Group { name: empty, values: recorded().map(|values| values.air * 100.0).collect() },
    ];
    if recorded().next().is_some() {
        page.charts([box_plots("% of the source image's voxels", &shares, Some((0.0, 100.0)))?]);
    }
    Ok(())
}

/// Adds box plots of the volume of each class. Returns the classes found, with their datasets.
fn classes<'a>(page: &mut Page, cache: &'a Cache) -> anyhow::Result<Vec<(&'a str, u8)>> {
    let mut reader = VolumeReader::new();
    let mut groups: BTreeMap<(&str, u8), Vec<f64>> = BTreeMap::new();
    let mut labelled: Vec<&Case> = cache.cases().iter().filter(|case| case.record().label.is_some()).collect();
    let num_labelled = labelled.len();
    if num_labelled > MOST_FETCHED && cache.location().url().is_some() {
        labelled = (0..MOST_FETCHED).map(|at| labelled[at * num_labelled / MOST_FETCHED]).collect();
    }
    for case in &labelled {
        let record = case.record();
        let millilitres = voxel_ml(&record.geometry.affine);
        let index = reader.index(case).with_context(|| format!("case {}", case.key()))?;
        for (class, voxels) in &index.occupancy.classes {
            if let Some(class) = u8::try_from(*class).ok().filter(|class| *class > 0) {
                let volumes = groups.entry((&record.dataset, class)).or_default();
                volumes.push(voxels.total() as f64 * millilitres);
            }
        }
    }
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    page.heading("Labels");
    page.paragraph("Volume of each class in the cases that have it; the number of such cases in parentheses.");
    if labelled.len() < num_labelled {
        page.paragraph(&format!("{} of {num_labelled} labelled cases, evenly spaced, were read.", labelled.len()));
    }
    let several = groups.keys().any(|(dataset, _)| Some(dataset) != groups.keys().next().map(|(first, _)| first));
    let group = |((dataset, class), values): (&(&str, u8), &Vec<f64>)| {
        let class = label_name(cache, dataset, *class);
        let name = if several { format!("{class}, {dataset}") } else { class };
        let number = format!(" ({})", values.len());
        Group { name: fitting(&name, NAME_LETTERS.saturating_sub(number.len())) + &number, values: values.clone() }
    };
    let shown: Vec<Group> = groups.iter().take(MOST_CLASSES).map(group).collect();
    page.charts([box_plots("volume, ml", &shown, None)?]);
    if groups.len() > shown.len() {
        page.paragraph(&format!("{} more classes are not shown.", groups.len() - shown.len()));
    }
    Ok(groups.into_keys().collect())
}

/// Adds the colours of the classes of each dataset.
fn legends(page: &mut Page, cache: &Cache, found: &[(&str, u8)]) {
    let datasets: BTreeSet<&str> = found.iter().map(|(dataset, _)| *dataset).collect();
    for dataset in &datasets {
        if datasets.len() > 1 {
            page.paragraph(&format!("{dataset}:"));
        }
        let classes = found.iter().filter(|(of, _)| of == dataset);
        page.legend(classes.filter_map(|&(_, class)| Some((label_colour(class)?, label_name(cache, dataset, class)))));
    }
}

fn cases(page: &mut Page, cache: &Cache) {
    page.heading("Cases");
    let row = |case: &Case| {
        let record = case.record();
        let source = listed(record.geometry.source_shape, " x ");
        let values = record.values.as_ref().map(value_range).unwrap_or_default();
        vec![
            case.key().to_owned(),
            if record.label.is_some() { "yes" } else { "no" }.to_owned(),
            source,
            rounded(spacing(&record.geometry.source_affine)),
            listed(record.shape, " x "),
            values,
        ]
    };
    let header = ["case", "labels", "source shape", "source spacing, mm", "stored shape", "source values"];
    page.table(&header, 2.., cache.cases().iter().take(MOST_ROWS).map(row));
    if cache.cases().len() > MOST_ROWS {
        page.paragraph(&format!("{} more; hiend-shard inspect --json lists all.", cache.cases().len() - MOST_ROWS));
    }
}
