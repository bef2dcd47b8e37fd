//! The log: warnings of all crates and information of this workspace's, one line each.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Environment variable with the log filter, in the syntax of [`EnvFilter`]: `debug`, `hiend_loader=trace`, `off`.
pub const VARIABLE: &str = "HIEND_LOG";

/// Filter without the variable.
const DEFAULT_FILTER: &str = "warn,hiend_cache=info,hiend_loader=info,hiend_trainer=info";

/// The log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The variable does not hold a filter.
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
        .with_writer(writer)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        // Reporting a lost log line on standard error would panic where standard error is what failed.
        .log_internal_errors(false)
        .init();
    Ok(())
}

fn filter(text: &str) -> Result<EnvFilter, LogError> {
    let text = if text.trim().is_empty() { DEFAULT_FILTER } else { text };
    EnvFilter::builder()
        .parse(text)
        .map_err(|err| LogError::BadFilter { text: text.to_owned(), reason: err.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_parsed_or_refused() {
        for text in ["", "debug", "off", "hiend_loader=trace,warn"] {
            assert!(filter(text).is_ok(), "{text}");
        }
        let message = filter("hiend_loader=loud").unwrap_err().to_string();
        assert!(message.starts_with("HIEND_LOG=hiend_loader=loud: "), "{message}");
    }
}
