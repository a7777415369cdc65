//! Keys to actions.

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use jiff::SignedDuration;

use super::state::{Action, Motion, Overlay};
use super::time::Jump;

/// A long step through time.
const A_MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// What an event of the terminal asks for. `is_typing`: keys are text.
pub(crate) fn action(event: &Event, is_typing: bool) -> Option<Action> {
    match event {
        Event::Resize(width, height) => Some(Action::Resize(*width, *height)),
        // What is pasted is never a command.
        Event::Paste(text) if is_typing => Some(Action::Pasted(text.clone())),
        Event::Key(key) if key.kind != KeyEventKind::Release && is_typing => of_typed_key(key),
        Event::Key(key) if key.kind != KeyEventKind::Release => of_key(key),
        _ => None,
    }
}

fn of_typed_key(key: &KeyEvent) -> Option<Action> {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c') if is_control => Action::Quit,
        KeyCode::Char('z') if is_control => Action::Suspend,
        KeyCode::Char('u') if is_control => Action::EraseAll,
        // What terminals send for a backspace, some of them.
        KeyCode::Char('h') if is_control => Action::Erase,
        KeyCode::Char(typed) if !is_control && !typed.is_control() => Action::Typed(typed),
        KeyCode::Backspace => Action::Erase,
        KeyCode::Enter => Action::Open,
        KeyCode::Esc => Action::Back,
        KeyCode::Up => Action::Move(Motion::Up),
        KeyCode::Down => Action::Move(Motion::Down),
        _ => return None,
    })
}

fn of_key(key: &KeyEvent) -> Option<Action> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Action::Quit),
            KeyCode::Char('z') => Some(Action::Suspend),
            _ => None,
        };
    }
    Some(match key.code {
        KeyCode::Char('q') | KeyCode::F(10) => Action::Quit,
        KeyCode::Char(' ') => Action::TogglePause,
        KeyCode::Char(digit @ '1'..='9') => Action::ToggleGroup(digit as usize - '1' as usize),
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => Action::Show(Overlay::Help),
        KeyCode::Char('v') => Action::ToggleCharts,
        KeyCode::Char('x') => Action::Show(Overlay::Save),
        KeyCode::Char('P') => Action::TogglePrivacy,
        KeyCode::Char('o') => Action::Show(Overlay::Columns),
        KeyCode::Char('e') => Action::ToggleFindings,
        KeyCode::Up | KeyCode::Char('k') => Action::Move(Motion::Up),
        KeyCode::Down | KeyCode::Char('j') => Action::Move(Motion::Down),
        KeyCode::PageUp => Action::Move(Motion::PageUp),
        KeyCode::PageDown => Action::Move(Motion::PageDown),
        KeyCode::Home | KeyCode::Char('g') => Action::Move(Motion::Home),
        KeyCode::End | KeyCode::Char('G') => Action::Move(Motion::End),
        KeyCode::Tab | KeyCode::BackTab => Action::SwitchFocus,
        KeyCode::Enter => Action::Open,
        KeyCode::Char('/') => Action::Filter,
        KeyCode::Char('[') => Action::Jump(Jump::Frames(-1)),
        KeyCode::Char(']') => Action::Jump(Jump::Frames(1)),
        KeyCode::Char('{') => Action::Jump(Jump::By(-A_MINUTE)),
        KeyCode::Char('}') => Action::Jump(Jump::By(A_MINUTE)),
        KeyCode::Char('n') => Action::Jump(Jump::Event { on: true }),
        KeyCode::Char('N') => Action::Jump(Jump::Event { on: false }),
        KeyCode::Char('l') => Action::Jump(Jump::Live),
        KeyCode::Char('@') => Action::AskTime,
        KeyCode::Char('+' | '=') => Action::Speed(1),
        KeyCode::Char('-') => Action::Speed(-1),
        KeyCode::Esc | KeyCode::Backspace => Action::Back,
        KeyCode::Char('>' | '.') | KeyCode::Right => Action::SortRight,
        KeyCode::Char('<' | ',') | KeyCode::Left => Action::SortLeft,
        KeyCode::Char('r' | 'I') => Action::SortInvert,
        KeyCode::Char('w') => Action::ToggleSpan,
        KeyCode::Char('s') => Action::ToggleRole,
        KeyCode::Char('m') => Action::ToggleModels,
        KeyCode::Char('t') => Action::ToggleWorkloads,
        KeyCode::Char('u') => Action::ToggleGpus,
        KeyCode::Char('i') => Action::ToggleEngines,
        KeyCode::Char('f') => Action::ToggleErrors,
        KeyCode::Char('c') => Action::ToggleTools,
        KeyCode::Char('d') => Action::ToggleInOut,
        KeyCode::Char('p') => Action::ToggleProbes,
        KeyCode::Char('a') => Action::ToggleIdle,
        _ => return None,
    })
}
