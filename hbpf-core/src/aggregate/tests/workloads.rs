//! Exchanges by workload.

use super::*;
use crate::snapshot::{Gpu, GpuProcess, ProcessGpu, Workload, WorkloadKind};

fn process(pid: u32, workload: &str) -> Process {
    Process {
        pid,
        command: "p".into(),
        workload: Some(workload.into()),
        cpu_percent: Some(50.0),
        resident_bytes: Some(1000),
        ..Process::default()
    }
}

fn facts(key: &str) -> WorkloadFacts {
    WorkloadFacts { key: key.into(), name: format!("the {key}").into(), kind: WorkloadKind::Container }
}

/// Requests and output tokens of one side.
fn side(stats: Option<&LlmStats>) -> Option<(u64, Option<u64>)> {
    stats.map(|stats| (stats.requests_total, stats.tokens.output))
}

type Side = Option<(u64, Option<u64>)>;

/// Name, calls made and calls served of each row.
fn rows(frame: &Snapshot) -> Vec<(&str, Side, Side)> {
    frame
        .workloads
        .iter()
        .map(|row| (row.key.as_str(), side(row.as_client.as_ref()), side(row.as_server.as_ref())))
        .collect()
}

fn find<'a>(frame: &'a Snapshot, key: &str) -> &'a Workload {
    frame.workloads.iter().find(|row| row.key.as_str() == key).unwrap()
}

#[test]
fn processes_of_a_workload_add_up() {
    let mut bench = Bench::new();
    bench.facts.processes = vec![process(1, "api"), process(2, "api"), process(3, "other")];
    bench.facts.workloads = vec![facts("api")];
    bench.frame(0.0);
    bench.call(0.0, 1, "m", |exchange| exchange.pid = Some(Pid(1)));
    bench.call(3.0, 2, "m", |exchange| (exchange.pid, exchange.role) = (Some(Pid(2)), Role::Server));
    let frame = bench.frame(5.0);
    assert_eq!(
        rows(&frame),
        [("api", Some((1, Some(20))), Some((1, Some(20))))],
        "who neither calls nor serves has no row"
    );
    let Workload { name, kind, pids, cpu_percent, resident_bytes, as_server, cpu_seconds_per_1k_tokens, .. } =
        &frame.workloads[0];
    assert_eq!((name.as_str(), *kind, pids.as_slice()), ("the api", WorkloadKind::Container, &[1, 2][..]));
    assert_eq!((*cpu_percent, *resident_bytes), (Some(100.0), Some(2000)));
    let rate = as_server.as_ref().unwrap().tokens_per_second.output.unwrap();
    assert!((cpu_seconds_per_1k_tokens.unwrap() - 1000.0 / rate).abs() < 1e-9);
    assert!(as_server.as_ref().unwrap().latency.since_start.time_to_headers_seconds.is_some());
}

/// A call seen at both its ends: by a client and by a server.
fn call_between(bench: &mut Bench, seconds: f64, id: u64, client: u32, server: u32) {
    bench.open(seconds, id, |exchange| exchange.pid = Some(Pid(client)));
    bench.open(seconds, id + 1, |exchange| {
        (exchange.pid, exchange.role) = (Some(Pid(server)), Role::Server);
        (exchange.is_mirror, exchange.other_end) = (true, Some(ExchangeId(id)));
    });
    for end in [id, id + 1] {
        bench.sent(seconds, end, "m");
        bench.headers(seconds + 0.1, end, 200);
        bench.output(seconds + 0.2, end, 1);
    }
    for end in [id, id + 1] {
        bench.done(seconds + 0.3, end, 10, 20);
    }
}

#[test]
fn what_a_workload_says_to_itself_stands_apart_and_once() {
    let mut bench = Bench::new();
    bench.facts.processes = vec![process(1, "client"), process(2, "server"), process(3, "server")];
    bench.frame(0.0);
    // A client calls a router, which calls a backend beside it.
    call_between(&mut bench, 0.0, 1, 1, 2);
    call_between(&mut bench, 0.0, 3, 2, 3);
    let expected = [("server", None, Some((1, Some(20)))), ("client", Some((1, Some(20))), None)];
    let frame = bench.frame(1.0);
    assert_eq!(rows(&frame), expected);
    assert_eq!(side(find(&frame, "server").within.as_ref()), Some((1, Some(20))));
    assert_eq!(find(&frame, "client").within, None);
}

