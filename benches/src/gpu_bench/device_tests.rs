//! Device tests of the kernels, run by this program on machines without a test harness.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::bail;
use hiend_trainer::device::Compute;
use hiend_trainer::device_tests::device_tests;
use serde_json::{Value, json};

use crate::figures::rounded;

/// Returns true if a test of this name is to run. The name must contain `filter`; if `filter` begins with `!`, the name
/// must not contain the rest of it.
fn is_wanted(name: &str, filter: &str) -> bool {
    filter.strip_prefix('!').map_or_else(|| name.contains(filter), |text| !name.contains(text))
}

/// Shows one line per test that [`is_wanted`].
///
/// # Errors
/// If there is none, or if a test failed, after all have run.
pub(super) fn run(compute: &Compute, filter: &str, show: &mut dyn FnMut(Value)) -> anyhow::Result<()> {
    let (mut failed, mut is_known) = (0, false);
    for (name, test) in device_tests().filter(|(name, _)| is_wanted(name, filter)) {
        is_known = true;
        let started = Instant::now();
        // A test is a function of the device alone; what it leaves half done is its own.
        let outcome = catch_unwind(AssertUnwindSafe(|| test(compute.raw())));
        super::tell_panic();
        let error = outcome.err().map(|panic| match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => text.clone(),
            (_, Some(text)) => (*text).to_owned(),
            _ => "panicked".to_owned(),
        });
        failed += usize::from(error.is_some());
        let secs = rounded(started.elapsed().as_secs_f64());
        show(json!({ "test": name, "passed": error.is_none(), "error": error, "secs": secs }));
    }
    if !is_known {
        bail!("--tests {filter}: no test of the kernels has such a name");
    }
    if failed > 0 {
        bail!("{failed} of the kernels' tests failed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_tests_in_or_leaves_them_out() {
        let name = "hiend_trainer::ops::product::cuda::tests::same_bits";
        for (filter, expected) in [("", true), ("::cud", true), ("norm", false), ("!::cud", false), ("!norm", true)] {
            assert_eq!(is_wanted(name, filter), expected, "{filter}");
        }
    }
}
