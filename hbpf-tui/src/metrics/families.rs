//! Which metrics there are, and where in a snapshot their values come from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use hbpf_core::label::Label;
use hbpf_core::snapshot::{
    Capture, Distribution, EndpointStats, Engine, Gpu, GroupCost, Host, LlmStats, Probe, ProbeState, Process, Series,
    SeriesRole, Severity, Snapshot, TlsVisibility, Tool, Workload,
};
use jiff::Timestamp;

use super::{Definition, Family, Kind, Pair, Point, Value, exemplars};
use crate::sets::api_text;
use crate::workloads::kind_text;

/// Families whose points have the same labels, each row of a snapshot's table giving every family one point or several.
pub(super) struct Group<T: 'static> {
    pub(super) prefix: &'static str,
    pub(super) labels: &'static [&'static str],
    pub(super) families: &'static [(Definition, Take<T>)],
}

/// Takes a family's points from a row.
pub(super) type Take<T> = fn(&T, &mut Sink<'_>);

impl<T> Group<T> {
    pub(super) fn definitions(&self) -> impl Iterator<Item = Definition> {
        self.families.iter().map(|(definition, _)| *definition)
    }

    /// The families, of these rows: the values of their labels, since when they count, and themselves.
    pub(super) fn collect<'a>(
        &self,
        rows: impl Iterator<Item = (Vec<Option<Label>>, Timestamp, &'a T)>,
        families: &mut Vec<Family>,
    ) {
        let first = families.len();
        families.extend(self.definitions().map(|definition| Family {
            prefix: self.prefix,
            definition,
            points: Vec::new(),
        }));
        let mut seen = BTreeSet::new();
        for (values, since, of) in rows {
            let pairs = self.labels.iter().zip(values);
            let row: Rc<[Pair]> = pairs.filter_map(|(name, value)| pair(name, value?)).collect();
            // Two rows of the same labels would have all of it refused.
            if !seen.insert(Rc::clone(&row)) {
                continue;
            }
            for ((definition, take), family) in self.families.iter().zip(&mut families[first..]) {
                take(of, &mut Sink { definition, row: &row, since, points: &mut family.points });
            }
        }
    }
}

/// An empty label is none.
fn pair(name: &'static str, value: Label) -> Option<Pair> {
    (!value.is_empty()).then_some((name, value))
}

/// Where a family's points go.
pub(super) struct Sink<'a> {
    definition: &'a Definition,
    row: &'a Rc<[Pair]>,
    since: Timestamp,
    points: &'a mut Vec<Point>,
}

impl Sink<'_> {
    fn push(&mut self, own: Option<Pair>, value: Value) {
        self.points.push(Point { row: Rc::clone(self.row), own, value, since: self.since, exemplars: Vec::new() });
    }

    /// A number, if it is known.
    fn number(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.push(None, Value::Number(value));
        }
    }

    pub(super) fn count(&mut self, value: impl Into<Option<u64>>) {
        self.number(value.into().map(|value| value as f64));
    }

    /// Numbers that the family's own label tells apart, as far as they are known.
    pub(super) fn by(&mut self, values: impl IntoIterator<Item = (impl Into<Label>, Option<f64>)>) {
        for (of, value) in values {
            let own = self.definition.label.and_then(|name| pair(name, of.into()));
            if let Some(value) = value {
                self.push(own, Value::Number(value));
            }
        }
    }

    fn counts(&mut self, values: &BTreeMap<Label, u64>) {
        self.by(values.iter().map(|(of, count)| (of.clone(), Some(*count as f64))));
    }

    pub(super) fn values(&mut self, values: &Option<Distribution>) {
        if let Some(values) = values {
            self.push(None, Value::Histogram(values.clone()));
        }
    }
}

pub(super) const fn counter(name: &'static str, help: &'static str) -> Definition {
    Definition { name, kind: Kind::Counter, label: None, help }
}

pub(super) const fn gauge(name: &'static str, help: &'static str) -> Definition {
    Definition { name, kind: Kind::Gauge, label: None, help }
}

pub(super) const fn histogram(name: &'static str, (first, last): (i32, i32), help: &'static str) -> Definition {
    Definition { name, kind: Kind::Histogram(first, last), label: None, help }
}

impl Definition {
    pub(super) const fn by(self, label: &'static str) -> Self {
        Self { label: Some(label), ..self }
    }
}

