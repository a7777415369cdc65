//! Screens as they are drawn, and the state behind them.

use std::sync::{Arc, Mutex};

use crossterm::event::KeyCode;
use hbpf_core::snapshot::Snapshot;
use hbpf_host::protocol::Group;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};

use super::state::{Action, Effect, Motion, Overlay, State};
use super::theme::{Environment, Palette, Theme};
use super::time::{Jump, Source};
use super::views::{ListId, Page};
use super::{draw, input};
use crate::fixture;
use crate::list::{Key, List};
use crate::recording::{Keep, Timeline};

pub(super) const UTF8: Environment = Environment { palette: Palette::Default, no_color: false, utf8: true };

fn fresh(source: Source, size: (u16, u16)) -> State {
    State::new(source, Arc::new(Mutex::new(Timeline::new(Keep::WATCHED).unwrap())), size)
}

fn update(state: &mut State, snapshot: Snapshot) {
    state.time.timeline().push(Arc::new(snapshot)).unwrap();
    state.apply(Action::News);
}

/// A view that has watched load rise and fall for a while.
pub(super) fn watched(size: (u16, u16)) -> State {
    let mut state = fresh(Source::Live, size);
    let rich = fixture::rich();
    for i in 0..90_u32 {
        let mut snapshot = rich.clone();
        let swing = 0.6 + 0.4 * (f64::from(i) * 0.21).sin();
        let totals = &mut snapshot.totals;
        let scale = |value: Option<f64>| value.map(|value| value * swing);
        totals.requests_per_second = scale(totals.requests_per_second);
        totals.tokens_per_second.output = scale(totals.tokens_per_second.output);
        totals.tokens_per_second.input = if i % 7 == 0 { None } else { scale(totals.tokens_per_second.input) };
        update(&mut state, snapshot);
    }
    update(&mut state, rich);
    state
}

fn with(size: (u16, u16), snapshot: Snapshot) -> State {
    let mut state = fresh(Source::Live, size);
    update(&mut state, snapshot);
    state
}

fn terminal(state: &State, environment: &Environment) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(state.size.0, state.size.1)).unwrap();
    let theme = Theme::new(environment);
    terminal.draw(|frame| draw::frame(frame, state, &theme)).unwrap();
    terminal
}

fn screen(state: &State) -> String {
    let buffer = terminal(state, &UTF8).backend().buffer().clone();
    let line = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..buffer.area.height).map(line).collect::<Vec<_>>().join("\n")
}

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (200, 60)];

#[test]
fn main_page() {
    for size in SIZES {
        insta::assert_snapshot!(format!("main_{}x{}", size.0, size.1), screen(&watched(size)));
    }
}

#[test]
fn process_page() {
    for size in SIZES {
        let mut state = watched(size);
        // The proxy: both roles, partly visible.
        state.apply(Action::Move(Motion::Down));
        state.apply(Action::Move(Motion::Down));
        state.apply(Action::Open);
        insta::assert_snapshot!(format!("process_{}x{}", size.0, size.1), screen(&state));
    }
}

#[test]
fn models_page() {
    for size in SIZES {
        let mut state = watched(size);
        state.apply(Action::ToggleModels);
        insta::assert_snapshot!(format!("models_{}x{}", size.0, size.1), screen(&state));
        state.apply(Action::Open);
        insta::assert_snapshot!(format!("model_{}x{}", size.0, size.1), screen(&state));
        state.apply(Action::Back);
        state.apply(Action::Back);
        assert_eq!(state.page, Page::Main);
    }
}

#[test]
fn disks_connections_and_devices_page() {
    for size in SIZES {
        let mut state = fresh(Source::Live, size);
        update(&mut state, fixture::counted());
        state.apply(Action::ToggleInOut);
        insta::assert_snapshot!(format!("inout_{}x{}", size.0, size.1), screen(&state));
    }
    let mut state = watched((80, 24));
    state.apply(Action::ToggleInOut);
    let shown = screen(&state);
    assert!(shown.contains("no use of disks, connections or GPU devices was seen yet"), "{shown}");
    assert!(shown.contains("off: 4 block  5 net  6 device"), "{shown}");
}

#[test]
fn a_process_page_says_what_was_counted_of_it() {
    let mut state = fresh(Source::Live, (120, 40));
    update(&mut state, fixture::counted());
    while selected_pid(&state) != 1291 {
        state.apply(Action::Move(Motion::Down));
    }
    state.apply(Action::Open);
    let shown = screen(&state);
    for fact in ["disk nvme0n1", "reads 94", "connected 0", "device nvidia0 open 2 of 3"] {
        assert!(shown.contains(fact), "{fact}: {shown}");
    }
}

#[test]
fn workloads_page() {
    for size in SIZES {
        let mut state = watched(size);
        state.apply(Action::ToggleWorkloads);
        insta::assert_snapshot!(format!("workloads_{}x{}", size.0, size.1), screen(&state));
        state.apply(Action::Back);
        assert_eq!(state.page, Page::Main);
    }
}

#[test]
fn a_process_page_says_what_holds_the_process_up() {
    let mut state = watched((120, 40));
    while selected_pid(&state) != 1291 {
        state.apply(Action::Move(Motion::Down));
    }
    state.apply(Action::Open);
    insta::assert_snapshot!(screen(&state));
}

#[test]
fn gpus_page() {
    for size in SIZES {
        let mut snapshot = fixture::rich();
        snapshot.gpus = fixture::gpus();
        let mut state = with(size, snapshot.clone());
        for percent in [5.0, 50.0, 100.0] {
            snapshot.gpus[0].utilization_percent = Some(percent);
            update(&mut state, snapshot.clone());
        }
        insta::assert_snapshot!(format!("main_with_gpus_{}x{}", size.0, size.1), screen(&state));
        state.apply(Action::ToggleGpus);
        insta::assert_snapshot!(format!("gpus_{}x{}", size.0, size.1), screen(&state));
        state.apply(Action::Back);
        assert_eq!(state.page, Page::Main);
    }
}

/// Eight GPUs with a process each, one of them lost and one that does not tell its power.
fn many_gpus() -> Snapshot {
    let mut snapshot = fixture::rich();
    let [whole, lost] = &fixture::gpus()[..] else { panic!() };
    snapshot.gpus = vec![whole.clone(); 8];
    snapshot.gpus[4].power_watts = None;
    snapshot.gpus[6] = lost.clone();
    for (gpu, index) in snapshot.gpus.iter_mut().zip(0..) {
        gpu.index = index;
        gpu.processes.truncate(1);
    }
    snapshot
}

