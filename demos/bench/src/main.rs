//! What hbpf costs those it looks at, and itself; and whether it stays that way for an hour. Run by `cargo xtask`.

mod benches;
mod compare;
mod empty;
mod hbpf;
mod idle;
mod load;
mod machine;
mod report;
mod soak;
mod subject;
mod tool;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::benches::Bench;

#[derive(Parser)]
#[command(name = "hbpf-bench", about = "What hbpf costs those it looks at, and itself")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures, and prints tables
    Bench(BenchArguments),
    /// Attaches and detaches under load for long: memory and descriptors must stay flat, totals exact
    Soak(soak::Arguments),
    /// hbpf's two processes alone, for the other commands
    #[command(hide = true)]
    Subject,
    /// A process that reads answers of a model, for the other commands
    #[command(hide = true)]
    Stream { address: SocketAddr },
}

#[derive(Args)]
struct BenchArguments {
    /// What to measure; everything without a name
    #[arg(value_enum)]
    names: Vec<Bench>,
    /// Say what can be measured, and measure nothing
    #[arg(long)]
    list: bool,
    /// Few short rounds: shows that all of it works, and no numbers worth keeping
    #[arg(long)]
    quick: bool,
    /// Write the tables into docs/performance.md, too
    #[arg(long)]
    write: bool,
    /// The built benches of hbpf-core
    #[arg(long, value_name = "FILE")]
    core_bench: Option<PathBuf>,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Rounds of each comparison.
    pub(crate) rounds: usize,
    /// Seconds of one measurement.
    pub(crate) seconds: f64,
    /// Seconds until hbpf has judged what it sees.
    pub(crate) settling: f64,
    /// Requests of one round.
    pub(crate) requests: u32,
    /// Rates of tokens, the lowest first: the highest are for optimised builds.
    pub(crate) loads: usize,
}

impl Effort {
    const FULL: Self = Self { rounds: 10, seconds: 2.0, settling: 8.0, requests: 200, loads: 4 };
    const QUICK: Self = Self { rounds: 2, seconds: 0.3, settling: 1.0, requests: 10, loads: 2 };
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Bench(arguments) => bench(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Subject => subject::main().map(|()| ExitCode::SUCCESS),
        Command::Stream { address } => benches::stream(address).map(|()| ExitCode::SUCCESS),
    }
}

fn bench(arguments: &BenchArguments) -> Result<ExitCode> {
    if arguments.list {
        for bench in Bench::ALL {
            println!("{:<10} {}", bench.key(), bench.about());
        }
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(nix::unistd::geteuid().is_root(), "loading probes needs root: run it with sudo");
    use_programs_beside_us()?;
    let effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    let context = benches::Context { effort, core_bench: arguments.core_bench.clone() };
    let names = if arguments.names.is_empty() { Bench::ALL } else { &arguments.names };
    let machine = machine::describe(&root());
    println!("{machine}\n");
    let mut failed = false;
    for name in names {
        println!("## {}\n", name.title());
        match name.run(&context) {
            Ok(benches::Outcome::Done(section)) => {
                println!("{section}");
                if arguments.write {
                    report::write_between(&root().join(PAGE), name.key(), &format!("{machine}\n\n{section}"))?;
                }
            }
            Ok(benches::Outcome::Skipped(why)) => println!("skipped: {why}\n"),
            Err(error) => {
                println!("FAILED: {error:#}\n");
                failed = true;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Where results are kept.
const PAGE: &str = "docs/performance.md";

/// hbpf and the stand-in server were built with us.
pub(crate) fn use_programs_beside_us() -> Result<()> {
    let own = std::env::current_exe().context("a program knows where it lies")?;
    hbpf_e2e::use_programs_in(own.parent().context("a program lies in a directory")?);
    Ok(())
}

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
