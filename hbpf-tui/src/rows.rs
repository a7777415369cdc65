//! What the tables show of processes and requests: columns, cells and sort keys, for the terminal and for plain text.

use hbpf_core::exchange::{Phase, Role};
use hbpf_core::label::Label;
use hbpf_core::snapshot::{
    Distribution, EncryptedTraffic, Engine, Hop, Latency, LlmStats, Process, Request, Snapshot, TlsVisibility,
    TokensSource, Visibility,
};

use crate::engines;
use crate::format::{self, UNKNOWN, estimated, known};
use crate::list::{Identity, Key, List, Row};
use crate::summary;
use crate::table::{Align, Amount, Cell, Column, Tone};

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
        let row = |process: &'a Process| {
            let role = busier_role(process);
            let model = models.get(&process.pid).and_then(|requests| latest_model(process, requests));
            let stats = role.and_then(|role| stats(process, role));
            let unread = unread(snapshot, process).next();
            Self { process, role, stats, engine: engines::of(snapshot, process), model, unread }
        };
        snapshot.processes.iter().map(row).collect()
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

    pub(crate) fn column(self) -> Column {
        use Align::{Left, Right};
        match self {
            Self::Pid => Column::fixed("PID", Right, 7, 100),
            Self::User => Column::flexible("USER", 8, 10, 30),
            Self::Command => Column::flexible("COMMAND", 12, 48, 99),
            Self::Role => Column::fixed("ROLE", Left, 4, 60),
            Self::Model => Column::flexible("MODEL", 12, 36, 80),
            Self::RequestRate => Column::fixed("REQ/S", Right, 5, 85),
            Self::InFlight => Column::fixed("FLY", Right, 4, 75).called("inflight"),
            Self::OutputRate => Column::fixed("TOK/S", Right, 6, 98),
            Self::InputTotal => Column::fixed("TOK IN", Right, 6, 50),
            Self::OutputTotal => Column::fixed("TOKOUT", Right, 6, 70),
            Self::Cost => Column::fixed("COST $", Right, 6, 72),
            Self::CostRate => Column::fixed("$/H", Right, 5, 68),
            Self::FirstToken => Column::fixed("TTFT50", Right, 6, 90).seconds().called("ttft"),
            Self::InterToken => Column::fixed("ITL50", Right, 6, 40).seconds().called("itl"),
            Self::InterTokenTail => Column::fixed("ITL99", Right, 6, 38).seconds(),
            Self::Errors => Column::fixed("ERR", Right, 4, 88).called("errors"),
            Self::Queue => Column::fixed("RUN+W", Right, 6, 76),
            Self::Cache => Column::fixed("KV%", Right, 5, 74),
            Self::Cpu => Column::fixed("CPU%", Right, 5, 78),
            Self::Memory => Column::fixed("MEM", Right, 5, 45).bytes(),
            Self::Gpu => Column::fixed("GPU%", Right, 5, 77),
            Self::GpuMemory => Column::fixed("GPUMEM", Right, 6, 46).bytes(),
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

    /// Layout of all columns for such a snapshot. Where no traffic can be seen, or there is no GPU, no server or no price, theirs
    /// would only take room from the others.
    fn columns_of(snapshot: &Snapshot) -> Vec<Column> {
        let has_gpus = !snapshot.gpus.is_empty();
        let has_engines = !snapshot.engines.is_empty();
        let has_costs = snapshot.totals.cost_usd.is_some();
        let blind = summary::is_blind(snapshot);
        let says_something = |column: Self| {
            (!blind || column.is_of_machine())
                && (has_gpus || !column.is_of_gpus())
                && (has_engines || !column.is_of_engines())
                && (has_costs || !column.is_of_costs())
        };
        Self::ALL.map(|column| column.column().if_any(says_something(column))).to_vec()
    }

    pub(crate) fn cell(self, row: &ProcessRow<'_>, span: Span) -> Cell {
        let process = row.process;
        let stats = row.stats;
        let seconds = |value: Option<f64>| Cell::number(value, format::seconds);
        match self {
            Self::Pid => Cell::number(Some(process.pid), |pid| pid.to_string()),
            Self::User => Cell::new(user_text(process), Tone::Dim),
            Self::Command => command(process),
            Self::Role => Cell::new(row.role_text(), Tone::Dim),
            Self::Model => {
                let tone = if row.model.is_some() { Tone::Accent } else { Tone::Dim };
                Cell::new(row.model_text(), tone)
            }
            Self::RequestRate => Cell::number(stats.and_then(|s| s.requests_per_second), format::rate),
            Self::InFlight => Cell::number(stats.and_then(|s| s.requests_in_flight), format::short_count),
            Self::OutputRate => output_rate(stats),
            Self::InputTotal => input_total(stats),
            Self::OutputTotal => output_total(stats),
            Self::Cost => cost(stats),
            Self::CostRate => cost_rate(stats),
            Self::FirstToken => seconds(row.latency(span, first_token, |d| d.p50)),
            Self::InterToken => seconds(row.latency(span, inter_token, |d| d.p50)),
            Self::InterTokenTail => seconds(row.latency(span, inter_token, |d| d.p99)),
            Self::Errors => Cell::alarming(stats.map(|s| s.failed_total), format::short_count, Tone::Bad),
            Self::Queue => engines::queue(row.engine.as_slice()),
            Self::Cache => engines::fullest(row.engine.as_slice()),
            Self::Cpu => Cell::number(process.cpu_percent, format::percent),
            Self::Memory => Cell::number(process.resident_bytes, format::bytes),
            Self::Gpu => Cell::number(gpu_percent(process), format::percent),
            Self::GpuMemory => Cell::number(gpu_memory(process), format::bytes),
            Self::Tls => Cell::new(tls_text(&process.visibility), tls_tone(process.visibility.tls)),
        }
    }
}

/// The processes of a snapshot: those that talk to models, serve them or use a GPU first, the others by what they use of the CPU.
pub(crate) fn processes(snapshot: &Snapshot, span: Span) -> List {
    let mut all = ProcessRow::all(snapshot);
    all.sort_by(|one, other| {
        let cpu = |row: &ProcessRow<'_>| if row.matters() { 0.0 } else { row.process.cpu_percent.unwrap_or(0.0) };
        one.matters().cmp(&other.matters()).reverse().then_with(|| {
            cpu(other).total_cmp(&cpu(one)).then_with(|| identity(one.process).cmp(&identity(other.process)))
        })
    });
    let row = |row: &ProcessRow<'_>| {
        let process = row.process;
        let cells = ProcessColumn::ALL.map(|column| column.cell(row, span)).to_vec();
        let also = [&process.pid.to_string(), known(process.workload.as_ref(), Label::to_string).as_str()].join(" ");
        let list_row = Row { also, stands_back: !row.matters(), ..Row::new(Key::Process(identity(process)), cells) };
        // What has no model traffic is dim.
        if row.has_traffic() { list_row } else { list_row.faded() }
    };
    List { columns: ProcessColumn::columns_of(snapshot), rows: all.iter().map(row).collect() }
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
    Provider,
    InputTokens,
    Cost,
    Gap,
    Stalls,
    RequestId,
    Trace,
}

