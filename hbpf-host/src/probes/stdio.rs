//! Probes at what processes read from their standard input and write to their standard output. They are in few processes, one
//! by one: in those that may serve tools, and stay in those that do.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;

use aya::Ebpf;
use aya::maps::HashMap;
use hbpf_core::label::Label;
use hbpf_ebpf::STDIO_HANDLE;

use super::object::Object;
use super::reaper::{self, Links, Reaper};
use super::user::Scope;
use super::{ProbeError, absent, present, raw, tls};
use crate::discover::{StdioLibrary, StdioServer};
use crate::protocol::{Group, ProbeStatus, Trap, TrapKind};

/// Programs and the functions that they are at, the return before the entry, so that no entry waits for a return that is not
/// seen.
const PROGRAMS: [(&str, &str); 11] = [
    ("stdio_fcntl_return", "fcntl"),
    ("stdio_fcntl", "fcntl"),
    ("stdio_dup2", "dup2"),
    ("stdio_dup2", "dup3"),
    ("stdio_close", "close"),
    ("stdio_read_return", "read"),
    ("stdio_read", "read"),
    ("stdio_write_return", "write"),
    ("stdio_write", "write"),
    ("stdio_write_return", "writev"),
    ("stdio_writev", "writev"),
];

/// Of these a server needs one.
const NEEDED: [&str; 2] = ["stdio_read", "stdio_write"];

/// It is there from the start.
const SMALLEST: &str = "stdio_dup2";

/// Most servers that are looked at at a time. At each hit the kernel goes through all of them to find whose it is.
const MAX_SERVERS: usize = 64;

/// The map of descriptors, and that of streams, which are known by a handle and the process.
const DESCRIPTORS: &str = "STDIO";
const FLOWS: &str = "TLS_FLOWS";

/// Every program once.
pub(super) fn all_programs() -> BTreeSet<&'static str> {
    PROGRAMS.into_iter().map(|(name, _)| name).collect()
}

/// Servers with the probes in them.
#[derive(Default)]
pub(super) struct Stdio {
    servers: BTreeMap<u32, Probed>,
    /// Those that were left out for their number.
    refused: BTreeSet<u32>,
    reaper: Reaper,
    errors: Vec<ProbeError>,
}

struct Probed {
    links: Links,
    library: Label,
}

impl Stdio {
    /// Finds out whether programs of this kind can be loaded. The others wait for a server that needs them, or
    /// [`Self::prepare`].
    pub(super) fn attach(object: &mut Object) -> Result<(), ProbeError> {
        // Where the kernel is locked down, only those that read no memory can be.
        object.user.load(tls::SMALLEST, &mut object.ebpf)?;
        object.user.load(SMALLEST, &mut object.ebpf)
    }

    /// Loads the programs, which takes half a second: a server has its first calls before that is over.
    pub(super) fn prepare(&mut self, object: &mut Object) {
        object.user.load_side_by_side(&all_programs());
        let mut load = |name| object.user.load(name, &mut object.ebpf);
        self.errors.extend(all_programs().into_iter().find_map(|name| load(name).err()));
    }

    pub(super) fn detach(&mut self, object: &mut Object) {
        let links = self.links();
        self.reaper.take_out(links);
        self.refused.clear();
        all_programs().into_iter().for_each(|name| object.unload(name));
        if let Some(map) = object.ebpf.map(DESCRIPTORS) {
            raw::clear(map);
        }
    }

    /// Those of all servers, which are servers no more.
    fn links(&mut self) -> Links {
        std::mem::take(&mut self.servers).into_values().flat_map(|probed| probed.links).collect()
    }

    /// Puts probes into a server, or notes where one that has them has its ends by now. Says whether they are in it.
    pub(super) fn add(&mut self, server: &StdioServer, object: &mut Object) -> bool {
        let pid = server.pid;
        let is_known = self.servers.contains_key(&pid);
        if self.servers.len() >= MAX_SERVERS && !is_known {
            self.refused.insert(pid);
            return false;
        }
        self.refused.remove(&pid);
        let result = note_descriptors(pid, &server.descriptors, &mut object.ebpf)
            .and_then(|()| if is_known { Ok(None) } else { self.probe(pid, &server.libraries, object).map(Some) });
        match result {
            Ok(probed) => {
                self.servers.extend(probed.map(|probed| (pid, probed)));
                true
            }
            Err(error) => {
                // It may have ended meanwhile.
                if std::path::Path::new(&format!("/proc/{pid}")).exists() {
                    self.errors.push(error);
                }
                self.servers.remove(&pid).into_iter().for_each(|probed| self.reaper.take_out(probed.links));
                self.errors.extend(forget(pid, &mut object.ebpf).err());
                false
            }
        }
    }

