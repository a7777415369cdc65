//! Exchanges as hbpf told them, held against the server's record, one by one.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use anyhow::{Result, ensure};
use hbpf_core::exchange::{Phase, Role};
use hbpf_core::snapshot::{Request, Snapshot, TokenTotals, TokensSource};
use hbpf_e2e::{Entry, Outcome};
use hbpf_host::protocol::Group;

use crate::load::clock;

/// How long after a switch, and before the next, an exchange must lie to be held against the record: a request is on its
/// way before the server notes it, and frames say late that probes are in place.
const MARGIN_NS: u64 = 1_000_000_000;
/// A client that was killed so soon after the server's last byte may not have read it.
const UNREAD_NS: u64 = 1_000_000_000;
/// So far apart the server's reading of a request and the end of the client that is inside the call which sent it.
const INSIDE_CALL_NS: u64 = 100_000_000;
/// Wrong exchanges that are told; more say nothing more.
const MAX_TOLD: usize = 10;
/// What stands before the number of an exchange in its request id.
const REQUEST_ID: &str = "req_demo";

/// When clients were killed, on the clock of the record. A machine that is busy uses up the numbers of processes within an
/// hour, and another client gets that of one that was killed.
#[derive(Debug, Default)]
pub(super) struct Killed(Vec<(u32, u64)>);

impl Killed {
    pub(super) fn push(&mut self, pid: u32, when: u64) {
        self.0.push((pid, when));
    }

    /// When the process was killed that had this number then.
    fn after(&self, pid: u32, then: u64) -> Option<u64> {
        self.0.iter().filter(|(other, when)| *other == pid && *when >= then).map(|(_, when)| *when).min()
    }

    fn times(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|(_, when)| *when)
    }
}

/// When the probes of each group were in place, on the clock of the record.
#[derive(Debug, Default)]
pub(super) struct Attached {
    open: BTreeMap<Group, u64>,
    spans: BTreeMap<Group, Vec<(u64, u64)>>,
}

impl Attached {
    /// A group is in place, if it was not before.
    pub(super) fn begins(&mut self, group: Group, now: u64) {
        self.open.entry(group).or_insert(now);
    }

    /// A group is about to be taken out, if it was in place.
    pub(super) fn ends(&mut self, group: Group, now: u64) {
        if let Some(began) = self.open.remove(&group) {
            self.spans.entry(group).or_default().push((began, now));
        }
    }

    fn covers(&self, entry: &Entry) -> bool {
        let group = if entry.tls { Group::LlmTls } else { Group::LlmPlain };
        let within =
            |(began, ended): &(u64, u64)| entry.request_end_ns > began + MARGIN_NS && entry.end_ns + MARGIN_NS < *ended;
        self.spans.get(&group).is_some_and(|spans| spans.iter().any(within))
    }
}

/// An exchange as hbpf told it, from one of its ends.
#[derive(Clone, Debug)]
struct Row {
    pid: Option<u32>,
    role: Role,
    phase: Phase,
    status: Option<u16>,
    tokens: TokenTotals,
    source: TokensSource,
    bytes_missed: u64,
}

/// All that hbpf told of the exchanges with one server.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ports: Vec<String>,
    /// By the number in the record.
    rows: HashMap<u64, Vec<Row>>,
    /// Ended before the server named them.
    nameless: Vec<Nameless>,
}

/// An exchange that ended before its answer's head, which would have named it.
#[derive(Clone, Copy, Debug)]
struct Nameless {
    pid: Option<u32>,
    tls: bool,
    /// On the clock of the record.
    began_ns: u64,
}

impl Seen {
    /// Of the server at these ports.
    pub(super) fn at_ports(ports: [u16; 2]) -> Self {
        Self { ports: ports.iter().map(|port| format!(":{port}")).collect(), ..Self::default() }
    }

    /// How many exchanges have been told.
    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    /// Takes what has ended since the frame before.
    pub(super) fn take(&mut self, frame: &Snapshot) -> Result<()> {
        let requests = &frame.requests;
        ensure!(requests.finished_omitted == 0, "a frame could not hold all exchanges that ended");
        for request in &requests.finished {
            if self.ports.iter().any(|port| request.endpoint.as_str().ends_with(port.as_str())) {
                self.add(request);
            }
        }
        Ok(())
    }

