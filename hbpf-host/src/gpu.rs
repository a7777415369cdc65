//! GPUs.
//!
//! Drivers' libraries are much code that is not ours, and calls into them can hang for as long as a GPU is in trouble. So a
//! process of its own reads them, without any privileges: the reader. It is forked before anything else starts, if there
//! is anything to read, and tells the helper what it has read. While it hangs, the helper goes on and says how old its
//! latest word is.

mod drm;
pub(crate) mod library;
mod nvidia;
mod reader;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hbpf_core::label::{Label, Text};
use hbpf_core::snapshot::Gpu;
use serde::{Deserialize, Serialize};

use crate::socket::{Socket, SocketError};

pub(crate) use reader::main as read_for_ever;

/// Time between two readings. One takes some milliseconds a GPU, and 40 that the driver counts traffic on the bus in.
const INTERVAL: Duration = Duration::from_secs(1);

/// A driver that says nothing for so long hangs.
const HANGING: Duration = Duration::from_secs(5);

/// Numbers of a driver that answers are no older than this, however busy the machine.
const FRESH: Duration = Duration::from_millis(2500);

/// Most GPUs that are kept.
const MAX_GPUS: usize = 64;

/// Words of the reader taken at a time: a whole reading, and some.
const MAX_WORDS: usize = 2 * MAX_GPUS;

/// Most processes of one GPU: a message has room for so many.
pub(crate) const MAX_PROCESSES: usize = 256;

/// Most parts of one GPU (MIG). Seven is what there is.
const MAX_INSTANCES: usize = 16;

/// More than any GPU draws.
const MAX_WATTS: f64 = 100_000.0;

/// Hotter than any GPU that still answers.
const MAX_CELSIUS: f64 = 200.0;

/// Most reasons for low clocks; a driver knows some ten.
const MAX_REASONS: usize = 32;

/// What the reader says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Word {
    /// One GPU of the reading under way.
    Gpu(Box<Gpu>),
    /// The reading is complete.
    Complete,
    /// Nothing can be read, and why.
    Problem(Text),
}

/// What the reader reads.
#[derive(Debug)]
pub(crate) struct Sources {
    /// NVIDIA's library.
    library: Option<PathBuf>,
    /// AMD's and Intel's GPUs.
    cards: Vec<drm::Card>,
}

impl Sources {
    /// All that there are; `None` if there are none. Of NVIDIA's library that which was asked for, or the system's, if a
    /// driver is loaded.
    pub(crate) fn find(chosen: Option<&Path>) -> Option<Self> {
        let library = match chosen {
            Some(path) => Some(path.to_owned()),
            None if library::is_driver_loaded() => library::find(),
            None => None,
        };
        let sources = Self { library, cards: drm::cards(Path::new("/sys")) };
        (sources.library.is_some() || !sources.cards.is_empty()).then_some(sources)
    }
}

/// AMD's and Intel's GPUs: what they are called, and where they are on the bus.
pub(crate) fn card_names(sys: &Path) -> Vec<String> {
    drm::cards(sys).iter().map(drm::Card::title).collect()
}

/// The reader, as the helper knows it.
pub(crate) struct GpuReader {
    pub(crate) socket: OwnedFd,
    pub(crate) pid: u32,
}

/// The helper's end: what the reader has said.
#[derive(Default)]
pub(crate) struct Gpus {
    socket: Option<Socket>,
    reader_pid: Option<u32>,
    incoming: Vec<Gpu>,
    latest: Vec<Gpu>,
    latest_at: Option<Instant>,
    /// When it told of a GPU last, or that a reading was complete; `None` where nothing can be read.
    read_at: Option<Instant>,
    /// It has said why nothing can be read.
    has_problem: bool,
    /// By the GPU's identity.
    energy: HashMap<Label, Energy>,
}

/// A GPU's energy counter, which begins anew when its driver does.
#[derive(Clone, Copy, Debug, Default)]
struct Energy {
    latest: f64,
    /// What it had counted each time before it began anew.
    before: f64,
}

impl Energy {
    fn total(&mut self, joules: f64) -> f64 {
        if joules < self.latest {
            self.before += self.latest;
        }
        self.latest = joules;
        self.before + joules
    }
}