fn ratio(percent: Option<f64>) -> Option<f64> {
    percent.map(|percent| percent / 100.0)
}

/// A millisecond to nine minutes.
const TIMES: (i32, i32) = (-10, 9);
/// A quarter of a millisecond to eight seconds.
const GAPS: (i32, i32) = (-12, 3);
/// One to four thousand.
const RATES: (i32, i32) = (0, 12);
/// Sixteen to a million.
const SIZES: (i32, i32) = (4, 20);

/// What is counted and measured of exchanges with models.
const LLM: &[(Definition, Take<LlmStats>)] = &[
    (counter("requests", "Requests to models that have begun."), |it, to| to.count(it.requests_total)),
    (gauge("requests_in_flight", "Requests to models that run; unknown while nothing watches."), |it, to| {
        to.count(it.requests_in_flight);
    }),
    (counter("requests_ended", "Requests to models that have ended, by how.").by("outcome"), |it, to| {
        let outcomes =
            [("completed", it.completed_total), ("failed", it.failed_total), ("abandoned", it.abandoned_total)];
        to.by(outcomes.map(|(outcome, count)| (outcome, Some(count as f64))));
    }),
    (
        counter("responses", "Requests that have ended, by HTTP status; `none` where there was no answer.")
            .by("status"),
        |it, to| {
            to.counts(&it.status);
        },
    ),
    (counter("errors", "Requests that failed or were abandoned, by type of error.").by("error_type"), |it, to| {
        to.counts(&it.error_types);
    }),
    (counter("rate_limited", "Requests that were refused for a rate limit."), |it, to| to.count(it.rate_limited_total)),
    (counter("retries", "Requests that repeat an earlier one."), |it, to| to.count(it.retries_total)),
    (counter("stalls", "Times that a stream's next output was awaited for too long."), |it, to| {
        to.count(it.stalls_total);
    }),
    (
        counter(
            "tokens",
            "Tokens of requests that have ended, as reported, or as estimated where none were. \
            `cached_input` and `cache_creation_input` are parts of `input`, `reasoning` is a part of `output`.",
        )
        .by("type"),
        |it, to| {
            let tokens = &it.tokens;
            let kinds = [
                ("input", tokens.input),
                ("output", tokens.output),
                ("cached_input", tokens.cached_input),
                ("cache_creation_input", tokens.cache_creation_input),
                ("reasoning", tokens.reasoning),
            ];
            to.by(kinds.map(|(kind, count)| (kind, count.map(|count| count as f64))));
        },
    ),
    (counter("tokens_estimated", "How many of those tokens are estimates.").by("type"), |it, to| {
        let kinds = [("input", it.tokens_estimated.input), ("output", it.tokens_estimated.output)];
        to.by(kinds.map(|(kind, count)| (kind, Some(count as f64))));
    }),
    (
        gauge("output_tokens_in_progress", "Estimated output tokens of requests that run; not in the counters yet."),
        |it, to| {
            to.count(it.tokens_in_progress.output);
        },
    ),
    (counter("requests_without_usage", "Requests that have ended and whose tokens were never reported."), |it, to| {
        to.count(it.requests_without_usage);
    }),
    (counter("cost_usd", "What the requests whose price is known have cost, in US dollars."), |it, to| {
        to.number(it.cost_usd);
    }),
    (gauge("cost_is_estimate", "1 if the cost is reckoned from list prices, at least in part."), |it, to| {
        to.number(it.cost_usd.map(|_| f64::from(u8::from(it.cost_is_estimate))));
    }),
    (counter("requests_without_cost", "Requests that have ended and whose cost is not known."), |it, to| {
        to.count(it.cost_unknown_requests);
    }),
    (
        histogram("request_duration_seconds", TIMES, "From the beginning of a request to the end of its answer."),
        |it, to| {
            to.values(&it.latency.since_start.duration_seconds);
        },
    ),
    (histogram("time_to_headers_seconds", TIMES, "From a request's end to the head of its answer."), |it, to| {
        to.values(&it.latency.since_start.time_to_headers_seconds);
    }),
    (histogram("time_to_first_token_seconds", TIMES, "From a request's end to the first output."), |it, to| {
        to.values(&it.latency.since_start.time_to_first_token_seconds);
    }),
    (
        histogram(
            "time_to_first_visible_token_seconds",
            TIMES,
            "From a request's end to the first output that is no reasoning.",
        ),
        |it, to| to.values(&it.latency.since_start.time_to_first_visible_token_seconds),
    ),
    (histogram("inter_token_seconds", GAPS, "Between tokens of a stream."), |it, to| {
        to.values(&it.latency.since_start.inter_token_seconds);
    }),
    (
        histogram("output_tokens_per_second", RATES, "Output tokens a second of a request, while it streamed."),
        |it, to| {
            to.values(&it.latency.since_start.output_tokens_per_second);
        },
    ),
    (histogram("input_tokens", SIZES, "Input tokens of a request."), |it, to| {
        to.values(&it.latency.since_start.input_tokens);
    }),
    (histogram("output_tokens", SIZES, "Output tokens of a request, as reported or estimated."), |it, to| {
        to.values(&it.latency.since_start.output_tokens);
    }),
];

