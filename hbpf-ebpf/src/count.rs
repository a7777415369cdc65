//! Counts that user space takes out of a map now and then, where no event is wanted.

use aya_ebpf::bindings::BPF_NOEXIST;
use hbpf_ebpf::{Tally, TallyKey, counter};

use crate::{emit, maps::TALLIES, number::add_atomically};

/// Adds to what is counted under the key.
///
/// An entry that user space takes out between the look-up and the addition takes the addition with it, or hands it to the one
/// that has its place next: once in a very long while, for some nanoseconds lie between them, and a second between two readings.
#[inline(always)]
pub fn add(key: &TallyKey, tally: &Tally) {
    let Some(found) = TALLIES.get_ptr_mut(key) else {
        if TALLIES.insert(key, tally, BPF_NOEXIST.into()).is_ok() {
            return;
        }
        // Another CPU was first, or there is no room.
        match TALLIES.get_ptr_mut(key) {
            Some(found) => add_to(found, tally),
            None => emit::count(counter::MAP_FULL, 1),
        }
        return;
    };
    add_to(found, tally);
}

#[inline(always)]
fn add_to(found: *mut Tally, tally: &Tally) {
    // SAFETY: the entry's fields are aligned and within it.
    let (count, nanoseconds, bytes) =
        unsafe { (&raw mut (*found).count, &raw mut (*found).nanoseconds, &raw mut (*found).bytes) };
    add_atomically(count, tally.count);
    add_atomically(nanoseconds, tally.nanoseconds);
    add_atomically(bytes, tally.bytes);
}
