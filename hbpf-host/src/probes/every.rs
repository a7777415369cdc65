//! Every program tried out by itself: what a kernel makes of each of them. For tests on many kernels.
//!
//! A group takes of several programs those that suit the kernel; this takes all, and so tells which those are.

use std::error::Error;
use std::num::NonZeroU32;

use aya::programs::uprobe::UProbeScope;
use aya::programs::{Program, ProgramError};

use super::object::Object;
use super::user::Scope;
use super::{
    END_PROGRAM, EXEC_PROGRAM, EXIT_PROGRAM, FORK_PROGRAM, ProbeError, block, cgroup, missing, on_cgroup, one_line,
    raw, trap,
};
use crate::btf::Places;

/// Longest part of the verifier's words that is told. What it says last is why.
const MAX_LOG_CHARS: usize = 2000;

/// What came of one program.
#[derive(Debug)]
pub struct Tried {
    /// Its name.
    pub program: String,
    /// Why it could not be loaded.
    pub loaded: Result<(), String>,
    /// Why it could not be put in place, after it was loaded.
    pub attached: Result<(), String>,
}

/// Loads each program of the built object and puts it in place, one at a time, and takes it out again. Those on TLS
/// libraries are put into the calling program, where nothing reaches them.
///
/// # Errors
///
/// What keeps all programs from being tried: the maps cannot be created.
pub fn try_every() -> Result<Vec<Tried>, ProbeError> {
    let mut object = Object::load(&Places::read())?;
    let mut names: Vec<String> = object.ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort_unstable();
    Ok(names.into_iter().map(|name| try_one(&mut object, name)).collect())
}

fn try_one(object: &mut Object, name: String) -> Tried {
    let loaded = load(object, &name).map_err(|error| in_full(&error));
    let attached = if loaded.is_ok() { attach(object, &name).map_err(|error| error.to_string()) } else { Ok(()) };
    object.unload(&name);
    Tried { program: name, loaded, attached }
}

/// By the loader library, which tells what the verifier says.
fn load(object: &mut Object, name: &str) -> Result<(), ProgramError> {
    match object.ebpf.program_mut(name) {
        Some(Program::UProbe(program)) => program.load(),
        Some(Program::RawTracePoint(program)) => program.load(),
        Some(Program::TracePoint(program)) => program.load(),
        Some(program) => on_cgroup::load(program),
        None => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Where its group puts it. The links go with the program, but for that of a tracepoint with a record, which is let go of at
/// once.
fn attach(object: &mut Object, name: &str) -> Result<(), ProbeError> {
    let failed = |error: &dyn Error| ProbeError::new(name, error);
    match object.ebpf.program_mut(name).ok_or_else(|| missing(name))? {
        Program::UProbe(program) => {
            let place = trap::place().ok_or_else(|| ProbeError(format!("{name}: no place for it was found")))?;
            let path = "/proc/self/exe";
            program.attach(place, path, UProbeScope::CallingProcess).map_err(|error| failed(&error))?;
            if !object.user.has_many_places(name) {
                return Ok(());
            }
            let own = Scope::Process(NonZeroU32::new(std::process::id()).ok_or_else(|| missing(name))?);
            object.user.attach(name, &mut object.ebpf, (path, &[place]), own)?;
            if !object.user.has_many_places(name) {
                return Err(ProbeError(format!("{name}: not for links of many places, which this kernel has")));
            }
            Ok(())
        }
        Program::RawTracePoint(program) => {
            let lifecycle = [EXEC_PROGRAM, END_PROGRAM, EXIT_PROGRAM, FORK_PROGRAM];
            let mut all = lifecycle.iter().chain(&block::ON_REQUESTS);
            let (_, tracepoint) = all.find(|(program, _)| *program == name).ok_or_else(|| missing(name))?;
            program.attach(tracepoint).map(drop).map_err(|error| failed(&error))
        }
        Program::TracePoint(program) => {
            let (_, events) = block::tracepoints()?;
            let mut all = block::BY_RECORD.iter().zip(&events);
            let (_, event) = all.find(|(program, _)| **program == name).ok_or_else(|| missing(name))?;
            let descriptor = program.fd().map_err(|error| failed(&error))?;
            raw::attach_to_tracepoint(descriptor, event.id).map(drop).map_err(|error| failed(&error))
        }
        program => {
            let root = cgroup::open_root().map_err(|error| failed(&error))?;
            on_cgroup::attach_one(program, name, &root.fd).map_err(|error| failed(&error))
        }
    }
}

/// The error with what the verifier said last.
fn in_full(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return one_line(error) };
    let log = verifier_log.to_string();
    let words: Vec<&str> = log.split_whitespace().collect();
    let log = words.join(" ");
    let begin = log.char_indices().nth_back(MAX_LOG_CHARS - 1).map_or(0, |(begin, _)| begin);
    format!("{io_error}: {}", &log[begin..])
}
