//! One process, or one request, in full.

use hbpf_core::exchange::Role;
use hbpf_core::label::Label;
use hbpf_core::snapshot::{
    DeviceUse, DiskDevice, Distribution, EncryptedTraffic, EndpointStats, Gpu, Hop, LlmStats, Model, Network, Process,
    ProcessGpu, Request, TokensSource, Workload,
};
use ratatui::layout::Rect;

use super::chart::{self, Histogram};
use super::compare;
use super::layout::{self, Areas};
use super::paint::{self, Painter, Piece};
use super::state::State;
use super::tables;
use super::views::{self, Page};
use super::waterfall;
use crate::engines;
use crate::findings;
use crate::format::{self, UNKNOWN, estimated, known};
use crate::gpus;
use crate::list::Key;
use crate::rows::{self, ProcessRow, Span};
use crate::sets;
use crate::table::{self, Tone};
use crate::workloads;

/// Between two histograms.
const HISTOGRAM_GAP: u16 = 2;

/// From this width on there is room for lengths of prompts beside the three waiting times.
const FOUR_PANELS: u16 = 116;

/// A value cut to less says nothing.
const MIN_CUT_VALUE: usize = 8;

/// A named value.
type Fact = (&'static str, String, Tone);

/// What the page of one process, model, endpoint or workload says above its requests.
struct Subject<'a> {
    title: String,
    notes: String,
    facts: Vec<Vec<Fact>>,
    stats: Option<&'a LlmStats>,
    /// What there is to say where there are none.
    without: &'static str,
}

fn subject<'a>(state: &'a State, key: &Key) -> Option<Subject<'a>> {
    let snapshot = state.snapshot()?;
    match key {
        Key::Process(identity) => {
            let rows = ProcessRow::all(snapshot);
            let row = rows.iter().find(|row| rows::identity(row.process) == *identity)?;
            let role = state.shown_role(row);
            let stats = role.and_then(|role| rows::stats(row.process, role));
            let without = match row.unread {
                Some(_) => {
                    "what it says of models cannot be read; its connections are above, and in the snapshot under `encrypted`"
                }
                None => "no model traffic of this process was seen",
            };
            let (title, notes) = (title(row.process, role), notes(row.process, role, state));
            Some(Subject { title, notes, facts: process_facts(row, stats, state), stats, without })
        }
        Key::Model(..) | Key::Endpoint(..) => {
            let (title, stats) = match key {
                Key::Model(provider, name) => {
                    let is_it = |model: &&Model| model.provider == *provider && model.model == *name;
                    let model = snapshot.models.iter().find(is_it)?;
                    (format!("{} at {provider}", known(name.as_ref(), Label::to_string)), &model.stats)
                }
                _ => {
                    let is_it = |endpoint: &&EndpointStats| sets::endpoint_key(endpoint) == *key;
                    let endpoint = snapshot.endpoints.iter().find(is_it)?;
                    (format!("Endpoint {}", views::key_name(key)), &endpoint.stats)
                }
            };
            let (notes, facts) = (span_text(state.span).to_owned(), stats_facts(stats));
            Some(Subject { title, notes, facts, stats: Some(stats), without: "" })
        }
        Key::Workload(key, name) => {
            let workload = snapshot.workloads.iter().find(|workload| workload.key == *key)?;
            let side = workloads::shown_side(workload);
            let mut facts = vec![workload_facts(workload)];
            facts.extend(side.iter().flat_map(|(_, stats)| stats_facts(stats)));
            let role = side.map(|(role, _)| format!(" {role}")).unwrap_or_default();
            let notes = side.map_or(String::new(), |_| span_text(state.span).to_owned());
            let stats = side.map(|(_, stats)| stats);
            let without = "no model traffic of its processes was seen";
            Some(Subject { title: format!("Workload {name}{role}"), notes, facts, stats, without })
        }
        Key::Gpu(index) => {
            let gpu = snapshot.gpus.iter().find(|gpu| gpu.index == *index)?;
            let name = gpu.name.trim_start_matches("NVIDIA ");
            let facts = gpu_detail(gpu);
            Some(Subject {
                title: format!("GPU {index} {name}"),
                notes: String::new(),
                facts,
                stats: None,
                without: "",
            })
        }
        Key::Request(_) | Key::Row(_) => None,
    }
}