/// What the reader may tell of one GPU, whatever the driver's library has made of it.
fn bounded(mut gpu: Gpu) -> Gpu {
    gpu.processes.truncate(MAX_PROCESSES);
    gpu.instances.truncate(MAX_INSTANCES);
    gpu.throttle_reasons.truncate(MAX_REASONS);
    // Some drivers write all ones for what they do not know.
    let is_share = |percent: &f64| (0.0..=100.0).contains(percent);
    gpu.utilization_percent = gpu.utilization_percent.filter(is_share);
    gpu.memory_utilization_percent = gpu.memory_utilization_percent.filter(is_share);
    let total = gpu.memory_total_bytes;
    gpu.memory_used_bytes = gpu.memory_used_bytes.filter(|used| total.is_none_or(|total| *used <= total));
    gpu.power_watts = gpu.power_watts.filter(|watts| (0.0..=MAX_WATTS).contains(watts));
    gpu.temperature_celsius = gpu.temperature_celsius.filter(|celsius| (0.0..=MAX_CELSIUS).contains(celsius));
    gpu
}

impl Gpus {
    /// Without a reader there are no GPUs.
    pub(crate) fn new(reader: Option<GpuReader>) -> Self {
        let reader_pid = reader.as_ref().map(|reader| reader.pid);
        Self { socket: reader.map(|reader| Socket::new(reader.socket)), reader_pid, ..Self::default() }
    }

    /// The reader's process; `None` also when it has ended.
    pub(crate) fn reader_pid(&self) -> Option<u32> {
        self.reader_pid.filter(|_| self.socket.is_some())
    }

    /// To wait for words of the reader.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Whether the reader has yet to say anything: a driver that no program holds open takes seconds to wake up.
    pub(crate) fn is_awaited(&self) -> bool {
        self.socket.is_some() && self.latest_at.is_none() && !self.has_problem && self.hanging_for().is_none()
    }

    /// Takes what the reader has said. Gives what is wrong.
    pub(crate) fn receive(&mut self) -> Vec<Text> {
        let mut problems = Vec::new();
        // A reader that has gone mad does not keep us here.
        for _ in 0..MAX_WORDS {
            let Some(socket) = &mut self.socket else { break };
            let word = socket.receive();
            match &word {
                Ok(Some((Word::Gpu(_) | Word::Complete, _))) => self.read_at = Some(Instant::now()),
                Ok(Some((Word::Problem(_), _))) => self.read_at = None,
                _ => {}
            }
            match word {
                Ok(None) => break,
                Ok(Some((Word::Gpu(gpu), _))) if self.incoming.len() < MAX_GPUS => self.incoming.push(bounded(*gpu)),
                Ok(Some((Word::Gpu(_), _))) => {}
                Ok(Some((Word::Complete, _))) => self.complete(),
                Ok(Some((Word::Problem(problem), _))) => {
                    self.has_problem = true;
                    problems.push(problem);
                }
                // Each message stands for itself.
                Err(error @ SocketError::Malformed(_)) => problems.push(Text::new(&error.to_string())),
                Err(_) => {
                    self.socket = None;
                    problems.push(
                        "the process that reads GPUs has ended, in a driver's library most likely: numbers of GPUs are of \
                         before, if there are any"
                            .into(),
                    );
                }
            }
        }
        problems.extend(self.hanging());
        problems
    }

    /// For how long the reader has said nothing, if it hangs.
    fn hanging_for(&self) -> Option<Duration> {
        self.read_at.map(|when| when.elapsed()).filter(|silence| self.socket.is_some() && *silence > HANGING)
    }

    /// That it hangs, and over which GPU: they are read one by one.
    fn hanging(&self) -> Option<Text> {
        self.hanging_for()?;
        let next = self.incoming.len();
        Some(Text::new(&format!(
            "the driver does not answer about GPU {next}: until it does, what is shown of GPUs is of before"
        )))
    }

    fn complete(&mut self) {
        self.latest = std::mem::take(&mut self.incoming);
        self.latest_at = Some(Instant::now());
        for gpu in &mut self.latest {
            if let Some(joules) = &mut gpu.energy_joules_total {
                *joules = self.energy.entry(gpu.uuid.clone()).or_default().total(*joules);
            }
        }
        let latest = &self.latest;
        self.energy.retain(|uuid, _| latest.iter().any(|gpu| gpu.uuid == *uuid));
    }

    /// Whether any GPU's driver tells in `/proc` who uses it.
    pub(crate) fn tell_in_proc(&self) -> bool {
        self.latest.iter().any(drm::is_told_in_proc)
    }

    /// All GPUs by the latest reading. Where that is too old to be of now, they say how old.
    pub(crate) fn now(&self) -> impl Iterator<Item = Gpu> {
        // Of a first reading that hangs there are those that were read before.
        let (gpus, age) = match (self.latest_at, self.hanging_for()) {
            (None, Some(age)) => (&self.incoming, Some(age)),
            (latest_at, _) => (&self.latest, latest_at.map(|when| when.elapsed()).filter(|age| *age > FRESH)),
        };
        gpus.iter().cloned().map(move |gpu| Gpu { stale_seconds: age.map(|age| age.as_secs_f64()), ..gpu })
    }
}

