//! Lists as tables, and what goes with them.

use ratatui::layout::Rect;
use ratatui::style::Style;

use super::chart;
use super::layout;
use super::paint::Painter;
use super::state::State;
use super::views::Shown;
use crate::table::{self, Cell, Column, Placed, Tone};

/// A list under its title and the names of its columns.
pub(crate) fn list(painter: &mut Painter<'_>, area: Rect, state: &State, shown: &Shown) {
    let rows = &shown.list.rows;
    let columns = &shown.list.columns;
    let focused = state.has_focus(shown.id);
    let cursor = &state.look(shown.id).cursor;
    let height = usize::from(area.height.saturating_sub(2));
    painter.rule(layout::line(area, 0), &shown.title, &notes(painter, shown, cursor.top, height), focused);
    let placed = shown.placed(area.width);
    head(painter, layout::line(area, 1), columns, &placed, shown.sorted.map(|(column, _)| column));
    if rows.is_empty() {
        let style = painter.theme.tone(Tone::Dim);
        painter.text(layout::line(area, 2), 1, &shown.empty, style);
    }
    for (line, (position, row)) in (2_u16..).zip(rows.iter().enumerate().skip(cursor.top).take(height)) {
        let style = (focused && position == cursor.row).then(|| painter.theme.selected());
        for place in &placed {
            body_cell(painter, layout::line(area, line), columns, place, &row.cells[place.index], style);
        }
    }
}

/// What a list is sorted by, what else there is to say of it, and that there is more than what is seen.
fn notes(painter: &Painter<'_>, shown: &Shown, top: usize, height: usize) -> String {
    let symbols = &painter.theme.symbols;
    let order = shown.sorted.map(|(column, descending)| {
        let arrow = if descending { symbols.descending } else { symbols.ascending };
        format!("{} {arrow}", shown.list.columns[column].title)
    });
    let rows = shown.list.rows.len();
    let part = (rows > height && height > 0).then(|| format!("{}-{} of {rows}", top + 1, top + height));
    let notes = [order, shown.notes.clone(), part];
    notes.into_iter().flatten().collect::<Vec<_>>().join(symbols.separator)
}

/// One GPU's utilization lately, below each other.
pub(crate) fn gpu_history(painter: &mut Painter<'_>, area: Rect, state: &State, index: u32) {
    painter.rule(layout::line(area, 0), "Computes, up to 100 %", "", false);
    let width = usize::from(area.width).saturating_sub(2);
    let values = state.history().gpu(index, width);
    let height = usize::from(area.height.saturating_sub(2));
    let bars = chart::bars_up_to(&values, 100.0, height, &painter.theme.symbols.bars);
    for (line, row) in (1_u16..).zip(&bars) {
        painter.text(layout::line(area, line), 1 + width - values.len(), row, painter.theme.spark());
    }
}

/// A line for each GPU's utilization lately.
pub(crate) fn gpu_histories(painter: &mut Painter<'_>, area: Rect, state: &State) {
    const NAME: usize = 12;
    let gpus = state.snapshot().map_or(&[][..], |snapshot| &snapshot.gpus);
    let width = usize::from(area.width).saturating_sub(NAME + 1);
    for (line, gpu) in (0..area.height).zip(gpus) {
        let values = state.history().gpu(gpu.index, width);
        // In percent, so that a GPU that does little does not look busy.
        let bars = chart::bars_up_to(&values, 100.0, 1, &painter.theme.symbols.bars);
        let name = format!("GPU {} util", gpu.index);
        painter.text(layout::line(area, line), 1, &name, painter.theme.tone(Tone::Dim));
        let x = NAME + 1 + width - values.len();
        painter.text(layout::line(area, line), x, &bars[0], painter.theme.spark());
    }
}

fn head(painter: &mut Painter<'_>, area: Rect, columns: &[Column], placed: &[Placed], sorted: Option<usize>) {
    for place in placed {
        let column = columns[place.index];
        let style = painter.theme.table_head(sorted == Some(place.index));
        let text = table::fill(column.title, place.width, column.align, painter.theme.symbols.ellipsis);
        painter.text(area, place.x, &text, style);
    }
}

fn body_cell(
    painter: &mut Painter<'_>,
    area: Rect,
    columns: &[Column],
    place: &Placed,
    cell: &Cell,
    selected: Option<Style>,
) {
    painter.cell(area, place.x, place.width, columns[place.index].align, cell, selected);
    if let Some(style) = selected {
        // A selected row is one bar: its gaps, and what lies behind its last column, belong to it.
        painter.text(area, place.x + place.width, " ", style);
    }
}
