//! The programs in the kernel: loading them, putting them in place by groups, and taking all of it back.
//!
//! Nothing is pinned: programs, maps and links live exactly as long as the descriptors of this process.

mod block;
pub(crate) mod cgroup;
mod device;
pub mod every;
mod mount;
mod object;
pub(crate) mod on_cgroup;
pub(crate) mod raw;
mod reaper;
mod stdio;
mod tls;
mod tracefs;
mod trap;
mod user;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{Program, ProgramError, RawTracePoint};
use aya::sys::{Stats, enable_stats};
use hbpf_core::label::Label;
use hbpf_ebpf::{EVENTS_RING_BYTES, LifecycleEvent, Tally, TallyKey, counter, limit, target};

use crate::btf::Places;
use crate::discover::{Library, LibraryId, StdioServer};
use crate::privsep;
use crate::protocol::{
    Group, Limits, MAX_LEARNED_TARGETS, MAX_TARGET_BYTES, MAX_TLS_USERS, ProbeStatus, TlsUser, Trap, TrapCost,
};
use object::Object;
use stdio::Stdio;
pub use tls::NOTHING_TO_PROBE;
use tls::Tls;
pub(crate) use user::links_have_many_places;
pub(crate) use verdicts::Verdicts;

/// Longest text of an error that is handed on: a verifier's log has thousands of lines.
const MAX_ERROR_CHARS: usize = 300;

/// Most programs that are loaded at a time: a group has few that take long.
const MAX_AT_ONCE: usize = 4;

/// Programs on process starts and ends, needed by every group, and their tracepoints.
const LIFECYCLE_PROGRAMS: [(&str, &str); 2] = [EXEC_PROGRAM, END_PROGRAM];
const EXEC_PROGRAM: (&str, &str) = ("process_exec", "sched_process_exec");
const END_PROGRAM: (&str, &str) = ("process_end", "sched_process_exit");

/// Needed while processes are probed one by one.
const FORK_PROGRAM: (&str, &str) = ("process_fork", "task_newtask");

/// In place of the second where the tracepoint does not say whether a thread was its process's last (before Linux 6.16).
const EXIT_PROGRAM: (&str, &str) = ("process_exit", "sched_process_exit");

/// Why something could not be put in place. One line, for the user to see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ProbeError(String);

impl ProbeError {
    fn new(what: &str, error: &dyn Error) -> Self {
        Self(format!("{what}: {}", one_line(error)))
    }
}

/// The ring of captured records, for the side that reads it, and what wakes that when much gathers.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) fd: OwnedFd,
    pub(crate) bytes: u32,
    pub(crate) bell: OwnedFd,
}

enum State {
    Off,
    On,
    Failed(String),
}

/// Everything of ours in the kernel.
pub(crate) struct Probes {
    loaded: Option<Loaded>,
    tls: Tls,
    stdio: Stdio,
    verdicts: Verdicts,
    states: BTreeMap<Group, State>,
    /// Hashes of learned request-targets; they outlive the maps.
    learned: BTreeSet<u64>,
    cgroup: Option<Label>,
    block: Option<block::Attached>,
    /// They outlive the maps.
    limits: Limits,
    /// What traps cost; measured when the first are to be put in place.
    trap_cost: Option<TrapCost>,
}

/// What exists while any group is on.
struct Loaded {
    object: Object,
    places: Places,
    lifecycle: RingBuf<MapData>,
    targets: HashMap<MapData, u64, u8>,
    counters: PerCpuArray<MapData, u64>,
    limits: Array<MapData, u64>,
    /// Whether an end of a process is that of its last thread.
    ends_are_certain: bool,
    watches_forks: bool,
    /// While it is open, the kernel counts runs and run time of programs.
    stats: Option<OwnedFd>,
}

impl Probes {
    pub(crate) fn new() -> Self {
        let states = Group::ALL.into_iter().map(|group| (group, State::Off)).collect();
        let (learned, limits) = (BTreeSet::new(), Limits::default());
        Self {
            loaded: None,
            tls: Tls::default(),
            stdio: Stdio::default(),
            verdicts: Verdicts::default(),
            states,
            learned,
            cgroup: None,
            block: None,
            limits,
            trap_cost: None,
        }
    }

    pub(crate) fn is_on(&self, group: Group) -> bool {
        matches!(self.states[&group], State::On)
    }

