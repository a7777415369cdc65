//! What the tables show of processes and requests: columns, cells and sort keys, for the terminal and for plain text.

use std::cmp::Ordering;

use hbpf_core::exchange::{Phase, Role};
use hbpf_core::label::Label;
use hbpf_core::snapshot::{
    Distribution, EncryptedTraffic, Engine, Hop, Latency, LlmStats, Process, Request, Snapshot, TlsVisibility,
    TokensSource, Visibility,
};
use jiff::Timestamp;

use crate::engines;
use crate::filter::{self, Field, Kind, Value, field, headed};
use crate::format::{self, UNKNOWN, estimated, known};
use crate::table::{Align, Cell, Column, Tone};

/// A pid alone is reused; with its start it names one process.
pub(crate) type Identity = (u32, Option<Timestamp>);

/// Identity of a process.
pub(crate) fn identity(process: &Process) -> Identity {
    (process.pid, process.start_time)
}

/// Over what latencies are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Span {
    /// The last few seconds.
    Window,
    /// Since hbpf began to look: steady enough to be read in a table.
    #[default]
    SinceStart,
}

impl Span {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Window => Self::SinceStart,
            Self::SinceStart => Self::Window,
        }
    }

    pub(crate) fn of(self, stats: &LlmStats) -> &Latency {
        match self {
            Self::Window => &stats.latency.window,
            Self::SinceStart => &stats.latency.since_start,
        }
    }
}

/// One process with the statistics of the role in which it is busier.
#[derive(Clone, Copy)]
pub(crate) struct ProcessRow<'a> {
    /// Place in the snapshot's list.
    pub(crate) index: usize,
    pub(crate) process: &'a Process,
    /// The role whose numbers stand in the row. Those of both roles are never added: a proxy would count double.
    pub(crate) role: Option<Role>,
    pub(crate) stats: Option<&'a LlmStats>,
    /// What it says of itself, if it is an inference server that does.
    pub(crate) engine: Option<&'a Engine>,
    /// The model of its latest request, and how many other models its visible requests name.
    model: Option<(&'a Label, usize)>,
    /// Its connections with a model host that cannot be read, the busiest if there are several hosts.
    pub(crate) unread: Option<&'a EncryptedTraffic>,
}

impl<'a> ProcessRow<'a> {
    /// All processes of a snapshot, unsorted.
    pub(crate) fn all(snapshot: &'a Snapshot) -> Vec<Self> {
        let mut models: std::collections::BTreeMap<u32, Vec<&Request>> = std::collections::BTreeMap::new();
        for request in snapshot.requests.in_flight.iter().chain(&snapshot.requests.recent) {
            if let (Some(pid), Some(_)) = (request.pid, &request.model) {
                models.entry(pid).or_default().push(request);
            }
        }
        let row = |(index, process): (usize, &'a Process)| {
            let role = busier_role(process);
            let model = models.get(&process.pid).and_then(|requests| latest_model(process, requests));
            let stats = role.and_then(|role| stats(process, role));
            let unread = unread(snapshot, process).next();
            Self { index, process, role, stats, engine: engines::of(snapshot, process), model, unread }
        };
        snapshot.processes.iter().enumerate().map(row).collect()
    }

    /// Whether any model traffic of it was seen.
    pub(crate) fn has_traffic(&self) -> bool {
        self.stats.is_some()
    }

    /// Whether it talks to models, as far as that can be seen, serves them, or uses a GPU.
    pub(crate) fn matters(&self) -> bool {
        self.has_traffic() || self.unread.is_some() || !self.process.gpu.is_empty() || self.engine.is_some()
    }

