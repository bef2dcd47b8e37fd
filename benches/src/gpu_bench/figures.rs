//! Arithmetic for the reported numbers.

/// Median of `values`; NaN if there are none.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Rounds `value` to four decimal places, more than a timing supports.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
