//! Where things stand on a screen of any size.

use ratatui::layout::Rect;

use super::detail;
use super::state::State;
use super::views::Page;
use crate::list::Key;

/// Lines of the page before that stay in view when paging.
pub(crate) const PAGE_OVERLAP: usize = 2;

/// Lines that are paged through where columns are chosen.
pub(crate) const CHOICE_PAGE: usize = 10;

/// Title and column names of a table.
pub(crate) const TABLE_HEAD: u16 = 2;
/// Title and four lines.
const TOTALS: u16 = 5;
/// The same with sparklines two cells high.
const TALL_TOTALS: u16 = 9;
/// From this height of the body on, the totals may be tall.
const TALL_BODY: u16 = 40;
/// More GPUs than this have no line of history each: their processes need the room.
const MAX_HISTORIES: usize = 8;
/// Lines for what is said of one row that it may take from the others.
const ADVICE: u16 = 12;
/// Lines for two rows of histograms that they may take from the list of the same numbers.
const HISTOGRAMS: u16 = 12;
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

/// Where everything stands on a page; empty where there is no room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Areas {
    /// Above all lists: totals, facts.
    pub(crate) top: Rect,
    /// Between them and the lists: histograms, what GPUs did lately.
    pub(crate) middle: Rect,
    pub(crate) lists: Vec<Rect>,
}

impl Areas {
    /// Rows that a list has room for.
    pub(crate) fn rows(&self, list: usize) -> usize {
        self.lists.get(list).map_or(0, |area| usize::from(area.height.saturating_sub(TABLE_HEAD)))
    }
}

/// Where everything stands on the state's page.
pub(crate) fn areas(body: Rect, state: &State) -> Areas {
    match &state.page {
        Page::Main => main(body, state.focused_place()),
        Page::Charts | Page::Of(Key::Request(_) | Key::Row(_)) => Areas { top: body, ..Areas::default() },
        Page::Of(key) => of_one(body, detail::facts_height(state, key)),
        page => {
            let rows: Vec<usize> = state.shown.iter().map(|shown| shown.list.rows.len().max(1)).collect();
            let mut areas = Areas { lists: stack(body, &rows, state.focused_place()), ..Areas::default() };
            match page {
                Page::Gpus => areas.middle = gpu_histories(&mut areas.lists, &rows, state),
                Page::Findings => areas.middle = below(&mut areas.lists, &rows, ADVICE),
                Page::Compared(_) => areas.middle = below(&mut areas.lists, &rows, HISTOGRAMS),
                _ => {}
            }
            areas
        }
    }
}

/// Parts of the main page. Where there is room for one list, it is the one that has the keys.
fn main(body: Rect, focus: usize) -> Areas {
    let mut rest = body;
    let top = match body.height {
        TALL_BODY.. => TALL_TOTALS,
        height if height >= TOTALS + TABLE_HEAD + 3 => TOTALS,
        _ => 0,
    };
    let top = split_top(&mut rest, top);
    let requests = match focus {
        _ if rest.height >= BOTH_TABLES => rest.height * 2 / 5,
        0 => 0,
        _ => rest.height,
    };
    let processes = rest.height - requests;
    let processes = split_top(&mut rest, processes);
    Areas { top, lists: vec![processes, rest], ..Areas::default() }
}

/// Parts of the page of one process, model or the like, with so many lines of facts.
fn of_one(body: Rect, facts: u16) -> Areas {
    let mut rest = body;
    let top = split_top(&mut rest, facts.saturating_add(1));
    // Half of what is left, neither so low that no shape shows nor so high that it says no more.
    let histograms = (rest.height / 2).clamp(8, 16);
    let middle = split_top(&mut rest, histograms);
    Areas { top, middle, lists: vec![rest] }
}