#[test]
fn more_gpus_than_fit_are_counted_and_scrolled_before_their_processes() {
    let mut state = with((80, 24), many_gpus());
    state.apply(Action::ToggleGpus);
    insta::assert_snapshot!(screen(&state));
    let lower = |state: &State| screen(state).split_once("Processes on GPUs").expect("a table").1.to_owned();
    let before = lower(&state);
    for _ in 0..6 {
        state.apply(Action::Move(Motion::Down));
    }
    assert_eq!(lower(&state), before);
    assert!(screen(&state).contains("2-7 of 8"), "{}", screen(&state));
    state.apply(Action::Move(Motion::End));
    assert!(screen(&state).contains("3-8 of 8"), "{}", screen(&state));
}

#[test]
fn low_and_narrow_screens_have_rows_before_all_else() {
    let snapshot = Snapshot { findings: fixture::findings(), ..fixture::counted() };
    for size in [(90, 10), (40, 12)] {
        let mut state = with(size, snapshot.clone());
        state.apply(Action::ToggleInOut);
        insta::assert_snapshot!(format!("inout_{}x{}", size.0, size.1), screen(&state));
        state.apply(Action::SwitchFocus);
        state.apply(Action::Move(Motion::End));
        assert!(screen(&state).contains("nvme0n1"), "{}", screen(&state));
    }
}

#[test]
fn engines_page() {
    for size in SIZES {
        let mut snapshot = fixture::rich();
        snapshot.engines = fixture::engines();
        let mut state = with(size, snapshot.clone());
        for running in [2.0, 9.0, 17.0] {
            snapshot.engines[0].requests_running = Some(running);
            update(&mut state, snapshot.clone());
        }
        insta::assert_snapshot!(format!("main_with_engines_{}x{}", size.0, size.1), screen(&state));
        state.apply(Action::ToggleEngines);
        insta::assert_snapshot!(format!("engines_{}x{}", size.0, size.1), screen(&state));
        state.apply(Action::Back);
        while selected_pid(&state) != 1291 {
            state.apply(Action::Move(Motion::Down));
        }
        state.apply(Action::Open);
        insta::assert_snapshot!(format!("process_that_is_an_engine_{}x{}", size.0, size.1), screen(&state));
    }
}

/// The rows of a list that are shown.
fn list(state: &State, id: ListId) -> &List {
    &state.shown.iter().find(|shown| shown.id == id).expect("a list of the page").list
}

fn count(state: &State) -> usize {
    list(state, ListId::Processes).rows.len()
}

fn type_text(state: &mut State, text: &str) {
    state.apply(Action::Filter);
    for typed in text.chars() {
        state.apply(Action::Typed(typed));
    }
}

#[test]
fn rows_are_picked_while_one_types() {
    let mut state = watched((80, 24));
    let all = count(&state);
    type_text(&mut state, "model:qwen");
    insta::assert_snapshot!("filter_typed", screen(&state));
    assert_eq!(count(&state), 1);
    state.apply(Action::Open);
    assert!(!state.is_typing() && count(&state) == 1 && state.page == Page::Main);
    // What cannot be read is told, and waits to be mended.
    type_text(&mut state, " modle:x");
    assert!(screen(&state).contains("there is no field \"modle\"; is it model?"), "{}", screen(&state));
    state.apply(Action::Open);
    assert!(state.is_typing());
    state.apply(Action::Back);
    assert!(!state.is_typing() && count(&state) == 1, "what held before holds");
    state.apply(Action::Back);
    assert_eq!(count(&state), all, "and is taken away");
    type_text(&mut state, "nobody");
    assert!(screen(&state).contains("no row fits the filter"));
    state.apply(Action::EraseAll);
    assert_eq!(count(&state), all);
}

#[test]
fn each_table_has_its_own_filter() {
    let mut state = watched((120, 40));
    let rows = |state: &State| list(state, ListId::Requests).rows.len();
    let all = rows(&state);
    state.apply(Action::SwitchFocus);
    type_text(&mut state, "phase:streaming");
    state.apply(Action::Open);
    assert!((1..all).contains(&rows(&state)));
    let shown = screen(&state);
    assert!(shown.contains("/phase:streaming") && shown.contains("postgres"), "{shown}");
    // Another snapshot changes nothing of that.
    update(&mut state, fixture::rich());
    assert!(list(&state, ListId::Requests).rows.iter().all(|row| row.cells[0].text == "streaming"));
}

#[test]
fn errors_and_that_there_are_none() {
    for size in SIZES {
        let mut state = with(size, fixture::rich());
        state.apply(Action::ToggleErrors);
        insta::assert_snapshot!(format!("errors_{}x{}", size.0, size.1), screen(&state));
    }
    let mut nothing = Snapshot { endpoints: Vec::new(), ..fixture::rich() };
    (nothing.totals.failed_total, nothing.totals.abandoned_total) = (0, 0);
    let mut state = with((80, 24), nothing);
    state.apply(Action::ToggleErrors);
    assert!(screen(&state).contains("no request has failed"), "{}", screen(&state));
}

#[test]
fn tools_and_that_there_are_none() {
    for size in SIZES {
        let mut state = with(size, fixture::rich());
        state.apply(Action::ToggleTools);
        insta::assert_snapshot!(format!("tools_{}x{}", size.0, size.1), screen(&state));
    }
    let mut state = with((80, 24), Snapshot { tools: Vec::new(), ..fixture::rich() });
    assert!(!screen(&state).contains("c tools"));
    state.apply(Action::ToggleTools);
    assert!(screen(&state).contains("no MCP server was asked"), "{}", screen(&state));
}

#[test]
fn without_engines_the_page_says_so_and_nothing_else_changes() {
    let mut state = watched((80, 24));
    let before = screen(&state);
    state.apply(Action::ToggleEngines);
    assert!(screen(&state).contains("no inference server"), "{}", screen(&state));
    state.apply(Action::Back);
    assert_eq!(screen(&state), before);
}

#[test]
fn without_gpus_the_page_says_so_and_nothing_else_changes() {
    let mut state = watched((80, 24));
    let before = screen(&state);
    state.apply(Action::ToggleGpus);
    assert!(screen(&state).contains("no GPU is read"), "{}", screen(&state));
    state.apply(Action::Back);
    assert_eq!(screen(&state), before);
}

#[test]
fn probes_page() {
    for size in SIZES {
        let mut state = watched(size);
        state.apply(Action::ToggleProbes);
        insta::assert_snapshot!(format!("probes_{}x{}", size.0, size.1), screen(&state));
        state.apply(Action::Back);
        assert_eq!(state.page, Page::Main);
    }
}

#[test]
fn what_runs_is_unknown_while_nothing_is_watched() {
    let mut snapshot = fixture::rich();
    snapshot.totals.tokens_in_progress.output = None;
    snapshot.processes[0].as_client.as_mut().expect("a client").tokens_in_progress.output = None;
    let mut state = with((120, 40), snapshot);
    let words = |state: &State| screen(state).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&state).contains("running - "), "{}", screen(&state));
    while selected_pid(&state) != 41_822 {
        state.apply(Action::Move(Motion::Down));
    }
    state.apply(Action::Open);
    assert!(words(&state).contains("running - "), "{}", screen(&state));
}

