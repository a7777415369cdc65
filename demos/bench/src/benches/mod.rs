//! What is measured.

mod attach;
mod collection;
mod core;
mod counts;
mod discovery;
mod load;
mod nginx;
mod pipe;
mod programs;
mod recording;
mod requests;
mod tls;
mod view;

pub(crate) use self::view::stream;

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::Effort;
use crate::report::Section;

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bench {
    /// 1-byte pipe writes and reads, fork and exec: processes that do not network
    Pipe,
    /// wrk on nginx, with keep-alive and with a connection per request
    Nginx,
    /// MB/s of bulk TLS that is no model traffic, and nanoseconds added per call
    #[value(name = "tls-bulk")]
    Tls,
    /// p50 and p99 of SDK requests over TLS, instant and with 150 ms to the first token
    Requests,
    /// Nanoseconds per run of each BPF program under the demo load
    Programs,
    /// What the groups cost that count: disks, connections, openings of devices
    Counts,
    /// CPU and memory of hbpf at 500, 5,000 and 50,000 tokens a second
    Load,
    /// MB/s and events/s of one core, from plaintext to the aggregator
    Core,
    /// A scan for TLS libraries with 2,000 idle processes
    Discovery,
    /// Looking at 200, 2,000 and 10,000 processes, and at eight GPUs
    Collection,
    /// How long attaching takes, and how much of it is the verifier
    Attach,
    /// The live view beside htop, btop and bottom: CPU, bytes to the terminal, memory, first frame
    View,
    /// Recordings of an hour: bytes, opening, looking through
    Recording,
}

/// What all benches need.
#[derive(Debug)]
pub(crate) struct Context {
    /// How much to measure.
    pub(crate) effort: Effort,
    /// The built benches of hbpf-core.
    pub(crate) core_bench: Option<PathBuf>,
}

/// What became of a bench.
pub(crate) enum Outcome {
    /// It has run.
    Done(Section),
    /// It cannot run here; what would mend that.
    Skipped(String),
}

impl Bench {
    /// All of them, in the order in which they are shown.
    pub(crate) const ALL: &'static [Self] = &[
        Self::Pipe,
        Self::Nginx,
        Self::Tls,
        Self::Requests,
        Self::Programs,
        Self::Counts,
        Self::Load,
        Self::Core,
        Self::Discovery,
        Self::Collection,
        Self::Attach,
        Self::View,
        Self::Recording,
    ];

    /// What it measures, in a line.
    pub(crate) fn about(self) -> String {
        let value = self.to_possible_value();
        value.and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    /// As it is called on the command line and in markers.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Pipe => "pipe",
            Self::Nginx => "nginx",
            Self::Tls => "tls-bulk",
            Self::Requests => "requests",
            Self::Programs => "programs",
            Self::Counts => "counts",
            Self::Load => "load",
            Self::Core => "core",
            Self::Discovery => "discovery",
            Self::Collection => "collection",
            Self::Attach => "attach",
            Self::View => "view",
            Self::Recording => "recording",
        }
    }

    /// The head of its section.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Pipe => "Processes that do not network",
            Self::Nginx => "A web server",
            Self::Tls => "Bulk TLS",
            Self::Requests => "Requests of an SDK",
            Self::Programs => "BPF programs",
            Self::Counts => "Disks, connections and devices",
            Self::Load => "hbpf itself",
            Self::Core => "Throughput of the parsers",
            Self::Discovery => "Looking for libraries",
            Self::Collection => "Processes and GPUs",
            Self::Attach => "Attaching",
            Self::View => "The live view",
            Self::Recording => "Recordings",
        }
    }

    /// Measures.
    pub(crate) fn run(self, context: &Context) -> Result<Outcome> {
        match self {
            Self::Pipe => pipe::run(context),
            Self::Nginx => nginx::run(context),
            Self::Tls => tls::run(context),
            Self::Requests => requests::run(context),
            Self::Programs => programs::run(context),
            Self::Counts => counts::run(context),
            Self::Load => load::run(context),
            Self::Core => core::run(context),
            Self::Discovery => discovery::run(context),
            Self::Collection => collection::run(context),
            Self::Attach => attach::run(context),
            Self::View => view::run(context),
            Self::Recording => recording::run(context),
        }
    }
}
