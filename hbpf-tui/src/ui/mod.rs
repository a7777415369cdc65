//! The terminal UI: events in, state changed in one place, frames drawn when something has changed.

mod chart;
mod detail;
mod draw;
mod header;
mod history;
mod input;
mod job;
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

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use crossterm::event;
use jiff::Timestamp;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use self::job::JobControl;
pub(crate) use self::state::Source;
use self::state::{Action, Effect, State};
use self::terminal::Screen;
use self::theme::{Environment, Theme};
use crate::feed::{Control, Update};

/// How often the view says anew how long ago the collection ended: no frame does.
const AGE_PACE: Duration = Duration::from_secs(1);

/// Everything that can wake the view.
enum Event {
    Terminal(event::Event),
    Update(Update),
    /// A signal asks us to stop for a while.
    Suspend,
    /// We were stopped, and go on.
    Continued,
    /// A signal asks us to go, or the terminal is gone.
    Leave,
}

/// What is to be done with the screen.
enum Next {
    Draw,
    /// It may be another by now, or in another mode.
    TakeAgain,
    Suspend,
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
    let suspend = sender.clone();
    let job = JobControl::take(move || suspend.send(Event::Suspend).is_ok())?;
    listen_to_signals(sender.clone())?;
    let mut screen = Screen::take().context("cannot take over the terminal")?;
    let mut state = State::new(source, screen.size().context("cannot tell the terminal's size")?);
    screen.draw(|frame| draw::frame(frame, &state, &theme))?;
    let control = start(Sink(sender.clone()))?;
    listen_to_terminal(sender);
    let drawn = loop {
        let ready = match next(&events, &mut state, control.as_ref()) {
            Next::Draw => Ok(()),
            Next::TakeAgain => take_again(&mut screen, &mut state),
            Next::Suspend => suspended(&mut screen, &mut state, &job),
            Next::Leave => break Ok(()),
        };
        if let Err(error) = ready.and_then(|()| screen.draw(|frame| draw::frame(frame, &state, &theme))) {
            break Err(error);
        }
    };
    // Before the control, which waits until the probes are out: that can take seconds on a busy machine.
    drop(screen);
    drop(job);
    drop(control);
    drawn?;
    Ok(state.ended)
}

/// Leaves the terminal to others until we go on.
fn suspended(screen: &mut Screen, state: &mut State, job: &JobControl) -> io::Result<()> {
    screen.lend();
    job.stop()?;
    take_again(screen, state)
}

fn take_again(screen: &mut Screen, state: &mut State) -> io::Result<()> {
    screen.take_again()?;
    let (width, height) = screen.size()?;
    state.apply(Action::Resize(width, height));
    Ok(())
}

/// Waits for the next event and takes all that are there, up to one that is about the screen.
fn next(events: &Receiver<Event>, state: &mut State, control: &dyn Control) -> Next {
    let mut waiting = if state.is_over() { events.recv_timeout(AGE_PACE).ok() } else { events.recv().ok() };
    while let Some(event) = waiting {
        let action = match event {
            Event::Terminal(event) => input::action(&event, state.is_typing()),
            Event::Update(update) => Some(Action::Update(update)),
            Event::Suspend => Some(Action::Suspend),
            Event::Continued => return Next::TakeAgain,
            Event::Leave => Some(Action::Quit),
        };
        match action.map(|action| state.apply(action)) {
            Some(Effect::Quit) => return Next::Leave,
            Some(Effect::Suspend) => return Next::Suspend,
            Some(Effect::SetGroup(group, on)) => control.set_group(group, on),
            Some(Effect::None) | None => {}
        }
        waiting = events.try_recv().ok();
    }
    if state.is_over() {
        state.apply(Action::Clock(Timestamp::now()));
    }
    Next::Draw
}

fn listen_to_signals(sender: Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCONT]).context("cannot listen to signals")?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            // Also after SIGSTOP, of which nobody is told.
            let event = if signal == SIGCONT { Event::Continued } else { Event::Leave };
            if sender.send(event).is_err() {
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
    io::stdout().is_terminal()
}