    fn add(&mut self, request: &Request) {
        let name = request.request_id.as_ref().and_then(|id| id.as_str().strip_prefix(REQUEST_ID)?.parse().ok());
        let Some(number) = name else {
            let ago = jiff::Timestamp::now().duration_since(request.started_at);
            let ago = u64::try_from(ago.as_nanos()).unwrap_or(0);
            let began_ns = clock().saturating_sub(ago);
            self.nameless.push(Nameless { pid: request.pid, tls: request.tls, began_ns });
            return;
        };
        self.rows.entry(number).or_default().push(Row {
            pid: request.pid,
            role: request.role,
            phase: request.phase,
            status: request.status,
            tokens: request.tokens.clone(),
            source: request.tokens_source,
            bytes_missed: request.bytes_missed,
        });
    }
}

/// What the comparison came to.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// In the record.
    recorded: usize,
    /// Wholly within a time in which their probes were in place.
    pub(super) compared: usize,
    /// Tokens of those, in and out.
    tokens: [u64; 2],
    /// Told in part or not at all, as they should be: a switch, or probes that were out.
    outside: usize,
    /// Their client was killed over them, or they were cut before the answer's head.
    cut: usize,
    /// Ended before the server named them.
    nameless: usize,
    /// Cut by the server inside TLS and told as left by the client: a TLS library says nothing when the peer just goes.
    cut_inside_tls: usize,
    wrong: Vec<String>,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [input, output] = self.tokens;
        write!(
            f,
            "{} exchanges in the server's record: {} lay wholly within probes in place ({input} tokens in, {output} out), {} \
             across a switch or while probes were out, {} whose client was killed or whose answer had no head; {} ended before the server named \
             them; {} were cut by the server inside TLS and told as left by the client; {} are wrong",
            self.recorded,
            self.compared,
            self.outside,
            self.cut,
            self.nameless,
            self.cut_inside_tls,
            self.wrong.len()
        )
    }
}

impl Compared {
    /// What is wrong, a line each, as many as help.
    pub(super) fn problems(&self) -> Vec<String> {
        self.wrong.iter().take(MAX_TOLD).cloned().collect()
    }
}

/// Holds what was told against the record.
pub(super) fn compare(record: &[Entry], seen: &Seen, attached: &Attached, killed: &Killed) -> Compared {
    let mut result = Compared { recorded: record.len(), nameless: seen.nameless.len(), ..Compared::default() };
    let mut known = 0;
    let mut nameless = seen.nameless.clone();
    let last_at: HashMap<u64, u64> = record.iter().map(|entry| (entry.connection, entry.id)).collect();
    for entry in record {
        let rows = seen.rows.get(&entry.id).map_or(&[][..], Vec::as_slice);
        known += usize::from(!rows.is_empty());
        result.wrong.extend(rows.iter().filter_map(|row| too_high(entry, row)));
        let is_last = last_at.get(&entry.connection) == Some(&entry.id);
        if rows.iter().any(|row| was_cut(entry, row, killed))
            || (rows.is_empty() && is_last && may_have_died_inside_call(entry, killed))
        {
            result.cut += 1;
        } else if !attached.covers(entry) {
            result.outside += 1;
        } else if rows.iter().all(|row| row.role != Role::Client) && take_nameless(&mut nameless, entry, killed) {
            result.cut += 1;
        } else {
            let told_as_left = |row: &Row| row.phase == Phase::Abandoned;
            result.cut_inside_tls += usize::from(is_cut_inside_tls(entry) && rows.iter().any(told_as_left));
            result.compared += 1;
            result.tokens[0] += if entry.usage_sent { entry.input } else { 0 };
            result.tokens[1] += if entry.usage_sent { entry.output } else { 0 };
            result.wrong.extend(difference(entry, rows).map(|what| {
                let carrier = if entry.tls { "TLS" } else { "plain" };
                let seconds = (entry.end_ns - entry.request_end_ns) as f64 / 1e9;
                let about = about(entry, record, seen, attached, killed);
                format!("exchange {} ({carrier}, {:?} after {seconds:.1} s): {what}; {about}", entry.id, entry.outcome)
            }));
        }
    }
    if known < seen.rows.len() {
        result.wrong.push(format!("{} exchanges are not in the record", seen.rows.len() - known));
    }
    result
}

