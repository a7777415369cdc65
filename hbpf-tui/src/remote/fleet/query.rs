//! What is asked: each query for a bounded number of rows, which the server adds up.

use super::table::Part;

/// Rows of a table, but for hosts. A view of more would not be read.
const MAX_ROWS: usize = 200;

/// Series of exchanges whose waiting times are summed up by model.
const MAX_TIMED_SERIES: f64 = 2000.0;

/// What says which part of a table's numbers a sample is: `label_replace` gives it that label.
pub(super) const PART: &str = "hbpf_part";

/// Hosts.
const MAX_HOSTS: usize = 2000;

/// How a query's series are chosen.
pub(super) struct Scope {
    /// The label that tells hosts apart.
    pub(super) host: String,
    /// What series have to match besides their names, as in a selector; may be empty.
    pub(super) matching: String,
    /// What increases are over, in seconds.
    pub(super) range: u64,
}

/// What a query is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    Counts(Table),
    Times(Table, Part),
    Machines,
    Roles,
    Workloads,
    Gpus,
    Engines,
    Findings,
    Gone,
    Lost,
    Groups,
    Overhead,
}

impl About {
    /// All of them.
    pub(super) fn all() -> Vec<Self> {
        let timed = [Table::Hosts, Table::Models].into_iter();
        let times = timed.flat_map(|table| Part::TIMES.map(|part| Self::Times(table, part)));
        let others = [
            Self::Machines,
            Self::Roles,
            Self::Workloads,
            Self::Gpus,
            Self::Engines,
            Self::Findings,
            Self::Gone,
            Self::Lost,
            Self::Groups,
            Self::Overhead,
        ];
        Table::ALL.map(Self::Counts).into_iter().chain(times).chain(others).collect()
    }

    /// Whether it can be reckoned in time, where there are so many series of exchanges: each has some twenty for each of its
    /// distributions, and of all these a server makes a sum for seconds.
    pub(super) fn is_quick(self, series: f64) -> bool {
        !matches!(self, Self::Times(Table::Models, _)) || series <= MAX_TIMED_SERIES
    }

    /// Whether all series of exchanges are gone through for it, and not hosts' alone.
    pub(super) fn is_heavy(self) -> bool {
        match self {
            Self::Counts(table) | Self::Times(table, _) => table != Table::Hosts,
            Self::Workloads => true,
            _ => false,
        }
    }
}

/// A table of exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Hosts,
    Workloads,
    Models,
    Endpoints,
}

impl Table {
    pub(super) const ALL: [Self; 4] = [Self::Hosts, Self::Workloads, Self::Models, Self::Endpoints];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hosts => "hosts",
            Self::Workloads => "workloads",
            Self::Models => "models",
            Self::Endpoints => "endpoints",
        }
    }

    /// What its rows are told apart by, the role first where there is one.
    pub(super) fn labels(self, host: &str) -> Vec<&str> {
        match self {
            Self::Hosts => vec![host],
            Self::Workloads => vec!["role", host, "namespace", "pod", "workload"],
            Self::Models => vec!["role", "provider", "model"],
            Self::Endpoints => vec!["role", "api", "endpoint"],
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Hosts => "hbpf_host_llm_",
            Self::Workloads | Self::Models | Self::Endpoints => "hbpf_llm_",
        }
    }

    fn max_rows(self) -> usize {
        if self == Self::Hosts { MAX_HOSTS } else { MAX_ROWS }
    }
}

impl Scope {
    /// What is asked.
    pub(super) fn query(&self, about: About) -> String {
        match about {
            About::Counts(table) => self.counts(table),
            About::Times(table, part) => self.sum(table, part),
            About::Machines => self.machines(),
            About::Roles => self.roles(),
            About::Workloads => self.workloads(&self.shown(Table::Workloads)),
            About::Gpus => self.gpus(),
            About::Engines => self.engines(),
            About::Findings => self.findings(),
            About::Gone => self.gone(),
            About::Lost => self.lost(),
            About::Groups => self.groups(),
            About::Overhead => self.overhead(),
        }
    }

    /// What the samples of such an answer are told apart by.
    pub(super) fn told_apart_by(&self, about: About) -> Vec<&str> {
        match about {
            About::Counts(table) => [table.labels(&self.host), vec![PART, "outcome", "error_type", "type"]].concat(),
            About::Times(table, part) => table.labels(&self.host).into_iter().chain(part.metric().1).collect(),
            _ => vec![&self.host, "role"],
        }
    }

    fn selector(&self, metric: &str) -> String {
        format!("{metric}{{{}}}", self.matching)
    }

    /// Series of several names at once.
    fn named(&self, pattern: &str) -> String {
        let separator = if self.matching.is_empty() { "" } else { "," };
        format!("{{__name__=~\"{pattern}\"{separator}{}}}", self.matching)
    }

