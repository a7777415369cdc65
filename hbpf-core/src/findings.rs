//! What deserves attention: from numbers to [`Finding`]s. Each rule is one pure function.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::exchange::Role;
use crate::label::{Label, Text};
use crate::snapshot::{EncryptedTraffic, Finding, Process, Severity};

/// An overhead that was too large, in percent of the whole machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TooDear {
    /// When something was done about it.
    pub since: Timestamp,
    /// What it was.
    pub percent: f64,
    /// What it may be.
    pub budget_percent: f64,
}

/// TLS probes were taken out of processes that paid for them without talking to models.
pub fn processes_excluded(dear: TooDear, processes: usize, calls_per_second: f64) -> Finding {
    let evidence = [("processes", processes as f64), ("tls_calls_per_second", calls_per_second)];
    let (are, they) = if processes == 1 { ("process is", "it") } else { ("processes are", "they") };
    let title = format!(
        "{processes} {are} no longer watched over TLS: {calls_per_second:.0} calls a second and no model traffic, which \
         cost too much ({})",
        shares(dear)
    );
    let advice =
        format!("should {they} talk to models: allow more with --max-overhead, or switch llm-tls off and on again");
    finding("overhead_excluded", Severity::Info, "llm-tls", title, evidence, advice, dear)
}

/// Fewer bytes are copied than come.
pub fn copying_thinned(dear: TooDear, bytes_per_second: u64) -> Finding {
    let evidence = [("bytes_per_second_limit", bytes_per_second as f64)];
    let title = format!(
        "at most {bytes_per_second} bytes a second are copied, which keeps the overhead down ({}): tokens of some \
         answers are a lower bound",
        shares(dear)
    );
    let advice = "the limit goes up again by itself when there is room; --max-overhead allows more".to_owned();
    finding("overhead_thinned", Severity::Warning, "capture", title, evidence, advice, dear)
}

/// A group of probes was taken out.
pub fn group_detached(dear: TooDear, group: &str, key: usize, group_percent: f64) -> Finding {
    let evidence = [("group_percent", group_percent)];
    let title = format!("{group} was switched off, for the overhead stayed above what is allowed ({})", shares(dear));
    let advice = format!(
        "hbpf tries again when there is room; switch it on at once with {key} in `hbpf top`, or allow more with \
         --max-overhead"
    );
    finding("overhead_detached", Severity::Critical, group, title, evidence, advice, dear)
}

/// hbpf's own processes take the time, and no probes that could be taken out.
pub fn own_processes_dear(dear: TooDear) -> Finding {
    let title = format!("hbpf's own processes cost more than is allowed ({})", shares(dear));
    let advice = "take samples less often with --interval, or allow more with --max-overhead".to_owned();
    finding("overhead_own", Severity::Warning, "hbpf", title, [], advice, dear)
}

/// A GPU has told of critical errors, so many since hbpf began to look.
pub fn gpu_errors(since: Timestamp, index: u32, errors: u64, last_xid: Option<u64>) -> Finding {
    let xid = last_xid.map(|xid| format!(", the latest is Xid {xid}")).unwrap_or_default();
    Finding {
        id: "gpu_errors".into(),
        severity: Severity::Critical,
        subject: Label::new(&format!("gpu {index}")),
        title: Text::new(&format!("GPU {index} has told of critical errors ({errors}{xid})")),
        evidence: BTreeMap::from_iter(
            [("xid_errors_total", errors)]
                .into_iter()
                .chain(last_xid.map(|xid| ("last_xid", xid)))
                .map(|(name, value)| (name.into(), value as f64)),
        ),
        advice: "the kernel's log has the details (dmesg, NVRM: Xid); NVIDIA's Xid catalogue says what each takes"
            .into(),
        since,
    }
}

