//! Who uses GPUs whose kernel drivers tell it: "DRM client usage stats" in `/proc/PID/fdinfo/FD`, as amdgpu, xe and i915 write
//! them (Documentation/gpu/drm-usage-stats.rst).
//!
//! A client of a driver is an open device; processes that have it by fork, or under several numbers, have the same client,
//! which counts once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hbpf_core::snapshot::GpuProcess;

use super::budget::Budget;
use super::files;
use super::machine::SHORTEST;
use crate::gpu::MAX_PROCESSES;

/// What looking at those with open devices, and for others, may cost each: a process takes some 2 us for each of its
/// descriptors.
const SHARE: f64 = 0.01;
const BURST: Duration = Duration::from_millis(20);

/// Descriptors looked at per process.
const MAX_DESCRIPTORS: usize = 4096;

/// Longest `fdinfo`: some ten lines for each engine and each kind of memory.
const MAX_BYTES: usize = 16 * 1024;

/// Most clients remembered.
const MAX_CLIENTS: usize = 4096;

/// Where the devices are.
const DEVICES: &str = "/dev/dri/";

/// Clients of all drivers.
#[derive(Debug)]
pub(super) struct Clients {
    root: PathBuf,
    /// Processes that have a device open, and the way through them.
    holders: HashSet<u32>,
    holding: Turn,
    /// The way through all, in search of others.
    searching: Turn,
    clients: HashMap<Key, Client>,
}

/// The device's place on the bus, and the client's number with its driver.
type Key = (String, u64);

#[derive(Debug)]
struct Client {
    pid: u32,
    when: Instant,
    stats: Stats,
    /// By engine, since the time before; `None` until there were two.
    busy: Option<BTreeMap<String, f64>>,
}

/// What one `fdinfo` says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Stats {
    place: String,
    client: Option<u64>,
    /// Nanoseconds that each engine has worked for this client.
    busy_ns: BTreeMap<String, u64>,
    /// The same in cycles, and all cycles of the engine.
    cycles: BTreeMap<String, (u64, u64)>,
    /// How many engines there are of a kind, if more than one.
    capacity: BTreeMap<String, u64>,
    memory_bytes: Option<u64>,
}

/// What one GPU is used for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DrmUse {
    /// Ascending by pid.
    pub(crate) processes: Vec<GpuProcess>,
    /// Of its busiest engine; `None` until it is known.
    pub(crate) utilization_percent: Option<f64>,
}

impl Clients {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, holders: HashSet::new(), holding: Turn::new(), searching: Turn::new(), clients: HashMap::new() }
    }

    /// Looks at processes that have devices open, and at others, both in turn. Gives what each GPU is used for, by its
    /// place on the bus.
    pub(super) fn sample(&mut self) -> HashMap<String, DrmUse> {
        let (mut seen, mut looked_at) = (HashMap::new(), HashSet::new());
        let Self { root, holders, holding, searching, .. } = self;
        let mut look = |pid: u32, holders: &mut HashSet<u32>| {
            if looked_at.insert(pid) {
                let holds = look_at(root, pid, &mut seen);
                if holds {
                    holders.insert(pid)
                } else {
                    holders.remove(&pid)
                };
            }
        };
        let known: Vec<u32> = holders.iter().copied().collect();
        holding.go(|| known, |pid| look(pid, holders));
        searching.go(|| files::pids(root), |pid| look(pid, holders));
        // Whoever was looked at and not seen has closed the device, or ended.
        self.clients.retain(|key, client| seen.contains_key(key) || !looked_at.contains(&client.pid));
        let now = Instant::now();
        for (key, (pid, stats)) in seen {
            self.update(key, pid, stats, now);
        }
        self.by_gpu()
    }

    fn update(&mut self, key: Key, pid: u32, stats: Stats, now: Instant) {
        match self.clients.get_mut(&key) {
            Some(client) if now.duration_since(client.when) < SHORTEST => client.pid = client.pid.min(pid),
            Some(client) => {
                // It may be looked at by way of another that has it.
                let pid = if self.holders.contains(&client.pid) { client.pid.min(pid) } else { pid };
                let busy = stats.busy_since(&client.stats, now.duration_since(client.when));
                *client = Client { pid, when: now, stats, busy: Some(busy) };
            }
            None => _ = self.clients.insert(key, Client { pid, when: now, stats, busy: None }),
        }
    }

    fn by_gpu(&self) -> HashMap<String, DrmUse> {
        let mut gpus: HashMap<String, Sum<'_>> = HashMap::new();
        for ((place, _), client) in &self.clients {
            gpus.entry(place.clone()).or_default().add(client);
        }
        gpus.into_iter().map(|(place, sum)| (place, sum.into_use())).collect()
    }
}