#[test]
fn what_was_given_up_for_the_budget_stands_in_the_header() {
    let mut snapshot = fixture::rich();
    snapshot.findings = vec![hbpf_core::findings::group_detached(
        hbpf_core::findings::TooDear { since: snapshot.captured_at, percent: 3.0, budget_percent: 2.0 },
        "llm-tls",
        1,
        2.5,
    )];
    let mut state = fresh(Source::Live, (120, 40));
    update(&mut state, snapshot);
    let screen = screen(&state);
    assert!(screen.contains("! llm-tls was switched off, for the overhead stayed above"), "{screen}");
}

#[test]
fn before_the_first_sample() {
    insta::assert_snapshot!(screen(&fresh(Source::Live, (80, 24))));
}

#[test]
fn nothing_seen_yet() {
    insta::assert_snapshot!(screen(&with((80, 24), fixture::empty())));
}

#[test]
fn without_privileges() {
    insta::assert_snapshot!(screen(&with((80, 24), fixture::unprivileged())));
}

#[test]
fn request_page_help_and_problems() {
    for size in SIZES {
        let name = |what: &str| format!("{what}_{}x{}", size.0, size.1);
        let mut state = watched(size);
        state.apply(Action::SwitchFocus);
        state.apply(Action::Move(Motion::Down));
        state.apply(Action::Open);
        insta::assert_snapshot!(name("request"), screen(&state));
        state.apply(Action::Show(Overlay::Help));
        insta::assert_snapshot!(name("help"), screen(&state));
        let mut state = with(size, fixture::unprivileged());
        state.apply(Action::ToggleFindings);
        insta::assert_snapshot!(name("problems"), screen(&state));
        let mut state = with(size, Snapshot { findings: fixture::findings(), ..fixture::rich() });
        state.apply(Action::ToggleFindings);
        insta::assert_snapshot!(name("findings"), screen(&state));
    }
}

#[test]
fn findings_can_be_read_on_a_small_screen() {
    let mut state = with((80, 24), Snapshot { findings: fixture::findings(), ..fixture::unprivileged() });
    let words = |screen: &str| screen.split_whitespace().collect::<Vec<_>>().join(" ");
    let main = screen(&state);
    assert!(words(&main).contains("tokens of some answers are a lower bound"), "the first, to its end: {main}");
    state.apply(Action::ToggleFindings);
    // All words of what is selected, whatever the width.
    for width in [20, 39, 40, 80, 200] {
        state.apply(Action::Resize(width, 100));
        state.apply(Action::Move(Motion::Home));
        for _ in 0..4 {
            let selected = state.focused().unwrap().list.rows[state.look(ListId::Findings).cursor.row].clone();
            let (advice, _) = crate::findings::advice(state.snapshot().unwrap(), &selected).expect("a finding");
            let shown = words(&screen(&state));
            assert!(shown.contains(&advice) && shown.contains(&selected.cells[2].text), "{width}: {shown}");
            state.apply(Action::Move(Motion::Down));
        }
    }
}

#[test]
fn ascii_terminals_get_ascii() {
    let buffer = terminal(&watched((120, 40)), &Environment::default()).backend().buffer().clone();
    assert!(buffer.content.iter().all(|cell| cell.symbol().is_ascii()));
    // The bars must still show something.
    assert!(buffer.content.iter().any(|cell| cell.symbol() == "#"));
}

#[test]
fn no_size_panics() {
    let actions: [&[Action]; 17] = [
        &[Action::ToggleTools, Action::Move(Motion::End)],
        &[Action::ToggleEngines, Action::Move(Motion::End)],
        &[Action::ToggleInOut, Action::Move(Motion::End)],
        &[Action::ToggleProbes, Action::Move(Motion::End)],
        &[Action::ToggleModels, Action::Move(Motion::End)],
        &[Action::ToggleWorkloads, Action::Move(Motion::End)],
        &[Action::ToggleCharts, Action::ToggleSpan],
        &[Action::ToggleFindings, Action::Move(Motion::End)],
        &[Action::ToggleModels, Action::Open, Action::Open],
        &[Action::Show(Overlay::Columns), Action::Move(Motion::End)],
        &[Action::ToggleGpus, Action::Move(Motion::End)],
        &[],
        &[Action::SwitchFocus, Action::Move(Motion::End)],
        &[Action::Open, Action::Move(Motion::End)],
        &[Action::SwitchFocus, Action::Open],
        &[Action::Show(Overlay::Help), Action::Move(Motion::End)],
        &[Action::TogglePause],
    ];
    let sizes = || (1..=40).flat_map(|width| (1..=20).map(move |height| (width, height)));
    let theme = Theme::new(&UTF8);
    let full = Snapshot { engines: fixture::engines(), gpus: fixture::gpus(), ..fixture::counted() };
    for snapshot in [Some(full), Some(fixture::unprivileged()), None] {
        for actions in actions {
            let mut state = fresh(Source::Live, (80, 24));
            if let Some(snapshot) = &snapshot {
                update(&mut state, snapshot.clone());
            }
            for action in actions {
                state.apply(action.clone());
            }
            for size in sizes().chain([(79, 24), (132, 1), (1, 80), (300, 100)]) {
                state.apply(Action::Resize(size.0, size.1));
                let mut buffer = Buffer::empty(Rect::new(0, 0, size.0, size.1));
                draw::draw(&mut buffer, &state, &theme);
            }
            // Between a change of size and the news of it the screen is another than the state thinks.
            let mut buffer = Buffer::empty(Rect::new(0, 0, 7, 3));
            draw::draw(&mut buffer, &state, &theme);
        }
    }
}

/// The first cell of a text on the screen.
fn cell_of(terminal: &Terminal<TestBackend>, text: &str) -> ratatui::buffer::Cell {
    let buffer = terminal.backend().buffer();
    for y in 0..buffer.area.height {
        let line: Vec<&str> = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
        if let Some(at) = line.concat().find(text) {
            let x = line.concat()[..at].chars().count() as u16;
            return buffer[(x, y)].clone();
        }
    }
    panic!("{text:?} is not on the screen");
}