    fn any_on(&self) -> bool {
        self.states.values().any(|state| matches!(state, State::On))
    }

    /// Puts a group in place. The ring comes back when it has been made for this.
    pub(crate) fn attach(&mut self, group: Group) -> Result<Option<Ring>, ProbeError> {
        if self.is_on(group) {
            return Ok(None);
        }
        let result = self.try_attach(group);
        match &result {
            Ok(_) => self.states.insert(group, State::On),
            Err(error) => self.states.insert(group, State::Failed(error.to_string())),
        };
        if result.is_err() {
            self.take_out(group);
        }
        result
    }

    fn try_attach(&mut self, group: Group) -> Result<Option<Ring>, ProbeError> {
        if let Some(lack) = privsep::lack(group) {
            return Err(ProbeError(lack));
        }
        let ring = match self.loaded {
            Some(_) => None,
            None => Some(self.load()?),
        };
        let loaded = self.loaded.as_mut().expect("loaded above");
        if matches!(group, Group::LlmTls | Group::Tools) && self.trap_cost.is_none() {
            self.trap_cost = trap::measure(&mut loaded.object);
        }
        match group {
            Group::LlmTls => self.tls.attach(&mut loaded.object)?,
            Group::Tools => Stdio::attach(&mut loaded.object)?,
            Group::LlmPlain => self.cgroup = Some(on_cgroup::attach(&mut loaded.object.ebpf, &on_cgroup::PLAIN)?),
            Group::Block => self.block = Some(block::attach(&mut loaded.object, loaded.places.request)?),
            Group::Net => self.cgroup = Some(on_cgroup::attach(&mut loaded.object.ebpf, &on_cgroup::NET)?),
            Group::Device => {
                if loaded.places.task_tgid_at.is_none() {
                    let lack = "who opens a device is not known: this kernel does not describe its types (BTF)";
                    return Err(ProbeError(lack.into()));
                }
                self.cgroup = Some(device::attach(&mut loaded.object.ebpf)?);
            }
        }
        Ok(ring)
    }

    /// Failures to put probes into single libraries since the last call; they do not fail the group.
    pub(crate) fn take_library_errors(&mut self) -> Vec<ProbeError> {
        self.tls.take_errors()
    }

    /// The same of single servers.
    pub(crate) fn take_server_errors(&mut self) -> Vec<ProbeError> {
        self.stdio.take_errors()
    }

    /// Looks at the standard input and output of a process, while that group is on. Says whether it does.
    pub(crate) fn add_server(&mut self, server: &StdioServer) -> bool {
        let is_on = self.is_on(Group::Tools);
        self.loaded.as_mut().filter(|_| is_on).is_some_and(|loaded| self.stdio.add(server, &mut loaded.object))
    }

    /// Has everything ready for servers that are yet to come.
    pub(crate) fn prepare_for_servers(&mut self) {
        if self.is_on(Group::Tools)
            && let Some(loaded) = &mut self.loaded
        {
            self.stdio.prepare(&mut loaded.object);
        }
    }

    /// A process's standard input and output are not to be looked at any more: it has ended, or speaks something else than was
    /// looked for.
    pub(crate) fn remove_server(&mut self, pid: u32) {
        if let Some(loaded) = &mut self.loaded {
            self.stdio.remove(pid, &mut loaded.object.ebpf);
        }
    }

    /// Takes a group out, and everything with the last one.
    pub(crate) fn detach(&mut self, group: Group) {
        self.states.insert(group, State::Off);
        self.take_out(group);
    }

    fn take_out(&mut self, group: Group) {
        let others: Vec<Group> = Group::ALL.into_iter().filter(|other| *other != group && self.is_on(*other)).collect();
        if let Some(loaded) = &mut self.loaded {
            if group == Group::LlmTls {
                self.tls.detach(&mut loaded.object);
            }
            if group == Group::Tools {
                self.stdio.detach(&mut loaded.object);
            }
            if group == Group::Block {
                self.block = None;
            }
            let is_needed = |name| others.iter().any(|other| programs(*other).contains(name));
            for name in programs(group).iter().filter(|name| !is_needed(name)) {
                loaded.object.unload(name);
            }
        }
        if !self.any_on() {
            self.loaded = None;
            self.verdicts.set_map(None);
        }
    }

