//! Number of crops that are on the device at a time: a fixed number, or `"auto"`.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Number of crops on the device at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicroBatch {
    /// Fixed number of crops.
    Crops(usize),
    /// A number that `hiend-train` derives from the free memory when a run begins; it then replaces `"auto"` in the
    /// configuration saved with the run.
    Auto,
}

/// Text of [`MicroBatch::Auto`] in a configuration.
const AUTO: &str = "auto";

impl MicroBatch {
    /// Returns the number; `None` until it has been chosen.
    #[must_use]
    pub fn crops(self) -> Option<usize> {
        match self {
            Self::Crops(crops) => Some(crops),
            Self::Auto => None,
        }
    }
}

impl Serialize for MicroBatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Crops(crops) => crops.serialize(serializer),
            Self::Auto => serializer.serialize_str(AUTO),
        }
    }
}

impl<'de> Deserialize<'de> for MicroBatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrAuto)
    }
}

struct NumberOrAuto;

impl Visitor<'_> for NumberOrAuto {
    type Value = MicroBatch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number of crops or \"{AUTO}\"")
    }

    fn visit_i64<E: Error>(self, crops: i64) -> Result<MicroBatch, E> {
        let invalid = |_| E::invalid_value(Unexpected::Signed(crops), &self);
        usize::try_from(crops).map(MicroBatch::Crops).map_err(invalid)
    }

    fn visit_u64<E: Error>(self, crops: u64) -> Result<MicroBatch, E> {
        let invalid = |_| E::invalid_value(Unexpected::Unsigned(crops), &self);
        usize::try_from(crops).map(MicroBatch::Crops).map_err(invalid)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<MicroBatch, E> {
        if text == AUTO { Ok(MicroBatch::Auto) } else { Err(E::invalid_type(Unexpected::Str(text), &self)) }
    }
}

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Section {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        micro_batch: Option<MicroBatch>,
    }

    #[test]
    fn numbers_and_auto_are_written_as_they_are_read() {
        let check = |text: &str, micro_batch| {
            let section = Section { micro_batch };
            assert_eq!(toml::from_str::<Section>(text).unwrap(), section, "{text}");
            assert_eq!(toml::to_string(&section).unwrap(), text);
            let json = serde_json::to_string(&section).unwrap();
            assert_eq!(serde_json::from_str::<Section>(&json).unwrap(), section, "{json}");
        };
        check("", None);
        check("micro_batch = 6\n", Some(MicroBatch::Crops(6)));
        check("micro_batch = \"auto\"\n", Some(MicroBatch::Auto));
    }

    #[test]
    fn anything_else_is_refused() {
        let refused = |text: &str, expected: &str| {
            let table = text.parse::<Table>().unwrap();
            let section: Result<Section, toml::de::Error> = table.try_into();
            let message = section.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        refused("micro_batch = \"few\"", "string \"few\", expected a number of crops or \"auto\"");
        refused("micro_batch = -1", "integer `-1`, expected a number of crops or \"auto\"");
        refused("micro_batch = 0.5", "expected a number of crops or \"auto\"");
    }
}