/// A process does little but repeat calls that have failed: so many of its requests in the last minute.
pub fn retry_storm(since: Timestamp, comm: &Label, pid: u32, requests: u64, retries: u64) -> Finding {
    Finding {
        id: "retry_storm".into(),
        severity: Severity::Warning,
        subject: Label::new(&format!("{comm} ({pid})")),
        title: Text::new(&format!(
            "{comm} ({pid}) repeats calls that fail: {retries} of {requests} requests in a minute"
        )),
        evidence: BTreeMap::from_iter(
            [("retries", retries), ("requests", requests)].map(|(name, value)| (name.into(), value as f64)),
        ),
        advice:
            "its errors are under requests; of used-up quotas endpoints say what is left, and fewer calls at once help"
                .into(),
        since,
    }
}

/// Calls of models that cannot be read: one finding for each process and host.
pub fn unread<'a>(
    traffic: &'a [EncryptedTraffic],
    processes: &'a [Process],
) -> impl Iterator<Item = Finding> + use<'a> {
    traffic.iter().filter(|traffic| traffic.read == Some(false)).map(|traffic| {
        let pid = traffic.pid.map(|pid| format!(" ({pid})")).unwrap_or_default();
        let host = traffic.host.as_ref().map_or("a model server", Label::as_str);
        let does = match traffic.role {
            Role::Client => "talks to",
            Role::Server => "serves as",
        };
        let process = processes.iter().find(|process| Some(process.pid) == traffic.pid);
        let reason = process.and_then(|process| process.visibility.reason.as_ref());
        let advice = match reason {
            Some(reason) => format!("{reason}; what is known of it is under `encrypted`"),
            None => "what is known of it is under `encrypted`".to_owned(),
        };
        Finding {
            id: "blind".into(),
            severity: Severity::Warning,
            subject: Label::new(&format!("{}{pid}", traffic.command)),
            title: Text::new(&format!("{}{pid} {does} {host} over TLS that cannot be read", traffic.command)),
            evidence: BTreeMap::from_iter(
                [
                    ("requests_estimated_total", traffic.requests_estimated_total),
                    ("connections_total", traffic.connections_total),
                ]
                .map(|(name, value)| (name.into(), value as f64)),
            ),
            advice: Text::new(&advice),
            since: traffic.first_at,
        }
    })
}

fn shares(dear: TooDear) -> String {
    format!("{:.1}% of all CPUs, allowed are {}%", dear.percent, dear.budget_percent)
}

fn finding<const N: usize>(
    id: &str,
    severity: Severity,
    subject: &str,
    title: String,
    evidence: [(&str, f64); N],
    advice: String,
    dear: TooDear,
) -> Finding {
    let shares = [("overhead_percent", dear.percent), ("budget_percent", dear.budget_percent)];
    Finding {
        id: id.into(),
        severity,
        subject: subject.into(),
        title: Text::new(&title),
        evidence: BTreeMap::from_iter(shares.into_iter().chain(evidence).map(|(name, value)| (name.into(), value))),
        advice: Text::new(&advice),
        since: dear.since,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(finding: &Finding, name: &str) -> Option<f64> {
        finding.evidence.iter().find(|(label, _)| label.as_str() == name).map(|(_, value)| *value)
    }

    #[test]
    fn findings_say_what_why_and_how_to_undo_it() {
        let dear = TooDear { since: Timestamp::UNIX_EPOCH, percent: 3.21, budget_percent: 2.0 };
        let detached = group_detached(dear, "llm-tls", 1, 2.9);
        assert_eq!(
            detached.title.as_str(),
            "llm-tls was switched off, for the overhead stayed above what is allowed (3.2% of all CPUs, allowed are 2%)"
        );
        assert!(detached.advice.as_str().contains("with 1 in `hbpf top`"), "{}", detached.advice);
        assert_eq!(number(&detached, "overhead_percent"), Some(3.21));
        assert_eq!(number(&detached, "group_percent"), Some(2.9));
        let one = processes_excluded(dear, 1, 1234.5);
        assert!(one.title.as_str().starts_with("1 process is no longer watched over TLS"), "{}", one.title);
        assert!(one.advice.as_str().starts_with("should it talk"), "{}", one.advice);
        assert_eq!(number(&copying_thinned(dear, 65_536), "bytes_per_second_limit"), Some(65_536.0));
    }
}
