//! Tables and figures in the common style of all commands.

use bytesize::ByteSize;

pub(super) use crate::program::{Table, count};

/// A table of names and values, with the names aligned to the right.
pub(super) fn facts(rows: impl IntoIterator<Item = (&'static str, String)>) -> Table {
    let mut table = Table::bordered();
    for (name, value) in rows {
        table.row([name.to_owned(), value]);
    }
    table.align_right([0])
}

/// A size in decimal units, such as `1.4 GB`.
pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}
