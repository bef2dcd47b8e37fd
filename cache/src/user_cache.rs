//! The user's folder for files that can be made or downloaded again.

use std::ffi::OsString;
use std::path::PathBuf;

/// Folder `hiend/NAME` in `XDG_CACHE_HOME` or `~/.cache`; `None` if no variable names one of these.
#[must_use]
pub fn folder(name: &str) -> Option<PathBuf> {
    folder_in(|variable| std::env::var_os(variable), name)
}

fn folder_in(variable: impl Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("hiend").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_that_of_the_system_s_convention() {
        let check = |cache: Option<&str>, home: Option<&str>, expected: Option<&str>| {
            let variable = |name: &str| match name {
                "XDG_CACHE_HOME" => cache.map(OsString::from),
                _ => home.map(OsString::from),
            };
            assert_eq!(folder_in(variable, "kernels"), expected.map(PathBuf::from));
        };
        check(Some("/c"), Some("/h"), Some("/c/hiend/kernels"));
        check(Some(""), Some("/h"), Some("/h/.cache/hiend/kernels"));
        check(None, Some("/h"), Some("/h/.cache/hiend/kernels"));
        check(None, None, None);
    }
}
