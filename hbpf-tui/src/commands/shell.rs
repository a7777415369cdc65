//! `hbpf completions`, `hbpf man` and `hbpf config`: what is installed beside the program.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::CommandFactory as _;

use super::print;
use crate::cli::{Cli, CompletionsArgs, ConfigAction, ManArgs};
use crate::config;

/// The program's name.
const NAME: &str = "hbpf";

pub(crate) fn completions(arguments: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), NAME, &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(arguments: &ManArgs) -> Result<ExitCode> {
    let mut command = Cli::command();
    command.build();
    if let Some(directory) = &arguments.dir {
        clap_mangen::generate_to(command, directory)
            .with_context(|| format!("cannot write manual pages to {}", directory.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let page = match &arguments.command {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(subcommand) => subcommand.clone(),
            None => bail!("there is no command {name:?}; `hbpf --help` lists them"),
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    print(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}

/// The file was read before, and whoever has a wrong one does not come here.
pub(crate) fn config(action: ConfigAction, path: Option<&Path>) -> Result<ExitCode> {
    let name = config::name(path);
    let text = match action {
        ConfigAction::Init => config::TEMPLATE.to_owned(),
        ConfigAction::Path => format!("{}\n", name.display()),
        ConfigAction::Validate if name.exists() => format!("{} is right\n", name.display()),
        ConfigAction::Validate => format!("there is no {}: all is as it is without\n", name.display()),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn every_command_is_completed_and_has_a_page() {
        let mut command = Cli::command();
        command.build();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("record") && script.contains("max-overhead"), "{shell}");
        }
        let directory = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(command.clone(), directory.path()).unwrap();
        for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
            let page = directory.path().join(format!("hbpf-{}.1", subcommand.get_name()));
            assert!(std::fs::read_to_string(&page).is_ok_and(|page| page.contains(".SH OPTIONS")), "{page:?}");
        }
    }
}
