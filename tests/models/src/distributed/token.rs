//! The secret of a run, which connections in memory do not need.

/// The secret of a run.
#[derive(Debug)]
pub struct Token;
