//! Messages of the TOML parser on one line, with the place of the fault and without the names of Rust's types.

/// Message of `error` on one line, with the line of `text` at fault, or with the key if there is no text.
pub(super) fn one_line(error: &toml::de::Error, text: Option<&str>) -> String {
    let message = in_words(&error.message().trim().replace(['\n', '\r'], " "));
    let place = match text.zip(error.span()) {
        // A key that is missing at the top has no line.
        Some((_, span)) if span.start == 0 && message.starts_with("missing field") => None,
        Some((text, span)) => Some(line_at(text, span.start)),
        None => error.to_string().trim().rsplit_once("\nin ").map(|(_, key)| key.to_owned()),
    };
    place.map_or_else(|| message.clone(), |place| format!("{message}, in {place}"))
}

/// Number and content of the line at a byte of `text`.
fn line_at(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let number = before.matches('\n').count();
    match text.lines().nth(number).map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => format!("line {}: `{line}`", number + 1),
        None => format!("line {}", number + 1),
    }
}

/// Replaces the Rust type after the last `expected` by a description of its values.
fn in_words(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once(", expected ") else { return message.to_owned() };
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        _ if expected.starts_with("struct ") => "a table",
        other => other,
    };
    format!("{found}, expected {expected}")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only parsed")]
    struct Config {
        optim: Optim,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only parsed")]
    struct Optim {
        lr: f64,
        steps: usize,
    }

    #[test]
    fn faults_of_a_text_name_the_line() {
        let message = |text: &str| one_line(&toml::from_str::<Config>(text).unwrap_err(), Some(text));
        for (text, expected) in [
            ("[optim]\nlr = 1\nlr = 2\n", "duplicate key, in line 3: `lr = 2`"),
            (
                "[optim]\nlr = \"x\"\nsteps = 1\n",
                "invalid type: string \"x\", expected a number, in line 2: `lr = \"x\"`",
            ),
            ("optim = 1\n", "invalid type: integer `1`, expected a table, in line 1: `optim = 1`"),
            ("", "missing field `optim`"),
        ] {
            assert_eq!(message(text), expected);
        }
        let message = message("[optim]\nlr = 1.0\nsteps = -1\n");
        assert!(message.ends_with("`-1`, expected a whole number from 0 on, in line 3: `steps = -1`"), "{message}");
    }

    #[test]
    fn faults_of_a_table_name_the_key() {
        let table: toml::Table = "[optim]\nlr = \"x\"\nsteps = 1\n".parse().unwrap();
        let error = table.try_into::<Config>().unwrap_err();
        assert_eq!(one_line(&error, None), "invalid type: string \"x\", expected a number, in `optim.lr`");
    }
}
