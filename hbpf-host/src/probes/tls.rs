//! Probes in TLS libraries.
//!
//! A library's probes are in all processes that use it, those that come later included, which costs one registration and
//! loses nothing. Each of those processes pays with a trap per call. Where some that pay much are to be left out, the
//! probes are put into each of the others instead, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;

use aya::Ebpf;
use aya::maps::HashMap;
use hbpf_core::label::Label;

use super::object::Object;
use super::reaper::{self, Links, Reaper};
use super::{ProbeError, absent, on_cgroup, present, raw, user};
use crate::discover::{Library, LibraryId, Place, Symbol};
use crate::protocol::{Group, ProbeStatus, Trap, TrapKind};

/// Why there are no probes where none are needed: they come with the first process that uses such a library.
pub const NOTHING_TO_PROBE: &str = "no process uses a TLS library that can be probed";

/// Maps that remember connections and calls. What they hold is wrong once calls have gone by unseen.
const MEMORY: [&str; 9] = [
    "TLS_FLOWS",
    "TLS_CALLS",
    "TLS_USERS",
    "GO_READS",
    "AEAD_CONTEXTS",
    "AEAD_THREADS",
    "AEAD_SENT",
    "AEAD_RECEIVED",
    "AEAD_SOCKETS",
];

/// Most processes into which one library's probes are put one by one: at each hit the kernel goes through all of them to
/// find whose it is.
const MAX_PROCESSES_PROBED: usize = 32;

/// Programs of a function, in the order in which they are attached: the return before the entry, so that no entry waits
/// for a return that is not seen.
fn programs_for(symbol: Symbol, internal: bool) -> &'static [&'static str] {
    match symbol {
        // With the same arguments, and what they return says the same.
        Symbol::SslWrite | Symbol::GnutlsSend | Symbol::GnutlsSend2 => &["ssl_write_return", "ssl_write"],
        Symbol::SslWriteEx => &["ssl_write_ex_return", "ssl_write_ex"],
        Symbol::SslWriteEx2 => &["ssl_write_ex_return", "ssl_write_ex2"],
        Symbol::SslRead | Symbol::GnutlsRecv => &["ssl_read_return", "ssl_read"],
        Symbol::SslReadEx if internal => &["ssl_read_internal_return", "ssl_read_ex"],
        Symbol::SslReadEx => &["ssl_read_ex_return", "ssl_read_ex"],
        Symbol::NsprRead => &["ssl_read_return", "nspr_read"],
        Symbol::NsprRecv => &["ssl_read_return", "nspr_recv"],
        Symbol::NsprWrite | Symbol::NsprSend => &["ssl_write_return", "nspr_write"],
        Symbol::SslFree | Symbol::GnutlsDeinit | Symbol::NsprClose => &["ssl_free"],
        Symbol::SslNew => &["ssl_new_return"],
        Symbol::GoRead => &["go_tls_read"],
        Symbol::GoReadReturn => &["go_tls_read_return"],
        Symbol::GoReadReturnOnStack => &["go_tls_read_return_on_stack"],
        Symbol::GoWrite => &["go_tls_write"],
        Symbol::GoWriteOnStack => &["go_tls_write_on_stack"],
        Symbol::GoForget => &["go_tls_forget"],
        Symbol::GoForgetOnStack => &["go_tls_forget_on_stack"],
        Symbol::AeadInit => &["aead_init"],
        Symbol::AeadInitWithDirection => &["aead_init_with_direction"],
        Symbol::AeadCleanup | Symbol::AeadFree => &["aead_cleanup"],
        Symbol::AeadSeal => &["aead_seal_return", "aead_seal"],
        Symbol::AeadSealScatter => &["aead_seal_return", "aead_seal_scatter"],
        Symbol::AeadOpen => &["aead_open_return", "aead_open"],
        Symbol::AeadOpenGather => &["aead_open_return", "aead_open_gather"],
    }
}

