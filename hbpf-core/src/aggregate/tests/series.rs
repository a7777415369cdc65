//! Exchanges as metrics systems tell them apart.

use super::*;
use crate::snapshot::{Container, Series, SeriesRole, SeriesTable, WorkloadKind};

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.aggregator = Aggregator::new(AggregatorConfig { series: true, ..AggregatorConfig::default() }, START);
    bench
}

fn run(bench: &mut Bench, pid: u32, key: &str, name: &str) {
    let container = Container { id: format!("id-{name}").into(), name: Some(name.into()), ..Container::default() };
    let workload = Some(Label::from(key));
    let process = Process { pid, workload, container: Some(container), command: "p".into(), ..Process::default() };
    bench.facts.processes.push(process);
    bench.facts.workloads.push(WorkloadFacts { key: key.into(), name: name.into(), kind: WorkloadKind::Pod });
}

fn series(bench: &mut Bench, seconds: f64) -> SeriesTable {
    bench.frame(seconds).series.unwrap()
}

/// Workload, model, role, requests and output tokens.
fn brief(row: &Series) -> (&str, &str, SeriesRole, u64, Option<u64>) {
    let model = row.model.as_ref().map_or("-", Label::as_str);
    (row.workload.as_str(), model, row.role, row.stats.requests_total, row.stats.tokens.output)
}

#[test]
fn they_are_kept_only_if_wanted() {
    let mut bench = Bench::new();
    bench.call(0.0, 1, "m", |_| {});
    assert_eq!(bench.frame(7.0).series, None);
}

#[test]
fn a_row_is_of_one_workload_model_and_side() {
    let mut bench = bench();
    run(&mut bench, 1, "pod/1", "api");
    run(&mut bench, 2, "pod/2", "model");
    bench.frame(0.0);
    for (id, model) in [(1, "small"), (2, "large"), (3, "small")] {
        bench.call(0.0, id, model, |exchange| exchange.pid = Some(Pid(1)));
    }
    bench.call(0.0, 4, "small", |exchange| (exchange.pid, exchange.role) = (Some(Pid(2)), Role::Server));
    let SeriesTable { rows, folded_total } = series(&mut bench, 2.0);
    let expected = [
        ("api", "large", SeriesRole::Client, 1, Some(20)),
        ("api", "small", SeriesRole::Client, 2, Some(40)),
        ("model", "small", SeriesRole::Server, 1, Some(20)),
    ];
    assert_eq!((rows.iter().map(brief).collect::<Vec<_>>(), folded_total), (expected.to_vec(), 0));
    let row = &rows[1];
    assert_eq!((row.provider.as_str(), row.endpoint.as_str(), row.api), ("openai", "api.example:443", Api::Chat));
    assert_eq!((row.workload_kind, row.container.as_ref().unwrap().id.as_str()), (WorkloadKind::Pod, "id-api"));
    let durations = row.stats.latency.since_start.duration_seconds.as_ref().unwrap();
    assert_eq!((durations.count, durations.sum, durations.p50), (2, 2.0, 1.0));
    assert_eq!(row.stats.latency.window.duration_seconds, None);
}

#[test]
fn what_began_before_its_workload_was_known_counts_wholly_and_what_is_inner_once() {
    let mut bench = bench();
    bench.open(0.0, 1, |exchange| exchange.pid = Some(Pid(1)));
    bench.open(0.0, 2, |exchange| {
        (exchange.pid, exchange.role) = (Some(Pid(2)), Role::Server);
        (exchange.is_mirror, exchange.other_end) = (true, Some(ExchangeId(1)));
    });
    for id in [1, 2] {
        bench.sent(0.0, id, "m");
        bench.headers(0.1, id, 200);
        bench.output(0.2, id, 3);
    }
    bench.done(0.3, 2, 10, 20);
    assert_eq!(series(&mut bench, 1.0).rows, []);
    run(&mut bench, 1, "pod/1", "all");
    run(&mut bench, 2, "pod/1", "all");
    bench.frame(1.5);
    bench.done(2.0, 1, 10, 20);
    let rows = series(&mut bench, 2.5).rows;
    assert_eq!(rows.iter().map(brief).collect::<Vec<_>>(), [("all", "m", SeriesRole::Internal, 1, Some(20))]);
    assert_eq!(rows[0].stats.latency.since_start.time_to_first_token_seconds.as_ref().unwrap().count, 1);
}

#[test]
fn workloads_of_one_name_are_one_and_those_that_ended_go_without_a_trace() {
    let mut bench = bench();
    for pid in [1, 2] {
        run(&mut bench, pid, &format!("tree/{pid}"), "job");
    }
    bench.frame(0.0);
    for pid in [1, 2] {
        bench.call(0.0, u64::from(pid), "m", |exchange| exchange.pid = Some(Pid(pid)));
    }
    assert_eq!(
        series(&mut bench, 2.0).rows.iter().map(brief).collect::<Vec<_>>(),
        [("job", "m", SeriesRole::Client, 2, Some(40))]
    );
    bench.facts.processes.pop();
    bench.aggregator.process_exited(Pid(2), at(3.0));
    assert_eq!(series(&mut bench, 700.0).rows.len(), 1, "one of them runs");
    bench.facts.processes.clear();
    bench.facts.workloads.clear();
    bench.aggregator.process_exited(Pid(1), at(701.0));
    assert_eq!(series(&mut bench, 702.0).rows, [], "idle for ten minutes, and not added to anything else");
}

#[test]
fn beyond_the_cap_all_are_one_and_that_is_counted() {
    let mut bench = bench();
    run(&mut bench, 1, "pod/1", "api");
    bench.frame(0.0);
    for id in 0..1100 {
        bench.call(0.0, id, &format!("model-{id:04}"), |exchange| exchange.pid = Some(Pid(1)));
    }
    let SeriesTable { rows, folded_total } = series(&mut bench, 2.0);
    assert_eq!((rows.len(), folded_total), (1025, 76));
    let other = rows.iter().find(|row| row.workload.as_str() == "other").unwrap();
    assert_eq!((brief(other), other.container.clone()), (("other", "other", SeriesRole::Client, 76, Some(1520)), None));
    assert_eq!(rows.iter().map(|row| row.stats.requests_total).sum::<u64>(), 1100);
}
