//! Tables of results, which are wrapped in a terminal that is too narrow for them.

use std::collections::BTreeSet;
use std::fmt;

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Row, Width, presets};

use crate::escape::escape_name;

/// Smallest width of a column of texts in a narrow terminal, in characters, if its texts are that long.
const MIN_TEXT: u16 = 12;
/// Longest part of a name that stays whole where the terminal has room for it, in characters.
const MAX_PART: u16 = 16;
/// Zero-width space, which marks the places where a name may be broken. It is not written.
const BREAK: char = '\u{200b}';

/// A table being filled. Control characters in its cells are escaped.
///
/// If standard output is a terminal that is narrower than the table, headings and texts are wrapped: texts at spaces, names
/// without spaces after `/`, `_` and `-`. A pipe or a file receives the table in its full width.
#[derive(Clone, Debug)]
pub struct Table {
    has_borders: bool,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns that are aligned to the right, by number from 0.
    right: BTreeSet<usize>,
    /// Columns whose values may take two lines, by number from 0.
    in_two_lines: BTreeSet<usize>,
    /// Width to fit into, in characters; `None` for any width.
    width: Option<u16>,
}

impl Table {
    /// Creates a table with a border around it, for standard output.
    #[must_use]
    pub fn bordered() -> Self {
        Self {
            has_borders: true,
            header: Vec::new(),
            rows: Vec::new(),
            right: BTreeSet::new(),
            in_two_lines: BTreeSet::new(),
            width: terminal_width(),
        }
    }

    /// Creates a table without borders, for standard output.
    #[must_use]
    pub fn plain() -> Self {
        Self { has_borders: false, ..Self::bordered() }
    }

    /// Gives names to the columns.
    #[must_use]
    pub fn with_header(mut self, names: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.header = escaped(names);
        self
    }

    /// Adds a row. A cell may have several lines.
    pub fn row(&mut self, cells: impl IntoIterator<Item: AsRef<str>>) {
        self.rows.push(escaped(cells));
    }

    /// Aligns columns to the right, by number from 0. Their values stay on one line in a narrow terminal.
    #[must_use]
    pub fn align_right(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        self.right.extend(columns);
        self
    }

    /// Lets the values of columns, by number from 0, take two lines each in a narrow terminal.
    #[must_use]
    pub fn in_two_lines(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        self.in_two_lines.extend(columns);
        self
    }

    /// Replaces the width of the terminal, in characters. `None` stands for any width.
    #[must_use]
    pub fn within(mut self, width: Option<u16>) -> Self {
        self.width = width;
        self
    }

    /// The table with all cells in full width.
    fn full(&self) -> comfy_table::Table {
        self.laid_out(&self.rows, |number| match number {
            _ if self.has_borders => (1, 1),
            0 => (0, 0),
            _ => (2, 0),
        })
    }

