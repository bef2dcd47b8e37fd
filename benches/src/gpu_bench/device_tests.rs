//! Device tests of the kernels, run by this program on machines without a test harness.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::bail;
use hiend_trainer::device::Compute;
use hiend_trainer::device_tests::device_tests;
use serde_json::{Value, json};

use super::figures::rounded;

/// Shows one line per test that has `filter` in its name.
///
/// # Errors
/// If no test has that name, or if a test failed, after all have run.
pub(super) fn run(compute: &Compute, filter: &str, show: &mut dyn FnMut(Value)) -> anyhow::Result<()> {
    let (mut failed, mut is_known) = (0, false);
    for (name, test) in device_tests().filter(|(name, _)| name.contains(filter)) {
        is_known = true;
        let started = Instant::now();
        // A test is a function of the device alone; what it leaves half done is its own.
        let outcome = catch_unwind(AssertUnwindSafe(|| test(compute.raw())));
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
        bail!("--tests {filter}: no test of the kernels has this in its name");
    }
    if failed > 0 {
        bail!("{failed} of the kernels' tests failed");
    }
    Ok(())
}
