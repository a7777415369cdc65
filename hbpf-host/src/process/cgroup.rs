//! Limits of control groups and how far they are used, on cgroup v1, v2, and both beside each other.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hbpf_core::label::Text;
use hbpf_core::snapshot::Cgroup;

use super::cgroup_path::Paths;
use super::files;
use super::machine::SHORTEST;
use super::mountinfo::{Mount, unescape};

/// Longest table of mounts that is read, and longest file of a group: `cpu.stat` has some twenty lines.
const MAX_MOUNTINFO_BYTES: usize = 4 * 1024 * 1024;
const MAX_FILE_BYTES: usize = 4096;

/// Most groups above each other that are looked at. Kubernetes in docker has eight.
const MAX_LEVELS: usize = 32;

/// Most groups remembered: one per process looked at closely, several times over.
const MAX_GROUPS: usize = 1024;

/// How long limits, and where hierarchies are mounted, hold before they are read again. Operators change them at run time.
const LIMITS_HOLD: Duration = Duration::from_secs(10);

/// A group that was not asked for is forgotten after this long.
const FORGET: Duration = Duration::from_secs(60);

/// Without a limit version 1 says the largest number of whole pages; no machine has half of that.
const NO_LIMIT_BYTES: u64 = 1 << 62;

/// Groups as they were when they were last read.
#[derive(Debug)]
pub(super) struct Cgroups {
    mountinfo: PathBuf,
    hierarchies: Option<(Instant, Hierarchies)>,
    groups: HashMap<Place, Group>,
}

/// Where the hierarchies are mounted from their root on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hierarchies {
    unified: Option<PathBuf>,
    /// Of version 1; where one is there, it has the controller.
    cpu: Option<PathBuf>,
    cpuacct: Option<PathBuf>,
    memory: Option<PathBuf>,
}

/// The directories of a process's groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    cpu: Option<Directory>,
    memory: Option<Directory>,
    /// Of version 1, where it is a hierarchy of its own.
    accounting: Option<Directory>,
}

/// A group in a hierarchy, below its root.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Directory {
    root: PathBuf,
    /// From the root, without a slash in front.
    path: String,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Version {
    One,
    Two,
}

#[derive(Debug)]
struct Group {
    asked_at: Instant,
    limits_read_at: Instant,
    limits: Limits,
    used: Option<(Instant, CpuUsed)>,
    latest: Cgroup,
}

/// The tightest limits, and which group has them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Limits {
    cores: Option<(f64, Directory)>,
    memory: Option<(u64, Directory)>,
}

/// Counters of a group since its making.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuUsed {
    cpu: Option<Duration>,
    periods: Option<u64>,
    throttled: Option<u64>,
}

impl Cgroups {
    /// `mountinfo` is the table of mounts.
    pub(super) fn new(mountinfo: PathBuf) -> Self {
        Self { mountinfo, hierarchies: None, groups: HashMap::new() }
    }

    /// Limits and use of the groups of a process; `None` where it is in the root of all that matters.
    pub(super) fn sample(&mut self, paths: &Paths<'_>) -> Option<Cgroup> {
        let now = Instant::now();
        let place = self.hierarchies(now).place(paths)?;
        self.forget(now);
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&place) {
            return None;
        }
        let group = self.groups.entry(place.clone()).or_insert_with(|| Group::new(&place, now));
        group.asked_at = now;
        if now.duration_since(group.limits_read_at) >= LIMITS_HOLD {
            group.limit(Limits::read(&place), now);
        }
        group.sample(&place, now);
        Some(group.latest.clone())
    }

    fn hierarchies(&mut self, now: Instant) -> &Hierarchies {
        let holds = |(read_at, _): &(Instant, _)| now.duration_since(*read_at) < LIMITS_HOLD;
        if !self.hierarchies.as_ref().is_some_and(holds) {
            let table = files::read(&self.mountinfo, MAX_MOUNTINFO_BYTES).map(|file| file.bytes).unwrap_or_default();
            self.hierarchies = Some((now, Hierarchies::parse(&table)));
        }
        &self.hierarchies.get_or_insert_with(|| (now, Hierarchies::default())).1
    }

    fn forget(&mut self, now: Instant) {
        if self.groups.len() >= MAX_GROUPS / 2 {
            self.groups.retain(|_, group| now.duration_since(group.asked_at) < FORGET);
        }
    }
}