#[test]
fn styles_say_what_matters() {
    let colored = terminal(&watched((200, 60)), &UTF8);
    assert_eq!(cell_of(&colored, "LOST").fg, Color::Red);
    assert_eq!(cell_of(&colored, "BLIND").fg, Color::Red);
    assert!(cell_of(&colored, "LIVE").modifier.contains(Modifier::REVERSED));
    assert!(cell_of(&colored, "1291").modifier.contains(Modifier::REVERSED), "the top row is selected");
    assert!(cell_of(&colored, "postgres").modifier.contains(Modifier::DIM));

    let plain = terminal(&watched((120, 40)), &Environment { no_color: true, ..UTF8 });
    let buffer = plain.backend().buffer();
    assert!(buffer.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    assert!(cell_of(&plain, "1291").modifier.contains(Modifier::REVERSED), "selection shows without colours");
}

fn pid(key: &Key) -> u32 {
    let Key::Process((pid, _)) = key else { panic!("{key:?} is no process") };
    *pid
}

fn row(state: &State) -> usize {
    state.look(ListId::Processes).cursor.row
}

fn selected_pid(state: &State) -> u32 {
    pid(&list(state, ListId::Processes).rows[row(state)].key)
}

#[test]
fn the_selection_follows_its_process_not_its_row() {
    let mut state = watched((80, 24));
    assert_eq!(selected_pid(&state), 1291, "most output tokens a second first");
    state.apply(Action::Move(Motion::Down));
    assert_eq!(selected_pid(&state), 41_822);
    let mut snapshot = fixture::rich();
    snapshot.processes[0].as_client.as_mut().unwrap().tokens_per_second.output = Some(99_999.0);
    snapshot.processes.reverse();
    update(&mut state, snapshot.clone());
    assert_eq!((selected_pid(&state), row(&state)), (41_822, 0));
    // The pid is taken by another process: that is not the one selected.
    let process = snapshot.processes.iter_mut().find(|process| process.pid == 41_822).unwrap();
    process.start_time = None;
    process.as_client = None;
    update(&mut state, snapshot);
    assert_ne!(selected_pid(&state), 41_822);
}

#[test]
fn unsorted_until_moved_the_selection_stays_on_top() {
    let mut state = watched((80, 24));
    let mut snapshot = fixture::rich();
    snapshot.processes[0].as_client.as_mut().unwrap().tokens_per_second.output = Some(99_999.0);
    update(&mut state, snapshot);
    assert_eq!((selected_pid(&state), row(&state)), (41_822, 0));
}

#[test]
fn sorting_moves_through_the_shown_columns_and_keeps_the_unknown_last() {
    let mut state = watched((200, 60));
    let pids =
        |state: &State| -> Vec<u32> { list(state, ListId::Processes).rows.iter().map(|row| pid(&row.key)).collect() };
    assert_eq!(pids(&state), [1291, 41_822, 3310, 52_007, 61_100, 901, 1]);
    state.apply(Action::SortInvert);
    assert_eq!(pids(&state)[..4], [52_007, 3310, 41_822, 1291], "no traffic stays below whichever way");
    let sorted = |state: &State| state.look(ListId::Processes).sort.map(|(title, _)| title).unwrap_or_default();
    while sorted(&state) != "CPU%" {
        state.apply(Action::SortRight);
    }
    assert_eq!(pids(&state), [1291, 41_822, 3310, 61_100, 52_007, 901, 1]);
    state.apply(Action::SortInvert);
    assert_eq!(pids(&state), [61_100, 3310, 41_822, 1291, 52_007, 1, 901], "the one without a number last");
    state.apply(Action::SortLeft);
    assert_eq!(sorted(&state), "ERR");

    let mut narrow = watched((80, 24));
    for _ in 0..list(&narrow, ListId::Processes).columns.len() {
        narrow.apply(Action::SortRight);
        assert!(screen(&narrow).contains(sorted(&narrow)), "{}", sorted(&narrow));
    }
}

#[test]
fn pausing_freezes_the_view_while_collection_goes_on() {
    let mut state = watched((80, 24));
    state.apply(Action::TogglePause);
    let body = |screen: &str| screen.split_once('\n').expect("lines").1.to_owned();
    let before = screen(&state);
    assert!(before.contains("FROZEN 0s ago"), "{before}");
    let mut later = fixture::rich();
    later.captured_at += jiff::SignedDuration::from_secs(75);
    later.totals.tokens_per_second.output = Some(7.0);
    update(&mut state, later);
    let after = screen(&state);
    assert!(after.contains("FROZEN 1m15s ago"), "{after}");
    assert_eq!(body(&after), body(&before));
    state.apply(Action::TogglePause);
    let live = screen(&state);
    assert!(live.contains("LIVE") && live.contains("~7.00/s"), "{live}");
}

#[test]
fn probe_groups_are_toggled_from_what_they_are_now() {
    let mut state = watched((80, 24));
    assert_eq!(state.apply(Action::ToggleGroup(0)), Effect::SetGroup(Group::LlmTls, false));
    assert!(screen(&state).contains("1●llm-tls stopping"));
    assert_eq!(state.apply(Action::ToggleGroup(0)), Effect::SetGroup(Group::LlmTls, true), "pressed again: back");
    assert_eq!(state.apply(Action::ToggleGroup(7)), Effect::None);
    state.apply(Action::ToggleGroup(0));
    let mut off = fixture::rich();
    for probe in &mut off.capture.probes[..2] {
        probe.state = hbpf_core::snapshot::ProbeState::Off;
    }
    update(&mut state, off);
    assert!(screen(&state).contains("1○llm-tls off"));
    assert_eq!(state.apply(Action::ToggleGroup(0)), Effect::SetGroup(Group::LlmTls, true));

    let mut replay = fresh(Source::Replay, (80, 24));
    update(&mut replay, fixture::rich());
    assert_eq!(replay.apply(Action::ToggleGroup(0)), Effect::None, "a recording has no probes");
}

#[test]
fn pages_open_and_close() {
    let mut state = watched((80, 24));
    state.apply(Action::Open);
    assert!(matches!(state.page, Page::Of(Key::Process((1291, Some(_))))));
    state.apply(Action::Show(Overlay::Help));
    state.apply(Action::Back);
    assert!(matches!(state.page, Page::Of(_)), "the overlay closes first");
    let mut gone = fixture::rich();
    gone.processes.retain(|process| process.pid != 1291);
    update(&mut state, gone);
    assert!(screen(&state).contains("it is gone and its numbers have expired"));
    state.apply(Action::Back);
    assert_eq!(state.page, Page::Main);
    state.apply(Action::SwitchFocus);
    assert!(state.has_focus(ListId::Requests));
}

#[test]
fn the_keys_of_pages_work_from_everywhere() {
    let pages = [
        (Action::ToggleModels, Page::Models),
        (Action::ToggleWorkloads, Page::Workloads),
        (Action::ToggleGpus, Page::Gpus),
        (Action::ToggleEngines, Page::Engines),
        (Action::ToggleTools, Page::Tools),
        (Action::ToggleInOut, Page::InOut),
        (Action::ToggleProbes, Page::Probes),
        (Action::ToggleFindings, Page::Findings),
    ];
    for (from, _) in &pages {
        for (to, page) in &pages {
            let mut state = with((80, 24), fixture::rich());
            state.apply(from.clone());
            state.apply(Action::Show(Overlay::Help));
            state.apply(to.clone());
            assert_eq!((&state.page, state.overlay), (page, None));
        }
    }
}

#[test]
fn a_proxy_shows_each_role_apart() {
    let mut state = watched((120, 40));
    while selected_pid(&state) != 3310 {
        state.apply(Action::Move(Motion::Down));
    }
    state.apply(Action::Open);
    assert!(screen(&state).contains("as server") && screen(&state).contains("requests 700 "));
    state.apply(Action::ToggleRole);
    assert!(screen(&state).contains("as client") && screen(&state).contains("requests 640 "));
}

#[test]
fn an_end_of_the_collection_is_said_and_the_last_view_stays() {
    let mut state = watched((80, 24));
    state.apply(Action::Ended("the helper is gone".to_owned()));
    let screen = screen(&state);
    assert!(screen.contains("ENDED") && screen.contains("the helper is gone"), "{screen}");
    assert!(screen.contains("llm-tls gone") && !screen.contains("llm-tls on"), "{screen}");
    assert!(screen.contains("vllm serve"));
}

#[test]
fn after_the_end_of_the_collection_the_view_says_how_old_it_is_paused_or_not() {
    let last = fixture::rich();
    let end = last.captured_at;
    let at = |seconds| Action::Clock(end + jiff::SignedDuration::from_secs(seconds));
    let ended = || Action::Ended("the helper is gone".to_owned());
    let head = |state: &State| screen(state).lines().next().unwrap_or_default().to_owned();
    let mut state = with((120, 24), last.clone());
    for action in [ended(), at(1), at(50)] {
        state.apply(action);
    }
    assert!(head(&state).contains(" ENDED 49s ago "), "{}", head(&state));
    state.apply(Action::TogglePause);
    assert!(head(&state).contains(" ENDED 49s ago ") && !head(&state).contains("FROZEN"), "{}", head(&state));

    let mut early = last.clone();
    early.captured_at -= jiff::SignedDuration::from_secs(20);
    let mut state = with((120, 24), early);
    state.apply(Action::TogglePause);
    update(&mut state, last);
    for action in [ended(), at(1), at(50)] {
        state.apply(action);
    }
    assert!(head(&state).contains(" ENDED 49s ago, FROZEN 1m10s ago "), "{}", head(&state));
}

#[test]
fn the_problems_say_why_the_collection_ended() {
    let why = "the privileged helper has gone: the other process has ended";
    let words = |state: &State| screen(state).split_whitespace().collect::<Vec<_>>().join(" ");
    // It may come before the first snapshot.
    for mut state in [fresh(Source::Live, (80, 24)), with((80, 24), fixture::unprivileged())] {
        state.apply(Action::ToggleFindings);
        state.apply(Action::Ended(why.to_owned()));
        // To its end, also where the header has no room for it.
        state.apply(Action::Resize(40, 24));
        assert!(words(&state).contains(why), "{}", screen(&state));
    }
    let mut replay = fresh(Source::Replay, (80, 24));
    replay.apply(Action::ToggleFindings);
    replay.apply(Action::Ended("end of the recording".to_owned()));
    assert!(words(&replay).contains("end of the recording"), "{}", screen(&replay));
}

#[test]
fn scrolling_ends_where_the_text_ends() {
    let mut state = watched((80, 24));
    state.apply(Action::Show(Overlay::Help));
    let top = screen(&state);
    state.apply(Action::Move(Motion::End));
    let end = screen(&state);
    assert!(!top.contains("why the answer ended") && end.contains("why the answer ended"), "{end}");
    state.apply(Action::Move(Motion::Up));
    assert_ne!(screen(&state), end, "one step back is one step back");
    state.apply(Action::Move(Motion::Home));
    assert_eq!(screen(&state), top);
}

#[test]
fn idle_processes_can_be_hidden() {
    let mut state = watched((80, 24));
    state.apply(Action::ToggleIdle);
    let screen = screen(&state);
    assert!(!screen.contains("postgres") && screen.contains("hidden)"), "{screen}");
}

/// A frame a second, of which the one in the middle has a failed request more.
fn minute() -> Vec<Snapshot> {
    let frame = |second: i64| {
        let mut snapshot = fixture::rich();
        snapshot.captured_at += jiff::SignedDuration::from_secs(second);
        snapshot.totals.failed_total += u64::from(second >= 30);
        snapshot.totals.requests_total = second as u64;
        snapshot
    };
    (0..=60).map(frame).collect()
}

/// Which second is shown.
fn second(state: &State) -> u64 {
    state.snapshot().unwrap().totals.requests_total
}

fn head(state: &State) -> String {
    screen(state).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn one_can_look_back_while_it_goes_on() {
    let mut state = fresh(Source::Live, (120, 40));
    let mut frames = minute().into_iter();
    frames.by_ref().take(50).for_each(|frame| update(&mut state, frame));
    state.apply(Action::Jump(Jump::Frames(-1)));
    assert_eq!(second(&state), 48);
    assert!(head(&state).contains("FROZEN 1s ago") && head(&state).contains("1 newer"), "{}", head(&state));
    frames.for_each(|frame| update(&mut state, frame));
    assert!(second(&state) == 48 && head(&state).contains("12 newer"), "{}", head(&state));
    state.apply(Action::Jump(Jump::By(jiff::SignedDuration::from_secs(-10))));
    assert_eq!(second(&state), 38);
    state.apply(Action::Jump(Jump::Event { on: false }));
    assert_eq!(second(&state), 30, "a request failed");
    // Charts end where one looks.
    assert_eq!(state.history().samples(100).len(), 31);
    for on in [true, false] {
        state.apply(Action::Jump(Jump::Event { on }));
        assert!(
            second(&state) == 30 && screen(&state).contains("nothing failed or was found there"),
            "{}",
            screen(&state)
        );
    }
    state.apply(Action::AskTime);
    let typed = |state: &mut State, text: &str| state.apply(Action::Pasted(text.to_owned()));
    typed(&mut state, "19:30:7");
    state.apply(Action::Open);
    assert!(state.is_typing() && screen(&state).contains("no time: 14:05"), "{}", screen(&state));
    state.apply(Action::EraseAll);
    typed(&mut state, "19:30:07");
    state.apply(Action::Open);
    assert_eq!((second(&state), state.is_typing()), (7, false));
    for (jump, to) in [(Jump::Frames(-100), 0), (Jump::Frames(1), 1), (Jump::Part(0.5), 30), (Jump::Frames(100), 60)] {
        state.apply(Action::Jump(jump));
        assert_eq!(second(&state), to, "{jump:?}");
    }
    assert!(head(&state).contains("FROZEN"));
    state.apply(Action::Jump(Jump::Live));
    assert!(head(&state).contains("LIVE") && second(&state) == 60);
}

#[test]
fn a_recording_is_played() {
    use std::time::Duration;

    let mut state = fresh(Source::Replay, (120, 40));
    assert_eq!(state.time.due(), None);
    let mut frames = minute();
    // A hole of an hour.
    frames[10..].iter_mut().for_each(|frame| frame.captured_at += jiff::SignedDuration::from_hours(1));
    frames.into_iter().for_each(|frame| update(&mut state, frame));
    state.apply(Action::Ended("end of the recording".to_owned()));
    assert!(second(&state) == 0 && head(&state).contains("REPLAY 1x  0s of 1h01m"), "{}", head(&state));
    assert!(!screen(&state).contains("end of the recording"), "{}", screen(&state));
    assert_eq!(state.time.due(), Some(Duration::from_secs(1)));
    let pass = |state: &mut State, ms| state.apply(Action::Elapsed(Duration::from_millis(ms)));
    for (ms, at) in [(900, 0), (200, 1), (900, 2), (7000, 9), (4900, 9), (200, 10)] {
        pass(&mut state, ms);
        assert_eq!(second(&state), at, "the hole is played in five seconds");
    }
    state.apply(Action::Speed(1));
    pass(&mut state, 1000);
    assert!(second(&state) == 12 && head(&state).contains("REPLAY 2x"), "{}", head(&state));
    state.apply(Action::Speed(-2));
    pass(&mut state, 2000);
    assert!(second(&state) == 13 && head(&state).contains("REPLAY 0.5x"), "{}", head(&state));
    state.apply(Action::TogglePause);
    pass(&mut state, 5000);
    assert!(second(&state) == 13 && head(&state).contains("REPLAY paused"), "{}", head(&state));
    state.apply(Action::TogglePause);
    state.apply(Action::Jump(Jump::Frames(1)));
    assert!(second(&state) == 14 && head(&state).contains("REPLAY paused"), "who steps wants to look");
    state.apply(Action::TogglePause);
    pass(&mut state, 1_000_000);
    assert_eq!((second(&state), state.time.due()), (60, None));
    assert!(head(&state).contains("END") && screen(&state).contains("end of the recording"), "{}", screen(&state));
    state.apply(Action::TogglePause);
    assert!(second(&state) == 0 && state.time.due().is_some(), "from its end it plays anew");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(8))]

    /// Whatever keys come, while whatever else happens: no panic, and the way back to the main page is never lost.
    #[test]
    fn no_keys_lead_into_a_dead_end(keys in proptest::collection::vec(0..160_u8, 0..90), width in 1..100_u16, height in 1..30_u16) {
        let mut frames = minute().into_iter();
        let mut state = fresh(Source::Live, (width, height));
        for key in keys {
            let code = match key {
                0..=127 if !(key as char).is_control() => KeyCode::Char(key as char),
                128 => KeyCode::Up,
                129 => KeyCode::Down,
                130 => KeyCode::Left,
                131 => KeyCode::Right,
                132 => KeyCode::PageUp,
                133 => KeyCode::PageDown,
                134 => KeyCode::Home,
                135 => KeyCode::End,
                136 => KeyCode::Tab,
                137 => KeyCode::Esc,
                138 => KeyCode::Backspace,
                139..=149 => KeyCode::Enter,
                _ => {
                    frames.next().into_iter().for_each(|frame| update(&mut state, frame));
                    continue;
                }
            };
            let event = crossterm::event::Event::Key(code.into());
            input::action(&event, state.is_typing(), &state.keymap).map(|action| state.apply(action));
            if key % 4 == 0 {
                screen(&state);
            }
        }
        screen(&state);
        // Out of what is typed, an overlay, a filter, and pages that led to each other.
        for _ in 0..8 {
            state.apply(Action::Back);
        }
        assert!(state.page == Page::Main && state.overlay.is_none() && !state.is_typing());
    }
}

