//! Exchanges by workload.
//!
//! An exchange between two processes of one workload stands apart, and once: otherwise the tokens of a router and of the
//! backends behind it would add up to twice what was served. Whose an exchange is, and whether it is such an inner one,
//! may only be known some time after its beginning, as the host side tells of a process with the next frame; it counts
//! from then on, wholly.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Running;
use super::keyed::{Key, Keyed, ModelKey};
use super::processes::{ProcessId, Processes};
use super::series::Kept;
use super::stats::{Group, OTHER, Pool, SECONDS_PER_HOUR, StatsId, final_samples};
use crate::exchange::{Exchange, ExchangeId, Role};
use crate::label::Label;
use crate::prices::Prices;
use crate::snapshot::{Gpu, GpuProcess, LlmStats, Process, SeriesRole, SeriesTable, Workload, WorkloadKind};
use crate::time::{Nanos, WallClock};

/// Ended exchanges that wait for word of their processes. At a thousand calls a second that is the second that passes
/// until the next frame; of more, the oldest count by what is known.
const MAX_WAITING: usize = 1024;

/// How long they wait for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a workload without processes stands after its last exchange.
const KEEP_GONE: Duration = Duration::from_secs(60);

/// What the host side knows of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadFacts {
    /// As in [`Process::workload`].
    pub key: Label,
    /// What people call it.
    pub name: Label,
    /// What holds it together.
    pub kind: WorkloadKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SideKey {
    workload: Label,
    side: Side,
}

/// How a workload takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Side {
    Client,
    Server,
    /// As both.
    Within,
}

impl From<Side> for SeriesRole {
    fn from(side: Side) -> Self {
        match side {
            Side::Client => Self::Client,
            Side::Server => Self::Server,
            Side::Within => Self::Internal,
        }
    }
}

impl Key for SideKey {
    const GROUP: Group = Group::Workloads;
    const CAP: usize = 1024;

    fn other(&self) -> Self {
        Self { workload: OTHER.into(), side: self.side }
    }
}

/// Where a running exchange counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not known yet.
    #[default]
    Undecided,
    /// Here, and in that series, if series are kept.
    Counted(StatsId, Option<StatsId>),
    /// Nowhere: its other end counts for both.
    Mirror,
}

impl Standing {
    pub(super) fn ids(self) -> impl Iterator<Item = StatsId> {
        let (workload, series) = match self {
            Self::Counted(workload, series) => (Some(workload), series),
            Self::Undecided | Self::Mirror => (None, None),
        };
        workload.into_iter().chain(series)
    }
}

/// An ended exchange that has not been counted yet.
#[derive(Debug)]
struct Waiting {
    ended_at: Nanos,
    exchange: Exchange,
    running: Running,
}

#[derive(Debug)]
pub(super) struct Workloads {
    sides: Keyed<SideKey, ()>,
    series: Option<Kept>,
    waiting: VecDeque<Waiting>,
    /// Names of those that the host side has told of and that are still shown.
    facts: HashMap<Label, WorkloadFacts>,
    /// What its processes used of the CPUs at the frames of the last window, for those that are shown.
    used: HashMap<Label, VecDeque<(Nanos, f64)>>,
}

impl Workloads {
    /// With series of a workload, a model and an API each, if so wanted.
    pub(super) fn new(with_series: bool) -> Self {
        Self {
            sides: Keyed::new(),
            series: with_series.then(Kept::new),
            waiting: VecDeque::new(),
            facts: HashMap::new(),
            used: HashMap::new(),
        }
    }

    /// Says where an exchange counts, if that is known by now.
    pub(super) fn place(
        &mut self,
        when: Nanos,
        exchange: &Exchange,
        running: &HashMap<ExchangeId, Running, foldhash::fast::RandomState>,
        processes: &Processes,
        pool: &mut Pool,
    ) -> Option<Standing> {
        let own = running.get(&exchange.id)?;
        let other = own.other.and_then(|other| running.get(&other)?.process_id()).or(own.other_process);
        let choice = Choice::of(own, other, processes)?;
        Some(self.count(&choice, when, exchange, own, (processes, pool)))
    }

