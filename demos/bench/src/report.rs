//! Results as Markdown: for the terminal, and between markers in a page of documentation.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// What one bench found out.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// Tables, each with the line above it.
    tables: Vec<(String, Table)>,
    aims: Vec<Aim>,
    notes: Vec<String>,
}

/// A goal, and what was reached.
#[derive(Debug)]
struct Aim {
    what: String,
    reached: String,
    verdict: Verdict,
}

/// Whether a goal was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Yes.
    Met,
    /// No.
    Missed,
    /// The measurement is too coarse to say.
    Noise,
}

impl From<bool> for Verdict {
    fn from(is_met: bool) -> Self {
        if is_met { Self::Met } else { Self::Missed }
    }
}

impl Section {
    /// Adds a table.
    pub(crate) fn table(&mut self, about: &str, table: Table) {
        self.tables.push((about.to_owned(), table));
    }

    /// Adds a goal.
    pub(crate) fn aim(&mut self, what: &str, reached: impl Into<String>, verdict: impl Into<Verdict>) {
        self.aims.push(Aim { what: what.to_owned(), reached: reached.into(), verdict: verdict.into() });
    }

    /// Adds a line that belongs to the numbers.
    pub(crate) fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (about, table) in &self.tables {
            writeln!(f, "{about}\n\n{table}")?;
        }
        if !self.aims.is_empty() {
            let mut table = Table::new(&["aim", "reached", ""]);
            for aim in &self.aims {
                let verdict = match aim.verdict {
                    Verdict::Met => "met",
                    Verdict::Missed => "**missed**",
                    Verdict::Noise => "lost in the noise",
                };
                table.row([aim.what.clone(), aim.reached.clone(), verdict.to_owned()]);
            }
            writeln!(f, "{table}")?;
        }
        for note in &self.notes {
            writeln!(f, "- {note}")?;
        }
        Ok(())
    }
}

/// A table; the first column is text, the others are numbers.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these column heads.
    pub(crate) fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column| self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0).max(3);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().enumerate() {
                let text = cell(row, column);
                if column == 0 { write!(f, "| {text:<width$} ")? } else { write!(f, "| {text:>width$} ")? }
            }
            writeln!(f, "|")?;
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width + 1);
                    write!(f, "|{dashes}{}", if column == 0 { '-' } else { ':' })?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// Puts a text between the markers of this name in a page. A page without them is an error: whoever wrote it decides where
/// results stand.
pub(crate) fn write_between(page: &Path, name: &str, text: &str) -> Result<()> {
    let before = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let after =
        replaced(&before, name, text).with_context(|| format!("{} has no markers for {name}", page.display()))?;
    fs::write(page, after).with_context(|| format!("cannot write {}", page.display()))
}

fn replaced(page: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let from = page.find(&begin)? + begin.len();
    let to = from + page[from..].find(&end)?;
    Some(format!("{}{}\n{}", &page[..from], text.trim_end(), &page[to..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_short_rows_are_filled() {
        let mut table = Table::new(&["what", "n"]);
        table.row(["a", "1000"]);
        table.row(["longer"]);
        assert_eq!(table.to_string(), "| what   |    n |\n|--------|-----:|\n| a      | 1000 |\n| longer |      |\n");
    }

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let page = "head\n<!-- pipe: begin -->\nold\n<!-- pipe: end -->\ntail\n";
        let new = replaced(page, "pipe", "new\n\n").unwrap();
        assert_eq!(new, "head\n<!-- pipe: begin -->\nnew\n<!-- pipe: end -->\ntail\n");
        assert_eq!(replaced(&new, "pipe", "new").unwrap(), new);
        assert!(replaced(page, "other", "new").is_none());
    }

    #[test]
    fn a_missed_aim_is_said_to_be() {
        let mut section = Section::default();
        section.aim("below 2 %", "3 %", Verdict::Missed);
        section.aim("below 5 %", "3 %", Verdict::Met);
        let text = section.to_string();
        assert!(text.contains("| below 2 % |     3 % | **missed** |"), "{text}");
        assert!(text.contains("|        met |"), "{text}");
    }
}