/// The line of column names of a page's first list.
fn titles(state: &State) -> String {
    let shown = &state.shown[0];
    let columns = shown.placed(state.size.0).into_iter().map(|placed| shown.list.columns[placed.index].title);
    columns.collect::<Vec<_>>().join(" ")
}

#[test]
fn columns_are_chosen_and_ordered() {
    let mut state = watched((120, 40));
    let usual = titles(&state);
    state.apply(Action::Show(Overlay::Columns));
    insta::assert_snapshot!("columns", screen(&state));
    // The user goes, and the command before the pid.
    state.apply(Action::Move(Motion::Down));
    state.apply(Action::TogglePause);
    state.apply(Action::SortLeft);
    state.apply(Action::Open);
    assert!(titles(&state).starts_with("COMMAND PID ROLE"), "{}", titles(&state));
    assert!(!state.time.is_frozen(), "the space bar was for the column");
    // Another page has its own.
    state.apply(Action::ToggleModels);
    assert!(titles(&state).starts_with("PROVIDER MODEL"));
    state.apply(Action::Back);
    state.apply(Action::Show(Overlay::Columns));
    // However often one takes away, something stays.
    for _ in 0..100 {
        state.apply(Action::Move(Motion::Home));
        state.apply(Action::TogglePause);
    }
    assert_eq!(state.choice().1, 1);
    state.apply(Action::SortInvert);
    state.apply(Action::Back);
    assert_eq!(titles(&state), usual);
}