    /// The table wrapped to a width, with less space between the columns. Columns of texts are not narrower than [`MIN_TEXT`]
    /// or their longest part of up to `max_part` characters.
    fn narrow(&self, width: u16, max_part: u16) -> comfy_table::Table {
        let longest_words: Vec<usize> = self.header.iter().map(|name| longest(name.split(' '))).collect();
        let longest_word = |number: usize| longest_words.get(number).copied().unwrap_or_default();
        let broken = |(number, cell): (usize, &String)| {
            let is_broken = self.in_two_lines.contains(&number) && length(cell) > longest_word(number);
            if is_broken { two_lines(cell) } else { cell.clone() }
        };
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().enumerate().map(broken).collect()).collect();
        let last = self.num_columns().saturating_sub(1);
        let padding = |number: usize| {
            if self.has_borders { (1, u16::from(number == last)) } else { (u16::from(number > 0), 0) }
        };
        let cells = rows.iter().map(|row| row.iter().map(|text| breakable(text)).collect::<Vec<Cell>>());
        let mut table = self.laid_out(cells, padding);
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        for number in 0..=last {
            let cells = || rows.iter().filter_map(move |row| row.get(number));
            let characters = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
            let values = characters(longest(cells().flat_map(|cell| cell.split('\n'))));
            let parts = characters(longest(cells().flat_map(|cell| cell.split('\n')).flat_map(parts_of)));
            let words = characters(longest_word(number));
            // Widths of constraints include the padding.
            let (left, right) = padding(number);
            let fixed = |width: u16| Width::Fixed(width.saturating_add(left + right));
            let is_text = !self.right.contains(&number) && !self.in_two_lines.contains(&number);
            let constraint = if is_text {
                ColumnConstraint::LowerBoundary(fixed(values.max(words).min(MIN_TEXT).max(parts.min(max_part))))
            } else {
                ColumnConstraint::Absolute(fixed(values.max(words)))
            };
            if let Some(column) = table.column_mut(number) {
                column.set_constraint(constraint);
            }
        }
        table
    }

    /// The table with these rows and this padding to the left and the right of each column.
    fn laid_out(
        &self,
        rows: impl IntoIterator<Item: Into<Row>>,
        padding: impl Fn(usize) -> (u16, u16),
    ) -> comfy_table::Table {
        let mut table = comfy_table::Table::new();
        table.load_style(if self.has_borders { presets::UTF8_BORDERS_ONLY } else { presets::NOTHING });
        table.force_no_tty();
        if !self.header.is_empty() {
            table.set_header(&self.header);
        }
        table.add_rows(rows);
        for number in 0..self.num_columns() {
            if let Some(column) = table.column_mut(number) {
                column.set_padding(padding(number));
                if self.right.contains(&number) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        table
    }

    fn num_columns(&self) -> usize {
        self.rows.iter().chain([&self.header]).map(Vec::len).max().unwrap_or_default()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = self.full();
        // All lines are of the same width.
        let width = full.lines().next().map_or(0, |line| length(&line));
        match self.width.filter(|available| usize::from(*available) < width) {
            Some(available) => {
                let fits = |table: &comfy_table::Table| {
                    table.lines().next().is_none_or(|line| length(&line) <= usize::from(available))
                };
                let table = self.narrow(available, MAX_PART);
                let table = if fits(&table) { table } else { self.narrow(available, MIN_TEXT) };
                f.write_str(&table.trim_fmt().replace(BREAK, ""))
            }
            None => f.write_str(&full.trim_fmt()),
        }
    }
}

/// Returns the width of the terminal that standard output is, in characters; `None` if it is something else or does not
/// know its width.
#[must_use]
pub fn terminal_width() -> Option<u16> {
    // Terminals without a window, as of `docker run -t` and `ssh -tt` in scripts, report 0.
    comfy_table::Table::new().width().filter(|&width| width > 0)
}

/// Cells with their control characters escaped, except line breaks.
fn escaped(cells: impl IntoIterator<Item: AsRef<str>>) -> Vec<String> {
    let lines = |cell: &str| cell.split('\n').map(escape_name).collect::<Vec<_>>().join("\n");
    cells.into_iter().map(|cell| lines(cell.as_ref())).collect()
}

fn length(text: &str) -> usize {
    text.chars().count()
}

fn longest<'a>(texts: impl Iterator<Item = &'a str>) -> usize {
    texts.map(length).max().unwrap_or_default()
}

/// Parts of a line of text that stay whole where there is room for them: its words, or the parts of a name without spaces.
fn parts_of(line: &str) -> Vec<&str> {
    if line.contains(' ') { line.split(' ').collect() } else { line.split_inclusive(['/', '_', '-']).collect() }
}

/// Cell of a narrow table, which is broken at spaces, or between the parts of a name without spaces.
fn breakable(text: &str) -> Cell {
    if text.contains(' ') {
        return Cell::new(text);
    }
    let lines: Vec<String> = text.split('\n').map(|line| parts_of(line).join(BREAK.to_string().as_str())).collect();
    Cell::new(lines.join("\n")).set_delimiter(BREAK)
}

