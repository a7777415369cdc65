//! Tables whose columns give way as the width shrinks, for the terminal and for plain text alike.

use std::cmp::Ordering;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::filter::Kind;
use crate::format::{ESTIMATE, UNKNOWN};
use crate::list::{List, Row};

/// Between two columns.
const GAP: usize = 1;

/// Which side of its column a cell leans on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// What a cell means; the theme turns it into a style, plain text ignores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Dim,
    Strong,
    Good,
    Warn,
    Bad,
    Accent,
}

/// What a cell is sorted and picked by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Rank {
    /// Its text.
    #[default]
    Text,
    /// What its text says, in full; None: it is not known.
    Number(Option<f64>),
}

/// A number of some kind.
pub(crate) trait Amount: Copy {
    fn amount(self) -> f64;
}

macro_rules! amounts {
    ($($kind:ty),*) => { $(impl Amount for $kind {
        fn amount(self) -> f64 {
            self as f64
        }
    })* };
}

amounts!(u16, u32, u64, usize, f64);

/// One cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cell {
    pub(crate) text: String,
    /// What is said behind the text, also where that is cut.
    pub(crate) mark: &'static str,
    pub(crate) tone: Tone,
    pub(crate) rank: Rank,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), mark: "", tone, rank: Rank::Text }
    }

    /// What is a name, or not known.
    pub(crate) fn name(text: Option<impl Into<String>>, tone: Tone) -> Self {
        text.map_or_else(|| Self::new(UNKNOWN, Tone::Dim), |text| Self::new(text, tone))
    }

    /// A number and how it is written.
    pub(crate) fn number<T: Amount>(value: Option<T>, text: impl FnOnce(T) -> String) -> Self {
        Self::written(value, value.map_or_else(|| UNKNOWN.to_owned(), text))
    }

    /// A number that is written so: what is unknown or nothing stands back, so that the eye finds what is there.
    pub(crate) fn written(value: Option<impl Amount>, text: String) -> Self {
        let tone = if text == UNKNOWN || text == "0" { Tone::Dim } else { Tone::Plain };
        Self { text, mark: "", tone, rank: Rank::Number(value.map(Amount::amount)) }
    }

    /// A number that is better at none.
    pub(crate) fn alarming<T: Amount>(value: Option<T>, text: impl FnOnce(T) -> String, tone: Tone) -> Self {
        let cell = Self::number(value, text);
        if value.is_some_and(|value| value.amount() > 0.0) { Self { tone, ..cell } } else { cell }
    }

    pub(crate) fn with_tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    /// Whether its number is marked as an estimate.
    pub(crate) fn is_estimate(&self) -> bool {
        matches!(self.rank, Rank::Number(Some(_))) && self.text.starts_with(ESTIMATE)
    }

    fn is_blank(&self) -> bool {
        self.text.is_empty() || self.text == UNKNOWN
    }

    /// Which of two cells of a column comes first. What is not known comes last, whichever way the order runs.
    pub(crate) fn compare(&self, other: &Self, descending: bool) -> Ordering {
        let run = |order: Ordering| if descending { order.reverse() } else { order };
        match (self.rank, other.rank) {
            (Rank::Number(Some(a)), Rank::Number(Some(b))) => run(a.total_cmp(&b)),
            (Rank::Number(a), Rank::Number(b)) => b.is_some().cmp(&a.is_some()),
            (Rank::Text, Rank::Text) => {
                self.is_blank().cmp(&other.is_blank()).then_with(|| run(self.text.cmp(&other.text)))
            }
            (Rank::Number(_), Rank::Text) => Ordering::Less,
            (Rank::Text, Rank::Number(_)) => Ordering::Greater,
        }
    }
}

/// How a column takes part in the layout, and in what is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) align: Align,
    /// Narrower than this and it is left out.
    pub(crate) min: usize,
    /// It takes spare width up to this.
    pub(crate) max: usize,
    /// The lowest goes first when width runs out.
    pub(crate) priority: u8,
    /// What it is called in a filter, where that is not its title.
    field: Option<&'static str>,
    /// What it has.
    pub(crate) kind: Kind,
    /// It is shown only where it is asked for.
    pub(crate) is_extra: bool,
}

impl Column {
    /// A column of one width: of names, if it leans left, or of numbers.
    pub(crate) const fn fixed(title: &'static str, align: Align, width: usize, priority: u8) -> Self {
        let kind = match align {
            Align::Left => Kind::Text,
            Align::Right => Kind::Number,
        };
        Self { title, align, min: width, max: width, priority, field: None, kind, is_extra: false }
    }

    /// A column of names that takes spare width.
    pub(crate) const fn flexible(title: &'static str, min: usize, max: usize, priority: u8) -> Self {
        Self { max, ..Self::fixed(title, Align::Left, min, priority) }
    }

    /// The same with another title.
    pub(crate) const fn titled(self, title: &'static str) -> Self {
        Self { title, ..self }
    }

