//! What came of the checks, as lines on the console for `cargo xtask test --kernels`.

use std::io::Write;

/// Begins each line: the kernel writes to the console, too.
const MARK: &str = "hbpf-kernels";

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// This kernel does not have it, and need not.
    Absent,
    Failed,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Absent => "absent",
            Self::Failed => "failed",
        }
    }
}

/// Lines so far.
#[derive(Default)]
pub(crate) struct Report {
    lines: usize,
}

impl Report {
    /// Writes `hbpf-kernels: OUTCOME CHECK: DETAIL`, in one line and in plain ASCII.
    pub(crate) fn line(&mut self, outcome: Outcome, check: &str, detail: &str) {
        self.lines += 1;
        let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '|' };
        let detail: String = detail.trim().chars().map(plain).collect();
        write(&format!("{} {check}: {detail}", outcome.word()));
    }

    /// Says that this was all, and how many lines that were.
    pub(crate) fn end(self) {
        write(&format!("end {}", self.lines));
    }
}

fn write(text: &str) {
    // In one piece, and on a line of its own whatever was there before. Whom to tell that the console is gone?
    let _ = std::io::stdout().lock().write_all(format!("\n{MARK}: {text}\n").as_bytes());
}