    fn role_text(&self) -> &'static str {
        let both = self.process.as_client.is_some() && self.process.as_server.is_some();
        match (self.role.or(self.unread.map(|unread| unread.role)), both) {
            (None, _) => UNKNOWN,
            (Some(Role::Client), false) => "cli",
            (Some(Role::Server), false) => "srv",
            (Some(Role::Client), true) => "cli+",
            (Some(Role::Server), true) => "srv+",
        }
    }

    fn model_text(&self) -> String {
        match self.model {
            // Whom it talks to is all that is known.
            None => self
                .unread
                .and_then(|unread| unread.host.as_ref())
                .map_or(UNKNOWN.to_owned(), |host| format!("? at {host}")),
            Some((model, 0)) => model.to_string(),
            Some((model, others)) => format!("{model} +{others}"),
        }
    }

    fn latency(
        &self,
        span: Span,
        which: fn(&Latency) -> Option<&Distribution>,
        of: fn(&Distribution) -> f64,
    ) -> Option<f64> {
        which(span.of(self.stats?)).map(of)
    }
}

/// Connections of a process with model hosts that cannot be read, the busiest first.
pub(crate) fn unread<'a>(snapshot: &'a Snapshot, process: &'a Process) -> impl Iterator<Item = &'a EncryptedTraffic> {
    let is_its = |traffic: &&EncryptedTraffic| {
        traffic.read == Some(false) && traffic.pid == Some(process.pid) && traffic.start_time == process.start_time
    };
    snapshot.encrypted.iter().filter(is_its)
}

/// The statistics of one role.
pub(crate) fn stats(process: &Process, role: Role) -> Option<&LlmStats> {
    match role {
        Role::Client => process.as_client.as_ref(),
        Role::Server => process.as_server.as_ref(),
    }
}

fn busier_role(process: &Process) -> Option<Role> {
    match (&process.as_client, &process.as_server) {
        (None, None) => None,
        (Some(_), None) => Some(Role::Client),
        (None, Some(_)) => Some(Role::Server),
        (Some(client), Some(server)) if client.requests_total > server.requests_total => Some(Role::Client),
        (Some(_), Some(_)) => Some(Role::Server),
    }
}

fn latest_model<'a>(process: &Process, requests: &[&'a Request]) -> Option<(&'a Label, usize)> {
    // Where the start is not known on either side, the pid has to do.
    let same =
        |r: &&&Request| r.start_time.is_none() || process.start_time.is_none() || r.start_time == process.start_time;
    let latest = requests.iter().filter(same).max_by_key(|r| r.sequence)?.model.as_ref()?;
    let mut names: Vec<&Label> = requests.iter().filter(same).filter_map(|r| r.model.as_ref()).collect();
    names.sort_unstable();
    names.dedup();
    Some((latest, names.len().saturating_sub(1)))
}

/// Columns of the process table, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessColumn {
    Pid,
    User,
    Command,
    Role,
    Model,
    RequestRate,
    InFlight,
    OutputRate,
    InputTotal,
    OutputTotal,
    Cost,
    CostRate,
    FirstToken,
    InterToken,
    InterTokenTail,
    Errors,
    Queue,
    Cache,
    Cpu,
    Memory,
    Gpu,
    GpuMemory,
    Tls,
}

/// What a row is sorted by. Unknown comes last whichever way the order runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SortKey {
    Number(Option<f64>),
    Text(String),
}

impl ProcessColumn {
    pub(crate) const ALL: [Self; 23] = [
        Self::Pid,
        Self::User,
        Self::Command,
        Self::Role,
        Self::Model,
        Self::RequestRate,
        Self::InFlight,
        Self::OutputRate,
        Self::InputTotal,
        Self::OutputTotal,
        Self::Cost,
        Self::CostRate,
        Self::FirstToken,
        Self::InterToken,
        Self::InterTokenTail,
        Self::Errors,
        Self::Queue,
        Self::Cache,
        Self::Cpu,
        Self::Memory,
        Self::Gpu,
        Self::GpuMemory,
        Self::Tls,
    ];

    /// Layout of all columns.
    pub(crate) fn columns() -> [Column; 23] {
        Self::ALL.map(Self::column)
    }

