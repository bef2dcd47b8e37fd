//! `hiend-train`: see `hiend-train --help`.

fn main() {}