/// By workload, model and endpoint.
pub(super) const SERIES: Group<LlmStats> = Group {
    prefix: "hbpf_llm_",
    labels: &["namespace", "pod", "container", "workload", "role", "provider", "model", "api", "endpoint"],
    families: LLM,
};

/// Of the whole host.
pub(super) const TOTALS: Group<LlmStats> = Group { prefix: "hbpf_host_llm_", labels: &[], families: LLM };

/// Where requests go.
pub(super) const ENDPOINTS: Group<EndpointStats> = Group {
    prefix: "hbpf_endpoint_",
    labels: &["endpoint", "api", "model"],
    families: &[
        (
            gauge("rate_limit_remaining_requests", "Requests left until the limit, by the endpoint's last word."),
            |it, to| {
                to.count(it.rate_limit.as_ref().and_then(|limit| limit.remaining_requests));
            },
        ),
        (
            gauge("rate_limit_remaining_tokens", "Tokens left until the limit, by the endpoint's last word."),
            |it, to| {
                to.count(it.rate_limit.as_ref().and_then(|limit| limit.remaining_tokens));
            },
        ),
        (
            gauge("rate_limit_remaining_ratio", "The part of the budget that is left, by the endpoint's last word."),
            |it, to| {
                to.number(it.rate_limit.as_ref().and_then(|limit| limit.remaining_fraction));
            },
        ),
        (gauge("rate_limit_reset_seconds", "Until the limit is reset, as of the endpoint's last word."), |it, to| {
            to.number(it.rate_limit.as_ref().and_then(|limit| limit.reset_seconds));
        }),
    ],
};

/// What is asked of MCP servers.
pub(super) const TOOLS: Group<Tool> = Group {
    prefix: "hbpf_tool_",
    labels: &["server", "method", "tool"],
    families: &[
        (counter("calls", "Calls of MCP servers that have ended."), |it, to| to.count(it.calls_total)),
        (counter("errors", "Calls of MCP servers that have failed."), |it, to| to.count(it.errors_total)),
        (histogram("call_duration_seconds", TIMES, "How long calls of MCP servers took."), |it, to| {
            to.values(&it.duration_seconds);
        }),
    ],
};

/// What runs: pods, containers, units and trees of processes that talk to models, serve them, or use GPUs.
pub(super) const WORKLOADS: Group<Workload> = Group {
    prefix: "hbpf_workload_",
    labels: &["namespace", "pod", "workload", "kind"],
    families: &[
        (gauge("processes", "Processes that run."), |it, to| to.count(it.pids.len() as u64)),
        (gauge("cpu_ratio", "CPU use; 1 is one core."), |it, to| to.number(ratio(it.cpu_percent))),
        (gauge("resident_bytes", "Resident memory; what is shared counts with each process."), |it, to| {
            to.count(it.resident_bytes);
        }),
        (gauge("gpu_ratio", "GPU use; 1 is one GPU."), |it, to| to.number(ratio(it.gpu_percent))),
        (gauge("gpu_memory_bytes", "GPU memory."), |it, to| to.count(it.gpu_memory_bytes)),
        (gauge("gpu_power_watts", "Its share of the power of GPUs."), |it, to| to.number(it.gpu_power_watts)),
        (gauge("tokens_per_joule", "Output tokens for a joule of GPU energy, over the window."), |it, to| {
            to.number(it.tokens_per_joule);
        }),
        (gauge("gpu_cost_usd_per_hour", "Its share of what its GPUs cost an hour, in US dollars."), |it, to| {
            to.number(it.gpu_cost_usd_per_hour);
        }),
        (gauge("cpu_seconds_per_1k_tokens", "CPU time for a thousand output tokens, over the window."), |it, to| {
            to.number(it.cpu_seconds_per_1k_tokens);
        }),
    ],
};

