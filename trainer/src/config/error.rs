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

impl ConfigError {
    /// Returns the error with the `--set` that concerns its key as its origin, in place of all `settings`; unchanged if none
    /// does.
    pub(crate) fn of_one_setting(mut self, settings: &[(String, String)]) -> Self {
        let key = match &self {
            Self::UnknownKey { key, .. } | Self::Invalid { key, .. } => key.as_str(),
            Self::Parse { message, .. } => {
                let key = message.strip_suffix('`').and_then(|message| message.rsplit_once("in `"));
                key.map_or("", |(_, key)| key)
            }
        };
        let is_within = |key: &str, section: &str| {
            key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let concerned = settings.iter().filter(|(set, _)| is_within(set, key) || is_within(key, set));
        let texts: Vec<String> = concerned.map(|(set, value)| format!("--set {set}={value}")).collect();
        if !texts.is_empty() {
            let (Self::Parse { origin, .. } | Self::UnknownKey { origin, .. } | Self::Invalid { origin, .. }) =
                &mut self;
            *origin = texts.join(" ");
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_setting_of_its_key() {
        let settings = [("schedule.total", "20"), ("validation.overlap", "1"), ("optim", "{}")];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let origin = || "--set all".to_owned();
        let invalid = |key: &str| {
            let error = ConfigError::Invalid { origin: origin(), key: key.to_owned(), reason: "r".to_owned() };
            error.of_one_setting(&settings).to_string()
        };
        assert_eq!(invalid("validation.overlap"), "--set validation.overlap=1: validation.overlap: r");
        assert_eq!(invalid("optim.lr"), "--set optim={}: optim.lr: r");
        // A value of the file that does not fit a setting.
        assert_eq!(invalid("schedule.warmup"), "--set all: schedule.warmup: r");
        let parse = |message: &str| {
            let error = ConfigError::Parse { origin: origin(), message: message.to_owned() };
            error.of_one_setting(&settings).to_string()
        };
        assert_eq!(
            parse("invalid type in `schedule.total`"),
            "--set schedule.total=20: invalid type in `schedule.total`"
        );
        assert_eq!(parse("invalid"), "--set all: invalid");
    }
}
