//! The program on devices that are opened.

use aya::Ebpf;
use aya::maps::HashMap;

use super::{ProbeError, on_cgroup};
use crate::devices;
use hbpf_core::label::Label;

pub(super) const PROGRAMS: [&str; 1] = ["device_opened"];

const WATCHED: &str = "DEVICES";

/// Puts the program in place, and says where that is.
pub(super) fn attach(ebpf: &mut Ebpf) -> Result<Label, ProbeError> {
    watch(ebpf);
    on_cgroup::attach(ebpf, &PROGRAMS)
}

/// Has all accelerators' devices watched whose drivers are loaded by now.
pub(super) fn watch(ebpf: &mut Ebpf) {
    let Some(Ok(mut watched)) = ebpf.map_mut(WATCHED).map(HashMap::<_, u32, u8>::try_from) else { return };
    for (major, _) in devices::drivers(devices::PROC.as_ref()) {
        let is_new = watched.get(&major, 0).is_err();
        // There is room for every number that a driver can have.
        let _ = is_new.then(|| watched.insert(major, 1, 0));
    }
}
