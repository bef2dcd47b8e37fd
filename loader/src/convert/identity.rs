//! Text that identifies the parameters with which a case was converted.
//!
//! The text is part of every record and of a cache's digest, and so of every checkpoint's: its value is frozen. It
//! began as the `Debug` form of the types involved and keeps that form, spelled out here, so that no rename in the code
//! can change it. Parameters added later are appended as canonical JSON, and only where they differ from the default
//! behaviour.

use hiend_cache::{CaseRecord, CodecPreset, Manifest};

use crate::preprocess::PreprocessConfig;
use crate::preprocess::normalize::Normalize;
use crate::preprocess::window::Store;

/// Number of hexadecimal digits of the hash at the beginning of the text.
const HASH_DIGITS: usize = 16;

/// Returns the text for the parameters; equal texts mean equal results.
pub(super) fn parameters(config: &PreprocessConfig, codec: CodecPreset) -> String {
    format!("{}-{}", hash(config), codec_name(codec))
}

/// Returns false if a record states that its case was converted with another spacing, window, range of stored values or
/// normalisation than `config`. Records that no conversion wrote state nothing.
pub(crate) fn may_have(record: &CaseRecord, config: &PreprocessConfig) -> bool {
    let stated = record.parameters.rsplit_once('-').map_or("", |(hash, _)| hash);
    let is_hash = stated.len() == HASH_DIGITS && stated.bytes().all(|byte| byte.is_ascii_hexdigit());
    !is_hash || stated == hash(config)
}

fn hash(config: &PreprocessConfig) -> String {
    blake3::hash(canonical(config).as_bytes()).to_hex()[..HASH_DIGITS].to_owned()
}

fn codec_name(codec: CodecPreset) -> &'static str {
    match codec {
        CodecPreset::Fast => "fast",
        CodecPreset::Dense => "dense",
        CodecPreset::Lz4 => "lz4",
    }
}

/// Differences between the parameters of a cache and new ones, such as `spacing 1.5 mm to 1,1,3 mm`, as far as the
/// manifest and a record with the former parameters reveal them.
pub(super) fn changes(
    manifest: &Manifest,
    record: &CaseRecord,
    config: &PreprocessConfig,
    codec: CodecPreset,
) -> String {
    let mut changes = Vec::new();
    let mut add = |name: &str, former: String, new: String| {
        if former != new {
            changes.push(format!("{name} {former} to {new}"));
        }
    };
    if let Ok(former) = serde_json::from_value::<PreprocessConfig>(manifest.preprocess.clone()) {
        add("spacing", spacing_name(&former), spacing_name(config));
        add("normalisation", former.normalize.name().to_owned(), config.normalize.name().to_owned());
        let window = |config: &PreprocessConfig| {
            format!("{},{} {}", config.window[0], config.window[1], config.normalize.unit())
        };
        add("window", window(&former), window(config));
        let store = |config: &PreprocessConfig| config.store.name().to_owned();
        add("stored values", store(&former), store(config));
    }
    let former_codec = record.parameters.rsplit_once('-').map_or("", |(_, codec)| codec);
    add("codec", former_codec.to_owned(), codec_name(codec).to_owned());
    if changes.is_empty() { "of another run or version".to_owned() } else { changes.join(", ") }
}

fn spacing_name(config: &PreprocessConfig) -> String {
    match config.spacing {
        None => "native".to_owned(),
        Some([x, y, z]) if [y, z].iter().all(|side| side.to_bits() == x.to_bits()) => format!("{x} mm"),
        Some([x, y, z]) => format!("{x},{y},{z} mm"),
    }
}

fn canonical(config: &PreprocessConfig) -> String {
    let spacing = match config.spacing {
        Some([x, y, z]) => format!("Some([{x:?}, {y:?}, {z:?}])"),
        None => "None".to_owned(),
    };
    let [low, high] = config.window;
    let store = match config.store {
        Store::Window => "Window",
        Store::Full => "Full",
    };
    let more = match config.normalize {
        Normalize::Hu => "",
        Normalize::Zscore => r#"{"normalize":"zscore"}"#,
    };
    // The version changes when the same parameters begin to give other voxels.
    format!(
        "preprocess v1 PreprocessConfig {{ spacing: {spacing}, window: [{low:?}, {high:?}], store: {store} }}{more}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values come from the program at 912d9d8. A change would make every existing cache be converted again.
    #[test]
    fn the_identity_of_existing_caches_is_frozen() {
        let recipe = PreprocessConfig::default();
        assert_eq!(parameters(&recipe, CodecPreset::Fast), "c6fbd7f03f44fa95-fast");
        assert_eq!(parameters(&recipe, CodecPreset::Dense), "c6fbd7f03f44fa95-dense");
        let other = PreprocessConfig { spacing: None, window: [-1000.0, 1000.0], store: Store::Full, ..recipe.clone() };
        assert_eq!(parameters(&other, CodecPreset::Lz4), "076895273d868e01-lz4");
        let zscore = PreprocessConfig { window: [-20.0, 40.0], normalize: Normalize::Zscore, ..recipe.clone() };
        assert_eq!(parameters(&zscore, CodecPreset::Fast), "a76372a4a9d1d792-fast");
        let fine = PreprocessConfig { spacing: Some([0.75, 1.0, 5.0]), ..recipe };
        assert_eq!(parameters(&fine, CodecPreset::Fast), "ee1c748fe2ab61f8-fast");
    }
}
