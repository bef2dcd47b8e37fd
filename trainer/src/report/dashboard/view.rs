//! Layout of the dashboard. On a small terminal the curves are dropped first and the log next; step, loss and speed stay.

use std::time::Instant;

use hiend_loader::plural::{count, duration};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Borders, Chart, Dataset, Gauge, GraphType, Paragraph};

use super::state::State;
use crate::report::console::dice;
use crate::report::series::Series;

/// Minimum number of rows for curves.
const ROWS_WITH_CURVES: u16 = 16;
/// Minimum number of rows for the log.
const ROWS_WITH_LOG: u16 = 9;

/// Styles with or without colours.
#[derive(Clone, Copy)]
struct Palette(bool);

impl Palette {
    fn of(self, colour: Color) -> Style {
        if self.0 { Style::new().fg(colour) } else { Style::new() }
    }

    fn faint(self) -> Style {
        if self.0 { Style::new().fg(Color::DarkGray) } else { Style::new().add_modifier(Modifier::DIM) }
    }

    fn warning(self) -> Style {
        self.of(Color::Yellow).add_modifier(Modifier::BOLD)
    }
}

/// Draws the state of the dashboard at `now`.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, now: Instant, colour: bool) {
    let palette = Palette(colour);
    let rows = frame.area().height;
    let (curves, log) = match rows {
        ROWS_WITH_CURVES.. => (Constraint::Fill(1), Constraint::Length((rows / 5).clamp(4, 10))),
        ROWS_WITH_LOG.. => (Constraint::Length(0), Constraint::Fill(1)),
        _ => (Constraint::Length(0), Constraint::Length(0)),
    };
    let figures = 3 + u16::from(state.validation.is_some()) + u16::from(state.ranks().is_some());
    let rows = [Constraint::Length(1), Constraint::Length(1), Constraint::Length(figures), curves, log];
    let rows = Layout::vertical(rows.into_iter().chain([Constraint::Length(1)]));
    let [heading, progress, numbers, curves, log, keys] = rows.areas(frame.area());
    frame.render_widget(Paragraph::new(Line::styled(state.heading.as_str(), Modifier::BOLD)), heading);
    draw_progress(frame, progress, state, now, palette);
    frame.render_widget(Paragraph::new(number_lines(state, now, palette)), numbers);
    draw_curves(frame, curves, state, palette);
    draw_log(frame, log, state, palette);
    let keys_line = if state.stopping {
        Line::styled("stopping after this step; Ctrl-C stops at once without saving", palette.warning())
    } else if let Some((done, total)) = state.validating {
        Line::styled(format!("validating: {done} of {}", count(total, "case")), palette.faint())
    } else {
        Line::styled("q or Ctrl-C: finish this step, save, and stop", palette.faint())
    };
    frame.render_widget(Paragraph::new(keys_line), keys);
}

fn draw_progress(frame: &mut Frame<'_>, area: Rect, state: &State, now: Instant, palette: Palette) {
    let ratio = state.step as f64 / state.end_step.max(1) as f64;
    let left = state.time_left(now).map(|left| format!(", {} left", duration(left))).unwrap_or_default();
    let label = format!("step {} of {}{left}", state.step, state.end_step);
    let gauge = Gauge::default().ratio(ratio.clamp(0.0, 1.0)).label(label).use_unicode(true);
    frame.render_widget(gauge.gauge_style(palette.of(Color::Blue)), area);
}

/// Formats the statistics, several named quantities per line.
fn number_lines(state: &State, now: Instant, palette: Palette) -> Vec<Line<'static>> {
    let row = |pairs: Vec<(&'static str, String)>| {
        let spans = pairs.into_iter().flat_map(|(name, value)| {
            [Span::styled(format!("{name} "), palette.faint()), Span::raw(format!("{value:<13} "))]
        });
        spans.collect::<Line<'_>>()
    };
    let running = duration(now.saturating_duration_since(state.since));
    let Some(speed) = state.speed() else {
        return vec![Line::raw(format!("waiting for the first step, {running}"))];
    };
    let norm = speed.grad_norm.map_or_else(|| "-".into(), |norm| format!("{norm:.3}"));
    let wait_share = 100.0 * speed.wait_ms / speed.step_ms.max(1e-9);
    let mut lines = vec![
        row(vec![
            ("loss      ", format!("{:.4}", speed.loss)),
            ("lr     ", format!("{:.2e}", speed.lr)),
            ("|g|   ", norm),
        ]),
        row(vec![
            ("crops/s   ", format!("{:.1}", speed.crops_per_sec)),
            ("running", running),
            ("upload", format!("{:.1} ms", speed.upload_ms)),
        ]),
        row(vec![
            ("data wait ", format!("{wait_share:.1}%")),
            ("step   ", format!("{:.0} ms", speed.step_ms)),
            ("= wait", format!("{:.1} + compute {:.1} ms", speed.wait_ms, speed.compute_ms)),
        ]),
    ];
    lines.extend(state.ranks().map(|ranks| {
        row(vec![
            ("ranks     ", ranks.num_ranks.to_string()),
            ("slowest", format!("{:<24}", ranks.slowest())),
            ("data wait by rank", format!("{} ms", ranks.waits())),
        ])
    }));
    lines.extend(state.validation.as_ref().map(|record| {
        row(vec![
            ("Dice      ", dice(record.mean_dice)),
            ("best   ", dice(state.best_dice)),
            ("without background", format!("{} at step {}", dice(record.mean_fg_dice), record.step)),
        ])
    }));
    lines
}