/// The name and the numbers of a process, model, endpoint or workload that has had model traffic.
pub(crate) fn stats<'a>(state: &'a State, wanted: &compare::Subject) -> Option<(String, &'a LlmStats)> {
    if let Key::Process(identity) = &wanted.key {
        let is_it = |process: &&Process| rows::identity(process) == *identity;
        let process = state.snapshot()?.processes.iter().find(is_it)?;
        return Some((title(process, wanted.role), rows::stats(process, wanted.role?)?));
    }
    let subject = subject(state, &wanted.key)?;
    Some((subject.title, subject.stats?))
}

/// The role in which a process is shown.
pub(crate) fn shown_role(state: &State, key: &Key) -> Option<Role> {
    let Key::Process(identity) = key else { return None };
    let rows = ProcessRow::all(state.snapshot()?);
    let row = rows.iter().find(|row| rows::identity(row.process) == *identity)?;
    // Of another page's row it is the one that stands there.
    if matches!(&state.page, Page::Of(of) if of == key) { state.shown_role(row) } else { row.role }
}

/// Lines of facts on the page of one process, model or the like.
pub(crate) fn facts_height(state: &State, key: &Key) -> u16 {
    subject(state, key).map_or(0, |subject| subject.facts.len() as u16)
}

/// What is above the requests of one process, model or the like.
pub(crate) fn draw(painter: &mut Painter<'_>, areas: &Areas, state: &State, key: &Key) {
    let Some(subject) = subject(state, key) else {
        painter.rule(layout::line(areas.top, 0), &state.trail().join(painter.theme.symbols.into), "", true);
        let style = painter.theme.tone(Tone::Dim);
        let text = state.keymap.words("it is gone and its numbers have expired; {back} goes back");
        painter.text(layout::line(areas.middle, 0), 1, &text, style);
        return;
    };
    painter.rule(layout::line(areas.top, 0), &titled(painter, state, &subject.title), &subject.notes, false);
    for (index, facts) in (1_u16..).zip(&subject.facts) {
        fact_line(painter, layout::line(areas.top, index), facts);
    }
    if let Key::Gpu(index) = key {
        return tables::gpu_history(painter, areas.middle, state, *index);
    }
    match subject.stats {
        Some(stats) => histograms(painter, areas.middle, stats, state.span),
        None => {
            let style = painter.theme.tone(Tone::Dim);
            painter.text(layout::line(areas.middle, 0), 1, subject.without, style);
        }
    }
}

/// The selected finding in full, with what to do and the numbers behind it.
pub(crate) fn advice(painter: &mut Painter<'_>, area: Rect, state: &State) {
    let Some(row) = state.selected_row() else { return };
    let width = usize::from(area.width).saturating_sub(2).max(1);
    let text = row.cells.iter().max_by_key(|cell| cell.text.len()).map(|cell| (cell.text.as_str(), Tone::Strong));
    let (advice, numbers) = state.snapshot().and_then(|snapshot| findings::advice(snapshot, row)).unwrap_or_default();
    let parts = text.into_iter().chain([(advice.as_str(), Tone::Plain), (numbers.as_str(), Tone::Dim)]);
    let parts = parts.filter(|(text, _)| !text.is_empty());
    let lines = parts.flat_map(|(text, tone)| table::wrap(text, width).into_iter().map(move |line| (line, tone)));
    painter.rule(layout::line(area, 0), "What to do", "", false);
    for (line, (text, tone)) in (1_u16..area.height).zip(lines) {
        let style = painter.theme.tone(tone);
        painter.text(layout::line(area, line), 1, &text, style);
    }
}

/// A title behind the pages that led to it.
fn titled(painter: &Painter<'_>, state: &State, title: &str) -> String {
    let mut trail = state.trail();
    trail.pop();
    trail.push(title.to_owned());
    trail.join(painter.theme.symbols.into)
}

/// How far the page of a request can be scrolled.
pub(crate) fn request_scroll(area: Rect, state: &State, wanted: &str) -> usize {
    let request = state.request(wanted);
    let lines =
        request.map_or(0, |request| waterfall::height(request, usize::from(area.width)) + whole_request(request).len());
    lines.saturating_sub(usize::from(area.height.saturating_sub(1)))
}