    pub(crate) fn column(self) -> Column {
        use Align::{Left, Right};
        match self {
            Self::Pid => Column::fixed("PID", Right, 7, 100),
            Self::User => Column::flexible("USER", 8, 10, 30),
            Self::Command => Column::flexible("COMMAND", 12, 48, 99),
            Self::Role => Column::fixed("ROLE", Left, 4, 60),
            Self::Model => Column::flexible("MODEL", 12, 36, 80),
            Self::RequestRate => Column::fixed("REQ/S", Right, 5, 85),
            Self::InFlight => Column::fixed("FLY", Right, 4, 75),
            Self::OutputRate => Column::fixed("TOK/S", Right, 6, 98),
            Self::InputTotal => Column::fixed("TOK IN", Right, 6, 50),
            Self::OutputTotal => Column::fixed("TOKOUT", Right, 6, 70),
            Self::Cost => Column::fixed("COST $", Right, 6, 72),
            Self::CostRate => Column::fixed("$/H", Right, 5, 68),
            Self::FirstToken => Column::fixed("TTFT50", Right, 6, 90),
            Self::InterToken => Column::fixed("ITL50", Right, 6, 40),
            Self::InterTokenTail => Column::fixed("ITL99", Right, 6, 38),
            Self::Errors => Column::fixed("ERR", Right, 4, 88),
            Self::Queue => Column::fixed("RUN+W", Right, 6, 76),
            Self::Cache => Column::fixed("KV%", Right, 5, 74),
            Self::Cpu => Column::fixed("CPU%", Right, 5, 78),
            Self::Memory => Column::fixed("MEM", Right, 5, 45),
            Self::Gpu => Column::fixed("GPU%", Right, 5, 77),
            Self::GpuMemory => Column::fixed("GPUMEM", Right, 6, 46),
            Self::Tls => Column::flexible("TLS", 8, 8, 28),
        }
    }

    /// Whether it is about the process itself rather than its model traffic.
    pub(crate) fn is_of_machine(self) -> bool {
        matches!(self, Self::Pid | Self::User | Self::Command | Self::Cpu | Self::Memory | Self::Tls)
            || self.is_of_gpus()
            || self.is_of_engines()
    }

    /// Whether it is about GPUs.
    fn is_of_gpus(self) -> bool {
        matches!(self, Self::Gpu | Self::GpuMemory)
    }

    /// Whether it is what an inference server says of itself.
    fn is_of_engines(self) -> bool {
        matches!(self, Self::Queue | Self::Cache)
    }

    /// Whether it is about money.
    fn is_of_costs(self) -> bool {
        matches!(self, Self::Cost | Self::CostRate)
    }

    /// The columns that say something of such a snapshot, as places in [`Self::ALL`]. Where no traffic can be seen, or there
    /// is no GPU, no server or no price, theirs would only take room from the others.
    pub(crate) fn of(snapshot: Option<&Snapshot>, blind: bool) -> Vec<usize> {
        let has_gpus = snapshot.is_some_and(|snapshot| !snapshot.gpus.is_empty());
        let has_engines = snapshot.is_some_and(|snapshot| !snapshot.engines.is_empty());
        let has_costs = snapshot.is_some_and(|snapshot| snapshot.totals.cost_usd.is_some());
        let says_something = |column: Self| {
            (!blind || column.is_of_machine())
                && (has_gpus || !column.is_of_gpus())
                && (has_engines || !column.is_of_engines())
                && (has_costs || !column.is_of_costs())
        };
        (0..Self::ALL.len()).filter(|index| says_something(Self::ALL[*index])).collect()
    }

    /// Numbers are wanted from the largest down, names from A on.
    pub(crate) fn descends_by_default(self) -> bool {
        !matches!(self, Self::Pid | Self::User | Self::Command | Self::Role | Self::Model | Self::Tls)
    }

