//! The parsers of this crate, laid open to the fuzz targets. Only with the feature `fuzzing`.

use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;

use hbpf_core::engine::{Engine, Observer};
use hbpf_core::sealed::Sealed;
use hbpf_core::time::{Nanos, WallClock};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::ring::EventRing;
use crate::{decode, discover, process};

/// Size of the ring that [`ring`] reads: three records of the largest class and some small ones.
const RING_BYTES: u32 = 64 * 1024;

/// Hands the records of a ring that holds `data` to the engine, as the collector does.
///
/// # Panics
///
/// If memory cannot be mapped.
pub fn ring(data: &[u8], engine: &mut Engine, observer: &mut dyn Observer) {
    let data = &data[..data.len().min(RING_BYTES as usize)];
    let page =
        nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, |bytes| bytes as u64);
    let file = File::from(memfd_create(c"ring", MFdFlags::empty()).expect("memory for a file"));
    file.set_len(2 * page + 2 * u64::from(RING_BYTES)).expect("room for a ring");
    let produced = (data.len() as u64).next_multiple_of(8);
    file.write_all_at(&produced.to_ne_bytes(), page).expect("room for a position");
    for copy in [0, u64::from(RING_BYTES)] {
        file.write_all_at(data, 2 * page + copy).expect("room for the data");
    }
    let mut ring = EventRing::from_fd(file.into(), RING_BYTES).expect("a ring of this size");
    let mut sealed = Sealed::default();
    let mut take = |header: &_, bytes: &_| {
        decode::look_outside(&mut sealed, header, bytes);
        decode::feed(engine, observer, header, bytes);
    };
    while ring.read(&mut take).more {}
    let clock = WallClock { monotonic: Nanos(0), wall: jiff::Timestamp::UNIX_EPOCH };
    let _ = sealed.frame(Nanos(u64::MAX), &clock, &mut []);
}

/// Inspects an ELF file.
///
/// # Panics
///
/// If a symbol is placed beyond the file's end.
pub fn elf(bytes: &[u8]) {
    if let Ok(inspection) = discover::elf::inspect(Cursor::new(bytes), bytes.len() as u64) {
        assert!(inspection.symbols.iter().all(|(_, offset)| *offset < bytes.len() as u64));
    }
}

/// Reads the bytes as each of the files under /proc and /etc that are read.
pub fn proc(bytes: &[u8]) {
    process::parse_as_all(bytes);
    discover::parse_as_all(bytes);
}
