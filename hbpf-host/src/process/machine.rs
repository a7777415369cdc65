//! The machine as a whole.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hbpf_core::label::Label;
use hbpf_core::snapshot::{Host, Pressure};

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
    busy: u64,
    total: u64,
}

impl Machine {
    pub(super) fn sample(&mut self, root: &Path) -> Host {
        let read = |name: &str| files::read(&root.join(name), MAX_BYTES).map(|file| file.bytes).unwrap_or_default();
        let ticks = Ticks::parse(&read("stat"));
        let cpu_count = u32::try_from(ticks.cores.len()).unwrap_or(u32::MAX);
        self.measure(ticks, Instant::now());
        let memory = Memory::parse(&read("meminfo"));
        let line = |name: &str| Label::from_bytes(read(name).trim_ascii());
        let pressure = |name: &str| some_average(&read(&format!("pressure/{name}")));
        let arch = line("sys/kernel/arch");
        Host {
            hostname: line("sys/kernel/hostname"),
            kernel: line("sys/kernel/osrelease"),
            // The file is there since 6.1.
            arch: if arch.as_str().is_empty() { Label::new(std::env::consts::ARCH) } else { arch },
            cpu_count,
            cpu_percent: self.cpu_percent,
            cores_percent: self.cores_percent.clone(),
            load_1m: files::fields(&read("loadavg")).next().and_then(files::number),
            memory_total_bytes: memory.total,
            memory_used_bytes: memory.total.zip(memory.available).map(|(all, free)| all.saturating_sub(free)),
            swap_used_bytes: memory.swap_total.zip(memory.swap_free).map(|(all, free)| all.saturating_sub(free)),
            pressure: Pressure {
                cpu_some_percent: pressure("cpu"),
                io_some_percent: pressure("io"),
                memory_some_percent: pressure("memory"),
            },
        }
    }

    fn measure(&mut self, ticks: Ticks, now: Instant) {
        if let Some((when, before)) = &self.before {
            if now.duration_since(*when) < SHORTEST {
                return;
            }
            self.cpu_percent = ticks.all.percent_since(&before.all);
            let core = |core: &Core| {
                let before = before.cores.iter().find(|before| before.number == core.number)?;
                core.percent_since(before)
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
            // user nice system idle iowait irq softirq steal; guests are within user.
            let times: Vec<u64> = fields.take(8).map_while(files::number).collect();
            if times.len() < 5 {
                continue;
            }
            let total = times.iter().fold(0u64, |sum, time| sum.saturating_add(*time));
            let core = Core { number, busy: total.saturating_sub(times[3].saturating_add(times[4])), total };
            match number {
                None => ticks.all = core,
                Some(_) if ticks.cores.len() < MAX_CORES => ticks.cores.push(core),
                Some(_) => {}
            }
        }
        ticks
    }
}

impl Core {
    fn percent_since(&self, before: &Self) -> Option<f64> {
        let total = self.total.checked_sub(before.total).filter(|total| *total > 0)?;
        // Waiting time may run backwards, and busy time with it.
        let busy = self.busy.saturating_sub(before.busy).min(total);
        Some(100.0 * busy as f64 / total as f64)
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
    some_average(bytes);
}

/// `some avg10=0.12 ...`
fn some_average(bytes: &[u8]) -> Option<f64> {
    let line = files::lines(bytes).find(|line| line.starts_with(b"some "))?;
    let value = files::fields(line).find_map(|field| field.strip_prefix(b"avg10="))?;
    files::number::<f64>(value).filter(|percent| percent.is_finite())
}

/// CPU seconds used by this process since its start, and its resident bytes.
pub fn self_usage() -> (f64, u64) {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;

    let seconds = getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0.0, |usage| (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6);
    let statm = files::read(&PathBuf::from("/proc/self/statm"), 256).map(|file| file.bytes).unwrap_or_default();
    let pages: u64 = files::fields(&statm).nth(1).and_then(files::number).unwrap_or(0);
    (seconds, pages.saturating_mul(procfs::page_size()))
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
        nix::unistd::mkfifo(&dir.path().join("loadavg"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut machine = Machine::default();
        let odd = machine.sample(dir.path());
        assert_eq!((odd.memory_total_bytes, odd.swap_used_bytes, odd.load_1m), (None, Some(0), None));
        assert_eq!(odd.pressure, Pressure::default());
    }

    #[test]
    fn this_machine_is_read() {
        let host = Machine::default().sample(Path::new("/proc"));
        assert!(host.cpu_count > 0 && !host.hostname.as_str().is_empty() && !host.kernel.as_str().is_empty());
        let (total, used) = (host.memory_total_bytes.unwrap(), host.memory_used_bytes.unwrap());
        assert!(used > 0 && used < total);
        let (seconds, resident) = self_usage();
        assert!(seconds >= 0.0 && resident > 4096);
    }
}