/// Adds the clients that a process has; whether it has any.
fn look_at(root: &Path, pid: u32, seen: &mut HashMap<Key, (u32, Stats)>) -> bool {
    let directory = files::process(root, pid);
    let mut holds = false;
    for entry in fs::read_dir(directory.join("fd")).into_iter().flatten().take(MAX_DESCRIPTORS).flatten() {
        let link = fs::read_link(entry.path()).unwrap_or_default();
        if !link.as_os_str().as_encoded_bytes().starts_with(DEVICES.as_bytes()) || seen.len() >= MAX_CLIENTS {
            continue;
        }
        let path = directory.join("fdinfo").join(entry.file_name());
        let Ok(file) = files::read(&path, MAX_BYTES) else { continue };
        let stats = Stats::parse(&file.bytes);
        let Some(client) = stats.client.filter(|_| !stats.place.is_empty()) else { continue };
        holds = true;
        // Of several processes the one with the lowest number, commonly the eldest, is told.
        let entry = seen.entry((stats.place.clone(), client)).or_insert_with(|| (pid, stats));
        entry.0 = entry.0.min(pid);
    }
    holds
}

/// A way through processes, a part at a time.
#[derive(Debug)]
struct Turn {
    left: Vec<u32>,
    budget: Budget,
}

impl Turn {
    fn new() -> Self {
        Self { left: Vec::new(), budget: Budget::new(SHARE, BURST) }
    }

    /// Goes on as far as the budget lets it; from the beginning, through `all` of then, when it was at the end.
    fn go(&mut self, all: impl FnOnce() -> Vec<u32>, mut look: impl FnMut(u32)) {
        if self.left.is_empty() {
            self.left = all();
        }
        self.budget.begin();
        while self.budget.is_left() {
            let Some(pid) = self.left.pop() else { break };
            look(pid);
        }
        self.budget.end();
    }
}

/// All clients of one GPU.
#[derive(Default)]
struct Sum<'a> {
    processes: BTreeMap<u32, GpuProcess>,
    engines: BTreeMap<&'a str, f64>,
    /// Of some it is not known yet what they use.
    is_partial: bool,
}

impl<'a> Sum<'a> {
    fn add(&mut self, client: &'a Client) {
        let new = || GpuProcess { pid: client.pid, ..GpuProcess::default() };
        let process = self.processes.entry(client.pid).or_insert_with(new);
        add(&mut process.memory_bytes, client.stats.memory_bytes);
        let Some(busy) = &client.busy else {
            self.is_partial = true;
            return;
        };
        // Where no engine is told of, as of compute on AMD's GPUs that goes past them, nothing is known.
        let Some(most) = busy.values().copied().reduce(f64::max) else {
            self.is_partial = true;
            return;
        };
        process.sm_percent = Some((process.sm_percent.unwrap_or(0.0) + most).min(100.0));
        for (engine, percent) in busy {
            *self.engines.entry(engine).or_default() += percent;
        }
    }

    fn into_use(self) -> DrmUse {
        let busiest = self.engines.values().copied().reduce(f64::max).map(|busiest| busiest.min(100.0));
        let mut processes: Vec<GpuProcess> = self.processes.into_values().collect();
        // Who holds most is kept.
        processes.sort_by_key(|process| std::cmp::Reverse(process.memory_bytes));
        processes.truncate(MAX_PROCESSES);
        processes.sort_by_key(|process| process.pid);
        DrmUse { processes, utilization_percent: busiest.filter(|_| !self.is_partial) }
    }
}

impl Stats {
    fn parse(bytes: &[u8]) -> Self {
        let mut stats = Self::default();
        let (mut resident, mut legacy) = (None, None);
        for line in files::lines(bytes).filter_map(|line| std::str::from_utf8(line).ok()) {
            let Some((key, value)) = line.split_once(':') else { continue };
            let Some(key) = key.strip_prefix("drm-") else { continue };
            let value = value.trim();
            let number = || value.split_ascii_whitespace().next().and_then(|number| number.parse::<u64>().ok());
            // Of an engine, or of memory, by its name.
            let of = |prefix: &str| key.strip_prefix(prefix).map(str::to_owned);
            match (key, number()) {
                ("pdev", _) => value.clone_into(&mut stats.place),
                ("client-id", client) => stats.client = client,
                (_, Some(number)) => {
                    if let Some(engine) = of("engine-capacity-") {
                        stats.capacity.insert(engine, number);
                    } else if let Some(engine) = of("engine-") {
                        stats.busy_ns.insert(engine, number);
                    } else if let Some(engine) = of("total-cycles-") {
                        stats.cycles.entry(engine).or_default().1 = number;
                    } else if let Some(engine) = of("cycles-") {
                        stats.cycles.entry(engine).or_default().0 = number;
                    } else if of("resident-").is_some_and(|region| is_local(&region)) {
                        add(&mut resident, bytes_of(value));
                    } else if of("memory-").is_some_and(|region| is_local(&region)) {
                        add(&mut legacy, bytes_of(value));
                    }
                }
                (_, None) => {}
            }
        }
        stats.memory_bytes = resident.or(legacy);
        stats
    }