/// What helps to understand why an exchange is not told as it should be: how far it is from the next switch and the next
/// kill, and what was told of its connection.
fn about(entry: &Entry, record: &[Entry], seen: &Seen, attached: &Attached, killed: &Killed) -> String {
    let seconds = |from: u64, to: u64| (to as f64 - from as f64) / 1e9;
    let group = if entry.tls { Group::LlmTls } else { Group::LlmPlain };
    let spans = attached.spans.get(&group).into_iter().flatten();
    let span = spans.clone().find(|(began, ended)| (*began..*ended).contains(&entry.request_end_ns));
    let within = span.map_or_else(String::new, |(began, ended)| {
        let (after, before) = (seconds(*began, entry.request_end_ns), seconds(entry.end_ns, *ended));
        format!("read {after:.1} s after its probes were put in, ended {before:.1} s before they were taken out; ")
    });
    let nearest = killed.times().min_by_key(|when| when.abs_diff(entry.request_end_ns));
    let kill = nearest.map_or_else(String::new, |when| {
        format!("a client was killed {:+.3} s from its reading; ", seconds(entry.request_end_ns, when))
    });
    let told = |other: &Entry| {
        let rows = seen.rows.get(&other.id).map_or(&[][..], Vec::as_slice);
        let rows: Vec<String> = rows.iter().map(|row| format!("{:?} {:?}", row.role, row.pid)).collect();
        format!(
            "{} {:?} at {:+.1} s [{}]",
            other.id,
            other.outcome,
            seconds(entry.request_end_ns, other.request_end_ns),
            rows.join(", ")
        )
    };
    let beside: Vec<String> = record
        .iter()
        .filter(|other| other.connection == entry.connection && other.id.abs_diff(entry.id) < 1000)
        .map(told)
        .collect();
    let ended =
        seen.nameless.iter().filter(|it| it.tls == entry.tls && it.began_ns.abs_diff(entry.request_end_ns) < MARGIN_NS);
    let nameless: Vec<String> =
        ended.map(|it| format!("{:?} {:+.3} s", it.pid, seconds(entry.request_end_ns, it.began_ns))).collect();
    format!("{within}{kill}on its connection: {}; nameless beside: {}", beside.join(", "), nameless.join(", "))
}

/// Whether the client was killed before it can be sure to have read all.
fn was_cut(entry: &Entry, row: &Row, killed: &Killed) -> bool {
    let when = row.pid.filter(|_| row.role == Role::Client).and_then(|pid| killed.after(pid, entry.request_end_ns));
    when.is_some_and(|when| entry.end_ns + UNREAD_NS > when)
}

/// A client that is killed between the system call that sends its request and the end of the TLS library's call around
/// it never returns from the latter: nothing is captured of the request, and the server has it all the same.
fn may_have_died_inside_call(entry: &Entry, killed: &Killed) -> bool {
    entry.tls && killed.times().any(|when| when.abs_diff(entry.request_end_ns) < INSIDE_CALL_NS)
}

/// Where either end goes before the answer's head is read, the exchange is told without its name: takes out the one that
/// may be this and began nearest to it. The server may well hold it for done, for it has written it.
fn take_nameless(nameless: &mut Vec<Nameless>, entry: &Entry, killed: &Killed) -> bool {
    let away = |it: &Nameless| it.began_ns.abs_diff(entry.request_end_ns);
    let may_be = |it: &Nameless| {
        let died =
            it.pid.and_then(|pid| killed.after(pid, it.began_ns)).is_some_and(|when| when < entry.end_ns + UNREAD_NS);
        it.tls == entry.tls && away(it) < MARGIN_NS && (died || entry.outcome == Outcome::Cut)
    };
    let fitting = nameless.iter().enumerate().filter(|(_, it)| may_be(it));
    let Some((place, _)) = fitting.min_by_key(|(_, it)| away(it)) else { return false };
    nameless.swap_remove(place);
    true
}

fn is_cut_inside_tls(entry: &Entry) -> bool {
    entry.tls && entry.outcome == Outcome::Cut
}

/// Whatever was seen of an exchange, no reported number is above the server's.
fn too_high(entry: &Entry, row: &Row) -> Option<String> {
    let is_high = |seen: Option<u64>, truth: u64| seen.is_some_and(|seen| seen > truth);
    let high = entry.usage_sent
        && row.source == TokensSource::Reported
        && (is_high(row.tokens.input, entry.input) || is_high(row.tokens.output, entry.output));
    high.then(|| {
        format!("exchange {}: {:?} is more than {} in, {} out", entry.id, row.tokens, entry.input, entry.output)
    })
}

