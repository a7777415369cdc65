//! What an agent says on standard error: of one kind a line a minute, with how many there were.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use hbpf_core::label::Text;

/// Between two lines of one kind.
const QUIET: Duration = Duration::from_secs(60);

/// Lines, held back where they are many.
#[derive(Default)]
pub(super) struct Log {
    /// Kinds are named by the code, so that there are few.
    kinds: RefCell<HashMap<&'static str, Kind>>,
}

struct Kind {
    said: Instant,
    held_back: u64,
}

impl Log {
    /// Says it, or counts it for the next line of this kind.
    pub(super) fn say(&self, kind: &'static str, text: &str) {
        let mut kinds = self.kinds.borrow_mut();
        let now = Instant::now();
        let held_back = match kinds.get_mut(kind) {
            Some(kind) if now.duration_since(kind.said) < QUIET => {
                kind.held_back += 1;
                return;
            }
            Some(kind) => {
                kind.said = now;
                std::mem::take(&mut kind.held_back)
            }
            None => {
                kinds.insert(kind, Kind { said: now, held_back: 0 });
                0
            }
        };
        let more = if held_back > 0 { format!(" ({held_back} more like this before)") } else { String::new() };
        line(&format!("{text}{more}"));
    }
}

/// Says it.
pub(super) fn line(text: &str) {
    // It may quote what came from outside. Where nobody reads any more there is nobody to tell.
    _ = writeln!(io::stderr(), "hbpf agent: {}", Text::new(text));
}
