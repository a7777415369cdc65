//! The programs on requests to block devices.

use std::os::fd::OwnedFd;

use aya::Ebpf;
use aya::maps::{Array, HashMap};
use aya::programs::TracePoint;
use hbpf_core::label::Label;
use hbpf_ebpf::{BlockLayout, RequestLayout, block_record};

use super::object::Object;
use super::tracefs::{Event, Tracefs};
use super::{ProbeError, program, raw};
use crate::devices;

pub(super) const PROGRAMS: [&str; 5] =
    ["block_request_started", "block_request_issued", "block_request_done", BY_RECORD[0], BY_RECORD[1]];

/// Those on requests themselves, the ends first: a request whose beginning was not seen is not counted.
pub(super) const ON_REQUESTS: [(&str, &str); 3] = [
    ("block_request_done", "block_rq_complete"),
    ("block_request_issued", "block_rq_issue"),
    ("block_request_started", "block_io_start"),
];

/// Those that go by the records of tracepoints.
pub(super) const BY_RECORD: [&str; 2] = ["block_started", "block_done"];

const CATEGORY: &str = "block";

/// Tracepoints at the beginning and at the end of a request, the best ones first: those that Linux has had since 6.5, and
/// those before.
const TRACEPOINTS: [[&str; 2]; 2] = [["block_io_start", "block_io_done"], ["block_getrq", "block_rq_complete"]];

/// The programs in place, as long as this lives and they are loaded.
#[derive(Debug)]
pub(super) struct Attached {
    /// Each that is in place, and where.
    pub(super) places: Vec<(&'static str, Label)>,
    /// What holds them there that go by records.
    #[expect(dead_code, reason = "the kernel takes the programs out when they are closed")]
    events: Vec<OwnedFd>,
}

/// Puts the programs in place.
pub(super) fn attach(object: &mut Object, layout: Option<RequestLayout>) -> Result<Attached, ProbeError> {
    // What was under way when they were taken out has ended unseen.
    for name in ["BLOCK_REQUESTS", "BLOCK_PLACES"] {
        object.ebpf.map(name).into_iter().for_each(raw::clear);
    }
    if let Some(layout) = layout
        && let Ok(attached) = attach_to_requests(&mut object.ebpf, layout)
    {
        return Ok(attached);
    }
    // What of it is in place is in the way of the others.
    ON_REQUESTS.iter().for_each(|(name, _)| object.unload(name));
    attach_by_record(&mut object.ebpf)
}

fn attach_to_requests(ebpf: &mut Ebpf, layout: RequestLayout) -> Result<Attached, ProbeError> {
    const LAYOUT: &str = "BLOCK_REQUEST";
    let mut map: Array<_, Layout<RequestLayout>> = super::typed_within(ebpf, LAYOUT)?;
    map.set(0, Layout(layout), 0).map_err(|error| ProbeError::new(LAYOUT, &error))?;
    for (name, tracepoint) in ON_REQUESTS {
        super::attach_tracepoint(ebpf, (name, tracepoint))?;
    }
    let places = ON_REQUESTS.map(|(name, tracepoint)| (name, Label::new(tracepoint)));
    Ok(Attached { places: places.to_vec(), events: Vec::new() })
}

fn attach_by_record(ebpf: &mut Ebpf) -> Result<Attached, ProbeError> {
    // Before tracefs is opened. A kernel that is locked down so that programs cannot read its memory takes none of these, and
    // makes no files in tracefs; its last mount then goes with its super block, over which Linux 6.12 stumbles and dies.
    for name in BY_RECORD {
        let program: &mut TracePoint = program(ebpf, name)?;
        program.load().map_err(|error| ProbeError::new(name, &error))?;
    }
    let (names, events) = tracepoints()?;
    let lacking = |name| ProbeError(format!("{CATEGORY}:{name}: its record lacks a field that is needed"));
    let started = started_layout(&events[0]).ok_or_else(|| lacking(names[0]))?;
    let done = done_layout(&events[1]).ok_or_else(|| lacking(names[1]))?;
    write(ebpf, started, done)?;
    let mut place = |index: usize| {
        let program: &mut TracePoint = program(ebpf, BY_RECORD[index])?;
        let failed = |error: &dyn std::error::Error| ProbeError::new(BY_RECORD[index], error);
        let descriptor = program.fd().map_err(|error| failed(&error))?;
        raw::attach_to_tracepoint(descriptor, events[index].id).map_err(|error| failed(&error))
    };
    let events = vec![place(1)?, place(0)?];
    let at = |index: usize| (BY_RECORD[index], Label::new(&format!("{CATEGORY}:{}", names[index])));
    Ok(Attached { places: vec![at(0), at(1)], events })
}

/// The tracepoints that [`BY_RECORD`] go to, with their names.
pub(super) fn tracepoints() -> Result<([&'static str; 2], [Event; 2]), ProbeError> {
    let tracefs = Tracefs::open().map_err(|error| ProbeError::new("tracefs", &error))?;
    let find = |names: &[&'static str; 2]| {
        let [started, done] = names.map(|name| tracefs.event(CATEGORY, name));
        Some((*names, [started?, done?]))
    };
    TRACEPOINTS.iter().find_map(find).ok_or_else(|| {
        ProbeError("this kernel has no tracepoints for requests to block devices, or tracefs cannot be read".into())
    })
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
    const LAYOUTS: &str = "BLOCK_LAYOUTS";
    let mut layouts: Array<_, Layout<BlockLayout>> = super::typed_within(ebpf, LAYOUTS)?;
    for (index, layout) in [(block_record::STARTED, started), (block_record::DONE, done)] {
        layouts.set(index, Layout(layout), 0).map_err(|error| ProbeError::new(LAYOUTS, &error))?;
    }
    let mut partitions: HashMap<_, u32, u32> = super::typed_within(ebpf, "PARTITIONS")?;
    for (partition, disk) in devices::partitions(devices::SYS.as_ref()) {
        // Where there is no room for all, what goes to the others is not timed.
        if partitions.insert(partition, disk, 0).is_err() {
            break;
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Layout<T>(T);

// SAFETY: four `u32` without padding.
unsafe impl aya::Pod for Layout<BlockLayout> {}

// SAFETY: six `u32` without padding.
unsafe impl aya::Pod for Layout<RequestLayout> {}
