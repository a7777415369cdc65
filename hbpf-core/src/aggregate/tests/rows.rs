//! Rows of processes and requests, and the caps on all tables.

use super::*;
use crate::snapshot::{Request, TokensSource};

fn process(pid: u32, started: &str, command: &str) -> Process {
    Process { pid, start_time: Some(started.parse().unwrap()), command: command.into(), ..Process::default() }
}

fn pids(frame: &Snapshot) -> Vec<u32> {
    frame.processes.iter().map(|process| process.pid).collect()
}

#[test]
fn processes_that_talk_come_first_and_then_those_that_work() {
    let mut bench = Bench::new();
    for (pid, cpu) in [(1, 5.0), (2, 90.0), (3, 0.0), (4, 1.0)] {
        let cpu_percent = Some(cpu);
        bench.facts.processes.push(Process { cpu_percent, ..process(pid, WALL, "p") });
    }
    bench.call(0.0, 1, "m", |exchange| exchange.pid = Some(Pid(3)));
    bench.call(3.0, 2, "m", |exchange| exchange.pid = Some(Pid(4)));
    assert_eq!(pids(&bench.frame(7.0)), [4, 3, 2, 1]);
    let frame = bench.frame(20.0);
    assert_eq!(pids(&frame), [4, 3, 2, 1]);
    assert!(frame.processes.iter().all(|process| !process.exited));
    assert_eq!(bench.aggregator.pids().map(|pid| pid.0).max(), Some(4));
}

#[test]
fn a_process_that_is_gone_keeps_its_row_for_a_while() {
    let mut bench = Bench::new();
    bench.facts.processes = vec![process(100, WALL, "python3 client.py")];
    bench.call(0.0, 1, "m", |exchange| exchange.bytes_missed = 3);
    bench.open(0.0, 2, |exchange| exchange.bytes_missed = 4);
    assert_eq!(bench.frame(2.0).processes[0].visibility.bytes_missed, 7);
    bench.facts.processes.clear();
    bench.aggregator.process_exited(Pid(100), at(3.0));
    bench.end(3.0, 2, Phase::Abandoned, |_| {});
    let frame = bench.frame(4.0);
    let row = &frame.processes[0];
    assert_eq!((row.pid, row.command.as_str(), row.exited), (100, "python3 client.py", true));
    assert_eq!((row.as_client.as_ref().unwrap().requests_total, row.visibility.bytes_missed), (2, 7));
    assert_eq!(frame.requests.recent[0].command.as_str(), "python3 client.py");
    assert_eq!(pids(&bench.frame(62.0)), [100]);
    let frame = bench.frame(64.0);
    assert!(pids(&frame).is_empty());
    assert_eq!(frame.totals.requests_total, 2);
    assert_eq!(frame.requests.recent[0].command.as_str(), "python3 client.py");
}

#[test]
fn a_process_that_was_never_looked_up_has_a_row_by_its_name() {
    let mut bench = Bench::new();
    bench.call(0.0, 1, "m", |exchange| exchange.comm = "curl".into());
    let frame = bench.frame(2.0);
    let row = &frame.processes[0];
    assert_eq!((row.command.as_str(), row.exited, row.start_time), ("curl", false, None));
    assert!(bench.frame(4.0).processes[0].exited, "time enough to look it up has passed");
    assert_eq!(frame.requests.recent[0].command.as_str(), "curl");
    assert_eq!(pids(&bench.frame(61.0)), [100]);
    assert!(pids(&bench.frame(63.0)).is_empty());
}

