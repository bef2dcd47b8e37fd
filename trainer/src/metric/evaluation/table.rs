//! Means of an evaluation as aligned text.

use std::borrow::Cow;
use std::fmt::Write as _;

use hiend_loader::plural;
use hiend_loader::program::{Table, escape_name};

use super::{CaseMetrics, ClassMetrics, Evaluation};
use crate::metric::bootstrap::Interval;
use crate::metric::nan_mean;
use crate::metric::surface::Surface;

/// Headings; the first column holds text, the others numbers.
const HEADINGS: [&str; 9] =
    ["class", "cases", "Dice", "95% interval", "surface Dice", "HD95 mm", "ASSD mm", "missed", "only predicted"];

/// Columns of intervals, and of means that may be followed by a number of cases.
const IN_TWO_LINES: [usize; 4] = [3, 4, 5, 6];

impl Evaluation {
    /// Means over cases by class, as aligned text that fits into `width` characters, if it is given.
    ///
    /// `cases` are those with a Dice. The surface Dice is 0 where only the prediction has the class, and the mean distances are
    /// over the cases where both maps have it; a mean of another number of cases is shown with that number. `missed` counts the
    /// cases where only the label has the class, `only predicted` those where only the prediction has.
    #[must_use]
    pub fn to_table(&self, width: Option<u16>) -> String {
        let mut table = aligned(&self.table_rows(), &IN_TWO_LINES, width);
        match self.class_names.keys().filter(|class| !self.occurs(**class)).count() {
            0 => {}
            1 => table.push_str("1 class that occurs in no map is not listed\n"),
            absent => {
                let _ = writeln!(table, "{absent} classes that occur in no map are not listed");
            }
        }
        table
    }

    /// Header and rows of the table.
    #[must_use]
    pub fn table_rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
        rows[0][4] = self.surface_heading();
        let listed = self.class_names.iter().filter(|(class, _)| self.occurs(**class));
        rows.extend(listed.map(|(&class, name)| self.row(class, name)));
        let interval = self.bootstrap.interval_of_mean(self.fg_dice_of_cases());
        let num_measured = self.fg_dice_of_cases().filter(|dice| !dice.is_nan()).count();
        let (mean, interval) = (cell(self.mean_fg_dice(), 4), interval_cell(interval));
        rows.push(vec!["mean fg".into(), num_measured.to_string(), mean, interval]);
        rows
    }

    /// Returns `true` if any map of any case has the class; always true for the background.
    #[must_use]
    pub fn occurs(&self, class: usize) -> bool {
        let of_case = |case: &CaseMetrics| {
            case.classes.get(class).is_some_and(|of| of.overlap.in_label() + of.overlap.in_pred() > 0)
        };
        class == 0 || self.cases.iter().any(of_case)
    }

    fn surface_heading(&self) -> String {
        let tolerances = &self.conventions.tolerances;
        let tolerance =
            if tolerances.by_class.is_empty() { format!(" {} mm", tolerances.default_mm) } else { String::new() };
        match self.conventions.surface {
            Surface::Voxels => format!("surface Dice{tolerance}"),
            Surface::Area => format!("surface Dice{tolerance} (area)"),
        }
    }

    fn row(&self, class: usize, name: &str) -> Vec<String> {
        let of = |metric: fn(&ClassMetrics) -> f64| -> Vec<f64> { self.values(class, metric).collect() };
        let dice = of(|m| m.dice);
        let num_cases = dice.iter().filter(|value| !value.is_nan()).count();
        // The surface Dice of a class that only the prediction has is 0, and Dice may be not measured there; distances need
        // the class in both maps. A mean over other cases than those of the column `cases` says over how many.
        let mean_of_surface = |metric: fn(&ClassMetrics) -> f64, digits| {
            let values: Vec<f64> = of(metric).into_iter().filter(|value| value.is_finite()).collect();
            let mean = cell(nan_mean(values.iter().copied()), digits);
            let is_of_others = class > 0 && !values.is_empty() && values.len() != num_cases;
            if is_of_others { format!("{mean} of {}", plural::count(values.len(), "case")) } else { mean }
        };
        let mut surface_dice = mean_of_surface(|m| m.surface_dice, 4);
        if class > 0 && !self.conventions.tolerances.by_class.is_empty() {
            surface_dice = format!("{surface_dice} at {} mm", self.conventions.tolerances.of(class));
        }
        vec![
            name.to_owned(),
            num_cases.to_string(),
            cell(nan_mean(dice.iter().copied()), 4),
            interval_cell(self.bootstrap.interval_of_mean(dice)),
            surface_dice,
            mean_of_surface(|m| m.hd95_mm, 2),
            mean_of_surface(|m| m.assd_mm, 2),
            self.count(class, ClassMetrics::is_missed).to_string(),
            self.count(class, ClassMetrics::is_only_predicted).to_string(),
        ]
    }
}