fn draw_curves(frame: &mut Frame<'_>, area: Rect, state: &State, palette: Palette) {
    if area.height < 4 {
        return;
    }
    let history = &state.history;
    if history.mean_dice.points().is_empty() {
        let [loss, lr] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(area);
        draw_curve(frame, loss, "loss", &[(&history.loss, Color::Cyan)], true, palette);
        draw_curve(frame, lr, "learning rate", &[(&history.lr, Color::Magenta)], false, palette);
    } else {
        let [loss, lr, dice] = Layout::horizontal([Constraint::Fill(1); 3]).areas(area);
        draw_curve(frame, loss, "loss", &[(&history.loss, Color::Cyan)], true, palette);
        draw_curve(frame, lr, "learning rate", &[(&history.lr, Color::Magenta)], false, palette);
        let lines = [(&history.mean_fg_dice, Color::Yellow), (&history.mean_dice, Color::Green)];
        draw_curve(frame, dice, "Dice", &lines, false, palette);
    }
}

/// Draws curves over the steps, the last one on top. A noisy curve is faint, with its running mean on top.
fn draw_curve(
    frame: &mut Frame<'_>,
    area: Rect,
    name: &str,
    lines: &[(&Series, Color)],
    noisy: bool,
    palette: Palette,
) {
    let mut curves: Vec<(Vec<(f64, f64)>, Style)> = vec![];
    for &(series, colour) in lines {
        let raw = series.points().iter().map(|point| (point.step(), point.mean)).collect();
        if let Some(span) = series.smoothing_span().filter(|_| noisy) {
            curves.push((raw, palette.faint()));
            curves.push((series.smoothed(span), palette.of(colour)));
        } else {
            curves.push((raw, palette.of(colour)));
        }
    }
    let range = |value: fn(&(f64, f64)) -> f64| {
        let values = || curves.iter().flat_map(|(points, _)| points.iter().map(value));
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
    };
    let ((from, to), (low, high)) = (range(|point| point.0), range(|point| point.1));
    let block = Block::bordered().border_style(palette.faint()).title(name.to_owned());
    if from > to {
        return frame.render_widget(block, area);
    }
    // A curve of a single value is drawn in the middle.
    let widened = |low: f64, high: f64, room: f64| if low < high { (low, high) } else { (low - room, high + room) };
    let (x, y) = (widened(from, to, 1.0), widened(low, high, (0.1 * high.abs()).max(1e-12)));
    let number =
        |value: f64| if value == 0.0 || value.abs() >= 1e-3 { format!("{value:.3}") } else { format!("{value:.1e}") };
    let datasets = curves.iter().map(|(points, style)| {
        Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(*style).data(points)
    });
    let chart = Chart::new(datasets.collect())
        .block(block)
        .x_axis(Axis::default().style(palette.faint()).bounds([x.0, x.1]).labels([steps(x.0), steps(x.1)]))
        .y_axis(Axis::default().style(palette.faint()).bounds([y.0, y.1]).labels([number(y.0), number(y.1)]));
    frame.render_widget(chart, area);
}

fn steps(step: f64) -> String {
    format!("{step:.0}")
}