/// GPUs.
pub(super) const GPUS: Group<Gpu> = Group {
    prefix: "hbpf_gpu_",
    labels: &["gpu", "uuid"],
    families: &[
        (Definition { name: "", kind: Kind::Info, label: Some("name"), help: "What a GPU is called." }, |it, to| {
            to.by([(it.name.clone(), Some(1.0))])
        }),
        (gauge("utilization_ratio", "The part of the last moment in which something ran on it."), |it, to| {
            to.number(ratio(it.utilization_percent));
        }),
        (
            gauge("memory_utilization_ratio", "The part of the last moment in which memory was read or written."),
            |it, to| {
                to.number(ratio(it.memory_utilization_percent));
            },
        ),
        (gauge("memory_used_bytes", "Memory that is taken."), |it, to| to.count(it.memory_used_bytes)),
        (gauge("memory_total_bytes", "Memory that it has."), |it, to| to.count(it.memory_total_bytes)),
        (gauge("power_watts", "Power that it draws."), |it, to| to.number(it.power_watts)),
        (gauge("power_limit_watts", "Power that it may draw."), |it, to| to.number(it.power_limit_watts)),
        (counter("energy_joules", "Energy that it has drawn since its driver was loaded."), |it, to| {
            to.number(it.energy_joules_total);
        }),
        (gauge("temperature_celsius", "How hot it is."), |it, to| to.number(it.temperature_celsius)),
        (gauge("sm_clock_hertz", "Clock of its processors."), |it, to| {
            to.number(it.sm_clock_mhz.map(|mhz| f64::from(mhz) * 1e6));
        }),
        (gauge("memory_clock_hertz", "Clock of its memory."), |it, to| {
            to.number(it.memory_clock_mhz.map(|mhz| f64::from(mhz) * 1e6));
        }),
        (gauge("throttled", "1 for each reason for which its clocks are held down.").by("reason"), |it, to| {
            to.by(it.throttle_reasons.iter().map(|reason| (reason.clone(), Some(1.0))));
        }),
        (gauge("pcie_rx_bytes_per_second", "What it receives."), |it, to| to.number(it.pcie_rx_bytes_per_second)),
        (gauge("pcie_tx_bytes_per_second", "What it sends."), |it, to| to.number(it.pcie_tx_bytes_per_second)),
        (counter("ecc_uncorrected", "Errors of memory that could not be mended."), |it, to| {
            to.count(it.ecc_uncorrected_total);
        }),
        (counter("xid_errors", "Xid errors since hbpf began."), |it, to| to.count(it.xid_errors_total)),
        (gauge("stale_seconds", "How old its numbers are, where they could not be read again."), |it, to| {
            to.number(it.stale_seconds);
        }),
    ],
};

/// Local inference servers, in their own words.
pub(super) const ENGINES: Group<Engine> = Group {
    prefix: "hbpf_engine_",
    labels: &["namespace", "pod", "workload", "engine", "endpoint"],
    families: &[
        (gauge("requests_running", "Requests that it works on."), |it, to| to.number(it.requests_running)),
        (gauge("requests_waiting", "Requests that wait for it."), |it, to| to.number(it.requests_waiting)),
        (gauge("kv_cache_ratio", "The part of its cache that is taken."), |it, to| {
            to.number(ratio(it.kv_cache_percent))
        }),
        (gauge("prefix_cache_hit_ratio", "The part of prompts that its cache had, since it started."), |it, to| {
            to.number(ratio(it.prefix_cache_hit_percent));
        }),
        (counter("preemptions", "Requests that it has put off."), |it, to| to.count(it.preemptions_total)),
        (counter("input_tokens", "Tokens that it has read, by its own count."), |it, to| {
            to.count(it.input_tokens_total)
        }),
        (counter("output_tokens", "Tokens that it has made, by its own count."), |it, to| {
            to.count(it.output_tokens_total)
        }),
        (
            gauge("agreement_ratio", "How far its count of output tokens agrees with what was seen; 1 is wholly."),
            |it, to| {
                to.number(ratio(it.agreement_percent));
            },
        ),
        (gauge("stale_seconds", "How old its numbers are."), |it, to| to.number(it.stale_seconds)),
    ],
};

