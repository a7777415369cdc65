//! A snapshot of all hosts from what was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hbpf_core::exchange::Api;
use hbpf_core::label::{Label, Text};
use hbpf_core::snapshot::{
    Capture, CollectionError, EndpointStats, Engine, Finding, Gpu, Host, LlmStats, Lost, Model, Overhead, Probe,
    ProbeState, SCHEMA, SelfCost, Severity, Snapshot, Workload, WorkloadKind,
};
use hbpf_host::protocol::Group;
use jiff::{SignedDuration, Timestamp};

use super::Answers;
use super::answer::Sample;
use super::query::{About, Scope, Table};
use super::table::{Key, Part, Rows};
use crate::metrics;

/// Names of hosts that a finding shows.
const SHOWN_NAMES: usize = 3;

/// The sides of exchanges, where rows are told apart by role.
const CLIENT: &str = "client";
const SERVER: &str = "server";
const INTERNAL: &str = "internal";

pub(super) fn snapshot(answers: &Answers, scope: &Scope, sequence: u64) -> Snapshot {
    let now = Timestamp::now();
    let hosts = rows(answers, scope, Table::Hosts);
    let range = scope.range as f64;
    let since = now.checked_sub(SignedDuration::from_secs(i64::try_from(scope.range).unwrap_or(0))).unwrap_or(now);
    let told = answers.of(About::Machines).iter().map(|sample| sample.label(&scope.host).to_owned());
    let names: BTreeSet<String> = told.chain(hosts.keys().map(|key| key[0].clone())).collect();
    let problems = answers.problems().into_iter().map(|problem| CollectionError {
        source: Label::new("prometheus"),
        message: Text::new(problem),
        last_at: Some(now),
    });
    Snapshot {
        schema: Label::new(SCHEMA),
        hbpf_version: Label::new(env!("CARGO_PKG_VERSION")),
        captured_at: now,
        observation_started_at: since,
        observed_seconds: range,
        window_seconds: range,
        sequence,
        host: machine(answers, names.len()),
        totals: totals(answers, scope),
        workloads: host_rows(answers, scope, &names, hosts).into_iter().chain(workloads(answers, scope)).collect(),
        models: models(answers, scope),
        endpoints: endpoints(answers, scope),
        gpus: gpus(answers, scope),
        engines: engines(answers, scope),
        capture: capture(answers, names.len()),
        findings: findings(answers, scope, names.len(), since),
        errors: problems.collect(),
        ..Snapshot::default()
    }
}

/// The rows of a table.
fn rows(answers: &Answers, scope: &Scope, table: Table) -> BTreeMap<Key, LlmStats> {
    let mut rows = Rows::default();
    take(&mut rows, answers, scope, table, &table.labels(&scope.host));
    rows.finish()
}

fn take(rows: &mut Rows, answers: &Answers, scope: &Scope, table: Table, labels: &[&str]) {
    take_some(rows, answers, scope, table, labels, |_| true);
}

/// Those samples of a table's that are wanted, rows told apart by these labels.
fn take_some(
    rows: &mut Rows,
    answers: &Answers,
    scope: &Scope,
    table: Table,
    labels: &[&str],
    wanted: impl Fn(&Sample) -> bool,
) {
    let range = scope.range as f64;
    let counts = answers.of(About::Counts(table));
    for part in Part::COUNTS {
        let of_part = counts.iter().filter(|sample| Part::of(sample) == Some(part) && wanted(sample));
        rows.take(part, labels, of_part, range);
    }
    for part in Part::TIMES {
        rows.take(part, labels, answers.of(About::Times(table, part)).iter().filter(|sample| wanted(sample)), range);
    }
}

/// All hosts together. An exchange between two of them is counted at each.
fn totals(answers: &Answers, scope: &Scope) -> LlmStats {
    let mut rows = Rows::default();
    take(&mut rows, answers, scope, Table::Hosts, &[]);
    rows.finish().into_values().next().unwrap_or_default()
}

