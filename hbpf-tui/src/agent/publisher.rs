//! The process that speaks with the network: it has the latest snapshot, and nothing else.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hbpf_core::snapshot::Snapshot;
use hbpf_host::probes::NOTHING_TO_PROBE;
use hbpf_host::protocol::Group;
use hyper::body::Bytes;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::listener::{self, Form, Listener, Shared};
use super::log::{self, Log};
use super::otlp::{Exporter, Outcome};
use crate::metrics::{Family, Honeybeepf};
use crate::summary::{self, GroupState};
use crate::wire::{self, Pieces, Received};

/// Who asks within this time gets the snapshot that is there.
const FRESH: Duration = Duration::from_millis(500);

/// How long a newer one is waited for.
const WAIT: Duration = Duration::from_secs(3);

/// Older than so many intervals, and than so much, a snapshot says that collecting has stopped.
const MISSED_INTERVALS: u32 = 3;
const STOPPED: Duration = Duration::from_secs(20);

/// Snapshots that wait to be published.
const QUEUE: usize = 4;

/// What is to be published.
pub(super) struct Plan {
    pub(super) listeners: Vec<Listener>,
    /// Those that shall be in place.
    pub(super) groups: Vec<Group>,
    pub(super) interval: Duration,
    pub(super) exporter: Exporter,
    /// honeybeePF's names as well.
    pub(super) tells_honeybeepf: bool,
    /// Nobody has published what this collector says before.
    pub(super) is_first: bool,
}

/// A snapshot that came.
pub(super) struct Frame {
    pub(super) snapshot: Snapshot,
    pub(super) json: Bytes,
    received: Instant,
    /// It as it is answered: the snapshot, or metrics in that form; compressed or not.
    written: RefCell<HashMap<(Option<Form>, bool), Bytes>>,
}

impl Frame {
    /// What was written before, or is now.
    pub(super) fn written(&self, form: Option<Form>, gzip: bool, write: impl FnOnce() -> Vec<u8>) -> Bytes {
        self.written.borrow_mut().entry((form, gzip)).or_insert_with(|| write().into()).clone()
    }
}

/// The latest snapshot.
#[derive(Clone)]
pub(super) struct Current(Rc<Inner>);

struct Inner {
    latest: RefCell<Option<Rc<Frame>>>,
    changed: Notify,
    socket: OwnedFd,
    groups: Vec<Group>,
    patience: Duration,
    started: Instant,
    is_ending: Cell<bool>,
    /// When a snapshot was asked for that has not come.
    asked: Cell<Option<Instant>>,
    honeybeepf: Option<RefCell<Honeybeepf>>,
    /// To those who want every snapshot.
    frames: broadcast::Sender<Rc<Frame>>,
}

impl Current {
    pub(super) fn latest(&self) -> Option<Rc<Frame>> {
        self.0.latest.borrow().clone()
    }

    /// One that is no older than a moment, if it comes in time; otherwise the latest.
    pub(super) async fn fresh(&self) -> Option<Rc<Frame>> {
        let latest = self.latest();
        if latest.as_ref().is_some_and(|frame| frame.received.elapsed() < FRESH) {
            return latest;
        }
        if self.0.is_ending.get() {
            return latest;
        }
        let changed = self.0.changed.notified();
        // Whoever else waits has asked.
        let is_asked = |asked: Instant| asked.elapsed() < WAIT;
        if !self.0.asked.get().is_some_and(is_asked) {
            self.0.asked.set(Some(Instant::now()));
            wire::ask(&self.0.socket);
        }
        let _ = timeout(WAIT, changed).await;
        self.latest()
    }

    /// Adds honeybeePF's names, if they are to be told.
    pub(super) fn collect_honeybeepf(&self, snapshot: &Snapshot, families: &mut Vec<Family>) {
        if let Some(honeybeepf) = &self.0.honeybeepf {
            honeybeepf.borrow().collect(snapshot, families);
        }
    }