    /// The process has ended, or speaks something else.
    pub(super) fn remove(&mut self, pid: u32, ebpf: &mut Ebpf) {
        self.refused.remove(&pid);
        if let Some(probed) = self.servers.remove(&pid) {
            self.reaper.take_out(probed.links);
            self.errors.extend(forget(pid, ebpf).err());
        }
    }

    fn probe(&mut self, pid: u32, libraries: &[StdioLibrary], object: &mut Object) -> Result<Probed, ProbeError> {
        let scope = Scope::Process(NonZeroU32::new(pid).ok_or(ProbeError("no process".into()))?);
        let mut probed = Probed { links: Links::new(), library: Label::default() };
        let mut problem = ProbeError("no C library to probe".into());
        for StdioLibrary { file, path, functions } in libraries {
            let place = format!("/proc/self/fd/{}", file.as_raw_fd());
            for (name, function) in PROGRAMS {
                // A library for threads has not all of them.
                let Some((_, offset)) = functions.iter().find(|(known, _)| *known == function) else { continue };
                object.user.load(name, &mut object.ebpf)?;
                match object.user.attach(name, &mut object.ebpf, (&place, &[*offset]), scope) {
                    Ok(links) => {
                        probed.links.extend(links.into_iter().map(|link| (name, link)));
                        probed.library = path.clone();
                    }
                    Err(error) => problem = ProbeError(format!("{path}: {error}")),
                }
            }
        }
        let has = |name: &&str| probed.links.iter().any(|(linked, _)| linked == name);
        if NEEDED.iter().all(has) {
            return Ok(probed);
        }
        self.reaper.take_out(probed.links);
        Err(problem)
    }

    pub(super) fn take_errors(&mut self) -> Vec<ProbeError> {
        std::mem::take(&mut self.errors)
    }

    pub(super) fn status(&self, object: &Object, list: &mut Vec<ProbeStatus>) {
        let place = match (self.servers.values().next(), self.servers.len()) {
            (None, _) => Label::new("no process looks like an MCP server on standard input"),
            (Some(first), 1) => Label::new(&format!("{} in 1 process", first.library)),
            (Some(first), count) => Label::new(&format!("{} in {count} processes", first.library)),
        };
        let is_loaded = |name: &&str| object.program(name).is_some();
        list.extend(all_programs().into_iter().filter(is_loaded).map(|name| {
            let kind = if name.ends_with("_return") { TrapKind::ReturnBesideEntry } else { TrapKind::Entry };
            // What stands at the beginning of these functions differs from build to build.
            present(Group::Tools, name, place.clone(), Some(Trap { kind, stepped: true }), object)
        }));
        if !self.refused.is_empty() {
            let count = self.refused.len();
            let why = format!("{count} more look like MCP servers, and at most {MAX_SERVERS} are probed");
            list.push(absent(Group::Tools, why, false));
        }
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        reaper::take_out(self.links());
    }
}

/// Has these descriptors of a process looked at, and no others of it.
fn note_descriptors(pid: u32, descriptors: &[(u32, u8)], ebpf: &mut Ebpf) -> Result<(), ProbeError> {
    let mut map: HashMap<_, u64, u8> = super::typed_within(ebpf, DESCRIPTORS)?;
    let key = |descriptor: u32| u64::from(pid) << 32 | u64::from(descriptor);
    let wanted: BTreeSet<u64> = descriptors.iter().map(|(descriptor, _)| key(*descriptor)).collect();
    let of_process = map.keys().flatten().filter(|key| *key >> 32 == u64::from(pid));
    for gone in of_process.filter(|key| !wanted.contains(key)).collect::<Vec<_>>() {
        // The process may have let go of it meanwhile.
        let _ = map.remove(&gone);
    }
    for (descriptor, directions) in descriptors {
        map.insert(key(*descriptor), *directions, 0).map_err(|error| ProbeError::new("map STDIO", &error))?;
    }
    Ok(())
}

/// Forgets a process's descriptors, and the stream that was made of them: its number may be another's soon.
fn forget(pid: u32, ebpf: &mut Ebpf) -> Result<(), ProbeError> {
    note_descriptors(pid, &[], ebpf)?;
    if let Some(map) = ebpf.map(FLOWS) {
        raw::remove(map, &[STDIO_HANDLE, u64::from(pid)]);
    }
    Ok(())
}
