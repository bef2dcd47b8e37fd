//! Learning curves as a PNG: the mean of each arm, its standard deviation as a band, and the single runs.

use std::path::Path;

use hiend_loader::picture::Canvas;
use hiend_loader::report::style::{BLUE, GRID, INK, ORANGE, text};
use plotters::prelude::*;

use super::arm_result::{ArmResult, Point};

const WIDTH: usize = 1200;
const HEIGHT: usize = 680;
/// Colours of the arms.
const COLOURS: [RGBColor; 2] = [BLUE, ORANGE];

/// Draws the arms to `path`.
///
/// # Errors
/// If the plotting library fails or the file cannot be written.
pub(super) fn draw(path: &Path, arms: &[ArmResult; 2]) -> anyhow::Result<()> {
    let mut rgb = vec![255; 3 * WIDTH * HEIGHT];
    render(&mut rgb, arms).map_err(|error| anyhow::anyhow!("cannot plot: {error}"))?;
    Canvas::from_rgb(WIDTH, HEIGHT, &rgb).write_png(path)?;
    Ok(())
}

fn render(rgb: &mut [u8], arms: &[ArmResult; 2]) -> Result<(), Box<dyn std::error::Error>> {
    let root = BitMapBackend::with_buffer(rgb, (WIDTH as u32, HEIGHT as u32)).into_drawing_area();
    let points = || arms.iter().flat_map(|arm| &arm.curve);
    let last = points().map(|point| point.step).max().unwrap_or(1) as f64;
    let high = |point: &Point| point.by_seed.iter().copied().fold(point.dice.mean + point.dice.deviation, f64::max);
    let top = points().map(high).fold(0.1, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption("Fine-tuning on two labelled cases: Dice on eight test cases", text(28))
        .margin(20)
        .x_label_area_size(60)
        .y_label_area_size(90)
        .build_cartesian_2d(0.0..last, 0.0..1.08 * top)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style(text(20))
        .axis_desc_style(text(22))
        .x_desc("optimizer steps")
        .y_desc("foreground Dice")
        .x_labels(9)
        .y_labels(8)
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_label_formatter(&|dice| format!("{dice:.2}"))
        .draw()?;
    for (arm, colour) in arms.iter().zip(COLOURS) {
        let curve = |value: fn(&Point) -> f64| arm.curve.iter().map(move |point| (point.step as f64, value(point)));
        let low = curve(|point| (point.dice.mean - point.dice.deviation).max(0.0));
        let high = curve(|point| point.dice.mean + point.dice.deviation);
        let band: Vec<_> = low.chain(high.rev()).collect();
        chart.draw_series([Polygon::new(band, colour.mix(0.15))])?;
        let num_seeds = arm.curve.first().map_or(0, |point| point.by_seed.len());
        for seed in 0..num_seeds {
            let run = arm.curve.iter().map(|point| (point.step as f64, point.by_seed[seed]));
            chart.draw_series(LineSeries::new(run, colour.mix(0.4)))?;
        }
        chart
            .draw_series(LineSeries::new(curve(|point| point.dice.mean), colour.stroke_width(4)))?
            .label(format!("{}, mean and SD of {num_seeds} seeds", arm.arm))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 28, y)], colour.stroke_width(4)));
        chart.draw_series(curve(|point| point.dice.mean).map(|at| Circle::new(at, 5, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .legend_area_size(36)
        .margin(14)
        .label_font(text(20))
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .draw()?;
    root.present()?;
    Ok(())
}
