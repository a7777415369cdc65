//! Takes out of a snapshot what tells whose machine it is: names of hosts, users, workloads and files, addresses, and command
//! lines. Each becomes a made-up name, the same wherever it stands, so that rows can still be told apart.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hbpf_core::label::{Label, Text};
use hbpf_core::snapshot::{Process, Request, Snapshot};

/// Characters of a program's name that stay.
const MAX_PROGRAM: usize = 12;

/// Names that are remembered. Beyond that all are made up anew.
const MAX_NAMES: usize = 65_536;

/// Makes up names, each when it is first met.
#[derive(Clone, Default)]
pub(crate) struct Privacy {
    names: HashMap<String, String>,
    addresses: HashMap<IpAddr, IpAddr>,
}

/// What has been replaced in one snapshot, to be found again within sentences.
struct Masking<'a> {
    names: &'a mut Privacy,
    replaced: BTreeMap<String, String>,
}

impl Privacy {
    /// The snapshot without them.
    pub(crate) fn mask(&mut self, snapshot: &Snapshot) -> Snapshot {
        if self.names.len() + self.addresses.len() > MAX_NAMES {
            *self = Self::default();
        }
        let mut masked = snapshot.clone();
        let mut masking = Masking { names: self, replaced: BTreeMap::new() };
        masking.label("host", &mut masked.host.hostname);
        masked.processes.iter_mut().for_each(|process| masking.process(process));
        let requests = &mut masked.requests;
        let lists = [&mut requests.in_flight, &mut requests.recent, &mut requests.failed, &mut requests.finished];
        lists.into_iter().flatten().for_each(|request| masking.request(request));
        for endpoint in &mut masked.endpoints {
            let name = endpoint.name();
            masking.host(&mut endpoint.host);
            masking.address(&mut endpoint.address);
            masking.replaced.insert(name.to_string(), endpoint.name().to_string());
        }
        for workload in &mut masked.workloads {
            masking.label("workload", &mut workload.key);
            masking.label("workload", &mut workload.name);
        }
        for engine in &mut masked.engines {
            masking.endpoint(&mut engine.endpoint);
            masking.sentence(&mut engine.problem);
        }
        for gpu in &mut masked.gpus {
            masking.label("gpu", &mut gpu.uuid);
        }
        for traffic in &mut masked.encrypted {
            masking.command(&mut traffic.command);
            masking.host(&mut traffic.host);
            masking.address(&mut traffic.address);
        }
        for tool in &mut masked.tools {
            masking.label("server", &mut tool.server);
            masking.optional("tool", &mut tool.tool);
        }
        for probe in &mut masked.capture.probes {
            masking.label("file", &mut probe.attached_to);
            masking.sentence(&mut probe.reason);
        }
        for finding in &mut masked.findings {
            finding.subject = Label::new(&masking.words(&finding.subject));
            finding.title = Text::new(&masking.words(&finding.title));
            finding.advice = Text::new(&masking.words(&finding.advice));
        }
        for error in &mut masked.errors {
            error.message = Text::new(&masking.words(&error.message));
        }
        masked
    }
}