/// Numbers by name, of one row.
struct Numbers<'a>(BTreeMap<&'a str, f64>);

impl<'a> Numbers<'a> {
    /// By what labels tell apart.
    fn by(samples: &'a [Sample], labels: &[&str]) -> BTreeMap<Key, Self> {
        let mut rows: BTreeMap<Key, Self> = BTreeMap::new();
        for sample in samples {
            let key = labels.iter().map(|label| sample.label(label).to_owned()).collect();
            let row = rows.entry(key).or_insert_with(|| Self(BTreeMap::new()));
            *row.0.entry(sample.label("__name__")).or_default() += sample.value;
        }
        rows
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    fn percent(&self, name: &str) -> Option<f64> {
        self.number(name).map(|ratio| ratio * 100.0)
    }

    fn count(&self, name: &str) -> Option<u64> {
        self.number(name).map(|value| value.max(0.0) as u64)
    }
}

fn machine(answers: &Answers, hosts: usize) -> Host {
    let all = Numbers::by(answers.of(About::Machines), &[]).into_values().next();
    let all = all.unwrap_or(Numbers(BTreeMap::new()));
    let cpus = all.number("hbpf_host_cpus");
    let plural = if hosts == 1 { "" } else { "s" };
    Host {
        hostname: Label::new(&format!("{hosts} host{plural}")),
        cpu_count: cpus.unwrap_or_default() as u32,
        // Of a machine it is of all its cores.
        cpu_percent: all.percent("hbpf_host_cpu_ratio").zip(cpus).map(|(percent, cpus)| percent / cpus.max(1.0)),
        memory_total_bytes: all.count("hbpf_host_memory_total_bytes"),
        memory_used_bytes: all.count("hbpf_host_memory_used_bytes"),
        ..Host::default()
    }
}

/// A row for each host, with all of its exchanges, each once: at its serving side, if it serves any.
fn host_rows(
    answers: &Answers,
    scope: &Scope,
    names: &BTreeSet<String>,
    mut exchanges: BTreeMap<Key, LlmStats>,
) -> Vec<Workload> {
    let machines = Numbers::by(answers.of(About::Machines), &[&scope.host]);
    let serves = |name: &str| {
        let roles = answers.of(About::Roles).iter().filter(|sample| sample.label(&scope.host) == name);
        roles.filter(|sample| sample.label("role") != CLIENT).any(|sample| sample.value > 0.0)
    };
    let row = |name: &String| {
        let key = vec![name.clone()];
        let (stats, numbers) = (exchanges.remove(&key), machines.get(&key));
        let number = |of: &str| numbers.and_then(|numbers| numbers.number(of));
        let power = number("hbpf_gpu_power_watts");
        let tokens = stats.as_ref().and_then(|stats| stats.tokens_per_second.output);
        let (as_client, as_server) = if serves(name) { (None, stats) } else { (stats, None) };
        Workload {
            key: Label::new(&format!("host/{name}")),
            name: Label::new(name),
            kind: WorkloadKind::Host,
            cpu_percent: numbers.and_then(|numbers| numbers.percent("hbpf_host_cpu_ratio")),
            resident_bytes: numbers.and_then(|numbers| numbers.count("hbpf_host_memory_used_bytes")),
            gpu_percent: numbers.and_then(|numbers| numbers.percent("hbpf_gpu_utilization_ratio")),
            gpu_memory_bytes: numbers.and_then(|numbers| numbers.count("hbpf_gpu_memory_used_bytes")),
            gpu_power_watts: power,
            tokens_per_joule: tokens.zip(power).filter(|(_, power)| *power > 0.0).map(|(tokens, power)| tokens / power),
            as_client,
            as_server,
            ..Workload::default()
        }
    };
    names.iter().map(row).collect()
}

/// The busiest workloads.
fn workloads(answers: &Answers, scope: &Scope) -> Vec<Workload> {
    let labels = [&scope.host, "namespace", "pod", "workload"];
    let samples = answers.of(About::Workloads);
    let used = Numbers::by(samples, &labels);
    let kinds: BTreeMap<Key, &str> = samples
        .iter()
        .map(|sample| (labels.iter().map(|label| sample.label(label).to_owned()).collect(), sample.label("kind")))
        .collect();
    let mut found: BTreeMap<Key, Workload> = BTreeMap::new();
    for (mut key, stats) in rows(answers, scope, Table::Workloads) {
        let role = key.remove(0);
        let row = found.entry(key).or_insert_with_key(|key| {
            let numbers = used.get(key);
            Workload {
                key: Label::new(&format!("workload/{}", key.join("/"))),
                name: Label::new(&format!("{} @ {}", key[3], key[0])),
                kind: kind(kinds.get(key).copied().unwrap_or_default(), &key[2]),
                cpu_percent: numbers.and_then(|it| it.percent("hbpf_workload_cpu_ratio")),
                resident_bytes: numbers.and_then(|it| it.count("hbpf_workload_resident_bytes")),
                gpu_percent: numbers.and_then(|it| it.percent("hbpf_workload_gpu_ratio")),
                gpu_memory_bytes: numbers.and_then(|it| it.count("hbpf_workload_gpu_memory_bytes")),
                gpu_power_watts: numbers.and_then(|it| it.number("hbpf_workload_gpu_power_watts")),
                tokens_per_joule: numbers.and_then(|it| it.number("hbpf_workload_tokens_per_joule")),
                ..Workload::default()
            }
        });
        match role.as_str() {
            CLIENT => row.as_client = Some(stats),
            INTERNAL => row.within = Some(stats),
            _ => row.as_server = Some(stats),
        }
    }
    found.into_values().collect()
}

fn kind(text: &str, pod: &str) -> WorkloadKind {
    match text {
        "pod" => WorkloadKind::Pod,
        "container" => WorkloadKind::Container,
        "unit" => WorkloadKind::Unit,
        _ if !pod.is_empty() => WorkloadKind::Pod,
        _ => WorkloadKind::Tree,
    }
}

/// Rows that both ends of an exchange may tell of, from different hosts: of two sides the one that has more. Exchanges within a
/// workload are on both.
fn of_one_side(answers: &Answers, scope: &Scope, table: Table) -> BTreeMap<Key, LlmStats> {
    let labels = table.labels(&scope.host);
    let side = |side: &str| {
        let mut rows = Rows::default();
        take_some(&mut rows, answers, scope, table, &labels[1..], |sample| {
            [side, INTERNAL].contains(&sample.label("role"))
        });
        rows.finish()
    };
    let mut found = side(CLIENT);
    for (key, stats) in side(SERVER) {
        match found.get_mut(&key) {
            Some(have) if have.requests_total >= stats.requests_total => {}
            Some(have) => *have = stats,
            None => _ = found.insert(key, stats),
        }
    }
    found
}

fn models(answers: &Answers, scope: &Scope) -> Vec<Model> {
    let model = |(key, stats): (Key, LlmStats)| Model {
        provider: Label::new(&key[0]),
        model: (!key[1].is_empty()).then(|| Label::new(&key[1])),
        stats,
    };
    of_one_side(answers, scope, Table::Models).into_iter().map(model).collect()
}

fn endpoints(answers: &Answers, scope: &Scope) -> Vec<EndpointStats> {
    let endpoint = |(key, stats): (Key, LlmStats)| {
        let api: Api = serde_json::from_value(serde_json::Value::String(key[0].clone())).ok()?;
        let (host, port) = match key[1].rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().ok()),
            _ => (key[1].as_str(), None),
        };
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        Some(EndpointStats {
            host: (address.is_none() && !host.is_empty()).then(|| Label::new(host)),
            address,
            port,
            api,
            tls: None,
            protocol: None,
            stats,
            rate_limit: None,
        })
    };
    of_one_side(answers, scope, Table::Endpoints).into_iter().filter_map(endpoint).collect()
}