    /// Percent of each engine.
    fn busy_since(&self, before: &Self, elapsed: Duration) -> BTreeMap<String, f64> {
        let by_time = self.busy_ns.iter().filter_map(|(engine, now)| {
            let ns = now.saturating_sub(*before.busy_ns.get(engine)?);
            let capacity = self.capacity.get(engine).copied().unwrap_or(1).max(1) as f64;
            Some((engine.clone(), 100.0 * Duration::from_nanos(ns).as_secs_f64() / elapsed.as_secs_f64() / capacity))
        });
        let by_cycles = self.cycles.iter().filter_map(|(engine, (now, total))| {
            let (cycles, all) = before.cycles.get(engine)?;
            let passed = total.checked_sub(*all).filter(|passed| *passed > 0)?;
            Some((engine.clone(), 100.0 * now.saturating_sub(*cycles) as f64 / passed as f64))
        });
        by_time.chain(by_cycles).map(|(engine, percent)| (engine, percent.min(100.0))).collect()
    }
}

/// Memory of the GPU itself (`vram`, `vram0`, `local0`), not that of the host which it can reach.
fn is_local(region: &str) -> bool {
    region.starts_with("vram") || region.starts_with("local")
}

/// `N`, `N KiB` or `N MiB`
fn bytes_of(value: &str) -> Option<u64> {
    let mut fields = value.split_ascii_whitespace();
    let number: u64 = fields.next()?.parse().ok()?;
    let unit = match fields.next() {
        None => 1,
        Some("KiB") => 1 << 10,
        Some("MiB") => 1 << 20,
        Some(_) => return None,
    };
    number.checked_mul(unit)
}

fn add(sum: &mut Option<u64>, value: Option<u64>) {
    if let Some(value) = value {
        *sum = Some(sum.unwrap_or(0).saturating_add(value));
    }
}

