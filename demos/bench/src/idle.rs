//! Processes that do nothing.

use std::io::{PipeWriter, pipe};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// They wait for the end of a pipe, and so end with us in any case.
pub(crate) struct Idle {
    children: Vec<Child>,
    end: Option<PipeWriter>,
}

impl Idle {
    /// So many of them.
    pub(crate) fn start(processes: usize) -> Result<Self> {
        let (reader, writer) = pipe()?;
        let mut idle = Self { children: Vec::new(), end: Some(writer) };
        for _ in 0..processes {
            let child = Command::new("cat").stdin(reader.try_clone()?).stdout(Stdio::null()).spawn();
            idle.children.push(child.context("cannot run cat")?);
        }
        Ok(idle)
    }

    /// Some of them.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.children.iter().map(Child::id)
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.end = None;
        for child in &mut self.children {
            // It ends with the pipe; an error means that it has ended already.
            let _ = child.wait();
        }
    }
}