impl RequestColumn {
    pub(crate) const ALL: [Self; 19] = [
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
        Self::Provider,
        Self::InputTokens,
        Self::Cost,
        Self::Gap,
        Self::Stalls,
        Self::RequestId,
        Self::Trace,
    ];

    pub(crate) fn column(self) -> Column {
        use Align::{Left, Right};
        match self {
            Self::Phase => Column::fixed("PHASE", Left, 9, 100),
            Self::Age => Column::fixed("AGE", Right, 6, 99).seconds(),
            Self::SinceToken => Column::fixed("IDLE", Right, 6, 95).seconds(),
            Self::Tokens => Column::fixed("TOKOUT", Right, 6, 90),
            Self::FirstToken => Column::fixed("TTFT", Right, 6, 70).seconds(),
            Self::Model => Column::flexible("MODEL", 12, 36, 85),
            Self::Pid => Column::fixed("PID", Right, 7, 80),
            Self::Command => Column::flexible("COMMAND", 10, 40, 75),
            Self::Role => Column::fixed("ROLE", Left, 4, 50),
            Self::Endpoint => Column::flexible("ENDPOINT", 14, 40, 55),
            Self::Status => Column::fixed("HTTP", Right, 4, 82).status().called("status"),
            Self::Error => Column::flexible("END", 10, 30, 60).called("error"),
            Self::Provider => Column::flexible("PROVIDER", 8, 16, 45).extra(),
            Self::InputTokens => Column::fixed("TOK IN", Right, 6, 44).extra(),
            Self::Cost => Column::fixed("COST $", Right, 6, 43).extra(),
            Self::Gap => Column::fixed("GAP", Right, 6, 42).seconds().extra(),
            Self::Stalls => Column::fixed("STALLS", Right, 6, 41).extra(),
            Self::RequestId => Column::flexible("REQUEST ID", 12, 40, 40).extra(),
            Self::Trace => Column::flexible("TRACE", 12, 32, 39).extra(),
        }
    }