/// What differs between the server's word and hbpf's, if anything.
fn difference(entry: &Entry, rows: &[Row]) -> Option<String> {
    // The stand-in server's TLS is not OpenSSL's: only its clients are seen.
    let roles = if entry.tls { &[Role::Client][..] } else { &[Role::Client, Role::Server] };
    for role in roles {
        let of_role: Vec<&Row> = rows.iter().filter(|row| row.role == *role).collect();
        let [row] = of_role[..] else { return Some(format!("seen {} times as {role:?}", of_role.len())) };
        let phase = match entry.outcome {
            Outcome::Done => Phase::Done,
            Outcome::Error | Outcome::StreamError | Outcome::Cut => Phase::Failed,
            Outcome::ClientGone => Phase::Abandoned,
        };
        let is_excused = is_cut_inside_tls(entry) && row.phase == Phase::Abandoned;
        if (row.phase != phase && !is_excused) || row.bytes_missed != 0 {
            return Some(format!("{:?} with {} bytes missed, was {phase:?}", row.phase, row.bytes_missed));
        }
        if row.status != Some(entry.status) && entry.outcome != Outcome::Cut {
            return Some(format!("status {:?}, was {}", row.status, entry.status));
        }
        if entry.usage_sent {
            let (seen, truth) = (numbers(&row.tokens), truth(entry));
            if (seen, row.source) != (truth, TokensSource::Reported) {
                return Some(format!("{seen:?} {:?}, was {truth:?}", row.source));
            }
        }
    }
    None
}

/// In, out, from cache, reasoning; what is not told counts as none.
fn numbers(tokens: &TokenTotals) -> [u64; 4] {
    [tokens.input, tokens.output, tokens.cached_input, tokens.reasoning].map(|number| number.unwrap_or(0))
}

