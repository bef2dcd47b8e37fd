//! Receiver of events for the command line: dashboard or lines, event files for TensorBoard, picture of the curves. If
//! one of them fails, the run continues with a warning.

use std::io::{self, Stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use hiend_cache::lookup;

use super::console::Console;
use super::curves::{self, CurvesError};
use super::dashboard::{Dashboard, terminal};
use super::history::History;
use super::tensorboard::EventFile;
use super::ticker::Ticker;
use crate::training::{Event, JOURNAL, Stop};

/// Interval between lines while kernels are tuned.
const TICK: Duration = Duration::from_secs(20);

/// Display of a run's progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Display {
    /// A dashboard on a terminal, lines elsewhere
    #[default]
    Auto,
    /// Curves, speed and time left on the full screen
    Dashboard,
    /// A line every few optimizer steps
    Lines,
}

/// Dispatches the events of a run to display, TensorBoard and plots.
#[derive(Debug)]
pub struct Watcher {
    screen: Screen,
    /// Stop request for the dashboard that replaces the lines once the run has started, if a dashboard is wanted.
    wanted: Option<Stop>,
    log_every: u64,
    class_names: Vec<String>,
    run_dir: PathBuf,
    history: History,
    events: Option<EventFile>,
    step: u64,
    /// Prints lines while kernels are tuned, until the first step is done.
    tuning: Option<Ticker>,
    /// True if the picture of the curves is out of date.
    undrawn: bool,
}

#[derive(Debug)]
enum Screen {
    Lines(Console<Stdout>),
    Dashboard(Dashboard),
}

impl Screen {
    fn event(&mut self, event: &Event<'_>) {
        match self {
            Self::Lines(console) => console.event(event),
            Self::Dashboard(dashboard) => dashboard.event(event),
        }
    }
}

impl Watcher {
    /// Prepares the display of a run; lines are written every `log_every` optimizer steps. A key of the dashboard requests
    /// `stop`.
    ///
    /// # Errors
    /// If a dashboard was requested and there is no terminal for it.
    pub fn open(display: Display, log_every: u64, stop: &Stop) -> io::Result<Self> {
        let ours = terminal::is_ours();
        if display == Display::Dashboard && !ours {
            let expected = "--display dashboard needs a terminal in the foreground; use lines or auto";
            return Err(io::Error::other(expected));
        }
        let wanted = (display != Display::Lines && ours).then(|| stop.clone());
        Ok(Self {
            screen: Screen::Lines(Console::new(io::stdout(), log_every)),
            wanted,
            log_every,
            class_names: vec![],
            run_dir: PathBuf::new(),
            history: History::default(),
            events: None,
            step: 0,
            tuning: None,
            undrawn: false,
        })
    }

    /// Sets the class names of validations, background first.
    #[must_use]
    pub fn with_class_names(mut self, class_names: Vec<String>) -> Self {
        self.class_names = class_names;
        self
    }

    /// Handles an event.
    pub fn event(&mut self, event: &Event<'_>) {
        if matches!(event, Event::Stopped(_)) {
            self.draw_curves();
            let curves = self.run_dir.join(CURVES);
            match lookup::is_file(&curves) {
                Ok(true) => self.screen.event(&Event::Picture(&curves)),
                Ok(false) => {}
                Err(error) => self.warn(format!("{error}: {}", error.source)),
            }
        }
        if let (Event::Started { .. }, Some(stop)) = (event, self.wanted.take()) {
            match Dashboard::start(stop, self.log_every) {
                Ok(dashboard) => self.screen = Screen::Dashboard(dashboard),
                Err(error) => self.warn(format!("no dashboard: {error}")),
            }
        }
        self.screen.event(event);
        match event {
            Event::Started { step, run_dir, .. } => self.begin(*step, run_dir),
            Event::Tuning => self.tuning = self.ticker(),
            Event::Step(record) => {
                self.tuning = None;
                self.step = record.step;
                self.undrawn = true;
                self.history.step(record);
                self.write_events(|events| events.step(record));
            }
            Event::Validation(record) => {
                self.undrawn = true;
                self.history.validation(record);
                self.write_events(|events| events.validation(record));
            }
            Event::Checkpoint(_) => self.draw_curves(),
            Event::Picture(path) => {
                let step = self.step;
                if let Some(Err(error)) = self.events.as_mut().map(|events| events.picture(step, path)) {
                    self.warn(format!("no picture in the event file: {error}"));
                }
            }
            Event::Validating { .. } | Event::Note(_) | Event::Warning(_) | Event::Stopped(_) => {}
        }
    }

    fn begin(&mut self, step: u64, run_dir: &Path) {
        run_dir.clone_into(&mut self.run_dir);
        self.step = step;
        match History::read_until(&run_dir.join(JOURNAL), step) {
            Ok(history) => {
                if let Screen::Dashboard(dashboard) = &mut self.screen {
                    dashboard.set_history(&history);
                }
                self.history = history;
            }
            Err(error) => self.warn(format!("the curves start at this session: {:#}", anyhow::Error::from(error))),
        }
        let folder = run_dir.join("tensorboard");
        match EventFile::create(&folder, step, &self.class_names) {
            Ok(events) => self.events = Some(events),
            Err(error) => self.warn(format!("no events for TensorBoard: {}: {error}", folder.display())),
        }
    }

    /// Starts printing that tuning is in progress; the dashboard shows elapsed time itself.
    fn ticker(&mut self) -> Option<Ticker> {
        if matches!(self.screen, Screen::Dashboard(_)) {
            return None;
        }
        let tick = |since: Duration| {
            hiend_loader::program::note(format_args!("still compiling kernels after {} s", since.as_secs()));
        };
        Ticker::start(TICK, tick)
            .map_err(|error| self.warn(format!("no progress lines while kernels are tuned: {error}")))
            .ok()
    }

    /// Writes to the event file; after the first failure it is no longer written.
    fn write_events(&mut self, write: impl FnOnce(&mut EventFile) -> io::Result<()>) {
        if let Some(Err(error)) = self.events.as_mut().map(write) {
            self.events = None;
            let folder = self.run_dir.join("tensorboard");
            self.warn(format!("events for TensorBoard end at step {}: {}: {error}", self.step, folder.display()));
        }
    }

    fn draw_curves(&mut self) {
        if !self.undrawn {
            return;
        }
        self.undrawn = false;
        if let Err(error) = draw_curves(&self.history, &self.run_dir, &self.run_dir.join(CURVES)) {
            self.warn(format!("no picture of the curves: {:#}", anyhow::Error::from(error)));
        }
    }

    fn warn(&mut self, message: String) {
        self.screen.event(&Event::Warning(message));
    }
}

impl Drop for Watcher {
    /// Draws the curves, even if the run failed.
    fn drop(&mut self) {
        self.draw_curves();
    }
}

/// File name of the curves in a run's folder.
pub const CURVES: &str = "curves.png";

/// Draws the curves of the run in `run_dir` into the PNG file `out`.
///
/// # Errors
/// If there is no step to draw, or the picture cannot be plotted or written.
pub fn draw_curves(history: &History, run_dir: &Path, out: &Path) -> Result<(), CurvesError> {
    let image = curves::render(history, &run_dir.display().to_string())?;
    image.write_png(out).map_err(|source| CurvesError::Write { path: out.to_owned(), source })
}
