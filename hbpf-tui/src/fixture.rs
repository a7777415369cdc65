//! Snapshots for tests: rich, empty and unprivileged ones, the same at every run.

use hbpf_core::exchange::{Api, Dialect, Phase, Protocol, Role};
use hbpf_core::findings::{self, TooDear};
use hbpf_core::label::Label;
use hbpf_core::snapshot::*;
use jiff::{SignedDuration, Timestamp};

/// When all fixtures were taken.
fn now() -> Timestamp {
    "2026-11-22T19:30:00Z".parse().expect("a time")
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

/// A distribution of these values.
pub(crate) fn distribution(mut values: Vec<f64>) -> Option<Distribution> {
    const SCALE: i32 = 3;
    values.sort_by(f64::total_cmp);
    let (&min, &max) = (values.first()?, values.last()?);
    let at = |q: f64| values[((values.len() - 1) as f64 * q).round() as usize];
    let mut buckets: Vec<(i32, u64)> = Vec::new();
    for value in &values {
        let index = (value.log2() * f64::from(1 << SCALE)).ceil() as i32 - 1;
        match buckets.last_mut() {
            Some((last, count)) if *last == index => *count += 1,
            _ => buckets.push((index, 1)),
        }
    }
    let sum: f64 = values.iter().sum();
    Some(Distribution {
        count: values.len() as u64,
        sum,
        min,
        mean: sum / values.len() as f64,
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        max,
        scale: SCALE,
        buckets,
    })
}

/// Values spread around a middle with a tail to the right, without randomness.
fn spread(middle: f64, count: usize) -> Option<Distribution> {
    let value = |i: usize| {
        let unit = (i as f64 * 0.618_033_988_75).fract();
        middle * (1.0 + 0.4 * (unit - 0.5) + 4.0 * unit.powi(12))
    };
    distribution((1..=count).map(value).collect())
}

fn stats(requests: u64, output_rate: f64, first_token: f64) -> LlmStats {
    let failed = requests / 40;
    let latency = |count: usize| Latency {
        duration_seconds: spread(first_token * 20.0, count),
        time_to_headers_seconds: spread(first_token * 0.8, count),
        time_to_first_token_seconds: spread(first_token, count),
        time_to_first_visible_token_seconds: spread(first_token * 1.1, count),
        inter_token_seconds: spread(0.02, count * 10),
        output_tokens_per_second: spread(50.0, count),
        input_tokens: spread(2100.0, count),
        output_tokens: spread(480.0, count),
    };
    LlmStats {
        requests_total: requests,
        requests_in_flight: Some(requests / 100),
        requests_per_second: Some(requests as f64 / 300.0),
        completed_total: requests - failed - requests / 100,
        failed_total: failed,
        abandoned_total: requests / 200,
        retries_total: failed / 2,
        stalls_total: 1,
        rate_limited_total: failed,
        status: [("200", requests - failed), ("429", failed)].map(|(s, n)| (s.into(), n)).into(),
        error_types: [(Label::new("rate_limit_error"), failed)].into(),
        requests_without_usage: failed,
        tokens: TokenTotals {
            input: Some(requests * 2100),
            output: Some(requests * 310),
            cached_input: Some(requests * 1024),
            cache_creation_input: None,
            reasoning: Some(requests * 12),
        },
        tokens_estimated: TokensEstimated { input: 0, output: requests },
        tokens_in_progress: TokensInProgress { output: Some(requests / 3) },
        tokens_per_second: TokenRates {
            input: Some(output_rate * 6.0),
            output: Some(output_rate),
            estimated_share: (output_rate > 0.0).then_some(0.8),
        },
        latency: LatencyPair { window: latency(20), since_start: latency(400) },
        ..LlmStats::default()
    }
}

fn process(pid: u32, command: &str, user: &str, cpu: f64, resident: u64) -> Process {
    Process {
        pid,
        start_time: Some(ago(i64::from(pid))),
        parent_pid: Some(1),
        command: command.into(),
        executable: Some("/usr/bin/python3.13".into()),
        user: Some(user.into()),
        uid: Some(1000),
        cpu_percent: Some(cpu),
        threads: Some(8),
        resident_bytes: Some(resident << 20),
        ..Process::default()
    }
}

fn seen(tls: TlsVisibility, reason: Option<&str>) -> Visibility {
    Visibility {
        tls,
        reason: reason.map(Into::into),
        library: matches!(tls, TlsVisibility::Attached).then(|| "/usr/lib/x86_64-linux-gnu/libssl.so.3".into()),
        bytes_seen: 48_213_119,
        bytes_missed: 0,
    }
}

fn processes() -> Vec<Process> {
    vec![
        Process {
            as_client: Some(stats(1240, 812.0, 0.31)),
            visibility: seen(TlsVisibility::Attached, None),
            ..process(41_822, "python3 rag_worker.py", "svc-rag", 38.2, 412)
        },
        Process {
            as_server: Some(stats(2210, 1630.0, 0.085)),
            visibility: seen(TlsVisibility::None, None),
            hottest_thread: Some(HottestThread { name: "tokenizer_0".into(), cpu_percent: 98.2 }),
            run_queue_seconds_per_second: Some(0.42),
            context_switches_per_second: Some(5310.0),
            involuntary_context_switches_per_second: Some(310.0),
            shared_bytes: Some(2 << 30),
            swap_bytes: Some(0),
            major_faults_per_second: Some(0.0),
            unit: Some("vllm.service".into()),
            gpu: vec![ProcessGpu {
                index: 0,
                uuid: "GPU-00000000".into(),
                instance: None,
                sm_percent: Some(85.0),
                memory_bytes: Some(70 << 30),
            }],
            cgroup: Some(Cgroup {
                path: "/system.slice/vllm.service".into(),
                cpu_limit_cores: Some(4.0),
                cpu_percent: Some(212.4),
                throttled_percent: Some(12.5),
                memory_limit_bytes: Some(64 << 30),
                memory_bytes: Some(20 << 30),
            }),
            ..process(1291, "vllm serve", "vllm", 212.4, 18_211)
        },
        Process {
            as_client: Some(stats(640, 402.0, 0.4)),
            as_server: Some(stats(700, 402.0, 0.42)),
            visibility: seen(TlsVisibility::Partial, Some("2 of 3 connections were open before hbpf started")),
            ..process(3310, "litellm --port 4000", "litellm", 12.0, 288)
        },
        Process {
            as_client: Some(stats(39, 0.0, 1.2)),
            visibility: seen(TlsVisibility::Attached, None),
            exited: true,
            cpu_percent: None,
            ..process(52_007, "node agent.js", "dev", 0.0, 96)
        },
        Process {
            visibility: seen(TlsVisibility::Blind, Some("deno carries rustls, which has no stable symbols")),
            ..process(61_100, "deno run bot.ts", "dev", 4.4, 120)
        },
        process(901, "postgres", "postgres", 1.2, 96),
        process(1, "systemd", "root", 0.0, 12),
    ]
}

/// Two GPUs, one of which has fallen off the bus.
pub(crate) fn gpus() -> Vec<Gpu> {
    let gpu = |index: u32| Gpu {
        index,
        uuid: format!("GPU-{index:08x}").into(),
        name: "NVIDIA H100 80GB HBM3".into(),
        vendor: "nvidia".into(),
        driver: Some("570.124.06".into()),
        ..Gpu::default()
    };
    vec![
        Gpu {
            utilization_percent: Some(88.0),
            memory_utilization_percent: Some(46.0),
            memory_used_bytes: Some(71 << 30),
            memory_total_bytes: Some(80 << 30),
            power_watts: Some(512.0),
            power_limit_watts: Some(700.0),
            energy_joules_total: Some(1.2e9),
            temperature_celsius: Some(86.0),
            sm_clock_mhz: Some(1755),
            memory_clock_mhz: Some(2619),
            throttle_reasons: vec!["sw_power_cap".into()],
            pcie_rx_bytes_per_second: Some(1.25e9),
            pcie_tx_bytes_per_second: Some(3.1e8),
            ecc_uncorrected_total: Some(0),
            xid_errors_total: Some(0),
            processes: vec![
                GpuProcess { pid: 1291, instance: None, sm_percent: Some(85.0), memory_bytes: Some(70 << 30) },
                GpuProcess { pid: 99, instance: None, sm_percent: Some(0.0), memory_bytes: None },
            ],
            ..gpu(0)
        },
        Gpu {
            problem: Some("it has fallen off the bus or does not answer".into()),
            xid_errors_total: Some(1),
            last_xid: Some(79),
            ..gpu(1)
        },
    ]
}

fn workload(name: &str, kind: WorkloadKind, pids: Vec<u32>) -> Workload {
    Workload {
        key: name.into(),
        name: name.into(),
        kind,
        pids,
        cpu_percent: Some(212.4),
        resident_bytes: Some(18 << 30),
        gpu_percent: None,
        gpu_memory_bytes: None,
        gpu_power_watts: None,
        as_client: None,
        as_server: None,
        within: None,
        tokens_per_second_per_gpu: None,
        gpu_cost_usd_per_hour: None,
        gpu_cost_usd_per_million_tokens: None,
        tokens_per_joule: None,
        cpu_seconds_per_1k_tokens: None,
    }
}

fn workloads() -> Vec<Workload> {
    vec![
        Workload {
            as_server: Some(stats(2210, 1630.0, 0.085)),
            within: Some(stats(2210, 1630.0, 0.08)),
            gpu_percent: Some(88.0),
            gpu_memory_bytes: Some(71 << 30),
            gpu_power_watts: Some(512.0),
            tokens_per_second_per_gpu: Some(1630.0),
            gpu_cost_usd_per_hour: Some(7.58),
            gpu_cost_usd_per_million_tokens: Some(2.93),
            tokens_per_joule: Some(3.18),
            cpu_seconds_per_1k_tokens: Some(1.3),
            ..workload("vllm", WorkloadKind::Unit, vec![1291, 1302, 1303])
        },
        Workload {
            as_client: Some(stats(1240, 812.0, 0.31)),
            cpu_percent: Some(38.2),
            resident_bytes: Some(412 << 20),
            cpu_seconds_per_1k_tokens: Some(0.47),
            ..workload("rag-worker-7d9f6c-x2x", WorkloadKind::Pod, vec![41_822])
        },
        Workload {
            gpu_percent: Some(100.0),
            gpu_memory_bytes: Some(40 << 30),
            gpu_power_watts: Some(640.0),
            ..workload("python3 train.py", WorkloadKind::Tree, vec![7001, 7002])
        },
    ]
}

fn request(sequence: u64, pid: u32, command: &str, model: &str, phase: Phase) -> Request {
    let streaming = phase == Phase::Streaming;
    let failed = phase == Phase::Failed;
    let age = 0.75 * (sequence % 23) as f64 + 0.5;
    let started = phase != Phase::Waiting && phase != Phase::Sending && !failed;
    Request {
        id: format!("x{sequence}").into(),
        sequence,
        pid: Some(pid),
        start_time: Some(ago(i64::from(pid))),
        command: command.into(),
        role: if pid == 1291 { Role::Server } else { Role::Client },
        hop: None,
        provider: if pid == 1291 { "vllm" } else { "openai" }.into(),
        api: Api::Chat,
        dialect: Dialect::OpenaiChat,
        model: Some(model.into()),
        response_model: started.then(|| model.into()),
        endpoint: if pid == 1291 { "127.0.0.1:8000" } else { "api.openai.com:443" }.into(),
        tls: pid != 1291,
        protocol: Protocol::Http1,
        stream: Some(true),
        phase,
        started_at: now(),
        age_seconds: age,
        status: if failed { Some(429) } else { started.then_some(200) },
        error_type: failed.then(|| "rate_limit_error".into()),
        finish_reason: (phase == Phase::Done).then(|| "stop".into()),
        request_id: Some("req_0a1b2c3d".into()),
        trace_id: None,
        attempt: Some(0),
        retry_of: None,
        time_to_headers_seconds: started.then_some(0.28),
        time_to_first_token_seconds: started.then_some(0.31),
        time_to_first_visible_token_seconds: started.then_some(0.33),
        time_since_last_token_seconds: streaming.then_some(if sequence == 9003 { 3.4 } else { 0.018 }),
        queue_seconds: None,
        connect_seconds: None,
        tls_seconds: None,
        duration_seconds: phase.is_final().then_some(age),
        stalls: u32::from(sequence == 9003),
        longest_gap_seconds: (sequence == 9003).then_some(3.4),
        output_pace: started.then(|| OutputPace {
            part_seconds: 0.268_435_456,
            tokens: (0..16).map(|part| if part % 7 == 5 { 0 } else { 3 + part % 4 }).collect(),
        }),
        tokens: TokenTotals {
            input: (phase == Phase::Done).then_some(2100),
            output: started.then_some(40 * (sequence % 9) + 17),
            ..TokenTotals::default()
        },
        tokens_source: match phase {
            Phase::Streaming => TokensSource::Estimated,
            Phase::Done => TokensSource::Reported,
            _ => TokensSource::Unknown,
        },
        cost_usd: None,
        cost_is_estimate: false,
        bytes_missed: 0,
    }
}

fn requests() -> Requests {
    let (rag, vllm, proxy) = ("python3 rag_worker.py", "vllm serve", "litellm --port 4000");
    let (mini, qwen, sonnet) = ("gpt-4o-mini", "Qwen/Qwen2.5-7B-Instruct", "claude-sonnet-4-5");
    Requests {
        in_flight: vec![
            request(9001, 1291, vllm, qwen, Phase::Streaming),
            request(9003, 41_822, rag, mini, Phase::Streaming),
            request(9004, 3310, proxy, sonnet, Phase::Waiting),
            request(9007, 41_822, rag, mini, Phase::Streaming),
            request(9010, 41_822, rag, mini, Phase::Sending),
        ],
        in_flight_omitted: 0,
        recent: vec![
            request(9002, 41_822, rag, mini, Phase::Done),
            request(9000, 41_822, rag, "gpt-4o", Phase::Failed),
            request(8999, 1291, vllm, qwen, Phase::Done),
            request(8998, 52_007, "node agent.js", sonnet, Phase::Abandoned),
        ],
        failed: vec![
            request(9000, 41_822, rag, "gpt-4o", Phase::Failed),
            request(8998, 52_007, "node agent.js", sonnet, Phase::Abandoned),
        ],
        finished: Vec::new(),
        finished_omitted: 0,
    }
}

fn probe(group: &str, program: &str, attached_to: &str) -> Probe {
    Probe {
        group: group.into(),
        program: program.into(),
        attached_to: attached_to.into(),
        state: ProbeState::On,
        reason: None,
        runs_total: Some(120_312),
        run_seconds_total: Some(0.31),
        missed_total: Some(0),
        trap_seconds_estimated: Some(0.12),
    }
}

fn host() -> Host {
    Host {
        hostname: "gpu-node-7".into(),
        kernel: "6.12.0".into(),
        arch: "x86_64".into(),
        cpu_count: 4,
        cpu_percent: Some(34.0),
        processes_total: Some(312),
        cores_percent: vec![61.0, 40.0, 22.0, 13.0],
        cpu_use: Some(CpuUse {
            user_percent: 24.0,
            nice_percent: 0.0,
            system_percent: 8.5,
            irq_percent: 1.5,
            iowait_percent: 3.0,
            steal_percent: 0.0,
        }),
        load_1m: Some(2.1),
        load_5m: Some(1.9),
        load_15m: Some(1.4),
        memory_total_bytes: Some(64 << 30),
        memory_used_bytes: Some(21 << 30),
        swap_used_bytes: Some(0),
        pressure: Pressure { cpu_some_percent: Some(1.5), ..Pressure::default() },
        disks: Vec::new(),
    }
}

fn base() -> Snapshot {
    Snapshot {
        series: None,
        schema: SCHEMA.into(),
        hbpf_version: "0.1.0".into(),
        captured_at: now(),
        observation_started_at: ago(724),
        observed_seconds: 724.0,
        window_seconds: 5.0,
        sequence: 724,
        host: host(),
        totals: LlmStats::default(),
        processes: Vec::new(),
        workloads: Vec::new(),
        models: Vec::new(),
        endpoints: Vec::new(),
        encrypted: Vec::new(),
        tools: vec![
            tool("weather", "tools/call", Some("look_up"), 412, 3, 0.21),
            tool("127.0.0.1:9100", "tools/list", None, 12, 0, 0.004),
        ],
        requests: Requests::default(),
        gpus: Vec::new(),
        engines: Vec::new(),
        capture: Capture {
            self_cost: SelfCost {
                cpu_percent: Some(1.2),
                kernel_cpu_percent: Some(0.3),
                resident_bytes: Some(38 << 20),
            },
            ..Capture::default()
        },
        findings: Vec::new(),
        errors: Vec::new(),
    }
}

fn endpoint(api: Api, stats: LlmStats) -> EndpointStats {
    EndpointStats {
        host: Some("api.openai.com".into()),
        address: None,
        port: Some(443),
        api,
        tls: Some(true),
        protocol: Some(Protocol::Http1),
        stats,
        rate_limit: (api == Api::Chat).then(|| EndpointRateLimit {
            model: Some("gpt-4o-mini".into()),
            remaining_requests: Some(412),
            remaining_tokens: Some(81_000),
            remaining_fraction: None,
            reset_seconds: Some(12.0),
            retry_after_seconds: None,
            observed_at: ago(2),
        }),
    }
}

/// Connections with a host whose TLS can be read, or cannot.
fn encrypted(pid: u32, command: &str, read: bool, requests: u64) -> EncryptedTraffic {
    EncryptedTraffic {
        pid: Some(pid),
        start_time: Some(ago(i64::from(pid))),
        command: command.into(),
        role: Role::Client,
        host: Some("api.openai.com".into()),
        address: None,
        port: Some(443),
        provider: "openai".into(),
        read: Some(read),
        connections_total: 3,
        connections_open: 1,
        bytes_sent_total: 48_120,
        bytes_received_total: 1_312_400,
        requests_estimated_total: requests,
        time_to_first_byte_seconds: distribution(vec![0.42; requests as usize]),
        first_at: ago(300),
        last_at: ago(1),
    }
}

/// Much of everything.
pub(crate) fn rich() -> Snapshot {
    let model = |provider: &str, model: &str, stats: LlmStats| Model {
        provider: provider.into(),
        model: Some(model.into()),
        stats,
    };
    Snapshot {
        totals: stats(4100, 2844.0, 0.21),
        processes: processes(),
        workloads: workloads(),
        models: vec![
            model("vllm", "Qwen/Qwen2.5-7B-Instruct", stats(2210, 1630.0, 0.085)),
            model("openai", "gpt-4o-mini", stats(1240, 812.0, 0.31)),
            model("anthropic", "claude-sonnet-4-5", stats(650, 402.0, 0.42)),
        ],
        endpoints: vec![
            endpoint(Api::Chat, stats(1240, 812.0, 0.31)),
            endpoint(Api::Embeddings, stats(310, 0.0, 0.02)),
        ],
        encrypted: vec![
            encrypted(61_100, "deno run bot.ts", false, 14),
            encrypted(41_822, "python3 rag_worker.py", true, 1250),
        ],
        requests: requests(),
        capture: Capture {
            probes: vec![
                probe("llm-tls", "ssl_write_ex_return", "/usr/lib/x86_64-linux-gnu/libssl.so.3"),
                probe("llm-tls", "ssl_read_ex_return", "/usr/lib/x86_64-linux-gnu/libssl.so.3"),
                probe("llm-plain", "plain_ingress", "/"),
                probe("tools", "stdio_read", "/usr/lib/x86_64-linux-gnu/libc.so.6 in 2 processes"),
            ],
            chunks_total: 1_203_112,
            bytes_total: 812_112_003,
            messages_ignored_total: 5120,
            groups: vec![
                group_cost("llm-tls", Some(0.2), Some(1.13)),
                group_cost("llm-plain", Some(0.1), Some(0.0)),
                group_cost("tools", Some(0.0), Some(0.0)),
            ],
            overhead: Overhead { percent: Some(1.4), budget_percent: Some(2.0), ..Overhead::default() },
            lost: Lost { ring_full: LostRecords { chunks: 12, bytes: 48_112 }, desync: 2, ..Lost::default() },
            ..base().capture
        },
        ..base()
    }
}

/// The same with the groups that count.
pub(crate) fn counted() -> Snapshot {
    let mut snapshot = rich();
    let disk = |read: f64, count: usize| Disk {
        read_bytes_per_second: Some(read),
        write_bytes_per_second: Some(0.0),
        latency_seconds: spread(0.0012, count),
        devices: vec![DiskDevice {
            device: "nvme0n1".into(),
            reads_total: count as u64,
            read_bytes_total: (count as u64) << 17,
            read_latency_seconds: spread(0.0012, count),
            ..DiskDevice::default()
        }],
    };
    let device = |name: &str, opens, open| DeviceUse {
        device: name.into(),
        opens_total: opens,
        closes_total: Some(opens - u64::from(open)),
        open: Some(open),
    };
    for process in &mut snapshot.processes {
        match process.pid {
            1291 => {
                process.disk = Some(disk(1.2e9, 94_000));
                process.network = Some(Network {
                    connect_seconds: None,
                    retransmits_total: Some(0),
                    resets_total: Some(0),
                    ..Network::default()
                });
                process.devices = vec![device("nvidia0", 3, 2), device("nvidiactl", 4, 1)];
            }
            901 => process.disk = Some(disk(40_000.0, 310)),
            41_822 => {
                process.network = Some(Network {
                    connect_seconds: spread(0.031, 410),
                    connects_failed_total: 2,
                    retransmits_total: Some(17),
                    resets_total: Some(1),
                });
            }
            _ => {}
        }
    }
    snapshot.host.disks = vec![DiskDevice {
        device: "nvme0n1".into(),
        reads_total: 94_310,
        read_bytes_total: 94_310 << 17,
        writes_total: 5210,
        written_bytes_total: 5210 << 14,
        read_latency_seconds: spread(0.0012, 94_310),
        write_latency_seconds: spread(0.0031, 5210),
    }];
    snapshot.capture.probes.extend([
        probe("block", "block_done", "block/block_io_done"),
        probe("net", "net_connection", "/"),
        probe("device", "device_opened", "/"),
    ]);
    snapshot
}

/// Three kinds of inference servers; the first is one of the processes and has replicas.
pub(crate) fn engines() -> Vec<Engine> {
    let times = |p95: f64| {
        Some(EngineLatency {
            count: 812,
            mean: Some(p95 / 2.0),
            p50: Some(p95 / 2.5),
            p95: Some(p95),
            p99: Some(p95 * 1.4),
        })
    };
    let replica = |label: &str, running: f64, cache: f64, share: f64| EngineReplica {
        label: label.into(),
        requests_running: Some(running),
        requests_waiting: Some((running - 8.0).max(0.0)),
        requests_swapped: Some(0.0),
        kv_cache_percent: Some(cache),
        prefix_cache_hit_percent: Some(61.0),
        prefix_cache_hit_recent_percent: Some(cache / 1.5),
        preemptions_total: Some(if running > 8.0 { 3 } else { 0 }),
        requests_per_second: Some(share / 10.0),
        requests_share_percent: Some(share),
        input_tokens_per_second: Some(share * 41.0),
        output_tokens_per_second: Some(share * 16.3),
        time_to_first_token_seconds: times(0.2 + running / 20.0),
        time_per_output_token_seconds: times(0.01 + running / 1000.0),
    };
    let vllm = Engine {
        pid: 1291,
        start_time: process(1291, "", "", 0.0, 0).start_time,
        kind: "vllm".into(),
        endpoint: "0.0.0.0:8000".into(),
        models: vec!["Qwen/Qwen2.5-7B-Instruct".into()],
        requests_running: Some(17.0),
        requests_waiting: Some(4.0),
        requests_swapped: Some(0.0),
        kv_cache_percent: Some(93.5),
        prefix_cache_hit_percent: Some(61.0),
        prefix_cache_hit_recent_percent: Some(58.3),
        preemptions_total: Some(3),
        requests_finished_total: Some(181_220),
        input_tokens_total: Some(41_204_112),
        output_tokens_total: Some(9_912_040),
        requests_per_second: Some(10.0),
        input_tokens_per_second: Some(4100.0),
        output_tokens_per_second: Some(1630.0),
        time_to_first_token_seconds: times(0.72),
        time_per_output_token_seconds: times(0.021),
        request_seconds: times(6.1),
        queue_seconds: times(0.31),
        replicas: vec![replica("0", 12.0, 93.5, 68.0), replica("1", 5.0, 41.0, 32.0)],
        replica_imbalance_percent: Some(52.4),
        agreement_percent: Some(99.97),
        agreement_tokens: Some(812_220),
        stale_seconds: Some(0.8),
        ..Engine::default()
    };
    let model = |name: &str, memory: u64, gpu_memory: u64| EngineModel {
        name: name.into(),
        memory_bytes: Some(memory),
        gpu_memory_bytes: Some(gpu_memory),
        context_tokens: Some(8192),
        expires_at: Some(ago(-240)),
    };
    let ollama = Engine {
        pid: 2201,
        start_time: Some(ago(9000)),
        kind: "ollama".into(),
        endpoint: "127.0.0.1:11434".into(),
        models: vec!["llama3.2:latest".into(), "nomic-embed-text".into()],
        loaded_models: vec![
            model("llama3.2:latest", 3_825_819_519, 3_825_819_519),
            model("nomic-embed-text", 600 << 20, 0),
        ],
        stale_seconds: Some(1.1),
        ..Engine::default()
    };
    let llama = Engine {
        pid: 5120,
        start_time: Some(ago(90)),
        kind: "llama.cpp".into(),
        endpoint: "[::1]:8080".into(),
        models: vec!["qwen2.5-0.5b-instruct-q4_k_m.gguf".into()],
        requests_running: Some(1.0),
        requests_waiting: Some(0.0),
        slots_total: Some(4),
        context_tokens: Some(4096),
        prefix_cache_hit_percent: Some(12.0),
        input_tokens_total: Some(1740),
        output_tokens_total: Some(600),
        input_tokens_per_second: Some(0.0),
        output_tokens_per_second: Some(31.0),
        agreement_percent: Some(87.2),
        agreement_tokens: Some(340),
        stale_seconds: Some(14.0),
        problem: Some("it does not answer within 2 s".into()),
        ..Engine::default()
    };
    vec![vllm, ollama, llama]
}

fn tool(server: &str, method: &str, tool: Option<&str>, calls: usize, errors: u64, seconds: f64) -> Tool {
    Tool {
        server: server.into(),
        method: method.into(),
        tool: tool.map(Into::into),
        calls_total: calls as u64,
        errors_total: errors,
        duration_seconds: spread(seconds, calls),
    }
}

fn group_cost(group: &str, kernel_cpu_percent: Option<f64>, traps: Option<f64>) -> GroupCost {
    GroupCost { group: group.into(), state: ProbeState::On, kernel_cpu_percent, trap_cpu_percent_estimated: traps }
}

/// One of each kind, long ones among them.
pub(crate) fn findings() -> Vec<Finding> {
    let dear = TooDear { since: ago(30), percent: 3.2, budget_percent: 2.0 };
    vec![
        findings::copying_thinned(dear, 65_536),
        findings::group_detached(dear, "llm-tls", 1, 2.5),
        findings::processes_excluded(dear, 12, 41_230.0),
        findings::own_processes_dear(dear),
    ]
}

/// The first frame: nothing was seen yet.
pub(crate) fn empty() -> Snapshot {
    Snapshot {
        observed_seconds: 0.0,
        sequence: 0,
        host: Host { cpu_percent: None, cores_percent: Vec::new(), ..host() },
        capture: Capture::default(),
        ..base()
    }
}

/// No probes may be loaded: processes and the machine alone.
pub(crate) fn unprivileged() -> Snapshot {
    let plain = |p: Process| Process { as_client: None, as_server: None, visibility: Visibility::default(), ..p };
    let refused = |group: &str| Probe {
        state: ProbeState::Failed,
        reason: Some("loading BPF programs needs root".into()),
        runs_total: None,
        run_seconds_total: None,
        trap_seconds_estimated: None,
        ..probe(group, "all", "")
    };
    Snapshot {
        processes: processes().into_iter().map(plain).collect(),
        capture: Capture { probes: vec![refused("llm-tls"), refused("llm-plain")], ..base().capture },
        errors: vec![CollectionError {
            source: "probes".into(),
            message: "probes need CAP_BPF and CAP_PERFMON, which this process lacks; run `sudo hbpf top`".into(),
            last_at: None,
        }],
        ..base()
    }
}
