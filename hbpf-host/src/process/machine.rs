//! The machine as a whole.

use std::path::Path;
use std::time::{Duration, Instant};

use hbpf_core::label::Label;
use hbpf_core::snapshot::{CpuUse, Host, Pressure};

use super::files;

/// Longest file that is read here: `/proc/stat` has 100 bytes a core and a number per interrupt.
const MAX_BYTES: usize = 1024 * 1024;

/// Most cores shown.
const MAX_CORES: usize = 4096;

/// Shortest time that a share of CPU is measured over: ticks are 10 ms, and less would be noise.
pub(super) const SHORTEST: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Machine {
    before: Option<(Instant, Ticks)>,
    cpu_percent: Option<f64>,
    cpu_use: Option<CpuUse>,
    cores_percent: Vec<f64>,
}

/// CPU time since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ticks {
    all: Core,
    cores: Vec<Core>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Core {
    number: Option<u32>,
    /// As the file has them: user, nice, system, idle, iowait, irq, softirq, steal. Guests are within user.
    times: [u64; 8],
}

const USER: usize = 0;
const NICE: usize = 1;
const SYSTEM: usize = 2;
const IDLE: usize = 3;
const IOWAIT: usize = 4;
const IRQ: usize = 5;
const SOFTIRQ: usize = 6;
const STEAL: usize = 7;

impl Machine {
    pub(super) fn sample(&mut self, root: &Path) -> Host {
        let read = |name: &str| files::read(&root.join(name), MAX_BYTES).map(|file| file.bytes).unwrap_or_default();
        let ticks = Ticks::parse(&read("stat"));
        let cpu_count = u32::try_from(ticks.cores.len()).unwrap_or(u32::MAX);
        self.measure(ticks, Instant::now());
        let memory = Memory::parse(&read("meminfo"));
        let line = |name: &str| Label::from_bytes(read(name).trim_ascii());
        let [cpu, io, memory_pressure] = ["cpu", "io", "memory"].map(|name| read(&format!("pressure/{name}")));
        let loadavg = read("loadavg");
        let mut loads = files::fields(&loadavg).map(files::number);
        let mut load = || loads.next().flatten();
        let arch = line("sys/kernel/arch");
        Host {
            hostname: line("sys/kernel/hostname"),
            kernel: line("sys/kernel/osrelease"),
            // The file is there since 6.1.
            arch: if arch.as_str().is_empty() { Label::new(std::env::consts::ARCH) } else { arch },
            cpu_count,
            cpu_percent: self.cpu_percent,
            cores_percent: self.cores_percent.clone(),
            cpu_use: self.cpu_use.clone(),
            load_1m: load(),
            load_5m: load(),
            load_15m: load(),
            memory_total_bytes: memory.total,
            memory_used_bytes: memory.total.zip(memory.available).map(|(all, free)| all.saturating_sub(free)),
            swap_used_bytes: memory.swap_total.zip(memory.swap_free).map(|(all, free)| all.saturating_sub(free)),
            // These are counted elsewhere.
            processes_total: None,
            disks: Vec::new(),
            pressure: Pressure {
                cpu_some_percent: average(&cpu, b"some"),
                io_some_percent: average(&io, b"some"),
                io_full_percent: average(&io, b"full"),
                memory_some_percent: average(&memory_pressure, b"some"),
                memory_full_percent: average(&memory_pressure, b"full"),
            },
        }
    }

    fn measure(&mut self, ticks: Ticks, now: Instant) {
        if let Some((when, before)) = &self.before {
            if now.duration_since(*when) < SHORTEST {
                return;
            }
            let all = Interval::between(&before.all, &ticks.all);
            self.cpu_percent = all.as_ref().map(Interval::busy_percent);
            self.cpu_use = all.as_ref().map(Interval::cpu_use);
            let core = |core: &Core| {
                let before = before.cores.iter().find(|before| before.number == core.number)?;
                Some(Interval::between(before, core)?.busy_percent())
            };
            // A core that has just come online has been idle until now.
            self.cores_percent = ticks.cores.iter().map(|now| core(now).unwrap_or(0.0)).collect();
        }
        self.before = Some((now, ticks));
    }
}

