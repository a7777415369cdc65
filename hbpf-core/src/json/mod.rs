//! An incremental JSON scanner that sees only what it was told to look for.
//!
//! There is no document model: a [`PathSet`] names the few places whose scalars matter, and everything else is skipped
//! without being stored. Text that must never be kept (prompts, answers) can be asked for by length only.

mod paths;
mod repeat;
mod runs;
mod scanner;
mod tail;
mod value;

pub use paths::{PathSet, Want};
pub use scanner::Scanner;
pub use tail::{Tail, scan_tail};
pub use value::{Kind, Outcome, Value, Visitor};

#[cfg(test)]
mod tests;
