//! Which accelerators' devices processes hold open.
//!
//! The kernel side tells who opens one. How many of these openings are over is found out by looking at what the process
//! still holds: descriptors that were made of one another are one opening, whatever a process shares with its children each
//! of them holds, and whoever has ended holds nothing.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hbpf_ebpf::device_number;
use nix::libc;

use super::budget::Budget;
use super::files;
use super::stat::Stat;
use crate::devices::{self, Kind, Names};
use crate::protocol::Held;

/// What looking may cost: a process takes some 2 us for each of its descriptors.
const SHARE: f64 = 0.01;
const BURST: Duration = Duration::from_millis(20);

/// The same of the first look at all processes.
const FIRST_LOOK: Duration = Duration::from_millis(200);

/// Descriptors looked at per process.
const MAX_DESCRIPTORS: usize = 4096;

/// Most processes that are followed.
const MAX_PROCESSES: usize = 1024;

/// Stands for the start of a process that has ended.
const ENDED: u64 = u64::MAX;

/// Where devices are; in containers, too.
const DIRECTORY: &[u8] = b"/dev/";

/// Processes and the devices that they have opened since [`Holdings::begin`].
#[derive(Debug)]
pub(super) struct Holdings {
    proc: PathBuf,
    budget: Budget,
    /// When the first look was taken, as start times of processes count it; `None` before.
    begun_ns: Option<u64>,
    /// Whether the first look reached all processes.
    saw_all: bool,
    processes: BTreeMap<u32, Holder>,
    /// Where the next look goes on.
    next: u32,
    names: Names,
}

/// A process that has opened devices.
#[derive(Debug, Default)]
struct Holder {
    start_time_ns: u64,
    devices: BTreeMap<u32, Openings>,
}

/// Of one device by one process.
#[derive(Clone, Copy, Debug, Default)]
struct Openings {
    /// Held at first; `None` where that is not known.
    before: Option<u64>,
    opened: u64,
    /// `None` where it could not be looked at.
    open: Option<u32>,
    closed: u64,
}

/// What a look at a process has shown.
#[derive(Debug)]
enum Look {
    /// Its openings, by device.
    Holds(BTreeMap<u32, u32>),
    /// It may not be looked at, or not all of it.
    Unknown,
    Ended,
}

impl Holdings {
    pub(super) fn new(proc: PathBuf) -> Self {
        Self {
            names: Names::new(proc.clone()),
            proc,
            budget: Budget::new(SHARE, BURST),
            begun_ns: None,
            saw_all: false,
            processes: BTreeMap::new(),
            next: 0,
        }
    }

    /// Openings are told from now on. Takes a look at who holds what by now, as far as that does not take long.
    pub(super) fn begin(&mut self) {
        self.processes.clear();
        self.begun_ns = Some(files::boot_time().as_nanos() as u64);
        let majors = self.majors();
        self.saw_all = true;
        // Without a driver there is no device.
        if majors.is_empty() {
            return;
        }
        let mut budget = Budget::new(0.0, FIRST_LOOK);
        budget.begin();
        for pid in files::pids(&self.proc) {
            if !budget.is_left() {
                self.saw_all = false;
                break;
            }
            match look_at(&self.proc, pid, &majors) {
                Look::Holds(held) if !held.is_empty() => self.remember(pid, held),
                Look::Holds(_) | Look::Ended => {}
                Look::Unknown => self.saw_all = false,
            }
        }
    }

    fn remember(&mut self, pid: u32, held: BTreeMap<u32, u32>) {
        let Some(start_time_ns) = self.start_time_ns(pid).filter(|_| self.processes.len() < MAX_PROCESSES) else {
            return;
        };
        let openings = |open: u32| Openings { before: Some(open.into()), open: Some(open), ..Openings::default() };
        let devices = held.into_iter().map(|(device, open)| (device, openings(open))).collect();
        self.processes.insert(pid, Holder { start_time_ns, devices });
    }

    fn start_time_ns(&self, pid: u32) -> Option<u64> {
        Stat::read(&self.proc, pid).map(|stat| stat.start_time_ns())
    }

    /// The process has opened a device so many times. Of one that has ended by now nothing is to be found out.
    pub(super) fn opened(&mut self, pid: u32, device: u32, count: u64) {
        let Some(start_time_ns) = self.start_time_ns(pid) else { return };
        let is_followed = self.processes.get(&pid).is_some_and(|holder| holder.start_time_ns == start_time_ns);
        if !is_followed {
            if self.processes.len() >= MAX_PROCESSES {
                return;
            }
            self.processes.insert(pid, Holder { start_time_ns, ..Holder::default() });
        }
        // What it held at first of which nothing was seen then.
        let was_seen = self.saw_all || is_followed || Some(start_time_ns) >= self.begun_ns;
        let openings = self.processes.entry(pid).or_default().devices.entry(device);
        let openings = openings.or_insert(Openings { before: was_seen.then_some(0), ..Openings::default() });
        openings.opened = openings.opened.saturating_add(count);
    }