#[test]
fn rows_lead_to_what_they_are_of_and_back() {
    let mut state = watched((80, 24));
    state.apply(Action::ToggleModels);
    state.apply(Action::SwitchFocus);
    state.apply(Action::Open);
    let endpoint = screen(&state);
    assert!(endpoint.contains("Models › Endpoint "), "{endpoint}");
    insta::assert_snapshot!("endpoint", endpoint);
    state.apply(Action::Open);
    assert!(matches!(state.page, Page::Of(Key::Request(_))), "{}", screen(&state));
    state.apply(Action::Back);
    assert_eq!(screen(&state), endpoint);
    state.apply(Action::Back);
    assert!(state.page == Page::Models && state.has_focus(ListId::Endpoints));
    state.apply(Action::Back);
    assert_eq!(state.page, Page::Main);
}

#[test]
fn every_list_can_be_sorted_and_filtered() {
    let pages = [
        Action::ToggleModels,
        Action::ToggleWorkloads,
        Action::ToggleGpus,
        Action::ToggleEngines,
        Action::ToggleErrors,
        Action::ToggleTools,
        Action::ToggleInOut,
        Action::ToggleProbes,
        Action::ToggleFindings,
    ];
    let full = Snapshot { engines: fixture::engines(), gpus: fixture::gpus(), ..fixture::counted() };
    let full = Snapshot { findings: fixture::findings(), ..full };
    for page in pages {
        for is_lower in [false, true] {
            let mut state = with((200, 60), full.clone());
            state.apply(page.clone());
            if is_lower {
                state.apply(Action::SwitchFocus);
            }
            let shown = state.focused().expect("a list").clone();
            for column in shown.list.columns.iter().filter(|column| !column.is_extra) {
                state.apply(Action::SortRight);
                let now = state.focused().expect("a list");
                assert_eq!(now.list.rows.len(), shown.list.rows.len());
                let (sorted, _) = now.sorted.expect("a column");
                assert_eq!(now.list.columns[sorted].title, column.title);
            }
            for field in shown.list.fields() {
                let value = match field.kind {
                    crate::filter::Kind::Text => ":nothing-of-that-name",
                    _ => ">1e15",
                };
                type_text(&mut state, &format!("{}{value}", field.name));
                assert!(state.typing.as_ref().is_some_and(|typing| typing.error.is_none()), "{}", screen(&state));
                assert!(state.focused().is_some_and(|shown| shown.list.rows.is_empty()), "{}", field.name);
                state.apply(Action::Back);
            }
        }
    }
}

