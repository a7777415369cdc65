//! Probes in TLS libraries.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsRawFd;

use aya::Ebpf;
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeLink, UProbeScope};

use super::{ProbeError, absent, present, program, raw, unload};
use crate::discover::{Library, LibraryId, Symbol};
use crate::protocol::{Group, ProbeStatus};

/// Maps that remember connections and calls. What they hold is wrong once calls have gone by unseen.
const MEMORY: [&str; 3] = ["TLS_FLOWS", "TLS_CALLS", "TLS_USERS"];

/// Programs of a function, in the order in which they are attached: the return before the entry, so that no entry waits
/// for a return that is not seen.
fn programs_for(symbol: Symbol) -> &'static [&'static str] {
    match symbol {
        Symbol::SslWrite => &["ssl_write_return", "ssl_write"],
        Symbol::SslWriteEx => &["ssl_write_ex_return", "ssl_write_ex"],
        Symbol::SslWriteEx2 => &["ssl_write_ex_return", "ssl_write_ex2"],
        Symbol::SslRead => &["ssl_read_return", "ssl_read"],
        Symbol::SslReadEx => &["ssl_read_ex_return", "ssl_read_ex"],
        Symbol::SslFree => &["ssl_free"],
        Symbol::SslNew => &["ssl_new_return"],
    }
}

const SYMBOLS: [Symbol; 7] = [
    Symbol::SslNew,
    Symbol::SslFree,
    Symbol::SslWrite,
    Symbol::SslWriteEx,
    Symbol::SslWriteEx2,
    Symbol::SslRead,
    Symbol::SslReadEx,
];

/// Every TLS program once.
fn all_programs() -> BTreeSet<&'static str> {
    SYMBOLS.into_iter().flat_map(programs_for).copied().collect()
}

/// The libraries that are known, with the probes in them while the group is on.
#[derive(Default)]
pub(super) struct Tls {
    libraries: BTreeMap<LibraryId, Probed>,
    errors: Vec<ProbeError>,
    /// Processes in which no probes shall be.
    excluded: BTreeSet<u32>,
}

struct Probed {
    library: Library,
    /// Dropping a link takes the probe out.
    links: Vec<(&'static str, UProbeLink)>,
    problem: Option<String>,
}

impl Tls {
    pub(super) fn attach(&mut self, ebpf: &mut Ebpf) -> Result<(), ProbeError> {
        for name in all_programs() {
            let program: &mut UProbe = program(ebpf, name)?;
            program.load().map_err(|error| ProbeError::new(name, &error))?;
        }
        for probed in self.libraries.values_mut() {
            self.errors.extend(probed.attach(ebpf).err());
        }
        Ok(())
    }

    pub(super) fn detach(&mut self, ebpf: &mut Ebpf) {
        for probed in self.libraries.values_mut() {
            probed.links.clear();
            probed.problem = None;
        }
        all_programs().into_iter().for_each(|name| unload(ebpf, name));
        for name in MEMORY {
            if let Some(map) = ebpf.map(name) {
                raw::clear(map);
            }
        }
    }

    pub(super) fn add(&mut self, library: Library, ebpf: Option<&mut Ebpf>) {
        let mut probed = Probed { library, links: Vec::new(), problem: None };
        if let Some(ebpf) = ebpf {
            self.errors.extend(probed.attach(ebpf).err());
        }
        self.libraries.insert(probed.library.id, probed);
    }

    pub(super) fn remove(&mut self, id: LibraryId) {
        self.libraries.remove(&id);
    }

    pub(super) fn exclude(&mut self, pids: BTreeSet<u32>) {
        self.excluded = pids;
    }

    pub(super) fn take_errors(&mut self) -> Vec<ProbeError> {
        std::mem::take(&mut self.errors)
    }

    pub(super) fn status(&self, ebpf: &Ebpf, list: &mut Vec<ProbeStatus>) {
        let before = list.len();
        for probed in self.libraries.values() {
            let path = &probed.library.path;
            let places = probed.links.iter().map(|(name, _)| present(Group::LlmTls, name, path.clone(), ebpf));
            list.extend(places);
            if let Some(problem) = &probed.problem {
                list.push(ProbeStatus { attached_to: path.clone(), ..absent(Group::LlmTls, problem.clone(), true) });
            }
        }
        if list.len() == before {
            list.push(absent(Group::LlmTls, "no process uses a TLS library that can be probed".into(), false));
        }
    }
}

impl Probed {
    /// All probes of this library or none: half of them would show half of the calls.
    fn attach(&mut self, ebpf: &mut Ebpf) -> Result<(), ProbeError> {
        self.problem = None;
        let result = self.try_attach(ebpf);
        if let Err(error) = &result {
            self.links.clear();
            self.problem = Some(error.to_string());
        }
        result
    }

    fn try_attach(&mut self, ebpf: &mut Ebpf) -> Result<(), ProbeError> {
        // The path may lead to another file by now; the descriptor does not.
        let path = format!("/proc/self/fd/{}", self.library.file.as_raw_fd());
        for symbol in SYMBOLS {
            for (_, offset) in self.library.symbols.iter().filter(|(found, _)| *found == symbol) {
                for name in programs_for(symbol) {
                    let program: &mut UProbe = program(ebpf, name)?;
                    let link = program
                        .attach(*offset, &path, UProbeScope::AllProcesses)
                        .and_then(|id| program.take_link(id))
                        .map_err(|error| ProbeError::new(&format!("{name} in {}", self.library.path), &error))?;
                    self.links.push((name, link));
                }
            }
        }
        if self.links.is_empty() {
            return Err(ProbeError(format!("{}: no TLS functions in it", self.library.path)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_are_attached_before_entries() {
        for symbol in SYMBOLS {
            if let [first, second] = programs_for(symbol) {
                assert!(first.ends_with("_return") && !second.ends_with("_return"), "{first} {second}");
            }
        }
        assert_eq!(all_programs().len(), 11);
    }
}
