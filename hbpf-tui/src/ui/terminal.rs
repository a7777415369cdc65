//! Takes the terminal over and gives it back, whatever happens.

use std::io::{self, Stdout, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::Event;
use crossterm::{cursor, event, execute, queue, terminal};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

/// As long as crossterm waits for what is there.
const A_MOMENT: Duration = Duration::from_millis(1);

/// Waits for an event of the terminal.
///
/// # Errors
///
/// If the terminal is gone. (crossterm itself would read its end for ever.)
pub(crate) fn next_event() -> io::Result<Event> {
    let stdin = io::stdin();
    let mut is_quiet = false;
    loop {
        let mut terminal = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut terminal, if is_quiet { PollTimeout::NONE } else { PollTimeout::ZERO }) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        if terminal[0].revents().is_some_and(|events| events.intersects(gone)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // It may have read more than it has given, and does not look at all where it has no time.
        if event::poll(A_MOMENT)? {
            return event::read();
        }
        is_quiet = true;
    }
}

/// Whether the terminal is in our hands: giving it back twice would undo what the shell has set since.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Whether the mouse is asked for.
static WITH_MOUSE: AtomicBool = AtomicBool::new(false);

/// The terminal, ours until dropped.
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal over: raw mode, alternate screen, no cursor. A panic anywhere gives it back before the
    /// message is printed, so that it can be read.
    pub(crate) fn take(with_mouse: bool) -> io::Result<Self> {
        WITH_MOUSE.store(with_mouse, Ordering::SeqCst);
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let was_taken = give_back();
            default_hook(info);
            // Without this thread the view would be drawn on without news, into the user's own screen.
            if was_taken {
                std::process::exit(101);
            }
        }));
        enter().map(|terminal| Self { terminal }).inspect_err(|_| {
            give_back();
        })
    }

    /// Gives the terminal back until [`Self::take_again`].
    pub(crate) fn lend(&mut self) {
        give_back();
    }

    /// Takes over a terminal that others have had meanwhile, lent or not: what is drawn next is drawn whole. In the
    /// background it waits, stopped by the kernel, for the foreground.
    pub(crate) fn take_again(&mut self) -> io::Result<()> {
        if TAKEN.load(Ordering::SeqCst) {
            // Modes that are thought to be set are not set again.
            terminal::disable_raw_mode()?;
        }
        self.terminal = enter()?;
        Ok(())
    }

    /// Draws one frame: what has changed, and on terminals that know of it all at once.
    pub(crate) fn draw(&mut self, draw: impl FnOnce(&mut ratatui::Frame<'_>)) -> io::Result<()> {
        queue!(io::stdout(), terminal::BeginSynchronizedUpdate)?;
        self.terminal.draw(draw)?;
        execute!(io::stdout(), terminal::EndSynchronizedUpdate)
    }

    /// Width and height.
    pub(crate) fn size(&self) -> io::Result<(u16, u16)> {
        self.terminal.size().map(|size| (size.width, size.height))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Raw mode, alternate screen, no cursor, and nothing on it.
fn enter() -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    TAKEN.store(true, Ordering::SeqCst);
    terminal::enable_raw_mode()?;
    let everything = terminal::Clear(terminal::ClearType::All);
    execute!(io::stdout(), terminal::EnterAlternateScreen, event::EnableBracketedPaste, cursor::Hide, everything)?;
    if WITH_MOUSE.load(Ordering::SeqCst) {
        execute!(io::stdout(), event::EnableMouseCapture)?;
    }
    // A new one, which knows of nothing on the screen; to have the old one forget it asks for the cursor's position, and the
    // answer goes to whoever reads the keys.
    Terminal::new(CrosstermBackend::new(io::stdout()))
}

/// Gives the terminal back if it is ours; says whether it was. Errors are of no use to anyone here.
fn give_back() -> bool {
    let was_taken = TAKEN.swap(false, Ordering::SeqCst);
    if was_taken {
        let mut stdout = io::stdout();
        if WITH_MOUSE.load(Ordering::SeqCst) {
            let _ = execute!(stdout, event::DisableMouseCapture);
        }
        let _ = execute!(stdout, event::DisableBracketedPaste, terminal::LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
        let _ = stdout.flush();
    }
    was_taken
}
