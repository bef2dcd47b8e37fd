//! Environment variables whose values are text.

use std::ffi::OsString;

/// A variable whose value is not UTF-8. The value may be a secret, and is not shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {name} holds bytes that are not UTF-8; set it to text or unset it")]
pub struct NotText {
    /// Name of the variable.
    pub name: String,
}

/// Value of an environment variable; `None` if it is unset or empty.
///
/// # Errors
/// If the value is not UTF-8.
pub fn text(name: &str) -> Result<Option<String>, NotText> {
    text_of(name, std::env::var_os(name))
}

fn text_of(name: &str, value: Option<OsString>) -> Result<Option<String>, NotText> {
    let text = value.map(OsString::into_string).transpose();
    let text = text.map_err(|_bytes| NotText { name: name.to_owned() })?;
    Ok(text.filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt as _;

    #[test]
    fn a_value_that_is_not_text_does_not_count_as_unset() {
        let of = |value: Option<&[u8]>| text_of("NAME", value.map(|bytes| OsString::from_vec(bytes.to_vec())));
        assert_eq!(of(None), Ok(None));
        assert_eq!(of(Some(b"")), Ok(None));
        assert_eq!(of(Some("Köln".as_bytes())), Ok(Some("Köln".to_owned())));
        let error = of(Some(b"secret\xff")).unwrap_err().to_string();
        let expected = "the environment variable NAME holds bytes that are not UTF-8; set it to text or unset it";
        assert_eq!(error, expected);
    }
}
