//! Lists: rows of cells that can be sorted by any column, picked, and told apart by what they are of.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use hbpf_core::label::Label;
use jiff::Timestamp;

use crate::filter::{self, Field, Filter, Value};
use crate::table::{Cell, Column, Rank, Tone};

/// A pid alone is reused; with its start it names one process.
pub(crate) type Identity = (u32, Option<Timestamp>);

/// What a row is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Process(Identity),
    /// Its id.
    Request(Label),
    /// Who serves it, and its name.
    Model(Label, Option<Label>),
    /// As it is named in its row, with API and protocol, and the address behind that.
    Endpoint(String, Option<IpAddr>),
    /// What identifies it, and what people call it.
    Workload(Label, Label),
    /// By its index.
    Gpu(u32),
    /// What there is no more of than its row, and what tells that from others.
    Row(String),
}

/// A row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) key: Key,
    /// What it leads to, if to anything.
    pub(crate) opens: Option<Key>,
    /// One for each of the list's columns.
    pub(crate) cells: Vec<Cell>,
    /// What it can be found by beside what its cells say.
    pub(crate) also: String,
    /// It comes behind those that do not, whatever the order.
    pub(crate) stands_back: bool,
    /// It belongs to the row before, and goes where that goes.
    pub(crate) is_part: bool,
}

impl Row {
    /// A row that leads to what it is of.
    pub(crate) fn new(key: Key, cells: Vec<Cell>) -> Self {
        let opens = (!matches!(key, Key::Row(_))).then(|| key.clone());
        Self { key, opens, cells, also: String::new(), stands_back: false, is_part: false }
    }

    /// The same with nothing in it that catches the eye but what is wrong.
    pub(crate) fn faded(mut self) -> Self {
        for cell in &mut self.cells {
            if !matches!(cell.tone, Tone::Bad | Tone::Warn) {
                cell.tone = Tone::Dim;
            }
        }
        self
    }
}

/// Rows under their columns.
#[derive(Clone, Debug, Default)]
pub(crate) struct List {
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Row>,
}

impl List {
    /// What its rows can be picked by.
    pub(crate) fn fields(&self) -> Vec<Field> {
        let field =
            |column: &Column| Field { name: column.field(), heading: column.title.to_lowercase(), kind: column.kind };
        self.columns.iter().map(field).collect()
    }

    /// Where a column stands.
    pub(crate) fn column(&self, title: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.title == title)
    }

    /// Sorts by a column; rows of which it says the same stay as they were.
    pub(crate) fn sort(&mut self, column: usize, descending: bool) {
        let mut groups = self.take_groups();
        groups.sort_by(|one, other| {
            let (one, other) = (&one[0], &other[0]);
            one.stands_back.cmp(&other.stands_back).then_with(|| {
                match (one.cells.get(column), other.cells.get(column)) {
                    (Some(one), Some(other)) => one.compare(other, descending),
                    _ => std::cmp::Ordering::Equal,
                }
            })
        });
        self.rows = groups.into_iter().flatten().collect();
    }

    /// Where the rows stand that fit.
    pub(crate) fn fitting(&self, filter: &Filter) -> Vec<usize> {
        let fields: Vec<String> = self.columns.iter().map(Column::field).collect();
        let fits = |row: &Row| filter.picks(&Picked { fields: &fields, row });
        self.rows.iter().enumerate().filter(|(_, row)| fits(row)).map(|(at, _)| at).collect()
    }

    /// Keeps the rows that fit, with their parts, and what the parts are of that fit.
    pub(crate) fn pick(&mut self, filter: &Filter) {
        let fields: Vec<String> = self.columns.iter().map(Column::field).collect();
        let fits = |row: &Row| filter.picks(&Picked { fields: &fields, row });
        for group in self.take_groups() {
            match group.first().is_some_and(fits) {
                true => self.rows.extend(group),
                false => {
                    let mut parts = group.into_iter();
                    let head = parts.next();
                    let parts: Vec<Row> = parts.filter(fits).collect();
                    self.rows.extend(head.filter(|_| !parts.is_empty()));
                    self.rows.extend(parts);
                }
            }
        }
    }

    /// Takes the rows out, each with its parts.
    fn take_groups(&mut self) -> Vec<Vec<Row>> {
        let mut groups: Vec<Vec<Row>> = Vec::new();
        for row in self.rows.drain(..) {
            match groups.last_mut() {
                Some(group) if row.is_part => group.push(row),
                _ => groups.push(vec![row]),
            }
        }
        groups
    }

    /// The columns' cells of all rows as comma-separated values, numbers in full: seconds, bytes, dollars, fractions of hundred.
    /// Behind a column in which any number is an estimate, another says which are.
    pub(crate) fn to_csv(&self, columns: &[usize]) -> String {
        let mut out = String::new();
        let mut line = |fields: &mut dyn Iterator<Item = Cow<'_, str>>| {
            let fields: Vec<String> = fields.map(|field| quoted(&field)).collect();
            let _ = writeln!(out, "{}", fields.join(","));
        };
        let is_estimated =
            |index: &usize| self.rows.iter().any(|row| row.cells.get(*index).is_some_and(Cell::is_estimate));
        let columns: Vec<(usize, bool)> = columns.iter().map(|index| (*index, is_estimated(index))).collect();
        line(&mut columns.iter().flat_map(|(index, is_estimated)| {
            let title = self.columns[*index].title;
            [Some(title.into()), is_estimated.then(|| format!("{title} IS ESTIMATE").into())].into_iter().flatten()
        }));
        for row in &self.rows {
            line(
                &mut columns
                    .iter()
                    .filter_map(|(index, is_estimated)| {
                        let cell = row.cells.get(*index)?;
                        let text = match cell.rank {
                            Rank::Text => cell.text.as_str().into(),
                            Rank::Number(None) => "".into(),
                            Rank::Number(Some(number)) => number.to_string().into(),
                        };
                        let mark = is_estimated.then(|| if cell.is_estimate() { "yes" } else { "no" }.into());
                        Some([Some(text), mark].into_iter().flatten())
                    })
                    .flatten(),
            );
        }
        out
    }
}

