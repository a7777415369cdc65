//! The project's chores.

mod build_ebpf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "The project's chores")]
struct Arguments {
    #[command(subcommand)]
    command: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build the eBPF objects and write them with their manifest to hbpf-ebpf/dist.
    BuildEbpf(build_ebpf::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Chore::BuildEbpf(arguments) => build_ebpf::run(&arguments),
    }
}