/// Disks of a process that the page has room for.
const MAX_DISK_FACTS: usize = 3;

/// Hosts of a process, with which its connections cannot be read, that the page has room for.
const MAX_UNREAD_FACTS: usize = 3;

/// GPUs of a process that a line has room for.
const MAX_GPU_FACTS: usize = 2;

/// Percent of a core from which on a thread cannot do much more.
const FULL_CORE: f64 = 95.0;

fn title(process: &Process, role: Option<Role>) -> String {
    let role = match role {
        None => "",
        Some(Role::Client) => " as client",
        Some(Role::Server) => " as server",
    };
    format!("{} {}{}{role}", process.pid, process.command, rows::ended_mark(process))
}

fn notes(process: &Process, role: Option<Role>, state: &State) -> String {
    let span = span_text(state.span);
    match role {
        None => String::new(),
        Some(_) if process.as_client.is_some() && process.as_server.is_some() => {
            state.keymap.words(&format!("{span}, {{role}}: other role"))
        }
        Some(_) => span.to_owned(),
    }
}

fn span_text(span: Span) -> &'static str {
    match span {
        Span::Window => "latency over the window",
        Span::SinceStart => "latency since start",
    }
}

/// What a set of exchanges has in numbers.
fn stats_facts(stats: &LlmStats) -> Vec<Vec<Fact>> {
    let mut lines = vec![request_facts(stats), token_facts(stats)];
    let errors = stats.error_types.iter().filter(|(_, n)| **n > 0);
    let errors: Vec<String> = errors.map(|(name, n)| format!("{name} {}", format::count(*n))).collect();
    let statuses: Vec<String> = stats.status.iter().map(|(s, n)| format!("{s}: {}", format::count(*n))).collect();
    if !statuses.is_empty() || !errors.is_empty() {
        let tone = if errors.is_empty() { Tone::Dim } else { Tone::Bad };
        let errors = if errors.is_empty() { "none".to_owned() } else { errors.join(", ") };
        lines.push(vec![("http", statuses.join("  "), Tone::Plain), ("errors", errors, tone)]);
    }
    lines
}

/// The machine behind a workload.
fn workload_facts(workload: &Workload) -> Vec<Fact> {
    let pids: Vec<String> = workload.pids.iter().map(u32::to_string).collect();
    let percent = |value| known(value, |percent| format::percent(percent) + "%");
    vec![
        ("cpu", percent(workload.cpu_percent), Tone::Plain),
        ("memory", known(workload.resident_bytes, format::bytes), Tone::Plain),
        ("gpu", percent(workload.gpu_percent), Tone::Plain),
        ("gpu memory", known(workload.gpu_memory_bytes, format::bytes), Tone::Plain),
        ("pids", pids.join(" "), Tone::Plain),
    ]
}

fn process_facts(row: &ProcessRow<'_>, stats: Option<&LlmStats>, state: &State) -> Vec<Vec<Fact>> {
    let process = row.process;
    let plain = |name, text: String| (name, text, Tone::Plain);
    let started = process.start_time.map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string());
    let visibility = &process.visibility;
    let mut lines = vec![
        vec![
            plain("user", rows::user_text(process)),
            plain("parent", known(process.parent_pid, |pid| pid.to_string())),
            plain("started", started.unwrap_or_else(|| UNKNOWN.to_owned())),
            plain("program", known(process.executable.as_ref(), Label::to_string)),
        ],
        vec![
            plain("cpu", known(process.cpu_percent, |p| format::percent(p) + "%")),
            plain("memory", known(process.resident_bytes, format::bytes)),
            ("tls", rows::tls_text(visibility).to_owned(), rows::tls_tone(visibility.tls)),
            plain("bytes seen", format::bytes(visibility.bytes_seen)),
        ],
    ];
    if visibility.bytes_missed > 0 {
        lines[1].push(("missed", format::bytes(visibility.bytes_missed), Tone::Bad));
    }
    lines[1].push(plain("library", known(visibility.library.as_ref(), Label::to_string)));
    lines.push(scheduling_facts(process));
    lines.push(memory_facts(process));
    if !process.gpu.is_empty() {
        lines.push(gpu_facts(process, state));
    }
    lines.extend(row.engine.into_iter().flat_map(engines::facts));
    lines.extend(disk_facts(process));
    lines.extend(process.network.as_ref().map(network_facts));
    if !process.devices.is_empty() {
        lines.push(process.devices.iter().map(device_fact).collect());
    }
    if let Some(reason) = &visibility.reason {
        lines.push(vec![("why not all", reason.to_string(), Tone::Warn)]);
    }
    let unread = state.snapshot().into_iter().flat_map(|snapshot| rows::unread(snapshot, process));
    lines.extend(unread.take(MAX_UNREAD_FACTS).map(unread_facts));
    lines.extend(stats.into_iter().flat_map(stats_facts));
    lines
}

