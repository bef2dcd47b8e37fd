//! Paths in messages, with escapes in place of characters that could control a terminal.

use std::fmt::Write as _;
use std::path::Path;

/// Formats a path for messages: control characters and bytes that are not UTF-8 are escaped, so that a name can neither
/// control a terminal nor imitate another name.
#[must_use]
pub fn shown(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_without_control_characters() {
        assert_eq!(shown(Path::new("data/größe 1.nii")), "data/größe 1.nii");
        assert_eq!(shown(Path::new("a\x1b[2J\nb")), "a\\u{1b}[2J\\nb");
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt as _;
            let latin_1 = std::ffi::OsStr::from_bytes(b"caf\xe9.nii");
            assert_eq!(shown(Path::new(latin_1)), "caf\\xe9.nii");
        }
    }
}
