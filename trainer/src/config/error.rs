//! Errors in configurations.

use hiend_loader::program::escape_name;

/// An error in a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Invalid TOML, a value of the wrong type, or a missing key.
    #[error("{origin}: {message}")]
    Parse {
        /// File or flag with the error.
        origin: String,
        /// Message of the parser, on one line.
        message: String,
    },
    /// An unknown key.
    #[error("{origin}: unknown key `{}`{}", escape_name(key), suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey {
        /// File or flag with the key.
        origin: String,
        /// Key, including its sections.
        key: String,
        /// Nearest known key.
        suggestion: Option<String>,
    },
    /// A value out of range.
    #[error("{origin}: {key}: {reason}")]
    Invalid {
        /// File or flag with the value.
        origin: String,
        /// Key, including its section.
        key: String,
        /// Value found and values expected, for the message.
        reason: String,
    },
}