    pub(crate) fn key(self, row: &ProcessRow<'_>, span: Span) -> SortKey {
        let stats = row.stats;
        let text = |label: Option<&Label>| SortKey::Text(label.map(Label::to_string).unwrap_or_default());
        let of_stats = |value: fn(&LlmStats) -> Option<f64>| SortKey::Number(stats.and_then(value));
        match self {
            Self::Pid => SortKey::Number(Some(f64::from(row.process.pid))),
            Self::User => text(row.process.user.as_ref()),
            Self::Command => text(Some(&row.process.command)),
            Self::Role => SortKey::Text(row.role_text().to_owned()),
            Self::Model => text(row.model.map(|(model, _)| model)),
            Self::RequestRate => of_stats(|s| s.requests_per_second),
            Self::InFlight => of_stats(|s| s.requests_in_flight.map(|n| n as f64)),
            Self::OutputRate => of_stats(|s| s.tokens_per_second.output),
            Self::InputTotal => of_stats(|s| s.tokens.input.map(|n| n as f64)),
            Self::OutputTotal => of_stats(|s| s.tokens.output.map(|n| n as f64)),
            Self::Cost => of_stats(|s| s.cost_usd),
            Self::CostRate => of_stats(|s| s.cost_usd_per_hour),
            Self::FirstToken => SortKey::Number(row.latency(span, first_token, |d| d.p50)),
            Self::InterToken => SortKey::Number(row.latency(span, inter_token, |d| d.p50)),
            Self::InterTokenTail => SortKey::Number(row.latency(span, inter_token, |d| d.p99)),
            Self::Errors => of_stats(|s| Some(s.failed_total as f64)),
            Self::Queue => SortKey::Number(
                row.engine
                    .and_then(|engine| Some(engine.requests_running? + engine.requests_waiting.unwrap_or_default())),
            ),
            Self::Cache => SortKey::Number(row.engine.and_then(|engine| engine.kv_cache_percent)),
            Self::Cpu => SortKey::Number(row.process.cpu_percent),
            Self::Memory => SortKey::Number(row.process.resident_bytes.map(|n| n as f64)),
            Self::Gpu => SortKey::Number(gpu_percent(row.process)),
            Self::GpuMemory => SortKey::Number(gpu_memory(row.process).map(|n| n as f64)),
            Self::Tls => SortKey::Text(tls_text(&row.process.visibility).to_owned()),
        }
    }

    pub(crate) fn cell(self, row: &ProcessRow<'_>, span: Span) -> Cell {
        let process = row.process;
        let stats = row.stats;
        let number = |text: Option<String>| Cell::number(text.unwrap_or_else(|| UNKNOWN.to_owned()));
        match self {
            Self::Pid => Cell::new(process.pid.to_string(), Tone::Plain),
            Self::User => Cell::new(user_text(process), Tone::Dim),
            Self::Command => command(process),
            Self::Role => Cell::new(row.role_text(), Tone::Dim),
            Self::Model => {
                let tone = if row.model.is_some() { Tone::Accent } else { Tone::Dim };
                Cell::new(row.model_text(), tone)
            }
            Self::RequestRate => number(stats.and_then(|s| s.requests_per_second).map(format::rate)),
            Self::InFlight => number(stats.and_then(|s| s.requests_in_flight).map(format::short_count)),
            Self::OutputRate => number(stats.map(output_rate)),
            Self::InputTotal => number(stats.map(input_total)),
            Self::OutputTotal => number(stats.map(output_total)),
            Self::Cost => number(stats.map(cost)),
            Self::CostRate => number(stats.map(cost_rate)),
            Self::FirstToken => number(row.latency(span, first_token, |d| d.p50).map(format::seconds)),
            Self::InterToken => number(row.latency(span, inter_token, |d| d.p50).map(format::seconds)),
            Self::InterTokenTail => number(row.latency(span, inter_token, |d| d.p99).map(format::seconds)),
            Self::Errors => match stats.map(|s| s.failed_total) {
                Some(errors) if errors > 0 => Cell::new(format::short_count(errors), Tone::Bad),
                errors => number(errors.map(format::short_count)),
            },
            Self::Queue => Cell::number(engines::queue(row.engine.as_slice())),
            Self::Cache => engines::fullest(row.engine.as_slice()),
            Self::Cpu => number(process.cpu_percent.map(format::percent)),
            Self::Memory => number(process.resident_bytes.map(format::bytes)),
            Self::Gpu => number(gpu_percent(process).map(format::percent)),
            Self::GpuMemory => number(gpu_memory(process).map(format::bytes)),
            Self::Tls => Cell::new(tls_text(&process.visibility), tls_tone(process.visibility.tls)),
        }
    }
}

