//! The `hbpf` command, as a library so that its parsers can be fuzzed.

mod agent;
mod arrange;
mod change;
mod cli;
mod commands;
mod compare;
mod condition;
mod config;
#[cfg(test)]
mod config_reference;
mod engines;
mod feed;
mod filter;
mod findings;
#[cfg(test)]
mod fixture;
mod format;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(test)]
mod generated;
mod gpus;
mod inout;
mod list;
mod live;
mod metrics;
mod over_time;
mod pem;
mod period;
mod prices;
mod privacy;
mod probes;
mod recording;
mod remote;
mod rows;
mod sets;
mod summary;
mod table;
mod text;
mod ui;
mod when;
mod wire;
mod workloads;

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use crate::cli::{Cli, Command};
use clap::{CommandFactory, Parser};

/// What bad options and files are answered with, as clap does.
const BAD_USAGE: u8 = 2;

/// Runs the command with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse().checked().unwrap_or_else(|error| error.exit());
    if let Some(Command::Agent(_)) = cli.command {
        // It reads files itself, and again when it is told to.
        return agent::run(cli.config.as_deref()).unwrap_or_else(|error| {
            commands::complain(&error);
            ExitCode::FAILURE
        });
    }
    let settings = match config::load(cli.config.as_deref()) {
        Ok(settings) => settings,
        Err(error) => {
            commands::complain(&error);
            return ExitCode::from(BAD_USAGE);
        }
    };
    let result = match cli.command {
        None => Cli::command().print_help().map(|()| ExitCode::SUCCESS).map_err(Into::into),
        Some(Command::Agent(_)) => Ok(ExitCode::FAILURE),
        Some(Command::Top(arguments)) => commands::top::run(&arguments, settings),
        Some(Command::Snapshot(arguments)) => commands::snapshot::run(&arguments),
        Some(Command::Record(arguments)) => commands::record::run(&arguments),
        Some(Command::Report(arguments)) => commands::report::run(&arguments),
        Some(Command::Diff(arguments)) => commands::diff::run(&arguments),
        Some(Command::Completions(arguments)) => commands::shell::completions(&arguments),
        Some(Command::Config(arguments)) => commands::shell::config(arguments.action, cli.config.as_deref()),
        Some(Command::Man(arguments)) => commands::shell::man(&arguments),
        Some(Command::Trace(arguments)) => commands::trace::run(&arguments),
        Some(Command::Check(arguments)) => Ok(commands::check::run(&arguments)),
        Some(Command::Doctor(arguments)) => commands::doctor::run(&arguments),
        Some(Command::Prices(arguments)) => commands::prices::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        // Whoever read us has seen enough: `hbpf snapshot | head` is no error.
        if error.chain().filter_map(|cause| cause.downcast_ref()).any(|e: &io::Error| e.kind() == ErrorKind::BrokenPipe)
        {
            return ExitCode::SUCCESS;
        }
        commands::complain(&error);
        ExitCode::FAILURE
    })
}
