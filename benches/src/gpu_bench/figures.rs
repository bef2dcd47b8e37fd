//! Arithmetic of the reported figures.

/// The median of `values`; not a number if there are none.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// `value` to four decimal places, more than a timing is good for.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