#[test]
fn a_pid_in_new_hands_is_another_process() {
    // Once told by the exit, once seen by the start time.
    for told in [true, false] {
        let mut bench = Bench::new();
        bench.facts.processes = vec![process(100, "2026-11-22T11:00:00Z", "old")];
        bench.call(0.0, 1, "m", |_| {});
        bench.frame(2.0);
        if told {
            bench.aggregator.process_exited(Pid(100), at(2.0));
        }
        bench.facts.processes = vec![process(100, "2026-11-22T12:00:02Z", "new")];
        let frame = bench.frame(3.0);
        let rows: Vec<_> =
            frame.processes.iter().map(|row| (row.command.as_str(), row.exited, row.as_client.is_some())).collect();
        assert_eq!(rows, [("old", true, true), ("new", false, false)], "told: {told}");
        bench.call(3.0, 2, "m", |_| {});
        bench.call(3.5, 3, "m", |_| {});
        let frame = bench.frame(5.0);
        let rows: Vec<_> = frame
            .processes
            .iter()
            .map(|row| (row.command.as_str(), row.exited, row.as_client.as_ref().unwrap().requests_total))
            .collect();
        assert_eq!(rows, [("new", false, 2), ("old", true, 1)], "told: {told}");
        let commands: Vec<_> = frame.requests.recent.iter().map(|row| row.command.as_str()).collect();
        assert_eq!(commands, ["new", "new", "old"], "told: {told}");
    }
}

#[test]
fn an_exit_that_overtakes_an_exchange_makes_no_second_process() {
    let mut bench = Bench::new();
    bench.call(0.0, 1, "m", |_| {});
    bench.aggregator.process_exited(Pid(100), at(3.0));
    bench.call(2.0, 2, "m", |_| {});
    let requests = |frame: &Snapshot| -> Vec<(bool, u64)> {
        frame.processes.iter().map(|row| (row.exited, row.as_client.as_ref().unwrap().requests_total)).collect()
    };
    assert_eq!(requests(&bench.frame(4.0)), [(true, 2)]);
    bench.call(4.0, 3, "m", |_| {});
    assert_eq!(requests(&bench.frame(5.0)).len(), 2);
}

#[test]
fn a_process_that_ended_before_it_was_looked_up_does_not_take_the_next_ones_name() {
    let mut bench = Bench::new();
    bench.call(0.0, 1, "m", |exchange| exchange.comm = "curl".into());
    bench.aggregator.process_exited(Pid(100), at(1.5));
    bench.facts.processes = vec![process(100, "2026-11-22T12:00:02Z", "new")];
    let frame = bench.frame(3.0);
    let rows: Vec<_> = frame.processes.iter().map(|row| (row.command.as_str(), row.exited)).collect();
    assert_eq!(rows, [("curl", true), ("new", false)]);
    assert_eq!(frame.requests.recent[0].command.as_str(), "curl");
}

#[test]
fn start_times_may_differ_a_little_from_reading_to_reading() {
    let mut bench = Bench::new();
    bench.call(0.0, 1, "m", |_| {});
    for started in ["2026-11-22T11:00:00.00Z", "2026-11-22T11:00:00.01Z", "2026-11-22T10:59:59.99Z"] {
        bench.facts.processes = vec![process(100, started, "p")];
        assert_eq!(pids(&bench.frame(2.0)), [100], "{started}");
    }
}

#[test]
fn processes_beyond_the_cap_share_a_row_until_one_is_given_up() {
    let mut bench = Bench::new();
    let many = processes::CAP as u64 + 10;
    for id in 1..=many {
        bench.call(0.0, id, "m", |exchange| exchange.pid = Some(Pid(id as u32)));
    }
    let frame = bench.frame(2.0);
    assert_eq!(frame.processes.len(), processes::CAP + 2);
    let other = frame.processes.iter().find(|process| process.pid == 0).unwrap();
    assert_eq!((other.command.as_str(), other.exited), ("other", false));
    assert_eq!(other.as_client.as_ref().unwrap().requests_total, 9);
    bench.call(100.0, many + 1, "m", |exchange| exchange.pid = Some(Pid(1_000_000)));
    assert!(pids(&bench.frame(101.0)).contains(&1_000_000));
}

