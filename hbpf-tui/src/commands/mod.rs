//! The subcommands.

pub(crate) mod doctor;
pub(crate) mod snapshot;
pub(crate) mod top;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use anyhow::{Result, bail};
use hbpf_core::snapshot::Snapshot;

use crate::feed::Update;

/// Hands frames to `emit` until there were `count` of them, or for ever.
fn each_frame(
    updates: &Receiver<Update>,
    count: Option<u64>,
    mut emit: impl FnMut(&Arc<Snapshot>) -> Result<()>,
) -> Result<()> {
    let mut left = count;
    while left != Some(0) {
        match updates.recv() {
            Ok(Update::Snapshot(snapshot)) => emit(&snapshot)?,
            Ok(Update::Ended(why)) => bail!("collection has ended: {why}"),
            Err(_) => bail!("collection has ended"),
        }
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// Writes all of it at once and says if that did not work: half a line helps nobody.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::fixture;

    #[test]
    fn as_many_frames_as_asked_for() {
        let (sender, updates) = mpsc::channel();
        for _ in 0..3 {
            sender.send(Update::Snapshot(Arc::new(fixture::empty()))).unwrap();
        }
        sender.send(Update::Ended("the helper is gone".to_owned())).unwrap();
        let mut frames = 0;
        let mut emit = |_: &Arc<Snapshot>| {
            frames += 1;
            Ok(())
        };
        each_frame(&updates, Some(2), &mut emit).unwrap();
        let error = each_frame(&updates, None, &mut emit).unwrap_err();
        assert_eq!(error.to_string(), "collection has ended: the helper is gone");
        assert_eq!(frames, 3);
    }
}
