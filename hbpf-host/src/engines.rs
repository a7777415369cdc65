//! Inference servers on this machine, asked about themselves.
//!
//! [`Schedule`] decides who is asked what and when; the helper finds where they listen and asks; a thread of its own reads the
//! answers ([`Reader`]), so that neither a slow server nor a long answer keeps anybody waiting who reads traffic.

mod reader;
mod schedule;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hbpf_core::inference::Traffic;
use hbpf_core::snapshot::{CollectionError, Engine};
use hbpf_core::time::Nanos;
use jiff::Timestamp;
use nix::sys::eventfd::EventFd;

use crate::protocol::{ProcessSample, Refusal, Request, Server};
use reader::{Failure, Reader};
use schedule::Schedule;

/// What the collector has of it.
pub(crate) struct Engines {
    schedule: Schedule,
    reader: Reader,
}

impl Engines {
    /// Starts the thread. `news` is rung when there is something for [`Self::step`].
    pub(crate) fn start(news: Arc<EventFd>) -> io::Result<Self> {
        Ok(Self { schedule: Schedule::default(), reader: Reader::start(news)? })
    }

    /// When there is next something to do, unless news come before.
    pub(crate) fn due(&self) -> Option<Nanos> {
        self.schedule.due()
    }

    /// Takes answers, and says what is wanted of the helper. `traffic` is `None` while nobody watches it.
    pub(crate) fn step(&mut self, now: Nanos, traffic: Option<&Traffic>) -> Vec<Request> {
        for (ticket, outcome) in self.reader.outcomes() {
            self.schedule.answered(now, ticket, outcome, traffic);
        }
        self.schedule.requests(now, traffic)
    }

    /// These processes are there.
    pub(crate) fn see(&mut self, now: Nanos, processes: &[ProcessSample]) {
        for process in processes {
            self.schedule.see(now, process.pid, process.start_time_ns);
        }
    }

    /// What has been served since the time before.
    pub(crate) fn see_traffic(&mut self, now: Nanos, traffic: &Traffic) {
        for (pid, port) in traffic.places() {
            self.schedule.serves(now, pid.0, port);
        }
    }

    /// The process has executed another program.
    pub(crate) fn executed(&mut self, now: Nanos, pid: u32) {
        self.schedule.executed(now, pid);
    }

    /// The process has ended.
    pub(crate) fn exited(&mut self, pid: u32) {
        self.schedule.exited(pid);
    }

    /// Traffic passes unseen for a while.
    pub(crate) fn look_away(&mut self) {
        self.schedule.look_away();
    }

    /// The helper has looked at processes.
    pub(crate) fn found(&mut self, now: Nanos, servers: Vec<Server>) {
        for server in servers {
            self.schedule.found(now, server);
        }
    }

    /// The helper had no time to look at these processes.
    pub(crate) fn not_looked_at(&mut self, now: Nanos, pids: &[u32]) {
        self.schedule.not_looked_at(now, pids);
    }

    /// The helper has asked, or not.
    pub(crate) fn asked(&mut self, now: Nanos, ticket: u64, answer: Result<OwnedFd, Refusal>) {
        if let Some(job) = self.schedule.asked(now, ticket, answer)
            && let Err(ended) = self.reader.read(job)
        {
            self.schedule.answered(now, ticket, Err(Failure::Io(ended.to_string())), None);
        }
    }

    /// The processes that answer.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.schedule.pids()
    }

    /// What is known of those that answer.
    pub(crate) fn frame(&self, now: Nanos, booted_at: Timestamp) -> Vec<Engine> {
        self.schedule.frame(now, booted_at)
    }

    /// Those that should answer and do not.
    pub(crate) fn errors(&self) -> Vec<CollectionError> {
        self.schedule.errors()
    }
}
