//! The thread that reads answers.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hbpf_core::inference::{Answer, Fetch, NoMatch, Place};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// How long a question may take to the last byte of its answer. Servers answer within milliseconds; one
/// that is at the end of its forces need not be waited for.
const DEADLINE: Duration = Duration::from_secs(2);

/// Read at once, and from one server in turn: a sixteenth of the longest answer.
const READ_BYTES: usize = 64 * 1024;

/// An answer to be read.
#[derive(Debug)]
pub(super) struct Job {
    /// Comes back with the outcome.
    pub(super) ticket: u64,
    /// A pipe, which does not block.
    pub(super) answer: OwnedFd,
    /// What was asked for.
    pub(super) place: Place,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    NoMatch(#[from] NoMatch),
    #[error("it does not answer within 2 s")]
    Late,
    #[error("its answer was lost")]
    Lost,
    #[error("{0}")]
    Io(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// Nothing is read any more.
#[derive(Debug, thiserror::Error)]
#[error("the thread that reads answers has ended")]
pub(super) struct Ended;

pub(super) type Outcome = Result<Answer, Failure>;

/// The thread, from outside. It ends with this value.
pub(super) struct Reader {
    /// `None` only while dropping.
    jobs: Option<Sender<Job>>,
    outcomes: Receiver<(u64, Outcome)>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts it. `news` is rung when there is an outcome.
    pub(super) fn start(news: Arc<EventFd>) -> io::Result<Self> {
        let (jobs, taken) = mpsc::channel();
        let (done, outcomes) = mpsc::channel();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let woken = Arc::clone(&wake);
        let deliver = move |ticket, outcome| {
            // Who does not listen any more is about to end this thread.
            let _ = done.send((ticket, outcome));
            let _ = news.write(1);
        };
        let thread = std::thread::Builder::new().name("engines".into()).spawn(move || run(&taken, &woken, deliver))?;
        Ok(Self { jobs: Some(jobs), outcomes, wake, thread: Some(thread) })
    }

    /// Reads this as well. Fails where the thread has ended, which it does not by itself.
    pub(super) fn read(&self, job: Job) -> Result<(), Ended> {
        self.jobs.as_ref().ok_or(Ended)?.send(job).map_err(|_| Ended)?;
        let _ = self.wake.write(1);
        Ok(())
    }

    /// What has come of questions.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (u64, Outcome)> {
        self.outcomes.try_iter()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(jobs: &Receiver<Job>, wake: &EventFd, deliver: impl Fn(u64, Outcome)) {
    let mut open: Vec<Open> = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let _ = wake.read();
        loop {
            match jobs.try_recv() {
                Ok(job) => open.push(Open::new(job)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        let now = Instant::now();
        open.retain_mut(|question| {
            let late = (now >= question.deadline).then_some(Err(Failure::Late));
            match question.advance(&mut buffer).or(late) {
                Some(outcome) => {
                    deliver(question.ticket, outcome);
                    false
                }
                None => true,
            }
        });
        wait(&open, wake);
    }
}

/// Waits until there is something to read, a new answer, or one is late.
fn wait(open: &[Open], wake: &EventFd) {
    let mut ready = vec![PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
    ready.extend(open.iter().map(|question| PollFd::new(question.answer.as_fd(), PollFlags::POLLIN)));
    let first = open.iter().map(|question| question.deadline).min();
    let timeout = first.map_or(PollTimeout::NONE, |deadline| {
        // Rounded up: a millisecond too early would make us turn in circles until it has passed.
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    });
    // An error is a signal, after which everything is looked at again.
    let _ = poll(&mut ready, timeout);
}

/// An answer under way.
struct Open {
    ticket: u64,
    answer: File,
    /// `None` once it has come to its end.
    fetch: Option<Fetch>,
    deadline: Instant,
}

impl Open {
    fn new(job: Job) -> Self {
        Self {
            ticket: job.ticket,
            answer: job.answer.into(),
            fetch: Some(Fetch::new(job.place)),
            deadline: Instant::now() + DEADLINE,
        }
    }

    /// Reads as much as can be at once, for one turn; what has come of it, if that is known.
    fn advance(&mut self, buffer: &mut [u8]) -> Option<Outcome> {
        match self.try_advance(buffer) {
            Ok(outcome) => outcome.map(|outcome| outcome.map_err(Failure::from)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    fn try_advance(&mut self, buffer: &mut [u8]) -> io::Result<Option<Result<Answer, NoMatch>>> {
        let length = self.answer.read(buffer)?;
        if length == 0 {
            return Ok(self.fetch.take().map(Fetch::end));
        }
        Ok(self.fetch.as_mut().and_then(|fetch| fetch.push(&buffer[..length])))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Write};

    use hbpf_core::inference::MAX_ANSWER_BYTES;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    /// A thread, and the bell that it rings.
    fn reader() -> (Reader, Arc<EventFd>) {
        let news = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap());
        (Reader::start(Arc::clone(&news)).unwrap(), news)
    }

    /// An answer that is read from now on, and where to write it.
    fn answer(reader: &Reader, ticket: u64) -> PipeWriter {
        let (answer, writer) = io::pipe().unwrap();
        fcntl(&answer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        reader.read(Job { ticket, answer: answer.into(), place: Place::Metrics }).unwrap();
        writer
    }

    fn next(reader: &Reader, news: &EventFd) -> (u64, Outcome) {
        loop {
            if let Some(outcome) = reader.outcomes.try_iter().next() {
                return outcome;
            }
            poll(&mut [PollFd::new(news.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
            news.read().unwrap();
        }
    }

    const METRICS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 33\r\n\r\nvllm:num_requests_running{} 3.0\n\n\n";

    #[test]
    fn answers_are_read_while_others_do_not_come() {
        let (reader, news) = reader();
        let began = Instant::now();
        let _silent = answer(&reader, 1);
        let mut begun = answer(&reader, 2);
        begun.write_all(&METRICS[..50]).unwrap();
        answer(&reader, 3).write_all(METRICS).unwrap();
        let (ticket, outcome) = next(&reader, &news);
        assert!(ticket == 3 && matches!(outcome, Ok(Answer::Metrics(_))), "{ticket} {outcome:?}");
        let late = [next(&reader, &news), next(&reader, &news)];
        assert!(began.elapsed() >= DEADLINE);
        assert!(late.iter().all(|(ticket, outcome)| *ticket != 3 && *outcome == Err(Failure::Late)), "{late:?}");
    }

    #[test]
    fn what_is_known_to_be_none_is_let_go_at_once() {
        let (reader, news) = reader();
        let mut endless = answer(&reader, 1);
        endless.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let line = b"vllm:num_requests_running 1\n".repeat(1000);
        let mut written = 0;
        while endless.write_all(&line).is_ok() {
            written += line.len();
        }
        // What lies in the pipe comes on top.
        assert!(written < 2 * MAX_ANSWER_BYTES, "{written}");
        assert_eq!(next(&reader, &news), (1, Err(Failure::NoMatch(NoMatch::TooLong))));
        answer(&reader, 2).write_all(&METRICS[..50]).unwrap();
        assert_eq!(next(&reader, &news), (2, Err(Failure::NoMatch(NoMatch::NotHttp))), "it was cut");
    }

    #[test]
    fn the_thread_ends_without_waiting_for_answers() {
        let (reader, _news) = reader();
        let _silent = answer(&reader, 1);
        let began = Instant::now();
        drop(reader);
        assert!(began.elapsed() < DEADLINE);
    }
}
