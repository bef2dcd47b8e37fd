//! Charts of reports, as SVG: histograms and box plots.
//!
//! The layout is computed with the font of [`style`](super::style); the browser draws its own.

use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::style::{BLUE, GRID, INK, text};

const WIDTH: u32 = 540;
const HEIGHT: u32 = 260;
/// Relative difference up to which values count as equal: the rounding of spacings computed from headers in single
/// precision.
const SAME: f64 = 1e-4;
/// Width of a chart of box plots, in pixels.
const PLOT_WIDTH: u32 = 1100;
/// Height of one box plot, in pixels.
const ROW_HEIGHT: usize = 30;
/// Width of the names next to box plots, in pixels.
const NAME_WIDTH: u32 = 290;
/// Half the height of a box, in pixels.
const BOX_RADIUS: i32 = 7;
/// Half the length of the line at the end of a whisker, in pixels.
const WHISKER_RADIUS: i32 = 4;
/// Largest number of dots of a box plot, outliers aside.
pub const MOST_DOTS: usize = 1000;
/// Number of letters of a name that fit next to a box plot.
pub const NAME_LETTERS: usize = 42;

/// An error of the plotting library.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw the chart: {0}")]
pub struct ChartError(String);

/// Bars of a histogram.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    /// Ends of the bars on the axis; one more than there are bars, ascending.
    pub edges: Vec<f64>,
    /// Height of each bar.
    pub heights: Vec<f64>,
}

impl Bars {
    /// Counts values in up to `max_bars` bars of equal width; `None` without a finite value.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>, max_bars: usize) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        let low = values.iter().copied().reduce(f64::min)?;
        let high = values.iter().copied().reduce(f64::max)?;
        // Equal values get one bar around them.
        let around = if low == 0.0 { 0.5 } else { low.abs() / 10.0 };
        let (low, high, num_bars) = if high - low > SAME * low.abs().max(high.abs()) {
            (low, high, max_bars.max(1))
        } else {
            (low - around, high + around, 1)
        };
        let width = (high - low) / num_bars as f64;
        let mut heights = vec![0.0; num_bars];
        for value in values {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bar's number")]
            let bar = ((value - low) / width) as usize;
            heights[bar.min(num_bars - 1)] += 1.0;
        }
        let edges = (0..=num_bars).map(|edge| low + width * edge as f64).collect();
        Some(Self { edges, heights })
    }
}

/// Values of one row of box plots.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Name next to the row.
    pub name: String,
    /// Values; those that are not finite are left out.
    pub values: Vec<f64>,
}

/// Draws a histogram; `quantity` is the label of the axis, with its unit, and `counted` names the height.
///
/// # Errors
/// If the plotting library fails.
pub fn histogram(quantity: &str, counted: &str, bars: &Bars) -> Result<String, ChartError> {
    draw((WIDTH, HEIGHT), |svg| draw_histogram(svg, quantity, counted, bars))
}

/// Draws one box plot per group, from the top: quartiles, whiskers to the last value within 1.5 times their distance,
/// and a dot for each value. Of more than [`MOST_DOTS`] values, an even share and all values beyond the whiskers get a
/// dot. `range` is the axis range; by default, the range of the values.
///
/// # Errors
/// If the plotting library fails.
pub fn box_plots(quantity: &str, groups: &[Group], range: Option<(f64, f64)>) -> Result<String, ChartError> {
    let height = u32::try_from(70 + groups.len() * ROW_HEIGHT).unwrap_or(u32::MAX);
    draw((PLOT_WIDTH, height), |svg| draw_boxes(svg, quantity, groups, range))
}

