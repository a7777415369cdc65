//! Recording rules: what a fleet view asks for, reckoned beforehand by the Prometheus that is asked.
//!
//! Sums over the series of hundreds of hosts take Prometheus seconds. Where it evaluates the rules of
//! `deploy/prometheus/fleet-rules.yml`, which are the view's own queries, the view reads their results instead.

use super::query::{About, PART, Scope, Table};
use super::table::Part;

/// What rules are reckoned for: a view of all hosts, as it is unless something else is asked for.
const RANGE: u64 = 120;
const HOST: &str = "instance";

/// The name under which an answer is recorded. What is asked for quickly has none.
fn name(about: About) -> Option<String> {
    let subject = match about {
        About::Counts(table) => table.name().to_owned(),
        About::Times(table @ (Table::Hosts | Table::Models), part) => format!("{}_{}", table.name(), part.metric().0),
        About::Roles => "roles".to_owned(),
        _ => return None,
    };
    Some(format!("hbpf:fleet_{subject}:increase2m"))
}

/// A query by which it is seen whether the rules are evaluated, if they are for what is asked for.
pub(super) fn presence(scope: &Scope) -> Option<String> {
    let serve = scope.host == HOST && scope.matching.is_empty() && scope.range == RANGE;
    name(About::Counts(Table::Hosts)).filter(|_| serve).map(|name| format!("count({name})"))
}

/// The query for what the rules have recorded, and for all else the query itself.
pub(super) fn query(scope: &Scope, about: About) -> String {
    match (name(about), about) {
        (Some(recorded), _) => recorded,
        (None, About::Workloads) => {
            let counts = name(About::Counts(Table::Workloads)).unwrap_or_default();
            scope.workloads(&format!("{counts}{{{PART}=\"{}\"}}", Part::Requests.metric().0))
        }
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
            for about in About::all(0.0).into_iter().filter(|about| about.is_heavy() == heavy) {
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
        assert_eq!(query(&scope(RANGE, ""), About::Counts(Table::Models)), "hbpf:fleet_models:increase2m");
        assert_eq!(query(&scope(RANGE, ""), About::Lost), scope(RANGE, "").query(About::Lost));
        let workloads = query(&scope(RANGE, ""), About::Workloads);
        assert!(workloads.ends_with("hbpf:fleet_workloads:increase2m{hbpf_part=\"requests_total\"}"), "{workloads}");
    }
}
