//! Full-screen display of a run: curves, speed, time left, and the latest messages.
//!
//! A separate thread draws at most four times per second, independently of training, because a step of a large model
//! takes seconds, and a terminal may be slow. Training only records its events.

mod state;
pub mod terminal;
mod view;

use std::io::{self, Stdout, stdin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TermionBackend;

use self::state::State;
use super::console::Console;
use super::history::History;
use crate::training::{Event, Stop};

/// Minimum time between drawings.
const INTERVAL: Duration = Duration::from_millis(250);

/// A running dashboard. Dropping it restores the terminal and leaves the last lines on the screen.
#[derive(Debug)]
pub struct Dashboard {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    lines: Console<Stdout>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    over: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // After a panic elsewhere the figures are still complete enough to show.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Dashboard {
    /// Takes over the terminal until dropped. The key `q` requests `stop`. If the terminal is lost, a line is written
    /// every `log_every` optimizer steps.
    ///
    /// # Errors
    /// If the terminal cannot be set up or the system refuses a thread.
    pub fn start(stop: Stop, log_every: u64) -> io::Result<Self> {
        terminal::enter()?;
        let shared = Arc::new(Shared { state: Mutex::new(State::new(Instant::now())), over: AtomicBool::new(false) });
        let drawing = Arc::clone(&shared);
        let spawned = thread::Builder::new().name("dashboard".into()).spawn(move || draw_until_over(&drawing, &stop));
        let thread = spawned.inspect_err(|_| terminal::restore())?;
        Ok(Self { shared, thread: Some(thread), lines: Console::new(io::stdout(), log_every) })
    }

    /// Sets the curves of earlier sessions.
    pub fn set_history(&mut self, history: &History) {
        self.shared.state().history = history.clone();
    }

    /// Records an event. After the terminal was restored, the event is written as a line.
    pub fn event(&mut self, event: &Event<'_>) {
        if matches!(event, Event::Stopped(_)) {
            self.end();
        }
        if self.thread.is_some() && terminal::is_shown() {
            let line = self.lines.line(event);
            self.shared.state().event(event, line, Instant::now());
        } else {
            self.lines.event(event);
        }
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.over.store(true, Ordering::Relaxed);
        thread.thread().unpark();
        // A panic of the thread has shown its message already.
        let _ = thread.join();
        terminal::restore();
        let mut state = self.shared.state();
        state.take_log(terminal::take_log());
        for line in state.last_lines() {
            self.lines.write(line);
        }
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.end();
    }
}

fn draw_until_over(shared: &Shared, stop: &Stop) {
    let Ok(mut terminal) = Terminal::new(TermionBackend::new(terminal::Screen::default())) else {
        return terminal::restore();
    };
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut keys = terminal::reads_keys().then(stdin);
    while !shared.over.load(Ordering::Relaxed) && terminal::is_shown() {
        let start = Instant::now();
        // A copy, so that a slow terminal delays this thread only.
        let mut view = {
            let mut state = shared.state();
            state.take_log(terminal::take_log());
            state.clone()
        };
        view.stopping = stop.is_requested();
        if terminal.draw(|frame| view::draw(frame, &view, start, colour)).is_err() {
            // The terminal is gone; events are written as lines from now on.
            return terminal::restore();
        }
        let pressed = keys.as_mut().and_then(terminal::read_key);
        if matches!(pressed, Some(b'q' | b'Q')) {
            stop.request();
            hiend_cache::abandon_requests();
        } else if pressed.is_none() {
            thread::park_timeout(INTERVAL.saturating_sub(start.elapsed()));
        }
    }
}