    pub(crate) fn cell(self, request: &Request) -> Cell {
        let seconds = |value: Option<f64>| Cell::number(value, format::seconds);
        let label = |label: Option<&Label>, tone| Cell::name(label.map(Label::as_str), tone);
        match self {
            Self::Phase => {
                let (text, tone) = phase(request.phase);
                Cell::new(text, tone)
            }
            Self::Age => seconds(Some(request.age_seconds)),
            Self::SinceToken => {
                let idle = request.time_since_last_token_seconds;
                let stalled = idle.is_some_and(|s| s > hbpf_core::exchange::Exchange::STALL.as_secs_f64());
                if stalled { seconds(idle).with_tone(Tone::Warn) } else { seconds(idle) }
            }
            Self::Tokens => {
                let text = known(request.tokens.output, format::count);
                let is_estimate = request.tokens_source == TokensSource::Estimated;
                Cell::written(request.tokens.output, estimated(text, is_estimate))
            }
            Self::FirstToken => seconds(request.time_to_first_token_seconds),
            Self::Model => label(request.model.as_ref().or(request.response_model.as_ref()), Tone::Accent),
            Self::Pid => Cell::number(request.pid, |pid| pid.to_string()),
            Self::Command => Cell::new(request.command.as_str(), Tone::Plain),
            Self::Role => Cell::new(leg_text(request), Tone::Dim),
            Self::Endpoint => Cell::new(request.endpoint.as_str(), Tone::Dim),
            Self::Status => {
                let cell = Cell::number(request.status, |status| status.to_string());
                if request.status.is_some_and(|status| status >= 400) { cell.with_tone(Tone::Bad) } else { cell }
            }
            Self::Error => match (&request.error_type, &request.finish_reason) {
                (Some(error), _) => Cell::new(error.as_str(), Tone::Bad),
                (None, reason) => label(reason.as_ref(), Tone::Dim),
            },
            Self::Provider => Cell::new(request.provider.as_str(), Tone::Plain),
            Self::InputTokens => Cell::number(request.tokens.input, format::count),
            Self::Cost => Cell::written(request.cost_usd, cost_of(request)),
            Self::Gap => seconds(request.longest_gap_seconds),
            Self::Stalls => Cell::alarming(Some(request.stalls), |times| times.to_string(), Tone::Warn),
            Self::RequestId => label(request.request_id.as_ref(), Tone::Dim),
            Self::Trace => label(request.trace_id.as_ref(), Tone::Dim),
        }
    }
}

/// Requests as a list.
pub(crate) fn requests<'a>(requests: impl Iterator<Item = &'a Request>) -> List {
    let row = |request: &Request| {
        let cells = RequestColumn::ALL.map(|column| column.cell(request)).to_vec();
        let pid = request.pid.map(|pid| pid.to_string());
        let answered_by = request.response_model.as_ref().map(Label::to_string);
        let also = [pid, answered_by].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let row = Row { also, ..Row::new(Key::Request(request.id.clone()), cells) };
        if request.phase.is_final() { row.faded() } else { row }
    };
    List { columns: RequestColumn::ALL.map(RequestColumn::column).to_vec(), rows: requests.map(row).collect() }
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
pub(crate) fn output_rate(stats: Option<&LlmStats>) -> Cell {
    let rate = stats.map(|stats| &stats.tokens_per_second);
    let is_estimate = rate.and_then(|rate| rate.estimated_share).is_some_and(|share| share > 0.0);
    marked(rate.and_then(|rate| rate.output), is_estimate, format::rate)
}

/// Prompt tokens of ended exchanges, marked where any of it is estimated.
pub(crate) fn input_total(stats: Option<&LlmStats>) -> Cell {
    let is_estimate = stats.is_some_and(|stats| stats.tokens_estimated.input > 0);
    marked(stats.and_then(|stats| stats.tokens.input), is_estimate, format::count)
}

/// Output tokens of ended exchanges, marked where any of it is estimated.
pub(crate) fn output_total(stats: Option<&LlmStats>) -> Cell {
    let is_estimate = stats.is_some_and(|stats| stats.tokens_estimated.output > 0);
    marked(stats.and_then(|stats| stats.tokens.output), is_estimate, format::count)
}

/// What was spent. A list price is an estimate.
pub(crate) fn cost(stats: Option<&LlmStats>) -> Cell {
    let is_estimate = stats.is_some_and(|stats| stats.cost_is_estimate);
    marked(stats.and_then(|stats| stats.cost_usd), is_estimate, format::dollars)
}

/// What is spent in an hour at this pace.
pub(crate) fn cost_rate(stats: Option<&LlmStats>) -> Cell {
    let is_estimate = stats.is_some_and(|stats| stats.cost_is_estimate);
    marked(stats.and_then(|stats| stats.cost_usd_per_hour), is_estimate, format::dollars)
}

fn marked<T: Amount>(value: Option<T>, is_estimate: bool, text: impl FnOnce(T) -> String) -> Cell {
    Cell::written(value, estimated(known(value, text), is_estimate))
}

/// What one exchange has cost.
pub(crate) fn cost_of(request: &Request) -> String {
    estimated(known(request.cost_usd, format::dollars), request.cost_is_estimate)
}

/// The part of the prompt tokens that came from caches, of those whose servers count that among others.
pub(crate) fn cached_share(stats: &LlmStats) -> Option<f64> {
    let (cached, input) = (stats.tokens.cached_input?, stats.tokens.input.filter(|input| *input > 0)?);
    Some(cached as f64 / input as f64)
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