/// In the order in which their probes are put in.
const SYMBOLS: [Symbol; 31] = [
    Symbol::SslNew,
    Symbol::SslFree,
    Symbol::GnutlsDeinit,
    Symbol::NsprClose,
    Symbol::SslWrite,
    Symbol::SslWriteEx,
    Symbol::SslWriteEx2,
    Symbol::GnutlsSend,
    Symbol::GnutlsSend2,
    Symbol::NsprWrite,
    Symbol::NsprSend,
    Symbol::SslRead,
    Symbol::SslReadEx,
    Symbol::GnutlsRecv,
    Symbol::NsprRead,
    Symbol::NsprRecv,
    Symbol::GoForget,
    Symbol::GoForgetOnStack,
    Symbol::GoWrite,
    Symbol::GoWriteOnStack,
    Symbol::GoReadReturn,
    Symbol::GoReadReturnOnStack,
    Symbol::GoRead,
    Symbol::AeadFree,
    Symbol::AeadCleanup,
    Symbol::AeadOpenGather,
    Symbol::AeadOpen,
    Symbol::AeadSealScatter,
    Symbol::AeadSeal,
    Symbol::AeadInitWithDirection,
    Symbol::AeadInit,
];

/// Every TLS program once.
fn all_programs() -> BTreeSet<&'static str> {
    let of = |symbol| programs_for(symbol, false).iter().chain(programs_for(symbol, true));
    SYMBOLS.into_iter().flat_map(of).copied().collect()
}

/// Whether programs of this kind can be loaded at all is found out with this one.
pub(super) const SMALLEST: &str = "ssl_free";

/// The libraries that are known, with the probes in them while the group is on.
#[derive(Default)]
pub(super) struct Tls {
    libraries: BTreeMap<LibraryId, Probed>,
    /// Where the programs are that see ciphertext on the wire, if they are needed.
    wire: Option<Label>,
    errors: Vec<ProbeError>,
    /// Processes in which no probes shall be.
    excluded: BTreeSet<u32>,
    /// Processes that were among them before.
    back: BTreeSet<u32>,
    reaper: Reaper,
}

struct Probed {
    library: Library,
    everywhere: Links,
    /// In place of `everywhere`, by process.
    one_by_one: BTreeMap<u32, Links>,
    problem: Option<String>,
    /// Why processes that were to be left out are not.
    not_left_out: Option<String>,
}

/// Where a library's probes shall be.
#[derive(Debug, PartialEq, Eq)]
enum Scope {
    Everywhere,
    /// Everywhere, although some processes should be left out: too many others would have to be probed one by one.
    EverywhereForTheirNumber(usize),
    OneByOne(BTreeSet<u32>),
}

impl Scope {
    fn of(users: &BTreeSet<u32>, excluded: &BTreeSet<u32>) -> Self {
        if users.is_disjoint(excluded) {
            return Self::Everywhere;
        }
        let others: BTreeSet<u32> = users.difference(excluded).copied().collect();
        if others.len() > MAX_PROCESSES_PROBED {
            return Self::EverywhereForTheirNumber(others.len());
        }
        Self::OneByOne(others)
    }
}

impl Tls {
    pub(super) fn attach(&mut self, object: &mut Object) -> Result<(), ProbeError> {
        object.user.load(SMALLEST, &mut object.ebpf)?;
        for probed in self.libraries.values_mut() {
            self.errors.extend(probed.attach(object).err());
        }
        self.watch_wire(object);
        Ok(())
    }

    /// Puts in place what sees ciphertext on the wire, once a library is there that needs it. Without it new connections are read still.
    fn watch_wire(&mut self, object: &mut Object) {
        if self.wire.is_none() && self.libraries.values().any(Probed::seals) {
            match on_cgroup::attach(&mut object.ebpf, &on_cgroup::AEAD) {
                Ok(place) => self.wire = Some(place),
                Err(error) => {
                    on_cgroup::AEAD.into_iter().for_each(|name| object.unload(name));
                    self.errors.push(error);
                }
            }
        }
    }

