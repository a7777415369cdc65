//! Keys to actions.

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

use super::keys::Keymap;
use super::state::{Action, Motion};

/// What an event of the terminal asks for. `is_typing`: keys are text.
pub(crate) fn action(event: &Event, is_typing: bool, keymap: &Keymap) -> Option<Action> {
    match event {
        Event::Resize(width, height) => Some(Action::Resize(*width, *height)),
        Event::Mouse(mouse) if !is_typing => of_mouse(mouse),
        // What is pasted is never a command.
        Event::Paste(text) if is_typing => Some(Action::Pasted(text.clone())),
        Event::Key(key) if key.kind != KeyEventKind::Release && is_typing => of_typed_key(key),
        Event::Key(key) if key.kind != KeyEventKind::Release => keymap.action(key),
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
        // As of whoever searches on.
        KeyCode::F(3) => Action::Move(Motion::Down),
        KeyCode::Up => Action::Move(Motion::Up),
        KeyCode::Down => Action::Move(Motion::Down),
        _ => return None,
    })
}

fn of_mouse(mouse: &MouseEvent) -> Option<Action> {
    match mouse.kind {
        MouseEventKind::Down(MouseButton::Left) => Some(Action::Click(mouse.column, mouse.row)),
        MouseEventKind::Down(MouseButton::Right) => Some(Action::Back),
        MouseEventKind::ScrollUp => Some(Action::Move(Motion::Up)),
        MouseEventKind::ScrollDown => Some(Action::Move(Motion::Down)),
        _ => None,
    }
}
