//! Advice on how to use less device memory.

/// Suggests settings that use less memory than `at_a_time` crops on the device do.
pub(super) fn less_memory(at_a_time: usize, gradient_checkpointing: bool) -> String {
    let mut ways = Vec::new();
    if !gradient_checkpointing {
        ways.push("--gradient-checkpointing (with --resume, too)".to_owned());
    }
    if at_a_time > 1 {
        ways.push(format!("a new run with train.micro_batch = {}", at_a_time.div_ceil(2)));
    }
    if ways.is_empty() { "; try a smaller model".to_owned() } else { format!("; to use less: {}", ways.join(", or ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_untried_settings_are_suggested() {
        let check =
            |at_a_time, checkpointing, expected: &str| assert_eq!(less_memory(at_a_time, checkpointing), expected);
        check(
            192,
            false,
            "; to use less: --gradient-checkpointing (with --resume, too), or a new run with train.micro_batch = 96",
        );
        check(3, true, "; to use less: a new run with train.micro_batch = 2");
        check(1, true, "; try a smaller model");
    }
}