/// The machine.
pub(super) const HOST: Group<Host> = Group {
    prefix: "hbpf_host_",
    labels: &[],
    families: &[
        (gauge("cpus", "Cores."), |it, to| to.number(Some(f64::from(it.cpu_count)))),
        (gauge("cpu_ratio", "CPU use; 1 is one core."), |it, to| to.number(ratio(it.cpu_percent))),
        (gauge("memory_total_bytes", "Memory."), |it, to| to.count(it.memory_total_bytes)),
        (gauge("memory_used_bytes", "Memory that is taken."), |it, to| to.count(it.memory_used_bytes)),
        (
            gauge("pressure_ratio", "The part of the time in which something waited for a resource.").by("resource"),
            |it, to| {
                let pressure = &it.pressure;
                to.by([
                    ("cpu", ratio(pressure.cpu_some_percent)),
                    ("io", ratio(pressure.io_some_percent)),
                    ("memory", ratio(pressure.memory_some_percent)),
                ]);
            },
        ),
    ],
};

/// What was captured, and what was lost.
pub(super) const CAPTURE: Group<Capture> = Group {
    prefix: "hbpf_capture_",
    labels: &[],
    families: &[
        (counter("chunks", "Records that came from the kernel."), |it, to| to.count(it.chunks_total)),
        (counter("bytes", "Bytes of them."), |it, to| to.count(it.bytes_total)),
        (counter("messages_ignored", "Messages that were looked at and are no calls of models."), |it, to| {
            to.count(it.messages_ignored_total);
        }),
        (counter("lost", "What was lost, by cause; never zero without a gap in the numbers.").by("cause"), |it, to| {
            let lost = &it.lost;
            let causes = [
                ("ring_full", lost.ring_full.chunks),
                ("read_fault", lost.read_fault),
                ("map_full", lost.map_full),
                ("over_budget", lost.over_budget),
                ("parse_gap", lost.parse_gap),
                ("missed_runs", lost.missed_runs),
                ("reports", lost.reports),
                ("desync", lost.desync),
            ];
            to.by(causes.map(|(cause, count)| (cause, Some(count as f64))));
        }),
        (gauge("overhead_ratio", "What the probes cost, of the machine's CPU time."), |it, to| {
            to.number(ratio(it.overhead.percent));
        }),
        (gauge("overhead_budget_ratio", "What they may cost."), |it, to| to.number(ratio(it.overhead.budget_percent))),
        (gauge("excluded_processes", "Processes that are not probed, to keep within the budget."), |it, to| {
            to.count(u64::from(it.overhead.excluded_processes));
        }),
        (gauge("self_cpu_ratio", "hbpf's own CPU use; 1 is one core."), |it, to| {
            to.number(ratio(it.self_cost.cpu_percent))
        }),
        (gauge("self_resident_bytes", "hbpf's own memory."), |it, to| to.count(it.self_cost.resident_bytes)),
    ],
};

/// Groups of probes.
pub(super) const GROUPS: Group<GroupCost> = Group {
    prefix: "hbpf_probe_group_",
    labels: &["group"],
    families: &[
        (gauge("up", "1 if the group is in place."), |it, to| {
            to.number(Some(f64::from(u8::from(it.state == ProbeState::On))));
        }),
        (gauge("kernel_cpu_ratio", "CPU time that its programs take; 1 is one core."), |it, to| {
            to.number(ratio(it.kernel_cpu_percent));
        }),
    ],
};

/// Programs in the kernel, each at all places at which it is attached.
pub(super) const PROGRAMS: Group<Probe> = Group {
    prefix: "hbpf_probe_",
    labels: &["group", "program"],
    families: &[
        (counter("runs", "Times that the program ran."), |it, to| to.count(it.runs_total)),
        (counter("run_seconds", "Time that it took."), |it, to| to.number(it.run_seconds_total)),
    ],
};

