//! Paths and names in messages, with escapes in place of characters that could control a terminal.

use std::borrow::Cow;
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

/// Formats a name that a file holds for messages: control characters are escaped, so that the message stays one line. Marks that
/// reverse the direction of text are escaped too.
#[must_use]
pub fn escape_name(name: &str) -> Cow<'_, str> {
    escape_if(name, is_unsafe)
}

/// Returns true for control characters, and for embeddings, overrides and isolates of bidirectional text.
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text with some of its characters written as escapes (`\u{1b}`).
pub(crate) fn escape_if(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_escaped(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_name_is_one_line() {
        assert_eq!(escape_name("case\n1\t2"), "case\\n1\\t2");
        assert!(matches!(escape_name("case_1"), Cow::Borrowed("case_1")));
    }

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
