//! The programs on requests to block devices.

use std::os::fd::OwnedFd;

use aya::Ebpf;
use aya::maps::{Array, HashMap};
use aya::programs::TracePoint;
use hbpf_core::label::Label;
use hbpf_ebpf::{BlockLayout, block_record};

use super::tracefs::{Event, Tracefs};
use super::{ProbeError, program, raw};
use crate::devices;

pub(super) const PROGRAMS: [&str; 2] = ["block_started", "block_done"];

const CATEGORY: &str = "block";

/// Tracepoints at the beginning and at the end of a request, the best ones first: those that Linux has had since 6.5, and
/// those before.
const TRACEPOINTS: [[&str; 2]; 2] = [["block_io_start", "block_io_done"], ["block_getrq", "block_rq_complete"]];

/// The programs in place, as long as this lives.
#[derive(Debug)]
pub(super) struct Attached {
    /// Where each of [`PROGRAMS`] is.
    pub(super) places: [Label; 2],
    /// What holds them there.
    #[expect(dead_code, reason = "the kernel takes the programs out when they are closed")]
    events: [OwnedFd; 2],
}

/// Puts the programs in place.
pub(super) fn attach(ebpf: &mut Ebpf) -> Result<Attached, ProbeError> {
    attach_at(ebpf, &TRACEPOINTS)
}

fn attach_at(ebpf: &mut Ebpf, tracepoints: &[[&'static str; 2]]) -> Result<Attached, ProbeError> {
    let tracefs = Tracefs::open().map_err(|error| ProbeError::new("tracefs", &error))?;
    let find = |names: &[&'static str; 2]| {
        let [started, done] = names.map(|name| tracefs.event(CATEGORY, name));
        Some((*names, [started?, done?]))
    };
    let (names, events) = tracepoints.iter().find_map(find).ok_or_else(|| {
        ProbeError("this kernel has no tracepoints for requests to block devices, or tracefs cannot be read".into())
    })?;
    let lacking = |name| ProbeError(format!("{CATEGORY}:{name}: its record lacks a field that is needed"));
    let started = started_layout(&events[0]).ok_or_else(|| lacking(names[0]))?;
    let done = done_layout(&events[1]).ok_or_else(|| lacking(names[1]))?;
    write(ebpf, started, done)?;
    let mut place = |index: usize| {
        let program: &mut TracePoint = program(ebpf, PROGRAMS[index])?;
        let failed = |error: &dyn std::error::Error| ProbeError::new(PROGRAMS[index], error);
        program.load().map_err(|error| failed(&error))?;
        let descriptor = program.fd().map_err(|error| failed(&error))?;
        raw::attach_to_tracepoint(descriptor, events[index].id).map_err(|error| failed(&error))
    };
    // The ends first: a request whose beginning was not seen is not counted.
    let done = place(1)?;
    let started = place(0)?;
    Ok(Attached { places: names.map(|name| Label::new(&format!("{CATEGORY}:{name}"))), events: [started, done] })
}

fn started_layout(event: &Event) -> Option<BlockLayout> {
    let places = done_layout(event)?;
    Some(BlockLayout { sectors: event.offset("nr_sector", 4)?, letters: event.offset_of_text("rwbs", 2)?, ..places })
}

fn done_layout(event: &Event) -> Option<BlockLayout> {
    let (device, sector) = (event.offset("dev", 4)?, event.offset("sector", 8)?);
    Some(BlockLayout { device, sector, ..BlockLayout::default() })
}

/// Tells the programs what they have to know. The maps stay in the object.
fn write(ebpf: &mut Ebpf, started: BlockLayout, done: BlockLayout) -> Result<(), ProbeError> {
    let missing = |name| ProbeError(format!("map {name}: not in the object"));
    let failed = |name: &str, error: &dyn std::error::Error| ProbeError::new(&format!("map {name}"), error);
    const LAYOUTS: &str = "BLOCK_LAYOUTS";
    let map = ebpf.map_mut(LAYOUTS).ok_or_else(|| missing(LAYOUTS))?;
    let mut layouts: Array<_, Layout> = map.try_into().map_err(|error| failed(LAYOUTS, &error))?;
    for (index, layout) in [(block_record::STARTED, started), (block_record::DONE, done)] {
        layouts.set(index, Layout(layout), 0).map_err(|error| failed(LAYOUTS, &error))?;
    }
    const PARTITIONS: &str = "PARTITIONS";
    let map = ebpf.map_mut(PARTITIONS).ok_or_else(|| missing(PARTITIONS))?;
    let mut partitions: HashMap<_, u32, u32> = map.try_into().map_err(|error| failed(PARTITIONS, &error))?;
    for (partition, disk) in devices::partitions(devices::SYS.as_ref()) {
        // Where there is no room for all, what goes to the others is not timed on old kernels.
        if partitions.insert(partition, disk, 0).is_err() {
            break;
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Layout(BlockLayout);

// SAFETY: four `u32` without padding.
unsafe impl aya::Pod for Layout {}
