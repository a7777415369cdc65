//! honeybeePF's names for what hbpf counts, for dashboards that are not rewritten yet.
//!
//! Names and labels are those of `telemetry.rs` in honeybeePF and honeybeepf-llm, as their collector hands them on.

use std::collections::{BTreeMap, HashMap};

use hbpf_core::aggregate::exponential;
use hbpf_core::label::Label;
use hbpf_core::snapshot::{DiskDevice, Distribution, LlmStats, ProbeState, Series, SeriesRole, Snapshot};
use hbpf_host::protocol::Group as ProbeGroup;
use jiff::Timestamp;

use super::Family;
use super::families::{Group, counter, gauge, histogram};

/// Nanoseconds of a second.
const NANOS: f64 = 1e9;

/// A microsecond to seventeen seconds, in nanoseconds.
const LATENCIES: (i32, i32) = (10, 34);

/// A millisecond to nine minutes, in seconds.
const TIMES: (i32, i32) = (-10, 9);

/// What has come to an end: honeybeePF counted an event at a request's start as well.
const DONE: &str = "DONE";

pub(super) const LLM: Group<LlmStats> = Group {
    prefix: "honeybeepf_llm_",
    labels: &["model", "target_namespace", "target_pod_name"],
    families: &[
        (counter("requests", "Requests that have ended, by how.").by("status"), |it, to| {
            let outcomes = [("success", it.completed_total), ("error", it.failed_total + it.abandoned_total)];
            to.by(outcomes.map(|(status, count)| (status, Some(count as f64))));
        }),
        (counter("tokens", "Tokens of requests that have ended.").by("token_type"), |it, to| {
            let kinds = [("prompt", it.tokens.input), ("completion", it.tokens.output)];
            to.by(kinds.map(|(kind, count)| (kind, count.map(|count| count as f64))));
        }),
        (histogram("latency_seconds", TIMES, "From the beginning of a request to the end of its answer."), |it, to| {
            to.values(&it.latency.since_start.duration_seconds);
        }),
    ],
};

pub(super) const DISKS: Group<DiskDevice> = Group {
    prefix: "honeybeepf_block_io_",
    labels: &["event_type", "device"],
    families: &[
        (counter("events", "Requests to disks that are done."), |it, to| to.count(it.reads_total + it.writes_total)),
        (counter("bytes", "What they have read or written."), |it, to| {
            to.count(it.read_bytes_total + it.written_bytes_total);
        }),
        (
            histogram("latency_ns", LATENCIES, "From a request to a disk to its completion, in nanoseconds."),
            |it, to| {
                let both = sum(it.read_latency_seconds.as_ref(), it.write_latency_seconds.as_ref());
                to.values(&both.as_ref().map(in_nanoseconds));
            },
        ),
    ],
};

pub(super) const CONNECTIONS: Group<Distribution> = Group {
    prefix: "honeybeepf_network_",
    labels: &["protocol"],
    families: &[(histogram("latency_ns", LATENCIES, "From SYN to established, in nanoseconds."), |it, to| {
        to.values(&Some(in_nanoseconds(it)));
    })],
};

pub(super) const GPU_DEVICES: Group<u64> = Group {
    prefix: "honeybeepf_gpu_",
    labels: &["device"],
    families: &[(counter("open_events", "Times that a GPU's device was opened."), |it, to| to.count(*it))],
};

pub(super) const PROBES: Group<u64> = Group {
    prefix: "honeybeepf_",
    labels: &["probe"],
    families: &[(gauge("active_probes", "1 for each group of probes that is in place."), |it, to| to.count(*it))],
};

/// What honeybeePF called groups of probes.
const PROBE_NAMES: [(&str, &[ProbeGroup]); 4] = [
    ("block_io", &[ProbeGroup::Block]),
    ("gpu_usage", &[ProbeGroup::Device]),
    ("llm", &[ProbeGroup::LlmTls, ProbeGroup::LlmPlain]),
    ("network_latency", &[ProbeGroup::Net]),
];

/// Counts what snapshots tell of single processes, which end, for the host, whose counts go on.
#[derive(Default)]
pub(crate) struct Honeybeepf {
    opens: BTreeMap<Label, u64>,
    connects: Option<Distribution>,
    /// What the processes of the latest snapshot had.
    before: HashMap<(u32, Option<Timestamp>), Counted>,
}

