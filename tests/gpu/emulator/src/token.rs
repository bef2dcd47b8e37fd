//! Tokens of PTX text.

/// A token; words include the dots of opcodes and directives, and the `%` of registers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// `add.f32`, `.reg`, `%r1`, `$L__BB0_1`, `name`.
    Word(String),
    /// An integer, or the bits of `0f…` and `0d…`.
    Number(u64),
    /// One of `{}[]()<>,;:+-@!|=`.
    Mark(char),
    /// Text in quotes, without them.
    Text(String),
}

impl Token {
    pub(crate) fn is(&self, mark: char) -> bool {
        *self == Self::Mark(mark)
    }
}

/// Splits PTX text, without its comments.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let c = bytes[at] as char;
        let rest = &text[at..];
        if c.is_ascii_whitespace() {
            at += 1;
        } else if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += rest.find("*/").ok_or("a comment without an end")? + 2;
        } else if c == '"' {
            let end = rest[1..].find('"').ok_or("a text without an end")?;
            found.push(Token::Text(rest[1..=end].to_owned()));
            at += end + 2;
        } else if c.is_ascii_digit() {
            let len = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            found.push(Token::Number(number(&rest[..len]).ok_or_else(|| format!("not a number: {}", &rest[..len]))?));
            at += len;
        } else if is_of_word(c) {
            // `::` belongs to qualifiers such as `.L1::no_allocate`.
            let mut len = 0;
            loop {
                len += rest[len..].find(|c| !is_of_word(c)).unwrap_or(rest.len() - len);
                if !rest[len..].starts_with("::") {
                    break;
                }
                len += 2;
            }
            found.push(Token::Word(rest[..len].to_owned()));
            at += len;
        } else if "{}[]()<>,;:+-@!|=".contains(c) {
            found.push(Token::Mark(c));
            at += 1;
        } else {
            return Err(format!("unexpected character {c:?}"));
        }
    }
    Ok(found)
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.$%".contains(c)
}

fn number(text: &str) -> Option<u64> {
    let text = text.strip_suffix('U').unwrap_or(text);
    match text.get(..2) {
        Some("0f" | "0F" | "0d" | "0D" | "0x" | "0X") => u64::from_str_radix(&text[2..], 16).ok(),
        Some("0b" | "0B") => u64::from_str_radix(&text[2..], 2).ok(),
        Some(start) if start.starts_with('0') => u64::from_str_radix(text, 8).ok(),
        _ => text.parse().ok(),
    }
}
