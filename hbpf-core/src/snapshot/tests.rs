//! The contract: names and forms that may be added to, and neither renamed nor removed.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Snapshot;

/// Every object of the contract and its fields, one object a line, in the order of names.
const CONTRACT: &str = include_str!("contract.txt");

/// Follows a reference to its definition.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).expect("a definition"),
        None => schema,
    }
}

fn properties(schema: &Value) -> Option<String> {
    let names: BTreeSet<&str> = schema.get("properties")?.as_object()?.keys().map(String::as_str).collect();
    Some(names.into_iter().collect::<Vec<_>>().join(" "))
}

fn fields() -> String {
    let root = serde_json::to_value(Snapshot::schema()).unwrap();
    let definitions = root["$defs"].as_object().unwrap();
    let named = definitions.iter().filter_map(|(name, schema)| Some(format!("{name}: {}", properties(schema)?)));
    let mut lines = vec![format!("Snapshot: {}", properties(&root).unwrap())];
    lines.extend(named);
    lines.sort();
    lines.join("\n") + "\n"
}

#[test]
fn fields_are_those_of_the_contract() {
    assert_eq!(fields(), CONTRACT, "add new fields to contract.txt; those that are there must stay");
}

#[test]
fn names_are_snake_case() {
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    for line in fields().lines() {
        let (object, names) = line.split_once(": ").unwrap();
        assert!(names.split(' ').all(plain), "{object}: {names}");
    }
}

#[test]
fn words_are_those_of_the_contract() {
    let root = serde_json::to_value(Snapshot::schema()).unwrap();
    let words = |name: &str| -> Vec<String> {
        let schema = &root["$defs"][name];
        let single = |schema: &Value| schema["const"].as_str().map(str::to_owned);
        let listed = |schema: &Value| {
            Some(schema["enum"].as_array()?.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "))
        };
        match schema["oneOf"].as_array() {
            Some(all) => all.iter().filter_map(|schema| single(schema).or_else(|| listed(schema))).collect(),
            None => listed(schema)
                .into_iter()
                .flat_map(|all| all.split(' ').map(str::to_owned).collect::<Vec<_>>())
                .collect(),
        }
    };
    for (name, expected) in [
        ("Role", "client server"),
        ("Phase", "sending waiting streaming done failed abandoned"),
        ("Protocol", "http/1.1 h2 websocket grpc stdio"),
        ("TokensSource", "reported estimated unknown"),
        ("TlsVisibility", "none attached partial blind"),
        ("ProbeState", "on off failed"),
        ("OverheadLevel", "full excluded thinned detached"),
        ("Severity", "info warning critical"),
        ("WorkloadKind", "pod container unit tree host"),
        (
            "Api",
            "chat text_completion responses messages embeddings generate_content rerank audio image realtime infer tool",
        ),
    ] {
        assert_eq!(words(name).join(" "), expected, "{name}");
    }
}

#[test]
fn what_may_be_unknown_may_be_null_and_counters_may_not() {
    let root = serde_json::to_value(Snapshot::schema()).unwrap();
    let nullable = |object: &str, field: &str| {
        let schema = resolve(&root["$defs"][object]["properties"][field], &root).clone();
        let null = Value::from("null");
        schema["type"].as_array().is_some_and(|types| types.contains(&null))
            || schema["anyOf"].as_array().is_some_and(|any| any.iter().any(|one| one["type"] == null))
    };
    for (object, field) in [
        ("LlmStats", "requests_in_flight"),
        ("LlmStats", "requests_per_second"),
        ("LlmStats", "cost_usd"),
        ("TokenTotals", "output"),
        ("TokensInProgress", "output"),
        ("TokenRates", "output"),
        ("Latency", "inter_token_seconds"),
        ("Process", "as_client"),
        ("Process", "cpu_percent"),
        ("Request", "status"),
        ("Request", "hop"),
        ("EndpointStats", "rate_limit"),
    ] {
        assert!(nullable(object, field), "{object}.{field}");
    }
    for (object, field) in [("LlmStats", "requests_total"), ("TokensEstimated", "output"), ("Request", "bytes_missed")]
    {
        assert!(!nullable(object, field), "{object}.{field}");
    }
}