    /// Loads the maps and what all groups need.
    fn load(&mut self) -> Result<Ring, ProbeError> {
        let places = Places::read();
        let mut object = Object::load(&places)?;
        let ebpf = &mut object.ebpf;
        let ring = Ring { fd: ring_fd(ebpf, "EVENTS")?, bytes: EVENTS_RING_BYTES, bell: ring_fd(ebpf, "BELL")? };
        let mut targets: HashMap<_, u64, u8> = typed(ebpf, "TARGETS")?;
        let builtin = hbpf_core::dialect::target_patterns().iter().map(|pattern| target::hash(pattern.as_bytes()));
        for hash in builtin.chain(self.learned.iter().copied()) {
            targets.insert(hash, 1, 0).map_err(|error| ProbeError::new("map TARGETS", &error))?;
        }
        self.verdicts.set_map(Some(typed(ebpf, "VERDICTS")?));
        let mut limits = typed(ebpf, "LIMITS")?;
        write_limits(&mut limits, self.limits)?;
        let loaded = Loaded {
            places,
            limits,
            lifecycle: typed(ebpf, "LIFECYCLE")?,
            targets,
            counters: typed(ebpf, "COUNTERS")?,
            ends_are_certain: false,
            watches_forks: false,
            // Costs are shown as unknown without it.
            stats: enable_stats(Stats::RunTime).ok(),
            object,
        };
        let loaded = self.loaded.insert(loaded);
        attach_tracepoint(&mut loaded.object.ebpf, EXEC_PROGRAM)?;
        loaded.ends_are_certain = attach_tracepoint(&mut loaded.object.ebpf, END_PROGRAM).is_ok();
        if !loaded.ends_are_certain {
            attach_tracepoint(&mut loaded.object.ebpf, EXIT_PROGRAM)?;
        }
        Ok(ring)
    }

    /// Puts probes into a library, now or when the group is switched on.
    pub(crate) fn add_library(&mut self, library: Library) {
        let on = self.is_on(Group::LlmTls);
        let object = self.loaded.as_mut().filter(|_| on).map(|loaded| &mut loaded.object);
        self.tls.add(library, object);
    }

    /// Takes the probes out of a library that nobody uses any more.
    pub(crate) fn remove_library(&mut self, id: LibraryId) {
        self.tls.remove(id);
    }

    /// Processes in which the TLS probes shall not be, in place of those named before. [`Self::settle`] carries it out.
    pub(crate) fn exclude(&mut self, pids: BTreeSet<u32>) {
        self.tls.exclude(pids);
    }

    /// Whether the TLS probes shall not be in some processes, and so have to be put into each of the others.
    pub(crate) fn excludes_any(&self) -> bool {
        self.tls.excludes_any()
    }

    /// Has the TLS probes where they shall be, given who uses which library.
    pub(crate) fn settle(&mut self, users: &dyn Fn(LibraryId) -> BTreeSet<u32>) {
        if !self.is_on(Group::LlmTls) {
            return;
        }
        let Some(loaded) = &mut self.loaded else { return };
        self.tls.settle(&mut loaded.object, users);
        // Forks matter only while processes are probed one by one.
        match (self.tls.excludes_any(), loaded.watches_forks) {
            // Without it, children are found by the scan of all processes.
            (true, false) => loaded.watches_forks = attach_tracepoint(&mut loaded.object.ebpf, FORK_PROGRAM).is_ok(),
            (false, true) => {
                loaded.object.unload(FORK_PROGRAM.0);
                loaded.watches_forks = false;
            }
            _ => {}
        }
    }

    /// The process has ended.
    pub(crate) fn process_ended(&mut self, pid: u32) {
        self.tls.ended(pid);
    }

    /// What processes have made of their TLS libraries, those with most calls first.
    pub(crate) fn tls_users(&self) -> Vec<TlsUser> {
        let Some(map) = self.loaded.as_ref().and_then(|loaded| loaded.object.ebpf.map("TLS_USERS")) else {
            return Vec::new();
        };
        let Ok(users) = HashMap::<_, u32, Use>::try_from(map) else { return Vec::new() };
        let user = |(pid, Use([calls, model_messages]))| TlsUser { pid, calls, model_messages };
        let mut users: Vec<TlsUser> = users.iter().filter_map(Result::ok).map(user).collect();
        users.sort_unstable_by_key(|user| (std::cmp::Reverse(user.calls), user.pid));
        users.truncate(MAX_TLS_USERS);
        users
    }

