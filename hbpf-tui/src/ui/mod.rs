//! The terminal UI: events in, state changed in one place, frames drawn when something has changed.

mod chart;
mod charts;
mod compare;
mod detail;
mod draw;
mod header;
mod input;
mod job;
mod keys;
mod layout;
mod overlay;
mod paint;
mod save;
mod settings;
mod state;
mod tables;
mod terminal;
mod theme;
mod time;
mod totals;
mod views;
mod waterfall;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use crossterm::event;
use hbpf_host::privsep::{Refusal, Scribe};
use jiff::Timestamp;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use self::job::JobControl;
#[cfg(test)]
pub(crate) use self::keys::BINDINGS;
use self::save::{Document, Outlet};
pub(crate) use self::settings::Settings;
use self::state::{Action, Effect, State};
use self::terminal::Screen;
pub(crate) use self::theme::Palette;
use self::theme::{Environment, Theme};
pub(crate) use self::time::Source;
use crate::feed::{Control, Update};
use crate::recording::Timeline;

/// How often the view says anew how long ago the collection ended: no frame does.
const AGE_PACE: Duration = Duration::from_secs(1);

/// Everything that can wake the view.
enum Event {
    Terminal(event::Event),
    /// There are new frames.
    News,
    /// Nothing more will come, and why.
    Ended(String),
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

/// Takes snapshots in and tells the view, which may be slow: however many come meanwhile, it is told once.
#[derive(Clone)]
pub(crate) struct Sink {
    timeline: Arc<Mutex<Timeline>>,
    events: Sender<Event>,
    is_told: Arc<AtomicBool>,
}

impl Sink {
    /// Takes an update in. After the view is gone there is nobody to tell.
    pub(crate) fn deliver(&self, update: Update) {
        let taken = match update {
            Update::Snapshot(snapshot) => {
                self.timeline.lock().unwrap_or_else(PoisonError::into_inner).push(snapshot).map_err(|e| e.to_string())
            }
            Update::Ended(why) => Err(why),
        };
        let event = match taken {
            Ok(()) if self.is_told.swap(true, Ordering::SeqCst) => return,
            Ok(()) => Event::News,
            Err(why) => Event::Ended(why),
        };
        let _ = self.events.send(event);
    }
}

/// Runs the view until the user leaves. `start` is called behind the first frame, so that nothing it does delays it.
/// Returns why the source ended, if it did before the user left.
pub(crate) fn run(
    source: Source,
    timeline: Timeline,
    scribe: Option<Scribe>,
    settings: &Settings,
    start: impl FnOnce(Sink) -> Result<Box<dyn Control>>,
) -> Result<Option<String>> {
    let timeline = Arc::new(Mutex::new(timeline));
    let theme = Theme::new(&settings.environment(Environment::read(|name| std::env::var(name).ok())));
    let (sender, events) = mpsc::channel();
    let suspend = sender.clone();
    let job = JobControl::take(move || suspend.send(Event::Suspend).is_ok())?;
    listen_to_signals(sender.clone())?;
    let mut screen = Screen::take(settings.has_mouse(|name| std::env::var_os(name).is_some()))
        .context("cannot take over the terminal")?;
    let size = screen.size().context("cannot tell the terminal's size")?;
    let mut state = State::new(source, Arc::clone(&timeline), size);
    settings.apply(&mut state).map_err(anyhow::Error::msg)?;
    if settings.made_up_names {
        state.apply(Action::TogglePrivacy);
    }
    if settings.hide_idle {
        state.apply(Action::ToggleIdle);
    }
    screen.draw(|frame| draw::frame(frame, &state, &theme))?;
    let sink = Sink { timeline, events: sender.clone(), is_told: Arc::default() };
    let control = start(sink.clone())?;
    listen_to_terminal(sender);
    let mut outlet = Hands { scribe };
    let mut clock = Instant::now();
    let drawn = loop {
        let next = next(&events, &mut state, control.as_ref(), &sink.is_told, &mut |state, document| {
            save::hand_on(document, state, &theme, &mut outlet)
        });
        let now = Instant::now();
        state.apply(Action::Elapsed(now - std::mem::replace(&mut clock, now)));
        let ready = match next {
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

/// Where what is handed on goes.
struct Hands {
    /// None: no file can be made.
    scribe: Option<Scribe>,
}

impl Outlet for Hands {
    fn file(&mut self, name: &str, content: &[u8]) -> Result<String, Refusal> {
        let nobody = || Refusal::Other("no file can be made here".to_owned());
        let scribe = self.scribe.as_mut().ok_or_else(nobody)?;
        scribe.write(name, content)?;
        Ok(format!("{}/{name}", scribe.directory().trim_end_matches('/')))
    }

    fn clipboard(&mut self, text: &str) -> Result<(), String> {
        // OSC 52 of xterm's control sequences: `c` is the clipboard.
        let sequence = format!("\x1b]52;c;{}\x07", BASE64_STANDARD.encode(text));
        let mut terminal = io::stdout();
        terminal.write_all(sequence.as_bytes()).and_then(|()| terminal.flush()).map_err(|error| error.to_string())
    }
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
fn next(
    events: &Receiver<Event>,
    state: &mut State,
    control: &dyn Control,
    is_told: &AtomicBool,
    hand_on: &mut dyn FnMut(&State, Document) -> String,
) -> Next {
    let age = state.is_over().then_some(AGE_PACE);
    let mut waiting = match state.time.due().into_iter().chain(age).min() {
        Some(timeout) => events.recv_timeout(timeout).ok(),
        None => events.recv().ok(),
    };
    while let Some(event) = waiting {
        let action = match event {
            Event::Terminal(event) => input::action(&event, state.is_typing(), &state.keymap),
            Event::News => {
                is_told.store(false, Ordering::SeqCst);
                Some(Action::News)
            }
            Event::Ended(why) => Some(Action::Ended(why)),
            Event::Suspend => Some(Action::Suspend),
            Event::Continued => return Next::TakeAgain,
            Event::Leave => Some(Action::Quit),
        };
        match action.map(|action| state.apply(action)) {
            Some(Effect::Quit) => return Next::Leave,
            Some(Effect::Suspend) => return Next::Suspend,
            Some(Effect::SetGroup(group, on)) => control.set_group(group, on),
            Some(Effect::Save(document)) => {
                let said = hand_on(state, document);
                state.apply(Action::Said(said));
            }
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
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCONT, SIGWINCH]).context("cannot listen to signals")?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let event = match signal {
                // Also after SIGSTOP, of which nobody is told.
                SIGCONT => Event::Continued,
                SIGWINCH => match crossterm::terminal::size() {
                    Ok((width, height)) => Event::Terminal(event::Event::Resize(width, height)),
                    Err(_) => continue,
                },
                _ => Event::Leave,
            };
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
            let event = terminal::next_event().map_or(Event::Leave, Event::Terminal);
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
