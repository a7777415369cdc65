use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Cursor, Seek, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hbpf_core::snapshot::{SCHEMA, Snapshot};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::block::FULL_SNAPSHOTS;
use super::*;
use crate::fixture;

/// One a second, of little: what is large takes time.
fn snapshots(count: usize) -> Vec<Snapshot> {
    let mut little = fixture::rich();
    little.processes.truncate(1);
    little.models.truncate(1);
    little.workloads.clear();
    little.endpoints.clear();
    little.requests.recent.truncate(1);
    let snapshot = |seconds: usize| {
        let mut snapshot = little.clone();
        snapshot.captured_at += SignedDuration::from_secs(seconds as i64);
        snapshot.sequence = seconds as u64;
        snapshot
    };
    (0..count).map(snapshot).collect()
}

fn recorded(snapshots: &[Snapshot]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    snapshots.iter().for_each(|snapshot| writer.push(snapshot).unwrap());
    writer.finish().unwrap()
}

fn as_lines(snapshots: &[Snapshot]) -> Vec<u8> {
    snapshots.iter().flat_map(|one| serde_json::to_vec(one).unwrap().into_iter().chain(*b"\n")).collect()
}

/// What tells a snapshot from the others.
fn of(snapshot: &Snapshot) -> (u64, Timestamp) {
    (snapshot.sequence, snapshot.captured_at)
}

/// All that can be read of a stream, and what is said then.
fn read(mut lines: Lines) -> (Vec<(u64, Timestamp)>, String) {
    let mut all = Vec::new();
    loop {
        match lines.next() {
            Ok(Some(snapshot)) => all.push(of(&snapshot)),
            Ok(None) => return (all, END.to_owned()),
            Err(error) => return (all, format!("{error:#}")),
        }
    }
}

fn stream(bytes: &[u8]) -> (Vec<(u64, Timestamp)>, String) {
    read(Lines::new(Cursor::new(bytes.to_vec())).unwrap())
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// A file opened, with how many frames were there at once, and the rest read.
fn opened(bytes: &[u8]) -> (Timeline, usize) {
    let (mut timeline, mut rest) = Timeline::open(file(bytes)).unwrap();
    let at_once = timeline.range().end;
    while let Ok(Some(snapshot)) = rest.next() {
        timeline.push(Arc::new(snapshot)).unwrap();
    }
    (timeline, at_once as usize)
}

fn frames(timeline: &mut Timeline) -> Vec<(u64, Timestamp)> {
    timeline.range().map(|number| of(&timeline.get(number).unwrap().unwrap())).collect()
}

#[test]
fn what_is_written_is_read_from_a_stream_and_frame_by_frame() {
    let all = snapshots(2 * FULL_SNAPSHOTS + 5);
    let wanted: Vec<_> = all.iter().map(of).collect();
    let bytes = recorded(&all);
    assert_eq!(stream(&bytes), (wanted.clone(), END.to_owned()));
    let lines = as_lines(&all);
    assert_eq!(stream(&lines).0, wanted, "a line each, as they are");
    assert!(bytes.len() * 20 < lines.len(), "{} of {}", bytes.len(), lines.len());
    for (bytes, whole) in [(bytes, all.len()), (lines, 0)] {
        let (mut timeline, at_once) = opened(&bytes);
        assert_eq!((frames(&mut timeline), at_once), (wanted.clone(), whole));
        // And back.
        for number in timeline.range().rev() {
            assert_eq!(of(&timeline.get(number).unwrap().unwrap()), wanted[number as usize]);
        }
        assert_eq!(timeline.get(all.len() as u64).unwrap().map(|snapshot| of(&snapshot)), None);
    }
    assert_eq!(stream(&recorded(&[])), (Vec::new(), END.to_owned()));
}

#[test]
fn samples_stand_in_the_file() {
    let all = snapshots(FULL_SNAPSHOTS + 1);
    let (timeline, _) = opened(&recorded(&all));
    let samples = timeline.samples_to(all.len() as u64, all.len());
    // Numbers lose a last bit on their way through JSON.
    let of = |sample: &Sample| (sample.at, sample.failed, sample.heat.clone());
    assert_eq!(
        samples.iter().map(|one| of(one)).collect::<Vec<_>>(),
        all.iter().map(|one| of(&Sample::of(one))).collect::<Vec<_>>()
    );
    let third = all[3].captured_at;
    assert_eq!(timeline.at(third), 3);
    assert_eq!(timeline.at(third - SignedDuration::from_millis(1)), 2);
    assert_eq!((timeline.at(Timestamp::MIN), timeline.at(Timestamp::MAX)), (0, FULL_SNAPSHOTS as u64));
    assert_eq!(
        timeline.samples_to(3, 2).iter().map(|sample| sample.at).collect::<Vec<_>>(),
        [all[2].captured_at, third]
    );
}

/// What a writer has written so far.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_was_cut_off_opens_up_to_the_cut() {
    let all = snapshots(FULL_SNAPSHOTS + 4);
    let output = Shared::default();
    let mut writer = Writer::new(output.clone()).unwrap();
    let mut ends = Vec::new();
    for snapshot in &all {
        writer.push(snapshot).unwrap();
        ends.push(output.0.borrow().len());
    }
    let bytes = output.0.borrow().clone();
    let wanted: Vec<_> = all.iter().map(of).collect();
    let block = ends[FULL_SNAPSHOTS - 1];
    let cuts = (0..bytes.len()).step_by(bytes.len() / 12).chain(block - 9..block + 3).chain([bytes.len()]);
    for cut in cuts.filter(|cut| *cut > 0) {
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let (mut timeline, at_once) = opened(&bytes[..cut]);
        let seen = frames(&mut timeline);
        assert!(seen.len() >= whole && seen == wanted[..seen.len()], "{} of {whole} at {cut}", seen.len());
        assert_eq!(at_once, if cut >= block { FULL_SNAPSHOTS } else { 0 }, "{cut}");
        assert_eq!(stream(&bytes[..cut]).0, seen);
    }
}