/// Its connections with a host that cannot be read.
fn unread_facts(traffic: &EncryptedTraffic) -> Vec<Fact> {
    let plain = |name, text: String| (name, text, Tone::Plain);
    let host = traffic.host.as_ref().map(Label::to_string);
    let host = host.or_else(|| traffic.address.map(|address| address.to_string()));
    let answered = known(traffic.time_to_first_byte_seconds.as_ref(), percentiles);
    vec![
        ("unread", known(host, |host| host), Tone::Warn),
        plain("requests", format!("~{}", format::count(traffic.requests_estimated_total))),
        plain("first byte", answered),
        plain("sent", format::bytes(traffic.bytes_sent_total)),
        plain("received", format::bytes(traffic.bytes_received_total)),
        plain("open", format::count(traffic.connections_open)),
    ]
}

/// How the process gets along with the others on its CPUs.
fn scheduling_facts(process: &Process) -> Vec<Fact> {
    let rate = |value| known(value, |rate| format::rate(rate) + "/s");
    let hottest = process.hottest_thread.as_ref();
    // A core that is full with one thread is a limit that the sum over all does not show.
    let tone = if hottest.is_some_and(|thread| thread.cpu_percent >= FULL_CORE) { Tone::Warn } else { Tone::Plain };
    let hottest = known(hottest, |thread| format!("{} {}%", thread.name, format::percent(thread.cpu_percent)));
    let waiting =
        known(process.run_queue_seconds_per_second, |seconds| format!("{}%", format::percent(seconds * 100.0)));
    vec![
        ("threads", known(process.threads, |n| n.to_string()), Tone::Plain),
        ("hottest", hottest, tone),
        ("waits for cpu", waiting, Tone::Plain),
        ("switches", rate(process.context_switches_per_second), Tone::Plain),
        ("involuntary", rate(process.involuntary_context_switches_per_second), Tone::Plain),
    ]
}

/// Its memory, and what its control group allows.
fn memory_facts(process: &Process) -> Vec<Fact> {
    let plain = |name, text: String| (name, text, Tone::Plain);
    let bytes = |value| known(value, format::bytes);
    // What is limited comes first: the end of a line may have no room.
    let mut facts = Vec::new();
    if let Some(group) = &process.cgroup {
        if let Some(cores) = group.cpu_limit_cores {
            let throttled = group.throttled_percent.filter(|percent| *percent > 0.0);
            let text = known(group.throttled_percent, |p| format!("{cores} cores, throttled {}%", format::percent(p)));
            facts.push(("cpu limit", text, if throttled.is_some() { Tone::Warn } else { Tone::Plain }));
        }
        if let Some(limit) = group.memory_limit_bytes {
            facts.push(plain("memory limit", format!("{} of {}", bytes(group.memory_bytes), format::bytes(limit))));
        }
    }
    facts.extend([
        plain("shared", bytes(process.shared_bytes)),
        plain("swap", bytes(process.swap_bytes)),
        plain("major faults", known(process.major_faults_per_second, |rate| format::rate(rate) + "/s")),
    ]);
    if let Some(disk) = &process.disk {
        let rate = |value: Option<f64>| known(value, |rate| format::bytes(rate as u64) + "/s");
        facts.push(plain("disk reads", rate(disk.read_bytes_per_second)));
        facts.push(plain("writes", rate(disk.write_bytes_per_second)));
    }
    let container = process.container.as_ref().map(|container| {
        let id: String = container.id.chars().take(12).collect();
        format!("{} {id}", container.runtime)
    });
    facts.extend(container.map(|container| plain("container", container)));
    facts.extend(process.unit.as_ref().map(|unit| plain("unit", unit.to_string())));
    facts
}