/// Orders rows: processes with model traffic first, then by the column, then by pid so that equals do not jump about.
pub(crate) fn sort(rows: &mut [ProcessRow<'_>], column: ProcessColumn, descending: bool, span: Span) {
    rows.sort_by_cached_key(|row| Ranked {
        without_traffic: !row.matters(),
        key: column.key(row, span),
        descending,
        // Without traffic most columns are unknown: the busiest first.
        cpu: if row.matters() { 0.0 } else { row.process.cpu_percent.unwrap_or(0.0) },
        identity: identity(row.process),
    });
}

struct Ranked {
    without_traffic: bool,
    key: SortKey,
    descending: bool,
    cpu: f64,
    identity: Identity,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.without_traffic
            .cmp(&other.without_traffic)
            .then_with(|| self.key.compare(&other.key, self.descending))
            .then_with(|| other.cpu.total_cmp(&self.cpu))
            .then_with(|| self.identity.cmp(&other.identity))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

impl SortKey {
    fn compare(&self, other: &Self, descending: bool) -> Ordering {
        let run = |order: Ordering| if descending { order.reverse() } else { order };
        match (self, other) {
            (Self::Number(Some(a)), Self::Number(Some(b))) => run(a.total_cmp(b)),
            (Self::Number(a), Self::Number(b)) => b.is_some().cmp(&a.is_some()),
            (Self::Text(a), Self::Text(b)) => a.is_empty().cmp(&b.is_empty()).then_with(|| run(a.cmp(b))),
            // One column yields one kind of key.
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        }
    }
}

/// Columns of the request table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestColumn {
    Phase,
    Age,
    SinceToken,
    Tokens,
    FirstToken,
    Model,
    Pid,
    Command,
    Role,
    Endpoint,
    Status,
    Error,
}

impl RequestColumn {
    pub(crate) const ALL: [Self; 12] = [
        Self::Phase,
        Self::Age,
        Self::SinceToken,
        Self::Tokens,
        Self::FirstToken,
        Self::Model,
        Self::Pid,
        Self::Command,
        Self::Role,
        Self::Endpoint,
        Self::Status,
        Self::Error,
    ];

    /// Layout of all columns.
    pub(crate) fn columns() -> [Column; 12] {
        Self::ALL.map(Self::column)
    }

    pub(crate) fn column(self) -> Column {
        use Align::{Left, Right};
        match self {
            Self::Phase => Column::fixed("PHASE", Left, 9, 100),
            Self::Age => Column::fixed("AGE", Right, 6, 99),
            Self::SinceToken => Column::fixed("IDLE", Right, 6, 95),
            Self::Tokens => Column::fixed("TOKOUT", Right, 6, 90),
            Self::FirstToken => Column::fixed("TTFT", Right, 6, 70),
            Self::Model => Column::flexible("MODEL", 12, 36, 85),
            Self::Pid => Column::fixed("PID", Right, 7, 80),
            Self::Command => Column::flexible("COMMAND", 10, 40, 75),
            Self::Role => Column::fixed("ROLE", Left, 4, 50),
            Self::Endpoint => Column::flexible("ENDPOINT", 14, 40, 55),
            Self::Status => Column::fixed("HTTP", Right, 4, 82),
            Self::Error => Column::flexible("END", 10, 30, 60),
        }
    }

    pub(crate) fn cell(self, request: &Request) -> Cell {
        match self {
            Self::Phase => {
                let (text, tone) = phase(request.phase);
                Cell::new(text, tone)
            }
            Self::Age => Cell::number(format::seconds(request.age_seconds)),
            Self::SinceToken => {
                let idle = request.time_since_last_token_seconds;
                let stalled = idle.is_some_and(|s| s > hbpf_core::exchange::Exchange::STALL.as_secs_f64());
                let text = known(idle, format::seconds);
                if stalled { Cell::new(text, Tone::Warn) } else { Cell::number(text) }
            }
            Self::Tokens => {
                let text = known(request.tokens.output, format::count);
                Cell::number(estimated(text, request.tokens_source == TokensSource::Estimated))
            }
            Self::FirstToken => Cell::number(known(request.time_to_first_token_seconds, format::seconds)),
            Self::Model => {
                let tone = if request.model.is_some() { Tone::Accent } else { Tone::Dim };
                Cell::new(known(request.model.as_ref(), Label::to_string), tone)
            }
            Self::Pid => Cell::number(known(request.pid, |pid| pid.to_string())),
            Self::Command => Cell::new(request.command.as_str(), Tone::Plain),
            Self::Role => Cell::new(leg_text(request), Tone::Dim),
            Self::Endpoint => Cell::new(request.endpoint.as_str(), Tone::Dim),
            Self::Status => match request.status {
                Some(status @ 400..) => Cell::new(status.to_string(), Tone::Bad),
                status => Cell::number(known(status, |status| status.to_string())),
            },
            Self::Error => match (&request.error_type, &request.finish_reason) {
                (Some(error), _) => Cell::new(error.as_str(), Tone::Bad),
                (None, Some(reason)) => Cell::new(reason.as_str(), Tone::Dim),
                (None, None) => Cell::new(UNKNOWN, Tone::Dim),
            },
        }
    }

    /// The whole row.
    pub(crate) fn cells(request: &Request) -> Vec<Cell> {
        Self::ALL.map(|column| column.cell(request)).to_vec()
    }
}

/// What processes can be picked by.
pub(crate) const PROCESS_FIELDS: &[Field] = &[
    field("pid", Kind::Number),
    field("user", Kind::Text),
    field("command", Kind::Text),
    field("role", Kind::Text),
    field("model", Kind::Text),
    field("req/s", Kind::Number),
    headed("inflight", "fly", Kind::Number),
    field("tok/s", Kind::Number),
    headed("tokin", "tok in", Kind::Number),
    field("tokout", Kind::Number),
    headed("cost", "cost $", Kind::Number),
    headed("ttft", "ttft50", Kind::Seconds),
    headed("itl", "itl50", Kind::Seconds),
    headed("errors", "err", Kind::Number),
    headed("cpu", "cpu%", Kind::Number),
    field("mem", Kind::Bytes),
    headed("gpu", "gpu%", Kind::Number),
    field("tls", Kind::Text),
];

/// A row of a process, with the span over which its latencies are shown.
pub(crate) struct Picked<'a>(pub(crate) &'a ProcessRow<'a>, pub(crate) Span);

impl filter::Row for Picked<'_> {
    fn value(&self, field: &str) -> Value<'_> {
        let column = match field {
            "pid" => ProcessColumn::Pid,
            "user" => ProcessColumn::User,
            "command" => ProcessColumn::Command,
            "role" => ProcessColumn::Role,
            "model" => ProcessColumn::Model,
            "req/s" => ProcessColumn::RequestRate,
            "inflight" => ProcessColumn::InFlight,
            "tok/s" => ProcessColumn::OutputRate,
            "tokin" => ProcessColumn::InputTotal,
            "tokout" => ProcessColumn::OutputTotal,
            "cost" => ProcessColumn::Cost,
            "ttft" => ProcessColumn::FirstToken,
            "itl" => ProcessColumn::InterToken,
            "errors" => ProcessColumn::Errors,
            "cpu" => ProcessColumn::Cpu,
            "mem" => ProcessColumn::Memory,
            "gpu" => ProcessColumn::Gpu,
            "tls" => ProcessColumn::Tls,
            _ => return Value::Unknown,
        };
        match column.key(self.0, self.1) {
            SortKey::Number(number) => Value::number(number),
            SortKey::Text(text) => Value::Text(text.into()),
        }
    }

    fn has_text(&self, text: &str) -> bool {
        let row = self.0;
        let names = [Some(&row.process.command), row.process.user.as_ref(), row.process.workload.as_ref()];
        let has = |name: &str| name.to_lowercase().contains(text);
        names.into_iter().flatten().any(|name| has(name)) || has(&row.model_text()) || has(&row.process.pid.to_string())
    }
}

