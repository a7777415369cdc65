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

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hbpf_core::label::Text;
use hbpf_core::snapshot::Gpu;
use serde::{Deserialize, Serialize};

use crate::socket::{Socket, SocketError};

pub(crate) use reader::main as read_for_ever;

/// Time between two readings. One takes some milliseconds a GPU, and 40 that the driver counts traffic on the bus in.
const INTERVAL: Duration = Duration::from_secs(1);

/// Numbers of a driver that answers are no older than this, however busy the machine.
const FRESH: Duration = Duration::from_millis(2500);

/// Most GPUs that are kept.
const MAX_GPUS: usize = 64;

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

/// The helper's end: what the reader has said.
#[derive(Default)]
pub(crate) struct Gpus {
    socket: Option<Socket>,
    incoming: Vec<Gpu>,
    latest: Vec<Gpu>,
    latest_at: Option<Instant>,
}

impl Gpus {
    /// `reader` is the socket to the reader; without one there are no GPUs.
    pub(crate) fn new(reader: Option<OwnedFd>) -> Self {
        Self { socket: reader.map(Socket::new), ..Self::default() }
    }

    /// To wait for words of the reader.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Takes what the reader has said. Gives what is wrong.
    pub(crate) fn receive(&mut self) -> Vec<Text> {
        let mut problems = Vec::new();
        while let Some(socket) = &mut self.socket {
            match socket.receive() {
                Ok(None) => break,
                Ok(Some((Word::Gpu(gpu), _))) if self.incoming.len() < MAX_GPUS => self.incoming.push(*gpu),
                Ok(Some((Word::Gpu(_), _))) => {}
                Ok(Some((Word::Complete, _))) => {
                    self.latest = std::mem::take(&mut self.incoming);
                    self.latest_at = Some(Instant::now());
                }
                Ok(Some((Word::Problem(problem), _))) => problems.push(problem),
                // Each message stands for itself.
                Err(error @ SocketError::Malformed(_)) => problems.push(Text::new(&error.to_string())),
                Err(_) => {
                    self.socket = None;
                    problems.push(
                        "the process that reads GPUs has ended: their numbers are of before; start hbpf anew".into(),
                    );
                }
            }
        }
        problems
    }

    /// Whether any GPU's driver tells in `/proc` who uses it.
    pub(crate) fn tell_in_proc(&self) -> bool {
        self.latest.iter().any(drm::is_told_in_proc)
    }

    /// All GPUs by the latest reading. Where that is too old to be of now, they say how old.
    pub(crate) fn now(&self) -> impl Iterator<Item = Gpu> {
        let age = self.latest_at.map(|when| when.elapsed()).filter(|age| *age > FRESH);
        self.latest.iter().cloned().map(move |gpu| Gpu { stale_seconds: age.map(|age| age.as_secs_f64()), ..gpu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket;

    fn gpu(index: u32) -> Box<Gpu> {
        Box::new(Gpu { index, ..Gpu::default() })
    }

    #[test]
    fn a_reading_counts_when_it_is_complete_and_grows_old() {
        let (ours, theirs) = socket::pair().unwrap();
        let (mut gpus, mut reader) = (Gpus::new(Some(ours)), Socket::new(theirs));
        assert_eq!(gpus.now().count(), 0);
        let mut say = |word: Word| reader.send(&word, None).unwrap();
        say(Word::Gpu(gpu(0)));
        say(Word::Gpu(gpu(1)));
        assert!(gpus.receive().is_empty());
        assert_eq!(gpus.now().count(), 0, "the reading is under way");
        say(Word::Complete);
        gpus.receive();
        assert_eq!(gpus.now().map(|gpu| (gpu.index, gpu.stale_seconds)).collect::<Vec<_>>(), [(0, None), (1, None)]);
        // The next reading hangs.
        say(Word::Gpu(gpu(0)));
        gpus.receive();
        gpus.latest_at = gpus.latest_at.map(|when| when - Duration::from_secs(5));
        assert!(gpus.now().all(|gpu| gpu.stale_seconds.is_some_and(|age| age >= 5.0)));
        say(Word::Problem("x".into()));
        assert_eq!(gpus.receive(), [Text::from("x")]);
    }

    #[test]
    fn what_the_reader_says_is_bounded_and_its_end_is_told() {
        let (ours, theirs) = socket::pair().unwrap();
        let (mut gpus, mut reader) = (Gpus::new(Some(ours)), Socket::new(theirs));
        for index in 0..100 {
            reader.send(&Word::Gpu(gpu(index)), None).unwrap();
            gpus.receive();
        }
        reader.send(&Word::Complete, None).unwrap();
        drop(reader);
        assert_eq!(gpus.receive().len(), 1, "that it has ended");
        assert_eq!(gpus.now().count(), MAX_GPUS);
        assert!(gpus.fd().is_none() && gpus.receive().is_empty(), "and is told once");
        assert_eq!(Gpus::new(None).now().count(), 0);
    }
}