impl Ticks {
    fn parse(bytes: &[u8]) -> Self {
        let mut ticks = Self::default();
        for line in files::lines(bytes).take_while(|line| line.starts_with(b"cpu")) {
            let mut fields = files::fields(&line[3..]);
            let number = if line.get(3) == Some(&b' ') { None } else { fields.next().and_then(files::number) };
            let mut times = [0; 8];
            let read = times.iter_mut().zip(fields.map_while(files::number)).map(|(time, field)| *time = field).count();
            if read <= IOWAIT {
                continue;
            }
            let core = Core { number, times };
            match number {
                None => ticks.all = core,
                Some(_) if ticks.cores.len() < MAX_CORES => ticks.cores.push(core),
                Some(_) => {}
            }
        }
        ticks
    }
}

/// What a core, or all of them, did between two samples.
struct Interval {
    times: [u64; 8],
    total: u64,
}

impl Interval {
    /// `None` if no time has passed.
    fn between(before: &Core, now: &Core) -> Option<Self> {
        let sum = |core: &Core| core.times.iter().fold(0u64, |sum, time| sum.saturating_add(*time));
        let total = sum(now).checked_sub(sum(before)).filter(|total| *total > 0)?;
        // Waiting time may run backwards.
        let times = std::array::from_fn(|kind| now.times[kind].saturating_sub(before.times[kind]).min(total));
        Some(Self { times, total })
    }

    fn percent(&self, kinds: &[usize]) -> f64 {
        let sum = kinds.iter().fold(0u64, |sum, kind| sum.saturating_add(self.times[*kind])).min(self.total);
        100.0 * sum as f64 / self.total as f64
    }

    fn busy_percent(&self) -> f64 {
        100.0 - self.percent(&[IDLE, IOWAIT])
    }

    fn cpu_use(&self) -> CpuUse {
        CpuUse {
            user_percent: self.percent(&[USER]),
            nice_percent: self.percent(&[NICE]),
            system_percent: self.percent(&[SYSTEM]),
            irq_percent: self.percent(&[IRQ, SOFTIRQ]),
            iowait_percent: self.percent(&[IOWAIT]),
            steal_percent: self.percent(&[STEAL]),
        }
    }
}

#[derive(Debug, Default)]
struct Memory {
    total: Option<u64>,
    available: Option<u64>,
    swap_total: Option<u64>,
    swap_free: Option<u64>,
}

impl Memory {
    fn parse(bytes: &[u8]) -> Self {
        let mut memory = Self::default();
        for line in files::lines(bytes) {
            let mut fields = files::fields(line);
            let place = match fields.next() {
                Some(b"MemTotal:") => &mut memory.total,
                Some(b"MemAvailable:") => &mut memory.available,
                Some(b"SwapTotal:") => &mut memory.swap_total,
                Some(b"SwapFree:") => &mut memory.swap_free,
                _ => continue,
            };
            *place = fields.next().and_then(files::number::<u64>).and_then(|kibibytes| kibibytes.checked_mul(1024));
        }
        memory
    }
}

/// Reads the bytes as each of the files that are read here.
#[cfg(feature = "fuzzing")]
pub(super) fn parse_as_all(bytes: &[u8]) {
    let ticks = Ticks::parse(bytes);
    assert!(ticks.cores.len() <= MAX_CORES);
    Memory::parse(bytes);
    average(bytes, b"some");
}

/// Of `some avg10=0.12 ...` and a line `full ...` like it, the one that is asked for.
fn average(bytes: &[u8], which: &[u8]) -> Option<f64> {
    let line = files::lines(bytes).find(|line| files::fields(line).next() == Some(which))?;
    let value = files::fields(line).find_map(|field| field.strip_prefix(b"avg10="))?;
    files::number::<f64>(value).filter(|percent| percent.is_finite())
}

