//! Many hosts at once, from a server with Prometheus' API that scrapes their agents.
//!
//! The server adds up; what comes here is bounded, however many hosts there are. All numbers are of one range of time: counts are
//! how much counters have grown in it.

mod answer;
mod build;
mod query;
mod rules;
mod table;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

use self::answer::Sample;
use self::query::{About, Scope, Table};
use super::http::{Failure, Http};
use crate::cli::Elsewhere;

/// Longest answer to a query: of 2000 hosts a distribution has some 4 MiB.
const MAX_ANSWER: usize = 8 << 20;

/// Queries at a time, and of those that take long: the server has other work as well.
const AT_A_TIME: usize = 4;
const HEAVY_AT_A_TIME: usize = 2;

/// <https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries>
const INSTANT_QUERY: &str = "/api/v1/query";

/// A metrics server that is asked.
pub(super) struct Fleet {
    http: Arc<Http>,
    scope: Scope,
    sequence: u64,
    answers: Answers,
    /// What is being asked meanwhile.
    coming: Asking,
}

/// What came of the latest query about each thing.
#[derive(Default)]
struct Answers(Vec<(About, Result<Vec<Sample>, Failure>)>);

impl Answers {
    fn put(&mut self, about: About, answer: Result<Vec<Sample>, Failure>) {
        self.0.retain(|(of, _)| *of != about);
        self.0.push((about, answer));
    }

    fn of(&self, about: About) -> &[Sample] {
        let answer = self.0.iter().find(|(of, _)| *of == about);
        answer.and_then(|(_, answer)| answer.as_ref().ok()).map_or(&[], Vec::as_slice)
    }

    /// What could not be asked, each once.
    fn problems(&self) -> BTreeSet<&str> {
        self.0.iter().filter_map(|(_, answer)| answer.as_ref().err()).map(|failure| failure.why.as_str()).collect()
    }
}

type Asking = JoinSet<(About, Result<Vec<Sample>, Failure>)>;

impl Fleet {
    pub(super) fn new(http: Http, elsewhere: &Elsewhere) -> Self {
        let scope = Scope {
            host: elsewhere.host_label.clone(),
            matching: elsewhere.matching.clone().unwrap_or_default(),
            range: elsewhere.range.as_secs(),
        };
        Self { http: Arc::new(http), scope, sequence: 0, answers: Answers::default(), coming: JoinSet::new() }
    }

    /// All hosts as they are now, as JSON. What a server of many takes long for is in it as it comes: that is soon enough for what
    /// changes with each scrape. Where there is one snapshot only, it is waited for.
    pub(super) async fn snapshot(&mut self, interval: Option<Duration>) -> Result<Vec<u8>, Failure> {
        let queries = self.queries().await?;
        let (heavy, light): (Vec<_>, Vec<_>) = queries.into_iter().partition(|(about, _)| about.is_heavy());
        let mut asking = self.ask(light, AT_A_TIME);
        while let Some(answered) = asking.join_next().await {
            self.take(answered);
        }
        if self.coming.is_empty() {
            self.coming = self.ask(heavy, HEAVY_AT_A_TIME);
        }
        while let Some(answered) =
            if interval.is_some() { self.coming.try_join_next() } else { self.coming.join_next().await }
        {
            self.take(answered);
        }
        self.check()?;
        let snapshot = build::snapshot(&self.answers, &self.scope, self.sequence);
        self.sequence += 1;
        serde_json::to_vec(&snapshot).map_err(|error| Failure { status: None, why: error.to_string() })
    }

    /// All queries. Those that many hosts make slow are for what rules have recorded, where there are rules.
    async fn queries(&self) -> Result<Vec<(About, String)>, Failure> {
        let scope = &self.scope;
        let recorded = match rules::presence(scope) {
            Some(presence) => rules::names(&answered(&self.http, &presence).await?),
            None => BTreeSet::new(),
        };
        let series = answered(&self.http, &scope.series()).await?;
        let series = series.first().map_or(0.0, |sample| sample.value);
        let is_asked = |about: &About| about.is_quick(series) || rules::is_among(*about, &recorded);
        let asked = About::all().into_iter().filter(is_asked);
        Ok(asked.map(|about| (about, rules::query(scope, about, &recorded))).collect())
    }

    /// Asks, some at a time.
    fn ask(&self, queries: Vec<(About, String)>, at_a_time: usize) -> Asking {
        let places = Arc::new(Semaphore::new(at_a_time));
        let mut asking = JoinSet::new();
        for (about, query) in queries {
            let (http, places) = (Arc::clone(&self.http), Arc::clone(&places));
            asking.spawn(async move {
                // It is never closed.
                let _place = places.acquire().await;
                (about, answered(&http, &query).await)
            });
        }
        asking
    }

    fn take(&mut self, answered: Result<(About, Result<Vec<Sample>, Failure>), JoinError>) {
        // It cannot be, for nothing in it panics.
        if let Ok((about, answer)) = answered {
            self.answers.put(about, answer);
        }
    }

    /// A query that fails is told, and done without; but nothing is worth showing without hosts.
    fn check(&self) -> Result<(), Failure> {
        let hosts = self.answers.0.iter().find(|(of, _)| *of == About::Counts(Table::Hosts));
        if let Some((_, Err(failure))) = hosts {
            return Err(failure.clone());
        }
        if self.answers.of(About::Counts(Table::Hosts)).is_empty() && self.answers.of(About::Overhead).is_empty() {
            let among = match self.scope.matching.as_str() {
                "" => String::new(),
                matching => format!(" with {matching}"),
            };
            let why = format!("it has no metrics of an `hbpf agent`{among}: does it scrape any?");
            return Err(Failure { status: None, why });
        }
        Ok(())
    }
}

/// A snapshot of what came in answer, one line to each query.
#[cfg(feature = "fuzzing")]
pub(crate) fn of_answers(lines: &[u8]) -> hbpf_core::snapshot::Snapshot {
    let scope = Scope { host: "instance".to_owned(), matching: String::new(), range: 300 };
    let mut answers = Answers::default();
    for (about, line) in About::all().into_iter().zip(lines.split(|byte| *byte == b'\n')) {
        answers.put(about, answer::samples(line).map_err(|why| Failure { status: None, why }));
    }
    build::snapshot(&answers, &scope, 0)
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