/// hbpf, and the rest.
pub(super) const OBSERVATION: Group<Snapshot> = Group {
    prefix: "hbpf_",
    labels: &[],
    families: &[
        (
            Definition { name: "build", kind: Kind::Info, label: Some("version"), help: "The hbpf that observes." },
            |it, to| to.by([(it.hbpf_version.clone(), Some(1.0))]),
        ),
        (gauge("observation_started_timestamp_seconds", "Since when totals count."), |it, to| {
            to.number(Some(it.observation_started_at.as_nanosecond() as f64 / 1e9));
        }),
        (gauge("snapshot_timestamp_seconds", "When these numbers were taken."), |it, to| {
            to.number(Some(it.captured_at.as_nanosecond() as f64 / 1e9));
        }),
        (gauge("findings", "Things that deserve attention, by severity.").by("severity"), |it, to| {
            let count = |severity| it.findings.iter().filter(|finding| finding.severity == severity).count() as f64;
            to.by(SEVERITIES.map(|(name, severity)| (name, Some(count(severity)))));
        }),
        (gauge("processes", "Processes that use TLS, by how far it can be read.").by("tls"), |it, to| {
            let count = |tls| it.processes.iter().filter(|process| is_seen(process, tls)).count() as f64;
            let kinds = [
                ("attached", TlsVisibility::Attached),
                ("partial", TlsVisibility::Partial),
                ("blind", TlsVisibility::Blind),
            ];
            to.by(kinds.map(|(name, tls)| (name, Some(count(tls)))));
        }),
        (
            gauge("unread_connections", "Open TLS connections with hosts of models that cannot be read.")
                .by("provider"),
            |it, to| {
                let mut providers: BTreeMap<Label, u64> = BTreeMap::new();
                for traffic in it.encrypted.iter().filter(|traffic| traffic.read == Some(false)) {
                    *providers.entry(traffic.provider.clone()).or_default() += traffic.connections_open;
                }
                to.counts(&providers);
            },
        ),
        (
            counter(
                "series_folded",
                "Exchanges whose workload, model and endpoint have no series of their own, since there are as many as may be.",
            ),
            |it, to| {
                to.count(it.series.as_ref().map(|series| series.folded_total));
            },
        ),
        (gauge("collection_errors", "Things that could not be collected."), |it, to| to.count(it.errors.len() as u64)),
    ],
};

/// What rules have found.
pub(super) const FINDINGS: Group<Severity> = Group {
    prefix: "hbpf_",
    labels: &["rule", "severity"],
    families: &[(gauge("finding", "1 for each rule that has found something, with the worst of it."), |_, to| {
        to.number(Some(1.0));
    })],
};