    fn increase(&self, metric: &str, by: &str) -> String {
        format!("sum by ({by}) (increase({}[{}s]))", self.selector(metric), self.range)
    }

    /// Which of a table's rows are shown.
    fn shown(&self, table: Table) -> String {
        let by = table.labels(&self.host).join(",");
        let busiest = self.increase(&format!("{}requests_total", table.prefix()), &by);
        format!("topk({}, {busiest})", table.max_rows())
    }

    /// The counts of a table's rows, all in one vector: which rows are shown is then reckoned once.
    fn counts(&self, table: Table) -> String {
        let parts = Part::COUNTS.map(|part| {
            let (name, _) = part.metric();
            format!("label_replace({}, \"{PART}\", \"{name}\", \"\", \"\")", self.sum(table, part))
        });
        let parts = parts.join(" or ");
        match table {
            // All of them are.
            Table::Hosts => parts,
            _ => format!("({parts}) and on ({}) {}", table.labels(&self.host).join(","), self.shown(table)),
        }
    }

    /// A part of a table's numbers, of all rows.
    fn sum(&self, table: Table, part: Part) -> String {
        let (name, label) = part.metric();
        let by = table.labels(&self.host).into_iter().chain(label).collect::<Vec<_>>().join(",");
        let metric = format!("{}{name}", table.prefix());
        match part {
            Part::InFlight => format!("sum by ({by}) ({})", self.selector(&metric)),
            _ => self.increase(&metric, &by),
        }
    }

    /// How many series of exchanges there are.
    pub(super) fn series(&self) -> String {
        format!("count({})", self.selector("hbpf_llm_requests_total"))
    }

    /// Numbers of the machines.
    fn machines(&self) -> String {
        let names = "hbpf_host_(cpus|cpu_ratio|memory_total_bytes|memory_used_bytes)|hbpf_gpu_(utilization_ratio|memory_used_bytes|power_watts)";
        format!("sum by (__name__,{}) ({})", self.host, self.named(names))
    }

    /// How hosts take part.
    fn roles(&self) -> String {
        self.increase("hbpf_llm_requests_total", &format!("{},role", self.host))
    }

    /// What the workloads that are shown use.
    pub(super) fn workloads(&self, shown: &str) -> String {
        let names =
            "hbpf_workload_(cpu_ratio|resident_bytes|gpu_ratio|gpu_memory_bytes|gpu_power_watts|tokens_per_joule)";
        let by = format!("{},namespace,pod,workload", self.host);
        format!("sum by (__name__,kind,{by}) ({}) and on ({by}) {shown}", self.named(names))
    }

    /// The busiest GPUs.
    fn gpus(&self) -> String {
        let names = "hbpf_gpu_(info|utilization_ratio|memory_used_bytes|memory_total_bytes|power_watts|power_limit_watts|temperature_celsius)";
        let busiest = format!("topk({MAX_ROWS}, {})", self.selector("hbpf_gpu_utilization_ratio"));
        format!("{} and on ({},gpu,uuid) {busiest}", self.named(names), self.host)
    }

    /// Inference servers, those with most to do first.
    fn engines(&self) -> String {
        let names =
            "hbpf_engine_(requests_running|requests_waiting|kv_cache_ratio|prefix_cache_hit_ratio|agreement_ratio)";
        let busiest = format!("topk({MAX_ROWS}, {})", self.selector("hbpf_engine_requests_running"));
        format!("{} and on ({},engine,endpoint) {busiest}", self.named(names), self.host)
    }

    /// How many hosts have found something, by rule and severity.
    fn findings(&self) -> String {
        format!("count by (rule,severity) ({})", self.selector("hbpf_finding"))
    }

    /// Hosts whose agents were there and are there no more.
    fn gone(&self) -> String {
        let info = self.selector("hbpf_build_info");
        let range = self.range.max(3600);
        format!(
            "topk({MAX_ROWS}, count by ({0}) (last_over_time({info}[{range}s])) unless on ({0}) count by ({0}) ({info}))",
            self.host
        )
    }

    /// What was lost, by cause.
    fn lost(&self) -> String {
        self.increase("hbpf_capture_lost_total", "cause")
    }

    /// On how many hosts a group of probes is in place, and on how many it is not.
    fn groups(&self) -> String {
        format!("count_values by (group) (\"up\", {})", self.selector("hbpf_probe_group_up"))
    }

    /// What observing costs where it costs most.
    fn overhead(&self) -> String {
        let names = "hbpf_capture_(overhead_ratio|overhead_budget_ratio|self_cpu_ratio|self_resident_bytes)";
        format!("max by (__name__) ({})", self.named(names))
    }
}
