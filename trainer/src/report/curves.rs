//! `RUN_DIR/curves.png`: loss, learning rate and, in fine-tuning, the Dice of the validations.
//!
//! The font is built into the program, so machines without fonts draw the same picture.

use std::io;
use std::path::PathBuf;

use hiend_loader::picture::Canvas;
use hiend_loader::report::style::{BLUE, GRID, INK, ORANGE, text};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::history::History;
use super::series::{Point, Series};

const WIDTH: usize = 1600;
const PANEL_HEIGHT: usize = 440;
const TITLE_HEIGHT: usize = 64;
/// Height of the row above the axes that names the curves, so that no legend covers them.
const LEGEND_HEIGHT: i32 = 30;
/// Width of the axes' labels.
const LABELS_WIDTH: i32 = 124;
/// Distance of the axes from the border of their panel.
const PANEL_MARGIN: i32 = 16;
/// Number of points up to which each point is marked.
const FEW: usize = 40;

const GREEN: RGBColor = RGBColor(30, 130, 80);

type Failure = Box<dyn std::error::Error>;

/// Error from drawing curves.
#[derive(Debug, thiserror::Error)]
pub enum CurvesError {
    /// A journal without a step to draw.
    #[error("no optimizer step in the journal yet")]
    NoSteps,
    /// The plotting library failed.
    #[error("cannot plot: {message}")]
    Plot {
        /// Message of the library.
        message: String,
    },
    /// The picture cannot be written.
    #[error("{}", path.display())]
    Write {
        /// Path of the picture file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// A curve of a panel.
struct Line<'a> {
    /// Name in the legend; absent if the axis label suffices.
    name: Option<String>,
    colour: RGBColor,
    series: &'a Series,
    /// Number of steps to smooth over: the curve is drawn faintly, its running mean strongly.
    smoothed_over: Option<f64>,
}

/// Draws the curves of a run below a title.
///
/// # Errors
/// If there is no step to draw yet, or the plotting library fails.
pub fn render(history: &History, title: &str) -> Result<Canvas, CurvesError> {
    let (Some(first), Some(last)) = (history.loss.points().first(), history.loss.points().last()) else {
        return Err(CurvesError::NoSteps);
    };
    let with_dice = !history.mean_dice.points().is_empty();
    let num_panels = if with_dice { 3 } else { 2 };
    let height = TITLE_HEIGHT + num_panels * PANEL_HEIGHT;
    let mut rgb = vec![255; 3 * WIDTH * height];
    let steps = (first.first_step, last.last_step);
    draw(&mut rgb, height, history, title, steps, with_dice)
        .map_err(|error| CurvesError::Plot { message: error.to_string() })?;
    Ok(Canvas::from_rgb(WIDTH, height, &rgb))
}

fn draw(
    rgb: &mut [u8],
    height: usize,
    history: &History,
    title: &str,
    steps: (u64, u64),
    with_dice: bool,
) -> Result<(), Failure> {
    let root = BitMapBackend::with_buffer(rgb, (WIDTH as u32, height as u32)).into_drawing_area();
    // The title is the run's folder: a long path keeps its end.
    let skipped = title.chars().count().saturating_sub(80);
    let title: String = title.chars().skip(skipped).collect();
    root.draw_text(&title, &text(28), (28, 22))?;
    let (_, body) = root.split_vertically(TITLE_HEIGHT as i32);
    let panels = body.split_evenly((if with_dice { 3 } else { 2 }, 1));

    let smoothed_over = history.loss.smoothing_span();
    let name = smoothed_over.map(|span| format!("mean over about {span} steps"));
    let loss = Line { name, colour: BLUE, series: &history.loss, smoothed_over };
    panel(&panels[0], "loss of the batch", &[loss], steps, &|value| short(*value))?;
    let lr = Line { name: None, colour: ORANGE, series: &history.lr, smoothed_over: None };
    panel(&panels[1], "learning rate", &[lr], steps, &|value| scientific(*value))?;
    if with_dice {
        let line = |name: &str, colour, series| Line { name: Some(name.into()), colour, series, smoothed_over: None };
        let lines = [
            line("mean of the validation", GREEN, &history.mean_dice),
            line("without background", ORANGE, &history.mean_fg_dice),
        ];
        panel(&panels[2], "Dice, 0 to 1", &lines, steps, &|value| short(*value))?;
    }
    root.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<BitMapBackend<'_>, Shift>,
    quantity: &str,
    lines: &[Line<'_>],
    (first, last): (u64, u64),
    label: &dyn Fn(&f64) -> String,
) -> Result<(), Failure> {
    let (low, high) = value_range(lines);
    // A single step is drawn in the middle of the axis.
    let (from, to) = if first == last { (first as f64 - 1.0, last as f64 + 1.0) } else { (first as f64, last as f64) };
    let inside = |value: f64| value.clamp(low, high);
    let has_names = lines.iter().any(|line| line.name.is_some());
    let mut chart = ChartBuilder::on(area)
        .margin(PANEL_MARGIN)
        .margin_top(if has_names { LEGEND_HEIGHT } else { PANEL_MARGIN })
        .margin_right(44)
        .x_label_area_size(64)
        .y_label_area_size(LABELS_WIDTH)
        .build_cartesian_2d(from..to, low..high)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style(text(18))
        .axis_desc_style(text(20))
        .x_desc("optimizer steps")
        .y_desc(quantity)
        .x_labels(10)
        .y_labels(7)
        .x_label_formatter(&|step| count(*step))
        .y_label_formatter(label)
        .draw()?;
    for line in lines {
        let colour = line.colour;
        let points = line.series.points();
        if points.is_empty() {
            continue;
        }
        let curve = |value: fn(&Point) -> f64| points.iter().map(move |point| (point.step(), inside(value(point))));
        let strong = match line.smoothed_over {
            None => curve(|point| point.mean).collect(),
            Some(span) => {
                if points.iter().all(|point| point.count == 1) {
                    chart.draw_series(LineSeries::new(curve(|point| point.mean), colour.mix(0.35)))?;
                } else {
                    // Points with many values: a band from minimum to maximum shows the noise.
                    let band: Vec<_> = curve(|point| point.min).chain(curve(|point| point.max).rev()).collect();
                    chart.draw_series([Polygon::new(band, colour.mix(0.25))])?;
                }
                line.series.smoothed(span).into_iter().map(|(step, value)| (step, inside(value))).collect::<Vec<_>>()
            }
        };
        chart.draw_series(LineSeries::new(strong, colour.stroke_width(3)))?;
        if points.len() <= FEW {
            let marks = points.iter().map(|point| Circle::new((point.step(), inside(point.mean)), 4, colour.filled()));
            chart.draw_series(marks)?;
        }
    }
    let mut left = PANEL_MARGIN + LABELS_WIDTH;
    for line in lines {
        let Some(name) = &line.name else { continue };
        let middle = LEGEND_HEIGHT / 2;
        area.draw(&PathElement::new([(left, middle), (left + 28, middle)], line.colour.stroke_width(3)))?;
        let (width, height) = area.estimate_text_size(name, &text(18))?;
        area.draw_text(name, &text(18), (left + 38, middle - height as i32 / 2))?;
        left += 38 + width as i32 + 36;
    }
    Ok(())
}

/// Range of the axis: all values, except the most extreme 0.5% of points on either side.
fn value_range(lines: &[Line<'_>]) -> (f64, f64) {
    let points = || lines.iter().flat_map(|line| line.series.points());
    let mut lows: Vec<f64> = points().map(|point| point.min).collect();
    let mut highs: Vec<f64> = points().map(|point| point.max).collect();
    lows.sort_by(f64::total_cmp);
    highs.sort_by(f64::total_cmp);
    let spikes = highs.len() / 200;
    let (low, high) = (lows[spikes], highs[highs.len() - 1 - spikes]);
    let room = if high > low { 0.06 * (high - low) } else { (0.1 * high.abs()).max(1e-12) };
    (low - room, high + room)
}

fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

fn scientific(value: f64) -> String {
    if value.abs() < 1e-15 { "0".into() } else { format!("{value:.1e}") }
}

/// Formats a step number for the axis.
fn count(step: f64) -> String {
    match step.abs() {
        step if step >= 1e6 => format!("{}M", short(step / 1e6)),
        step if step >= 1e4 => format!("{}k", short(step / 1e3)),
        step => short(step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::ValidationRecord;
    use crate::journal::testing::{step_record, validation_record};

    fn history(num_steps: u64) -> History {
        let mut history = History::default();
        for step in 1..=num_steps {
            history.step(&step_record(step, 1.0 / step as f64));
        }
        history
    }

    /// Counts the pixels of a colour.
    fn pixels_of(image: &Canvas, RGBColor(r, g, b): RGBColor) -> usize {
        (0..image.width * image.height)
            .filter(|at| image.pixel([at % image.width, at / image.width]) == [r, g, b])
            .count()
    }

    #[test]
    fn any_number_of_steps_is_drawn() {
        for num_steps in [1, 2, 10, 5000] {
            let image = render(&history(num_steps), "a run").unwrap();
            assert_eq!((image.width, image.height), (WIDTH, TITLE_HEIGHT + 2 * PANEL_HEIGHT));
            for colour in [BLUE, ORANGE, INK] {
                // A single mark has about fifty pixels.
                assert!(pixels_of(&image, colour) > 40, "{num_steps} steps, {colour:?}");
            }
            assert_eq!(pixels_of(&image, GREEN), 0);
        }
    }

    #[test]
    fn validations_have_a_panel() {
        let mut history = history(10);
        history.validation(&validation_record(10, 0.7));
        let image = render(&history, "a run").unwrap();
        assert_eq!(image.height, TITLE_HEIGHT + 3 * PANEL_HEIGHT);
        assert!(pixels_of(&image, GREEN) > 60);
    }

    #[test]
    fn no_legend_covers_a_curve() {
        let mut history = history(20);
        for step in 1..=20 {
            let record = ValidationRecord { mean_fg_dice: 0.1, ..validation_record(step, 0.9) };
            history.validation(&record);
        }
        let image = render(&history, "a run").unwrap();
        // The lower curve, in each column of the lower right quarter of its panel.
        let rows = image.height - PANEL_HEIGHT / 2..image.height;
        let has_line = |x: &usize| rows.clone().any(|y| image.pixel([*x, y]) == [ORANGE.0, ORANGE.1, ORANGE.2]);
        let columns = WIDTH / 2..WIDTH - 60;
        assert_eq!(columns.clone().filter(has_line).count(), columns.len());
    }

    #[test]
    fn validations_without_foreground_are_drawn() {
        // Alone, the background has a Dice; with ignored voxels only, nothing has.
        for (mean_dice, num_panels) in [(0.7, 3), (f64::NAN, 2)] {
            let mut history = history(10);
            for step in [5, 10] {
                let record = ValidationRecord { mean_fg_dice: f64::NAN, ..validation_record(step, mean_dice) };
                history.validation(&record);
            }
            let image = render(&history, "a run").unwrap();
            assert_eq!(image.height, TITLE_HEIGHT + num_panels * PANEL_HEIGHT, "mean Dice {mean_dice}");
        }
    }

    #[test]
    fn run_without_steps_has_no_picture() {
        assert!(matches!(render(&History::default(), "a run"), Err(CurvesError::NoSteps)));
    }

    #[test]
    fn range_contains_equal_and_extreme_values() {
        let check = |values: &[f64]| {
            let mut series = Series::default();
            for (step, &value) in (1..).zip(values) {
                series.push(step, value);
            }
            let line = Line { name: None, colour: BLUE, series: &series, smoothed_over: None };
            let (low, high) = value_range(&[line]);
            assert!(values.iter().all(|&value| low < value && value < high), "{values:?}: {low} to {high}");
        };
        check(&[0.0]);
        check(&[0.5, 0.5]);
        check(&[-3.0]);
        check(&[1e-8, 1e8]);
    }

    #[test]
    fn axis_labels_are_short() {
        assert_eq!([count(7.0), count(9999.5), count(20000.0), count(1_250_000.0)], ["7", "9999.5", "20k", "1.25M"]);
        assert_eq!([short(0.25), short(-0.000_001), scientific(0.0), scientific(1.5e-4)], ["0.25", "0", "0", "1.5e-4"]);
    }
}
