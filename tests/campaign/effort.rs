//! Number of tries: small by default, multiplied or narrowed to one seed by the environment.

use std::ops::Range;

/// Seeds to try: `0..short`, or `short * HIEND_CAMPAIGN` of them, or `HIEND_CAMPAIGN_SEED` alone.
pub(crate) fn seeds(short: u64) -> Range<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
    };
    match (number("HIEND_CAMPAIGN_SEED"), number("HIEND_CAMPAIGN")) {
        (Some(seed), _) => seed..seed + 1,
        (None, factor) => 0..short * factor.unwrap_or(1),
    }
}