/// What it has of each GPU.
fn gpu_facts(process: &Process, state: &State) -> Vec<Fact> {
    let of = |gpu: &ProcessGpu| {
        let part = gpu.instance.as_ref().map(|part| format!("/{part}")).unwrap_or_default();
        let computes = known(gpu.sm_percent, |percent| format::percent(percent) + "%");
        (
            "gpu",
            format!("{}{part} computes {computes} holds {}", gpu.index, known(gpu.memory_bytes, format::bytes)),
            Tone::Plain,
        )
    };
    if process.gpu.len() > MAX_GPU_FACTS {
        let text = state.keymap.words(&format!("on {} GPUs: {{gpus}} has each of them", process.gpu.len()));
        return vec![("gpus", text, Tone::Plain)];
    }
    process.gpu.iter().map(of).collect()
}

/// All that is known of a GPU.
fn gpu_detail(gpu: &Gpu) -> Vec<Vec<Fact>> {
    let plain = |name, text: String| (name, text, Tone::Plain);
    let percent = |value| known(value, |percent| format::percent(percent) + "%");
    let of = |one: Option<String>, all: Option<String>| match (one, all) {
        (Some(one), Some(all)) => format!("{one} of {all}"),
        (one, _) => known(one, |one| one),
    };
    let rate = |value: Option<f64>| known(value, |rate| format::bytes(rate as u64) + "/s");
    let watts = |watts: f64| format!("{watts:.0} W");
    let alarm = |count: Option<u64>| if count.is_some_and(|count| count > 0) { Tone::Bad } else { Tone::Plain };
    let (state, tone) = gpus::state(gpu);
    vec![
        vec![
            plain("computes", percent(gpu.utilization_percent)),
            plain("memory", of(gpu.memory_used_bytes.map(format::bytes), gpu.memory_total_bytes.map(format::bytes))),
            plain("memory bus", percent(gpu.memory_utilization_percent)),
            plain("power", of(gpu.power_watts.map(watts), gpu.power_limit_watts.map(watts))),
        ],
        vec![
            plain("temperature", known(gpu.temperature_celsius, |celsius| format!("{celsius:.0}C"))),
            plain("clock", known(gpu.sm_clock_mhz, |mhz| format!("{mhz} MHz"))),
            plain("PCIe in", rate(gpu.pcie_rx_bytes_per_second)),
            plain("out", rate(gpu.pcie_tx_bytes_per_second)),
            ("ECC errors", known(gpu.ecc_uncorrected_total, format::count), alarm(gpu.ecc_uncorrected_total)),
            ("XID errors", known(gpu.xid_errors_total, format::count), alarm(gpu.xid_errors_total)),
        ],
        vec![("state", state, tone)],
    ]
}

/// Its requests to each disk.
fn disk_facts(process: &Process) -> Vec<Vec<Fact>> {
    let of = |disk: &DiskDevice| {
        let moved = |times, bytes, latency: Option<&Distribution>| {
            let took = latency.map_or_else(String::new, |all| format!(" in {}", percentiles(all)));
            format!("{} with {}{took}", format::count(times), format::bytes(bytes))
        };
        let reads = moved(disk.reads_total, disk.read_bytes_total, disk.read_latency_seconds.as_ref());
        let writes = moved(disk.writes_total, disk.written_bytes_total, disk.write_latency_seconds.as_ref());
        vec![
            ("disk", disk.device.to_string(), Tone::Strong),
            ("reads", reads, Tone::Plain),
            ("writes", writes, Tone::Plain),
        ]
    };
    let disks = process.disk.iter().flat_map(|disk| &disk.devices);
    disks.take(MAX_DISK_FACTS).map(of).collect()
}

fn network_facts(network: &Network) -> Vec<Fact> {
    let alarm = |times: u64| if times > 0 { Tone::Warn } else { Tone::Dim };
    let counted = |value: Option<u64>| (known(value, format::count), value.map_or(Tone::Dim, alarm));
    let connects = network.connect_seconds.as_ref();
    let (retransmits, retransmits_tone) = counted(network.retransmits_total);
    let (resets, resets_tone) = counted(network.resets_total);
    let failed = network.connects_failed_total;
    vec![
        ("connected", format::count(connects.map_or(0, |all| all.count)), Tone::Plain),
        ("within", known(connects, percentiles), Tone::Plain),
        ("failed", format::count(failed), alarm(failed)),
        ("sent again", retransmits, retransmits_tone),
        ("reset", resets, resets_tone),
    ]
}

