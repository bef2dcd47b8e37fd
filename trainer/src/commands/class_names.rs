//! Classes named on the command line, by name or number.

use hiend_loader::nearest::nearest;
use hiend_loader::program::UsageError;

/// Largest number of classes that an error lists.
const MOST_LISTED: usize = 20;

/// Class that `wanted` names among `names`, which have the number of each.
///
/// # Errors
/// If there is no such class; the message begins with `flag`, suggests the nearest name and lists the classes.
pub(super) fn class_named<'a>(
    flag: &str,
    names: impl IntoIterator<Item = (usize, &'a str)>,
    wanted: &str,
) -> Result<usize, UsageError> {
    let names: Vec<(usize, &str)> = names.into_iter().collect();
    let number: Option<usize> = wanted.parse().ok();
    let mut by_name = names.iter().filter(|(_, name)| *name == wanted);
    let first = by_name.next();
    if let (Some((first, _)), Some((second, _))) = (first, by_name.next()) {
        let message = format!("{flag}: the classes {first} and {second} are both named `{wanted}`; give a number");
        return Err(UsageError::new(message));
    }
    if let Some((class, _)) = first.or_else(|| names.iter().find(|(class, _)| Some(*class) == number)) {
        return Ok(*class);
    }
    // Numbers alone make `class 1` and `class 2` alike.
    let nearest = nearest(wanted, names.iter().map(|(_, name)| *name)).filter(|_| number.is_none());
    let hint = nearest.map(|known| format!("; did you mean `{known}`?")).unwrap_or_default();
    Err(UsageError::new(format!("{flag}: no class `{wanted}`{hint} (the classes are {})", listed(&names))))
}

/// Lists numbers and names of classes; if there are many, the first ones and the number of the others. If names only
/// state the numbers, returns the range of the numbers.
fn listed(names: &[(usize, &str)]) -> String {
    if let ([(first, _), .., (last, _)], true) = (names, names.iter().all(|(class, name)| is_number(*class, name))) {
        return format!("{first} to {last}");
    }
    let texts: Vec<String> = names.iter().take(MOST_LISTED).map(|(class, name)| format!("{class} {name}")).collect();
    match names.len() - texts.len() {
        0 => texts.join(", "),
        others => format!("{} and {others} more", texts.join(", ")),
    }
}

/// Returns true for `class N`, which replaces a missing name.
fn is_number(class: usize, name: &str) -> bool {
    name.strip_prefix("class ") == Some(class.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_found_by_name_and_number() {
        let names = [(0, "background"), (1, "liver"), (2, "left kidney"), (5, "7")];
        let class = |wanted: &str| class_named("--flag", names, wanted).map_err(|error| error.to_string());
        assert_eq!([class("liver"), class("2"), class("left kidney"), class("5")], [Ok(1), Ok(2), Ok(2), Ok(5)]);
        assert_eq!(class("7"), Ok(5), "a name goes before a number");
        let classes = "(the classes are 0 background, 1 liver, 2 left kidney, 5 7)";
        let error = class("Lever").unwrap_err();
        assert_eq!(error, format!("--flag: no class `Lever`; did you mean `liver`? {classes}"));
        let twice = class_named("--flag", [(1, "liver"), (2, "liver")], "liver").unwrap_err().to_string();
        assert_eq!(twice, "--flag: the classes 1 and 2 are both named `liver`; give a number");
        // No class has the number 3, although 2 and 5 exist.
        assert_eq!(class("3").unwrap_err(), format!("--flag: no class `3` {classes}"));
    }

    #[test]
    fn many_classes_and_those_without_names_are_listed_in_short() {
        let names: Vec<String> = (0..200).map(|class| format!("class {class}")).collect();
        let error = |names: &[String]| {
            let names = names.iter().map(String::as_str).enumerate();
            class_named("--flag", names, "xyz").unwrap_err().to_string()
        };
        assert_eq!(error(&names), "--flag: no class `xyz` (the classes are 0 to 199)");
        let names: Vec<String> = (0..200).map(|class| format!("organ {class}")).collect();
        assert!(error(&names).ends_with("18 organ 18, 19 organ 19 and 180 more)"), "{}", error(&names));
    }
}