/// Breaks a text at the first of the spaces that make the longer line shortest.
fn two_lines(text: &str) -> String {
    let breaks = text.match_indices(' ').map(|(at, space)| (&text[..at], &text[at + space.len()..]));
    match breaks.min_by_key(|(first, second)| length(first).max(length(second))) {
        Some((first, second)) => format!("{first}\n{second}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(width: Option<u16>) -> String {
        let mut table = Table::bordered().with_header([
            "dataset",
            "cases",
            "labelled",
            "files",
            "million voxels",
            "on disk",
            "core time",
            "largest case in memory",
        ]);
        table.row(["Dataset001_BTCV", "30", "24", "13.2 GB", "1234.5", "85.2 MB", "1 h 05 min", "1.4 GB"]);
        table.row(["Dataset017_AbdominalOrgans", "2", "2", "64.8 kB", "0.1", "28.0 kB", "1 s", "17.1 kB"]);
        table.align_right(1..8).in_two_lines([6]).within(width).to_string()
    }

    #[test]
    fn a_table_wider_than_the_terminal_is_wrapped_and_its_values_stay_whole() {
        let text = plan(Some(80));
        assert!(text.lines().all(|line| length(line) == 80), "{text}");
        let row = text.lines().find(|line| line.contains("BTCV")).unwrap();
        let cells: Vec<&str> =
            row.trim_matches('│').split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, ["Dataset001_BTCV", "30", "24", "13.2 GB", "1234.5", "85.2 MB", "1 h", "1.4 GB"], "{text}");
        for part in [
            "million",
            "voxels",
            "labelled",
            "largest",
            "memory",
            " 05 min ",
            " Dataset017_ ",
            " AbdominalOrgans ",
            " 64.8 kB ",
        ] {
            assert_eq!(text.lines().filter(|line| line.contains(part)).count(), 1, "{part}\n{text}");
        }
    }

    #[test]
    fn a_table_has_its_full_width_where_there_is_room() {
        let text = plan(None);
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(text.contains("   million voxels   on disk    core time   largest case in memory │"), "{text}");
        let width = u16::try_from(length(text.lines().next().unwrap())).unwrap();
        assert_eq!(plan(Some(width)), text);
        assert_ne!(plan(Some(width - 1)), text);
    }

    #[test]
    fn a_table_without_borders_is_wrapped_as_well() {
        let mut table = Table::plain().with_header(["class", "cases", "95% interval"]);
        table.row(["liver", "2", "0.1000 to 0.9000"]);
        table.row(["spleen", "0"]);
        let table = table.align_right([1, 2]).in_two_lines([2]);
        let full = ["class   cases      95% interval", "liver       2  0.1000 to 0.9000", "spleen      0"];
        assert_eq!(table.clone().within(None).to_string(), full.join("\n"));
        let narrow = [
            "class  cases       95%",
            "              interval",
            "liver      2    0.1000",
            "             to 0.9000",
            "spleen     0",
        ];
        assert_eq!(table.within(Some(30)).to_string(), narrow.join("\n"));
    }

    #[test]
    fn names_are_broken_between_their_parts() {
        let mut table = Table::bordered().with_header(["case", "size", "shard"]).align_right([1]).within(Some(40));
        table.row(["Dataset009_W/c00", "1.4 MB", "g0001-w000-0000.shard"]);
        let text = table.to_string();
        let words: Vec<&str> = text.split_whitespace().collect();
        for part in ["Dataset009_W/", "c00", "g0001-w000-", "0000.shard"] {
            assert!(words.contains(&part), "{part}\n{text}");
        }
        assert!(!text.contains(BREAK) && text.lines().all(|line| length(line) <= 40), "{text}");
        // Columns of texts become as narrow as `MIN_TEXT`, for which this table needs 38 characters.
        for width in 38..=60 {
            let text = table.clone().within(Some(width)).to_string();
            assert!(text.lines().all(|line| length(line) <= usize::from(width)), "{width}\n{text}");
        }
        let narrowest = table.clone().within(Some(38)).to_string();
        assert_eq!(table.clone().within(Some(20)).to_string(), narrowest);
        let full = table.within(None).to_string();
        assert!(full.contains(" Dataset009_W/c00 ") && full.contains(" g0001-w000-0000.shard "), "{full}");
    }

    #[test]
    fn control_characters_are_escaped_and_lines_are_kept() {
        let mut table = Table::plain();
        table.row(["a\u{1b}[31m\nb"]);
        assert_eq!(table.within(None).to_string(), "a\\u{1b}[31m\nb");
    }

    #[test]
    fn texts_are_broken_where_both_lines_are_short() {
        for (text, broken) in [
            ("241 x 241 x 280", "241 x\n241 x 280"),
            ("1 h 05 min", "1 h\n05 min"),
            ("0.00 of 1 case", "0.00 of\n1 case"),
            ("yes", "yes"),
        ] {
            assert_eq!(two_lines(text), broken);
        }
    }
}