    /// Looks at what the processes hold that are known to have opened a device, in turn where there are too many to look at
    /// all. Tells those that it has looked at, and those that have ended for the last time.
    pub(super) fn look(&mut self) -> Vec<Held> {
        if self.processes.is_empty() {
            return Vec::new();
        }
        self.budget.begin();
        // What finding that out takes is not taken from what is left: else who asks again and again would never get an answer.
        if !self.budget.is_left() {
            return Vec::new();
        }
        let majors = self.majors();
        let from = self.next;
        let in_turn = self.processes.range(from..).chain(self.processes.range(..from)).map(|(pid, _)| *pid);
        let mut told = Vec::new();
        for pid in in_turn.collect::<Vec<_>>() {
            if !self.budget.is_left() {
                self.next = pid;
                break;
            }
            self.look_at(pid, &majors);
            self.tell(pid, &mut told);
        }
        self.budget.end();
        told
    }

    fn look_at(&mut self, pid: u32, majors: &HashSet<u32>) {
        let Some(holder) = self.processes.get_mut(&pid) else { return };
        let is_same = Stat::read(&self.proc, pid).is_some_and(|stat| stat.start_time_ns() == holder.start_time_ns);
        let look = if is_same { look_at(&self.proc, pid, majors) } else { Look::Ended };
        let held = match look {
            Look::Holds(held) => held,
            Look::Ended => BTreeMap::new(),
            Look::Unknown => {
                holder.devices.values_mut().for_each(|openings| openings.open = None);
                return;
            }
        };
        for device in held.keys() {
            // It has it from another process.
            holder.devices.entry(*device).or_insert(Openings { before: Some(0), ..Openings::default() });
        }
        for (device, openings) in &mut holder.devices {
            let open = held.get(device).copied().unwrap_or_default();
            openings.open = Some(open);
            // One that came after its opening was told is not told of again: the number corrects itself.
            let all = openings.before.unwrap_or_default() + openings.opened;
            openings.closed = openings.closed.max(all.saturating_sub(open.into()));
        }
        if !is_same {
            holder.start_time_ns = ENDED;
        }
    }

    fn tell(&mut self, pid: u32, told: &mut Vec<Held>) {
        let Self { names, processes, .. } = self;
        let Some(holder) = processes.get(&pid) else { return };
        told.extend(holder.devices.iter().map(|(device, openings)| Held {
            pid,
            device: names.of(Kind::Character, *device),
            open: openings.open,
            closed: openings.before.and(openings.open).map(|_| openings.closed),
        }));
        if holder.start_time_ns == ENDED {
            processes.remove(&pid);
        }
    }

    fn majors(&self) -> HashSet<u32> {
        devices::drivers(&self.proc).into_iter().map(|(major, _)| major).collect()
    }
}

/// The openings that a process holds of devices with these major numbers.
fn look_at(proc: &Path, pid: u32, majors: &HashSet<u32>) -> Look {
    let directory = files::process(proc, pid).join("fd");
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Look::Ended,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Look::Ended,
        Err(_) => return Look::Unknown,
    };
    let mut descriptors: BTreeMap<u32, Vec<i32>> = BTreeMap::new();
    for (index, entry) in entries.flatten().enumerate() {
        if index >= MAX_DESCRIPTORS {
            return Look::Unknown;
        }
        // What cannot be a device is not asked, for that takes longer than to read where it leads.
        let path = fs::read_link(entry.path()).unwrap_or_default();
        if !path.as_os_str().as_encoded_bytes().starts_with(DIRECTORY) {
            continue;
        }
        let Some((major, minor)) = device_of(&entry.path()).filter(|(major, _)| majors.contains(major)) else {
            continue;
        };
        if let Some(descriptor) = files::number::<i32>(entry.file_name().as_encoded_bytes()) {
            descriptors.entry(device_number(major, minor)).or_default().push(descriptor);
        }
    }
    Look::Holds(descriptors.into_iter().map(|(device, descriptors)| (device, distinct(pid, descriptors))).collect())
}

/// The numbers of a character device. A file system that hangs is not asked: what a descriptor leads to is its owner's choice.
fn device_of(path: &Path) -> Option<(u32, u32)> {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: integers all, for which zeros are valid.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and lives, like the place for the answer, for the call.
    let result =
        unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), libc::AT_STATX_DONT_SYNC, libc::STATX_TYPE, &mut found) };
    let is_device = result == 0 && u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFCHR;
    is_device.then_some((found.stx_rdev_major, found.stx_rdev_minor))
}

/// How many openings these descriptors of a process are of.
fn distinct(pid: u32, descriptors: Vec<i32>) -> u32 {
    // In the kernel's order. Not sorted by the library, which may panic when the order changes under its hands, as it does
    // where the process opens and closes meanwhile.
    let mut openings: Vec<i32> = Vec::with_capacity(descriptors.len());
    for descriptor in descriptors {
        if let Err(place) = openings.binary_search_by(|other| compare(pid, *other, descriptor)) {
            openings.insert(place, descriptor);
        }
    }
    openings.len() as u32
}