fn percentiles(all: &Distribution) -> String {
    let [p50, p99] = [all.p50, all.p99].map(format::seconds);
    format!("p50 {p50} p99 {p99}")
}

fn device_fact(device: &DeviceUse) -> Fact {
    let open = known(device.open, |open| open.to_string());
    ("device", format!("{} open {open} of {}", device.device, format::count(device.opens_total)), Tone::Plain)
}

fn request_facts(stats: &LlmStats) -> Vec<Fact> {
    let alarm = |value, tone| if value > 0 { tone } else { Tone::Dim };
    let requests = match stats.requests_per_second {
        Some(rate) => format!("{} at {}/s", format::count(stats.requests_total), format::rate(rate)),
        None => format::count(stats.requests_total),
    };
    vec![
        ("requests", requests, Tone::Plain),
        ("in flight", known(stats.requests_in_flight, format::count), Tone::Plain),
        ("failed", format::count(stats.failed_total), alarm(stats.failed_total, Tone::Bad)),
        ("abandoned", format::count(stats.abandoned_total), alarm(stats.abandoned_total, Tone::Warn)),
        ("retries", format::count(stats.retries_total), alarm(stats.retries_total, Tone::Warn)),
        ("stalls", format::count(stats.stalls_total), alarm(stats.stalls_total, Tone::Warn)),
    ]
}

fn token_facts(stats: &LlmStats) -> Vec<Fact> {
    let count = |value| known(value, format::count);
    let tokens = &stats.tokens;
    let progress = stats.tokens_in_progress.output;
    let output = format!("{} at {}/s", rows::output_total(Some(stats)).text, rows::output_rate(Some(stats)).text);
    vec![
        ("tokens out", output, Tone::Plain),
        ("in", rows::input_total(Some(stats)).text, Tone::Plain),
        ("cached", count(tokens.cached_input), Tone::Plain),
        ("running", estimated(count(progress), progress.is_some_and(|tokens| tokens > 0)), Tone::Plain),
        ("reasoning", count(tokens.reasoning), Tone::Plain),
        ("cache written", count(tokens.cache_creation_input), Tone::Plain),
    ]
}

/// Names dim, values as they are. What does not fit is left out whole; only the last value of a line, which is its
/// longest, may be cut.
fn fact_line(painter: &mut Painter<'_>, area: Rect, facts: &[Fact]) {
    let room = usize::from(area.width);
    let mut pieces = vec![painter.piece(" ", Tone::Plain)];
    for (index, (name, value, tone)) in facts.iter().enumerate() {
        let pair = [painter.piece(format!("{name} "), Tone::Dim), painter.piece(value.as_str(), *tone)];
        let used = paint::width(&pieces);
        let fits = used + paint::width(&pair) <= room;
        let worth_cutting = index + 1 == facts.len() && used + pair[0].width() + MIN_CUT_VALUE <= room;
        if fits || worth_cutting {
            pieces.extend(pair);
            pieces.push(painter.piece("  ", Tone::Plain));
        }
    }
    painter.pieces(area, &pieces);
}

fn histograms(painter: &mut Painter<'_>, area: Rect, stats: &LlmStats, span: Span) {
    let latency = span.of(stats);
    let prompt = latency.input_tokens.as_ref();
    let mut panels = vec![
        // How long a prompt is read for goes by its length.
        Panel { title: "Prompt tokens", distribution: prompt, text: |tokens| format::count(tokens.round() as u64) },
        Panel { title: "First token", distribution: rows::first_token(latency), text: format::seconds },
        Panel { title: "Inter-token", distribution: rows::inter_token(latency), text: format::seconds },
        Panel { title: "Whole request", distribution: rows::duration(latency), text: format::seconds },
    ];
    if area.width < FOUR_PANELS {
        panels.remove(0);
    }
    let count = panels.len() as u16;
    let width = area.width.saturating_sub(HISTOGRAM_GAP * (count - 1)) / count;
    for (index, panel) in (0_u16..).zip(&panels) {
        let x = area.x.saturating_add(index * (width + HISTOGRAM_GAP));
        // The last panel takes what the division left over.
        let width = if index + 1 == count { area.right().saturating_sub(x) } else { width };
        histogram(painter, Rect { x, width, ..area }, panel);
    }
}