#[test]
fn what_is_no_recording_is_refused_with_its_line() {
    let line = |seconds: usize| as_lines(&snapshots(seconds + 1)[seconds..]);
    assert_eq!(stream(b""), (Vec::new(), END.to_owned()));
    let (frames, why) = stream(&[&line(0)[..], b"\n", &line(1), b"{\"schema\": 1}\n"].concat());
    assert!(frames.len() == 2 && why.starts_with("line 4: not a snapshot"), "{why}");
    let later = String::from_utf8(line(0)).unwrap().replace(SCHEMA, "hbpf.snapshot/9");
    let why = stream(later.as_bytes()).1;
    assert_eq!(why, "line 1: its schema is \"hbpf.snapshot/9\"; this hbpf reads hbpf.snapshot/1");
    let cut = [&line(0)[..], &line(1)[..500]].concat();
    assert_eq!(stream(&cut).1, "the recording was cut off here");
    let endless = read(Lines::new(io::repeat(b'x')).unwrap());
    assert_eq!(endless, (Vec::new(), "line 1 is too long for a snapshot".to_owned()));
    assert!(Timeline::open(File::open("/").unwrap()).is_err());
}

#[test]
fn of_what_is_watched_the_latest_is_kept() {
    let keep = Keep { time: Duration::from_secs(100), ..Keep::WATCHED };
    let mut timeline = Timeline::new(keep).unwrap();
    let all = snapshots(4 * FULL_SNAPSHOTS);
    for (number, snapshot) in all.iter().enumerate() {
        timeline.push(Arc::new(snapshot.clone())).unwrap();
        // Also that of a block that grows.
        let range = timeline.range();
        let middle = (range.start + range.end) / 2;
        assert_eq!(of(&timeline.get(middle).unwrap().unwrap()), of(&all[middle as usize]));
        assert_eq!(range.end, number as u64 + 1);
        assert!(range.end - range.start >= (number as u64).min(100), "{range:?}");
    }
    assert_eq!(timeline.range().start, 2 * FULL_SNAPSHOTS as u64);
    assert!(timeline.get(0).unwrap().is_none());
    let kept: Vec<_> = all[2 * FULL_SNAPSHOTS..].iter().map(of).collect();
    assert_eq!(frames(&mut timeline), kept);
    // And can be written as a recording, then and later.
    for more in [0, 1] {
        all[..more].iter().for_each(|snapshot| timeline.push(Arc::new(snapshot.clone())).unwrap());
        let mut bytes = Vec::new();
        timeline.write(&mut bytes).unwrap();
        let (mut again, at_once) = opened(&bytes);
        assert_eq!((frames(&mut again), at_once), (frames(&mut timeline), kept.len() + more));
    }

    let mut small = Timeline::new(Keep { bytes: 1, ..Keep::STREAM }).unwrap();
    all.iter().for_each(|snapshot| small.push(Arc::new(snapshot.clone())).unwrap());
    assert!(small.range().end - small.range().start <= 2 * FULL_SNAPSHOTS as u64, "{:?}", small.range());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever bytes change, nothing panics, and what can be read is what was written.
    #[test]
    fn a_damaged_file_gives_what_is_left(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let all = snapshots(FULL_SNAPSHOTS + 2);
        let mut bytes = recorded(&all);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (mut timeline, _) = opened(&bytes);
        for number in timeline.range() {
            let _ = timeline.get(number);
        }
        stream(&bytes);
    }
}