impl Hierarchies {
    /// A mount of a part says nothing of where paths of processes begin.
    fn parse(table: &[u8]) -> Self {
        let mut found = Self::default();
        for mount in files::lines(table).filter_map(Mount::parse).filter(|mount| mount.root == b"/") {
            let point = || PathBuf::from(OsString::from_vec(unescape(mount.point)));
            match mount.file_system {
                b"cgroup2" => _ = found.unified.get_or_insert_with(point),
                b"cgroup" => {
                    for option in mount.options.unwrap_or_default().split(|byte| *byte == b',') {
                        let place = match option {
                            b"cpu" => &mut found.cpu,
                            b"cpuacct" => &mut found.cpuacct,
                            b"memory" => &mut found.memory,
                            _ => continue,
                        };
                        place.get_or_insert_with(point);
                    }
                }
                _ => {}
            }
        }
        found
    }

    fn place(&self, paths: &Paths<'_>) -> Option<Place> {
        // Of the root there are no limits, and its use is that of the machine.
        let directory = |root: &Option<PathBuf>, path: Option<&str>, version| {
            let path = path?.strip_prefix('/').filter(|path| !path.is_empty())?.to_owned();
            Some(Directory { root: root.clone()?, path, version })
        };
        let of = |root: &Option<PathBuf>, controller: &str| match root {
            Some(_) => directory(root, paths.of_controller(controller), Version::One),
            None => directory(&self.unified, paths.unified(), Version::Two),
        };
        let (cpu, memory) = (of(&self.cpu, "cpu"), of(&self.memory, "memory"));
        let accounting = directory(&self.cpuacct, paths.of_controller("cpuacct"), Version::One);
        (cpu.is_some() || memory.is_some()).then_some(Place { cpu, memory, accounting })
    }
}

impl Group {
    fn new(place: &Place, now: Instant) -> Self {
        let own = [&place.cpu, &place.memory].into_iter().flatten().map(|directory| directory.path.as_str());
        let path = own.max_by_key(|path| path.len()).unwrap_or_default();
        Self {
            asked_at: now,
            limits_read_at: now,
            limits: Limits::read(place),
            used: None,
            latest: Cgroup { path: Text::new(&format!("/{path}")), ..Cgroup::default() },
        }
    }

    fn limit(&mut self, limits: Limits, now: Instant) {
        let of = |limits: &Limits| limits.cores.as_ref().map(|(_, directory)| directory.clone());
        if of(&self.limits) != of(&limits) {
            // What was counted is another group's.
            self.used = None;
        }
        (self.limits, self.limits_read_at) = (limits, now);
    }

    fn sample(&mut self, place: &Place, now: Instant) {
        let memory = self.limits.memory.as_ref().map(|(_, directory)| directory).or(place.memory.as_ref());
        self.latest.memory_limit_bytes = self.limits.memory.as_ref().map(|(bytes, _)| *bytes);
        self.latest.memory_bytes = memory.and_then(Directory::memory_bytes);
        self.latest.cpu_limit_cores = self.limits.cores.as_ref().map(|(cores, _)| *cores);
        if self.used.is_some_and(|(before, _)| now.duration_since(before) < SHORTEST) {
            return;
        }
        let limited = self.limits.cores.as_ref().map(|(_, directory)| directory);
        let used = limited.or(place.cpu.as_ref()).map(|directory| directory.cpu_used(place.accounting.as_ref()));
        let step = self.used.zip(used).map(|((when, before), used)| (now.duration_since(when), before, used));
        self.latest.cpu_percent = step.and_then(|(elapsed, before, used)| {
            Some(100.0 * used.cpu?.checked_sub(before.cpu?)?.as_secs_f64() / elapsed.as_secs_f64())
        });
        self.latest.throttled_percent = step.filter(|_| limited.is_some()).and_then(|(_, before, used)| {
            let periods = used.periods?.checked_sub(before.periods?)?;
            let throttled = used.throttled?.checked_sub(before.throttled?)?;
            // Periods in which nothing ran are not counted.
            Some(if periods == 0 { 0.0 } else { 100.0 * throttled.min(periods) as f64 / periods as f64 })
        });
        self.used = used.map(|used| (now, used));
    }
}

impl Limits {
    fn read(place: &Place) -> Self {
        let with = |directory: Directory| Some((directory.cores()?, directory));
        let cores = place.cpu.iter().flat_map(Directory::levels).filter_map(with);
        let with = |directory: Directory| Some((directory.memory_limit_bytes()?, directory));
        let memory = place.memory.iter().flat_map(Directory::levels).filter_map(with);
        Self { cores: cores.min_by(|a, b| a.0.total_cmp(&b.0)), memory: memory.min_by_key(|(bytes, _)| *bytes) }
    }
}