#[test]
fn who_is_not_known_yet_is_counted_when_he_is() {
    let mut bench = Bench::new();
    // The first frame knows nobody. One exchange ends before they are known, one after, one streams meanwhile.
    bench.frame(0.0);
    call_between(&mut bench, 0.0, 1, 1, 2);
    call_between(&mut bench, 0.0, 3, 2, 3);
    bench.open(0.1, 5, |exchange| (exchange.pid, exchange.role) = (Some(Pid(2)), Role::Server));
    bench.sent(0.1, 5, "m");
    bench.headers(0.2, 5, 200);
    bench.output(0.3, 5, 7);
    assert_eq!(rows(&bench.frame(1.0)), []);
    bench.facts.processes = vec![process(1, "client"), process(2, "server"), process(3, "server")];
    let frame = bench.frame(2.0);
    assert_eq!(rows(&frame), [("server", None, Some((1, Some(20)))), ("client", Some((1, Some(20))), None)]);
    assert_eq!(side(find(&frame, "server").within.as_ref()), Some((1, Some(20))));
    bench.output(2.5, 5, 3);
    let running = bench.frame(3.0);
    let server = find(&running, "server").as_server.as_ref().unwrap();
    assert_eq!((server.requests_in_flight, server.tokens_in_progress.output), (Some(1), Some(10)));
    assert_eq!(
        server.latency.since_start.time_to_first_token_seconds.as_ref().unwrap().count,
        2,
        "also what was before"
    );
    // Tokens that flowed before it was known are in the rate: 20 reported and 10 estimated, over three seconds.
    assert!((server.tokens_per_second.output.unwrap() - 10.0).abs() < 0.5, "{:?}", server.tokens_per_second);
    bench.done(3.5, 5, 10, 30);
    assert_eq!(rows(&bench.frame(4.0))[0], ("server", None, Some((2, Some(50)))));
}

#[test]
fn who_never_becomes_known_goes_by_his_name() {
    let mut bench = Bench::new();
    bench.call(0.0, 1, "m", |exchange| exchange.comm = "curl".into());
    assert_eq!(rows(&bench.frame(2.0)), []);
    let frame = bench.frame(7.0);
    assert_eq!(rows(&frame), [("name/curl", Some((1, Some(20))), None)]);
    let row = find(&frame, "name/curl");
    assert_eq!((row.name.as_str(), row.kind, row.pids.len()), ("curl", WorkloadKind::Tree, 0));
}

#[test]
fn what_waits_is_bounded_and_nothing_of_it_is_lost() {
    let mut bench = Bench::new();
    for id in 1..=1500 {
        bench.call(0.0, id, "m", |exchange| exchange.comm = "curl".into());
    }
    bench.frame(1.5);
    assert_eq!(rows(&bench.frame(8.0)), [("name/curl", Some((1500, Some(30_000))), None)]);
}

#[test]
fn workloads_that_have_ended_go_after_a_while_and_what_they_did_stays() {
    let mut bench = Bench::new();
    bench.facts.processes = vec![process(1, "tree/1/1"), process(2, "tree/2/1"), process(3, "unit/job.service")];
    bench.frame(0.0);
    for pid in 1..=3 {
        bench.call(0.0, u64::from(pid), "m", |exchange| exchange.pid = Some(Pid(pid)));
    }
    bench.frame(1.5);
    bench.facts.processes.retain(|process| process.pid == 2);
    for pid in [1, 3] {
        bench.aggregator.process_exited(Pid(pid), at(2.0));
    }
    assert_eq!(bench.frame(60.0).workloads.len(), 3);
    let frame = bench.frame(62.0);
    let keys: Vec<_> = rows(&frame).into_iter().map(|(key, ..)| key).collect();
    assert_eq!(keys, ["other", "tree/2/1", "unit/job.service"], "a unit comes back, and its totals go on");
    assert_eq!(bench.frame(1000.0).workloads.len(), 3, "one that lives stays however idle");
}

/// A GPU at 400 W with these users: process, share of its compute, memory.
fn gpu(index: u32, users: &[(u32, Option<f64>, u64)]) -> Gpu {
    let user = |(pid, sm_percent, memory): &(u32, Option<f64>, u64)| GpuProcess {
        pid: *pid,
        instance: None,
        sm_percent: *sm_percent,
        memory_bytes: Some(*memory),
    };
    Gpu {
        index,
        power_watts: Some(400.0),
        utilization_percent: Some(90.0),
        processes: users.iter().map(user).collect(),
        ..Gpu::default()
    }
}

/// A process that uses GPUs.
fn on_gpu(pid: u32, workload: &str) -> Process {
    Process { gpu: vec![ProcessGpu::default()], ..process(pid, workload) }
}

