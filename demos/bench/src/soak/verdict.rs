//! Whether what was sampled stays as it is.

use hbpf_host::protocol::Group;

use super::check::Compared;
use super::kernel::InKernel;

/// Share of the run after which it is warm: tables have their size, and all that is read once has been.
const WARM_UP: f64 = 0.4;
/// What memory may grow by, as the fitted line has it, between warm-up and end of a long run. Below lies what one table
/// that doubles its room takes; a leak of a KiB per exchange is far above.
const MAX_GROWTH_BYTES: f64 = 2.0 * 1024.0 * 1024.0;
/// The same in a run of few minutes, at whose end tables are still being filled: it finds great leaks only.
const MAX_GROWTH_BYTES_SHORT: f64 = 4.0 * MAX_GROWTH_BYTES;
/// Seconds after which all tables that a steady load fills are full: what expires has expired a few times.
const LONG_RUN: f64 = 15.0 * 60.0;
/// Fewer samples make no line.
const MIN_SAMPLES: usize = 5;
/// The two processes.
const PROCESSES: [&str; 2] = ["hbpf", "its helper"];

/// The head of the lines that [`Sample::line`] writes.
pub(super) const HEAD: &str =
    "    time  off             resident MB  descriptors  programs  maps  links  libraries  seen/recorded  lost";

/// The state of the two processes at a moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Since the start.
    pub(super) seconds: f64,
    /// Groups that are off.
    pub(super) off: &'static [Group],
    /// Of the unprivileged process and of the helper.
    pub(super) resident_bytes: [u64; 2],
    /// Likewise.
    pub(super) descriptors: [usize; 2],
    /// What the helper holds in the kernel.
    pub(super) in_kernel: InKernel,
    /// TLS libraries that are probed; others on the machine bring and take theirs.
    pub(super) libraries: usize,
    /// Records lost so far.
    pub(super) lost: u64,
    /// It is the last one of its phase.
    pub(super) ends_phase: bool,
}

impl Sample {
    /// For people.
    pub(super) fn line(&self, seen: usize, recorded: usize) -> String {
        let off: Vec<&str> = self.off.iter().map(|group| group.name().trim_start_matches("llm-")).collect();
        let off = if off.is_empty() { "-".to_owned() } else { off.join(" ") };
        let [own, helper] = self.resident_bytes.map(|bytes| bytes as f64 / 1e6);
        let [own_fds, helper_fds] = self.descriptors;
        let InKernel { programs, maps, links } = self.in_kernel;
        format!(
            "{:>7.0}s  {off:<14} {own:>6.1} {helper:>5.1}    {own_fds:>4} {helper_fds:>4}     {programs:>6} {maps:>5} {links:>6} \
             {:>9}  {seen:>6}/{recorded:<6} {:>5}",
            self.seconds, self.libraries, self.lost
        )
    }
}

/// What is not as it should be, a line each.
pub(super) fn problems(samples: &[Sample], exchanges: &Compared, left_in_kernel: &[String]) -> Vec<String> {
    let end = samples.last().map_or(0.0, |sample| sample.seconds);
    let warm: Vec<&Sample> = samples.iter().filter(|sample| sample.seconds >= end * WARM_UP).collect();
    let mut problems = exchanges.problems();
    problems.extend(growth(&warm, if end < LONG_RUN { MAX_GROWTH_BYTES_SHORT } else { MAX_GROWTH_BYTES }));
    problems.extend(unequal_phases(&warm));
    if let Some(lost) = samples.last().map(|sample| sample.lost).filter(|lost| *lost > 0) {
        problems.push(format!("{lost} records were lost"));
    }
    problems.extend(left_in_kernel.iter().map(|what| format!("{what} is still in the kernel")));
    problems
}

/// Memory is compared while all groups are on.
fn growth(warm: &[&Sample], limit: f64) -> Vec<String> {
    let all_on: Vec<&&Sample> = warm.iter().filter(|sample| sample.off.is_empty()).collect();
    let mut problems = Vec::new();
    for (process, name) in PROCESSES.into_iter().enumerate() {
        let points: Vec<(f64, f64)> =
            all_on.iter().map(|sample| (sample.seconds, sample.resident_bytes[process] as f64)).collect();
        let Some(grown) = fitted_growth(&points) else {
            problems.push("too few samples of memory after warming up: the run was too short".to_owned());
            continue;
        };
        println!("memory of {name}: {:+.2} MB by the fitted line after warming up", grown / 1e6);
        if grown > limit {
            problems.push(format!("the memory of {name} grows: {:+.2} MB after warming up", grown / 1e6));
        }
    }
    problems
}

