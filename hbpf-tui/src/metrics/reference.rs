//! The reference of metrics in docs/, made from their definitions.

use std::fmt::Write as _;

use super::families::{
    AGENT, AGENT_REQUESTS, CAPTURE, ENDPOINTS, ENGINES, EXPORTS, FINDINGS, GPUS, GROUPS, HOST, OBSERVATION, PROGRAMS,
    SERIES, TOOLS, TOTALS, WORKLOADS,
};
use super::honeybeepf::{CONNECTIONS, DISKS, GPU_DEVICES, LLM, PROBES};
use super::{Definition, Family, Kind};
use crate::generated::is_in_page;

/// A table for each group, as Markdown.
pub(crate) fn reference() -> String {
    let mut text = String::new();
    let mut group = |title: &str, labels: &[&str], prefix, definitions: Vec<Definition>| {
        _ = writeln!(text, "## {title}\n");
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        if !labels.is_empty() {
            _ = writeln!(text, "Labels: {}.\n", labels.join(", "));
        }
        text += "| metric | type | of its own | what it is |\n|---|---|---|---|\n";
        for definition in definitions {
            let kind = definition.kind;
            let family = Family { prefix, definition, points: Vec::new() };
            let (suffix, kind) = match kind {
                Kind::Counter => ("_total", "counter"),
                Kind::Gauge => ("", "gauge"),
                Kind::Histogram(..) => ("", "histogram"),
                Kind::Info => ("_info", "info"),
            };
            let own = family.definition.label.map(|label| format!("`{label}`")).unwrap_or_default();
            _ = writeln!(text, "| `{}{suffix}` | {kind} | {own} | {} |", family.name(), family.definition.help);
        }
        text.push('\n');
    };
    macro_rules! groups {
        ($($title:literal: $group:ident),* $(,)?) => {
            $(group($title, $group.labels, $group.prefix, $group.definitions().collect());)*
        };
    }
    groups! {
        "Exchanges with models": SERIES,
        "Exchanges of the host, each once": TOTALS,
        "Endpoints": ENDPOINTS,
        "Tools": TOOLS,
        "Workloads": WORKLOADS,
        "GPUs": GPUS,
        "Inference servers, in their own words": ENGINES,
        "The machine": HOST,
        "Capture": CAPTURE,
        "Groups of probes": GROUPS,
        "Programs in the kernel": PROGRAMS,
        "hbpf": OBSERVATION,
        "Findings": FINDINGS,
        "Requests to the agent": AGENT_REQUESTS,
        "The agent": AGENT,
        "Exports to a collector": EXPORTS,
        "honeybeePF's names, with `--honeybeepf-metrics`: exchanges": LLM,
        "honeybeePF's names: disks": DISKS,
        "honeybeePF's names: connections": CONNECTIONS,
        "honeybeePF's names: GPU devices": GPU_DEVICES,
        "honeybeePF's names: probes": PROBES,
    }
    text
}

#[test]
fn the_page_is_what_the_code_says() {
    is_in_page("metrics.md", &reference());
}
