//! Recording rules: what a fleet view asks for, reckoned beforehand by the Prometheus that is asked.
//!
//! Sums over the series of hundreds of hosts take Prometheus seconds. Where it evaluates the rules of
//! `deploy/prometheus/fleet-rules.yml`, which are the view's own queries, the view reads their results instead.

use std::collections::BTreeSet;

use super::answer::Sample;
use super::query::{About, PART, Scope, Table};
use super::table::Part;

/// What rules are reckoned for: a view of all hosts, as it is unless something else is asked for.
const RANGE: u64 = 120;
const HOST: &str = "instance";

/// Of how many hosts there are records, and how many there are.
const RECORDED: &str = "recorded";
const ALL: &str = "all";

/// The name under which an answer is recorded. What is asked for quickly has none.
fn name(about: About) -> Option<String> {
    let subject = match about {
        About::Counts(table) => table.name().to_owned(),
        About::Times(table, part) => format!("{}_{}", table.name(), part.metric().0),
        About::Roles => "roles".to_owned(),
        _ => return None,
    };
    Some(format!("hbpf:fleet_{subject}:increase2m"))
}

/// A query for which of the names are recorded, and of how many hosts, if the rules are for what is asked for.
pub(super) fn presence(scope: &Scope) -> Option<String> {
    if scope.host != HOST || !scope.matching.is_empty() || scope.range != RANGE {
        return None;
    }
    let hosts = |of: &str, part: &str| {
        format!("label_replace(count(count by ({HOST}) ({of})), \"{PART}\", \"{part}\", \"\", \"\")")
    };
    Some(format!(
        "count by (__name__) ({{__name__=~\"hbpf:fleet_.+\"}}) or {} or {}",
        hosts(&name(About::Counts(Table::Hosts))?, RECORDED),
        hosts("hbpf_build_info", ALL)
    ))
}

/// The names that are recorded, from the answer to that. None where hosts are missing, as behind a server that asks several others
/// of which one has rules.
pub(super) fn names(presence: &[Sample]) -> BTreeSet<String> {
    let hosts =
        |part: &str| presence.iter().find(|sample| sample.label(PART) == part).map_or(0.0, |sample| sample.value);
    // One that has just come is recorded soon.
    if hosts(RECORDED) == 0.0 || hosts(RECORDED) < 0.9 * hosts(ALL) {
        return BTreeSet::new();
    }
    presence.iter().map(|sample| sample.label("__name__").to_owned()).filter(|name| !name.is_empty()).collect()
}

/// Whether it is recorded.
pub(super) fn is_among(about: About, recorded: &BTreeSet<String>) -> bool {
    name(about).is_some_and(|name| recorded.contains(&name))
}

/// The query for what the rules have recorded, and for all else the query itself. Several servers may have recorded the same, each of
/// its own hosts.
pub(super) fn query(scope: &Scope, about: About, recorded: &BTreeSet<String>) -> String {
    let recorded = |about| name(about).filter(|name| recorded.contains(name));
    match (recorded(about), about) {
        (Some(name), _) => format!("sum by ({}) ({name})", scope.told_apart_by(about).join(",")),
        (None, About::Workloads) => match recorded(About::Counts(Table::Workloads)) {
            Some(counts) => scope.workloads(&format!("{counts}{{{PART}=\"{}\"}}", Part::Requests.metric().0)),
            None => scope.query(about),
        },
        (None, _) => scope.query(about),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// Groups of rules, and how often each is evaluated: what goes through all series of exchanges takes longer.
    const GROUPS: [(&str, &str, bool); 2] = [("hbpf-fleet-hosts", "15s", false), ("hbpf-fleet", "1m", true)];

    fn file() -> String {
        let scope = Scope { host: HOST.to_owned(), matching: String::new(), range: RANGE };
        let mut file = "groups:\n".to_owned();
        for (group, interval, heavy) in GROUPS {
            writeln!(file, "  - name: {group}\n    interval: {interval}\n    rules:").unwrap();
            for about in About::all().into_iter().filter(|about| about.is_heavy() == heavy) {
                if let Some(name) = name(about) {
                    writeln!(file, "      - record: {name}\n        expr: '{}'", scope.query(about)).unwrap();
                }
            }
        }
        file
    }

    #[test]
    fn the_page_is_what_a_view_asks_for() {
        crate::generated::is_in("deploy/prometheus/fleet-rules.yml", "# generated\n", &file());
    }

    #[test]
    fn rules_serve_what_they_are_for() {
        let scope = |range, matching: &str| Scope { host: HOST.to_owned(), matching: matching.to_owned(), range };
        assert!(presence(&scope(RANGE, "")).is_some());
        assert_eq!((presence(&scope(60, "")), presence(&scope(RANGE, "a=\"b\""))), (None, None));
        let recorded = [Table::Models, Table::Workloads].into_iter().filter_map(|table| name(About::Counts(table)));
        let (scope, recorded) = (scope(RANGE, ""), recorded.collect::<BTreeSet<_>>());
        let models = query(&scope, About::Counts(Table::Models), &recorded);
        assert!(
            models.starts_with("sum by (role,provider,model,hbpf_part,")
                && models.ends_with(" (hbpf:fleet_models:increase2m)")
        );
        for not in [About::Lost, About::Roles, About::Counts(Table::Hosts)] {
            assert_eq!(query(&scope, not, &recorded), scope.query(not));
        }
        let workloads = query(&scope, About::Workloads, &recorded);
        assert!(workloads.ends_with("hbpf:fleet_workloads:increase2m{hbpf_part=\"requests_total\"}"), "{workloads}");
        assert_eq!(query(&scope, About::Workloads, &BTreeSet::new()), scope.query(About::Workloads));
    }

    #[test]
    fn records_of_some_hosts_are_not_read() {
        let sample = |label: &str, value: &str, number| Sample {
            labels: [(label.to_owned(), value.to_owned())].into(),
            value: number,
        };
        let of = |recorded, all| {
            names(&[
                sample("__name__", "hbpf:fleet_roles:increase2m", 7.0),
                sample(PART, RECORDED, recorded),
                sample(PART, ALL, all),
            ])
        };
        assert_eq!((of(10.0, 10.0).len(), of(10.0, 11.0).len(), of(9.0, 0.0).len()), (1, 1, 1));
        assert!(of(5.0, 10.0).is_empty() && of(0.0, 10.0).is_empty() && names(&[]).is_empty());
    }
}