/// A distribution and how its values are written.
struct Panel<'a> {
    title: &'static str,
    distribution: Option<&'a Distribution>,
    text: fn(f64) -> String,
}

fn histogram(painter: &mut Painter<'_>, area: Rect, panel: &Panel<'_>) {
    painter.rule(layout::line(area, 0), panel.title, "", false);
    let Some(d) = panel.distribution.filter(|d| d.count > 0) else {
        let style = painter.theme.tone(Tone::Dim);
        painter.text(layout::line(area, 1), 1, "nothing measured", style);
        return;
    };
    let pair = |a: (&'static str, f64), b: (&'static str, f64)| [a, b].map(|(n, v)| (n, (panel.text)(v), Tone::Strong));
    let counts = [("n", format::count(d.count), Tone::Plain), ("mean", (panel.text)(d.mean), Tone::Plain)];
    let numbers = [pair(("p50", d.p50), ("p90", d.p90)), pair(("p99", d.p99), ("max", d.max)), counts];
    for (line, facts) in (1_u16..).zip(&numbers) {
        aligned_facts(painter, layout::line(area, line), facts);
    }
    // Bars, axis, marks.
    let above = 1 + numbers.len() as u16;
    let height = area.height.saturating_sub(above + 2);
    let Some(histogram) = Histogram::new(d, usize::from(area.width.saturating_sub(2))) else { return };
    let rows = chart::bars(&histogram.values(), usize::from(height), &painter.theme.symbols.bars);
    for (line, row) in (above..).zip(&rows) {
        painter.text(layout::line(area, line), 1, row, painter.theme.bar());
    }
    axis(painter, area, above + height, d, &histogram, panel.text);
}

/// Facts in columns of one width, so that they line up with those of the line below.
fn aligned_facts(painter: &mut Painter<'_>, area: Rect, facts: &[Fact]) {
    const COLUMN: usize = 13;
    const NAME: usize = 5;
    for (i, (name, value, tone)) in facts.iter().enumerate() {
        painter.text(area, 1 + i * COLUMN, name, painter.theme.tone(Tone::Dim));
        painter.text(area, 1 + i * COLUMN + NAME, value, painter.theme.tone(*tone));
    }
}

/// The axis with the percentiles on it, and its bounds below.
fn axis(
    painter: &mut Painter<'_>,
    area: Rect,
    line: u16,
    d: &Distribution,
    histogram: &Histogram,
    text: fn(f64) -> String,
) {
    let dim = painter.theme.tone(Tone::Dim);
    let strong = painter.theme.tone(Tone::Strong);
    let length = histogram.columns.len();
    let axis = layout::line(area, line);
    painter.text(axis, 1, &painter.theme.symbols.rule.to_string().repeat(length), dim);
    // A percentile stands in its column; where it would cover the one before, it is left out.
    let mut free_from = 0;
    for (name, value) in [("50", d.p50), ("90", d.p90), ("99", d.p99)] {
        if let Some(column) = histogram.column_of(value).filter(|column| *column >= free_from) {
            painter.text(axis, 1 + column, name, strong);
            free_from = column + name.len();
        }
    }
    let below = layout::line(area, line + 1);
    let (low, high) = (text(histogram.low), text(histogram.high));
    painter.text(below, 1, &low, dim);
    let high_at = length.saturating_sub(high.len());
    if high_at > low.len() {
        painter.text(below, 1 + high_at, &high, dim);
    }
}

pub(crate) fn request(painter: &mut Painter<'_>, area: Rect, state: &State, wanted: &str) {
    let Some(request) = state.request(wanted) else {
        painter.rule(layout::line(area, 0), &format!("Request {wanted}"), "", true);
        let style = painter.theme.tone(Tone::Dim);
        let text = state.keymap.words("it has ended and is no longer listed; {back} goes back");
        painter.text(layout::line(area, 1), 1, &text, style);
        return;
    };
    let title = titled(painter, state, &format!("Request {}", request.id));
    painter.rule(layout::line(area, 0), &title, "", true);
    let lines = request_lines(painter, request, usize::from(area.width));
    let height = usize::from(area.height.saturating_sub(1));
    let top = state.scroll.min(lines.len().saturating_sub(height));
    for (line, pieces) in (1_u16..).zip(lines.iter().skip(top).take(height)) {
        painter.pieces(layout::line(area, line), pieces);
    }
}