fn truth(entry: &Entry) -> [u64; 4] {
    [entry.input, entry.output, entry.cached_input, entry.reasoning]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Each on a connection of its own.
    fn entry(id: u64, end: u64, outcome: &str) -> Entry {
        let line = serde_json::json!({
            "id": id, "connection": id, "tls": true, "model_call": true, "status": 200, "outcome": outcome,
            "request_end_ns": end - 2 * SECOND, "token_ns": [], "end_ns": end, "usage_sent": outcome == "done", "input": 10,
            "cached_input": 4, "cache_creation_input": 0, "output": 3, "reasoning": 0, "request_body_bytes": 0,
            "response_body_bytes": 0,
        });
        serde_json::from_value(line).unwrap()
    }

    fn row(phase: Phase, output: u64) -> Row {
        let tokens =
            TokenTotals { input: Some(10), output: Some(output), cached_input: Some(4), ..TokenTotals::default() };
        Row {
            pid: Some(7),
            role: Role::Client,
            phase,
            status: Some(200),
            tokens,
            source: TokensSource::Reported,
            bytes_missed: 0,
        }
    }

    fn from_10_to_60() -> Attached {
        let mut attached = Attached::default();
        attached.begins(Group::LlmTls, 10 * SECOND);
        attached.begins(Group::LlmTls, 30 * SECOND);
        attached.ends(Group::LlmTls, 60 * SECOND);
        attached.ends(Group::LlmTls, 90 * SECOND);
        attached
    }

    fn compared(entries: &[Entry], rows: &[(u64, Row)], killed: &[(u32, u64)]) -> Compared {
        let mut seen = Seen::default();
        for (id, row) in rows {
            seen.rows.entry(*id).or_default().push(row.clone());
        }
        compare(entries, &seen, &from_10_to_60(), &Killed(killed.to_vec()))
    }

    #[test]
    fn equal_ones_are_equal() {
        let result = compared(&[entry(1, 20 * SECOND, "done")], &[(1, row(Phase::Done, 3))], &[]);
        assert_eq!((result.compared, result.tokens, result.wrong.len()), (1, [10, 3], 0), "{:?}", result.wrong);
    }

    #[test]
    fn what_is_missing_twice_or_different_is_wrong() {
        let done = [entry(1, 20 * SECOND, "done")];
        let good = row(Phase::Done, 3);
        let cases: [&[(u64, Row)]; 6] = [
            &[],
            &[(1, good.clone()), (1, good.clone())],
            &[(1, row(Phase::Done, 2))],
            &[(1, row(Phase::Abandoned, 3))],
            &[(1, Row { source: TokensSource::Estimated, ..good.clone() })],
            &[(1, Row { bytes_missed: 1, ..good.clone() })],
        ];
        for rows in cases {
            assert_eq!(compared(&done, rows, &[]).wrong.len(), 1, "{rows:?}");
        }
        assert_eq!(compared(&done, &[(1, good.clone()), (2, good)], &[]).wrong.len(), 1, "one that never was");
    }

    #[test]
    fn across_a_switch_an_exchange_may_be_missed_but_never_be_too_high() {
        for end in [11, 12, 60, 61] {
            let result = compared(&[entry(1, end * SECOND, "done")], &[], &[]);
            assert_eq!((result.compared, result.outside, result.wrong.len()), (0, 1, 0), "{end}");
            let result = compared(&[entry(1, end * SECOND, "done")], &[(1, row(Phase::Done, 4))], &[]);
            assert_eq!(result.wrong.len(), 1, "{end}");
        }
    }

    #[test]
    fn a_cut_inside_tls_may_be_told_as_left_and_a_plain_one_may_not() {
        let left = Row { role: Role::Client, ..row(Phase::Abandoned, 3) };
        let result = compared(&[entry(1, 20 * SECOND, "cut")], &[(1, left.clone())], &[]);
        assert_eq!((result.cut_inside_tls, result.wrong.len()), (1, 0), "{:?}", result.wrong);
        let mut attached = Attached::default();
        attached.begins(Group::LlmPlain, 10 * SECOND);
        attached.ends(Group::LlmPlain, 60 * SECOND);
        let mut seen = Seen::default();
        seen.rows.insert(1, vec![left.clone(), Row { role: Role::Server, ..left }]);
        let plain = Entry { tls: false, ..entry(1, 20 * SECOND, "cut") };
        assert_eq!(compare(&[plain], &seen, &attached, &Killed::default()).wrong.len(), 1);
    }

    #[test]
    fn killing_a_client_excuses_what_it_was_reading_only() {
        let entries = [entry(1, 20 * SECOND, "done")];
        let result = compared(&entries, &[(1, row(Phase::Abandoned, 1))], &[(7, 20 * SECOND)]);
        assert_eq!((result.cut, result.wrong.len()), (1, 0));
        let result = compared(&entries, &[(1, row(Phase::Abandoned, 1))], &[(7, 30 * SECOND)]);
        assert_eq!((result.cut, result.wrong.len()), (0, 1));
        // It died before the answer's head came, and so before hbpf knew the exchange's name.
        let nameless = vec![Nameless { pid: Some(7), tls: true, began_ns: 18 * SECOND }];
        for (killed_at, wrong) in [(19, 0), (25, 1)] {
            let seen = Seen { nameless: nameless.clone(), ..Seen::default() };
            // Another has had its number before, and one had it later.
            let killed = Killed(vec![(7, SECOND), (7, killed_at * SECOND), (7, 50 * SECOND)]);
            let both = [entries[0].clone(), entry(2, 20 * SECOND, "done")];
            let result = compare(&both, &seen, &from_10_to_60(), &killed);
            assert_eq!(result.wrong.len(), wrong + 1, "one name stands for one exchange; killed at {killed_at}");
        }
    }

    #[test]
    fn a_client_may_die_inside_the_call_that_sends_and_at_no_other_time() {
        let sent = entry(1, 20 * SECOND, "done");
        let next = Entry { connection: 1, ..entry(2, 20 * SECOND, "done") };
        let wrong = |record: &[Entry], killed_at| compared(record, &[], &[(7, killed_at)]).wrong.len();
        assert_eq!(wrong(std::slice::from_ref(&sent), sent.request_end_ns + SECOND / 100), 0);
        assert_eq!(wrong(std::slice::from_ref(&sent), sent.request_end_ns + SECOND), 1, "it was outside by then");
        assert_eq!(wrong(&[sent.clone(), next], sent.request_end_ns), 1, "it went on after the first");
    }
}
