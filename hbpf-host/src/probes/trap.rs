//! What the traps of uprobes cost on this machine, measured on functions of our own.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Instant;

use super::object::Object;
use super::user::Scope;
use crate::discover::Maps;
use crate::protocol::{TrapCost, TrapTimes};

/// Calls per round. With a trap that is single-stepped, which has been seen to take 40 µs, a round takes 8 ms.
const CALLS: u32 = 200;

/// Rounds, of which the fastest counts: what disturbs a round only ever makes it slower.
const ROUNDS: u32 = 3;

/// A function of which nothing but its first instruction matters.
type Function = unsafe extern "C" fn();

#[cfg(target_arch = "x86_64")]
mod functions {
    use std::arch::naked_asm;

    /// Begins with an instruction that the kernel emulates.
    #[unsafe(naked)]
    pub(super) unsafe extern "C" fn emulated() {
        naked_asm!("push rbp", "pop rbp", "ret")
    }

    /// Begins with one that it must single-step.
    #[unsafe(naked)]
    pub(super) unsafe extern "C" fn stepped() {
        naked_asm!("sub rsp, 8", "add rsp, 8", "ret")
    }
}

#[cfg(target_arch = "aarch64")]
mod functions {
    use std::arch::naked_asm;

    /// Begins with an instruction that the kernel emulates.
    #[unsafe(naked)]
    pub(super) unsafe extern "C" fn emulated() {
        naked_asm!("b 1f", "1:", "ret")
    }

    /// Begins with one that it must single-step.
    #[unsafe(naked)]
    pub(super) unsafe extern "C" fn stepped() {
        naked_asm!("add x9, x9, #0", "ret")
    }
}

/// Measures, in some 50 ms; `None` where that does not work. The probes are in this process alone, and gone afterwards.
pub(super) fn measure(object: &mut Object) -> Option<TrapCost> {
    let cost = TrapCost { emulated: times(object, functions::emulated)?, stepped: times(object, functions::stepped) };
    for name in ["empty_entry", "empty_return"] {
        object.unload(name);
    }
    Some(cost)
}

/// A place for a probe in this program's own file, where it does no harm.
pub(super) fn place() -> Option<u64> {
    offset_in_file(functions::emulated)
}

fn times(object: &mut Object, function: Function) -> Option<TrapTimes> {
    let place = offset_in_file(function)?;
    let own = Scope::Process(NonZeroU32::new(std::process::id())?);
    let bare = nanoseconds_per_call(function);
    let mut with = |name| {
        let _link = object.user.attach(name, &mut object.ebpf, ("/proc/self/exe", &[place]), own).ok()?;
        let probed = nanoseconds_per_call(function);
        Some((probed - bare).max(0.0))
    };
    Some(TrapTimes { entry_ns: with("empty_entry")?, return_ns: with("empty_return")? })
}

/// Where in this program's file a function lies.
fn offset_in_file(function: Function) -> Option<u64> {
    let address = function as usize as u64;
    let maps = Maps::read(Path::new("/proc"), std::process::id()).ok()?;
    let mapping = maps.executable.iter().find(|mapping| (mapping.start..mapping.end).contains(&address))?;
    Some(address - mapping.start + mapping.offset)
}

fn nanoseconds_per_call(function: Function) -> f64 {
    let round = || {
        let begun = Instant::now();
        for _ in 0..CALLS {
            // SAFETY: the function takes nothing, returns nothing and leaves the stack and all registers as they were.
            unsafe { std::hint::black_box(function)() };
        }
        begun.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_in_their_file() {
        let offset = offset_in_file(functions::emulated).unwrap() as usize;
        let file = std::fs::read("/proc/self/exe").unwrap();
        // SAFETY: three bytes of code, which is readable and goes on for longer than that.
        let code = unsafe { std::slice::from_raw_parts(functions::emulated as *const u8, 3) };
        assert_eq!(&file[offset..offset + 3], code);
    }

    /// The numbers are of no interest here: a busy machine makes them what it likes.
    #[test]
    fn traps_take_time() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let mut object = Object::load(&crate::btf::Places::read()).unwrap();
        let begun = Instant::now();
        let cost = measure(&mut object).unwrap();
        println!("{cost:?} in {:?}", begun.elapsed());
        assert!(cost.emulated.entry_ns > 0.0 && cost.emulated.return_ns > 0.0);
        assert!(cost.stepped.unwrap().entry_ns > 0.0);
    }
}
