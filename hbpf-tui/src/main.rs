//! The `hbpf` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    hbpf_tui::main()
}