#[test]
fn models_and_endpoints_beyond_the_cap_fold_into_other_and_the_sums_hold() {
    let mut bench = Bench::new();
    let check = |frame: &Snapshot| {
        let models: u64 = frame.models.iter().map(|row| row.stats.requests_total).sum();
        let endpoints: u64 = frame.endpoints.iter().map(|row| row.stats.tokens.output.unwrap()).sum();
        assert_eq!((models, Some(endpoints)), (frame.totals.requests_total, frame.totals.tokens.output));
        assert!(frame.models.len() <= 513, "{}", frame.models.len());
        assert!(frame.endpoints.len() <= 1025, "{}", frame.endpoints.len());
    };
    for id in 1..=1100 {
        bench.call(0.0, id, &format!("m{id}"), |exchange| {
            exchange.endpoint.address = Some(std::net::Ipv4Addr::from_bits(id as u32).into());
        });
    }
    let frame = bench.frame(2.0);
    check(&frame);
    let other = |frame: &Snapshot| {
        let other = |row: &&Model| row.provider.as_str() == "other";
        frame.models.iter().find(other).map(|row| row.stats.requests_total)
    };
    assert_eq!((other(&frame), frame.models.len(), frame.endpoints.len()), (Some(1100 - 512), 513, 1025));
    assert_eq!(frame.endpoints[0].host, Some("other".into()), "the fullest row comes first");
    // Rows that were idle for long make room for those that are not; their totals are not lost.
    bench.call(700.0, 2000, "new", |_| {});
    let frame = bench.frame(702.0);
    check(&frame);
    assert_eq!(other(&frame), Some(1100 - 511));
    assert!(frame.models.iter().any(|row| row.model == Some("new".into())));
}

#[test]
fn statuses_and_error_types_are_capped() {
    let mut bench = Bench::new();
    for id in 1..=100 {
        bench.open(0.0, id, |exchange| exchange.status = Some(400 + id as u16));
        bench.end(0.0, id, Phase::Failed, |exchange| exchange.error_type = Some(Label::new(&format!("e{id}"))));
    }
    let totals = bench.frame(1.0).totals;
    assert_eq!((totals.status.len(), totals.error_types.len()), (41, 41));
    assert_eq!((totals.status["other"], totals.error_types["other"]), (60, 60));
    assert_eq!(totals.status.values().sum::<u64>(), 100);
}

#[test]
fn requests_run_oldest_first_and_end_newest_first_within_caps() {
    let mut bench = Bench::new();
    for id in 0..250 {
        bench.open(id as f64 / 1000.0, 1000 - id, |_| {});
    }
    for id in 2000..3200 {
        bench.call(1.0, id, "m", |_| {});
    }
    let sequences = |rows: &[Request]| (rows.len(), rows[0].sequence, rows[rows.len() - 1].sequence);
    let requests = bench.frame(3.0).requests;
    assert_eq!((sequences(&requests.in_flight), requests.in_flight_omitted), ((200, 1000, 801), 50));
    assert_eq!(sequences(&requests.recent), (100, 3199, 3100));
    assert_eq!((sequences(&requests.finished), requests.finished_omitted), ((1000, 2200, 3199), 200));
    bench.call(3.0, 4000, "m", |_| {});
    let requests = bench.frame(5.0).requests;
    assert_eq!((sequences(&requests.finished), requests.finished_omitted), ((1, 4000, 4000), 0));
    assert_eq!(sequences(&requests.recent), (100, 4000, 3101));
    assert_eq!(bench.frame(5.0).requests.finished, []);
}

