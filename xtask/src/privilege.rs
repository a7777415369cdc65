//! Becoming root, for what loads probes.

use std::path::Path;
use std::process::Command;

use crate::tools::{is_root, works};

/// How a program gets the rights to load probes.
pub(crate) enum Privilege {
    /// We are root.
    Root,
    /// sudo makes us root.
    Sudo,
}

impl Privilege {
    /// The way there is. Where a password is needed it is asked for only if somebody is there to give it.
    pub(crate) fn find(can_ask: bool) -> Option<Self> {
        if is_root() {
            return Some(Self::Root);
        }
        if works(Command::new("sudo").args(["-n", "true"])) {
            return Some(Self::Sudo);
        }
        // Asks for the password, before anything else is on the screen.
        let asked = can_ask && Command::new("sudo").arg("-v").status().is_ok_and(|status| status.success());
        asked.then_some(Self::Sudo)
    }

    /// A program with these rights.
    pub(crate) fn command(&self, program: &Path) -> Command {
        match self {
            Self::Root => Command::new(program),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg(program);
                command
            }
        }
    }

    /// Whether hbpf could load probes.
    pub(crate) fn can_probe(&self, hbpf: &Path) -> bool {
        works(self.command(hbpf).arg("doctor"))
    }
}
