//! Log of the programs: warnings of all crates and information from the crates of this workspace, one line each, in the
//! form of the program's other lines on standard error.

use std::{fmt, io};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::escape::escape_name;

/// Environment variable with the log filter, in the syntax of [`EnvFilter`]: `debug`, `hiend_loader=trace`, `off`.
pub const VARIABLE: &str = "HIEND_LOG";

/// Default filter.
const DEFAULT_FILTER: &str = "warn,hiend_cache=info,hiend_loader=info,hiend_trainer=info";

/// Error of starting the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The variable does not hold a valid filter.
    #[error("{VARIABLE}={text}: {reason}; expected a level such as debug, or hiend_loader=debug,warn")]
    BadFilter {
        /// Value of the variable.
        text: String,
        /// Reason given by the parser.
        reason: String,
    },
}

/// Starts the log of the whole process, with lines going to `writer`.
///
/// # Errors
/// If the variable does not hold a filter.
pub(super) fn start<W>(writer: W) -> Result<(), LogError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let text = std::env::var_os(VARIABLE).map(|text| text.to_string_lossy().into_owned());
    let filter = filter(text.as_deref().unwrap_or_default())?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(OneLine(writer))
        .with_ansi(false)
        // Reporting a lost log line on standard error would panic where standard error is what failed.
        .log_internal_errors(false)
        .event_format(Line)
        .init();
    Ok(())
}

/// Format of an event: a word for its level, the message, then the fields.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writer.write_str(word(*event.metadata().level()))?;
        ctx.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// First word of a line, as in the lines that the program writes itself.
fn word(level: Level) -> &'static str {
    match level {
        // `error:` begins the one line that says why a program ended.
        Level::ERROR | Level::WARN => "warning: ",
        Level::INFO => "",
        Level::DEBUG => "debug: ",
        Level::TRACE => "trace: ",
    }
}

/// Maker of writers that write each log event as one line, with all other control characters escaped, because names in
/// the events are untrusted.
struct OneLine<M>(M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for OneLine<M> {
    type Writer = OneLineWriter<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLineWriter(self.0.make_writer())
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Self::Writer {
        OneLineWriter(self.0.make_writer_for(meta))
    }
}

/// Writer of whole events.
struct OneLineWriter<W>(W);

impl<W: io::Write> io::Write for OneLineWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (line, end) = match text.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (&*text, ""),
        };
        self.0.write_all(format!("{}{end}", escape_name(line)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn filter(text: &str) -> Result<EnvFilter, LogError> {
    let text = if text.trim().is_empty() { DEFAULT_FILTER } else { text };
    let bad = |reason| LogError::BadFilter { text: text.to_owned(), reason };
    if let Some(word) = text.split(',').map(str::trim).find(|word| is_misspelt(word)) {
        return Err(bad(format!(
            "{word} is neither a level (off, error, warn, info, debug, trace) nor a module of hiend"
        )));
    }
    EnvFilter::builder().parse(text).map_err(|err| bad(err.to_string()))
}

/// Crates of this project whose events are logged.
const CRATES: [&str; 4] = ["hiend_cache", "hiend_loader", "hiend_trainer", "hiend_cpu"];

/// Returns `true` for a part of a filter that would match nothing: a single word is a module's name unless it is a level.
fn is_misspelt(part: &str) -> bool {
    let is_word = !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let name = part.split(['=', '[', ':']).next().unwrap_or_default();
    let is_ours = CRATES.contains(&name);
    (is_word && part.parse::<LevelFilter>().is_err() && !is_ours) || (name.starts_with("hiend") && !is_ours)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let mut written = Vec::new();
        let mut writer = OneLineWriter(&mut written);
        writer.write_all("case \"a\nb\u{1b}[2J\": Größe\n".as_bytes()).unwrap();
        writer.write_all(b"next\n").unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), "case \"a\\nb\\u{1b}[2J\": Größe\nnext\n");
    }

    /// Standard error of a test.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_the_log_begin_like_those_of_the_program() {
        let shared = Shared::default();
        let writer = shared.clone();
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter("debug").unwrap())
            .with_writer(OneLine(move || writer.clone()))
            .with_ansi(false)
            .event_format(Line)
            .finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!("run: the best checkpoint is gone");
            tracing::error!(case = "a", "skipped");
            tracing::info!("stream opened");
            tracing::debug!("cut");
        });
        let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        let expected =
            ["warning: run: the best checkpoint is gone", "warning: skipped case=\"a\"", "stream opened", "debug: cut"];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn filters_are_parsed_or_refused() {
        for text in ["", "debug", "off", "INFO", "hiend_loader=trace,warn", "hiend_cache::object", "tonic=debug,h2=off"]
        {
            assert!(filter(text).is_ok(), "{text}");
        }
        for (text, word) in
            [("verbose", "verbose"), ("warning", "warning"), ("info,hiend_loder=debug", "hiend_loder=debug")]
        {
            let message = filter(text).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("HIEND_LOG={text}: {word} is neither a level (off, error,")),
                "{message}"
            );
        }
        let message = filter("hiend_loader=loud").unwrap_err().to_string();
        assert!(message.starts_with("HIEND_LOG=hiend_loader=loud: "), "{message}");
    }
}