/// What requests can be picked by.
pub(crate) const REQUEST_FIELDS: &[Field] = &[
    field("pid", Kind::Number),
    field("command", Kind::Text),
    field("role", Kind::Text),
    field("phase", Kind::Text),
    field("model", Kind::Text),
    field("provider", Kind::Text),
    field("endpoint", Kind::Text),
    headed("status", "http", Kind::Status),
    headed("error", "end", Kind::Text),
    field("ttft", Kind::Seconds),
    field("age", Kind::Seconds),
    field("idle", Kind::Seconds),
    field("gap", Kind::Seconds),
    field("stalls", Kind::Number),
    field("tokin", Kind::Number),
    field("tokout", Kind::Number),
    field("cost", Kind::Number),
    field("trace", Kind::Text),
];

impl filter::Row for Request {
    fn value(&self, field: &str) -> Value<'_> {
        let label =
            |label: Option<&'_ Label>| label.map_or(Value::Unknown, |label| Value::Text(label.to_string().into()));
        let count = |count: Option<u64>| Value::number(count.map(|count| count as f64));
        match field {
            "pid" => count(self.pid.map(u64::from)),
            "command" => Value::text(&self.command),
            "role" => Value::text(leg_text(self)),
            "phase" => Value::text(phase(self.phase).0),
            "model" => label(self.model.as_ref().or(self.response_model.as_ref())),
            "provider" => Value::text(&self.provider),
            "endpoint" => Value::text(&self.endpoint),
            "status" => count(self.status.map(u64::from)),
            "error" => label(self.error_type.as_ref().or(self.finish_reason.as_ref())),
            "ttft" => Value::number(self.time_to_first_token_seconds),
            "age" => Value::Number(self.age_seconds),
            "idle" => Value::number(self.time_since_last_token_seconds),
            "gap" => Value::number(self.longest_gap_seconds),
            "stalls" => count(Some(self.stalls.into())),
            "tokin" => count(self.tokens.input),
            "tokout" => count(self.tokens.output),
            "cost" => Value::number(self.cost_usd),
            "trace" => label(self.trace_id.as_ref()),
            _ => Value::Unknown,
        }
    }

    fn has_text(&self, text: &str) -> bool {
        let names = [
            Some(&self.command),
            Some(&self.provider),
            Some(&self.endpoint),
            self.model.as_ref(),
            self.response_model.as_ref(),
            self.error_type.as_ref(),
            self.request_id.as_ref(),
            self.trace_id.as_ref(),
        ];
        let has = |name: &str| name.to_lowercase().contains(text);
        names.into_iter().flatten().any(|name| has(name)) || has(phase(self.phase).0)
    }
}