    /// Takes the probes out of a process whose standard input and output speak something else.
    pub(crate) fn refute_server(&mut self, pid: u32) {
        if let Some(loaded) = &mut self.loaded {
            self.stdio.remove(pid, &mut loaded.object.ebpf);
        }
    }

    /// Where verdicts are carried out.
    pub(crate) fn verdicts(&self) -> Verdicts {
        self.verdicts.clone()
    }

    /// What went wrong with one of them.
    pub(crate) fn take_verdict_error(&mut self) -> Option<ProbeError> {
        self.verdicts.take_error()
    }

    /// Captures messages to this request-target from their first byte from now on.
    pub(crate) fn learn(&mut self, path: &str) -> Result<(), ProbeError> {
        // A pattern of one character would match nearly every path.
        let fits = (2..=MAX_TARGET_BYTES).contains(&path.len()) && path.starts_with('/') && !path.contains(['?', '#']);
        let fits = fits && path.bytes().all(|byte| byte.is_ascii_graphic());
        let hash = target::hash(path.as_bytes());
        if !fits || self.learned.len() >= MAX_LEARNED_TARGETS || !self.learned.insert(hash) {
            return Ok(());
        }
        match &mut self.loaded {
            Some(loaded) => loaded.targets.insert(hash, 1, 0).map_err(|error| ProbeError::new("map TARGETS", &error)),
            None => Ok(()),
        }
    }

    /// Bounds what is copied from now on.
    pub(crate) fn limit(&mut self, limits: Limits) -> Result<(), ProbeError> {
        self.limits = limits;
        self.loaded.as_mut().map_or(Ok(()), |loaded| write_limits(&mut loaded.limits, limits))
    }

    /// To poll for starts and ends of processes.
    pub(crate) fn lifecycle_fd(&self) -> Option<BorrowedFd<'_>> {
        self.loaded.as_ref().map(|loaded| loaded.lifecycle.as_fd())
    }

    /// Whether an end of a process that was read is that of its last thread; else it is that of its first.
    pub(crate) fn ends_are_certain(&self) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| loaded.ends_are_certain)
    }

    /// Starts and ends of processes, at most `limit` of them.
    pub(crate) fn read_lifecycle(&mut self, limit: usize) -> Vec<LifecycleEvent> {
        let Some(loaded) = &mut self.loaded else { return Vec::new() };
        let next = || loaded.lifecycle.next().map(|record| decode_lifecycle(&record));
        std::iter::from_fn(next).take(limit).flatten().collect()
    }

    /// Counters summed over CPUs; `None` while nothing is loaded.
    pub(crate) fn counters(&self) -> Option<[u64; counter::COUNT as usize]> {
        let counters = &self.loaded.as_ref()?.counters;
        let mut sums = [0; counter::COUNT as usize];
        for (index, sum) in (0..).zip(&mut sums) {
            *sum = counters.get(&index, 0).ok()?.iter().sum();
        }
        Some(sums)
    }

    /// What the programs have counted since the call before, and whether that is all of it.
    pub(crate) fn take_tallies(&mut self) -> (Vec<(TallyKey, Tally)>, Result<(), ProbeError>) {
        let Some(loaded) = &mut self.loaded else { return (Vec::new(), Ok(())) };
        if matches!(self.states[&Group::Device], State::On) {
            device::watch(&mut loaded.object.ebpf);
        }
        let Some(map) = loaded.object.ebpf.map("TALLIES") else { return (Vec::new(), Ok(())) };
        let (tallies, result) = raw::take_tallies(map);
        (tallies, result.map_err(|error| ProbeError::new("map TALLIES", &error)))
    }

    /// What a trap costs; `None` before it has been measured, and where it cannot be.
    pub(crate) fn trap_cost(&self) -> Option<TrapCost> {
        self.trap_cost
    }

    /// Every program at every place.
    pub(crate) fn status(&self) -> Vec<ProbeStatus> {
        let mut list = Vec::new();
        for (group, state) in &self.states {
            match state {
                State::Off => list.push(absent(*group, "off".into(), false)),
                State::Failed(why) => list.push(absent(*group, why.clone(), true)),
                State::On => self.status_of(*group, &mut list),
            }
        }
        if self.loaded.as_ref().is_some_and(|loaded| loaded.stats.is_none()) {
            // The kernel does not count, and says 0.
            list.iter_mut().for_each(|probe| (probe.runs, probe.run_time_ns) = (None, None));
        }
        list
    }

    fn status_of(&self, group: Group, list: &mut Vec<ProbeStatus>) {
        let Some(loaded) = &self.loaded else { return };
        match group {
            Group::LlmTls => self.tls.status(&loaded.object, list),
            Group::Tools => self.stdio.status(&loaded.object, list),
            Group::Block => {
                let places = self.block.iter().flat_map(|block| block.places.clone());
                list.extend(places.map(|(name, place)| present(group, name, place, None, &loaded.object)));
            }
            Group::LlmPlain | Group::Net | Group::Device => {
                let place = self.cgroup.clone().unwrap_or_default();
                // What two groups share is told, and its cost counted, with the first of them.
                let earlier = Group::ALL.into_iter().take_while(|other| *other != group);
                let earlier: Vec<Group> = earlier.filter(|other| self.is_on(*other)).collect();
                let is_told = |name| earlier.iter().any(|other| programs(*other).contains(name));
                let own = programs(group).iter().filter(|name| !is_told(name));
                list.extend(own.map(|name| present(group, name, place.clone(), None, &loaded.object)));
            }
        }
        // Shown once, with the first group that is on.
        if self.states.iter().find(|(_, state)| matches!(state, State::On)).map(|(first, _)| *first) == Some(group) {
            let programs = if loaded.ends_are_certain { LIFECYCLE_PROGRAMS } else { [EXEC_PROGRAM, EXIT_PROGRAM] };
            list.extend(programs.map(|(name, place)| present(group, name, Label::new(place), None, &loaded.object)));
        }
    }
}