impl Directory {
    /// This group and those above it, without the root.
    fn levels(&self) -> impl Iterator<Item = Self> + '_ {
        let paths = std::iter::successors(Some(self.path.as_str()), |path| Some(path.rsplit_once('/')?.0));
        paths.take(MAX_LEVELS).map(|path| Self { path: path.to_owned(), ..self.clone() })
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.root.join(&self.path).join(name);
        Some(files::read(&path, MAX_FILE_BYTES).ok()?.bytes.trim_ascii().to_vec())
    }

    fn number(&self, name: &str) -> Option<u64> {
        files::number(&self.read(name)?)
    }

    fn cores(&self) -> Option<f64> {
        let (quota, period): (u64, u64) = match self.version {
            // -1 is none.
            Version::One => (self.number("cpu.cfs_quota_us")?, self.number("cpu.cfs_period_us")?),
            // `QUOTA PERIOD`; `max` is none.
            Version::Two => {
                let line = self.read("cpu.max")?;
                let mut fields = files::fields(&line).map(files::number);
                (fields.next()??, fields.next()??)
            }
        };
        (period > 0).then(|| quota as f64 / period as f64)
    }

    /// With version 1 the time is counted in a hierarchy that may be another.
    fn cpu_used(&self, accounting: Option<&Self>) -> CpuUsed {
        let stat = self.read("cpu.stat").unwrap_or_default();
        let value = |name: &[u8]| {
            let mut lines = files::lines(&stat).map(|line| files::fields(line).collect::<Vec<_>>());
            lines.find(|fields| fields.first() == Some(&name)).and_then(|fields| files::number(fields.get(1)?))
        };
        let cpu = match self.version {
            Version::One => accounting
                .map(|accounting| Self { path: self.path.clone(), ..accounting.clone() })
                .and_then(|same| same.number("cpuacct.usage"))
                .map(Duration::from_nanos),
            Version::Two => value(b"usage_usec").map(Duration::from_micros),
        };
        CpuUsed { cpu, periods: value(b"nr_periods"), throttled: value(b"nr_throttled") }
    }

    fn memory_limit_bytes(&self) -> Option<u64> {
        let name = match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        self.number(name).filter(|bytes| *bytes < NO_LIMIT_BYTES)
    }

    fn memory_bytes(&self) -> Option<u64> {
        self.number(match self.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        })
    }
}