/// A phase's name and tone.
pub(crate) fn phase(phase: Phase) -> (&'static str, Tone) {
    match phase {
        Phase::Sending => ("sending", Tone::Plain),
        Phase::Waiting => ("waiting", Tone::Warn),
        Phase::Streaming => ("streaming", Tone::Good),
        Phase::Done => ("done", Tone::Dim),
        Phase::Failed => ("failed", Tone::Bad),
        Phase::Abandoned => ("abandoned", Tone::Warn),
    }
}

/// Short name of a role.
pub(crate) fn role_text(role: Role) -> &'static str {
    match role {
        Role::Client => "cli",
        Role::Server => "srv",
    }
}

/// The role, or what counts for more: that another exchange counts in the totals instead.
fn leg_text(request: &Request) -> &'static str {
    match request.hop {
        Some(Hop::Gateway) => "gate",
        Some(Hop::Backend) => "back",
        Some(Hop::Internal) | None => role_text(request.role),
    }
}

/// What a process was started as, and whether it is over.
pub(crate) fn command(process: &Process) -> Cell {
    let tone = if process.exited { Tone::Dim } else { Tone::Strong };
    Cell { mark: ended_mark(process), ..Cell::new(process.command.as_str(), tone) }
}

/// What stands behind the name of a process that has ended.
pub(crate) fn ended_mark(process: &Process) -> &'static str {
    if process.exited { " (ended)" } else { "" }
}