#[cfg(test)]
mod tests {
    use hbpf_core::snapshot::{GpuInstance, GpuProcess};

    use super::*;
    use crate::socket;

    fn gpu(index: u32) -> Box<Gpu> {
        Box::new(Gpu { index, ..Gpu::default() })
    }

    #[test]
    fn a_reading_counts_when_it_is_complete_and_grows_old() {
        let (ours, theirs) = socket::pair().unwrap();
        let (mut gpus, mut reader) = (Gpus::new(Some(GpuReader { socket: ours, pid: 1 })), Socket::new(theirs));
        assert_eq!(gpus.now().count(), 0);
        let mut say = |word: Word| reader.send(&word, None).unwrap();
        say(Word::Gpu(gpu(0)));
        say(Word::Gpu(gpu(1)));
        assert!(gpus.receive().is_empty());
        assert!(gpus.now().count() == 0 && gpus.is_awaited(), "the reading is under way");
        say(Word::Complete);
        gpus.receive();
        assert_eq!(gpus.now().map(|gpu| (gpu.index, gpu.stale_seconds)).collect::<Vec<_>>(), [(0, None), (1, None)]);
        assert!(!gpus.is_awaited());
        // The next reading hangs.
        say(Word::Gpu(gpu(0)));
        gpus.receive();
        gpus.latest_at = gpus.latest_at.map(|when| when - Duration::from_secs(5));
        assert!(gpus.now().all(|gpu| gpu.stale_seconds.is_some_and(|age| age >= 5.0)));
        gpus.read_at = gpus.read_at.map(|when| when - Duration::from_secs(6));
        let [problem] = &gpus.receive()[..] else { panic!("that it hangs is told") };
        assert!(problem.contains("about GPU 1"), "{problem}");
        say(Word::Problem("x".into()));
        assert_eq!(gpus.receive(), [Text::from("x")]);
    }

    #[test]
    fn of_a_first_reading_that_hangs_there_is_what_was_read_before() {
        let (ours, theirs) = socket::pair().unwrap();
        let (mut gpus, mut reader) = (Gpus::new(Some(GpuReader { socket: ours, pid: 1 })), Socket::new(theirs));
        reader.send(&Word::Gpu(gpu(0)), None).unwrap();
        assert!(gpus.receive().is_empty() && gpus.now().count() == 0);
        gpus.read_at = gpus.read_at.map(|when| when - Duration::from_secs(6));
        assert_eq!(gpus.receive().len(), 1);
        let shown: Vec<Gpu> = gpus.now().collect();
        assert!(shown.len() == 1 && shown[0].stale_seconds.is_some_and(|age| age >= 6.0) && !gpus.is_awaited());
    }

    #[test]
    fn energy_does_not_fall_when_a_driver_begins_anew() {
        let mut energy = Energy::default();
        let totals = [100.0, 150.0, 20.0, 30.0, 0.0].map(|joules| energy.total(joules));
        assert_eq!(totals, [100.0, 150.0, 170.0, 180.0, 180.0]);
    }

    #[test]
    fn what_the_reader_says_is_bounded_and_its_end_is_told() {
        let (ours, theirs) = socket::pair().unwrap();
        let (mut gpus, mut reader) = (Gpus::new(Some(GpuReader { socket: ours, pid: 1 })), Socket::new(theirs));
        let crowd = || Gpu {
            processes: vec![GpuProcess::default(); 2000],
            instances: vec![GpuInstance::default(); 100],
            throttle_reasons: vec!["x".into(); 1000],
            ..Gpu::default()
        };
        for _ in 0..100 {
            reader.send(&Word::Gpu(Box::new(crowd())), None).unwrap();
            gpus.receive();
        }
        reader.send(&Word::Complete, None).unwrap();
        drop(reader);
        assert_eq!(gpus.receive().len(), 1, "that it has ended");
        assert_eq!(gpus.now().count(), MAX_GPUS);
        let first = gpus.now().next().unwrap();
        let lengths = (first.processes.len(), first.instances.len(), first.throttle_reasons.len());
        assert_eq!(lengths, (MAX_PROCESSES, MAX_INSTANCES, MAX_REASONS));
        assert!(gpus.fd().is_none() && gpus.receive().is_empty(), "and is told once");
        assert_eq!(Gpus::new(None).now().count(), 0);
    }
}
