//! Puts text into cells, never outside of the area it was given.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::UnicodeWidthStr;

use super::theme::Theme;
use crate::table::{self, Align, Cell, Tone};

/// A piece of text in one style.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) style: Style,
}

impl Piece {
    pub(crate) fn width(&self) -> usize {
        self.text.width()
    }
}

/// Width of pieces side by side.
pub(crate) fn width(pieces: &[Piece]) -> usize {
    pieces.iter().map(Piece::width).sum()
}

/// A buffer and how to draw in it.
pub(crate) struct Painter<'a> {
    pub(crate) buffer: &'a mut Buffer,
    pub(crate) theme: &'a Theme,
}

impl Painter<'_> {
    /// Text in the style of a tone.
    pub(crate) fn piece(&self, text: impl Into<String>, tone: Tone) -> Piece {
        Piece { text: text.into(), style: self.theme.tone(tone) }
    }

    /// Text at a place on an area's first line, cut at the area's right edge. Returns the cells used.
    pub(crate) fn text(&mut self, area: Rect, x: usize, text: &str, style: Style) -> usize {
        let area = area.intersection(self.buffer.area);
        let width = usize::from(area.width);
        if area.height == 0 || x >= width {
            return 0;
        }
        let text = table::cut(&self.theme.text(text), width - x, self.theme.symbols.ellipsis);
        // x is below a width that came from a u16.
        self.buffer.set_stringn(area.x + x as u16, area.y, &text, width - x, style);
        text.width()
    }

    /// Pieces side by side from the left.
    pub(crate) fn pieces(&mut self, area: Rect, pieces: &[Piece]) {
        let mut x = 0;
        for piece in pieces {
            x += self.text(area, x, &piece.text, piece.style);
        }
    }

    /// Pieces from the left, and others flush right where both fit.
    pub(crate) fn both_ends(&mut self, area: Rect, left: &[Piece], right: &[Piece]) {
        self.pieces(area, left);
        let (left, needed, available) = (width(left), width(right), usize::from(area.width));
        if left + 1 + needed <= available {
            let mut x = available - needed;
            for piece in right {
                x += self.text(area, x, &piece.text, piece.style);
            }
        }
    }

    /// A panel's title on a rule, with notes flush right.
    pub(crate) fn rule(&mut self, area: Rect, title: &str, notes: &str, focused: bool) {
        let rule = self.theme.symbols.rule;
        let width = usize::from(area.width);
        let style = self.theme.title(focused);
        let dim = self.theme.tone(Tone::Dim);
        self.text(area, 0, &rule.to_string().repeat(width), if focused { style } else { dim });
        let title = format!("{rule} {title} ");
        let used = self.text(area, 0, &title, style);
        // Where there is no room for all of the notes, the first.
        let first = notes.split(self.theme.symbols.separator).next().unwrap_or(notes);
        for notes in [notes, first].into_iter().filter(|notes| !notes.is_empty()) {
            let notes = format!(" {notes} {rule}");
            let needed = notes.width();
            if used + 2 + needed <= width {
                self.text(area, width - needed, &notes, dim);
                break;
            }
        }
    }

    /// A cell of a table, padded to its width; a selected row has one style from end to end.
    pub(crate) fn cell(&mut self, area: Rect, x: usize, width: usize, align: Align, cell: &Cell, row: Option<Style>) {
        let ellipsis = self.theme.symbols.ellipsis;
        let text = table::fill_marked(&self.theme.text(&cell.text), cell.mark, width, align, ellipsis);
        self.text(area, x, &text, row.unwrap_or_else(|| self.theme.tone(cell.tone)));
    }
}