/// Reads the bytes as each of the files that are read here.
#[cfg(feature = "fuzzing")]
pub(super) fn parse_as_all(bytes: &[u8]) {
    Hierarchies::parse(bytes).place(&Paths::parse(bytes));
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A tree of files, and a table of mounts that shows its directories as hierarchies.
    struct Tree {
        root: tempfile::TempDir,
        cgroups: Cgroups,
    }

    impl Tree {
        /// Of directories with their kind, as `cgroup2` or as controllers of version 1.
        fn new(hierarchies: &[(&str, &str)]) -> Self {
            let root = tempfile::tempdir().unwrap();
            let line = |(name, kind): &(&str, &str)| {
                let point = root.path().join(name);
                let (file_system, options) = if *kind == "cgroup2" { ("cgroup2", "rw") } else { ("cgroup", *kind) };
                format!("31 1 0:28 / {} rw shared:1 - {file_system} x rw,{options}\n", point.display())
            };
            let table = root.path().join("mountinfo");
            fs::write(&table, hierarchies.iter().map(line).collect::<String>()).unwrap();
            let cgroups = Cgroups::new(table);
            Self { root, cgroups }
        }

        fn write(&self, path: &str, contents: &str) {
            let path = self.root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }

        /// As if the sample before had been taken so long ago.
        fn sample_after(&mut self, seconds: u64, of_process: &str) -> Option<Cgroup> {
            for group in self.cgroups.groups.values_mut() {
                if let Some((when, _)) = &mut group.used {
                    *when -= Duration::from_secs(seconds);
                }
                group.limits_read_at -= Duration::from_secs(seconds);
            }
            self.cgroups.sample(&Paths::parse(of_process.as_bytes()))
        }
    }

    #[test]
    fn the_tightest_limit_of_version_two_counts_with_the_use_of_its_group() {
        let mut tree = Tree::new(&[("v2", "cgroup2")]);
        tree.write("v2/pod/cpu.max", "50000 100000\n");
        tree.write("v2/pod/cpu.stat", "usage_usec 1000000\nnr_periods 10\nnr_throttled 5\n");
        tree.write("v2/pod/a/cpu.max", "max 100000\n");
        tree.write("v2/pod/a/cpu.stat", "usage_usec 9\nnr_periods 0\nnr_throttled 0\n");
        tree.write("v2/pod/memory.max", "max\n");
        tree.write("v2/pod/memory.current", "900\n");
        tree.write("v2/pod/a/memory.max", "4096\n");
        tree.write("v2/pod/a/memory.current", "100\n");
        let first = tree.sample_after(0, "0::/pod/a\n").unwrap();
        let expected = Cgroup {
            path: "/pod/a".into(),
            cpu_limit_cores: Some(0.5),
            memory_limit_bytes: Some(4096),
            memory_bytes: Some(100),
            ..Cgroup::default()
        };
        assert_eq!(first, expected, "rates need two samples");
        tree.write("v2/pod/cpu.stat", "usage_usec 901000000\nnr_periods 30\nnr_throttled 20\n");
        let second = tree.sample_after(3600, "0::/pod/a\n").unwrap();
        assert_eq!((second.cpu_percent.unwrap().round(), second.throttled_percent), (25.0, Some(75.0)));
        // The operator lifts the limit of the pod.
        tree.write("v2/pod/cpu.max", "max 100000\n");
        let third = tree.sample_after(20, "0::/pod/a\n").unwrap();
        assert_eq!((third.cpu_limit_cores, third.cpu_percent, third.throttled_percent), (None, None, None));
    }

    #[test]
    fn version_one_counts_in_hierarchies_of_their_own() {
        for (cpu, accounting, kinds) in [
            ("cpu", "cpuacct", &[("cpu", "cpu"), ("cpuacct", "cpuacct"), ("mem", "memory"), ("u", "cgroup2")][..]),
            ("both", "both", &[("both", "cpu,cpuacct"), ("mem", "memory")]),
        ] {
            let mut tree = Tree::new(kinds);
            tree.write(&format!("{cpu}/docker/x/cpu.cfs_quota_us"), "150000\n");
            tree.write(&format!("{cpu}/docker/x/cpu.cfs_period_us"), "100000\n");
            tree.write(&format!("{cpu}/docker/x/cpu.stat"), "nr_periods 4\nnr_throttled 1\nthrottled_time 5\n");
            tree.write(&format!("{accounting}/docker/x/cpuacct.usage"), "1000000000\n");
            tree.write(&format!("{cpu}/docker/cpu.cfs_quota_us"), "-1\n");
            tree.write(&format!("{cpu}/docker/cpu.cfs_period_us"), "100000\n");
            tree.write("mem/docker/x/memory.limit_in_bytes", "9223372036854771712\n");
            tree.write("mem/docker/x/memory.usage_in_bytes", "5000\n");
            let lines = "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n0::/system.slice/containerd.service\n";
            tree.sample_after(0, lines).unwrap();
            // An hour and a half of CPU within an hour: beside that the time that the test takes is nothing.
            tree.write(&format!("{accounting}/docker/x/cpuacct.usage"), "5401000000000\n");
            let second = tree.sample_after(3600, lines).unwrap();
            assert_eq!(second.path.as_str(), "/docker/x");
            assert_eq!((second.cpu_limit_cores, second.throttled_percent), (Some(1.5), Some(0.0)));
            assert_eq!(second.cpu_percent.unwrap().round(), 150.0, "{cpu}");
            assert_eq!((second.memory_limit_bytes, second.memory_bytes), (None, Some(5000)));
        }
    }

    #[test]
    fn the_root_and_what_cannot_be_read_say_nothing() {
        let mut tree = Tree::new(&[("v2", "cgroup2")]);
        for lines in ["0::/\n", "", "0::/../x\n", "5:memory:/x\n", "junk"] {
            assert_eq!(tree.sample_after(0, lines), None, "{lines}");
        }
        let gone = tree.sample_after(0, "0::/gone\n").unwrap();
        assert_eq!(gone, Cgroup { path: "/gone".into(), ..Cgroup::default() });
        tree.write("v2/odd/cpu.max", "100000 0\n");
        tree.write("v2/odd/cpu.stat", "usage_usec\n\nnr_periods -4\n");
        tree.write("v2/odd/memory.max", "18446744073709551616\n");
        let odd = tree.sample_after(0, "0::/odd\n").unwrap();
        assert_eq!(odd, Cgroup { path: "/odd".into(), ..Cgroup::default() });
        assert_eq!(Cgroups::new("/nonexistent".into()).sample(&Paths::parse(b"0::/a\n")), None, "no hierarchy");
    }

    #[test]
    fn groups_are_bounded_and_forgotten() {
        let mut tree = Tree::new(&[("v2", "cgroup2")]);
        for number in 0..MAX_GROUPS + 5 {
            tree.sample_after(0, &format!("0::/g{number}\n"));
        }
        assert_eq!(tree.cgroups.groups.len(), MAX_GROUPS);
        tree.cgroups.groups.values_mut().for_each(|group| group.asked_at -= FORGET);
        assert!(tree.sample_after(0, "0::/new\n").is_some());
        assert_eq!(tree.cgroups.groups.len(), 1);
    }
}