/// The user's name, or number where it has none.
pub(crate) fn user_text(process: &Process) -> String {
    match (&process.user, process.uid) {
        (Some(user), _) => user.to_string(),
        (None, uid) => known(uid, |uid| uid.to_string()),
    }
}

/// What a process computes on all GPUs together; unknown where a part of it is, or it uses none.
fn gpu_percent(process: &Process) -> Option<f64> {
    let parts = (!process.gpu.is_empty()).then_some(&process.gpu)?;
    parts.iter().map(|gpu| gpu.sm_percent).sum()
}

/// What a process holds of all GPUs' memory, likewise.
fn gpu_memory(process: &Process) -> Option<u64> {
    let parts = (!process.gpu.is_empty()).then_some(&process.gpu)?;
    parts.iter().try_fold(0u64, |sum, gpu| Some(sum.saturating_add(gpu.memory_bytes?)))
}

/// What can be seen of a process's TLS traffic, in a word.
pub(crate) fn tls_text(visibility: &Visibility) -> &'static str {
    match visibility.tls {
        // Not "no TLS": a program may carry its own, which is not looked for.
        TlsVisibility::None => "no lib",
        TlsVisibility::Attached => "seen",
        TlsVisibility::Partial => "partial",
        TlsVisibility::Blind => "BLIND",
    }
}

/// The tone of that word.
pub(crate) fn tls_tone(tls: TlsVisibility) -> Tone {
    match tls {
        TlsVisibility::None => Tone::Dim,
        TlsVisibility::Attached => Tone::Good,
        TlsVisibility::Partial => Tone::Warn,
        TlsVisibility::Blind => Tone::Bad,
    }
}

/// Output tokens per second, marked where any of it is estimated.
pub(crate) fn output_rate(stats: &LlmStats) -> String {
    let rate = &stats.tokens_per_second;
    estimated(known(rate.output, format::rate), rate.estimated_share.is_some_and(|share| share > 0.0))
}

/// Prompt tokens of ended exchanges, marked where any of it is estimated.
pub(crate) fn input_total(stats: &LlmStats) -> String {
    estimated(known(stats.tokens.input, format::count), stats.tokens_estimated.input > 0)
}

/// What one exchange has cost.
pub(crate) fn cost_of(request: &Request) -> String {
    money(request.cost_usd, request.cost_is_estimate)
}

/// What was spent. A list price is an estimate.
pub(crate) fn cost(stats: &LlmStats) -> String {
    money(stats.cost_usd, stats.cost_is_estimate)
}

/// What is spent in an hour at this pace.
pub(crate) fn cost_rate(stats: &LlmStats) -> String {
    money(stats.cost_usd_per_hour, stats.cost_is_estimate)
}

fn money(usd: Option<f64>, is_estimate: bool) -> String {
    known(usd, |usd| estimated(format::dollars(usd), is_estimate))
}

/// The part of the prompt tokens that came from caches, of those whose servers count that among others.
pub(crate) fn cached_share(stats: &LlmStats) -> Option<f64> {
    let (cached, input) = (stats.tokens.cached_input?, stats.tokens.input.filter(|input| *input > 0)?);
    Some(cached as f64 / input as f64)
}

/// Output tokens of ended exchanges, marked where any of it is estimated.
pub(crate) fn output_total(stats: &LlmStats) -> String {
    estimated(known(stats.tokens.output, format::count), stats.tokens_estimated.output > 0)
}

/// Time to first token.
pub(crate) fn first_token(latency: &Latency) -> Option<&Distribution> {
    latency.time_to_first_token_seconds.as_ref()
}

/// Gaps between tokens.
pub(crate) fn inter_token(latency: &Latency) -> Option<&Distribution> {
    latency.inter_token_seconds.as_ref()
}

/// Whole requests.
pub(crate) fn duration(latency: &Latency) -> Option<&Distribution> {
    latency.duration_seconds.as_ref()
}
