//! Rule for choices of a library that a run recorded and that cannot be used again: the run ends, unless it may round
//! differently.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

/// Remedy named by errors about recorded choices.
pub const REMEDY: &str = "resume with that library and device, or with --other-rounding, which chooses again";

static OTHER_ROUNDING: AtomicBool = AtomicBool::new(false);

/// Lets this process replace recorded choices that cannot be used again, from now on, if `allowed` is set.
pub fn allow_other_rounding(allowed: bool) {
    OTHER_ROUNDING.store(allowed, Ordering::Relaxed);
}

/// Returns true if recorded choices that cannot be used again may be replaced.
#[must_use]
pub fn is_other_rounding_allowed() -> bool {
    OTHER_ROUNDING.load(Ordering::Relaxed)
}

/// Returns `made`, the library's use of the choice recorded for `problem`; `None` if the library is to choose, because nothing
/// is recorded, or because it rejects the choice and may replace it, with a warning.
///
/// # Errors
/// A fault, which says nothing about the choice, as it is; a rejection that ends the run, as `rejection` wraps it.
pub fn usable<T, E: Display>(
    problem: &(impl Display + ?Sized),
    made: Option<Result<T, E>>,
    is_fault: fn(&E) -> bool,
    rejection: fn(E) -> E,
    may_choose: bool,
) -> Result<Option<T>, E> {
    match made {
        None => Ok(None),
        Some(Ok(made)) => Ok(Some(made)),
        Some(Err(fault)) if is_fault(&fault) => Err(fault),
        Some(Err(reason)) if may_choose => {
            tracing::warn!("{problem} rounds differently than before: {reason}");
            Ok(None)
        }
        Some(Err(reason)) => Err(rejection(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_choice_that_the_library_rejects_is_replaced_and_only_where_that_is_allowed() {
        let made = |made, may_choose| {
            let made: Option<Result<u32, String>> = made;
            usable(
                "a product",
                made,
                |reason| reason == "out of memory",
                |reason| format!("recorded: {reason}"),
                may_choose,
            )
        };
        let (rejected, fault) = (|| Some(Err("rejected".to_owned())), || Some(Err("out of memory".to_owned())));
        for may_choose in [false, true] {
            assert_eq!(made(None, may_choose), Ok(None));
            assert_eq!(made(Some(Ok(7)), may_choose), Ok(Some(7)));
            assert_eq!(made(fault(), may_choose), Err("out of memory".to_owned()));
        }
        assert_eq!(made(rejected(), false), Err("recorded: rejected".to_owned()));
        assert_eq!(made(rejected(), true), Ok(None));
    }
}