/// Reads the bytes as the file that is read here.
#[cfg(feature = "fuzzing")]
pub(super) fn parse_as_all(bytes: &[u8]) {
    let stats = Stats::parse(bytes);
    stats.busy_since(&stats, Duration::from_secs(1));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A process with these descriptors: what they lead to, and their `fdinfo`.
    fn process(root: &Path, pid: u32, descriptors: &[(&str, &str)]) {
        let directory = files::process(root, pid);
        let _ = fs::remove_dir_all(&directory);
        for name in ["fd", "fdinfo"] {
            fs::create_dir_all(directory.join(name)).unwrap();
        }
        for (number, (link, info)) in descriptors.iter().enumerate() {
            symlink(link, directory.join("fd").join(number.to_string())).unwrap();
            fs::write(directory.join("fdinfo").join(number.to_string()), info).unwrap();
        }
    }

    fn amdgpu(client: u64, compute_ns: u64, kibibytes: u64) -> String {
        format!(
            "pos:\t0\nflags:\t02100002\ndrm-driver:\tamdgpu\ndrm-pdev:\t0000:03:00.0\ndrm-client-id:\t{client}\n\
             drm-memory-vram:\t{kibibytes} KiB\ndrm-memory-gtt: \t9 KiB\ndrm-engine-gfx:\t1 ns\ndrm-engine-compute:\t{compute_ns} ns\n"
        )
    }

    /// As if the sample before had been taken an hour ago, so that the time that a test takes is nothing beside it.
    fn sample_an_hour_later(clients: &mut Clients) -> HashMap<String, DrmUse> {
        clients.clients.values_mut().for_each(|client| client.when -= HOUR);
        clients.sample()
    }

    #[test]
    fn a_client_counts_once_however_many_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let device = "/dev/dri/renderD128";
        let state = |compute: u64| {
            process(
                dir.path(),
                10,
                &[(device, &amdgpu(7, compute, 2048)), ("/dev/null", ""), (device, &amdgpu(7, compute, 2048))],
            );
            // A child that has inherited it, with another of its own.
            process(dir.path(), 11, &[(device, &amdgpu(7, compute, 2048)), (device, &amdgpu(8, 2 * compute, 1024))]);
            process(dir.path(), 12, &[("socket:[1]", &amdgpu(9, 1, 1))]);
        };
        state(0);
        let mut clients = Clients::new(dir.path().to_owned());
        let first = clients.sample();
        let gpu = &first["0000:03:00.0"];
        assert_eq!((gpu.utilization_percent, gpu.processes.len()), (None, 2));
        assert_eq!((gpu.processes[0].pid, gpu.processes[0].sm_percent), (10, None));
        state(HOUR.as_nanos() as u64 / 10 * 3);
        let second = sample_an_hour_later(&mut clients);
        let gpu = &second["0000:03:00.0"];
        let rounded = |percent: Option<f64>| percent.map(f64::round);
        let of = |process: &GpuProcess| (process.pid, rounded(process.sm_percent), process.memory_bytes);
        let processes: Vec<_> = gpu.processes.iter().map(of).collect();
        assert_eq!(processes, [(10, Some(30.0), Some(2 << 20)), (11, Some(60.0), Some(1 << 20))]);
        assert_eq!(rounded(gpu.utilization_percent), Some(90.0));
        // The child ends.
        fs::remove_dir_all(dir.path().join("11")).unwrap();
        assert_eq!(sample_an_hour_later(&mut clients)["0000:03:00.0"].processes.len(), 1);
        fs::remove_dir_all(dir.path().join("10")).unwrap();
        assert!(clients.sample().is_empty());
    }

    #[test]
    fn what_goes_past_the_engines_is_unknown_and_not_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let rocm = "drm-pdev:\t0000:03:00.0\ndrm-client-id:\t7\ndrm-resident-vram:\t9 MiB\n";
        process(dir.path(), 10, &[("/dev/dri/renderD128", rocm)]);
        let mut clients = Clients::new(dir.path().to_owned());
        clients.sample();
        let gpu = &sample_an_hour_later(&mut clients)["0000:03:00.0"];
        assert_eq!((gpu.utilization_percent, gpu.processes[0].sm_percent), (None, None));
        assert_eq!(gpu.processes[0].memory_bytes, Some(9 << 20));
    }

    #[test]
    fn users_that_are_told_are_bounded() {
        let mut sum = Sum::default();
        let clients: Vec<Client> = (0..1000_u32)
            .map(|pid| Client {
                pid,
                when: Instant::now(),
                stats: Stats { memory_bytes: Some(u64::from(pid)), ..Stats::default() },
                busy: None,
            })
            .collect();
        clients.iter().for_each(|client| sum.add(client));
        let processes = sum.into_use().processes;
        assert_eq!((processes.len(), processes[0].pid), (MAX_PROCESSES, 1000 - MAX_PROCESSES as u32), "who holds most");
    }

    #[test]
    fn xe_counts_in_cycles_and_says_what_is_resident() {
        let xe = |cycles: u64, all: u64| {
            Stats::parse(
                format!(
                    "drm-driver:\txe\ndrm-client-id:\t3\ndrm-pdev:\t0000:4d:00.0\ndrm-total-system:\t9 MiB\ndrm-resident-system:\t9 MiB\n\
                     drm-total-vram0:\t900 MiB\ndrm-resident-vram0:\t800 MiB\ndrm-cycles-ccs:\t{cycles}\ndrm-total-cycles-ccs:\t{all}\n\
                     drm-engine-capacity-ccs:\t4\n"
                )
                .as_bytes(),
            )
        };
        let (before, now) = (xe(100, 1000), xe(600, 2000));
        assert_eq!((now.memory_bytes, now.client, now.place.as_str()), (Some(800 << 20), Some(3), "0000:4d:00.0"));
        assert_eq!(now.busy_since(&before, Duration::from_secs(9)), BTreeMap::from([("ccs".to_owned(), 50.0)]));
        assert!(before.busy_since(&now, Duration::from_secs(1)).is_empty(), "counters that run backwards");
    }

    #[test]
    fn engines_of_a_kind_share_their_time() {
        let i915 = |ns: u64| {
            Stats::parse(
                format!("drm-engine-video: {ns} ns\ndrm-engine-capacity-video: 2\ndrm-engine-render: 0 ns\n")
                    .as_bytes(),
            )
        };
        let busy = i915(1_000_000_000).busy_since(&i915(0), Duration::from_secs(1));
        assert_eq!(busy, BTreeMap::from([("render".to_owned(), 0.0), ("video".to_owned(), 50.0)]));
    }

    #[test]
    fn what_makes_no_sense_is_unknown() {
        let odd = "drm-pdev\ndrm-client-id:\t-1\ndrm-memory-vram:\t18446744073709551615 KiB\ndrm-resident-vram0:\t5 GiB\ndrm-engine-:\t\n\
                   drm-engine-gfx:\tx\ndrm-:\nfoo: bar\n";
        assert_eq!(Stats::parse(odd.as_bytes()), Stats::default());
        assert_eq!(Stats::parse(&[0xff; 100]), Stats::default());
        let dir = tempfile::tempdir().unwrap();
        process(dir.path(), 10, &[("/dev/dri/card0", "drm-client-id:\t1\n"), ("/dev/dri/card0", "drm-pdev:\tx\n")]);
        assert!(Clients::new(dir.path().to_owned()).sample().is_empty(), "it takes both");
    }
}