/// Where its time went, and all that is known of it.
fn request_lines(painter: &Painter<'_>, request: &Request, width: usize) -> Vec<Vec<Piece>> {
    let mut lines = waterfall::lines(painter, request, width);
    lines.extend(whole_request(request).into_iter().map(|(name, value, tone)| {
        vec![painter.piece(format!(" {name:<20}"), Tone::Dim), Piece { text: value, style: painter.theme.tone(tone) }]
    }));
    lines
}

fn whole_request(request: &Request) -> Vec<Fact> {
    let label = |label: &Option<Label>| known(label.as_ref(), Label::to_string);
    let seconds = |value| known(value, format::seconds);
    let tokens = |value| {
        let text = known(value, |n: u64| n.to_string());
        estimated(text, request.tokens_source == TokensSource::Estimated)
    };
    let (phase, tone) = rows::phase(request.phase);
    let yes = |value: bool| if value { "yes" } else { "no" }.to_owned();
    let process = format!("{} {}", known(request.pid, |pid| pid.to_string()), request.command);
    let source = match request.tokens_source {
        TokensSource::Reported => "reported by the server",
        TokensSource::Estimated => "estimated from output events",
        TokensSource::Unknown => "unknown",
    };
    let error_tone = if request.error_type.is_some() { Tone::Bad } else { Tone::Plain };
    let role = match request.role {
        Role::Client => "client",
        Role::Server => "server",
    };
    let role = match request.hop {
        Some(Hop::Gateway) => format!("{role}; passed on, what it became counts in the totals"),
        Some(Hop::Backend) => format!("{role}; between a server and the one that does its work, not in the totals"),
        Some(Hop::Internal) => format!("{role}; the other end has a row of its own"),
        None => role.to_owned(),
    };
    let attempt = known(request.attempt, |n| match &request.retry_of {
        Some(before) => format!("{n}, repeats request {before}"),
        None => n.to_string(),
    });
    let facts = [
        ("process", process),
        ("role", role),
        ("provider", request.provider.to_string()),
        ("model", label(&request.model)),
        ("answered by", label(&request.response_model)),
        ("endpoint", request.endpoint.to_string()),
        ("tls", yes(request.tls)),
        ("streamed", known(request.stream, yes)),
        ("started", request.started_at.strftime("%Y-%m-%d %H:%M:%S%.3f UTC").to_string()),
        ("age", format::seconds(request.age_seconds)),
        ("waited in its queue", seconds(request.queue_seconds)),
        ("headers after", seconds(request.time_to_headers_seconds)),
        ("first token after", seconds(request.time_to_first_token_seconds)),
        ("first visible after", seconds(request.time_to_first_visible_token_seconds)),
        ("since last token", seconds(request.time_since_last_token_seconds)),
        ("stalls", request.stalls.to_string()),
        ("longest gap", seconds(request.longest_gap_seconds)),
        ("duration", seconds(request.duration_seconds)),
        ("tokens in", tokens(request.tokens.input)),
        ("cached", tokens(request.tokens.cached_input)),
        ("tokens out", tokens(request.tokens.output)),
        ("reasoning", tokens(request.tokens.reasoning)),
        ("tokens are", source.to_owned()),
        ("cost $", rows::cost_of(request)),
        ("finish reason", label(&request.finish_reason)),
        ("attempt", attempt),
        ("request id", label(&request.request_id)),
        ("trace id", label(&request.trace_id)),
        ("bytes missed", format::bytes(request.bytes_missed)),
    ];
    let mut all = vec![
        ("phase", phase.to_owned(), tone),
        ("status", known(request.status, |s| s.to_string()), error_tone),
        ("error", label(&request.error_type), error_tone),
    ];
    all.extend(facts.map(|(name, value)| (name, value, Tone::Plain)));
    all
}
