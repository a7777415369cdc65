//! Many hosts at once, from a server with Prometheus' API that scrapes their agents.
//!
//! The server adds up; what comes here is bounded, however many hosts there are. All numbers are of one range of time: counts are
//! how much counters have grown in it.

mod answer;
mod build;
mod query;
mod table;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::answer::Sample;
use self::query::{Scope, Table};
use self::table::{Part, Times};
use super::http::{Failure, Http};
use crate::cli::Elsewhere;

/// Longest answer to a query.
const MAX_ANSWER: usize = 16 << 20;

/// Queries at a time: the server has other work as well.
const AT_A_TIME: usize = 4;

/// What a server without this API answers, or with it to what it cannot do.
const INSTANT_QUERY: &str = "/api/v1/query";

/// A metrics server that is asked.
pub(super) struct Fleet {
    http: Arc<Http>,
    scope: Scope,
    sequence: u64,
}

/// What a query is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Part(Table, Part),
    Machines,
    Roles,
    Workloads,
    Gpus,
    Engines,
    Findings,
    Gone,
    Lost,
    Groups,
    Overhead,
}

/// What came of all queries.
#[derive(Default)]
struct Answers {
    samples: Vec<(About, Vec<Sample>)>,
    /// What could not be asked, each once.
    problems: Vec<String>,
}

impl Answers {
    fn of(&self, about: About) -> &[Sample] {
        self.samples.iter().find(|(of, _)| *of == about).map_or(&[], |(_, samples)| samples)
    }
}

impl Fleet {
    pub(super) fn new(http: Http, elsewhere: &Elsewhere) -> Self {
        let scope = Scope {
            host: elsewhere.host_label.clone(),
            matching: elsewhere.matching.clone().unwrap_or_default(),
            range: elsewhere.range.as_secs(),
        };
        Self { http: Arc::new(http), scope, sequence: 0 }
    }

    /// All hosts as they are now, as JSON.
    pub(super) async fn snapshot(&mut self) -> Result<Vec<u8>, Failure> {
        let answers = self.ask().await?;
        let snapshot = build::snapshot(&answers, &self.scope, self.sequence);
        self.sequence += 1;
        serde_json::to_vec(&snapshot).map_err(|error| Failure { status: None, why: error.to_string() })
    }

    fn queries(&self) -> Vec<(About, String)> {
        let scope = &self.scope;
        let times = || Times::ALL.into_iter().flat_map(|times| [Part::Buckets(times), Part::Sum(times)]);
        let parts = Table::ALL.into_iter().flat_map(|table| {
            let times = times().filter(move |_| table.has_times());
            Part::COUNTS.into_iter().chain(times).map(move |part| (table, part))
        });
        let parts = parts.map(|(table, part)| (About::Part(table, part), scope.part(table, part)));
        let others = [
            (About::Machines, scope.machines()),
            (About::Roles, scope.roles()),
            (About::Workloads, scope.workloads()),
            (About::Gpus, scope.gpus()),
            (About::Engines, scope.engines()),
            (About::Findings, scope.findings()),
            (About::Gone, scope.gone()),
            (About::Lost, scope.lost()),
            (About::Groups, scope.groups()),
            (About::Overhead, scope.overhead()),
        ];
        parts.chain(others).collect()
    }

    /// Asks everything. One that fails is told and does without; nothing is worth showing without the hosts.
    async fn ask(&self) -> Result<Answers, Failure> {
        let places = Arc::new(Semaphore::new(AT_A_TIME));
        let mut running = JoinSet::new();
        for (about, query) in self.queries() {
            let (http, places) = (Arc::clone(&self.http), Arc::clone(&places));
            running.spawn(async move {
                // It is never closed.
                let _place = places.acquire().await;
                (about, answered(&http, &query).await)
            });
        }
        let mut answers = Answers::default();
        while let Some(done) = running.join_next().await {
            match done {
                Ok((about, Ok(samples))) => answers.samples.push((about, samples)),
                Ok((About::Part(Table::Hosts, Part::Requests), Err(failure))) => return Err(failure),
                Ok((_, Err(failure))) if answers.problems.contains(&failure.why) => {}
                Ok((_, Err(failure))) => answers.problems.push(failure.why),
                Err(error) => answers.problems.push(error.to_string()),
            }
        }
        if answers.of(About::Part(Table::Hosts, Part::Requests)).is_empty() && answers.of(About::Overhead).is_empty() {
            let among = match self.scope.matching.as_str() {
                "" => String::new(),
                matching => format!(" with {matching}"),
            };
            let why = format!("it has no metrics of an `hbpf agent`{among}: does it scrape any?");
            return Err(Failure { status: None, why });
        }
        Ok(answers)
    }
}

async fn answered(http: &Http, query: &str) -> Result<Vec<Sample>, Failure> {
    let failure = |why| Failure { status: None, why };
    match http.post(INSTANT_QUERY, &[("query", query)], MAX_ANSWER).await {
        Ok(json) => answer::samples(&json).map_err(failure),
        Err(refused) => Err(explained(refused)),
    }
}

/// What mends it.
fn explained(failure: Failure) -> Failure {
    let why = match failure.status {
        Some(status) if matches!(status.as_u16(), 401 | 403) => {
            format!("{}: a token may be missing (--token-file)", failure.why)
        }
        Some(status) if status.as_u16() == 404 => {
            format!("{status}: there is no Prometheus' API under this URL")
        }
        _ => failure.why,
    };
    Failure { why, ..failure }
}