fn draw_log(frame: &mut Frame<'_>, area: Rect, state: &State, palette: Palette) {
    if area.height < 2 {
        return;
    }
    let block = Block::new().borders(Borders::TOP).border_style(palette.faint()).title("log");
    let inside = block.inner(area);
    let first = state.log.len().saturating_sub(usize::from(inside.height));
    let style = |warning| if warning { palette.warning() } else { Style::new() };
    let lines: Vec<Line<'_>> =
        state.log.iter().skip(first).map(|line| Line::styled(line.text.as_str(), style(line.warning))).collect();
    frame.render_widget(block, area);
    frame.render_widget(Paragraph::new(lines), inside);
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::journal::testing::{step_record, validation_record};
    use crate::journal::{RankRecord, Stage, StepRecord, ValidationRecord};
    use crate::training::Event;

    /// State of a run after `num_steps` of 1000 steps of 100 ms.
    fn state(num_steps: u64, start: Instant) -> (State, Instant) {
        let mut state = State::new(start);
        let device = "CPU".to_owned();
        let run_dir = Path::new("runs/first");
        let started = Event::Started { num_params: 22_100_000, device, step: 0, end_step: 1000, best: None, run_dir };
        state.event(&started, None, start);
        let mut now = start;
        for step in 1..=num_steps {
            now += Duration::from_millis(100);
            state.event(&Event::Step(&step_record(step, 1.0 / step as f64)), None, now);
        }
        (state, now)
    }

    fn screen(state: &State, now: Instant, [width, height]: [u16; 2], colour: bool) -> (String, Terminal<TestBackend>) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state, now, colour)).unwrap();
        let cells = terminal.backend().buffer().content();
        let rows =
            cells.chunks(usize::from(width.max(1))).map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect());
        (rows.collect::<Vec<String>>().join("\n"), terminal)
    }

    fn check(text: &str, expected: &[&str]) {
        for part in expected {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn screen_shows_speed_curves_and_log() {
        let (mut state, now) = state(400, Instant::now());
        state.event(&Event::Warning("x".into()), Some("warning: the disk is nearly full".into()), now);
        let (text, _) = screen(&state, now, [100, 30], true);
        check(&text, &["runs/first  22.1M parameters on CPU", "step 400 of 1000, 1 min 00 s left", "crops/s    40.0"]);
        check(
            &text,
            &["data wait  2.5%", "lr      1.00e-4", "|g|    0.500", "loss", "learning rate", "the disk is nearly full"],
        );
        check(&text, &["q or Ctrl-C"]);
        assert!(text.chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count() > 40, "no curves in\n{text}");
        assert!(!text.contains("Dice"));
    }

    #[test]
    fn ranks_are_shown_if_there_are_several() {
        let (mut state, now) = state(3, Instant::now());
        assert!(!screen(&state, now, [120, 30], true).0.contains("slowest"));
        let rank = |(rank, behind_ms)| RankRecord { rank, wait_ms: 1.5, behind_ms, stage: Stage::Augment };
        let ranks = [0.0, 12.0].into_iter().enumerate().map(rank).collect();
        state.event(&Event::Step(&StepRecord { ranks, ..step_record(4, 0.5) }), None, now);
        let (text, _) = screen(&state, now, [120, 30], true);
        check(&text, &["ranks      2", "slowest rank 1 +12.0 ms (augment)", "data wait by rank 1.5 1.5 ms"]);
    }

    #[test]
    fn validations_are_shown() {
        let (mut state, now) = state(10, Instant::now());
        state.event(&Event::Validation(&validation_record(5, 0.8125)), Some("validation".into()), now);
        state.event(&Event::Validation(&validation_record(10, 0.75)), Some("validation".into()), now);
        let (text, _) = screen(&state, now, [120, 30], true);
        check(&text, &["Dice       0.7500", "best    0.8125", "without background 0.7000 at step 10"]);
    }

    #[test]
    fn validation_without_foreground_is_shown_and_not_the_best() {
        let (mut state, now) = state(10, Instant::now());
        for (step, mean_dice) in [(5, 0.97), (10, f64::NAN)] {
            let record = ValidationRecord { mean_fg_dice: f64::NAN, ..validation_record(step, mean_dice) };
            state.event(&Event::Validation(&record), Some("validation".into()), now);
            let (text, _) = screen(&state, now, [120, 30], true);
            check(&text, &["best    -", &format!("without background - at step {step}")]);
        }
    }

    #[test]
    fn waiting_is_shown_before_the_first_step() {
        let (state, now) = state(0, Instant::now());
        let (text, _) = screen(&state, now + Duration::from_secs(75), [80, 24], true);
        check(&text, &["waiting for the first step, 1 min 15 s", "step 0 of 1000"]);
    }

    #[test]
    fn every_terminal_size_is_drawn() {
        for steps in [0, 1, 2, 300] {
            let (mut state, now) = state(steps, Instant::now());
            state.event(&Event::Validation(&validation_record(1, 0.5)), Some("validation".into()), now);
            for width in [0, 1, 2, 7, 20, 39, 80, 300] {
                for height in [0, 1, 2, 3, 5, 8, 9, 10, 15, 16, 17, 24, 100] {
                    screen(&state, now, [width, height], true);
                }
            }
        }
        let (state, now) = state(300, Instant::now());
        let (text, _) = screen(&state, now, [50, 6], true);
        check(&text, &["step 300 of 1000", "loss", "crops/s"]);
    }

    #[test]
    fn progress_of_a_validation_is_shown() {
        let (mut state, now) = state(300, Instant::now());
        state.event(&Event::Validating { done: 3, total: 7 }, None, now);
        let (text, _) = screen(&state, now, [100, 30], true);
        check(&text, &["validating: 3 of 7 cases"]);
        state.event(&Event::Validating { done: 7, total: 7 }, None, now);
        let (text, _) = screen(&state, now, [100, 30], true);
        check(&text, &["q or Ctrl-C"]);
    }

    #[test]
    fn no_cell_is_coloured_without_colour() {
        let (mut state, now) = state(300, Instant::now());
        state.stopping = true;
        state.event(&Event::Warning("x".into()), Some("warning: x".into()), now);
        let coloured = |colour| {
            let (_, terminal) = screen(&state, now, [100, 30], colour);
            let cells = terminal.backend().buffer().content();
            cells.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
        };
        assert_eq!(coloured(false), 0);
        assert!(coloured(true) > 100);
    }
}
