//! Grafana's dashboards, made from tables of what they show: deploy/grafana/.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::{Value, json};

use crate::tools;

/// Where they are.
const DIRECTORY: &str = "deploy/grafana";

/// Grafana's model that they are written in: Grafana 10 and newer take it.
const SCHEMA_VERSION: u32 = 39;

#[derive(Parser)]
pub(crate) struct Arguments {
    /// Only say whether those that are there are what this makes
    #[arg(long)]
    check: bool,
}

/// How a panel shows what it is asked.
#[derive(Clone, Copy, PartialEq)]
enum Shown {
    /// Lines over time.
    Lines,
    /// Areas that add up.
    Stack,
    /// A number of now.
    Number,
    /// A row for each series of now.
    Table,
    /// How many, by size and time.
    Heat,
}

struct Panel {
    title: &'static str,
    shown: Shown,
    unit: &'static str,
    /// Of 24.
    width: u32,
    /// What is asked, and what a series is called.
    queries: &'static [(&'static str, &'static str)],
}

struct Dashboard {
    name: &'static str,
    title: &'static str,
    description: &'static str,
    variables: &'static [(&'static str, &'static str)],
    panels: &'static [Panel],
}

const INSTANCE: (&str, &str) = ("instance", "label_values(hbpf_build_info, instance)");
const NAMESPACE: (&str, &str) =
    ("namespace", r#"label_values(hbpf_llm_requests_total{instance=~"$instance"}, namespace)"#);
const WORKLOAD: (&str, &str) =
    ("workload", r#"label_values(hbpf_llm_requests_total{instance=~"$instance"}, workload)"#);
const MODEL: (&str, &str) = ("model", r#"label_values(hbpf_llm_requests_total{instance=~"$instance"}, model)"#);

/// What narrows most questions.
macro_rules! of {
    ($metric:literal) => {
        concat!($metric, r#"{instance=~"$instance",workload=~"$workload",model=~"$model"}"#)
    };
    ($metric:literal, $more:literal) => {
        concat!($metric, r#"{instance=~"$instance",workload=~"$workload",model=~"$model","#, $more, "}")
    };
}

const fn panel(
    title: &'static str,
    shown: Shown,
    unit: &'static str,
    width: u32,
    queries: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel { title, shown, unit, width, queries }
}

const DASHBOARDS: [Dashboard; 6] = [
    Dashboard {
        name: "fleet",
        title: "hbpf / Fleet",
        description: "All hosts: who talks to which models, how fast, what fails and what it costs.",
        variables: &[INSTANCE, NAMESPACE],
        panels: &[
            panel("Hosts", Shown::Number, "none", 4, &[(r#"count(hbpf_build_info{instance=~"$instance"})"#, "")]),
            panel(
                "Requests in flight",
                Shown::Number,
                "none",
                4,
                &[(r#"sum(hbpf_host_llm_requests_in_flight{instance=~"$instance"})"#, "")],
            ),
            panel(
                "Requests / s",
                Shown::Number,
                "reqps",
                4,
                &[(r#"sum(rate(hbpf_host_llm_requests_total{instance=~"$instance"}[5m]))"#, "")],
            ),
            panel(
                "Output tokens / s",
                Shown::Number,
                "none",
                4,
                &[(r#"sum(rate(hbpf_host_llm_tokens_total{instance=~"$instance",type="output"}[5m]))"#, "")],
            ),
            panel(
                "Failed",
                Shown::Number,
                "percentunit",
                4,
                &[(
                    r#"sum(rate(hbpf_host_llm_requests_ended_total{instance=~"$instance",outcome="failed"}[5m])) / sum(rate(hbpf_host_llm_requests_ended_total{instance=~"$instance"}[5m]))"#,
                    "",
                )],
            ),
            panel(
                "Cost / h",
                Shown::Number,
                "currencyUSD",
                4,
                &[(r#"sum(rate(hbpf_host_llm_cost_usd_total{instance=~"$instance"}[1h])) * 3600"#, "")],
            ),
            panel(
                "Requests by host",
                Shown::Stack,
                "reqps",
                12,
                &[(
                    r#"sum by (instance) (rate(hbpf_host_llm_requests_total{instance=~"$instance"}[5m]))"#,
                    "{{instance}}",
                )],
            ),
            panel(
                "Output tokens by host",
                Shown::Stack,
                "none",
                12,
                &[(
                    r#"sum by (instance) (rate(hbpf_host_llm_tokens_total{instance=~"$instance",type="output"}[5m]))"#,
                    "{{instance}}",
                )],
            ),
            panel(
                "Busiest workloads",
                Shown::Table,
                "none",
                12,
                &[(
                    r#"topk(15, sum by (namespace, workload, role) (rate(hbpf_llm_tokens_total{instance=~"$instance",namespace=~"$namespace",type="output"}[5m])))"#,
                    "",
                )],
            ),
            panel(
                "Busiest models",
                Shown::Table,
                "none",
                12,
                &[(
                    r#"topk(15, sum by (provider, model) (rate(hbpf_llm_tokens_total{instance=~"$instance",namespace=~"$namespace",role!="server",type="output"}[5m])))"#,
                    "",
                )],
            ),
            panel(
                "Errors by type",
                Shown::Stack,
                "reqps",
                12,
                &[(
                    r#"sum by (error_type) (rate(hbpf_host_llm_errors_total{instance=~"$instance"}[5m]))"#,
                    "{{error_type}}",
                )],
            ),
            panel(
                "Time to first token, p95 by host",
                Shown::Lines,
                "s",
                12,
                &[(
                    r#"histogram_quantile(0.95, sum by (instance, le) (rate(hbpf_host_llm_time_to_first_token_seconds_bucket{instance=~"$instance"}[5m])))"#,
                    "{{instance}}",
                )],
            ),
        ],
    },
    Dashboard {
        name: "host",
        title: "hbpf / Host",
        description: "One host: its workloads, their models, and the CPU, memory and GPUs behind them.",
        variables: &[INSTANCE],
        panels: &[
            panel(
                "Requests in flight",
                Shown::Lines,
                "none",
                12,
                &[(
                    r#"sum by (workload, role) (hbpf_llm_requests_in_flight{instance=~"$instance"})"#,
                    "{{workload}} {{role}}",
                )],
            ),
            panel(
                "Output tokens / s",
                Shown::Stack,
                "none",
                12,
                &[(
                    r#"sum by (workload, role) (rate(hbpf_llm_tokens_total{instance=~"$instance",type="output"}[5m]))"#,
                    "{{workload}} {{role}}",
                )],
            ),
            panel(
                "CPU by workload, cores",
                Shown::Stack,
                "none",
                12,
                &[(r#"sum by (workload) (hbpf_workload_cpu_ratio{instance=~"$instance"})"#, "{{workload}}")],
            ),
            panel(
                "Memory by workload",
                Shown::Stack,
                "bytes",
                12,
                &[(r#"sum by (workload) (hbpf_workload_resident_bytes{instance=~"$instance"})"#, "{{workload}}")],
            ),
            panel(
                "Pressure",
                Shown::Lines,
                "percentunit",
                12,
                &[(r#"hbpf_host_pressure_ratio{instance=~"$instance"}"#, "{{resource}}")],
            ),
            panel(
                "Memory of the host",
                Shown::Lines,
                "bytes",
                12,
                &[
                    (r#"hbpf_host_memory_used_bytes{instance=~"$instance"}"#, "used"),
                    (r#"hbpf_host_memory_total_bytes{instance=~"$instance"}"#, "there is"),
                ],
            ),
            panel(
                "Tools called / s",
                Shown::Stack,
                "reqps",
                12,
                &[(
                    r#"sum by (server, tool) (rate(hbpf_tool_calls_total{instance=~"$instance"}[5m]))"#,
                    "{{server}} {{tool}}",
                )],
            ),
            panel("Findings", Shown::Table, "none", 12, &[(r#"hbpf_finding{instance=~"$instance"}"#, "")]),
        ],
    },
    Dashboard {
        name: "cost",
        title: "hbpf / Model cost",
        description: "What models cost, by whom. Costs by list prices are estimates.",
        variables: &[INSTANCE, WORKLOAD, MODEL],
        panels: &[
            panel(
                "Cost / h",
                Shown::Number,
                "currencyUSD",
                6,
                &[(concat!("sum(rate(", of!("hbpf_llm_cost_usd_total", r#"role!="server""#), "[1h])) * 3600"), "")],
            ),
            panel(
                "Cost in the range",
                Shown::Number,
                "currencyUSD",
                6,
                &[(concat!("sum(increase(", of!("hbpf_llm_cost_usd_total", r#"role!="server""#), "[$__range]))"), "")],
            ),
            panel(
                "Input tokens from caches",
                Shown::Number,
                "percentunit",
                6,
                &[(
                    concat!(
                        "sum(rate(",
                        of!("hbpf_llm_tokens_total", r#"type="cached_input",role!="server""#),
                        "[1h])) / sum(rate(",
                        of!("hbpf_llm_tokens_total", r#"type="input",role!="server""#),
                        "[1h]))"
                    ),
                    "",
                )],
            ),
            panel(
                "Requests without a price",
                Shown::Number,
                "percentunit",
                6,
                &[(
                    concat!(
                        "sum(rate(",
                        of!("hbpf_llm_requests_without_cost_total", r#"role!="server""#),
                        "[1h])) / sum(rate(",
                        of!("hbpf_llm_requests_ended_total", r#"role!="server""#),
                        "[1h]))"
                    ),
                    "",
                )],
            ),
            panel(
                "Cost / h by model",
                Shown::Stack,
                "currencyUSD",
                12,
                &[(
                    concat!(
                        "sum by (provider, model) (rate(",
                        of!("hbpf_llm_cost_usd_total", r#"role!="server""#),
                        "[15m])) * 3600"
                    ),
                    "{{provider}} {{model}}",
                )],
            ),
            panel(
                "Cost / h by workload",
                Shown::Stack,
                "currencyUSD",
                12,
                &[(
                    concat!(
                        "sum by (namespace, workload) (rate(",
                        of!("hbpf_llm_cost_usd_total", r#"role!="server""#),
                        "[15m])) * 3600"
                    ),
                    "{{namespace}} {{workload}}",
                )],
            ),
            panel(
                "Tokens / s by kind",
                Shown::Stack,
                "none",
                12,
                &[(
                    concat!("sum by (type) (rate(", of!("hbpf_llm_tokens_total", r#"role!="server""#), "[5m]))"),
                    "{{type}}",
                )],
            ),
            panel(
                "GPUs of workloads, cost / h",
                Shown::Stack,
                "currencyUSD",
                12,
                &[(
                    r#"sum by (workload) (hbpf_workload_gpu_cost_usd_per_hour{instance=~"$instance"})"#,
                    "{{workload}}",
                )],
            ),
        ],
    },
    Dashboard {
        name: "latency",
        title: "hbpf / Latency",
        description: "How long people wait: for the first token, between tokens, for all of it.",
        variables: &[INSTANCE, WORKLOAD, MODEL],
        panels: &[
            panel(
                "Time to first token",
                Shown::Lines,
                "s",
                12,
                &[
                    (
                        concat!(
                            "histogram_quantile(0.5, sum by (le) (rate(",
                            of!("hbpf_llm_time_to_first_token_seconds_bucket"),
                            "[5m])))"
                        ),
                        "p50",
                    ),
                    (
                        concat!(
                            "histogram_quantile(0.95, sum by (le) (rate(",
                            of!("hbpf_llm_time_to_first_token_seconds_bucket"),
                            "[5m])))"
                        ),
                        "p95",
                    ),
                    (
                        concat!(
                            "histogram_quantile(0.99, sum by (le) (rate(",
                            of!("hbpf_llm_time_to_first_token_seconds_bucket"),
                            "[5m])))"
                        ),
                        "p99",
                    ),
                ],
            ),
            panel(
                "Time to first token, all of them",
                Shown::Heat,
                "s",
                12,
                &[(
                    concat!(
                        "sum by (le) (increase(",
                        of!("hbpf_llm_time_to_first_token_seconds_bucket"),
                        "[$__rate_interval]))"
                    ),
                    "{{le}}",
                )],
            ),
            panel(
                "Between tokens",
                Shown::Lines,
                "s",
                12,
                &[
                    (
                        concat!(
                            "histogram_quantile(0.5, sum by (le) (rate(",
                            of!("hbpf_llm_inter_token_seconds_bucket"),
                            "[5m])))"
                        ),
                        "p50",
                    ),
                    (
                        concat!(
                            "histogram_quantile(0.99, sum by (le) (rate(",
                            of!("hbpf_llm_inter_token_seconds_bucket"),
                            "[5m])))"
                        ),
                        "p99",
                    ),
                ],
            ),
            panel(
                "Whole requests",
                Shown::Lines,
                "s",
                12,
                &[
                    (
                        concat!(
                            "histogram_quantile(0.5, sum by (le) (rate(",
                            of!("hbpf_llm_request_duration_seconds_bucket"),
                            "[5m])))"
                        ),
                        "p50",
                    ),
                    (
                        concat!(
                            "histogram_quantile(0.99, sum by (le) (rate(",
                            of!("hbpf_llm_request_duration_seconds_bucket"),
                            "[5m])))"
                        ),
                        "p99",
                    ),
                ],
            ),
            panel(
                "Time to first token, p95 by model",
                Shown::Lines,
                "s",
                12,
                &[(
                    concat!(
                        "histogram_quantile(0.95, sum by (provider, model, le) (rate(",
                        of!("hbpf_llm_time_to_first_token_seconds_bucket"),
                        "[5m])))"
                    ),
                    "{{provider}} {{model}}",
                )],
            ),
            panel(
                "Time to first token, p95 by workload",
                Shown::Lines,
                "s",
                12,
                &[(
                    concat!(
                        "histogram_quantile(0.95, sum by (workload, role, le) (rate(",
                        of!("hbpf_llm_time_to_first_token_seconds_bucket"),
                        "[5m])))"
                    ),
                    "{{workload}} {{role}}",
                )],
            ),
            panel(
                "Stalls / s",
                Shown::Stack,
                "none",
                12,
                &[(
                    concat!("sum by (provider, model) (rate(", of!("hbpf_llm_stalls_total"), "[5m]))"),
                    "{{provider}} {{model}}",
                )],
            ),
            panel(
                "Refused for rate limits / s",
                Shown::Stack,
                "none",
                12,
                &[(
                    concat!("sum by (provider, model) (rate(", of!("hbpf_llm_rate_limited_total"), "[5m]))"),
                    "{{provider}} {{model}}",
                )],
            ),
        ],
    },
    Dashboard {
        name: "gpu",
        title: "hbpf / GPUs and inference servers",
        description: "GPUs, who uses them, and the queues of local inference servers.",
        variables: &[INSTANCE],
        panels: &[
            panel(
                "Utilization",
                Shown::Lines,
                "percentunit",
                12,
                &[(r#"hbpf_gpu_utilization_ratio{instance=~"$instance"}"#, "{{instance}} {{gpu}}")],
            ),
            panel(
                "Memory",
                Shown::Lines,
                "percentunit",
                12,
                &[(
                    r#"hbpf_gpu_memory_used_bytes{instance=~"$instance"} / hbpf_gpu_memory_total_bytes{instance=~"$instance"}"#,
                    "{{instance}} {{gpu}}",
                )],
            ),
            panel(
                "Power",
                Shown::Lines,
                "watt",
                12,
                &[(r#"hbpf_gpu_power_watts{instance=~"$instance"}"#, "{{instance}} {{gpu}}")],
            ),
            panel(
                "Temperature",
                Shown::Lines,
                "celsius",
                12,
                &[(r#"hbpf_gpu_temperature_celsius{instance=~"$instance"}"#, "{{instance}} {{gpu}}")],
            ),
            panel(
                "GPU memory by workload",
                Shown::Stack,
                "bytes",
                12,
                &[(r#"sum by (workload) (hbpf_workload_gpu_memory_bytes{instance=~"$instance"})"#, "{{workload}}")],
            ),
            panel(
                "Output tokens for a joule",
                Shown::Lines,
                "none",
                12,
                &[(r#"hbpf_workload_tokens_per_joule{instance=~"$instance"}"#, "{{workload}}")],
            ),
            panel(
                "Requests that wait for a server",
                Shown::Lines,
                "none",
                12,
                &[(r#"hbpf_engine_requests_waiting{instance=~"$instance"}"#, "{{engine}} {{endpoint}}")],
            ),
            panel(
                "Caches of servers",
                Shown::Lines,
                "percentunit",
                12,
                &[(r#"hbpf_engine_kv_cache_ratio{instance=~"$instance"}"#, "{{engine}} {{endpoint}}")],
            ),
        ],
    },
    Dashboard {
        name: "capture",
        title: "hbpf / Capture health",
        description: "What hbpf sees, misses and costs.",
        variables: &[INSTANCE],
        panels: &[
            panel(
                "Groups of probes in place",
                Shown::Table,
                "none",
                12,
                &[(r#"hbpf_probe_group_up{instance=~"$instance"}"#, "")],
            ),
            panel(
                "Processes by how far their TLS can be read",
                Shown::Lines,
                "none",
                12,
                &[(r#"sum by (tls) (hbpf_processes{instance=~"$instance"})"#, "{{tls}}")],
            ),
            panel(
                "Lost / s",
                Shown::Stack,
                "none",
                12,
                &[(r#"sum by (cause) (rate(hbpf_capture_lost_total{instance=~"$instance"}[5m]))"#, "{{cause}}")],
            ),
            panel(
                "Captured bytes / s",
                Shown::Lines,
                "Bps",
                12,
                &[(r#"rate(hbpf_capture_bytes_total{instance=~"$instance"}[5m])"#, "{{instance}}")],
            ),
            panel(
                "Overhead, of all CPUs",
                Shown::Lines,
                "percentunit",
                12,
                &[
                    (r#"hbpf_capture_overhead_ratio{instance=~"$instance"}"#, "{{instance}}"),
                    (r#"hbpf_capture_overhead_budget_ratio{instance=~"$instance"}"#, "{{instance}} may be"),
                ],
            ),
            panel(
                "hbpf's own CPU, cores",
                Shown::Lines,
                "none",
                12,
                &[(r#"hbpf_capture_self_cpu_ratio{instance=~"$instance"}"#, "{{instance}} cores")],
            ),
            panel(
                "Programs in the kernel, time / s",
                Shown::Stack,
                "s",
                12,
                &[(
                    r#"sum by (program) (rate(hbpf_probe_run_seconds_total{instance=~"$instance"}[5m]))"#,
                    "{{program}}",
                )],
            ),
            panel(
                "Exports that failed / s",
                Shown::Lines,
                "none",
                12,
                &[(
                    r#"sum by (instance, signal) (rate(hbpf_agent_otlp_failures_total{instance=~"$instance"}[5m]))"#,
                    "{{instance}} {{signal}}",
                )],
            ),
        ],
    },
];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let directory = tools::root().join(DIRECTORY);
    for dashboard in &DASHBOARDS {
        let path = directory.join(format!("{}.json", dashboard.name));
        let text = serde_json::to_string_pretty(&dashboard_json(dashboard))? + "\n";
        if arguments.check {
            check(&path, &text)?;
        } else {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

fn check(path: &Path, text: &str) -> Result<()> {
    let there = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    if there != text {
        bail!("{} is not what `cargo xtask dashboards` makes", path.display());
    }
    Ok(())
}

fn dashboard_json(dashboard: &Dashboard) -> Value {
    let mut at = (0, 0);
    let panels: Vec<Value> = (1..)
        .zip(dashboard.panels)
        .map(|(id, panel)| {
            let height = if panel.shown == Shown::Number { 4 } else { 8 };
            if at.0 + panel.width > 24 {
                at = (0, at.1 + 8);
            }
            let place = json!({ "x": at.0, "y": at.1, "w": panel.width, "h": height });
            at.0 += panel.width;
            panel_json(panel, id, place)
        })
        .collect();
    let source = json!({
        "name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source", "hide": 0,
        "skipUrlSync": false, "multi": false, "includeAll": false, "regex": "", "refresh": 1, "options": [], "current": {},
    });
    let variables = dashboard.variables.iter().map(|(name, query)| {
        json!({
            "name": name, "type": "query", "label": name, "hide": 0, "skipUrlSync": false,
            "datasource": data_source(),
            "query": { "query": query, "refId": "variable" }, "definition": query,
            "refresh": 2, "regex": "", "sort": 1, "multi": true, "includeAll": true, "allValue": ".*",
            "options": [], "current": { "text": "All", "value": "$__all" },
        })
    });
    json!({
        "uid": format!("hbpf-{}", dashboard.name),
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["hbpf", "llm"],
        "timezone": "browser",
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" },
        "schemaVersion": SCHEMA_VERSION,
        "templating": { "list": std::iter::once(source).chain(variables).collect::<Vec<_>>() },
        "annotations": { "list": [] },
        "links": [],
        "panels": panels,
    })
}

fn data_source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn panel_json(panel: &Panel, id: u32, place: Value) -> Value {
    let is_now = matches!(panel.shown, Shown::Number | Shown::Table);
    let format = match panel.shown {
        Shown::Table => "table",
        Shown::Heat => "heatmap",
        _ => "time_series",
    };
    let targets: Vec<Value> = ('A'..)
        .zip(panel.queries)
        .map(|(reference, (expression, legend))| {
            json!({
                "refId": reference.to_string(), "datasource": data_source(), "expr": expression, "legendFormat": legend,
                "instant": is_now, "range": !is_now, "format": format,
            })
        })
        .collect();
    let (kind, options, custom) = match panel.shown {
        Shown::Lines => {
            ("timeseries", legend_options(), json!({ "drawStyle": "line", "fillOpacity": 0, "showPoints": "never" }))
        }
        Shown::Stack => (
            "timeseries",
            legend_options(),
            json!({
                "drawStyle": "line", "fillOpacity": 30, "showPoints": "never",
                "stacking": { "mode": "normal", "group": "A" },
            }),
        ),
        Shown::Number => (
            "stat",
            json!({
                "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
                "colorMode": "value", "graphMode": "none", "textMode": "auto",
            }),
            json!({}),
        ),
        Shown::Table => ("table", json!({ "showHeader": true, "cellHeight": "sm" }), json!({})),
        Shown::Heat => (
            "heatmap",
            json!({ "calculate": false, "yAxis": { "unit": panel.unit }, "tooltip": { "mode": "single" }, "cellGap": 1 }),
            json!({}),
        ),
    };
    json!({
        "id": id, "type": kind, "title": panel.title, "gridPos": place, "datasource": data_source(), "targets": targets,
        "options": options,
        "fieldConfig": { "defaults": { "unit": panel.unit, "custom": custom }, "overrides": [] },
    })
}

fn legend_options() -> Value {
    json!({
        "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] },
        "tooltip": { "mode": "multi", "sort": "desc" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_there_are_what_this_makes() {
        run(&Arguments { check: true }).unwrap();
    }
}
