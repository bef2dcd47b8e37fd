//! Burn's own reductions in the sources: on CUDA Burn chooses among kernels by measuring them, and some add in no
//! fixed order, so that a step of training takes its sums from `ops::fixed_order` and `ops::columns`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::kernels::sources;

/// Calls that reduce a tensor, or whose gradient does. Neither a broadcast sum nor product can be found like this: the
/// operand that is repeated there must not have a gradient.
const MARKS: [&str; 18] = [
    ".sum()",
    ".mean()",
    ".prod()",
    ".max()",
    ".min()",
    ".sum_dim(",
    ".mean_dim(",
    ".prod_dim(",
    ".max_dim(",
    ".min_dim(",
    ".var(",
    ".argmax(",
    ".argmin(",
    ".expand(",
    "float_sum",
    "float_mean",
    "log_softmax(",
    "activation::softmax(",
];

/// Files with reductions of Burn's, their number, and the reason why they may have them.
const ALLOWED: [(&str, usize, &str); 17] = [
    ("augment.rs", 3, "extremes of a crop, whose order is free, and a mask without a gradient"),
    ("doctor.rs", 1, "only its derivative is used, which adds nothing"),
    ("doctor/by_cudnn.rs", 2, "only their derivatives are used, which add nothing"),
    ("finetune/picture.rs", 1, "a picture"),
    ("inference.rs", 1, "a prediction of several networks"),
    ("inference/attention_map.rs", 1, "an attention map"),
    ("loss/class_map.rs", 1, "whole numbers, whose order is free"),
    ("loss/dice_ce.rs", 11, "the reference, which GPUs use for more than 16 classes"),
    ("loss/masked_mse.rs", 5, "the reference, and pictures"),
    ("ops/attention/heads.rs", 1, "the CPU"),
    ("ops/columns.rs", 3, "the CPU"),
    ("ops/instance_norm.rs", 2, "the CPU"),
    ("ops/instance_norm/volume.rs", 4, "the CPU"),
    ("ops/layer_norm.rs", 6, "the CPU"),
    ("ops/testing.rs", 1, "tests"),
    ("pretrain.rs", 1, "the choice of crops for a picture"),
    ("sliding_window/classes.rs", 1, "whole numbers, whose order is free"),
];

/// Source text without tests, comments and white space.
fn code(source: &str) -> String {
    let source = source.split("mod tests {").next().unwrap_or_default();
    let lines = source.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    lines.flat_map(str::chars).filter(|character| !character.is_whitespace()).collect()
}

/// Returns true if `before` ends with a call of `map` or `filter_map`: what follows reduces an iterator.
fn ends_with_map(before: &str) -> bool {
    let mut open = 0;
    let start = before.char_indices().rev().find(|&(_, character)| {
        open += i32::from(character == ')') - i32::from(character == '(');
        open <= 0
    });
    before.ends_with(')') && start.is_some_and(|(at, _)| before[..at].ends_with("map"))
}

/// Number of reductions of tensors in a source file.
fn reductions(source: &str) -> usize {
    let code = code(source);
    if !code.contains("Tensor") {
        return 0;
    }
    let of = |mark: &&str| code.match_indices(*mark).filter(|&(at, _)| !ends_with_map(&code[..at])).count();
    MARKS.iter().map(of).sum()
}

#[test]
fn training_has_no_sums_without_a_fixed_order() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    for file in sources(&folder) {
        let name = file.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned();
        let number = reductions(&fs::read_to_string(&file).unwrap());
        if number > 0 && !name.ends_with("tests.rs") {
            found.insert(name, number);
        }
    }
    let allowed: BTreeMap<_, _> = ALLOWED.iter().map(|(name, number, _)| ((*name).to_owned(), *number)).collect();
    for name in found.keys().chain(allowed.keys()) {
        assert_eq!(found.get(name), allowed.get(name), "{name}: use ops::fixed_order, or list the file with a reason");
    }
}

#[test]
fn reductions_are_found() {
    let source = "use burn::tensor::Tensor;\n// x.sum()\nlet y = (a * b)\n    .sum();\nlet z = y.expand([2, 3]);\n";
    assert_eq!(reductions(source), 2);
    assert_eq!(reductions(&source.replace("Tensor", "")), 0, "no tensors");
    let source = "Tensor; let n = sizes.iter().map(|(a, b)| a * (b + 1)).sum(); mod tests { x.sum() }";
    assert_eq!(reductions(source), 0, "an iterator, and a test");
    assert_eq!(reductions("Tensor; let n = map(x).clone().sum();"), 1);
}