    /// The same with names in it.
    pub(crate) const fn names(self) -> Self {
        Self { kind: Kind::Text, ..self }
    }

    /// The same with times in it.
    pub(crate) const fn seconds(self) -> Self {
        Self { kind: Kind::Seconds, ..self }
    }

    /// The same with sizes in it.
    pub(crate) const fn bytes(self) -> Self {
        Self { kind: Kind::Bytes, ..self }
    }

    /// The same of HTTP's answers.
    pub(crate) const fn status(self) -> Self {
        Self { kind: Kind::Status, ..self }
    }

    /// The same called otherwise in filters.
    pub(crate) const fn called(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    /// The same shown only where it is asked for.
    pub(crate) const fn extra(self) -> Self {
        Self { is_extra: true, ..self }
    }

    /// The same, if there is something for it, and otherwise only where it is asked for.
    pub(crate) const fn if_any(self, is_any: bool) -> Self {
        Self { is_extra: self.is_extra || !is_any, ..self }
    }

    /// What it is called in filters: `COST $` is `cost`, `TOK IN` is `tokin`.
    pub(crate) fn field(&self) -> String {
        let of_title = || {
            let title = self.title.trim_end_matches(['%', '$', ' ']);
            title.chars().filter(|c| *c != ' ').collect::<String>().to_lowercase()
        };
        self.field.map_or_else(of_title, str::to_owned)
    }
}

/// Those of the columns that are shown unless asked otherwise, by their places.
pub(crate) fn usual(columns: &[Column]) -> Vec<usize> {
    (0..columns.len()).filter(|index| !columns[*index].is_extra).collect()
}

/// A column that is shown: its place in the list of all columns, its offset and its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) index: usize,
    pub(crate) x: usize,
    pub(crate) width: usize,
}

/// Chooses those of the wanted columns that fit into `width`, in the order in which they are wanted, and shares out what is left.
pub(crate) fn fit(columns: &[Column], wanted: &[usize], width: usize) -> Vec<Placed> {
    let mut kept: Vec<usize> = wanted.to_vec();
    let needed =
        |kept: &[usize]| kept.iter().map(|&i| columns[i].min).sum::<usize>() + GAP * kept.len().saturating_sub(1);
    while kept.len() > 1 && needed(&kept) > width {
        // Of equals the rightmost goes first.
        let Some(position) = (0..kept.len()).rev().min_by_key(|&k| columns[kept[k]].priority) else { break };
        kept.remove(position);
    }
    let mut widths: Vec<usize> = kept.iter().map(|&i| columns[i].min.min(width)).collect();
    let mut spare = width.saturating_sub(needed(&kept));
    // One cell at a time in turn: columns that can grow do so evenly.
    while spare > 0 {
        let mut grew = false;
        for (k, &i) in kept.iter().enumerate() {
            if spare > 0 && widths[k] < columns[i].max {
                widths[k] += 1;
                spare -= 1;
                grew = true;
            }
        }
        if !grew {
            break;
        }
    }
    let mut x = 0;
    kept.iter()
        .zip(widths)
        .map(|(&index, width)| {
            let placed = Placed { index, x, width };
            x += width + GAP;
            placed
        })
        .collect()
}

/// The text cut or padded to exactly `width` terminal cells.
pub(crate) fn fill(text: &str, width: usize, align: Align, ellipsis: char) -> String {
    let cut = cut(text, width, ellipsis);
    let padding = " ".repeat(width.saturating_sub(cut.width()));
    match align {
        Align::Left => cut + &padding,
        Align::Right => padding + &cut,
    }
}

/// The same with a mark behind the text, which is cut for it.
pub(crate) fn fill_marked(text: &str, mark: &str, width: usize, align: Align, ellipsis: char) -> String {
    match width.checked_sub(mark.width()) {
        Some(room) if room > 0 => fill(&(cut(text, room, ellipsis) + mark), width, align, ellipsis),
        _ => fill(text, width, align, ellipsis),
    }
}

/// The text cut to at most `width` terminal cells, the last of which then says that something is missing.
pub(crate) fn cut(text: &str, width: usize, ellipsis: char) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let cells = c.width().unwrap_or(0);
        if used + cells + 1 > width {
            break;
        }
        used += cells;
        out.push(c);
    }
    if width > 0 {
        out.push(ellipsis);
    }
    out
}

/// Breaks text between words, or within a word that is longer than a line.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let used = lines.last().map_or(0, |line| line.width());
        if used > 0 && used + 1 + word.width() <= width {
            if let Some(line) = lines.last_mut() {
                line.push(' ');
            }
        } else if used > 0 {
            lines.push(String::new());
        }
        for c in word.chars() {
            let used = lines.last().map_or(0, |line| line.width());
            if used > 0 && used + c.width().unwrap_or(0) > width {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                line.push(c);
            }
        }
    }
    lines
}

