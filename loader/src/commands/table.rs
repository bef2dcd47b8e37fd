//! Tables and figures in the common style of all commands.

use bytesize::ByteSize;
use comfy_table::{CellAlignment, presets};

pub(super) use crate::program::count;
use crate::program::escape_name;

/// A table being filled. Control characters in its cells are escaped.
pub(super) struct Table(comfy_table::Table);

impl Table {
    /// Creates a table without a header.
    pub(super) fn new() -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        Self(table)
    }

    /// Creates a table with column names.
    pub(super) fn with_header<const N: usize>(names: [&str; N]) -> Self {
        let mut table = Self::new();
        table.0.set_header(names);
        table
    }

    /// Adds a row. A cell may have several lines.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let escape_lines = |cell: String| cell.split('\n').map(escape_name).collect::<Vec<_>>().join("\n");
        self.0.add_row(cells.map(escape_lines));
    }

    /// Aligns columns to the right, by number from 0.
    pub(super) fn align_right(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        for column in columns {
            if let Some(column) = self.0.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A table of names and values, with the names aligned to the right.
pub(super) fn facts(rows: impl IntoIterator<Item = (&'static str, String)>) -> Table {
    let mut table = Table::new();
    for (name, value) in rows {
        table.row([name.to_owned(), value]);
    }
    table.align_right([0])
}

/// A size in decimal units, such as `1.4 GB`.
pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}