/// Lists of so many rows below each other: each gets what it needs, or half. Where there is no room for a row of each, the one
/// that has the keys gets all of it.
fn stack(area: Rect, rows: &[usize], focus: usize) -> Vec<Rect> {
    let needed = |rows: usize| u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(TABLE_HEAD);
    let none = Rect { height: 0, ..area };
    match rows {
        [] => Vec::new(),
        [_] => vec![area],
        [..] if area.height < 2 * (TABLE_HEAD + 1) => {
            (0..rows.len()).map(|list| if list == focus { area } else { none }).collect()
        }
        [upper, lower, ..] => {
            let free = area.height.saturating_sub(needed(*lower));
            // A blank line between them only where nothing is left out for it.
            let height = needed(*upper).saturating_add(u16::from(needed(*upper) < free));
            let mut rest = area;
            vec![split_top(&mut rest, height.min(free.max(area.height / 2))), rest]
        }
    }
}

/// Below the only list, of so many rows: what is said of it, which takes up to so many lines from the list.
fn below(lists: &mut [Rect], rows: &[usize], most: u16) -> Rect {
    let ([list], [rows]) = (lists, rows) else { return Rect::default() };
    let needed = u16::try_from(*rows).unwrap_or(u16::MAX).saturating_add(TABLE_HEAD + 1);
    let mut rest = *list;
    *list = split_top(&mut rest, needed.min(list.height - (list.height * 2 / 5).min(most)));
    rest
}

/// Lines for what each GPU did lately, of what both lists leave; a blank one follows.
fn gpu_histories(lists: &mut [Rect], rows: &[usize], state: &State) -> Rect {
    let histories = state.snapshot().map_or(0, |snapshot| snapshot.gpus.len());
    let ([_, lower], [_, users]) = (lists, rows) else { return Rect::default() };
    let spare = usize::from(lower.height).saturating_sub(users + 3);
    if !(1..=MAX_HISTORIES).contains(&histories) || histories >= spare {
        return Rect::default();
    }
    split_top(lower, histories as u16 + 1)
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
                let main = main(page.body, 1);
                let all = main.top.height + main.lists.iter().map(|area| area.height).sum::<u16>();
                assert_eq!(all, page.body.height);
                assert_eq!(main.lists[1].bottom(), page.body.bottom());
                assert_eq!(of_one(page.body, 4).lists[0].bottom(), page.body.bottom());
            }
        }
    }

    #[test]
    fn of_two_lists_each_has_a_row_or_the_one_with_the_keys_has_all() {
        for height in 3..40 {
            for rows in [[8, 8], [8, 3], [2, 30], [1, 5], [5, 1], [40, 1]] {
                for focus in [0, 1] {
                    let area = Rect::new(0, 0, 10, height);
                    let lists = stack(area, &rows, focus);
                    assert_eq!(lists.iter().map(|area| area.height).sum::<u16>(), height);
                    let of = |list: usize| lists[list].height.saturating_sub(TABLE_HEAD);
                    assert!(of(focus) > 0 && (of(1 - focus) > 0 || of(focus) == height - TABLE_HEAD), "{lists:?}");
                    let is_whole = usize::from(of(0)) >= rows[0] && usize::from(of(1)) >= rows[1];
                    let fits = rows[0] + rows[1] + 2 * usize::from(TABLE_HEAD) <= usize::from(height);
                    assert!(is_whole || !fits, "{height} {rows:?}: {lists:?}");
                }
            }
        }
    }

    #[test]
    fn a_blank_line_is_worth_less_than_a_row() {
        let heights = |height| stack(Rect::new(0, 0, 10, height), &[3, 2], 0).iter().map(|area| area.height).collect();
        let both: [Vec<u16>; 2] = [heights(9), heights(10)];
        assert_eq!(both, [[5, 4], [6, 4]]);
    }

    #[test]
    fn the_usual_terminal_shows_all_panels() {
        let main = main(page((80, 24), 3).body, 0);
        assert!(main.top.height == TOTALS && main.rows(0) >= 6 && main.rows(1) >= 3, "{main:?}");
    }
}
