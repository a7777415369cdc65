//! The subcommands.

mod backlog;
pub(crate) mod check;
pub(crate) mod diff;
pub(crate) mod doctor;
mod measured;
pub(crate) mod prices;
pub(crate) mod record;
pub(crate) mod report;
pub(crate) mod shell;
pub(crate) mod snapshot;
mod subjects;
pub(crate) mod top;
pub(crate) mod trace;
mod watch;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hbpf_core::label::Text;
use hbpf_core::snapshot::Snapshot;
use hbpf_host::privsep::{self, SplitOptions};
use hbpf_host::protocol::Group;

use crate::feed::Update;
use crate::summary::{self, GroupState};

/// Timers are never exact.
const ABOUT: f64 = 0.9;

/// Hands frames to `emit` until there were `count` of them, or for ever. Frames from before about one interval has
/// passed are left out: rates need two samples, and a first frame without any has misled many a script.
fn each_frame(
    updates: &Receiver<Update>,
    interval: Duration,
    count: Option<u64>,
    mut emit: impl FnMut(&Arc<Snapshot>) -> Result<()>,
) -> Result<()> {
    let mut left = count;
    while left != Some(0) {
        match updates.recv() {
            Ok(Update::Snapshot(snapshot)) if snapshot.observed_seconds < interval.as_secs_f64() * ABOUT => continue,
            Ok(Update::Snapshot(snapshot)) => emit(&snapshot)?,
            Ok(Update::Ended(why)) => bail!(why),
            Err(_) => bail!("collection has ended"),
        }
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// Opens recordings, and gives up every privilege and all that these, which are from outside, could ask for.
///
/// To be called before any thread starts.
fn open_recordings(paths: &[&Path]) -> Result<Vec<File>> {
    let renounce = || privsep::renounce(&SplitOptions::default()).context("cannot start");
    let open = || {
        let open = |path: &&Path| File::open(path).with_context(|| format!("cannot open {}", path.display()));
        paths.iter().map(open).collect::<Result<Vec<_>>>()
    };
    // Root may read every file anyway; who only has capabilities reads with their own rights.
    let files = if nix::unistd::geteuid().is_root() {
        let files = open()?;
        renounce()?;
        files
    } else {
        renounce()?;
        open()?
    };
    privsep::confine().context("cannot start")?;
    Ok(files)
}

/// Whether none of these groups of probes can ever be on.
fn is_blind(snapshot: &Snapshot, groups: &[Group]) -> bool {
    groups.iter().all(|group| summary::group_state(&snapshot.capture, *group) == GroupState::Failed)
}

/// Those of the chosen groups that show model traffic; an error if there are none.
fn traffic_groups(chosen: &[Group]) -> Result<Vec<Group>> {
    let groups: Vec<_> = chosen.iter().copied().filter(|group| Group::LLM.contains(group)).collect();
    if groups.is_empty() {
        let names = Group::LLM.map(Group::name).join(" nor ");
        bail!("nothing can be seen: neither {names} is among the groups");
    }
    Ok(groups)
}

/// What stands in their way.
fn why_blind(snapshot: &Snapshot) -> String {
    let reasons = snapshot.capture.probes.iter().filter_map(|probe| probe.reason.as_ref());
    reasons.map(ToString::to_string).next().unwrap_or_else(|| "hbpf doctor says why".to_owned())
}

/// Says what went wrong.
pub(crate) fn complain(error: &anyhow::Error) {
    // It may quote a file or a message of the kernel's.
    eprintln!("hbpf: {}", Text::new(&format!("{error:#}")));
}

/// Writes all of it at once and says if that did not work: half a line helps nobody.
fn print(text: &str) -> Result<()> {
    write(&mut io::stdout().lock(), text)
}

fn write(out: &mut impl Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::fixture;

    const INTERVAL: Duration = Duration::from_secs(1);

    #[test]
    fn as_many_frames_as_asked_for() {
        let (sender, updates) = mpsc::channel();
        // Too early to know any rate.
        sender.send(Update::Snapshot(Arc::new(fixture::empty()))).unwrap();
        for _ in 0..3 {
            sender.send(Update::Snapshot(Arc::new(fixture::rich()))).unwrap();
        }
        sender.send(Update::Ended("the helper is gone".to_owned())).unwrap();
        let mut frames = 0;
        let mut emit = |_: &Arc<Snapshot>| {
            frames += 1;
            Ok(())
        };
        each_frame(&updates, INTERVAL, Some(2), &mut emit).unwrap();
        let error = each_frame(&updates, INTERVAL, None, &mut emit).unwrap_err();
        assert_eq!(error.to_string(), "the helper is gone");
        assert_eq!(frames, 3);
    }
}