    fn count(
        &mut self,
        choice: &Choice,
        when: Nanos,
        exchange: &Exchange,
        running: &Running,
        (processes, pool): (&Processes, &mut Pool),
    ) -> Standing {
        let side = match exchange.role {
            _ if choice.is_inner && exchange.is_mirror => return Standing::Mirror,
            _ if choice.is_inner => Side::Within,
            Role::Client => Side::Client,
            Role::Server => Side::Server,
        };
        let stats = self.sides.resolve(SideKey { workload: choice.workload.clone(), side }, pool, when).stats;
        let series = self.series.as_mut().map(|series| {
            let container = running.process_id().and_then(|process| processes.container(process));
            let model = ModelKey { provider: running.provider(exchange), model: exchange.model.clone() };
            let facts = self.facts.get(&choice.workload);
            let workload = (name(&choice.workload, facts), kind(facts), side);
            series.place(workload, container, model, exchange, pool, when)
        });
        let standing = Standing::Counted(stats, series);
        for stats in standing.ids() {
            pool.attach_late(stats, when, exchange, &running.flow, u64::from(running.stalls));
        }
        for sample in running.times(exchange) {
            pool.record(standing.ids(), when, &sample);
        }
        standing
    }

    /// An exchange has ended of which it is not known yet where it counts.
    pub(super) fn wait(
        &mut self,
        ended_at: Nanos,
        exchange: &Exchange,
        running: Running,
        processes: &Processes,
        pool: &mut Pool,
    ) {
        if self.waiting.len() >= MAX_WAITING
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.count_ended(&Choice::at_last(&oldest, processes), &oldest, (processes, pool));
        }
        self.waiting.push_back(Waiting { ended_at, exchange: exchange.clone(), running });
    }

    /// An exchange that has ended had another end, of this process, which is observed, too.
    pub(super) fn note_internal(&mut self, ended: ExchangeId, other: Option<ProcessId>) {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.exchange.id == ended) {
            (waiting.running.is_internal, waiting.running.other_process) = (true, other);
        }
    }

    /// Counts what has ended and of which it is known by now where it counts.
    pub(super) fn settle(&mut self, facts: Vec<WorkloadFacts>, now: Nanos, processes: &Processes, pool: &mut Pool) {
        self.facts.extend(facts.into_iter().map(|facts| (facts.key.clone(), facts)));
        for waiting in std::mem::take(&mut self.waiting) {
            let known = Choice::of(&waiting.running, waiting.running.other_process, processes);
            let impatient = now.since(waiting.ended_at) >= PATIENCE;
            match known.or_else(|| impatient.then(|| Choice::at_last(&waiting, processes))) {
                Some(choice) => self.count_ended(&choice, &waiting, (processes, pool)),
                None => self.waiting.push_back(waiting),
            }
        }
    }

    fn count_ended(&mut self, choice: &Choice, waiting: &Waiting, (processes, pool): (&Processes, &mut Pool)) {
        let Waiting { ended_at, exchange, running } = waiting;
        let standing = self.count(choice, *ended_at, exchange, running, (processes, pool));
        for sample in final_samples(exchange) {
            pool.record(standing.ids(), *ended_at, &sample);
        }
        pool.finish(standing.ids(), *ended_at, exchange, &running.flow, running.cost);
    }

    /// Rows of workloads that serve, call or use GPUs, the busiest first.
    pub(super) fn frame(
        &mut self,
        processes: &[Process],
        gpus: &[Gpu],
        pool: &mut Pool,
        prices: &Prices,
        (now, window): (Nanos, Duration),
    ) -> Vec<Workload> {
        let mut members: HashMap<&Label, Vec<&Process>> = HashMap::new();
        for process in processes.iter().filter(|process| !process.exited) {
            if let Some(key) = &process.workload {
                members.entry(key).or_default().push(process);
            }
        }
        self.forget(&members, pool, now);
        if let Some(series) = &mut self.series {
            let running = members.keys().map(|key| name(key, self.facts.get(*key))).collect();
            series.forget(&running, pool, now);
        }
        let mut keys: HashSet<Label> = self.sides.iter().map(|(side, _)| side.workload.clone()).collect();
        keys.extend(
            members.iter().filter(|(_, of)| of.iter().any(|it| !it.gpu.is_empty())).map(|(key, _)| (*key).clone()),
        );
        self.facts.retain(|key, _| keys.contains(key) || members.contains_key(key));
        self.used.retain(|key, _| keys.contains(key));
        let mut rows: Vec<Workload> = Vec::with_capacity(keys.len());
        for key in keys {
            let sides = [Side::Client, Side::Server, Side::Within].map(|side| {
                let side = SideKey { workload: key.clone(), side };
                Some(pool.frame(self.sides.get(&side)?.stats, now))
            });
            let of = members.remove(&key).unwrap_or_default();
            let cpu_percent = of.iter().filter_map(|process| process.cpu_percent).reduce(|a, b| a + b);
            let used = self.used.entry(key.clone()).or_default();
            used.extend(cpu_percent.map(|percent| (now, percent)));
            used.retain(|(when, _)| now.since(*when) < window);
            let cpu = Cpu { percent: cpu_percent, mean: mean(used.iter().map(|(_, percent)| *percent)) };
            rows.push(row(key.clone(), self.facts.get(&key), &of, cpu, GpuShare::of(&of, gpus, prices), sides));
        }
        sort(&mut rows);
        rows
    }

    /// The series, if they are kept.
    pub(super) fn series_frame(&mut self, pool: &mut Pool, now: Nanos, clock: &WallClock) -> Option<SeriesTable> {
        self.series.as_mut().map(|series| series.frame(pool, now, clock))
    }

    /// Gives up the rows of workloads that have ended for good.
    fn forget(&mut self, members: &HashMap<&Label, Vec<&Process>>, pool: &mut Pool, now: Nanos) {
        let is_gone = |side: &SideKey, stats: StatsId| {
            let idle = pool[stats].idle_since().is_some_and(|since| now.since(since) >= KEEP_GONE);
            idle && cannot_return(&side.workload) && !members.contains_key(&side.workload)
        };
        let gone: Vec<SideKey> =
            self.sides.iter().filter(|(side, row)| is_gone(side, row.stats)).map(|(side, _)| side.clone()).collect();
        for side in &gone {
            self.sides.fold(side, pool, now);
        }
    }
}