fn draw(
    (width, height): (u32, u32),
    paint: impl FnOnce(SVGBackend<'_>) -> Result<(), Box<dyn Error>>,
) -> Result<String, ChartError> {
    let mut svg = String::new();
    paint(SVGBackend::with_string(&mut svg, (width, height))).map_err(|error| ChartError(error.to_string()))?;
    Ok(svg)
}

fn draw_histogram(svg: SVGBackend<'_>, quantity: &str, counted: &str, bars: &Bars) -> Result<(), Box<dyn Error>> {
    let (Some(&low), Some(&high)) = (bars.edges.first(), bars.edges.last()) else { return Ok(()) };
    let highest = bars.heights.iter().copied().fold(0.0, f64::max);
    // A few whole numbers get no fractions between them.
    let is_few = highest <= 4.0 && bars.heights.iter().all(|height| height.fract() == 0.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number of at most 4")]
    let num_labels = if is_few { (highest as usize).max(1) + 1 } else { 5 };
    let root = svg.into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(10)
        .margin_right(20)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(low..high, 0.0..(highest * 1.05).max(1e-9))?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .disable_x_mesh()
        .axis_style(INK)
        .label_style(text(12))
        .axis_desc_style(text(13))
        .x_desc(quantity)
        .y_desc(counted)
        .x_labels(7)
        .y_labels(num_labels)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    let bar =
        |(ends, &height): (&[f64], &f64)| Rectangle::new([(ends[0], 0.0), (ends[1], height)], BLUE.mix(0.75).filled());
    chart.draw_series(bars.edges.windows(2).zip(&bars.heights).map(bar))?;
    root.present()?;
    Ok(())
}

/// Range of an axis around a single value. It does not extend below 0 for a value that is not negative, such as a distance.
fn around(value: f64) -> (f64, f64) {
    let low = if value < 0.0 { value - 0.5 } else { (value - 0.5).max(0.0) };
    (low, value + 0.5)
}

#[expect(clippy::cast_possible_truncation, reason = "single precision is enough for pixels")]
fn draw_boxes(
    svg: SVGBackend<'_>,
    quantity: &str,
    groups: &[Group],
    range: Option<(f64, f64)>,
) -> Result<(), Box<dyn Error>> {
    let finite = |group: &Group| group.values.iter().copied().filter(|value| value.is_finite()).collect::<Vec<f64>>();
    let values: Vec<Vec<f64>> = groups.iter().map(finite).collect();
    let all = || values.iter().flatten().copied();
    let (low, high) = range
        .or_else(|| Some((all().reduce(f64::min)?, all().reduce(f64::max)?)))
        .map_or((0.0, 1.0), |(low, high)| if high > low { (low, high) } else { around(low) });
    let margin = 0.02 * (high - low);
    let root = svg.into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(10)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(NAME_WIDTH)
        .build_cartesian_2d((low - margin) as f32..(high + margin) as f32, 0.0..groups.len().max(1) as f32)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .disable_y_mesh()
        .disable_y_axis()
        .axis_style(INK)
        .label_style(text(13))
        .axis_desc_style(text(13))
        .x_desc(quantity)
        .x_labels(9)
        .x_label_formatter(&|value| short(f64::from(*value)))
        .draw()?;
    let name_style = text(13).pos(Pos::new(HPos::Right, VPos::Center));
    let none_style = text(12).pos(Pos::new(HPos::Left, VPos::Center));
    for (number, (group, values)) in groups.iter().zip(&values).enumerate() {
        // Rows are counted from below.
        let row = (groups.len() - number) as f32 - 0.5;
        let at = |value: f64| chart.plotting_area().map_coordinate(&(value as f32, row));
        let (left, y) = at(low - margin);
        root.draw_text(&crate::picture::fitting(&group.name, NAME_LETTERS), &name_style, (left - 10, y))?;
        if values.is_empty() {
            root.draw_text("no values", &none_style, (left + 10, y))?;
            continue;
        }
        let numbers @ [lower, .., upper] = five_numbers(values);
        let [lower_at, q1_at, median_at, q3_at, upper_at] = numbers.map(|value| at(value).0);
        root.draw(&Rectangle::new([(q1_at, y - BOX_RADIUS), (q3_at, y + BOX_RADIUS)], BLUE))?;
        for (from, to) in [(lower_at, q1_at), (q3_at, upper_at)] {
            root.draw(&PathElement::new(vec![(from, y), (to, y)], BLUE))?;
        }
        for (at, radius) in [(lower_at, WHISKER_RADIUS), (median_at, BOX_RADIUS), (upper_at, WHISKER_RADIUS)] {
            root.draw(&PathElement::new(vec![(at, y - radius), (at, y + radius)], BLUE))?;
        }
        let every = values.len().div_ceil(MOST_DOTS);
        let is_shown = |at: usize, value: f64| at.is_multiple_of(every) || value < lower || value > upper;
        let shown = values.iter().enumerate().filter(|(at, value)| is_shown(*at, **value));
        let dot = |(_, value): (usize, &f64)| Circle::new((*value as f32, row), 2, BLUE.mix(0.45).filled());
        chart.draw_series(shown.map(dot))?;
    }
    root.present()?;
    Ok(())
}

/// Lower whisker, quartiles and upper whisker of one or more finite values. Whiskers end at the last value within 1.5
/// times the interquartile range.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "places in the values")]
fn five_numbers(values: &[f64]) -> [f64; 5] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let place = share * (sorted.len() - 1) as f64;
        let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        below + (above - below) * place.fract()
    };
    let [q1, median, q3] = [0.25, 0.5, 0.75].map(quantile);
    let reach = 1.5 * (q3 - q1);
    let low = sorted.iter().copied().find(|&value| value >= q1 - reach).map_or(q1, |value| value.min(q1));
    let high = sorted.iter().rev().copied().find(|&value| value <= q3 + reach).map_or(q3, |value| value.max(q3));
    [low, q1, median, q3, high]
}