/// What the least-squares line through the points rises by from the first to the last.
fn fitted_growth(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < MIN_SAMPLES {
        return None;
    }
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let (first, last) = (points.first()?.0, points.last()?.0);
    (variance > 0.0).then(|| covariance / variance * (last - first))
}

/// Where the same groups are off and as many libraries are probed, as much is held.
fn unequal_phases(warm: &[&Sample]) -> Vec<String> {
    let phases: Vec<Phase> = warm.split_inclusive(|sample| sample.ends_phase).filter_map(Phase::of).collect();
    let mut problems = Vec::new();
    for (number, phase) in phases.iter().enumerate() {
        let same = |other: &&Phase| (other.off, other.libraries) == (phase.off, phase.libraries);
        if let Some(first) = phases[..number].iter().find(same)
            && first.held != phase.held
        {
            problems.push(format!(
                "with the same groups on, {:?} at {:.0} s has become {:?} at {:.0} s (descriptors of both processes, and \
                 what is in the kernel)",
                first.held, first.seconds, phase.held, phase.seconds
            ));
        }
    }
    problems
}

/// The state at the end of a phase.
struct Phase {
    seconds: f64,
    off: &'static [Group],
    libraries: usize,
    held: ([usize; 2], InKernel),
}

impl Phase {
    /// Descriptors are the fewest: the helper opens files for a moment all the time.
    fn of(samples: &[&Sample]) -> Option<Self> {
        let last = samples.last().filter(|last| last.ends_phase)?;
        let alike =
            samples.iter().filter(|sample| (sample.in_kernel, sample.libraries) == (last.in_kernel, last.libraries));
        let fewest = [0, 1].map(|process| alike.clone().map(|sample| sample.descriptors[process]).min().unwrap_or(0));
        let Sample { seconds, off, libraries, in_kernel, .. } = **last;
        Some(Self { seconds, off, libraries, held: (fewest, in_kernel) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: f64, bytes: u64, links: usize) -> Sample {
        Sample {
            seconds,
            off: &[],
            resident_bytes: [bytes; 2],
            descriptors: [9, 30],
            in_kernel: InKernel { programs: 20, maps: 9, links },
            libraries: 1,
            lost: 0,
            ends_phase: true,
        }
    }

    fn problems_of(samples: &[Sample]) -> Vec<String> {
        problems(samples, &Compared::default(), &[])
    }

    #[test]
    fn memory_that_wavers_is_flat_and_memory_that_grows_is_not() {
        let wavering: Vec<Sample> =
            (0..100_u32).map(|n| sample(f64::from(n) * 36.0, 30_000_000 + u64::from(n % 7) * 500_000, 30)).collect();
        assert!(problems_of(&wavering).is_empty(), "{:?}", problems_of(&wavering));
        let growing: Vec<Sample> =
            (0..100_u32).map(|n| sample(f64::from(n) * 36.0, 30_000_000 + u64::from(n) * 50_000, 30)).collect();
        assert_eq!(problems_of(&growing).len(), 2, "both processes grow by 3 MB after warming up");
        assert!(!problems_of(&wavering[..3]).is_empty(), "three samples prove nothing");
    }

    #[test]
    fn a_link_that_stays_is_found() {
        let mut samples: Vec<Sample> = (0..20).map(|n| sample(f64::from(n), 30_000_000, 30)).collect();
        samples[19].in_kernel.links = 31;
        assert_eq!(problems_of(&samples).len(), 1);
        // Another library explains it.
        samples[19].libraries = 2;
        assert!(problems_of(&samples).is_empty());
    }

    #[test]
    fn losses_and_remains_are_problems() {
        let mut samples: Vec<Sample> = (0..20).map(|n| sample(f64::from(n), 30_000_000, 30)).collect();
        samples[19].lost = 3;
        let problems = problems(&samples, &Compared::default(), &["link 7".to_owned()]);
        assert_eq!(problems, ["3 records were lost", "link 7 is still in the kernel"]);
    }
}