/// What stands before the name of a process that nothing else is known of.
const BY_NAME: &str = "name/";

/// Whether a workload that has ended does not come back: a process, or one that is known by its name alone. A unit, a pod
/// or a container begins anew under the same key, and its totals go on.
fn cannot_return(workload: &Label) -> bool {
    workload.starts_with("tree/") || workload.starts_with(BY_NAME)
}

/// Where an exchange counts, when it is known.
struct Choice {
    workload: Label,
    /// Both its ends are of it.
    is_inner: bool,
}

impl Choice {
    fn of(running: &Running, other: Option<ProcessId>, processes: &Processes) -> Option<Self> {
        let own = processes.workload(running.process_id()?)?;
        let is_inner = running.is_internal && processes.workload(other?)? == own;
        Some(Self { workload: own.clone(), is_inner })
    }

    /// Where nothing more will be heard of one of its ends: of a process that nothing was told of, such as one that has
    /// ended at once, the name is all there is.
    fn at_last(waiting: &Waiting, processes: &Processes) -> Self {
        let own = waiting.running.process_id().and_then(|process| processes.workload(process));
        let by_name = || Label::new(&format!("{BY_NAME}{}", waiting.exchange.comm));
        Self { workload: own.cloned().unwrap_or_else(by_name), is_inner: false }
    }
}

/// What a workload has of the GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct GpuShare {
    /// GPUs that it uses.
    count: u32,
    percent: Option<f64>,
    memory_bytes: Option<u64>,
    power_watts: Option<f64>,
    /// US dollars an hour, where the price of each is known.
    usd_per_hour: Option<f64>,
}

impl GpuShare {
    /// A sum of which one part is not known, or is of before, is not known.
    fn of(members: &[&Process], gpus: &[Gpu], prices: &Prices) -> Self {
        let pids: HashSet<u32> = members.iter().filter(|process| !process.gpu.is_empty()).map(|it| it.pid).collect();
        let used: Vec<&Gpu> =
            gpus.iter().filter(|gpu| gpu.processes.iter().any(|user| pids.contains(&user.pid))).collect();
        if used.is_empty() {
            return Self::default();
        }
        let own = |gpu: &'_ Gpu| -> Vec<GpuProcess> {
            gpu.processes.iter().filter(|user| pids.contains(&user.pid)).cloned().collect()
        };
        let is_of_now = used.iter().all(|gpu| gpu.stale_seconds.is_none());
        let percent = |gpu: &&Gpu| {
            let own = own(gpu);
            let is_alone = own.len() == gpu.processes.len();
            let told = own.iter().map(|user| user.sm_percent).sum::<Option<f64>>();
            told.or(gpu.utilization_percent.filter(|_| is_alone))
        };
        let memory = |gpu: &&Gpu| own(gpu).iter().map(|user| user.memory_bytes).sum::<Option<u64>>();
        let power = |gpu: &&Gpu| Some(gpu.power_watts? * part(gpu, &pids)?);
        let price = |gpu: &&Gpu| Some(prices.gpu_hour(&gpu.name)? * part(gpu, &pids)?);
        Self {
            count: used.len() as u32,
            percent: used.iter().map(percent).sum::<Option<f64>>().filter(|_| is_of_now),
            memory_bytes: used.iter().map(memory).sum::<Option<u64>>().filter(|_| is_of_now),
            power_watts: used.iter().map(power).sum::<Option<f64>>().filter(|_| is_of_now),
            usd_per_hour: used.iter().map(price).sum::<Option<f64>>().filter(|_| is_of_now),
        }
    }
}