/// What an agent counts of itself.
pub(crate) struct AgentNumbers {
    /// Path, status, and how many requests.
    pub(crate) answered: Vec<(&'static str, u16, u64)>,
    pub(crate) connections_refused: u64,
    pub(crate) requests_malformed: u64,
    /// By signal.
    pub(crate) exports: Vec<(&'static str, ExportNumbers)>,
}

/// How exports to a collector went.
pub(crate) struct ExportNumbers {
    pub(crate) exported: u64,
    pub(crate) failed: u64,
    pub(crate) rejected: u64,
    pub(crate) unconfirmed: u64,
    pub(crate) dropped: u64,
    pub(crate) missed_snapshots: u64,
    pub(crate) is_well: bool,
}

/// Exports to an OpenTelemetry collector.
pub(super) const EXPORTS: Group<ExportNumbers> = Group {
    prefix: "hbpf_agent_otlp_",
    labels: &["signal"],
    families: &[
        (gauge("up", "1 if the last export arrived."), |it, to| to.number(Some(f64::from(u8::from(it.is_well))))),
        (counter("exports", "Exports that arrived."), |it, to| to.count(it.exported)),
        (counter("failures", "Exports that failed; of metrics the next has all that they had."), |it, to| {
            to.count(it.failed)
        }),
        (counter("unconfirmed", "Failures of which it is not known whether they arrived all the same."), |it, to| {
            to.count(it.unconfirmed);
        }),
        (counter("rejected", "Points or spans that the collector refused."), |it, to| to.count(it.rejected)),
        (counter("dropped", "Spans that had no place in the queue."), |it, to| to.count(it.dropped)),
        (counter("missed_snapshots", "Snapshots that were missed, with the spans that they had."), |it, to| {
            to.count(it.missed_snapshots);
        }),
    ],
};

/// Requests to an agent.
pub(super) const AGENT_REQUESTS: Group<u64> = Group {
    prefix: "hbpf_agent_",
    labels: &["path", "status"],
    families: &[(counter("http_requests", "Requests that the agent has answered."), |it, to| to.count(*it))],
};

/// An agent itself.
pub(super) const AGENT: Group<AgentNumbers> = Group {
    prefix: "hbpf_agent_",
    labels: &[],
    families: &[
        (
            counter("connections_refused", "Connections that were closed at once, since there were too many."),
            |it, to| {
                to.count(it.connections_refused);
            },
        ),
        (counter("requests_malformed", "Connections that ended in something that is no request."), |it, to| {
            to.count(it.requests_malformed);
        }),
    ],
};

/// Adds the families of an agent.
pub(crate) fn collect_agent(numbers: &AgentNumbers, since: Timestamp, families: &mut Vec<Family>) {
    let rows = numbers.answered.iter().map(|(path, status, count)| {
        (vec![Some(Label::from(*path)), Some(Label::new(&status.to_string()))], since, count)
    });
    AGENT_REQUESTS.collect(rows, families);
    AGENT.collect(std::iter::once((Vec::new(), since, numbers)), families);
    let exports = numbers.exports.iter().map(|(signal, of)| (vec![Some(Label::from(*signal))], since, of));
    EXPORTS.collect(exports, families);
}

fn is_seen(process: &Process, tls: TlsVisibility) -> bool {
    !process.exited && process.visibility.tls == tls
}

/// All families of a snapshot.
pub(crate) fn collect(snapshot: &Snapshot) -> Vec<Family> {
    let mut families = Vec::new();
    let since = snapshot.observation_started_at;
    let places = Places::of_all(snapshot);
    OBSERVATION.collect(std::iter::once((Vec::new(), since, snapshot)), &mut families);
    let mut findings = BTreeMap::<&Label, Severity>::new();
    for finding in &snapshot.findings {
        let worst = findings.entry(&finding.id).or_insert(finding.severity);
        *worst = finding.severity.max(*worst);
    }
    let findings = findings
        .iter()
        .map(|(rule, severity)| (vec![Some((*rule).clone()), Some(severity_text(*severity).into())], since, severity));
    FINDINGS.collect(findings, &mut families);
    TOTALS.collect(std::iter::once((Vec::new(), since, &snapshot.totals)), &mut families);
    let series = snapshot.series.iter().flat_map(|series| &series.rows);
    SERIES.collect(series.map(|row| (series_labels(row), row.since, &row.stats)), &mut families);
    ENDPOINTS.collect(limits(snapshot).into_iter().map(|(labels, it)| (labels, since, it)), &mut families);
    let tools = snapshot.tools.iter();
    TOOLS.collect(
        tools.map(|it| (vec![Some(it.server.clone()), Some(it.method.clone()), it.tool.clone()], since, it)),
        &mut families,
    );
    let workloads = by_name(snapshot, &places);
    WORKLOADS.collect(workloads.iter().map(|(labels, it)| (labels.clone(), since, it)), &mut families);
    let gpus = snapshot.gpus.iter();
    GPUS.collect(
        gpus.map(|it| (vec![Some(Label::new(&it.index.to_string())), Some(it.uuid.clone())], since, it)),
        &mut families,
    );
    let engines = snapshot.engines.iter().map(|it| {
        let Place { namespace, pod, workload } = places.of(it.pid);
        (
            vec![namespace, pod, workload, Some(it.kind.clone()), Some(it.endpoint.clone())],
            it.start_time.unwrap_or(since),
            it,
        )
    });
    ENGINES.collect(engines, &mut families);
    HOST.collect(std::iter::once((Vec::new(), since, &snapshot.host)), &mut families);
    CAPTURE.collect(std::iter::once((Vec::new(), since, &snapshot.capture)), &mut families);
    let groups = snapshot.capture.groups.iter();
    GROUPS.collect(groups.map(|it| (vec![Some(it.group.clone())], since, it)), &mut families);
    let programs = by_program(&snapshot.capture.probes);
    PROGRAMS
        .collect(programs.map(|it| (vec![Some(it.group.clone()), Some(it.program.clone())], since, it)), &mut families);
    exemplars::attach(snapshot, &mut families);
    families
}

/// What severities are called.
const SEVERITIES: [(&str, Severity); 3] =
    [("info", Severity::Info), ("warning", Severity::Warning), ("critical", Severity::Critical)];

fn severity_text(severity: Severity) -> &'static str {
    SEVERITIES.iter().find(|(_, other)| *other == severity).map_or("", |(name, _)| name)
}

/// The severity that is called so.
pub(crate) fn severity(text: &str) -> Option<Severity> {
    SEVERITIES.iter().find(|(name, _)| *name == text).map(|(_, severity)| *severity)
}

fn series_labels(row: &Series) -> Vec<Option<Label>> {
    let container = row.container.as_ref();
    vec![
        container.and_then(|it| it.namespace.clone()),
        container.and_then(|it| it.pod.clone()),
        container.and_then(|it| it.name.clone()),
        Some(row.workload.clone()),
        Some(role_text(row.role).into()),
        Some(row.provider.clone()),
        row.model.clone(),
        Some(api_text(row.api).into()),
        Some(row.endpoint.clone()),
    ]
}

fn role_text(role: SeriesRole) -> &'static str {
    match role {
        SeriesRole::Client => "client",
        SeriesRole::Server => "server",
        SeriesRole::Internal => "internal",
    }
}