#[test]
fn what_was_over_time() {
    for size in SIZES {
        let mut state = fresh(Source::Live, size);
        let rich = Snapshot { gpus: fixture::gpus(), ..fixture::rich() };
        for i in 0..140_u32 {
            let mut snapshot = rich.clone();
            snapshot.captured_at += jiff::SignedDuration::from_secs(if i < 70 { i.into() } else { (i + 30).into() });
            let swing = 0.6 + 0.4 * (f64::from(i) * 0.21).sin();
            let totals = &mut snapshot.totals;
            totals.tokens_per_second.output = Some(800.0 * swing);
            totals.requests_in_flight = Some(u64::from(i % 13));
            totals.failed_total += u64::from(i / 50);
            let times = (1..60).map(|n| f64::from(n) * 0.01 * swing * swing).collect();
            totals.latency.window.time_to_first_token_seconds = fixture::distribution(times);
            update(&mut state, snapshot);
        }
        state.apply(Action::ToggleCharts);
        insta::assert_snapshot!(format!("charts_{}x{}", size.0, size.1), screen(&state));
    }
}

#[test]
fn no_palette_says_anything_by_colour_alone() {
    let state = watched((200, 60));
    let text = |palette| terminal(&state, &Environment { palette, ..UTF8 }).backend().buffer().clone();
    let symbols = |buffer: &Buffer| buffer.content.iter().map(|cell| cell.symbol().to_owned()).collect::<Vec<_>>();
    let mono = text(Palette::Mono);
    assert!(mono.content.iter().all(|cell| cell.fg == Color::Reset));
    for palette in [Palette::HighContrast, Palette::ColorBlind, Palette::Light, Palette::Soft] {
        let colored = text(palette);
        assert_eq!(symbols(&colored), symbols(&mono), "{palette:?}");
        let mut colors: Vec<Color> =
            colored.content.iter().map(|cell| cell.fg).filter(|fg| *fg != Color::Reset).collect();
        colors.sort_by_key(|color| format!("{color:?}"));
        colors.dedup();
        assert!(colors.len() >= 4, "{palette:?}: {colors:?}");
        assert!(colored.content.iter().all(|cell| cell.bg == Color::Reset), "the terminal's own ground");
    }
}

#[test]
fn clicks_select_open_and_sort() {
    let mut state = watched((120, 40));
    let lists = state.areas().lists;
    let click = |state: &mut State, list: usize, x: u16, line: u16| {
        state.apply(Action::Click(lists[list].x + x, lists[list].y + line));
    };
    click(&mut state, 0, 5, 3);
    assert_eq!((selected_pid(&state), state.page.clone()), (41_822, Page::Main));
    click(&mut state, 1, 5, 2);
    assert!(state.has_focus(ListId::Requests) && state.page == Page::Main, "the other list first");
    click(&mut state, 0, 5, 3);
    click(&mut state, 0, 5, 3);
    assert!(matches!(state.page, Page::Of(Key::Process((41_822, _)))));
    state.apply(Action::Back);
    // The names of the columns.
    click(&mut state, 0, 5, 1);
    assert_eq!(state.look(ListId::Processes).sort, Some(("PID", false)));
    click(&mut state, 0, 5, 1);
    assert_eq!(state.look(ListId::Processes).sort, Some(("PID", true)));
    // Where nothing is.
    for (x, y) in [(0, 0), (u16::MAX, u16::MAX), (119, 39), (3, lists[0].y)] {
        state.apply(Action::Click(x, y));
    }
    state.apply(Action::Show(Overlay::Help));
    click(&mut state, 0, 5, 3);
    assert_eq!(state.overlay, Some(Overlay::Help));
}

#[test]
fn a_row_is_found_and_none_is_hidden() {
    let mut state = watched((120, 40));
    let all = count(&state);
    state.apply(Action::Move(Motion::Down));
    let before = selected_pid(&state);
    let press = |state: &mut State, code: KeyCode| {
        let event = crossterm::event::Event::Key(code.into());
        let action = input::action(&event, state.is_typing(), &state.keymap).expect("a key that does something");
        state.apply(action);
    };
    press(&mut state, KeyCode::F(3));
    for typed in "pid>3000".chars() {
        press(&mut state, KeyCode::Char(typed));
    }
    let first = selected_pid(&state);
    assert!(first > 3000 && count(&state) == all, "{}", screen(&state));
    insta::assert_snapshot!("search", screen(&state));
    press(&mut state, KeyCode::F(3));
    let second = selected_pid(&state);
    assert!(second > 3000 && second != first);
    press(&mut state, KeyCode::Up);
    assert_eq!(selected_pid(&state), first);
    press(&mut state, KeyCode::Esc);
    assert_eq!(selected_pid(&state), before, "as it was");
    // What was sought is sought again.
    press(&mut state, KeyCode::F(3));
    assert_eq!(selected_pid(&state), first);
    press(&mut state, KeyCode::Enter);
    assert!(!state.is_typing() && selected_pid(&state) == first);
    press(&mut state, KeyCode::Char('b'));
    press(&mut state, KeyCode::Char('x'));
    assert!(screen(&state).lines().last().unwrap().contains("find pid>3000x"), "{}", screen(&state));
    assert!(state.typing.as_ref().is_some_and(|typing| typing.error.is_some()), "that is no number");
}