#[test]
fn power_is_shared_by_what_is_computed_and_else_by_memory() {
    let mut bench = Bench::new();
    bench.facts.processes = vec![on_gpu(1, "a"), on_gpu(2, "a"), on_gpu(3, "b")];
    let shares = |bench: &mut Bench, gpus: Vec<Gpu>| {
        bench.facts.gpus = gpus;
        let frame = bench.frame(1.0);
        ["a", "b"].map(|key| {
            let row = find(&frame, key);
            (row.gpu_percent, row.gpu_memory_bytes, row.gpu_power_watts)
        })
    };
    let computed = gpu(0, &[(1, Some(20.0), 10), (2, Some(40.0), 10), (3, Some(20.0), 60)]);
    let expected = [(Some(60.0), Some(20), Some(300.0)), (Some(20.0), Some(60), Some(100.0))];
    assert_eq!(shares(&mut bench, vec![computed]), expected);
    let untold = gpu(0, &[(1, None, 10), (2, None, 10), (3, None, 60)]);
    assert_eq!(shares(&mut bench, vec![untold]), [(None, Some(20), Some(100.0)), (None, Some(60), Some(300.0))]);
    let idle = gpu(0, &[(1, Some(0.0), 10), (2, Some(0.0), 10), (3, Some(0.0), 60)]);
    assert_eq!(shares(&mut bench, vec![idle])[0], (Some(0.0), Some(20), Some(100.0)));
    // One GPU each: what the driver does not tell by process is all of it.
    let apart = vec![gpu(0, &[(1, None, 10), (2, None, 10)]), gpu(1, &[(3, Some(50.0), 60)])];
    let expected = [(Some(90.0), Some(20), Some(400.0)), (Some(50.0), Some(60), Some(400.0))];
    assert_eq!(shares(&mut bench, apart), expected);
    assert_eq!(shares(&mut bench, Vec::new()), [(None, None, None); 2]);
    // On one of two GPUs nothing is told of anybody: half would look like the whole.
    let mut silent = gpu(1, &[(1, None, 10), (3, None, 60)]);
    silent.processes.iter_mut().for_each(|user| user.memory_bytes = None);
    let partly = vec![gpu(0, &[(1, Some(50.0), 10)]), silent];
    assert_eq!(shares(&mut bench, partly)[0], (None, None, None));
    let mut stale = gpu(0, &[(1, Some(50.0), 10)]);
    stale.stale_seconds = Some(5.0);
    assert_eq!(shares(&mut bench, vec![stale])[0], (None, None, None), "of before");
}

#[test]
fn tokens_per_joule_is_the_rate_over_the_power() {
    let mut bench = Bench::new();
    let priced = Prices::parse("gpu\t*\t3.6").unwrap().over(Prices::built_in().clone());
    bench.aggregator =
        Aggregator::new(AggregatorConfig { prices: Arc::new(priced), ..AggregatorConfig::default() }, START);
    bench.facts.processes = vec![on_gpu(1, "a"), process(2, "b")];
    bench.facts.gpus = vec![gpu(0, &[(1, Some(50.0), 10)]), gpu(1, &[(1, Some(50.0), 10)])];
    bench.frame(0.0);
    for (id, pid) in [(1, 1), (2, 2)] {
        bench.call(1.0, id, "m", |exchange| (exchange.pid, exchange.role) = (Some(Pid(pid)), Role::Server));
    }
    let frame = bench.frame(4.0);
    let row = find(&frame, "a");
    let rate = row.as_server.as_ref().unwrap().tokens_per_second.output.unwrap();
    assert!(rate > 0.0);
    assert_eq!((row.tokens_per_joule, row.tokens_per_second_per_gpu), (Some(rate / 800.0), Some(rate / 2.0)));
    assert_eq!(row.gpu_cost_usd_per_hour, Some(7.2));
    let per_million = row.gpu_cost_usd_per_million_tokens.unwrap();
    assert!((per_million - 7.2 / 3600.0 / rate * 1e6).abs() < 1e-9, "{per_million}");
    let without = find(&frame, "b");
    assert_eq!((without.gpu_cost_usd_per_hour, without.gpu_cost_usd_per_million_tokens), (None, None));
    assert_eq!((without.tokens_per_joule, without.tokens_per_second_per_gpu), (None, None));
    assert_eq!(find(&bench.frame(60.0), "a").tokens_per_joule, None, "no tokens flow");
}

#[test]
fn a_gpu_without_model_traffic_is_a_row() {
    let mut bench = Bench::new();
    let gpu = vec![ProcessGpu { index: 0, ..ProcessGpu::default() }];
    bench.facts.processes = vec![Process { gpu, ..process(1, "training") }, process(2, "shell")];
    let frame = bench.frame(1.0);
    assert_eq!(rows(&frame), [("training", None, None)]);
}