/// The kernel's order of two descriptors' openings (`kcmp`). One that it does not tell, since it was built without that, or the
/// process has closed one meanwhile, is that of their numbers.
fn compare(pid: u32, a: i32, b: i32) -> Ordering {
    const KCMP_FILE: i32 = 0;
    // SAFETY: the call takes five integers.
    match unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_FILE, a, b) } {
        0 => Ordering::Equal,
        1 => Ordering::Less,
        2 => Ordering::Greater,
        _ => a.cmp(&b),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// `/dev/zero`, whose driver stands in for an accelerator's.
    const ZERO: u32 = 1 << 20 | 5;

    /// All tests are one process, which holds the device for one of them at a time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    fn holdings() -> (Holdings, (tempfile::TempDir, MutexGuard<'static, ()>)) {
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // The real processes, and a driver's list of our own.
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("devices"), "Character devices:\n  1 drm\n").unwrap();
        let pid = std::process::id();
        std::os::unix::fs::symlink(format!("/proc/{pid}"), directory.path().join(pid.to_string())).unwrap();
        (Holdings::new(directory.path().to_owned()), (directory, guard))
    }

    fn zero(holdings: &mut Holdings) -> Option<(u32, Option<u64>)> {
        let told = holdings.look();
        let held = told.iter().find(|held| held.pid == std::process::id() && held.device.as_str() == "zero")?;
        Some((held.open?, held.closed))
    }

    #[test]
    fn openings_are_told_from_descriptors_and_their_ends_from_what_is_left() {
        let (mut holdings, _guards) = holdings();
        let before = File::open("/dev/zero").unwrap();
        holdings.begin();
        assert_eq!(zero(&mut holdings), Some((1, Some(0))), "held before");
        let pid = std::process::id();
        let second = File::open("/dev/zero").unwrap();
        let copies: Vec<File> = (0..5).map(|_| second.try_clone().unwrap()).collect();
        // The look comes before the news of the opening.
        assert_eq!(zero(&mut holdings), Some((2, Some(0))));
        holdings.opened(pid, ZERO, 1);
        assert_eq!(zero(&mut holdings), Some((2, Some(0))), "a copy is no opening");
        drop(second);
        assert_eq!(zero(&mut holdings), Some((2, Some(0))), "its copies are there");
        drop(copies);
        assert_eq!(zero(&mut holdings), Some((1, Some(1))));
        // Opened and closed between two looks.
        holdings.opened(pid, ZERO, 3);
        assert_eq!(zero(&mut holdings), Some((1, Some(4))));
        drop(before);
        assert_eq!(zero(&mut holdings), Some((0, Some(5))));
    }

    #[test]
    fn who_has_ended_holds_nothing_and_is_told_once_more() {
        let (mut holdings, (directory, _guard)) = holdings();
        holdings.begin();
        let stdin = File::open("/dev/zero").unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").stdin(stdin).spawn().unwrap();
        let pid = child.id();
        let link = directory.path().join(pid.to_string());
        std::os::unix::fs::symlink(format!("/proc/{pid}"), &link).unwrap();
        holdings.opened(pid, ZERO, 1);
        let mut of_child = || {
            let told = holdings.look();
            let held = told.iter().find(|held| held.pid == pid && held.device.as_str() == "zero")?;
            Some((held.open?, held.closed))
        };
        let running = of_child();
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_file(link).unwrap();
        assert_eq!(running, Some((1, Some(0))));
        assert_eq!(of_child(), Some((0, Some(1))));
        assert_eq!(of_child(), None);
    }

    #[test]
    fn what_a_process_held_before_is_not_known_where_nobody_looked() {
        let (mut holdings, _guards) = holdings();
        let file = File::open("/dev/zero").unwrap();
        holdings.begun_ns = Some(u64::MAX);
        holdings.opened(std::process::id(), ZERO, 1);
        assert_eq!(zero(&mut holdings), Some((1, None)));
        assert!(file.as_raw_fd() > 0);
    }

    #[test]
    fn where_there_are_too_many_each_has_its_turn() {
        let (mut holdings, (directory, _guard)) = holdings();
        holdings.begin();
        let stdin = || File::open("/dev/zero").unwrap();
        let sleeper = || std::process::Command::new("sleep").arg("60").stdin(stdin()).spawn().unwrap();
        let mut children: Vec<_> = (0..3).map(|_| sleeper()).collect();
        for child in &children {
            let pid = child.id();
            std::os::unix::fs::symlink(format!("/proc/{pid}"), directory.path().join(pid.to_string())).unwrap();
            holdings.opened(pid, ZERO, 1);
        }
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            // Not enough for two of them.
            holdings.budget = Budget::new(0.0, Duration::from_micros(20));
            let told = holdings.look();
            assert!(told.len() < children.len(), "{told:?}");
            seen.extend(told.iter().map(|held| held.pid));
        }
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(children.iter().all(|child| seen.contains(&child.id())), "{seen:?}");
    }
}
