//! Everything that listens to a run from the command line: a dashboard or lines, event files, the picture of the
//! curves. A run does not fail for want of any of them, but says what is missing.

use std::io::{self, Stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

use super::console::Console;
use super::curves;
use super::dashboard::{Dashboard, terminal};
use super::history::History;
use super::tensorboard::EventFile;
use super::ticker::Ticker;
use crate::training::{Event, Stop};

/// Time between lines while kernels are tuned.
const TICK: Duration = Duration::from_secs(20);

/// How a run is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Display {
    /// A dashboard on a terminal, lines elsewhere
    #[default]
    Auto,
    /// Curves, speed and time left on the full screen
    Dashboard,
    /// A line every so many updates
    Lines,
}

/// See the module.
#[derive(Debug)]
pub struct Watcher {
    screen: Screen,
    /// Set if a dashboard takes the screen's place once the run has started.
    wanted: Option<Stop>,
    log_every: u64,
    class_names: Vec<String>,
    run_dir: PathBuf,
    history: History,
    events: Option<EventFile>,
    step: u64,
    /// Until the first update is done.
    tuning: Option<Ticker>,
    /// Whether there is something that the picture of the curves does not show.
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
    /// Will show a run from its start on, with a line every `log_every` updates where lines are shown. A key of the
    /// dashboard asks `stop`.
    ///
    /// # Errors
    /// If a dashboard was asked for and there is no terminal for it.
    pub fn open(display: Display, log_every: u64, stop: &Stop) -> io::Result<Self> {
        let ours = terminal::is_ours();
        if display == Display::Dashboard && !ours {
            let expected = "--display dashboard needs a terminal in the foreground; lines or auto do without";
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

    /// Calls the classes of validations by their names, background first.
    #[must_use]
    pub fn with_class_names(mut self, class_names: Vec<String>) -> Self {
        self.class_names = class_names;
        self
    }

    /// Takes what happened.
    pub fn event(&mut self, event: &Event<'_>) {
        if matches!(event, Event::Stopped(_)) {
            self.draw_curves();
            let curves = self.run_dir.join(CURVES);
            if curves.is_file() {
                self.screen.event(&Event::Picture(&curves));
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
                self.tell(|events| events.step(record));
            }
            Event::Validation(record) => {
                self.undrawn = true;
                self.history.validation(record);
                self.tell(|events| events.validation(record));
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
        match History::read(&run_dir.join("journal.jsonl")) {
            Ok(history) => {
                if let Screen::Dashboard(dashboard) = &mut self.screen {
                    dashboard.set_history(&history);
                }
                self.history = history;
            }
            Err(error) => self.warn(format!("the curves begin here: {:#}", anyhow::Error::from(error))),
        }
        let folder = run_dir.join("tensorboard");
        match EventFile::create(&folder, step, &self.class_names) {
            Ok(events) => self.events = Some(events),
            Err(error) => self.warn(format!("no events for TensorBoard: {}: {error}", folder.display())),
        }
    }

    /// The dashboard shows by itself that time passes.
    fn ticker(&mut self) -> Option<Ticker> {
        if matches!(self.screen, Screen::Dashboard(_)) {
            return None;
        }
        let tick = |since: Duration| eprintln!("still compiling and tuning kernels, {} s so far", since.as_secs());
        Ticker::start(TICK, tick).map_err(|error| self.warn(format!("no lines while kernels are tuned: {error}"))).ok()
    }

    /// Writes to the event file; the first failure is its end.
    fn tell(&mut self, write: impl FnOnce(&mut EventFile) -> io::Result<()>) {
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
        if let Err(message) = draw_curves(&self.history, &self.run_dir, &self.run_dir.join(CURVES)) {
            self.warn(format!("no picture of the curves: {message}"));
        }
    }

    fn warn(&mut self, message: String) {
        self.screen.event(&Event::Warning(message));
    }
}

impl Drop for Watcher {
    /// A run that failed has curves too.
    fn drop(&mut self) {
        self.draw_curves();
    }
}

/// The picture's name in a run's folder.
pub const CURVES: &str = "curves.png";

/// Draws the curves of the run in `run_dir` into `out`.
///
/// # Errors
/// What is wrong, with the file's name.
pub fn draw_curves(history: &History, run_dir: &Path, out: &Path) -> Result<(), String> {
    let title = run_dir.display().to_string();
    let image = curves::render(history, &title).map_err(|message| format!("{title}: {message}"))?;
    image.write_png(out).map_err(|error| format!("{}: {error}", out.display()))
}
