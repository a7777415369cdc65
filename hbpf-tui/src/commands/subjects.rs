//! Whose exchanges `hbpf check` judges.

use hbpf_core::exchange::Role;
use hbpf_core::label::Label;
use hbpf_core::snapshot::{Hop, Model, Request, Snapshot, TlsVisibility};
use hbpf_host::protocol::Group;

use super::measured::{Exchanges, Waits};
use crate::cli::CheckArgs;

/// The provider of exchanges that nothing was answered to yet.
const UNKNOWN_PROVIDER: &str = "unknown";

/// What takes in the models beyond those that are told apart.
const OTHER: &str = "other";

/// A set of exchanges, and what it is called.
pub(super) struct Subject<'a> {
    /// Empty for all.
    pub(super) name: String,
    pub(super) exchanges: Exchanges<'a>,
    /// Why it may have exchanges that are not among these, if it may.
    pub(super) unseen: Option<String>,
}

/// The sets of exchanges that were asked for.
pub(super) fn subjects<'a>(
    snapshot: &'a Snapshot,
    arguments: &CheckArgs,
    groups: &[Group],
    waits: &Waits,
) -> Vec<Subject<'a>> {
    match (arguments.pid, &arguments.model) {
        (Some(pid), _) => of_process(snapshot, pid, groups, waits),
        (None, Some(wanted)) => of_models(snapshot, wanted, waits),
        (None, None) => {
            let exchanges = Exchanges::new(Some(&snapshot.totals), running(snapshot), snapshot, waits);
            vec![Subject { name: String::new(), exchanges, unseen: None }]
        }
    }
}

/// Each exchange that runs once, where both its ends are observed, too: those that the totals count.
fn running(snapshot: &Snapshot) -> impl Iterator<Item = &Request> {
    let counts = |request: &&Request| match request.hop {
        None => true,
        Some(Hop::Internal) => request.role == Role::Client,
        Some(Hop::Gateway | Hop::Backend) => false,
    };
    snapshot.requests.in_flight.iter().filter(counts)
}

/// What gateways have passed on and have not answered yet: models have it in their rows, the totals have not.
fn passed_on(snapshot: &Snapshot) -> impl Iterator<Item = &Request> {
    let is_passed_on = |request: &&Request| request.hop == Some(Hop::Gateway) && request.role == Role::Server;
    snapshot.requests.in_flight.iter().filter(is_passed_on)
}

fn of_process<'a>(snapshot: &'a Snapshot, pid: u32, groups: &[Group], waits: &Waits) -> Vec<Subject<'a>> {
    let process = snapshot.processes.iter().find(|process| process.pid == pid);
    let ends = process
        .map(|process| [("client", Role::Client, &process.as_client), ("server", Role::Server, &process.as_server)]);
    let unread = snapshot.encrypted.iter().any(|traffic| traffic.pid == Some(pid) && traffic.read == Some(false));
    let unseen = unread.then(|| format!("process {pid} talks to models over TLS that cannot be read"));
    let ends = ends.into_iter().flatten().filter_map(|(end, role, stats)| Some((end, role, stats.as_ref()?)));
    let of_end = |(end, role, stats)| {
        let own = |request: &&Request| request.pid == Some(pid) && request.role == role;
        Subject {
            name: format!("process {pid} as {end}"),
            exchanges: Exchanges::new(Some(stats), snapshot.requests.in_flight.iter().filter(own), snapshot, waits),
            unseen: unseen.clone(),
        }
    };
    let mut subjects: Vec<_> = ends.map(of_end).collect();
    if subjects.is_empty() {
        let is_blind = process.is_some_and(|process| process.visibility.tls == TlsVisibility::Blind);
        let is_blind = is_blind && groups.contains(&Group::LlmTls);
        subjects.push(Subject {
            name: format!("process {pid}"),
            exchanges: Exchanges::new(None, std::iter::empty(), snapshot, waits),
            unseen: unseen.or(is_blind.then(|| format!("the TLS of process {pid} cannot be read"))),
        });
    }
    subjects
}

