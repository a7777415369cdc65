//! Where things stand on a screen of any size.

use ratatui::layout::Rect;

use super::state::Focus;
use crate::rows::ProcessColumn;
use crate::table::{self, Column, Placed};

/// Lines of the page before that stay in view when paging.
pub(crate) const PAGE_OVERLAP: usize = 2;

/// Title and column names of a table.
const TABLE_HEAD: u16 = 2;
/// Title and four lines.
const TOTALS: u16 = 5;
/// The same with sparklines two cells high.
const TALL_TOTALS: u16 = 9;
/// From this height of the body on, the totals may be tall.
const TALL_BODY: u16 = 40;
/// Both tables with three rows each.
const BOTH_TABLES: u16 = 2 * (TABLE_HEAD + 3);

/// The parts of the screen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageAreas {
    pub(crate) header: Rect,
    pub(crate) body: Rect,
    pub(crate) footer: Rect,
}

/// Header, body and footer; the header first, the footer last to get their lines.
pub(crate) fn page((width, height): (u16, u16), header: u16) -> PageAreas {
    let mut rest = Rect::new(0, 0, width, height);
    let header = split_top(&mut rest, header);
    // A body of one line is worth more than a footer.
    let footer = if rest.height > 1 { 1 } else { 0 };
    let body = rest.height - footer;
    let body = split_top(&mut rest, body);
    PageAreas { header, body, footer: rest }
}

/// The parts of the main page; empty where there is no room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MainAreas {
    pub(crate) totals: Rect,
    pub(crate) processes: Rect,
    pub(crate) requests: Rect,
}

impl MainAreas {
    pub(crate) fn process_rows(&self) -> usize {
        usize::from(self.processes.height.saturating_sub(TABLE_HEAD))
    }

    pub(crate) fn request_rows(&self) -> usize {
        usize::from(self.requests.height.saturating_sub(TABLE_HEAD))
    }
}

/// Parts of the main page. Where there is room for one table, it is the one with the focus.
pub(crate) fn main(body: Rect, focus: Focus) -> MainAreas {
    let mut rest = body;
    let totals = match body.height {
        TALL_BODY.. => TALL_TOTALS,
        height if height >= TOTALS + TABLE_HEAD + 3 => TOTALS,
        _ => 0,
    };
    let totals = split_top(&mut rest, totals);
    let requests = match focus {
        _ if rest.height >= BOTH_TABLES => rest.height * 2 / 5,
        Focus::Processes => 0,
        Focus::Requests => rest.height,
    };
    let processes = rest.height - requests;
    let processes = split_top(&mut rest, processes);
    MainAreas { totals, processes, requests: rest }
}

/// The parts of a process's page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DetailAreas {
    pub(crate) facts: Rect,
    pub(crate) histograms: Rect,
    pub(crate) requests: Rect,
}

/// Parts of a process's page with this many lines of facts.
pub(crate) fn detail(body: Rect, facts: u16) -> DetailAreas {
    let mut rest = body;
    let facts = split_top(&mut rest, facts.saturating_add(1));
    // Half of what is left, neither so low that no shape shows nor so high that it says no more.
    let histograms = (rest.height / 2).clamp(8, 16);
    let histograms = split_top(&mut rest, histograms);
    DetailAreas { facts, histograms, requests: rest }
}

/// Two tables below each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack {
    areas: [Rect; 2],
    /// Rows that each has no room for.
    hidden: [usize; 2],
    /// There is no room for a row of both: the lower one stands in the upper one's place once that is scrolled through.
    is_one_at_a_time: bool,
}

impl Stack {
    /// Tables of so many rows, or one alone: each gets what it needs, or half.
    pub(crate) fn new(area: Rect, upper: usize, lower: Option<usize>) -> Self {
        let needed = |rows: usize| u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(TABLE_HEAD);
        let rows = [upper, lower.unwrap_or(0)];
        let is_one_at_a_time = rows[1] > 0 && area.height < 2 * (TABLE_HEAD + 1);
        let areas = match lower {
            None => [area, Rect { height: 0, ..area }],
            Some(_) if is_one_at_a_time => [area; 2],
            Some(lower) => {
                let free = area.height.saturating_sub(needed(lower));
                // A blank line between them only where nothing is left out for it.
                let height = needed(upper).saturating_add(u16::from(needed(upper) < free));
                let mut rest = area;
                [split_top(&mut rest, height.min(free.max(area.height / 2))), rest]
            }
        };
        let hidden = [0, 1].map(|i| rows[i].saturating_sub(usize::from(areas[i].height.saturating_sub(TABLE_HEAD))));
        Self { areas, hidden, is_one_at_a_time }
    }