#[derive(Clone, Default)]
struct Counted {
    opens: BTreeMap<Label, u64>,
    connects: Option<Distribution>,
}

impl Honeybeepf {
    /// Takes in what a snapshot has more than the one before. To be told of each.
    pub(crate) fn take(&mut self, snapshot: &Snapshot) {
        let mut now = HashMap::new();
        for process in &snapshot.processes {
            let opens = process.devices.iter().map(|of| (of.device.clone(), of.opens_total)).collect();
            let connects = process.network.as_ref().and_then(|network| network.connect_seconds.clone());
            let counted = Counted { opens, connects };
            let key = (process.pid, process.start_time);
            let before = self.before.get(&key).cloned().unwrap_or_default();
            for (device, count) in &counted.opens {
                let more = count.saturating_sub(before.opens.get(device).copied().unwrap_or(0));
                *self.opens.entry(device.clone()).or_default() += more;
            }
            let more = counted.connects.as_ref().map(|all| growth(all, before.connects.as_ref()));
            self.connects = sum(self.connects.as_ref(), more.as_ref());
            now.insert(key, counted);
        }
        self.before = now;
    }

    /// Adds the families of this snapshot, which was taken in.
    pub(crate) fn collect(&self, snapshot: &Snapshot, families: &mut Vec<Family>) {
        let since = snapshot.observation_started_at;
        let llm = by_pod(snapshot.series.iter().flat_map(|series| &series.rows));
        LLM.collect(llm.iter().map(|(labels, (since, it))| (labels.to_vec(), *since, it)), families);
        let disks = snapshot.host.disks.iter();
        DISKS.collect(disks.map(|it| (vec![Some(DONE.into()), Some(it.device.clone())], since, it)), families);
        let connects = self.connects.iter();
        CONNECTIONS.collect(connects.map(|it| (vec![Some("tcp".into())], since, it)), families);
        // honeybeePF told them by their paths.
        let path = |device: &Label| Some(Label::new(&format!("/dev/{device}")));
        GPU_DEVICES.collect(self.opens.iter().map(|(device, it)| (vec![path(device)], since, it)), families);
        let is_on = |groups: &[ProbeGroup]| {
            let mut on = snapshot.capture.groups.iter().filter(|it| it.state == ProbeState::On);
            u64::from(on.any(|it| groups.iter().any(|group| group.name() == it.group.as_str())))
        };
        let probes = PROBE_NAMES.map(|(name, groups)| (name, is_on(groups)));
        PROBES.collect(probes.iter().map(|(name, it)| (vec![Some((*name).into())], since, it)), families);
    }
}

type PodKey = [Option<Label>; 3];

/// Exchanges by model and pod, whatever else tells them apart: those that were asked from this host, for honeybeePF saw clients alone.
fn by_pod<'a>(rows: impl Iterator<Item = &'a Series>) -> BTreeMap<PodKey, (Timestamp, LlmStats)> {
    let mut sums: BTreeMap<PodKey, (Timestamp, LlmStats)> = BTreeMap::new();
    for row in rows.filter(|row| row.role != SeriesRole::Server) {
        let container = row.container.as_ref();
        let namespace = container.and_then(|it| it.namespace.clone());
        let key = [row.model.clone(), namespace, container.and_then(|it| it.pod.clone())];
        let (since, all) = sums.entry(key).or_insert_with(|| (row.since, LlmStats::default()));
        *since = (*since).min(row.since);
        all.completed_total += row.stats.completed_total;
        all.failed_total += row.stats.failed_total;
        all.abandoned_total += row.stats.abandoned_total;
        for (all, more) in
            [(&mut all.tokens.input, row.stats.tokens.input), (&mut all.tokens.output, row.stats.tokens.output)]
        {
            *all = all.zip(more).map(|(all, more)| all + more).or(*all).or(more);
        }
        let durations = &mut all.latency.since_start.duration_seconds;
        *durations = sum(durations.as_ref(), row.stats.latency.since_start.duration_seconds.as_ref());
    }
    sums
}

/// Values of both. Percentiles are not carried on: no metric has them.
fn sum(one: Option<&Distribution>, other: Option<&Distribution>) -> Option<Distribution> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Distribution {
            count: one.count + other.count,
            sum: one.sum + other.sum,
            scale: one.scale,
            buckets: exponential::merge(&one.buckets, &other.buckets),
            ..Distribution::default()
        }),
        (one, other) => one.or(other).cloned(),
    }
}