/// Models with this in their names, each of each provider for itself.
fn of_models<'a>(snapshot: &'a Snapshot, wanted: &str, waits: &Waits) -> Vec<Subject<'a>> {
    let is_wanted = |name: &Label| name.to_ascii_lowercase().contains(&wanted.to_ascii_lowercase());
    let mut models: Vec<Named<'a>> = snapshot.models.iter().filter_map(Named::of).collect();
    models.retain(|model| is_wanted(model.name));
    for request in running(snapshot).chain(passed_on(snapshot)) {
        let Some(name) = request.model.as_ref().filter(|name| is_wanted(name)) else { continue };
        // Who serves is told by the answer, and may be known from an earlier one.
        let known = models.iter_mut().find(|model| {
            model.name == name && (model.provider == &request.provider || request.provider == UNKNOWN_PROVIDER)
        });
        match known {
            Some(model) => model.running.push(request),
            None => models.push(Named { provider: &request.provider, name, row: None, running: vec![request] }),
        }
    }
    if models.is_empty() {
        let may_be = |model: &Model| model.model.as_ref().is_none_or(|name| name == OTHER && model.provider == OTHER);
        let unseen = snapshot.models.iter().any(may_be);
        return vec![Subject {
            name: wanted.to_owned(),
            exchanges: Exchanges::new(None, std::iter::empty(), snapshot, waits),
            unseen: unseen.then(|| "there were calls of models whose names are not known".to_owned()),
        }];
    }
    let subject = |model: Named<'a>| Subject {
        name: format!("{} of {}", model.name, model.provider),
        exchanges: Exchanges::new(model.row.map(|row| &row.stats), model.running.into_iter(), snapshot, waits),
        unseen: None,
    };
    models.into_iter().map(subject).collect()
}

/// A model of a provider.
struct Named<'a> {
    provider: &'a Label,
    name: &'a Label,
    /// `None` where it has only exchanges that run.
    row: Option<&'a Model>,
    running: Vec<&'a Request>,
}

impl<'a> Named<'a> {
    fn of(model: &'a Model) -> Option<Self> {
        Some(Self { provider: &model.provider, name: model.model.as_ref()?, row: Some(model), running: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use hbpf_core::snapshot::Hop;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::condition::Condition;
    use crate::fixture;

    /// What they are called, and how many requests that run and are old they have.
    fn of(snapshot: &Snapshot, options: &[&str]) -> Vec<(String, Option<u64>)> {
        let options = ["hbpf", "check", "duration_max>10s"].iter().chain(options);
        let arguments = match Cli::try_parse_from(options).unwrap().command {
            Some(Command::Check(arguments)) => arguments,
            other => panic!("{other:?}"),
        };
        let condition: &Condition = &arguments.conditions[0];
        let mut waits = Waits::default();
        waits.look(snapshot);
        let subjects = subjects(snapshot, &arguments, &Group::LLM, &waits);
        let measured = |subject: Subject<'_>| {
            let measured = subject.exchanges.measured(condition);
            (subject.name, measured.and_then(|measured| measured.of))
        };
        subjects.into_iter().map(measured).collect()
    }

    /// Nothing but two requests that have hung for a minute.
    fn hung() -> Snapshot {
        let mut snapshot = fixture::rich();
        let rows = &mut snapshot.requests.in_flight;
        rows.truncate(2);
        rows.iter_mut().for_each(|request| request.age_seconds = 60.0);
        snapshot.totals = hbpf_core::snapshot::LlmStats::default();
        snapshot.models.clear();
        snapshot
    }

    #[test]
    fn an_exchange_of_which_both_ends_are_seen_counts_once() {
        let mut snapshot = hung();
        assert_eq!(of(&snapshot, &[]), [(String::new(), Some(2))]);
        let [server, client] = &mut snapshot.requests.in_flight[..] else { panic!("there are two") };
        assert_eq!((server.role, client.role), (Role::Server, Role::Client));
        (server.hop, client.hop) = (Some(Hop::Internal), Some(Hop::Internal));
        assert_eq!(of(&snapshot, &[]), [(String::new(), Some(1))]);
    }

    #[test]
    fn a_model_that_has_answered_nothing_yet_is_told_by_what_runs() {
        let mut snapshot = hung();
        let request = &mut snapshot.requests.in_flight[1];
        (request.model, request.provider) = (Some("gpt-4o".into()), "unknown".into());
        assert_eq!(of(&snapshot, &["--model", "4O"]), [("gpt-4o of unknown".to_owned(), Some(1))]);
        // Unless another answer has told who serves.
        let model = Model { provider: "openai".into(), model: Some("gpt-4o".into()), ..Model::default() };
        snapshot.models.push(model);
        assert_eq!(of(&snapshot, &["--model", "4O"]), [("gpt-4o of openai".to_owned(), Some(1))]);
    }

    #[test]
    fn each_end_of_a_process_is_judged_for_itself() {
        let snapshot = fixture::rich();
        let names: Vec<_> = of(&snapshot, &["--pid", "3310"]).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["process 3310 as client", "process 3310 as server"]);
        assert_eq!(of(&snapshot, &["--pid", "901"]), [("process 901".to_owned(), None)]);
    }
}