/// Where a process belongs.
#[derive(Clone, Default)]
struct Place {
    namespace: Option<Label>,
    pod: Option<Label>,
    workload: Option<Label>,
}

struct Places(HashMap<u32, Place>);

impl Places {
    fn of_all(snapshot: &Snapshot) -> Self {
        let names: HashMap<&Label, &Label> = snapshot.workloads.iter().map(|it| (&it.key, &it.name)).collect();
        let place = |process: &Process| Place {
            namespace: process.container.as_ref().and_then(|it| it.namespace.clone()),
            pod: process.container.as_ref().and_then(|it| it.pod.clone()),
            workload: process.workload.as_ref().and_then(|key| names.get(key)).map(|name| (*name).clone()),
        };
        let running = snapshot.processes.iter().filter(|process| !process.exited);
        Self(running.map(|process| (process.pid, place(process))).collect())
    }

    fn of(&self, pid: u32) -> Place {
        self.0.get(&pid).cloned().unwrap_or_default()
    }
}

/// Workloads with their labels. Those of one name are one: a program that runs several times has a row for each.
fn by_name(snapshot: &Snapshot, places: &Places) -> Vec<(Vec<Option<Label>>, Workload)> {
    let mut rows: Vec<(Vec<Option<Label>>, Workload)> = Vec::new();
    for workload in &snapshot.workloads {
        let Place { namespace, pod, .. } = workload.pids.first().map_or_else(Place::default, |pid| places.of(*pid));
        let labels = vec![namespace, pod, Some(workload.name.clone()), Some(kind_text(workload.kind).into())];
        match rows.iter_mut().find(|(other, _)| *other == labels) {
            Some((_, row)) => add(row, workload),
            None => rows.push((labels, workload.clone())),
        }
    }
    rows
}

/// Adds what can be added; what is a rate of two of them is not known of both.
fn add(row: &mut Workload, other: &Workload) {
    fn sum<T: std::ops::Add<Output = T> + Copy>(one: &mut Option<T>, other: Option<T>) {
        *one = one.zip(other).map(|(one, other)| one + other).or(*one).or(other);
    }
    row.pids.extend(&other.pids);
    sum(&mut row.cpu_percent, other.cpu_percent);
    sum(&mut row.resident_bytes, other.resident_bytes);
    sum(&mut row.gpu_percent, other.gpu_percent);
    sum(&mut row.gpu_memory_bytes, other.gpu_memory_bytes);
    sum(&mut row.gpu_power_watts, other.gpu_power_watts);
    sum(&mut row.gpu_cost_usd_per_hour, other.gpu_cost_usd_per_hour);
    (row.tokens_per_joule, row.cpu_seconds_per_1k_tokens) = (None, None);
}

/// The last word on limits of each endpoint, API and model, with these as labels.
fn limits(snapshot: &Snapshot) -> Vec<(Vec<Option<Label>>, &EndpointStats)> {
    let mut latest: BTreeMap<[Option<Label>; 3], (Timestamp, &EndpointStats)> = BTreeMap::new();
    for endpoint in &snapshot.endpoints {
        let Some(limit) = &endpoint.rate_limit else { continue };
        let key = [Some(endpoint.name()), Some(api_text(endpoint.api).into()), limit.model.clone()];
        let entry = latest.entry(key).or_insert((limit.observed_at, endpoint));
        if entry.0 < limit.observed_at {
            *entry = (limit.observed_at, endpoint);
        }
    }
    latest.into_iter().map(|(labels, (_, endpoint))| (labels.to_vec(), endpoint)).collect()
}

/// Programs. What is said of one at each of its places is of all of them.
fn by_program(probes: &[Probe]) -> impl Iterator<Item = &Probe> {
    let by_name: BTreeMap<(&Label, &Label), &Probe> =
        probes.iter().map(|probe| ((&probe.group, &probe.program), probe)).collect();
    by_name.into_values()
}
