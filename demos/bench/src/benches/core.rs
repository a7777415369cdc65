//! How much one core gets through, from pieces of plaintext to the aggregator: the benches of hbpf-core.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Context, Outcome};
use crate::report::{Section, Table};

/// Output events a core is to get through per second.
const AIM_EVENTS: f64 = 1e6;
/// The benches that this is asked of.
const AIMED_AT: &str = "event_a_piece";

pub(super) fn run(context: &Context) -> Result<Outcome> {
    let Some(program) = &context.core_bench else {
        return Ok(Outcome::Skipped("run it as `cargo xtask bench core`, which builds it".into()));
    };
    let seconds = (context.effort.seconds * 2.0).to_string();
    let output = Command::new(program)
        .args(["--bench", "--color", "never", "--min-time", &seconds, "--max-time", &seconds])
        .output()
        .context("cannot run the benches of hbpf-core")?;
    ensure!(output.status.success(), "the benches of hbpf-core ended with {}", output.status);
    let results = parse(&String::from_utf8_lossy(&output.stdout));
    ensure!(!results.is_empty(), "the benches of hbpf-core say nothing");
    let mut table = Table::new(&["stream", "MB/s", "events/s"]);
    for result in &results {
        let events = if result.is_stream() { format!("{:.2} M", result.items / 1e6) } else { "-".to_owned() };
        table.row([result.name.clone(), format!("{:.0}", result.bytes / 1e6), events]);
    }
    let mut section = Section::default();
    section.table(
        "One core, optimised build: connection, HTTP, body, dialect, exchange and aggregator, as the collector has them.",
        table,
    );
    let aimed_at = results.iter().filter(|result| result.name.starts_with(AIMED_AT));
    let slowest = aimed_at.map(|result| result.items).fold(f64::INFINITY, f64::min);
    section.aim(
        "SSE, an event a piece, the slowest dialect: 1 M events/s",
        format!("{:.2} M", slowest / 1e6),
        slowest >= AIM_EVENTS,
    );
    Ok(Outcome::Done(section))
}

/// Medians of one bench.
#[derive(Debug, Default, PartialEq)]
struct Throughput {
    name: String,
    bytes: f64,
    items: f64,
}

impl Throughput {
    /// Of a single document, events per second say nothing.
    fn is_stream(&self) -> bool {
        !self.name.starts_with("json")
    }
}

/// Reads divan's table: a tree of names, and per bench a line of times and one for each counter; the median is the third
/// column.
fn parse(said: &str) -> Vec<Throughput> {
    let mut results: Vec<Throughput> = Vec::new();
    let mut group = String::new();
    for line in said.lines().skip(1) {
        let is_nested = line.starts_with([' ', '│']);
        let columns: Vec<&str> = line.trim_start_matches([' ', '│', '├', '╰', '─']).split('│').map(str::trim).collect();
        let name = columns[0].split("  ").next().unwrap_or_default();
        let is_row = line.contains(['├', '╰']);
        let median = columns.get(2).copied().unwrap_or_default();
        match (is_row, median.is_empty()) {
            (true, true) => group = name.to_owned(),
            (true, false) => {
                let name = if is_nested { format!("{group}, {name}") } else { name.to_owned() };
                results.push(Throughput { name, ..Throughput::default() });
            }
            (false, _) => {
                if let (Some(result), Some((number, unit))) = (results.last_mut(), quantity(median)) {
                    match unit.strip_suffix("/s") {
                        Some(unit) if unit.ends_with("item") => result.items = number * factor(unit),
                        Some(unit) if unit.ends_with('B') => result.bytes = number * factor(unit),
                        _ => {}
                    }
                }
            }
        }
    }
    results
}

fn quantity(text: &str) -> Option<(f64, &str)> {
    let (number, unit) = text.split_once(' ')?;
    Some((number.parse().ok()?, unit))
}

fn factor(unit: &str) -> f64 {
    match unit.as_bytes().first() {
        Some(b'K') => 1e3,
        Some(b'M') => 1e6,
        Some(b'G') => 1e9,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
streams                 fastest       │ slowest       │ median        │ mean          │ samples │ iters
├─ event_a_piece                      │               │               │               │         │
│  ├─ anthropic         460.5 µs      │ 1.012 ms      │ 474.5 µs      │ 490 µs        │ 100     │ 100
│  │                    312.2 MB/s    │ 142 MB/s      │ 303 MB/s      │ 293.4 MB/s    │         │
│  │                    2.171 Mitem/s │ 988 Kitem/s   │ 2.107 Mitem/s │ 2.04 Mitem/s  │         │
│  ╰─ openai            1 ms          │ 1 ms          │ 1 ms          │ 1 ms          │ 100     │ 100
│                       312.2 MB/s    │ 142 MB/s      │ 303 MB/s      │ 293.4 MB/s    │         │
│                       2.171 Mitem/s │ 988 Kitem/s   │ 999.5 Kitem/s │ 2.04 Mitem/s  │         │
╰─ json_mostly_skipped  1 ms          │ 1 ms          │ 1 ms          │ 1 ms          │ 100     │ 100
                        1.5 GB/s      │ 1 GB/s        │ 1.25 GB/s     │ 1.1 GB/s      │         │
                        1 Kitem/s     │ 1 Kitem/s     │ 1 Kitem/s     │ 1 Kitem/s     │         │
";

    #[test]
    fn divan_tables_are_read() {
        let results = parse(SAID);
        let expected = [
            ("event_a_piece, anthropic", 303e6, 2.107e6),
            ("event_a_piece, openai", 303e6, 999_500.0),
            ("json_mostly_skipped", 1.25e9, 1e3),
        ];
        assert_eq!(results.len(), expected.len());
        for (result, (name, bytes, items)) in results.iter().zip(expected) {
            assert_eq!((result.name.as_str(), result.bytes, result.items), (name, bytes, items));
        }
    }
}