/// The part of a GPU's power and price that these processes answer for: by what they have it compute, or where it computes nothing or
/// nobody tells what, by the memory that they hold.
fn part(gpu: &Gpu, pids: &HashSet<u32>) -> Option<f64> {
    let part_by = |of: &dyn Fn(&GpuProcess) -> Option<f64>| {
        let all = gpu.processes.iter().map(of).sum::<Option<f64>>().filter(|all| *all > 0.0)?;
        let own: f64 = gpu.processes.iter().filter(|user| pids.contains(&user.pid)).filter_map(of).sum();
        Some(own / all)
    };
    if gpu.processes.iter().all(|user| pids.contains(&user.pid)) {
        return Some(1.0);
    }
    part_by(&|user| user.sm_percent).or_else(|| part_by(&|user| user.memory_bytes.map(|bytes| bytes as f64)))
}

/// What a workload uses of the CPUs, in percent of one.
#[derive(Clone, Copy, Debug)]
struct Cpu {
    /// At this frame.
    percent: Option<f64>,
    /// Over the window that rates are over: at its end a burst may have passed.
    mean: Option<f64>,
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let count = values.len() as f64;
    (count > 0.0).then(|| values.sum::<f64>() / count)
}

fn row(
    key: Label,
    facts: Option<&WorkloadFacts>,
    of: &[&Process],
    cpu: Cpu,
    gpu: GpuShare,
    [as_client, as_server, within]: [Option<LlmStats>; 3],
) -> Workload {
    let mut pids: Vec<u32> = of.iter().map(|process| process.pid).collect();
    pids.sort_unstable();
    let served = as_server.as_ref().or(within.as_ref()).or(as_client.as_ref());
    let rate = served.and_then(|stats| stats.tokens_per_second.output).filter(|rate| *rate > 0.0);
    Workload {
        name: name(&key, facts),
        kind: kind(facts),
        key,
        pids,
        cpu_percent: cpu.percent,
        resident_bytes: of.iter().filter_map(|process| process.resident_bytes).reduce(u64::saturating_add),
        gpu_percent: gpu.percent,
        gpu_memory_bytes: gpu.memory_bytes,
        gpu_power_watts: gpu.power_watts,
        tokens_per_second_per_gpu: rate.filter(|_| gpu.count > 0).map(|rate| rate / f64::from(gpu.count)),
        tokens_per_joule: rate.zip(gpu.power_watts.filter(|watts| *watts > 0.0)).map(|(rate, watts)| rate / watts),
        gpu_cost_usd_per_hour: gpu.usd_per_hour,
        gpu_cost_usd_per_million_tokens: gpu
            .usd_per_hour
            .zip(rate)
            .map(|(usd, rate)| usd / SECONDS_PER_HOUR / rate * 1_000_000.0),
        cpu_seconds_per_1k_tokens: cpu.mean.zip(rate).map(|(percent, rate)| percent / 100.0 / rate * 1000.0),
        as_client,
        as_server,
        within,
    }
}

/// What a workload is called.
pub(super) fn name(key: &Label, facts: Option<&WorkloadFacts>) -> Label {
    facts.map_or_else(|| Label::new(key.trim_start_matches(BY_NAME)), |facts| facts.name.clone())
}

/// What holds it together.
pub(super) fn kind(facts: Option<&WorkloadFacts>) -> WorkloadKind {
    facts.map_or(WorkloadKind::Tree, |facts| facts.kind)
}

/// The busiest first, and an order that does not change from frame to frame among equals.
fn sort(rows: &mut [Workload]) {
    fn sides(row: &Workload) -> impl Iterator<Item = &LlmStats> {
        row.as_server.iter().chain(&row.as_client).chain(&row.within)
    }
    let rate = |row: &Workload| -> f64 { sides(row).filter_map(|stats| stats.tokens_per_second.output).sum() };
    let requests = |row: &Workload| -> u64 { sides(row).map(|stats| stats.requests_total).sum() };
    rows.sort_by(|a, b| {
        let by_rate = rate(b).total_cmp(&rate(a));
        by_rate.then_with(|| requests(b).cmp(&requests(a))).then_with(|| a.key.cmp(&b.key))
    });
}