/// A list's usual columns as lines of plain text, without trailing blanks. `width` None: as wide as they may grow.
pub(crate) fn plain(list: &List, width: Option<usize>) -> Vec<String> {
    let widened = |(i, column): (usize, &Column)| {
        // Nothing is cut that need not be: a flexible column is as wide as its widest cell.
        let widths = list.rows.iter().map(|row| row.cells[i].text.width() + row.cells[i].mark.width());
        let widest = widths.chain([column.title.width()]).max().unwrap_or(0);
        if column.min == column.max { *column } else { Column { max: widest.max(column.min), ..*column } }
    };
    let columns: Vec<Column> = list.columns.iter().enumerate().map(widened).collect();
    let unbounded = || columns.iter().map(|column| column.max + GAP).sum();
    let placed = fit(&columns, &usual(&columns), width.unwrap_or_else(unbounded));
    let line = |of: &dyn Fn(usize) -> (String, &'static str)| {
        let cells = placed.iter().map(|p| {
            let (text, mark) = of(p.index);
            fill_marked(&text, mark, p.width, columns[p.index].align, '+')
        });
        cells.collect::<Vec<_>>().join(" ").trim_end().to_owned()
    };
    let title = line(&|i| (columns[i].title.to_owned(), ""));
    let of_row = |row: &Row| line(&|i| (row.cells[i].text.clone(), row.cells[i].mark));
    std::iter::once(title).chain(list.rows.iter().map(of_row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Key;

    const COLUMNS: [Column; 4] = [
        Column::fixed("PID", Align::Right, 5, 9),
        Column::flexible("COMMAND", 6, 20, 8),
        Column::flexible("MODEL", 4, 20, 2),
        Column::fixed("ERR", Align::Right, 3, 5),
    ];

    fn names(width: usize) -> Vec<(&'static str, usize)> {
        fit(&COLUMNS, &[0, 1, 2, 3], width).iter().map(|p| (COLUMNS[p.index].title, p.width)).collect()
    }

    #[test]
    fn the_least_important_column_goes_first() {
        assert_eq!(names(21), [("PID", 5), ("COMMAND", 6), ("MODEL", 4), ("ERR", 3)]);
        assert_eq!(names(20), [("PID", 5), ("COMMAND", 10), ("ERR", 3)]);
        assert_eq!(names(15), [("PID", 5), ("COMMAND", 9)]);
        assert_eq!(names(11), [("PID", 5)]);
        assert_eq!(names(3), [("PID", 3)]);
        assert_eq!(names(0), [("PID", 0)]);
    }

    #[test]
    fn spare_width_is_shared_and_bounded() {
        assert_eq!(names(27), [("PID", 5), ("COMMAND", 9), ("MODEL", 7), ("ERR", 3)]);
        assert_eq!(names(500), [("PID", 5), ("COMMAND", 20), ("MODEL", 20), ("ERR", 3)]);
    }

    #[test]
    fn no_layout_is_wider_than_the_screen() {
        for width in 1..120 {
            let end = fit(&COLUMNS, &[0, 1, 2, 3], width).iter().map(|p| p.x + p.width).max();
            assert!(end.is_some_and(|end| end <= width), "{width}: {end:?}");
        }
    }

    #[test]
    fn wide_characters_are_never_cut_in_half() {
        assert_eq!(fill("模型模型", 5, Align::Left, '…'), "模型…");
        assert_eq!(fill("模型模型", 4, Align::Left, '…'), "模… ");
        assert_eq!(fill("ab", 4, Align::Right, '…'), "  ab");
        assert_eq!(fill("ab", 0, Align::Left, '…'), "");
    }

    #[test]
    fn a_mark_is_not_cut_with_its_text() {
        assert_eq!(fill_marked("curl", " (ended)", 14, Align::Left, '…'), "curl (ended)  ");
        assert_eq!(fill_marked("python3 agent.py", " (ended)", 14, Align::Left, '…'), "pytho… (ended)");
        assert_eq!(fill_marked("curl", " (ended)", 8, Align::Left, '…'), "curl    ", "there is no room for both");
    }

    #[test]
    fn plain_tables_keep_long_cells_whole() {
        let long = "a-model-name-that-is-longer-than-its-column";
        let cells = ["1", "python", long, "0"].map(|text| Cell::new(text, Tone::Plain)).to_vec();
        let list = List { columns: COLUMNS.to_vec(), rows: vec![Row::new(Key::Row(String::new()), cells)] };
        let lines = plain(&list, None);
        assert!(lines[1].contains(long), "{lines:?}");
        assert!(lines.iter().all(|line| line.trim_end() == line));
    }

    #[test]
    fn text_is_broken_between_words_and_never_lost() {
        assert_eq!(wrap("no privileges: run sudo", 10), ["no", "privileges", ": run sudo"]);
        assert_eq!(wrap("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("模型", 1), ["模", "型"]);
        assert_eq!(wrap("", 5), [""]);
    }
}