    pub(super) fn detach(&mut self, object: &mut Object) {
        self.take_out();
        for probed in self.libraries.values_mut() {
            (probed.problem, probed.not_left_out) = (None, None);
        }
        all_programs().into_iter().chain(on_cgroup::AEAD).for_each(|name| object.unload(name));
        self.wire = None;
        for name in MEMORY {
            if let Some(map) = object.ebpf.map(name) {
                raw::clear(map);
            }
        }
    }

    /// Takes all probes out of libraries.
    fn take_out(&mut self) {
        let of_library = |probed: &mut Probed| {
            let one_by_one = std::mem::take(&mut probed.one_by_one).into_values().flatten();
            one_by_one.chain(std::mem::take(&mut probed.everywhere)).collect::<Links>()
        };
        reaper::take_out(self.libraries.values_mut().flat_map(of_library).collect());
    }

    pub(super) fn add(&mut self, library: Library, object: Option<&mut Object>) {
        let (everywhere, one_by_one) = (Links::new(), BTreeMap::new());
        let mut probed = Probed { library, everywhere, one_by_one, problem: None, not_left_out: None };
        let Some(object) = object else { return drop(self.libraries.insert(probed.library.id, probed)) };
        self.errors.extend(probed.attach(object).err());
        self.libraries.insert(probed.library.id, probed);
        self.watch_wire(object);
    }

    pub(super) fn remove(&mut self, id: LibraryId) {
        let Some(probed) = self.libraries.remove(&id) else { return };
        self.reaper.take_out(probed.everywhere);
        probed.one_by_one.into_values().for_each(|links| self.reaper.take_out(links));
    }

    pub(super) fn exclude(&mut self, pids: BTreeSet<u32>) {
        self.back.extend(self.excluded.difference(&pids));
        self.excluded = pids;
    }

    pub(super) fn excludes_any(&self) -> bool {
        !self.excluded.is_empty()
    }

    /// The process has ended; its number may soon be another's.
    pub(super) fn ended(&mut self, pid: u32) {
        self.excluded.remove(&pid);
        for probed in self.libraries.values_mut() {
            self.reaper.take_out(probed.one_by_one.remove(&pid).unwrap_or_default());
        }
    }

    /// Has every library's probes where they shall be, given who uses it.
    pub(super) fn settle(&mut self, object: &mut Object, users: &dyn Fn(LibraryId) -> BTreeSet<u32>) {
        forget_contexts(&mut object.ebpf, &std::mem::take(&mut self.back));
        if self.wire.is_some() && !self.libraries.values().any(Probed::seals) {
            on_cgroup::AEAD.into_iter().for_each(|name| object.unload(name));
            self.wire = None;
        }
        for (id, probed) in &mut self.libraries {
            if probed.problem.is_some() {
                continue;
            }
            let scope =
                if self.excluded.is_empty() { Scope::Everywhere } else { Scope::of(&users(*id), &self.excluded) };
            self.errors.extend(probed.move_to(scope, object, &mut self.reaper).err());
        }
    }

    pub(super) fn take_errors(&mut self) -> Vec<ProbeError> {
        std::mem::take(&mut self.errors)
    }

