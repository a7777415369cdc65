//! The project's chores.

mod bench;
mod build_ebpf;
mod dashboards;
mod demo;
mod fuzz;
mod kernels;
mod privilege;
mod setup;
mod test;
mod tools;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's chores")]
struct Arguments {
    #[command(subcommand)]
    command: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Show hbpf on a stand-in model server and real clients.
    Demo(demo::Arguments),
    /// Run all checks and tests.
    Test(test::Arguments),
    /// Measure what hbpf costs, with and without it in turns; as root.
    Bench(bench::BenchArguments),
    /// Attach and detach under load for long: memory and descriptors must stay flat, totals exact; as root.
    Soak(bench::SoakArguments),
    /// Install what only some end-to-end tests need, into target/.
    Setup(setup::Arguments),
    /// Fuzz the parsers of untrusted bytes and show executions, coverage and crashes in a table (needs cargo-fuzz).
    Fuzz(fuzz::Arguments),
    /// Build the eBPF objects and write them with their manifest to hbpf-ebpf/dist.
    BuildEbpf(build_ebpf::Arguments),
    /// Write Grafana's dashboards anew.
    Dashboards(dashboards::Arguments),
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Chore::Demo(arguments) => demo::run_chore(&arguments)?,
        Chore::Test(arguments) => return test::run_chore(&arguments),
        Chore::Bench(arguments) => bench::run_bench(&arguments)?,
        Chore::Soak(arguments) => bench::run_soak(&arguments)?,
        Chore::Setup(arguments) => setup::run_chore(&arguments)?,
        Chore::Fuzz(arguments) => fuzz::run_chore(&arguments)?,
        Chore::BuildEbpf(arguments) => build_ebpf::run(&arguments)?,
        Chore::Dashboards(arguments) => dashboards::run(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
