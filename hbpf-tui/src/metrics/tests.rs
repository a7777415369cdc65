use hbpf_core::snapshot::{Container, Distribution, SeriesTable};

use super::*;
use crate::fixture;

fn rich() -> hbpf_core::snapshot::Snapshot {
    let mut snapshot = fixture::rich();
    snapshot.gpus = fixture::gpus();
    snapshot.engines = fixture::engines();
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