#[test]
fn what_keys_do_is_found_by_its_name() {
    let mut state = watched((80, 24));
    let type_in = |state: &mut State, text: &str| {
        state.apply(Action::Show(Overlay::Commands));
        text.chars().for_each(|typed| {
            state.apply(Action::Typed(typed));
        });
    };
    type_in(&mut state, "fre");
    insta::assert_snapshot!("commands", screen(&state));
    state.apply(Action::Open);
    assert!(state.time.is_frozen() && state.overlay.is_none() && !state.is_typing());
    type_in(&mut state, "mod");
    assert_eq!(state.commands()[0].name, "models");
    state.apply(Action::Open);
    assert_eq!(state.page, Page::Models);
    // Probes, of which there are many.
    type_in(&mut state, "probes net");
    assert_eq!(state.apply(Action::Open), Effect::SetGroup(Group::Net, true));
    type_in(&mut state, "no such thing");
    assert!(screen(&state).contains("nothing is called so"));
    state.apply(Action::Open);
    assert!(state.is_typing(), "it is still asked for");
    state.apply(Action::Back);
    assert!(!state.is_typing() && state.overlay.is_none() && state.page == Page::Models);
    // All of them lead somewhere and back.
    for number in 0..state.keymap.commands("").len() {
        let mut state = watched((80, 24));
        state.apply(Action::Show(Overlay::Commands));
        (0..number).for_each(|_| {
            state.apply(Action::Move(Motion::Down));
        });
        state.apply(Action::Open);
        screen(&state);
        for _ in 0..3 {
            state.apply(Action::Back);
        }
        assert!(state.page == Page::Main && state.overlay.is_none(), "{number}");
    }
}

#[test]
fn two_models_are_compared_and_one_with_itself_at_another_time() {
    for size in SIZES {
        let mut state = watched(size);
        state.apply(Action::ToggleModels);
        state.apply(Action::Compare);
        assert!(screen(&state).contains("A is "), "{}", screen(&state));
        state.apply(Action::Move(Motion::Down));
        state.apply(Action::Compare);
        insta::assert_snapshot!(format!("compared_{}x{}", size.0, size.1), screen(&state));
        state.apply(Action::Back);
        assert_eq!(state.page, Page::Models);
    }
    let mut state = watched((120, 40));
    state.apply(Action::Compare);
    state.apply(Action::Compare);
    assert_eq!(state.page, Page::Main, "there is nothing else yet");
    let mut later = fixture::rich();
    later.captured_at += jiff::SignedDuration::from_secs(90);
    for process in &mut later.processes {
        for stats in process.as_client.iter_mut().chain(&mut process.as_server) {
            stats.requests_per_second = Some(1000.0);
        }
    }
    update(&mut state, later);
    state.apply(Action::Compare);
    let shown = screen(&state);
    assert!(matches!(state.page, Page::Compared(_)) && shown.contains(" at 19:30:00 | B "), "{shown}");
    let rate = shown.lines().find(|line| line.starts_with("requests/s")).expect("a row of the rate");
    assert!(rate.contains("1000") || rate.contains("1.00k"), "{rate}");
    // Rows that are picked do not keep anybody on the page.
    type_text(&mut state, "p50");
    state.apply(Action::Open);
    state.apply(Action::Compare);
    assert!(state.marked.is_none() && state.page == Page::Main);
    state.apply(Action::Compare);
    state.apply(Action::Move(Motion::Down));
    state.apply(Action::Compare);
    assert!(matches!(state.page, Page::Compared(_)) && list(&state, ListId::Comparison).rows.len() > 10);
    // Without its numbers nothing is left of it.
    update(&mut state, fixture::empty());
    assert!(screen(&state).contains("one of the two is gone"), "{}", screen(&state));
    state.apply(Action::Compare);
    assert!(state.marked.is_none() && state.page == Page::Main);
}

#[test]
fn of_a_process_the_side_is_compared_that_was_looked_at() {
    let mut state = watched((120, 40));
    // The proxy, whose busier side is that of the server.
    while selected_pid(&state) != 3310 {
        state.apply(Action::Move(Motion::Down));
    }
    state.apply(Action::Open);
    let first = screen(&state).contains(" as server");
    state.apply(Action::ToggleRole);
    let side = if first { "as client" } else { "as server" };
    assert!(screen(&state).contains(side), "{}", screen(&state));
    state.apply(Action::Compare);
    assert!(screen(&state).contains(side), "{}", screen(&state));
    let mut later = fixture::rich();
    later.captured_at += jiff::SignedDuration::from_secs(90);
    update(&mut state, later);
    state.apply(Action::Compare);
    let title = screen(&state).lines().find(|line| line.contains("A 3310")).expect("a title").to_owned();
    assert_eq!(title.matches(side).count(), 2, "{title}");
}

#[test]
fn while_a_filter_is_typed_the_selection_moves_and_names_that_were_sought_are_forgotten_with_the_others() {
    let mut state = watched((120, 40));
    type_text(&mut state, "pid>1");
    let first = selected_pid(&state);
    state.apply(Action::Move(Motion::Down));
    assert!(state.is_typing() && selected_pid(&state) != first);
    state.apply(Action::Back);
    state.apply(Action::Search);
    "rag_worker".chars().for_each(|typed| {
        state.apply(Action::Typed(typed));
    });
    state.apply(Action::Back);
    state.apply(Action::TogglePrivacy);
    state.apply(Action::Search);
    assert!(!screen(&state).contains("rag_worker"), "{}", screen(&state));
}

#[test]
fn gpu_page() {
    for size in SIZES {
        let mut state = with(size, many_gpus());
        for percent in [5.0, 50.0, 100.0, 75.0] {
            let mut snapshot = many_gpus();
            snapshot.gpus[0].utilization_percent = Some(percent);
            update(&mut state, snapshot);
        }
        state.apply(Action::ToggleGpus);
        state.apply(Action::Open);
        assert_eq!(state.page, Page::Of(Key::Gpu(0)));
        assert!(list(&state, ListId::GpuUsers).rows.iter().all(|row| row.cells[0].text == "0"));
        insta::assert_snapshot!(format!("gpu_{}x{}", size.0, size.1), screen(&state));
        state.apply(Action::Back);
        assert_eq!(state.page, Page::Gpus);
    }
}

#[test]
fn texts_name_the_keys_that_the_user_has() {
    let bound: super::Settings =
        toml::from_str("keys = { filter = \"F4\", back = \"Ctrl-G\", findings = \"F6\", span = \"F7\" }").unwrap();
    let mut state = with((120, 40), Snapshot { findings: fixture::findings(), ..fixture::rich() });
    bound.apply(&mut state).unwrap();
    assert!(screen(&state).contains("F6 +"), "{}", screen(&state));
    type_text(&mut state, "nobody");
    state.apply(Action::Open);
    assert!(
        screen(&state).contains("no row fits the filter: F4 changes it, Ctrl-G takes it away"),
        "{}",
        screen(&state)
    );
    state.apply(Action::ToggleCharts);
    assert!(screen(&state).contains("F7: the last 5 minutes"), "{}", screen(&state));
}