    pub(super) fn status(&self, object: &Object, list: &mut Vec<ProbeStatus>) {
        let before = list.len();
        for probed in self.libraries.values() {
            let path = &probed.library.path;
            let place = match probed.one_by_one.len() {
                0 => path.clone(),
                count => Label::new(&format!("{path} in {count} of its processes")),
            };
            let programs: BTreeSet<_> =
                probed.everywhere.iter().chain(probed.one_by_one.values().flatten()).map(|(name, _)| *name).collect();
            let present = |name| present(Group::LlmTls, name, place.clone(), Some(probed.trap(name)), object);
            list.extend(programs.into_iter().map(present));
            if let Some(problem) = &probed.problem {
                list.push(ProbeStatus { attached_to: path.clone(), ..absent(Group::LlmTls, problem.clone(), true) });
            }
            if let Some(why) = &probed.not_left_out {
                list.push(ProbeStatus { attached_to: path.clone(), ..absent(Group::LlmTls, why.clone(), false) });
            }
        }
        if let Some(place) = &self.wire {
            list.extend(on_cgroup::AEAD.map(|name| present(Group::LlmTls, name, place.clone(), None, object)));
        }
        if list.len() == before {
            list.push(absent(Group::LlmTls, NOTHING_TO_PROBE.into(), false));
        }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.take_out();
    }
}

/// An address in a process means another context by now than when its probes were taken out.
fn forget_contexts(ebpf: &mut Ebpf, pids: &BTreeSet<u32>) {
    if pids.is_empty() {
        return;
    }
    let Some(Ok(mut contexts)) = ebpf.map_mut("AEAD_CONTEXTS").map(HashMap::<_, ContextKey, [u64; 4]>::try_from) else {
        return;
    };
    let of_these = contexts.keys().flatten().filter(|ContextKey([_, pid])| pids.contains(&(*pid as u32)));
    for key in of_these.collect::<Vec<_>>() {
        // It may have made room meanwhile.
        let _ = contexts.remove(&key);
    }
}

/// Address and process.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct ContextKey([u64; 2]);

// SAFETY: two `u64` without padding.
unsafe impl aya::Pod for ContextKey {}

impl Probed {
    /// Whether it is rustls, whose contexts must be told apart.
    fn seals(&self) -> bool {
        self.library.places.iter().any(|place| place.symbol == Symbol::AeadSeal)
    }

    /// The trap that leads to a program. Where those of its places differ, the dearer is told.
    fn trap(&self, program: &str) -> Trap {
        let kind = match program {
            "ssl_new_return" => TrapKind::Return,
            // Go's returns are probed where they are.
            name if name.starts_with("go_") => TrapKind::Entry,
            name if name.ends_with("_return") => TrapKind::ReturnBesideEntry,
            _ => TrapKind::Entry,
        };
        let leads_there = |place: &&Place| programs_for(place.symbol, place.internal).contains(&program);
        let stepped = self.library.places.iter().filter(leads_there).any(|place| !place.emulated);
        Trap { kind, stepped }
    }