/// The programs of a group, but for those in processes.
fn programs(group: Group) -> &'static [&'static str] {
    match group {
        Group::LlmTls | Group::Tools => &[],
        Group::LlmPlain => &on_cgroup::PLAIN,
        Group::Block => &block::PROGRAMS,
        Group::Net => &on_cgroup::NET,
        Group::Device => &device::PROGRAMS,
    }
}

/// Does the same with several things, some at a time, in any order. The verifier takes tenths of a second for the largest programs, and
/// lets others be loaded meanwhile.
fn side_by_side<T: Send, R: Send>(things: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    if things.len() < 2 {
        return things.into_iter().map(work).collect();
    }
    let most = things.len().min(MAX_AT_ONCE);
    let things = Mutex::new(things.into_iter());
    let next = || things.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work_on_some = || std::iter::from_fn(next).map(&work).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Where there can be no further thread, this one does it all.
        let another = |_| std::thread::Builder::new().spawn_scoped(scope, work_on_some).ok();
        let others: Vec<_> = (1..cores.min(most)).filter_map(another).collect();
        let mut done = work_on_some();
        done.extend(others.into_iter().filter_map(|other| other.join().ok()).flatten());
        done
    })
}

fn write_limits(map: &mut Array<MapData, u64>, limits: Limits) -> Result<(), ProbeError> {
    let set = map.set(limit::BYTES_PER_SECOND, limits.bytes_per_second, 0);
    set.map_err(|error| ProbeError::new("map LIMITS", &error))
}

fn absent(group: Group, why: String, failed: bool) -> ProbeStatus {
    let program = match group {
        Group::LlmTls => "ssl_*",
        Group::LlmPlain => "tcp_*",
        Group::Tools => "stdio_*",
        Group::Block => "block_*",
        Group::Net => "net_*",
        Group::Device => "device_*",
    };
    ProbeStatus {
        group,
        program: program.into(),
        attached_to: Label::default(),
        off_because: Some(why.into()),
        failed,
        runs: None,
        run_time_ns: None,
        missed: None,
        trap: None,
    }
}

fn present(group: Group, name: &str, place: Label, trap: Option<Trap>, object: &Object) -> ProbeStatus {
    let runs = object.program(name).and_then(raw::runs);
    ProbeStatus {
        group,
        program: name.into(),
        attached_to: place,
        off_because: None,
        failed: false,
        runs: runs.as_ref().map(|runs| runs.count),
        run_time_ns: runs.as_ref().map(|runs| runs.time_ns),
        missed: runs.and_then(|runs| runs.missed),
        trap,
    }
}