    /// How far it can be scrolled.
    pub(crate) fn limit(&self) -> usize {
        self.hidden[0] + self.hidden[1] + usize::from(self.is_one_at_a_time)
    }

    /// Where each table stands, and its first row there. The upper one is scrolled through before the lower one: what is
    /// seen whole stays where it is.
    pub(crate) fn at(&self, scroll: usize) -> [(Rect, usize); 2] {
        let [upper, lower] = self.areas;
        let beyond = scroll.saturating_sub(self.hidden[0]);
        let none = |area: Rect| (Rect { height: 0, ..area }, 0);
        match (self.is_one_at_a_time, beyond) {
            (true, 0) => [(upper, scroll), none(lower)],
            (true, beyond) => [none(upper), (lower, beyond - 1)],
            (false, beyond) => [(upper, scroll - beyond), (lower, beyond)],
        }
    }
}

/// Those of the process columns that a screen of this width has room for, both as places in [`ProcessColumn::ALL`].
pub(crate) fn process_columns(width: usize, wanted: &[usize]) -> Vec<Placed> {
    let columns: Vec<Column> = wanted.iter().map(|&index| ProcessColumn::ALL[index].column()).collect();
    let placed = table::fit(&columns, width).into_iter();
    placed.map(|place| Placed { index: wanted[place.index], ..place }).collect()
}

/// Cuts up to `height` lines off the top of an area.
pub(crate) fn split_top(area: &mut Rect, height: u16) -> Rect {
    let height = height.min(area.height);
    let top = Rect { height, ..*area };
    area.y += height;
    area.height -= height;
    top
}

/// One line of an area; empty where the area does not reach.
pub(crate) fn line(area: Rect, index: u16) -> Rect {
    if index < area.height { Rect { y: area.y + index, height: 1, ..area } } else { Rect { height: 0, ..area } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_screen_and_never_leave_it() {
        for height in 0..80 {
            for header in 0..6 {
                let page = page((10, height), header);
                assert_eq!(page.header.height + page.body.height + page.footer.height, height);
                let main = main(page.body, Focus::Requests);
                assert_eq!(main.totals.height + main.processes.height + main.requests.height, page.body.height);
                assert_eq!(main.requests.bottom(), page.body.bottom());
                let detail = detail(page.body, 4);
                assert_eq!(detail.requests.bottom(), page.body.bottom());
            }
        }
    }

    #[test]
    fn of_two_tables_every_row_can_be_reached_and_what_fits_stays() {
        for height in 3..40 {
            for (upper, lower) in [(8, 8), (8, 3), (2, 30), (0, 5), (5, 0), (40, 1)] {
                let stack = Stack::new(Rect::new(0, 0, 10, height), upper, Some(lower));
                let rows = |area: Rect| usize::from(area.height.saturating_sub(TABLE_HEAD));
                let mut seen = [0, 0];
                for scroll in 0..=stack.limit() {
                    let shown = stack.at(scroll);
                    for (i, count) in [upper, lower].into_iter().enumerate() {
                        let (area, top) = shown[i];
                        assert!(area.height == 0 || rows(area) < count || top == 0, "{height} {upper} {lower}");
                        seen[i] = seen[i].max((top + rows(area)).min(count));
                    }
                    assert!(shown[0].0.height + shown[1].0.height <= height);
                }
                assert_eq!(seen, [upper, lower], "{height}");
            }
        }
    }

    #[test]
    fn a_blank_line_is_worth_less_than_a_row() {
        let heights = |height| Stack::new(Rect::new(0, 0, 10, height), 3, Some(2)).at(0).map(|(area, _)| area.height);
        assert_eq!([heights(9), heights(10)], [[5, 4], [6, 4]]);
    }

    #[test]
    fn the_usual_terminal_shows_all_panels() {
        let main = main(page((80, 24), 3).body, Focus::Processes);
        assert!(main.totals.height == TOTALS && main.process_rows() >= 6 && main.request_rows() >= 3, "{main:?}");
    }
}
