//! Messages of the TOML parser, for users.

/// Brings a message to one line, and names types in words instead of by their names in the code.
pub(super) fn in_words(message: &str) -> String {
    let message = message.trim().replace(['\n', '\r'], " ");
    if let Some((number, _)) = message.split_once(" as i128, expected any valid TOML value") {
        let number = number.trim_start_matches("invalid type: ");
        return format!("{number} is too large; expected a whole number up to 9223372036854775807");
    }
    let Some((found, expected)) = message.rsplit_once("expected ") else { return message };
    let end = expected.find(|letter: char| !letter.is_alphanumeric()).unwrap_or(expected.len());
    let (word, rest) = expected.split_at(end);
    let (expected, rest) = match word {
        "u8" => ("a whole number from 0 to 255", rest),
        "u16" => ("a whole number from 0 to 65535", rest),
        "u32" => ("a whole number from 0 to 4294967295", rest),
        "u64" | "usize" => ("a whole number from 0 on", rest),
        "f32" | "f64" => ("a number", rest),
        "struct" => ("a table of settings", rest.trim_start().trim_start_matches(char::is_alphanumeric)),
        _ => return message,
    };
    format!("{found}expected {expected}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_the_code_are_named_in_words() {
        let check = |message: &str, expected: &str| assert_eq!(in_words(message), expected);
        check(
            "invalid type: string \"a\", expected f64\nin `optim.lr`\n",
            "invalid type: string \"a\", expected a number in `optim.lr`",
        );
        check(
            "invalid value: integer `-1`, expected u64",
            "invalid value: integer `-1`, expected a whole number from 0 on",
        );
        check(
            "invalid value: integer `5000000000`, expected u32",
            "invalid value: integer `5000000000`, expected a whole number from 0 to 4294967295",
        );
        check(
            "invalid type: integer `18446744073709551616` as i128, expected any valid TOML value\n",
            "integer `18446744073709551616` is too large; expected a whole number up to 9223372036854775807",
        );
        check("expected struct ValidationConfig in `x`", "expected a table of settings in `x`");
        check("unknown variant `x`, expected `a` or `b`", "unknown variant `x`, expected `a` or `b`");
        check("duplicate key", "duplicate key");
    }
}