    /// Every snapshot from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Rc<Frame>> {
        self.0.frames.subscribe()
    }

    /// Whether the agent works, and what it does.
    pub(super) fn health(&self) -> (bool, String) {
        let of = &self.0;
        match self.latest() {
            _ if of.is_ending.get() => (false, "ending\n".to_owned()),
            Some(frame) if frame.received.elapsed() < of.patience => (true, "ok\n".to_owned()),
            Some(frame) => {
                (false, format!("no snapshot for {}s: collecting has stopped\n", frame.received.elapsed().as_secs()))
            }
            None if of.started.elapsed() < of.patience => (true, "starting\n".to_owned()),
            None => (false, "no snapshot has come\n".to_owned()),
        }
    }

    /// Whether it does what it is for, and what it lacks; how exports go is known elsewhere.
    pub(super) fn readiness(&self, exports: &[(&str, Outcome)]) -> (bool, String) {
        let (mut is_ready, mut text) = self.health();
        let Some(frame) = self.latest() else { return (false, text) };
        text.insert_str(0, "snapshots: ");
        let capture = &frame.snapshot.capture;
        for group in &self.0.groups {
            let state = summary::group_state(capture, *group);
            let is_on = matches!(state, GroupState::On { .. });
            let reason = || {
                let mut of_group = capture.probes.iter().filter(|probe| probe.group.as_str() == group.name());
                of_group.find_map(|probe| probe.reason.as_ref()).map_or_else(|| "off".to_owned(), ToString::to_string)
            };
            let state = if is_on { "on".to_owned() } else { reason() };
            _ = writeln!(text, "{}: {state}", group.name());
            is_ready &= is_on || state == NOTHING_TO_PROBE;
        }
        for (signal, outcome) in exports {
            let state = outcome.problem.as_deref().unwrap_or("on");
            is_ready &= outcome.problem.is_none();
            _ = writeln!(text, "otlp {signal}: {state}");
        }
        let running = frame.snapshot.totals.requests_in_flight;
        let events = match running {
            Some(0) => "idle".to_owned(),
            Some(running) => format!("{running} requests in flight"),
            None => "nothing watches".to_owned(),
        };
        _ = writeln!(text, "events: {events}");
        (is_ready, text)
    }

    /// Takes what comes, until nothing will.
    async fn follow(&self, mut frames: Receiver<Frame>) {
        while let Some(frame) = frames.recv().await {
            let frame = Rc::new(frame);
            if let Some(honeybeepf) = &self.0.honeybeepf {
                honeybeepf.borrow_mut().take(&frame.snapshot);
            }
            *self.0.latest.borrow_mut() = Some(Rc::clone(&frame));
            // Whether anybody wants it.
            _ = self.0.frames.send(frame);
            self.0.asked.set(None);
            self.0.changed.notify_waiters();
        }
    }
}

/// Takes snapshots from the socket, until it is closed.
fn receive(socket: &OwnedFd, frames: &Sender<Frame>) -> Result<()> {
    let mut pieces = Pieces::default();
    while let Some(received) = pieces.receive(socket).context("cannot take snapshots")? {
        let Received::Whole(json) = received else { continue };
        let snapshot = serde_json::from_slice(&json).context("a snapshot could not be read")?;
        let frame = Frame { snapshot, json: json.into(), received: Instant::now(), written: RefCell::default() };
        if frames.blocking_send(frame).is_err() {
            break;
        }
    }
    Ok(())
}

/// Waits for the end, or finds that it has come.
pub(super) async fn ended(ending: &mut watch::Receiver<bool>) {
    // Who would say so has gone.
    _ = ending.wait_for(|is_ending| *is_ending).await;
}

/// Publishes until no more snapshots come, or `control` is closed.
///
/// # Errors
///
/// If it cannot begin.
pub(super) fn run(socket: OwnedFd, mut control: UnixStream, plan: Plan) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build().context("cannot start")?;
    let (sender, frames) = mpsc::channel(QUEUE);
    let its_socket = socket.try_clone().context("cannot start")?;
    let (end, ending) = watch::channel(false);
    let receiving = move || {
        if let Err(error) = receive(&its_socket, &sender) {
            log::line(&format!("{error:#}"));
        }
    };
    thread::Builder::new().name("receiver".into()).spawn(receiving).context("cannot start")?;
    let is_told = end.clone();
    let listening = move || {
        // Nothing is ever written.
        _ = control.read(&mut [0]);
        is_told.send_replace(true);
    };
    thread::Builder::new().name("control".into()).spawn(listening).context("cannot start")?;
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let patience = (plan.interval * MISSED_INTERVALS).max(STOPPED);
        let current = Current(Rc::new(Inner {
            latest: RefCell::default(),
            changed: Notify::new(),
            socket,
            groups: plan.groups,
            patience,
            started: Instant::now(),
            is_ending: Cell::default(),
            asked: Cell::default(),
            honeybeepf: plan.tells_honeybeepf.then(RefCell::default),
            frames: broadcast::channel(QUEUE).0,
        }));
        let shared = Rc::new(Shared::new(current.clone(), Log::default(), ending.clone()));
        let serving: Vec<_> = plan
            .listeners
            .into_iter()
            .map(|listener| {
                let shared = Rc::clone(&shared);
                tokio::task::spawn_local(async move {
                    if let Err(error) = listener::serve(listener, shared).await {
                        log::line(&format!("a listener cannot be used: {error}"));
                    }
                })
            })
            .collect();
        let exporting = tokio::task::spawn_local(plan.exporter.run(Rc::clone(&shared), ending.clone(), plan.is_first));
        let mut told = ending;
        tokio::select! {
            () = current.follow(frames) => {}
            () = ended(&mut told) => {}
        }
        current.0.is_ending.set(true);
        end.send_replace(true);
        for listener in serving {
            let _ = listener.await;
        }
        let _ = exporting.await;
        Ok(())
    })
    // The threads may still wait for what does not come: the process is about to end.
}
