//! Programs at functions of processes: loading them and putting them in place.
//!
//! Since Linux 6.6 a link puts a program at many places of a file at once, and since 6.10, and in what was mended after it, it does so for
//! single processes in the right way (`uprobe_multi`). It is what is used where there is it: a probe that is put in by itself is an event of the kernel's tracing as well, and to
//! take one out the kernel waits several times for all that may be running, with every other such event waiting too.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::CString;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use aya::Ebpf;
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeLink, UProbeScope};
use aya_obj::ProgramSection;
use aya_obj::generated::bpf_insn;
use nix::errno::Errno;

use super::{ProbeError, object, program, raw, side_by_side};

/// One process or all of them, those that come later included.
#[derive(Clone, Copy)]
pub(super) enum Scope {
    All,
    Process(NonZeroU32),
}

/// A program that is in place for as long as this is kept.
#[expect(dead_code, reason = "it is kept, and let go of")]
pub(super) enum Link {
    Many(OwnedFd),
    One(UProbeLink),
}

/// A program for links of many places. It refers to maps by their descriptors, which have to stay open for as long as it may be loaded.
struct Code {
    instructions: Vec<bpf_insn>,
    license: CString,
    /// Whether it is for returns.
    at_return: bool,
}

/// The programs for functions of processes. The loader library puts programs at one place a link; it does all where many cannot be.
pub(super) struct UserPrograms {
    /// Those for links of many places; none where there are no such links.
    code: HashMap<String, Code>,
    loaded: BTreeMap<String, OwnedFd>,
}

impl UserPrograms {
    /// Given the descriptors of all maps.
    pub(super) fn new(maps: &HashMap<&str, RawFd>) -> Result<Self, ProbeError> {
        let code = if links_have_many_places() { code(maps)? } else { HashMap::new() };
        Ok(Self { code, loaded: BTreeMap::new() })
    }

    /// Whether a program is for links of many places.
    pub(super) fn has_many_places(&self, name: &str) -> bool {
        self.code.contains_key(name)
    }

    pub(super) fn program(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.loaded.get(name).map(OwnedFd::as_fd)
    }

    /// Loads a program, unless it is loaded: most hosts need few of them, and what the verifier does for one takes a while.
    pub(super) fn load(&mut self, name: &str, ebpf: &mut Ebpf) -> Result<(), ProbeError> {
        if self.loaded.contains_key(name) {
            return Ok(());
        }
        if let Some(code) = self.code.get(name) {
            if let Ok(loaded) = raw::load_for_many(name, &code.instructions, &code.license) {
                self.loaded.insert(name.to_owned(), loaded);
                return Ok(());
            }
            // The loader library tells what the verifier says. What it can load is put at one place a link.
            self.code.remove(name);
        }
        let program: &mut UProbe = program(ebpf, name)?;
        if program.fd().is_err() {
            program.load().map_err(|error| ProbeError::new(name, &error))?;
        }
        Ok(())
    }

    /// Loads several programs at a time. Those that cannot be loaded are left to [`load`](Self::load), which says why.
    pub(super) fn load_side_by_side(&mut self, names: &BTreeSet<&'static str>) {
        let is_wanted = |name: &&'static str| !self.loaded.contains_key(*name);
        let wanted = names.iter().copied().filter(is_wanted).filter_map(|name| Some((name, self.code.get(name)?)));
        let loaded = side_by_side(wanted.collect(), |(name, code)| {
            Some((name.to_owned(), raw::load_for_many(name, &code.instructions, &code.license).ok()?))
        });
        self.loaded.extend(loaded.into_iter().flatten());
    }

    /// Loads a program if need be, and puts it at these places of a file, all or none.
    pub(super) fn attach(
        &mut self,
        name: &str,
        ebpf: &mut Ebpf,
        (path, offsets): (&str, &[u64]),
        scope: Scope,
    ) -> Result<Vec<Link>, ProbeError> {
        self.load(name, ebpf)?;
        if let (Some(code), Some(program)) = (self.code.get(name), self.loaded.get(name)) {
            let pid = match scope {
                Scope::All => 0,
                Scope::Process(pid) => pid.get(),
            };
            let link = raw::attach_to_many(program.as_fd(), path, offsets, pid, code.at_return);
            return link.map(|link| vec![Link::Many(link)]).map_err(|error| ProbeError::new(name, &error));
        }
        let program: &mut UProbe = program(ebpf, name)?;
        let scope = match scope {
            Scope::All => UProbeScope::AllProcesses,
            Scope::Process(pid) => UProbeScope::OneProcess(pid),
        };
        let attach = |offset: &u64| program.attach(*offset, path, scope).and_then(|id| program.take_link(id));
        let links = offsets.iter().map(attach).map(|link| link.map(Link::One));
        links.collect::<Result<_, _>>().map_err(|error| ProbeError::new(name, &error))
    }

    pub(super) fn unload(&mut self, name: &str) {
        self.loaded.remove(name);
    }
}

/// What can be loaded for links of many places, whose references are to these maps.
fn code(maps: &HashMap<&str, RawFd>) -> Result<HashMap<String, Code>, ProbeError> {
    const WHAT: &str = "reading the object";
    let mut object = aya_obj::Object::parse(object::BYTES).map_err(|error| ProbeError::new(WHAT, &error))?;
    let definitions = std::mem::take(&mut object.maps);
    let descriptors = definitions.iter().map(|(name, map)| match maps.get(name.as_str()) {
        Some(descriptor) => Ok((name.as_str(), *descriptor, map)),
        None => Err(ProbeError(format!("{WHAT}: no map {name}"))),
    });
    let descriptors = descriptors.collect::<Result<Vec<_>, _>>()?;
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object
        .relocate_maps(descriptors.into_iter(), &sections)
        .and_then(|()| object.relocate_calls(&sections))
        .map_err(|error| ProbeError::new(WHAT, &error))?;
    let at_return = |section: &ProgramSection| match section {
        ProgramSection::UProbe { .. } => Some(false),
        ProgramSection::URetProbe { .. } => Some(true),
        _ => None,
    };
    let programs = object.programs.iter().filter_map(|(name, program)| {
        let at_return = at_return(&program.section)?;
        let instructions = object.functions.get(&program.function_key())?.instructions.clone();
        Some((name.clone(), Code { instructions, license: program.license.clone(), at_return }))
    });
    Ok(programs.collect())
}

/// Whether the kernel has links of many places, and knows a process by its number there. It is asked with what cannot be: what it
/// complains of tells how far it came. Who may not load programs gets no answer, and it is as if there were none.
pub(crate) fn links_have_many_places() -> bool {
    /// `BPF_MOV64_IMM(BPF_REG_0, 0); BPF_EXIT_INSN()`
    const NOTHING: [(u8, i32); 2] = [(0xb7, 0), (0x95, 0)];
    let instructions = NOTHING.map(|(code, imm)| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm,
    });
    let Ok(program) = raw::load_for_many("empty", &instructions, c"GPL") else { return false };
    let refused = |pid| raw::attach_to_many(program.as_fd(), "/", &[0], pid, false).err();
    // A directory has no code, and no process has this number.
    refused(0) == Some(Errno::EBADF) && refused(u32::MAX) == Some(Errno::EINVAL)
}
