//! Names of label values, as 3D Slicer writes them in pairs of the header: `Segment0_Name:=liver`, `Segment0_LabelValue:=1`.

use std::collections::BTreeMap;

/// Largest number of characters of a name.
const LONGEST_NAME: usize = 64;

/// Segments of a header by their numbers, which are not their label values.
#[derive(Debug, Default)]
pub(super) struct Segments {
    names: BTreeMap<u32, String>,
    values: BTreeMap<u32, u8>,
}

impl Segments {
    /// Adds a pair of the header, if it names a segment or its label value.
    pub(super) fn add(&mut self, key: &str, value: &str) {
        let field = key.trim().strip_prefix("Segment").and_then(|rest| rest.split_once('_'));
        let Some((Ok(number), field)) = field.map(|(number, field)| (number.parse::<u32>(), field)) else { return };
        let value = value.trim();
        if field == "Name" && !is_default(value) {
            self.names.insert(number, value.chars().take(LONGEST_NAME).collect());
        } else if field == "LabelValue"
            && let Ok(value) = value.parse()
        {
            self.values.insert(number, value);
        }
    }

    /// Names by label value.
    pub(super) fn by_value(&self) -> BTreeMap<u8, String> {
        let named = self.values.iter().filter_map(|(number, value)| Some((*value, self.names.get(number)?.clone())));
        named.collect()
    }
}

/// Returns true for a name that Slicer gives, such as `Segment_1`, `Segment_1_1` and `Label_1`, and for an empty one.
fn is_default(name: &str) -> bool {
    let number = name.strip_prefix("Segment").or_else(|| name.strip_prefix("Label")).unwrap_or(name);
    number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_' || byte == b' ')
}