impl Masking<'_> {
    fn name(&mut self, kind: &str, of: &str) -> String {
        if of.is_empty() {
            return String::new();
        }
        let number = self.names.names.len() + 1;
        let name = self.names.names.entry(of.to_owned()).or_insert_with(|| format!("{kind}-{number}")).clone();
        self.replaced.insert(of.to_owned(), name.clone());
        name
    }

    fn label(&mut self, kind: &str, label: &mut Label) {
        *label = Label::new(&self.name(kind, label));
    }

    fn optional(&mut self, kind: &str, label: &mut Option<Label>) {
        if let Some(label) = label {
            self.label(kind, label);
        }
    }

    /// Of a command line what it runs stays, without where that is and what for.
    fn command(&mut self, command: &mut Label) {
        let whole = command.to_string();
        let program = whole.split_whitespace().next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let program: String = program.chars().filter(|c| c.is_ascii_alphanumeric()).take(MAX_PROGRAM).collect();
        *command = Label::new(&self.name(&program, &whole));
    }

    /// Not the machine's own.
    fn address(&mut self, address: &mut Option<IpAddr>) {
        if let Some(real) = address.filter(|address| !address.is_loopback() && !address.is_unspecified()) {
            let number = self.names.addresses.len() + 1;
            let made_up = *self.names.addresses.entry(real).or_insert_with(|| documented(number));
            self.replaced.insert(real.to_string(), made_up.to_string());
            *address = Some(made_up);
        }
    }

    /// A host, or an address in its place.
    fn host(&mut self, host: &mut Option<Label>) {
        let mut address = host.as_ref().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
        match address {
            Some(_) => {
                self.address(&mut address);
                *host = address.map(|address| Label::new(&written(address)));
            }
            None => self.optional("host", host),
        }
    }

    /// A host or an address, with a port.
    fn endpoint(&mut self, endpoint: &mut Label) {
        let whole = endpoint.to_string();
        let (host, port) = match whole.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, Some(port)),
            _ => (whole.as_str(), None),
        };
        let mut address = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let host = match address {
            Some(_) => {
                self.address(&mut address);
                address.map(written).unwrap_or_default()
            }
            None => self.name("host", host),
        };
        let masked = port.map_or(host.clone(), |port| format!("{host}:{port}"));
        *endpoint = Label::new(&masked);
        self.replaced.insert(whole, masked);
    }

    fn process(&mut self, process: &mut Process) {
        self.command(&mut process.command);
        self.optional("user", &mut process.user);
        process.uid = None;
        self.optional("file", &mut process.executable);
        self.optional("workload", &mut process.workload);
        self.optional("unit", &mut process.unit);
        if let Some(container) = &mut process.container {
            self.label("container", &mut container.id);
            for name in [&mut container.pod_uid, &mut container.pod, &mut container.namespace, &mut container.name] {
                self.optional("container", name);
            }
        }
        if let Some(group) = &mut process.cgroup {
            group.path = Text::new(&self.name("cgroup", &group.path));
        }
        for gpu in &mut process.gpu {
            self.label("gpu", &mut gpu.uuid);
        }
        self.optional("file", &mut process.visibility.library);
        if let Some(thread) = &mut process.hottest_thread {
            self.label("thread", &mut thread.name);
        }
        self.sentence(&mut process.visibility.reason);
    }

    fn request(&mut self, request: &mut Request) {
        self.command(&mut request.command);
        self.endpoint(&mut request.endpoint);
        self.optional("request", &mut request.request_id);
        self.optional("trace", &mut request.trace_id);
    }

    fn sentence(&self, text: &mut Option<Text>) {
        if let Some(text) = text {
            *text = Text::new(&self.words(text));
        }
    }

    /// The sentence with what was replaced elsewhere replaced here, the longest first.
    fn words(&self, text: &str) -> String {
        let mut all: Vec<(&String, &String)> = self.replaced.iter().filter(|(of, _)| of.len() > 2).collect();
        all.sort_by_key(|(of, _)| std::cmp::Reverse(of.len()));
        let text = all.into_iter().fold(text.to_owned(), |text, (of, name)| text.replace(of.as_str(), name));
        // Files that stand nowhere else.
        let word = |word: &str| {
            let is_path = word.trim_start_matches(['`', '"', '(']).starts_with('/') && word.len() > 2;
            if is_path { "(a file)".to_owned() } else { word.to_owned() }
        };
        text.split(' ').map(word).collect::<Vec<_>>().join(" ")
    }
}

