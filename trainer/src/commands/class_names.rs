//! Classes named on the command line, by name or number.

use hiend_loader::program::UsageError;

/// Finds the class that `wanted` names among `names`, whose first name is the background.
///
/// # Errors
/// If there is no such class; the message begins with `flag` and suggests the nearest name.
pub(super) fn class_named(flag: &str, names: &[String], wanted: &str) -> Result<usize, UsageError> {
    if let Some(class) = names.iter().position(|known| known == wanted) {
        return Ok(class);
    }
    if let Some(class) = wanted.parse().ok().filter(|&class: &usize| class < names.len()) {
        return Ok(class);
    }
    let similarity = |known: &str| strsim::jaro_winkler(known, wanted);
    let nearest = names.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    // Numbers alone make `class 1` and `class 2` alike.
    let hint = nearest.filter(|known| similarity(known) > 0.7 && wanted.parse::<usize>().is_err());
    let hint = hint.map(|known| format!("; did you mean `{known}`?")).unwrap_or_default();
    let highest = names.len().saturating_sub(1);
    Err(UsageError::new(format!("{flag}: no class `{wanted}`{hint} (the classes are 0 to {highest})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_found_by_name_and_number() {
        let names = ["background", "liver", "left kidney", "7"].map(str::to_owned);
        let class = |wanted: &str| class_named("--flag", &names, wanted).map_err(|error| error.to_string());
        assert_eq!([class("liver"), class("2"), class("left kidney")], [Ok(1), Ok(2), Ok(2)]);
        assert_eq!(class("7"), Ok(3), "a name goes before a number");
        let error = class("lever").unwrap_err();
        assert_eq!(error, "--flag: no class `lever`; did you mean `liver`? (the classes are 0 to 3)");
        assert_eq!(class("9").unwrap_err(), "--flag: no class `9` (the classes are 0 to 3)");
    }
}
