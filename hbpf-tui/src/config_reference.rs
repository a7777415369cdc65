//! The reference of settings in docs/, made from what the code takes.

use std::fmt::Write as _;

use clap::{ArgAction, CommandFactory};

use crate::cli::Cli;
use crate::config::TEMPLATE;
use crate::generated::is_in_page;
use crate::ui::BINDINGS;

/// All of it, as Markdown.
fn reference() -> String {
    let mut text = String::from("## The file\n\n```toml\n");
    text += TEMPLATE;
    text += "```\n\n## The agent\n\n\
        Of each, the option counts first, then the variable, then the key under `[agent]`. Flags are `true` or `false`; where there may \
        be several, the key takes a list, and the variable one of them.\n\n\
        | option | variable | key | default | what it is |\n|---|---|---|---|---|\n";
    let mut command = Cli::command();
    command.build();
    let agent = command.find_subcommand("agent").expect("there is one");
    for argument in agent.get_arguments().filter(|argument| !argument.is_global_set()) {
        let Some(long) = argument.get_long().filter(|long| !matches!(*long, "help" | "version")) else { continue };
        let key = long.replace('-', "_");
        let is_flag = matches!(argument.get_action(), ArgAction::SetTrue);
        let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = match (is_flag, defaults.join(", ")) {
            (true, _) => "`false`".to_owned(),
            (false, text) if text.is_empty() => String::new(),
            (false, text) => format!("`{text}`"),
        };
        let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let variable = key.to_ascii_uppercase();
        _ = writeln!(text, "| `--{long}` | `HBPF_AGENT_{variable}` | `{key}` | {default} | {help} |");
    }
    text +=
        "\n## Keys of the view\n\nUnder `[view.keys]`, each a list.\n\n| name | keys | what it does |\n|---|---|---|\n";
    for binding in &BINDINGS {
        let keys: Vec<String> = binding.keys.iter().map(|key| format!("`{}`", key.replace('|', "\\|"))).collect();
        _ = writeln!(text, "| `{}` | {} | {} |", binding.name, keys.join(" "), binding.help.join(" "));
    }
    text
}

#[test]
fn the_page_is_what_the_code_says() {
    is_in_page("configuration.md", &reference());
}
