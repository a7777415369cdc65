//! One host's agent.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde::Deserialize;

use super::http::{Failure, Http};
use super::patience;

/// Longest snapshot that is taken: those of a host with thousands of processes have a few MiB.
const MAX_SNAPSHOT: usize = 32 << 20;

/// An agent that is asked.
pub(super) struct Agent {
    http: Http,
    /// Which snapshot came last, and when it came first.
    latest: Option<(Identity, Instant)>,
}

/// What tells snapshots apart.
#[derive(PartialEq, Deserialize)]
struct Identity {
    observation_started_at: String,
    sequence: u64,
}

impl Agent {
    pub(super) fn new(http: Http) -> Self {
        Self { http, latest: None }
    }

    /// Its latest snapshot, as JSON; `None` if that is the one of before.
    pub(super) async fn snapshot(&mut self, interval: Option<Duration>) -> Result<Option<Vec<u8>>, Failure> {
        let json = self.http.get("/snapshot", MAX_SNAPSHOT).await.map_err(explained)?;
        // What it is else is found out where it can do no harm.
        let Ok(identity) = serde_json::from_slice::<Identity>(&json) else { return Ok(Some(json)) };
        match &self.latest {
            Some((latest, since)) if *latest == identity => {
                let age = since.elapsed();
                if age >= patience(interval.unwrap_or_default()) {
                    let why = format!("the agent has had nothing new for {}s; its /healthz says why", age.as_secs());
                    return Err(Failure { status: None, why });
                }
                return Ok(None);
            }
            _ => self.latest = Some((identity, Instant::now())),
        }
        Ok(Some(json))
    }
}

/// What mends it.
fn explained(failure: Failure) -> Failure {
    let why = match failure.status {
        Some(StatusCode::UNAUTHORIZED) => {
            "it wants another token: --token-file, with what the agent's --token-file has".to_owned()
        }
        Some(StatusCode::MISDIRECTED_REQUEST) => {
            "it is not called so: start the agent with --host and this name, or use its address".to_owned()
        }
        Some(StatusCode::NOT_FOUND) => {
            "there is no agent's /snapshot there: its port for metrics alone has none".to_owned()
        }
        None if failure.why.contains("InvalidContentType") => {
            format!("{}: it does not speak TLS (http://, if it is meant not to)", failure.why)
        }
        None if failure.why.contains("UnknownIssuer") => {
            format!("{}: whoever vouches for it is not known here (--ca FILE)", failure.why)
        }
        _ => return failure,
    };
    Failure { why, ..failure }
}
