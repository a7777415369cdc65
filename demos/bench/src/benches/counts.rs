//! What the groups cost that count: disks, connections and openings of devices.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hbpf_core::snapshot::Snapshot;
use nix::libc;

use super::{Context, Outcome};
use crate::compare::{Arm, Better, Rounds, in_turns};
use crate::hbpf::Hbpf;
use crate::report::{Section, Table};

/// Groups, and what makes the events that they count.
const KINDS: [(&str, &str); 3] = [
    ("block", "4 KiB read from the disk itself"),
    ("net", "connection over loopback, opened and closed at both ends"),
    ("device", "opening of /dev/null, which is not watched"),
];

/// A file of this size is read.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What is read at once: as little as any disk gives, and where a page begins.
const PIECE: usize = 4096;

pub(super) fn run(context: &Context) -> Result<Outcome> {
    let duration = Duration::from_secs_f64(context.effort.seconds);
    let mut disk = Disk::new()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut totals = [None; KINDS.len()];
    let rounds: [Rounds; KINDS.len()] = in_turns(context.effort.rounds, &[Arm::Without, Arm::With], |arm| {
        let hbpf = (arm == Arm::With).then(|| Hbpf::start_counting(&KINDS.map(|(group, _)| group))).transpose()?;
        let mut rates = [0.0; KINDS.len()];
        for (index, rate) in rates.iter_mut().enumerate() {
            let before = hbpf.as_ref().map(Hbpf::frame).transpose()?;
            let started = Instant::now();
            let mut events = 0_u64;
            while started.elapsed() < duration {
                match index {
                    0 => disk.read()?,
                    1 => connect(&listener)?,
                    _ => drop(File::open("/dev/null")?),
                }
                events += 1;
            }
            *rate = events as f64 / started.elapsed().as_secs_f64();
            let after = hbpf.as_ref().map(Hbpf::frame).transpose()?;
            if let Some((before, after)) = before.zip(after) {
                let seconds = in_group(&after, KINDS[index].0) - in_group(&before, KINDS[index].0);
                totals[index] = Some(seconds / events as f64);
            }
        }
        Ok(rates)
    })?;
    let mut section = Section::default();
    let mut table =
        Table::new(&["event", "group", "ns in programs", "per second without", "with", "cost (middle half)", "noise"]);
    for (((group, what), rounds), seconds) in KINDS.iter().zip(&rounds).zip(totals) {
        table.row([
            (*what).to_owned(),
            (*group).to_owned(),
            seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:.0}", seconds * 1e9)),
            format!("{:.0}", rounds.median(Arm::Without)),
            format!("{:.0}", rounds.median(Arm::With)),
            rounds.cost(Arm::With, Better::More).to_string(),
            format!("{:.1} %", rounds.noise()),
        ]);
    }
    section.table(
        "One process, one event after the other as fast as it goes, without and with `hbpf snapshot --groups block,net,device \
         --interval 1s`.",
        table,
    );
    section.note(
        "ns in programs: all programs of the group together per event (BPF_ENABLE_STATS), in the last round; of a \
         connection that is both ends, from the first call to the last state.",
    );
    Ok(Outcome::Done(section))
}

/// Seconds in a group's programs so far.
fn in_group(frame: &Snapshot, group: &str) -> f64 {
    // What starts and ends of processes take is shown with the first group.
    let own =
        frame.capture.probes.iter().filter(|probe| probe.group == group && !probe.program.starts_with("process_"));
    own.filter_map(|probe| probe.run_seconds_total).sum()
}

fn connect(listener: &TcpListener) -> Result<()> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    drop(client);
    drop(server);
    Ok(())
}

/// A file that is read past the page cache.
struct Disk {
    file: File,
    /// Twice what is needed, for the kernel wants it to begin where a page does.
    buffer: Vec<u8>,
    random: u64,
    _path: tempfile::TempPath,
}

impl Disk {
    fn new() -> Result<Self> {
        let directory = hbpf_e2e::programs().hbpf.parent().context("programs lie in a directory")?.to_owned();
        let (mut file, path) = tempfile::NamedTempFile::new_in(directory)?.into_parts();
        let piece: Vec<u8> = (0..PIECE).map(|at| at as u8).collect();
        for _ in 0..FILE_BYTES / PIECE as u64 {
            file.write_all(&piece)?;
        }
        file.sync_all()?;
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path)?;
        Ok(Self { file, buffer: vec![0; 2 * PIECE], random: 1, _path: path })
    }

    fn read(&mut self) -> Result<()> {
        // Any order will do in which no place is next to the one before.
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let place = (self.random >> 33) % (FILE_BYTES / PIECE as u64);
        self.file.seek(SeekFrom::Start(place * PIECE as u64))?;
        let start = self.buffer.as_ptr().align_offset(PIECE);
        self.file.read_exact(&mut self.buffer[start..start + PIECE]).context("reading past the page cache")
    }
}