/// What values came to those of before.
fn growth(all: &Distribution, before: Option<&Distribution>) -> Distribution {
    let Some(before) = before else { return all.clone() };
    // It has begun anew.
    let Some(buckets) = exponential::subtract(&all.buckets, &before.buckets) else { return all.clone() };
    let count = all.count.saturating_sub(before.count);
    Distribution { count, sum: all.sum - before.sum, scale: all.scale, buckets, ..Distribution::default() }
}

/// Seconds as nanoseconds: buckets go where most of each belongs, by which bounds are off by 2 % at most.
fn in_nanoseconds(seconds: &Distribution) -> Distribution {
    let per_octave = f64::from(seconds.scale).exp2();
    let shift = (NANOS.log2() * per_octave).round() as i32;
    Distribution {
        sum: seconds.sum * NANOS,
        buckets: seconds.buckets.iter().map(|(index, count)| (index.saturating_add(shift), *count)).collect(),
        ..seconds.clone()
    }
}

#[cfg(test)]
mod tests {
    use hbpf_core::snapshot::{DeviceUse, Network, Process};

    use super::*;
    use crate::fixture;
    use crate::metrics::{Text, text};

    fn connects(buckets: &[(i32, u64)]) -> Distribution {
        let count = buckets.iter().map(|(_, count)| count).sum();
        Distribution {
            count,
            sum: count as f64 * 0.001,
            scale: 3,
            buckets: buckets.to_vec(),
            ..Distribution::default()
        }
    }

    fn with(process: &Process, opens: u64, times: &[(i32, u64)]) -> Process {
        let device = DeviceUse { device: "nvidia0".into(), opens_total: opens, closes_total: None, open: None };
        let network = Network { connect_seconds: Some(connects(times)), ..Network::default() };
        Process { devices: vec![device], network: Some(network), ..process.clone() }
    }

    #[test]
    fn what_processes_counted_goes_on_when_they_have_ended() {
        let snapshot = fixture::rich();
        let one = &snapshot.processes[0];
        let other = Process { pid: one.pid + 100_000, ..one.clone() };
        let mut counts = Honeybeepf::default();
        for processes in [
            vec![with(one, 3, &[(-80, 2)])],
            vec![with(one, 5, &[(-80, 3)]), with(&other, 1, &[(-72, 1)])],
            vec![with(&other, 1, &[(-72, 1)])],
            // It has begun anew under the same number.
            vec![with(&other, 1, &[(-60, 1)])],
        ] {
            counts.take(&Snapshot { processes, ..snapshot.clone() });
        }
        assert_eq!(counts.opens[&Label::new("nvidia0")], 6);
        let connects = counts.connects.unwrap();
        assert_eq!((connects.count, connects.buckets), (5, vec![(-80, 3), (-72, 1), (-60, 1)]));
    }

    #[test]
    fn nanoseconds_are_seconds_but_for_two_percent() {
        let of = in_nanoseconds(&connects(&[(-80, 4)]));
        // 2^(-80/8) s is 976562 ns.
        let bound = (f64::from(of.buckets[0].0) / 8.0).exp2();
        assert!((bound / 976_562.5 - 1.0).abs() < 0.02, "{bound}");
        assert!((of.sum / 4e6 - 1.0).abs() < 1e-9 && of.count == 4);
    }

    #[test]
    fn the_old_names_have_the_new_numbers() {
        let snapshot = super::super::tests::rich();
        let mut counts = Honeybeepf::default();
        counts.take(&snapshot);
        let mut families = Vec::new();
        counts.collect(&snapshot, &mut families);
        let text = text(&families, Text::OpenMetrics);
        let completed: u64 = snapshot.series.iter().flat_map(|it| &it.rows).map(|row| row.stats.completed_total).sum();
        let told: f64 = text
            .lines()
            .filter(|line| line.starts_with("honeybeepf_llm_requests_total{") && line.contains("status=\"success\""))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum();
        assert_eq!((told as u64, completed > 0), (completed, true), "{text}");
        assert!(text.contains("honeybeepf_active_probes{probe=\"llm\"} 1.0"), "{text}");
        assert!(text.contains("token_type=\"completion\"") && text.contains("honeybeepf_llm_latency_seconds_bucket{"));
    }
}
