//! Snapshots from elsewhere: another host's agent, or a metrics server that has those of many.
//!
//! Whoever answers is not trusted. A process of its own speaks with it, which has no privileges, opens no files and reads no
//! more than is bounded. What it hands over is read by this one, which can do nothing but draw.

mod agent;
mod fleet;
mod http;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hbpf_core::label::{Label, Text};
use hbpf_core::snapshot::{CollectionError, SCHEMA, Snapshot};
use hbpf_host::privsep::{self, SplitOptions};
use hbpf_host::protocol::Group;
use jiff::SignedDuration;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use self::agent::Agent;
use self::fleet::Fleet;
#[cfg(feature = "fuzzing")]
pub(crate) use self::fleet::of_answers;
pub(crate) use self::http::Url;
use self::http::{Failure, Http};
use crate::cli::Elsewhere;
use crate::feed::{Control, Update};
use crate::wire::{self, Pieces, Received};

/// What a message from the process that asks begins with: a snapshot as JSON, why there is none just now, or why there will be none.
const SNAPSHOT: u8 = b's';
const PROBLEM: u8 = b'p';
const END: u8 = b'e';

/// In place of them, where nothing is to be said.
const NOTHING: u8 = b'-';

/// A snapshot that is as old as so many intervals, and so much at least, is told to be old.
const MISSED_INTERVALS: u32 = 5;
const OLD: Duration = Duration::from_secs(30);

/// How often a metrics server is asked at most.
const FLEET_PACE: Duration = Duration::from_secs(5);

/// How long a first snapshot may take: longer than any answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Another place as a source of snapshots.
pub(crate) struct Session {
    socket: OwnedFd,
    name: String,
}

/// What is asked.
enum Asked {
    Agent(Box<Agent>),
    Fleet(Fleet),
}

impl Session {
    /// Splits off the process that asks, every `interval` if there is one. Must come before any thread; from here on no file can
    /// be opened. `None` if snapshots are of this machine.
    pub(crate) fn begin(elsewhere: &Elsewhere, interval: Option<Duration>) -> Result<Option<Self>> {
        let (url, option) = match (&elsewhere.connect, &elsewhere.prometheus) {
            (Some(url), _) => (url, "--connect"),
            (None, Some(url)) => (url, "--prometheus"),
            (None, None) => return Ok(None),
        };
        ensure!(
            !url.is_open() || elsewhere.insecure,
            "{option} {url} would be spoken to without TLS: what is said could be read and changed on its way (--insecure, \
             if something else protects it)"
        );
        let http = Http::new(url, elsewhere.token_file.as_deref(), elsewhere.ca.as_deref())?;
        // A server of many has its numbers anew every so often only, and other work to do.
        let interval = if option == "--connect" { interval } else { interval.map(|it| it.max(FLEET_PACE)) };
        let asked = match option {
            "--connect" => Asked::Agent(Box::new(Agent::new(http))),
            _ => Asked::Fleet(Fleet::new(http, elsewhere)),
        };
        let (ours, theirs) = wire::pair().context("cannot start")?;
        let keep = [theirs.as_raw_fd()];
        let pid = privsep::start_process(&keep, move || {
            let held = privsep::hold_publisher(&SplitOptions::default()).context("cannot start");
            match held.and_then(|()| ask(asked, theirs, interval)) {
                Ok(()) => 0,
                Err(_) => 1,
            }
        });
        pid.context("cannot start")?;
        privsep::renounce(&SplitOptions::default()).context("cannot start")?;
        privsep::confine().context("cannot start")?;
        Ok(Some(Self { socket: ours, name: url.to_string() }))
    }

    /// Hands over what comes, on a thread of its own, until the control is dropped.
    pub(crate) fn start(self, mut deliver: impl FnMut(Update) + Send + 'static) -> Result<Box<dyn Control>> {
        let socket = self.socket.try_clone().context("cannot start")?;
        let receive = move || {
            let ended = receive(&socket, &self.name, &mut deliver);
            deliver(Update::Ended(ended));
        };
        thread::Builder::new().name("receiver".to_owned()).spawn(receive).context("cannot start")?;
        Ok(Box::new(Remote(self.socket)))
    }
}

/// Control of what is elsewhere: it can be asked for more, and is otherwise left as it is.
struct Remote(OwnedFd);

impl Control for Remote {
    fn set_group(&self, _: Group, _: bool) {}

    fn take_now(&self) {
        wire::ask(&self.0);
    }
}

