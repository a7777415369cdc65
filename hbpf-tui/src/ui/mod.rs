//! The terminal UI: events in, state changed in one place, frames drawn when something has changed.

mod chart;
mod detail;
mod draw;
mod header;
mod history;
mod input;
mod layout;
mod overlay;
mod paint;
mod state;
mod tables;
mod terminal;
mod theme;
mod totals;

#[cfg(test)]
mod tests;

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use anyhow::{Context, Result};
use crossterm::event;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

pub(crate) use self::state::Source;
use self::state::{Action, Effect, State};
use self::terminal::Screen;
use self::theme::{Environment, Theme};
use crate::feed::{Control, Update};

/// Everything that can wake the view.
enum Event {
    Terminal(event::Event),
    Update(Update),
    /// A signal asks us to go, or the terminal is gone.
    Leave,
}

/// Hands snapshots to the view.
#[derive(Clone)]
pub(crate) struct Sink(Sender<Event>);

impl Sink {
    /// Passes an update on. After the view is gone there is nobody to tell.
    pub(crate) fn deliver(&self, update: Update) {
        let _ = self.0.send(Event::Update(update));
    }
}

/// Runs the view until the user leaves. `start` is called behind the first frame, so that nothing it does delays it.
/// Returns why the source ended, if it did before the user left.
pub(crate) fn run(source: Source, start: impl FnOnce(Sink) -> Result<Box<dyn Control>>) -> Result<Option<String>> {
    let theme = Theme::new(&Environment::read(|name| std::env::var(name).ok()));
    let (sender, events) = mpsc::channel();
    listen_to_signals(sender.clone())?;
    let mut screen = Screen::take().context("cannot take over the terminal")?;
    let mut state = State::new(source, screen.size().context("cannot tell the terminal's size")?);
    screen.draw(|frame| draw::frame(frame, &state, &theme))?;
    let control = start(Sink(sender.clone()))?;
    listen_to_terminal(sender);
    let mut drawn = Ok(());
    while drawn.is_ok() && next(&events, &mut state, control.as_ref()) {
        drawn = screen.draw(|frame| draw::frame(frame, &state, &theme));
    }
    // Before the control, which waits until the probes are out: that can take seconds on a busy machine.
    drop(screen);
    drop(control);
    drawn?;
    Ok(state.ended)
}

/// Waits for the next event and takes all that are there; false when it is time to leave.
fn next(events: &Receiver<Event>, state: &mut State, control: &dyn Control) -> bool {
    let mut waiting = events.recv().ok();
    while let Some(event) = waiting {
        let action = match event {
            Event::Terminal(event) => input::action(&event),
            Event::Update(update) => Some(Action::Update(update)),
            Event::Leave => Some(Action::Quit),
        };
        match action.map(|action| state.apply(action)) {
            Some(Effect::Quit) => return false,
            Some(Effect::SetGroup(group, on)) => control.set_group(group, on),
            Some(Effect::None) | None => {}
        }
        waiting = events.try_recv().ok();
    }
    true
}

fn listen_to_signals(sender: Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT]).context("cannot listen to signals")?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if sender.send(Event::Leave).is_err() {
                break;
            }
        }
    })?;
    Ok(())
}

/// Reads the terminal on a thread of its own; it ends with the process.
fn listen_to_terminal(sender: Sender<Event>) {
    thread::spawn(move || {
        loop {
            let event = event::read().map_or(Event::Leave, Event::Terminal);
            let last = matches!(event, Event::Leave);
            if sender.send(event).is_err() || last {
                break;
            }
        }
    });
}

/// Whether the view can be shown at all.
pub(crate) fn is_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stdout().is_terminal()
}