/// Formats a number with at most three decimals; thousands and millions are abbreviated.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{}{unit}", if text == "-0" { "0" } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_value_is_in_a_bar() {
        let bars = Bars::of([1.0, 2.0, f64::NAN, 5.0, 5.0], 4).unwrap();
        assert_eq!((bars.edges, bars.heights), (vec![1.0, 2.0, 3.0, 4.0, 5.0], vec![1.0, 1.0, 0.0, 2.0]));
        let same = Bars::of([10.0, 10.0], 10).unwrap();
        assert_eq!((same.edges, same.heights), (vec![9.0, 11.0], vec![2.0]));
        assert_eq!(Bars::of([3.0, 3.000_000_2, 2.999_999_9], 10).unwrap().heights, [3.0]);
        assert_eq!(Bars::of([f64::INFINITY], 10), None);
    }

    #[test]
    fn histogram_has_a_rectangle_for_every_bar() {
        let bars = Bars::of((0..50).map(f64::from), 10).unwrap();
        let svg = histogram("HU", "voxels <per> case", &bars).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("voxels &lt;per&gt; case"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 10, "{svg}");
    }

    #[test]
    fn counts_have_whole_labels() {
        for highest in 1..=5 {
            let bars = Bars { edges: vec![0.0, 10.0, 20.0], heights: vec![0.0, f64::from(highest)] };
            let svg = histogram("mm", "cases", &bars).unwrap();
            let texts = svg.split("<text").skip(1).filter_map(|text| Some(text.split_once('>')?.1.split_once('<')?.0));
            let labels: Vec<&str> = texts.map(str::trim).collect();
            assert!(labels.contains(&"1") || highest == 5, "{labels:?}");
            assert!(!labels.iter().any(|label| label.contains('.')), "{labels:?}");
        }
    }

    #[test]
    fn box_plots_have_every_name_and_a_dot_for_every_finite_value() {
        let group = |name: &str, values: &[f64]| Group { name: name.to_owned(), values: values.to_vec() };
        let groups = [group("liver & more", &[0.9, 0.95, 0.7]), group("spleen", &[0.5, f64::NAN]), group("empty", &[])];
        for groups in [&groups[..], &groups[..1], &groups[2..]] {
            let svg = box_plots("Dice", groups, Some((0.0, 1.0))).unwrap();
            let dots: usize = groups.iter().flat_map(|group| &group.values).filter(|value| value.is_finite()).count();
            assert_eq!(svg.matches("<circle").count(), dots, "{svg}");
            for group in groups {
                assert!(svg.contains(&group.name.replace('&', "&amp;")), "{svg}");
            }
            assert_eq!(svg.contains("no values"), groups.iter().any(|group| group.values.is_empty()), "{svg}");
        }
        box_plots("HD95, mm", &groups, None).unwrap();
        box_plots("nothing", &[], None).unwrap();
    }

    #[test]
    fn axis_of_distances_has_no_negative_numbers() {
        let group = |value: f64| [Group { name: "a".into(), values: vec![value; 2] }];
        let has_negative = |value: f64| {
            let svg = box_plots("HD95, mm", &group(value), None).unwrap();
            let texts = svg.split("<text").skip(1).filter_map(|text| Some(text.split_once('>')?.1.split_once('<')?.0));
            texts.map(str::trim).any(|label| label.starts_with('-'))
        };
        assert!(!has_negative(0.0) && !has_negative(0.2) && has_negative(-1.0));
    }

    #[test]
    fn whiskers_end_at_values() {
        let check = |values: &[f64], expected: [f64; 5]| {
            assert_eq!(format!("{:?}", five_numbers(values)), format!("{expected:?}"));
        };
        check(&[0.0, 4.0, 5.0, 6.0, 7.0], [4.0, 4.0, 5.0, 6.0, 7.0]);
        check(&[2.0, 4.0, 5.0, 6.0, 7.0], [2.0, 4.0, 5.0, 6.0, 7.0]);
        check(&[1.0], [1.0; 5]);
        check(&[1.0, 2.0], [1.0, 1.25, 1.5, 1.75, 2.0]);
    }

    #[test]
    fn large_groups_keep_their_outliers() {
        let mut values: Vec<f64> = (0..20_000).map(|at| f64::from(at % 100)).collect();
        values[7] = 1e6;
        let svg = box_plots("ml", &[Group { name: "a".into(), values }], None).unwrap();
        assert_eq!(svg.matches("<circle").count(), MOST_DOTS + 1);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([short(0.25), short(-0.000_01), short(20_000.0), short(1.5e6)], ["0.25", "0", "20k", "1.5M"]);
    }
}
