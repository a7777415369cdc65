use std::collections::BTreeMap;

use hbpf_core::snapshot::{Container, Distribution, Finding, SeriesTable, Severity};

use super::*;
use crate::fixture;

pub(super) fn rich() -> hbpf_core::snapshot::Snapshot {
    let mut snapshot = fixture::rich();
    snapshot.gpus = fixture::gpus();
    snapshot.engines = fixture::engines();
    let finding = |rule: &str, severity| Finding {
        id: rule.into(),
        severity,
        subject: "x".into(),
        title: "x".into(),
        evidence: BTreeMap::new(),
        advice: "x".into(),
        since: snapshot.observation_started_at,
    };
    snapshot.findings = vec![
        finding("blind_process", Severity::Info),
        finding("error_burst", Severity::Warning),
        finding("error_burst", Severity::Critical),
    ];
    let stats = snapshot.totals.clone();
    let row = |pod: &str, model: &str| hbpf_core::snapshot::Series {
        workload: pod.into(),
        workload_kind: hbpf_core::snapshot::WorkloadKind::Pod,
        container: Some(Container {
            namespace: Some("ai".into()),
            pod: Some(pod.into()),
            name: Some("main".into()),
            ..Container::default()
        }),
        role: hbpf_core::snapshot::SeriesRole::Client,
        provider: "openai".into(),
        model: Some(model.into()),
        api: hbpf_core::exchange::Api::Chat,
        endpoint: "api.openai.com:443".into(),
        since: snapshot.observation_started_at,
        stats: stats.clone(),
    };
    let rows = vec![row("rag-1", "gpt-4o"), row("rag-2", "a \\ \"b\"")];
    snapshot.series = Some(SeriesTable { rows, folded_total: 3 });
    snapshot
}

#[test]
fn the_text_of_a_rich_snapshot() {
    insta::assert_snapshot!(text(&collect(&rich()), Text::OpenMetrics));
}

#[test]
fn the_older_form_differs_in_names_alone() {
    let families = collect(&rich());
    let samples =
        |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    let (new, old) = (text(&families, Text::OpenMetrics), text(&families, Text::Prometheus));
    assert_eq!(samples(&new), samples(&old));
    assert!(
        old.contains("# TYPE hbpf_llm_requests_total counter\n") && !old.contains("# UNIT") && !old.contains("# EOF")
    );
    assert!(new.contains("# TYPE hbpf_llm_requests counter\n") && new.ends_with("\n# EOF\n"));
}

#[test]
fn classic_buckets_are_exact() {
    // 0.5 to 1 s, on either side of a power of two, and beyond the last.
    let values = Distribution {
        count: 10,
        scale: 3,
        buckets: vec![(-9, 1), (-8, 2), (-1, 3), (0, 3), (90, 1)],
        ..Distribution::default()
    };
    let below = |exponent| below(&values, exponent);
    assert_eq!([-2, -1, 0, 1, 9, 12].map(below), [0, 1, 6, 9, 9, 10]);
}

#[test]
fn a_request_with_a_trace_is_an_exemplar_of_what_counts_it() {
    let mut snapshot = rich();
    let mut request = snapshot.requests.recent[0].clone();
    let row = &snapshot.series.as_ref().unwrap().rows[0];
    (request.model, request.endpoint) = (row.model.clone(), row.endpoint.clone());
    (request.provider, request.api, request.role) = (row.provider.clone(), row.api, hbpf_core::exchange::Role::Client);
    request.trace_id = Some("4bf92f3577b34da6a3ce929d0e0e4736".into());
    (request.duration_seconds, request.time_to_first_token_seconds) = (Some(3.0), Some(0.3));
    snapshot.requests.recent = vec![request];
    let lines = |snapshot: &hbpf_core::snapshot::Snapshot, form| {
        let text = text(&collect(snapshot), form);
        text.lines().filter(|line| line.contains("# {trace_id=")).map(str::to_owned).collect::<Vec<_>>()
    };
    let found = lines(&snapshot, Text::OpenMetrics);
    // Two histograms, of the host and of the series.
    assert_eq!(found.len(), 4, "{found:#?}");
    let one = |name: &str| found.iter().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{found:#?}"));
    assert!(one("hbpf_host_llm_request_duration_seconds_bucket{le=\"4.0\"}").contains("0e0e4736\"} 3.0 "));
    assert!(one("hbpf_llm_time_to_first_token_seconds_bucket{").contains("le=\"0.5\"} "));
    assert!(lines(&snapshot, Text::Prometheus).is_empty());
    // Of which of two pods it was is not known.
    let series = snapshot.series.as_mut().unwrap();
    let other = hbpf_core::snapshot::Series { workload: "other".into(), ..series.rows[0].clone() };
    series.rows.push(other);
    assert_eq!(lines(&snapshot, Text::OpenMetrics).len(), 2);
}

#[test]
fn what_is_unknown_has_no_point() {
    let text = text(&collect(&hbpf_core::snapshot::Snapshot::default()), Text::OpenMetrics);
    assert!(!text.contains("hbpf_host_llm_requests_in_flight") && !text.contains("cost_usd"), "{text}");
    assert!(text.contains("hbpf_host_llm_requests_total 0.0\n"), "{text}");
}

#[test]
fn no_two_points_of_a_family_have_the_same_labels() {
    let mut snapshot = rich();
    // Two runs of one program.
    let mut again = snapshot.workloads[0].clone();
    again.key = "tree/again".into();
    snapshot.workloads.push(again);
    for family in collect(&snapshot) {
        let mut seen = std::collections::BTreeSet::new();
        for point in &family.points {
            let labels: Vec<_> = point.labels().cloned().collect();
            assert!(labels.iter().all(|(_, value)| !value.is_empty()));
            assert!(seen.insert(labels.clone()), "{} {labels:?}", family.name());
        }
    }
}

#[test]
fn names_follow_the_conventions() {
    let mut names = std::collections::BTreeSet::new();
    for family in collect(&rich()) {
        let name = family.name();
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'), "{name}");
        assert!(
            !["_total", "_info", "_count", "_sum", "_bucket"].iter().any(|suffix| name.ends_with(suffix)),
            "{name}"
        );
        assert!(family.definition.help.ends_with('.') && !family.definition.help.contains('\n'), "{name}");
        assert!(names.insert(name.clone()), "{name} twice");
    }
}