#[test]
fn a_request_row_tells_what_is_known_so_far() {
    let mut bench = Bench::new();
    bench.facts.processes = vec![process(100, "2026-11-22T11:00:00Z", "python3 client.py")];
    bench.open(1.0, 7, |_| {});
    bench.sent(1.25, 7, "m");
    let row = bench.frame(2.0).requests.in_flight[0].clone();
    assert_eq!((row.id.as_str(), row.phase, row.tokens_source), ("7", Phase::Waiting, TokensSource::Unknown));
    assert_eq!((row.endpoint.as_str(), row.command.as_str()), ("api.example:443", "python3 client.py"));
    assert_eq!(row.start_time, Some("2026-11-22T11:00:00Z".parse().unwrap()));
    assert_eq!((row.started_at.to_string().as_str(), row.age_seconds), ("2026-11-22T12:00:01Z", 1.0));
    assert_eq!((row.time_to_first_token_seconds, row.duration_seconds), (None, None));

    bench.headers(1.5, 7, 200);
    bench.live.get_mut(&7).unwrap().usage = Usage { input: Some(9), output: Some(1), ..Usage::default() };
    bench.output(1.75, 7, 5);
    let row = bench.frame(3.0).requests.in_flight[0].clone();
    assert_eq!((row.tokens.input, row.tokens.output, row.tokens_source), (Some(9), Some(5), TokensSource::Estimated));
    assert_eq!((row.time_to_first_token_seconds, row.time_since_last_token_seconds), (Some(0.5), Some(1.25)));

    bench.done(4.0, 7, 9, 6);
    let row = bench.frame(9.0).requests.recent[0].clone();
    assert_eq!((row.tokens.output, row.tokens_source, row.phase), (Some(6), TokensSource::Reported, Phase::Done));
    assert_eq!((row.age_seconds, row.duration_seconds), (3.0, Some(3.0)));
    assert_eq!(row.time_since_last_token_seconds, None);
}

#[test]
fn an_endpoint_is_named_by_what_is_known_of_it() {
    let address = |text: &str| Some(text.parse().unwrap());
    for (host, address, port, expected) in [
        (Some("h"), address("10.0.0.1"), Some(80), "h:80"),
        (Some("h"), None, None, "h"),
        (None, address("10.0.0.1"), Some(80), "10.0.0.1:80"),
        (None, address("::1"), Some(80), "[::1]:80"),
        (None, address("::1"), None, "::1"),
        (None, None, Some(80), ":80"),
        (None, None, None, "unknown"),
    ] {
        let mut bench = Bench::new();
        bench.open(0.0, 1, |exchange| exchange.endpoint = Endpoint { host: host.map(Label::new), address, port });
        assert_eq!(bench.frame(1.0).requests.in_flight[0].endpoint.as_str(), expected);
    }
}

#[test]
fn what_the_host_side_says_passes_through() {
    let mut bench = Bench::new();
    bench.facts.host.hostname = "box".into();
    bench.facts.capture.lost.read_fault = 3;
    bench.facts.errors = vec![CollectionError { source: "gpu".into(), message: "no library".into(), last_at: None }];
    let frame = bench.frame(1.5);
    assert_eq!(
        (&frame.host, &frame.capture, &frame.errors),
        (&bench.facts.host, &bench.facts.capture, &bench.facts.errors)
    );
    assert_eq!((frame.sequence, frame.observed_seconds, frame.window_seconds), (0, 1.5, 5.0));
    assert_eq!(frame.captured_at.to_string(), "2026-11-22T12:00:01.5Z");
    assert_eq!(frame.observation_started_at.to_string(), "2026-11-22T12:00:00Z");
    assert_eq!(bench.frame(2.0).sequence, 1);
}

#[test]
fn a_frame_survives_being_written_and_read() {
    let mut bench = Bench::new();
    bench.facts.processes = vec![process(100, WALL, "p"), process(5, WALL, "q")];
    bench.call(0.0, 1, "m", |exchange| exchange.endpoint.address = Some("::1".parse().unwrap()));
    bench.open(0.5, 2, |_| {});
    bench.sent(0.5, 2, "m");
    bench.headers(0.75, 2, 200);
    bench.output(1.0, 2, 1);
    bench.output(1.25, 2, 2);
    bench.live.get_mut(&2).unwrap().rate_limit.reset_seconds = Some(0.5);
    let frame = bench.frame(2.0);
    let text = serde_json::to_string(&frame).unwrap();
    let read: Snapshot = serde_json::from_str(&text).unwrap();
    assert_eq!(read, frame);
}