/// CPU seconds used by this process since its start.
pub fn self_cpu_seconds() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;

    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0.0, |usage| (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn shares_are_of_the_time_between_samples() {
        let first =
            Ticks::parse(b"cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 50 0 50 300 50 0 0 0\ncpu2 1 1 1 1 1\nintr 5\n");
        let then = Ticks::parse(b"cpu  150 0 150 800 100 0 0 0 0 0\ncpu0 100 0 100 300 40 0 0 0\ncpu1 9 9 9 9 9\n");
        let mut machine = Machine::default();
        let start = Instant::now();
        machine.measure(first, start);
        assert_eq!((machine.cpu_percent, machine.cores_percent.as_slice()), (None, &[][..]));
        machine.measure(then.clone(), start + SHORTEST / 2);
        assert_eq!(machine.cpu_percent, None, "too soon");
        machine.measure(then, start + SHORTEST);
        assert_eq!(machine.cpu_percent, Some(50.0));
        assert_eq!(machine.cores_percent, [100.0, 0.0]);
        let CpuUse { user_percent, system_percent, nice_percent, .. } = machine.cpu_use.unwrap();
        assert_eq!((user_percent, system_percent, nice_percent), (25.0, 25.0, 0.0));
    }

    #[test]
    fn kinds_of_use_and_idle_time_make_a_hundred() {
        let [first, then] =
            [&b"cpu 10 10 10 10 10 10 10 10 0 0\n"[..], b"cpu 20 30 40 50 60 70 80 90 5 5\n"].map(Ticks::parse);
        let interval = Interval::between(&first.all, &then.all).unwrap();
        let CpuUse { user_percent, nice_percent, system_percent, irq_percent, iowait_percent, steal_percent } =
            interval.cpu_use();
        let rounded = [user_percent, nice_percent, system_percent, irq_percent, iowait_percent, steal_percent]
            .map(|percent| (percent * 3.6).round());
        assert_eq!(rounded, [10.0, 20.0, 30.0, 60.0 + 70.0, 50.0, 80.0]);
        assert_eq!((interval.busy_percent() * 3.6).round(), 360.0 - 40.0 - 50.0);
        assert!(Interval::between(&then.all, &first.all).is_none(), "a clock that runs backwards");
    }

    #[test]
    fn missing_and_odd_files_leave_unknowns() {
        let dir = tempfile::tempdir().unwrap();
        let empty = Machine::default().sample(dir.path());
        assert_eq!((empty.cpu_count, empty.memory_total_bytes, empty.load_1m), (0, None, None));

        fs::write(
            dir.path().join("stat"),
            b"cpu\ncpu \xff\ncpu0 -1 2\ncpu99999999999 1 1 1 1 1\ncpu1 1 1 1 1 18446744073709551615\n",
        )
        .unwrap();
        fs::write(
            dir.path().join("meminfo"),
            "MemTotal: 18446744073709551615 kB\nMemAvailable:\nSwapTotal: 8 kB\nSwapFree: 9 kB\n",
        )
        .unwrap();
        fs::create_dir(dir.path().join("pressure")).unwrap();
        fs::write(dir.path().join("pressure/cpu"), "full avg10=1\nsome avg10=NaN avg60=1\n").unwrap();
        fs::write(dir.path().join("pressure/io"), "some avg60=1\nfull avg10=2.5 avg60=1\n").unwrap();
        nix::unistd::mkfifo(&dir.path().join("loadavg"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut machine = Machine::default();
        let odd = machine.sample(dir.path());
        assert_eq!((odd.memory_total_bytes, odd.swap_used_bytes, odd.load_1m), (None, Some(0), None));
        assert_eq!(odd.pressure, Pressure { io_full_percent: Some(2.5), ..Pressure::default() });
    }

    #[test]
    fn this_machine_is_read() {
        let host = Machine::default().sample(Path::new("/proc"));
        assert!(host.cpu_count > 0 && !host.hostname.as_str().is_empty() && !host.kernel.as_str().is_empty());
        let (total, used) = (host.memory_total_bytes.unwrap(), host.memory_used_bytes.unwrap());
        assert!(used > 0 && used < total);
        assert!(self_cpu_seconds() >= 0.0);
    }
}