fn gpus(answers: &Answers, scope: &Scope) -> Vec<Gpu> {
    let labels = [scope.host.as_str(), "gpu", "uuid"];
    let samples = answers.of(About::Gpus);
    let names: BTreeMap<Key, &str> = samples
        .iter()
        .filter(|sample| sample.label("__name__") == "hbpf_gpu_info")
        .map(|sample| (labels.iter().map(|label| sample.label(label).to_owned()).collect(), sample.label("name")))
        .collect();
    let gpu = |(index, (key, it)): (usize, (Key, Numbers<'_>))| Gpu {
        index: index as u32,
        uuid: Label::new(&key[2]),
        name: Label::new(&format!("{} {} {}", key[0], key[1], names.get(&key).copied().unwrap_or_default())),
        utilization_percent: it.percent("hbpf_gpu_utilization_ratio"),
        memory_used_bytes: it.count("hbpf_gpu_memory_used_bytes"),
        memory_total_bytes: it.count("hbpf_gpu_memory_total_bytes"),
        power_watts: it.number("hbpf_gpu_power_watts"),
        power_limit_watts: it.number("hbpf_gpu_power_limit_watts"),
        temperature_celsius: it.number("hbpf_gpu_temperature_celsius"),
        ..Gpu::default()
    };
    Numbers::by(samples, &labels).into_iter().enumerate().map(gpu).collect()
}

fn engines(answers: &Answers, scope: &Scope) -> Vec<Engine> {
    let engine = |(key, it): (Key, Numbers<'_>)| Engine {
        kind: Label::new(&key[1]),
        endpoint: Label::new(&format!("{} @ {}", key[2], key[0])),
        requests_running: it.number("hbpf_engine_requests_running"),
        requests_waiting: it.number("hbpf_engine_requests_waiting"),
        kv_cache_percent: it.percent("hbpf_engine_kv_cache_ratio"),
        prefix_cache_hit_percent: it.percent("hbpf_engine_prefix_cache_hit_ratio"),
        agreement_percent: it.percent("hbpf_engine_agreement_ratio"),
        ..Engine::default()
    };
    let labels = [scope.host.as_str(), "engine", "endpoint"];
    Numbers::by(answers.of(About::Engines), &labels).into_iter().map(engine).collect()
}

fn capture(answers: &Answers, hosts: usize) -> Capture {
    let costs = Numbers::by(answers.of(About::Overhead), &[]).into_values().next();
    let percent = |name| costs.as_ref().and_then(|costs| costs.percent(name));
    let mut lost = Lost::default();
    for sample in answers.of(About::Lost) {
        let count = sample.value.max(0.0).round() as u64;
        match sample.label("cause") {
            "ring_full" => lost.ring_full.chunks = count,
            "read_fault" => lost.read_fault = count,
            "map_full" => lost.map_full = count,
            "over_budget" => lost.over_budget = count,
            "parse_gap" => lost.parse_gap = count,
            "missed_runs" => lost.missed_runs = count,
            "reports" => lost.reports = count,
            "desync" => lost.desync = count,
            _ => {}
        }
    }
    Capture {
        probes: Group::ALL.into_iter().flat_map(|group| probes(answers, group, hosts)).collect(),
        lost,
        overhead: Overhead {
            percent: percent("hbpf_capture_overhead_ratio"),
            budget_percent: percent("hbpf_capture_overhead_budget_ratio"),
            ..Overhead::default()
        },
        self_cost: SelfCost {
            cpu_percent: percent("hbpf_capture_self_cpu_ratio"),
            resident_bytes: costs.as_ref().and_then(|costs| costs.count("hbpf_capture_self_resident_bytes")),
            ..SelfCost::default()
        },
        ..Capture::default()
    }
}

/// Where a group of probes is in place, and where it is not.
fn probes(answers: &Answers, group: Group, hosts: usize) -> Vec<Probe> {
    let on_hosts = |up: bool| {
        let of_group = answers.of(About::Groups).iter().filter(|sample| sample.label("group") == group.name());
        let counts = of_group.filter(|sample| (sample.label("up") == "1") == up).map(|sample| sample.value);
        counts.sum::<f64>().max(0.0) as usize
    };
    let probe = |state, count: usize, reason: Option<Text>| Probe {
        group: Label::new(group.name()),
        program: Label::new("*"),
        attached_to: Label::new(&format!("{count} of {hosts} hosts")),
        state,
        reason,
        runs_total: None,
        run_seconds_total: None,
        missed_total: None,
        trap_seconds_estimated: None,
    };
    match (on_hosts(true), on_hosts(false)) {
        (0, _) => vec![probe(ProbeState::Off, 0, Some(Text::new("off")))],
        (on, 0) => vec![probe(ProbeState::On, on, None)],
        (on, off) => {
            let why = format!("it is not in place on {off} of {hosts} hosts");
            vec![probe(ProbeState::On, on, None), probe(ProbeState::Failed, off, Some(Text::new(&why)))]
        }
    }
}

fn findings(answers: &Answers, scope: &Scope, hosts: usize, since: Timestamp) -> Vec<Finding> {
    let gone: Vec<&str> = answers.of(About::Gone).iter().map(|sample| sample.label(&scope.host)).collect();
    let mut by_rule = BTreeMap::<&str, (u64, Severity)>::new();
    for sample in answers.of(About::Findings) {
        // Agents of older versions do not tell it.
        let severity = metrics::severity(sample.label("severity")).unwrap_or(Severity::Warning);
        let (count, worst) = by_rule.entry(sample.label("rule")).or_insert((0, severity));
        // One whose severity has changed may be there by both for a while.
        *count = count.saturating_add(sample.value.max(0.0) as u64).min(hosts as u64);
        *worst = severity.max(*worst);
    }
    let found = by_rule.into_iter().map(|(rule, (count, severity))| Finding {
        id: Label::new(rule),
        severity,
        subject: Label::new(&format!("{count} of {hosts} hosts")),
        title: Text::new(&format!("{rule} on {count} of {hosts} hosts")),
        evidence: BTreeMap::from([(Label::new("hosts"), count as f64)]),
        advice: Text::new(&format!(
            "ask Prometheus for hbpf_finding{{rule=\"{rule}\"}}, and look there with hbpf top --connect"
        )),
        since,
    });
    let gone = (!gone.is_empty()).then(|| {
        let more = gone.len().saturating_sub(SHOWN_NAMES);
        let names = gone[..gone.len().min(SHOWN_NAMES)].join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Finding {
            id: Label::new("hosts_gone"),
            severity: Severity::Critical,
            subject: Label::new(&format!("{} hosts", gone.len())),
            title: Text::new(&format!("no longer heard of: {names}{more}")),
            evidence: BTreeMap::from([(Label::new("hosts"), gone.len() as f64)]),
            advice: Text::new("the agent or the host is down, or Prometheus cannot reach it: see its targets"),
            since,
        }
    });
    gone.into_iter().chain(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rule: &str, severity: &str, value: f64) -> Sample {
        let labels = [("rule", rule), ("severity", severity)];
        Sample { labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(), value }
    }

    #[test]
    fn findings_are_as_bad_as_the_worst_of_them() {
        let mut answers = Answers::default();
        let told = [sample("blind", "info", 2.0), sample("blind", "critical", 1.0), sample("old", "", 1.0)];
        answers.put(About::Findings, Ok(told.into()));
        let scope = Scope { host: "instance".to_owned(), matching: String::new(), range: 60 };
        let of = |hosts| findings(&answers, &scope, hosts, Timestamp::UNIX_EPOCH);
        let shown = |finding: &Finding| (finding.id.to_string(), finding.severity, finding.evidence["hosts"] as u64);
        let expected = [("blind".to_owned(), Severity::Critical, 3), ("old".to_owned(), Severity::Warning, 1)];
        assert_eq!(of(9).iter().map(shown).collect::<Vec<_>>(), expected);
        assert_eq!(of(2)[0].evidence["hosts"], 2.0, "a host may be there by both");
    }
}