/// Formats a header and rows as lines that fit into `width` characters, if it is given, with the first column aligned to the left
/// and the others to the right. `in_two_lines` are the columns whose values may be broken for that. Control characters in names are
/// escaped.
pub(in crate::metric) fn aligned(rows: &[Vec<String>], in_two_lines: &[usize], width: Option<u16>) -> String {
    let mut escaped = rows.iter().map(|row| row.iter().map(|cell| escape_name(cell)));
    let header: Vec<Cow<'_, str>> = escaped.next().into_iter().flatten().collect();
    let num_columns = header.len();
    let mut table = Table::plain().with_header(header);
    escaped.for_each(|row| table.row(row));
    format!("{}\n", table.align_right(1..num_columns).in_two_lines(in_two_lines.iter().copied()).within(width))
}

/// Formats a value for the table: rounded, or `-` for NaN.
pub(in crate::metric) fn cell(value: f64, digits: usize) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.digits$}") }
}

fn interval_cell(interval: Option<Interval>) -> String {
    interval.map_or_else(|| "-".to_owned(), |Interval { low, high }| format!("{low:.4} to {high:.4}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::evaluation;
    use super::*;
    use crate::metric::overlap::Overlap;

    fn cells(table: &str) -> Vec<Vec<&str>> {
        table.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect()
    }

    #[test]
    fn table_has_means_and_counts_missed_classes() {
        let table = evaluation().to_table(None);
        let lines = cells(&table);
        assert_eq!(lines[0][4], "surface Dice 1 mm");
        assert_eq!(lines[2], ["liver, whole", "2", "0.5000", "0.0000 to 1.0000", "0.5000", "1.00", "1.00", "0", "0"]);
        assert_eq!(lines[3], ["spleen", "1", "0.0000", "-", "0.0000", "-", "-", "1", "0"]);
        assert_eq!(lines[4], ["mean fg", "2", "0.5000", "0.0000 to 1.0000"]);
        let ends: Vec<usize> = table.lines().take(4).map(|line| line.chars().count()).collect();
        assert!(ends.iter().all(|&end| end == ends[0]), "{table}");
    }

    #[test]
    fn a_narrow_terminal_holds_all_columns() {
        let table = evaluation().to_table(Some(80));
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        // Intervals of background, liver and mean.
        assert_eq!(table.lines().filter(|line| line.trim() == "to 1.0000").count(), 3, "{table}");
        for word in ["liver, whole", "spleen", "interval", "surface", "predicted"] {
            assert_eq!(table.lines().filter(|line| line.contains(word)).count(), 1, "{word}\n{table}");
        }
    }

    #[test]
    fn distances_without_the_missed_cases_say_over_how_many_they_are() {
        let mut evaluation = evaluation();
        let missed = &mut evaluation.cases[1].classes[1];
        (missed.hd95_mm, missed.assd_mm) = (f64::INFINITY, f64::INFINITY);
        let table = evaluation.to_table(None);
        assert_eq!(cells(&table)[2][4..], ["0.5000", "0.00 of 1 case", "0.00 of 1 case", "1", "0"]);
    }

    #[test]
    fn classes_that_occur_nowhere_are_counted_instead_of_listed() {
        let mut evaluation = evaluation();
        let absent = ClassMetrics {
            overlap: Overlap { true_negative: 4, ..Overlap::default() },
            ..evaluation.cases[0].classes[0]
        };
        // The number 3 is no class, 4 is one.
        evaluation.class_names.insert(4, "kidney".into());
        evaluation.cases.iter_mut().for_each(|case| case.classes.extend([absent, absent]));
        let table = evaluation.to_table(None);
        assert!(!table.contains("kidney"), "{table}");
        assert_eq!(table.lines().last(), Some("1 class that occurs in no map is not listed"));
    }

    #[test]
    fn tolerances_of_classes_are_shown() {
        let mut evaluation = evaluation();
        evaluation.conventions.tolerances.by_class.insert(2, 3.5);
        evaluation.conventions.surface = Surface::Area;
        let table = evaluation.to_table(None);
        let lines = cells(&table);
        assert_eq!(
            (lines[0][4], lines[2][4], lines[3][4]),
            ("surface Dice (area)", "0.5000 at 1 mm", "0.0000 at 3.5 mm")
        );
    }
}