    /// All probes of this library or none: half of them would show half of the calls.
    fn attach(&mut self, object: &mut Object) -> Result<(), ProbeError> {
        self.problem = None;
        match self.links(object, user::Scope::All) {
            Ok(links) => self.everywhere = links,
            Err(error) => {
                self.problem = Some(error.to_string());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Puts new probes in before it takes old ones out: a call that hits both counts once, and none is missed.
    fn move_to(&mut self, scope: Scope, object: &mut Object, reaper: &mut Reaper) -> Result<(), ProbeError> {
        self.not_left_out = match &scope {
            Scope::EverywhereForTheirNumber(others) => {
                let text = "processes without model calls are not spared the cost of the probes";
                Some(format!("{text}: {others} others use it, and at most {MAX_PROCESSES_PROBED} can be probed singly"))
            }
            Scope::Everywhere | Scope::OneByOne(_) => None,
        };
        let Scope::OneByOne(pids) = scope else {
            if self.everywhere.is_empty() {
                self.attach(object)?;
            }
            reaper.take_out(std::mem::take(&mut self.one_by_one).into_values().flatten().collect());
            return Ok(());
        };
        for pid in &pids {
            if self.one_by_one.contains_key(pid) {
                continue;
            }
            let Some(number) = NonZeroU32::new(*pid) else { continue };
            match self.links(object, user::Scope::Process(number)) {
                Ok(links) => drop(self.one_by_one.insert(*pid, links)),
                // It has ended meanwhile.
                Err(_) if !std::path::Path::new(&format!("/proc/{pid}")).exists() => {}
                Err(error) => {
                    self.move_to(Scope::Everywhere, object, reaper)?;
                    self.not_left_out = Some(error.to_string());
                    return Err(error);
                }
            }
        }
        let left_out = self.one_by_one.extract_if(.., |pid, _| !pids.contains(pid)).flat_map(|(_, links)| links);
        reaper.take_out(left_out.chain(std::mem::take(&mut self.everywhere)).collect());
        Ok(())
    }

    fn links(&self, object: &mut Object, scope: user::Scope) -> Result<Links, ProbeError> {
        // The path may lead to another file by now; the descriptor does not.
        let path = format!("/proc/self/fd/{}", self.library.file.as_raw_fd());
        let programs = |place: &Place| programs_for(place.symbol, place.internal);
        object.user.load_side_by_side(&self.library.places.iter().flat_map(programs).copied().collect());
        let mut links = Links::new();
        for symbol in SYMBOLS {
            for internal in [false, true] {
                let its = |place: &&Place| place.symbol == symbol && place.internal == internal;
                let offsets: Vec<u64> = self.library.places.iter().filter(its).map(|place| place.offset).collect();
                if offsets.is_empty() {
                    continue;
                }
                for name in programs_for(symbol, internal) {
                    let new = object.user.attach(name, &mut object.ebpf, (&path, &offsets), scope);
                    let new = new.map_err(|error| ProbeError(format!("{}: {error}", self.library.path)))?;
                    links.extend(new.into_iter().map(|link| (*name, link)));
                }
            }
        }
        if links.is_empty() {
            return Err(ProbeError(format!("{}: no TLS functions in it", self.library.path)));
        }
        Ok(links)
    }
}

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

    use super::*;

    #[test]
    fn returns_are_attached_before_entries() {
        for symbol in SYMBOLS {
            for internal in [false, true] {
                let [first, second] = programs_for(symbol, internal) else { continue };
                assert!(first.ends_with("_return") && !second.ends_with("_return"), "{first} {second}");
            }
        }
    }

    #[test]
    fn every_user_probe_of_the_object_has_a_function() {
        let file = object::File::parse(super::super::object::BYTES).expect("the object parses");
        let sections = ["uprobe", "uretprobe"].map(|name| file.section_by_name(name).expect("a section").index());
        let programs: BTreeSet<&str> = file
            .symbols()
            .filter(|symbol| {
                symbol.kind() == SymbolKind::Text && symbol.section_index().is_some_and(|it| sections.contains(&it))
            })
            .map(|symbol| symbol.name().expect("a name"))
            .filter(|name| !name.starts_with("empty_"))
            .collect();
        let ours = all_programs().into_iter().chain(super::super::stdio::all_programs()).collect::<BTreeSet<_>>();
        assert_eq!(ours, programs);
    }

    #[test]
    fn probes_are_everywhere_unless_users_are_to_be_left_out_and_few_remain() {
        let set = |pids: std::ops::Range<u32>| pids.collect::<BTreeSet<u32>>();
        assert_eq!(Scope::of(&set(1..9), &set(0..0)), Scope::Everywhere);
        assert_eq!(Scope::of(&set(1..9), &set(20..22)), Scope::Everywhere, "they use another library");
        assert_eq!(Scope::of(&set(1..9), &set(3..30)), Scope::OneByOne(set(1..3)));
        assert_eq!(Scope::of(&set(1..9), &set(1..9)), Scope::OneByOne(set(0..0)), "nobody else uses it");
        let most = MAX_PROCESSES_PROBED as u32;
        assert_eq!(Scope::of(&set(0..most + 1), &set(0..1)), Scope::OneByOne(set(1..most + 1)));
        assert_eq!(Scope::of(&set(0..most + 2), &set(0..1)), Scope::EverywhereForTheirNumber(MAX_PROCESSES_PROBED + 1));
    }
}