/// An address as it stands before a port.
fn written(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// One of the addresses that are for documentation: of RFC 5737, and when these are used up of RFC 3849.
fn documented(number: usize) -> IpAddr {
    const BLOCKS: [[u8; 3]; 3] = [[192, 0, 2], [198, 51, 100], [203, 0, 113]];
    let (block, host) = ((number - 1) / 254, ((number - 1) % 254 + 1) as u8);
    match BLOCKS.get(block) {
        Some([a, b, c]) => Ipv4Addr::new(*a, *b, *c, host).into(),
        None => Ipv6Addr::from(0x2001_0db8_u128 << 96 | number as u128).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::fixture;

    /// Keys whose values tell whose machine it is.
    const PRIVATE: [&str; 15] = [
        "hostname",
        "host",
        "address",
        "command",
        "user",
        "executable",
        "workload",
        "unit",
        "pod",
        "pod_uid",
        "namespace",
        "endpoint",
        "library",
        "request_id",
        "trace_id",
    ];

    fn private(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match value {
                        Value::String(text) if PRIVATE.contains(&key.as_str()) => {
                            // What every machine has, and words of the format.
                            let is_common = ["127.0.0.1", "[::1]", "0.0.0.0", "localhost", "host", "vllm"]
                                .iter()
                                .any(|word| text.starts_with(word));
                            found.extend((text.len() > 3 && !is_common).then(|| text.clone()));
                        }
                        value => private(value, found),
                    }
                }
            }
            Value::Array(all) => all.iter().for_each(|value| private(value, found)),
            _ => {}
        }
    }

    #[test]
    fn no_two_names_and_no_two_addresses_become_one() {
        let mut privacy = Privacy::default();
        let mut masking = Masking { names: &mut privacy, replaced: BTreeMap::new() };
        let mut seen = BTreeSet::new();
        for number in 0..2000_u32 {
            let mut address = Some(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number)));
            masking.address(&mut address);
            assert!(
                seen.insert(address.unwrap().to_string()) && seen.insert(masking.name("host", &number.to_string()))
            );
        }
        let mut host = Some(Label::new("10.0.0.7"));
        masking.host(&mut host);
        let mut endpoint = Label::new("10.0.0.7:8000");
        masking.endpoint(&mut endpoint);
        assert_eq!(endpoint.as_str(), format!("{}:8000", host.unwrap()), "one and the same");
        let mut local = Label::new("[::1]:8080");
        masking.endpoint(&mut local);
        assert_eq!(local.as_str(), "[::1]:8080");
        assert_eq!(masking.words("cannot read `/home/alice/x.so`: it is gone"), "cannot read (a file) it is gone");
    }

    #[test]
    fn nothing_private_is_left_and_what_was_alike_is_alike() {
        let mut snapshot = fixture::counted();
        snapshot.engines = fixture::engines();
        snapshot.gpus = fixture::gpus();
        snapshot.findings = fixture::findings();
        let process = &snapshot.processes[0];
        snapshot.findings[0].title = Text::new(&format!("{} ({}) talks", process.command, process.pid));
        let mut before = BTreeSet::new();
        private(&serde_json::to_value(&snapshot).unwrap(), &mut before);
        assert!(before.len() > 10, "{before:?}");
        let masked = Privacy::default().mask(&snapshot);
        let text = serde_json::to_string(&masked).unwrap();
        for word in before {
            assert!(!text.contains(&format!("\"{word}\"")), "{word}");
        }
        assert!(!masked.findings[0].title.contains(snapshot.processes[0].command.as_str()));
        // Rows still belong together, and numbers are as they were.
        for (request, real) in masked.requests.recent.iter().zip(&snapshot.requests.recent) {
            let of = |snapshot: &Snapshot, request: &Request| {
                snapshot.processes.iter().position(|process| process.command == request.command)
            };
            assert_eq!(of(&masked, request), of(&snapshot, real));
        }
        assert_eq!(masked.totals, snapshot.totals);
        assert_eq!(masked.endpoints.len(), snapshot.endpoints.len());
    }
}
