//! Bounds that the compiler would optimise away, since it knows what the verifier does not.

use core::arch::asm;

/// `value`, which is between 1 and `MAX`, as the verifier can see then. `MAX` is a power of two.
#[inline(always)]
pub fn bounded<const MAX: usize>(value: u32) -> u64 {
    const { assert!(MAX.is_power_of_two()) };
    let mut value = u64::from(value);
    // SAFETY: arithmetic on one register.
    unsafe {
        asm!("{value} += -1", "{value} &= {mask}", "{value} += 1", value = inout(reg) value, mask = const MAX - 1);
    }
    value
}

/// `value`, which is less than `BOUND`, as the verifier can see then. `BOUND` is a power of two.
#[inline(always)]
pub fn masked<const BOUND: usize>(value: u32) -> u64 {
    const { assert!(BOUND.is_power_of_two()) };
    let mut value = u64::from(value);
    // SAFETY: arithmetic on one register.
    unsafe { asm!("{value} &= {mask}", value = inout(reg) value, mask = const BOUND - 1) };
    value
}

/// `value`, of which the verifier forgets what it knows. `unknown` is any number that it knows little of.
///
/// A loop that begins where another one ended is otherwise verified once for every place where that one can end.
#[inline(always)]
pub fn forgotten(value: u32, unknown: u64) -> u32 {
    let mut value = u64::from(value);
    // SAFETY: arithmetic on one register.
    unsafe {
        asm!("{value} += {unknown}", "{value} -= {unknown}", value = inout(reg) value, unknown = in(reg) unknown);
    }
    value as u32
}

/// Adds to a number that other programs, on this CPU and on others, add to at the same time.
#[inline(always)]
pub fn add_atomically(number: *mut u64, value: u64) {
    // SAFETY: the caller's pointer is to map memory, which the verifier has checked; `lock` makes the addition one.
    unsafe { asm!("lock *(u64 *)({number} + 0) += {value}", number = in(reg) number, value = in(reg) value) };
}