#[test]
fn distributions_stay_within_their_memory() {
    let mut bench = Bench::new();
    let mut random = 1u64;
    let mut next = |most: f64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // From microseconds to hours, evenly by octave.
        (((random >> 11) as f64 / (1u64 << 53) as f64) * most.log2()).exp2()
    };
    let process = |pid| Process { workload: Some(format!("w{}", pid % 50).into()), ..process(pid, WALL, "p") };
    bench.facts.processes = (0..500).map(process).collect();
    for id in 1..=3000u64 {
        if id % 100 == 50 {
            // Who talks is known from then on.
            bench.frame(id as f64 / 200.0);
        }
        let seconds = id as f64 / 200.0;
        bench.open(seconds - next(1e9) / 1e6 % seconds, id, |exchange| {
            exchange.pid = Some(Pid(id as u32 % 500));
            exchange.endpoint.port = Some(id as u16 % 300);
        });
        bench.sent(seconds, id, &format!("m{}", id % 200));
        bench.headers(seconds + next(1e10) / 1e6, id, 200);
        for _ in 0..5 {
            let gap_seconds = Some(next(1e10) / 1e6);
            bench.event(seconds, id, ExchangeEvent::Output { tokens: 1, gap_seconds }, |_| {});
        }
        bench.done(seconds + next(1e10) / 1e6, id, next(1e7) as u64, 100);
    }
    let used = bench.aggregator.distribution_bytes();
    let most = Aggregator::MAX_DISTRIBUTION_BYTES;
    assert!((1 << 20..=most).contains(&used), "{used} of {most}");
    assert!(most <= 41 << 20, "the bound that is stated: {most}");
    let frame = bench.frame(15.0);
    let measured = |rows: &mut dyn Iterator<Item = &LlmStats>| {
        rows.filter(|stats| stats.latency.since_start != snapshot::Latency::default()).count()
    };
    assert_eq!(measured(&mut frame.models.iter().map(|row| &row.stats)), 16);
    assert_eq!(measured(&mut frame.endpoints.iter().map(|row| &row.stats)), 16);
    assert_eq!(measured(&mut frame.processes.iter().filter_map(|row| row.as_client.as_ref())), 24);
    assert_eq!(measured(&mut frame.workloads.iter().filter_map(|row| row.as_client.as_ref())), 8);
}

#[test]
fn names_that_come_once_do_not_keep_a_busy_one_without_distributions() {
    let mut bench = Bench::new();
    for id in 1..=16 {
        bench.call(id as f64 / 10.0, id, &format!("once{id}"), |_| {});
    }
    let measured = |frame: &Snapshot| {
        let row = frame.models.iter().find(|row| row.model == Some("busy".into())).unwrap();
        row.stats.latency.since_start.duration_seconds.as_ref().map(|duration| duration.count)
    };
    bench.call(3.0, 17, "busy", |_| {});
    bench.call(4.0, 18, "busy", |_| {});
    assert_eq!(measured(&bench.frame(5.0)), None, "it was called about as often");
    bench.call(6.0, 19, "busy", |_| {});
    bench.call(7.0, 20, "once20", |_| {});
    assert_eq!(measured(&bench.frame(9.0)), Some(1));
}

#[test]
fn distributions_go_from_idle_keys_to_busy_ones() {
    let mut bench = Bench::new();
    let measured = |frame: &Snapshot, model: &str| {
        let row = frame.models.iter().find(|row| row.model == Some(model.into())).unwrap();
        row.stats.latency.since_start.duration_seconds.is_some()
    };
    for id in 1..=17 {
        bench.call(id as f64, id, &format!("m{id}"), |_| {});
    }
    let frame = bench.frame(20.0);
    assert!(measured(&frame, "m16") && !measured(&frame, "m17"));
    bench.call(70.0, 20, "m17", |_| {});
    let frame = bench.frame(72.0);
    assert!(measured(&frame, "m17") && measured(&frame, "m2") && !measured(&frame, "m1"));
}
