//! The thread that puts questions and reads the answers.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hbpf_core::inference::{Answer, Fetch, NoMatch, Place};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// How long a question may take from the connection to the last byte of its answer. Servers answer within milliseconds; one
/// that is at the end of its forces need not be waited for.
const DEADLINE: Duration = Duration::from_secs(2);

/// Read at once, and from one server in turn: a sixteenth of the longest answer.
const READ_BYTES: usize = 64 * 1024;

/// A question for a server that a connection leads to.
#[derive(Debug)]
pub(super) struct Job {
    /// Comes back with the outcome.
    pub(super) ticket: u64,
    /// Connected, or about to be; does not block.
    pub(super) connection: OwnedFd,
    pub(super) place: Place,
    /// The server's address and port.
    pub(super) host: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    NoMatch(#[from] NoMatch),
    #[error("it does not answer within 2 s")]
    Late,
    #[error("{0}")]
    Io(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

pub(super) type Outcome = Result<Answer, Failure>;

/// The thread, from outside. It ends with this value.
pub(super) struct Fetcher {
    /// `None` only while dropping.
    jobs: Option<Sender<Job>>,
    outcomes: Receiver<(u64, Outcome)>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Fetcher {
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

    /// Puts a question.
    pub(super) fn ask(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // A thread that has ended answers nothing, and its questions stay open.
            let _ = jobs.send(job);
            let _ = self.wake.write(1);
        }
    }

    /// What has come of questions.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (u64, Outcome)> {
        self.outcomes.try_iter()
    }
}

impl Drop for Fetcher {
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

/// Waits until there is something to read or to write, a new question, or one is late.
fn wait(open: &[Open], wake: &EventFd) {
    let mut ready = vec![PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
    ready.extend(open.iter().map(|question| PollFd::new(question.connection.as_fd(), question.awaited())));
    let first = open.iter().map(|question| question.deadline).min();
    let timeout = first.map_or(PollTimeout::NONE, |deadline| {
        // Rounded up: a millisecond too early would make us turn in circles until it has passed.
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    });
    // An error is a signal, after which everything is looked at again.
    let _ = poll(&mut ready, timeout);
}

/// A question under way.
struct Open {
    ticket: u64,
    connection: TcpStream,
    /// What is left of the request.
    unsent: Vec<u8>,
    /// `None` once it has come to its end.
    fetch: Option<Fetch>,
    deadline: Instant,
}

impl Open {
    fn new(job: Job) -> Self {
        Self {
            ticket: job.ticket,
            connection: job.connection.into(),
            unsent: Fetch::request(job.place, &job.host).into_bytes(),
            fetch: Some(Fetch::new(job.place)),
            deadline: Instant::now() + DEADLINE,
        }
    }

    fn awaited(&self) -> PollFlags {
        if self.unsent.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT }
    }

    /// Sends and reads as much as can be at once, for one turn; what has come of it, if that is known.
    fn advance(&mut self, buffer: &mut [u8]) -> Option<Outcome> {
        match self.try_advance(buffer) {
            Ok(outcome) => outcome.map(|outcome| outcome.map_err(Failure::from)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    fn try_advance(&mut self, buffer: &mut [u8]) -> io::Result<Option<Result<Answer, NoMatch>>> {
        while !self.unsent.is_empty() {
            let sent = self.connection.write(&self.unsent)?;
            self.unsent.drain(..sent);
        }
        let length = self.connection.read(buffer)?;
        if length == 0 {
            return Ok(self.fetch.take().map(Fetch::end));
        }
        Ok(self.fetch.as_mut().and_then(|fetch| fetch.push(&buffer[..length])))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use hbpf_core::inference::MAX_ANSWER_BYTES;

    use super::*;

    /// A thread, and the bell that it rings.
    fn fetcher() -> (Fetcher, Arc<EventFd>) {
        let news = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap());
        (Fetcher::start(Arc::clone(&news)).unwrap(), news)
    }

    fn job(ticket: u64, address: std::net::SocketAddr) -> Job {
        let connection = TcpStream::connect(address).unwrap();
        connection.set_nonblocking(true).unwrap();
        Job { ticket, connection: connection.into(), place: Place::Metrics, host: address.to_string() }
    }

    fn next(fetcher: &Fetcher, news: &EventFd) -> (u64, Outcome) {
        loop {
            if let Some(outcome) = fetcher.outcomes.try_iter().next() {
                return outcome;
            }
            poll(&mut [PollFd::new(news.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
            news.read().unwrap();
        }
    }

    /// A server that reads one request and says this, for as long as the client reads.
    fn server(answer: impl Fn(&mut TcpStream) -> io::Result<()> + Send + 'static) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = connection.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /metrics HTTP/1.1\r\n"));
            // The client may have gone.
            let _ = answer(&mut connection);
        });
        address
    }

    const METRICS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 33\r\n\r\nvllm:num_requests_running{} 3.0\n\n\n";

    #[test]
    fn questions_are_answered_while_others_hang() {
        let (fetcher, news) = fetcher();
        let began = Instant::now();
        // It accepts by its backlog and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let dripping = server(|connection| {
            loop {
                connection.write_all(b"H")?;
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        fetcher.ask(job(1, silent.local_addr().unwrap()));
        fetcher.ask(job(2, dripping));
        fetcher.ask(job(3, server(|connection| connection.write_all(METRICS))));
        let (ticket, outcome) = next(&fetcher, &news);
        assert!(ticket == 3 && matches!(outcome, Ok(Answer::Metrics(_))), "{ticket} {outcome:?}");
        let mut late = [next(&fetcher, &news), next(&fetcher, &news)];
        late.sort_by_key(|(ticket, _)| *ticket);
        assert!(began.elapsed() >= DEADLINE);
        let refused = (2, Err(Failure::NoMatch(NoMatch::NotHttp)));
        // A byte a time may also be seen not to be HTTP.
        assert!(
            late[0] == (1, Err(Failure::Late)) && (late[1] == (2, Err(Failure::Late)) || late[1] == refused),
            "{late:?}"
        );
    }

    #[test]
    fn redirects_and_endless_answers_are_given_up() {
        let (fetcher, news) = fetcher();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let elsewhere = other.local_addr().unwrap();
        let redirect =
            format!("HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/metrics\r\nContent-Length: 0\r\n\r\n");
        fetcher.ask(job(1, server(move |connection| connection.write_all(redirect.as_bytes()))));
        assert_eq!(next(&fetcher, &news), (1, Err(Failure::NoMatch(NoMatch::Redirect(302)))));
        other.set_nonblocking(true).unwrap();
        assert_eq!(other.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "nobody went there");
        let (counted, count) = mpsc::channel();
        fetcher.ask(job(
            2,
            server(move |connection| {
                connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                let line = b"vllm:num_requests_running 1\n".repeat(1000);
                let mut written = 0;
                while connection.write_all(&line).is_ok() {
                    written += line.len();
                }
                counted.send(written).unwrap();
                Ok(())
            }),
        ));
        assert_eq!(next(&fetcher, &news), (2, Err(Failure::NoMatch(NoMatch::TooLong))));
        // What lies in buffers on the way comes on top.
        assert!(count.recv().unwrap() < 16 * MAX_ANSWER_BYTES);
    }

    #[test]
    fn a_connection_that_breaks_is_a_failure_and_the_thread_ends() {
        let (fetcher, news) = fetcher();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let asked = job(1, listener.local_addr().unwrap());
        drop(listener);
        fetcher.ask(asked);
        let (_, outcome) = next(&fetcher, &news);
        assert!(matches!(outcome, Err(Failure::Io(_) | Failure::NoMatch(NoMatch::NotHttp))), "{outcome:?}");
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        fetcher.ask(job(2, silent.local_addr().unwrap()));
        // Without waiting for the question's end: a thread that did would take two seconds.
        let began = Instant::now();
        drop(fetcher);
        assert!(began.elapsed() < DEADLINE);
    }
}