/// As RFC 4180 has it, and nothing that a spreadsheet would compute.
fn quoted(field: &str) -> String {
    let is_formula = field.starts_with(['=', '+', '@', '\t'])
        || (field.starts_with('-') && field.parse::<f64>().is_err() && field.len() > 1);
    let field = if is_formula { format!("'{field}") } else { field.to_owned() };
    if field.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}

/// A row under the names of its columns.
struct Picked<'a> {
    fields: &'a [String],
    row: &'a Row,
}

impl filter::Row for Picked<'_> {
    fn value(&self, field: &str) -> Value<'_> {
        let cell = self.fields.iter().position(|name| name == field).and_then(|index| self.row.cells.get(index));
        match cell {
            None => Value::Unknown,
            Some(cell) => match cell.rank {
                Rank::Text => Value::text(&cell.text),
                Rank::Number(number) => Value::number(number),
            },
        }
    }

    fn has_text(&self, text: &str) -> bool {
        let names = self.row.cells.iter().filter(|cell| cell.rank == Rank::Text).map(|cell| cell.text.as_str());
        names.chain([self.row.also.as_str()]).any(|name| name.to_lowercase().contains(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Align;

    fn list() -> List {
        let row = |name: &str, number: Option<f64>| {
            let cells = vec![Cell::new(name, Tone::Plain), Cell::number(number, |number| format!("{number:.0}"))];
            Row::new(Key::Row(name.to_owned()), cells)
        };
        let part = |name| Row { is_part: true, ..row(name, None) };
        let last = Row { stands_back: true, ..row("last", Some(99.0)) };
        let rows = vec![row("a", Some(1.25)), part("a.0"), row("b", None), row("c", Some(3.0)), last];
        let columns = vec![Column::flexible("NAME", 4, 9, 9), Column::fixed("COST $", Align::Right, 6, 8)];
        List { columns, rows }
    }

    fn names(list: &List) -> Vec<&str> {
        list.rows.iter().map(|row| row.cells[0].text.as_str()).collect()
    }

    #[test]
    fn parts_stay_with_what_they_are_of_and_the_unknown_comes_last() {
        let mut list = list();
        list.sort(1, true);
        assert_eq!(names(&list), ["c", "a", "a.0", "b", "last"]);
        list.sort(1, false);
        assert_eq!(names(&list), ["a", "a.0", "c", "b", "last"]);
        list.sort(0, true);
        assert_eq!(names(&list), ["c", "b", "a", "a.0", "last"]);
    }

    #[test]
    fn what_a_part_is_of_stays_with_it() {
        let picked = |text: &str| {
            let mut list = list();
            let filter = Filter::parse(text, &list.fields()).unwrap().unwrap();
            list.pick(&filter);
            names(&list).join(" ")
        };
        assert_eq!([picked("name:a"), picked("a.0"), picked("name:c")], ["a a.0 last", "a a.0", "c"]);
    }

    #[test]
    fn csv_has_numbers_in_full_and_nothing_that_a_spreadsheet_would_compute() {
        let mut list = list();
        list.rows.truncate(1);
        assert_eq!(list.to_csv(&[1, 0]), "COST $,NAME\n1.25,a\n");
        list.rows[0].cells[1].text = "~1.2".to_owned();
        assert_eq!(list.to_csv(&[1, 0]), "COST $,COST $ IS ESTIMATE,NAME\n1.25,yes,a\n");
        let quoted: Vec<String> = ["a,b", "say \"x\"", "=1+1", "-5", "-x", "@x", "-", "two\nlines"].map(quoted).into();
        assert_eq!(quoted, ["\"a,b\"", "\"say \"\"x\"\"\"", "'=1+1", "-5", "'-x", "'@x", "-", "\"two\nlines\""]);
    }
}