fn attach_tracepoint(ebpf: &mut Ebpf, (name, tracepoint): (&str, &str)) -> Result<(), ProbeError> {
    let program: &mut RawTracePoint = program(ebpf, name)?;
    program.load().and_then(|()| program.attach(tracepoint)).map(drop).map_err(|error| ProbeError::new(name, &error))
}

fn missing(name: &str) -> ProbeError {
    ProbeError(format!("{name}: not in the object"))
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<P, ProbeError>
where
    P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    P::try_from(program).map_err(|error| ProbeError::new(name, &error))
}

fn map(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map, ProbeError> {
    ebpf.take_map(name).ok_or_else(|| ProbeError(format!("map {name}: not in the object")))
}

fn typed<M>(ebpf: &mut Ebpf, name: &str) -> Result<M, ProbeError>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    M::try_from(map(ebpf, name)?).map_err(|error| ProbeError::new(&format!("map {name}"), &error))
}

/// A map that stays in the object: programs loaded later refer to it.
fn typed_within<'a, M>(ebpf: &'a mut Ebpf, name: &str) -> Result<M, ProbeError>
where
    M: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf.map_mut(name).ok_or_else(|| ProbeError(format!("map {name}: not in the object")))?;
    M::try_from(map).map_err(|error| ProbeError::new(&format!("map {name}"), &error))
}

/// A ring's descriptor. The map stays in the object: programs loaded later refer to it.
fn ring_fd(ebpf: &Ebpf, name: &str) -> Result<OwnedFd, ProbeError> {
    let Some(aya::maps::Map::RingBuf(ring)) = ebpf.map(name) else {
        return Err(ProbeError(format!("map {name}: not a ring")));
    };
    ring.fd().as_fd().try_clone_to_owned().map_err(|error| ProbeError::new(&format!("map {name}"), &error))
}

fn decode_lifecycle(record: &[u8]) -> Option<LifecycleEvent> {
    let (kind, rest) = record.split_first_chunk()?;
    let (pid, rest) = rest.split_first_chunk()?;
    let (timestamp, rest) = rest.split_first_chunk()?;
    let comm = *rest.first_chunk()?;
    Some(LifecycleEvent {
        kind: u32::from_ne_bytes(*kind),
        pid: u32::from_ne_bytes(*pid),
        timestamp_ns: u64::from_ne_bytes(*timestamp),
        comm,
    })
}

/// An error with its causes, in one line of bounded length.
fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        // Some errors say their cause themselves.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_ERROR_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Calls and model messages of a process.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Use([u64; 2]);

// SAFETY: two `u64` without padding.
unsafe impl aya::Pod for Use {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learned_targets_are_bounded_and_checked() {
        let mut probes = Probes::new();
        for bad in [
            "",
            "/",
            "v1/chat",
            "/a?key=secret",
            "/a b",
            "/caf\u{e9}",
            "/a\u{1b}[2J",
            "/a\0",
            &format!("/{}", "x".repeat(MAX_TARGET_BYTES)),
        ] {
            probes.learn(bad).unwrap();
        }
        assert!(probes.learned.is_empty());
        for number in 0..2 * MAX_LEARNED_TARGETS {
            probes.learn(&format!("/model/{number}")).unwrap();
        }
        assert_eq!(probes.learned.len(), MAX_LEARNED_TARGETS);
        assert!(probes.learned.contains(&target::hash(b"/model/0")));
    }

    #[test]
    fn lifecycle_records_are_decoded_whole_or_not_at_all() {
        let mut bytes = Vec::new();
        bytes.extend(2u32.to_ne_bytes());
        bytes.extend(77u32.to_ne_bytes());
        bytes.extend(5u64.to_ne_bytes());
        bytes.extend(*b"python3\0\0\0\0\0\0\0\0\0");
        let event = decode_lifecycle(&bytes).unwrap();
        assert_eq!((event.kind, event.pid, event.timestamp_ns, &event.comm[..7]), (2, 77, 5, &b"python3"[..]));
        assert!(decode_lifecycle(&bytes[..31]).is_none());
    }

    #[test]
    fn errors_are_one_line_of_bounded_length() {
        let error = std::io::Error::other("first\n  second ".repeat(100));
        let line = one_line(&error);
        assert!(line.starts_with("first second first") && line.ends_with('…') && !line.contains('\n'));
        assert_eq!(line.chars().count(), MAX_ERROR_CHARS + 1);
    }
}