/// Takes what comes; says why nothing more will.
fn receive(socket: &OwnedFd, name: &str, deliver: &mut dyn FnMut(Update)) -> String {
    let (mut pieces, mut latest) = (Pieces::default(), None::<(Arc<Snapshot>, Instant)>);
    loop {
        let message = match pieces.receive(socket) {
            Ok(Some(Received::Whole(message))) => message,
            Ok(Some(Received::Part)) => continue,
            Ok(None) | Err(_) => return "the process that asks has ended".to_owned(),
        };
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let problem = match message.split_first() {
            Some((&SNAPSHOT, json)) => match read(json) {
                Ok(snapshot) => {
                    let snapshot = Arc::new(snapshot);
                    latest = Some((Arc::clone(&snapshot), Instant::now()));
                    deliver(Update::Snapshot(snapshot));
                    continue;
                }
                Err(error) => format!("{name} answered with something else than a snapshot: {error}"),
            },
            Some((&PROBLEM, why)) => format!("{name}: {}", text(why)),
            Some((&END, why)) => return format!("{name}: {}", text(why)),
            _ => continue,
        };
        match &latest {
            Some((snapshot, at)) => deliver(Update::Snapshot(Arc::new(again(snapshot, at.elapsed(), &problem)))),
            None => return problem,
        }
    }
}

fn read(json: &[u8]) -> Result<Snapshot> {
    let snapshot: Snapshot = serde_json::from_slice(json)?;
    if snapshot.schema.as_str() != SCHEMA {
        bail!("it is of another version, {} in place of {SCHEMA}", snapshot.schema);
    }
    Ok(snapshot)
}

/// What was known last, and that it is old: a view that stands still would pass for one of a quiet host.
fn again(snapshot: &Snapshot, age: Duration, problem: &str) -> Snapshot {
    let mut snapshot = snapshot.clone();
    let now = SignedDuration::try_from(age).ok().and_then(|age| snapshot.captured_at.checked_add(age).ok());
    let seconds = age.as_secs();
    snapshot.captured_at = now.unwrap_or(snapshot.captured_at);
    snapshot.requests.finished.clear();
    snapshot.errors.insert(
        0,
        CollectionError {
            source: Label::new("remote"),
            message: Text::new(&format!("what is shown is {seconds}s old: {problem}")),
            last_at: Some(snapshot.captured_at),
        },
    );
    snapshot
}

/// Asks, every so often and whenever it is wanted, until nobody listens any more.
fn ask(mut asked: Asked, socket: OwnedFd, interval: Option<Duration>) -> Result<()> {
    let (wanted, mut wants) = unbounded_channel();
    let listener = socket.try_clone()?;
    // That it is over is said by the socket alone.
    thread::Builder::new()
        .name("listener".into())
        .spawn(move || while wire::wait_asked(&listener) && wanted.send(()).is_ok() {})?;
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let mut has_answered = false;
        loop {
            let began = Instant::now();
            let (kind, said) = match asked.snapshot(interval).await {
                Ok(Some(json)) => (SNAPSHOT, json),
                // It was told already.
                Ok(None) => (NOTHING, Vec::new()),
                Err(failure) if has_answered => (PROBLEM, failure.why.into_bytes()),
                Err(failure) => (END, failure.why.into_bytes()),
            };
            has_answered |= kind == SNAPSHOT;
            let message: Vec<u8> = std::iter::once(kind).chain(said).collect();
            let is_sent = kind == NOTHING || wire::send_snapshot(&socket, &message).is_ok();
            if !is_sent || kind == END {
                return Ok(());
            }
            if !pause(&mut wants, interval.map(|interval| interval.saturating_sub(began.elapsed()))).await {
                return Ok(());
            }
        }
    })
}

/// Waits until the next is due or wanted. False if nobody listens any more.
async fn pause(wants: &mut UnboundedReceiver<()>, time: Option<Duration>) -> bool {
    let wanted = match time {
        Some(time) => timeout(time, wants.recv()).await,
        None => Ok(wants.recv().await),
    };
    // However often it was said.
    while wants.try_recv().is_ok() {}
    !matches!(wanted, Ok(None))
}

impl Asked {
    async fn snapshot(&mut self, interval: Option<Duration>) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Self::Agent(agent) => agent.snapshot(interval).await,
            Self::Fleet(fleet) => fleet.snapshot(interval).await.map(Some),
        }
    }
}

/// How old what is elsewhere may be.
fn patience(interval: Duration) -> Duration {
    (interval * MISSED_INTERVALS).max(OLD)
}
