//! Messages of the workspace's crates, passed on to Python's `logging`.
//!
//! Threads of the loader never wait for the interpreter: they append to a bounded queue, which [`forward`] empties on
//! a Python thread, at every call of this module and ten times per second while it waits.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::names::in_python;

/// Number of messages kept until they are passed on; later ones are counted and dropped.
const CAPACITY: usize = 1024;

/// A message for Python's `logging`.
struct Message {
    /// Level as a number of Python's `logging` module.
    level: u32,
    /// Name of the Python logger.
    logger: String,
    text: String,
}

/// Messages not yet passed on.
struct Queue {
    messages: VecDeque<Message>,
    dropped: usize,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { messages: VecDeque::new(), dropped: 0 });

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts collecting messages, unless the process already has another subscriber.
pub(crate) fn start() {
    tracing::subscriber::set_global_default(Collector).ok();
}

/// Passes collected messages on to Python's `logging`, under loggers named after modules, such as
/// `hiend.loader.pipeline`.
///
/// # Errors
/// If a handler raises an exception.
pub(crate) fn forward(py: Python<'_>) -> PyResult<()> {
    static GET_LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    loop {
        let (message, dropped) = {
            let mut queue = queue();
            let message = queue.messages.pop_front();
            let dropped = if message.is_none() { std::mem::take(&mut queue.dropped) } else { 0 };
            (message, dropped)
        };
        let get_logger = GET_LOGGER.import(py, "logging", "getLogger")?;
        match message {
            Some(Message { level, logger, text }) => {
                get_logger.call1((logger,))?.call_method1("log", (level, "%s", text))?;
            }
            None if dropped > 0 => {
                let text = "%d messages were dropped, because they came faster than they could be logged";
                get_logger.call1(("hiend",))?.call_method1("warning", (text, dropped))?;
            }
            None => return Ok(()),
        }
    }
}

/// Collector of events of this workspace's crates, and of warnings of all other crates.
struct Collector;

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_ours = metadata.target().trim_start_matches('_').starts_with("hiend");
        let limit = if is_ours { Level::DEBUG } else { Level::WARN };
        metadata.is_event() && *metadata.level() <= limit
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            Level::INFO => 20,
            _ => 10,
        };
        let target = metadata.target().trim_start_matches('_').replace("::", ".");
        let logger = match target.strip_prefix("hiend_") {
            Some(module) => format!("hiend.{module}"),
            None => target,
        };
        let mut queue = queue();
        if queue.messages.len() < CAPACITY {
            queue.messages.push_back(Message { level, logger, text: in_python(&text.message) + &text.fields });
        } else {
            queue.dropped += 1;
        }
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// Text of an event: its message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
