//! What is remembered of a process, and when to look at it again.

use std::collections::BTreeSet;
use std::time::Duration;

use hbpf_core::label::Label;

use super::LibraryId;
use super::maps::Mapping;
use crate::process::stat::{Image, Stat};

/// While it is this young a process is expected to load libraries, and each change of its size is looked into.
const YOUNG: Duration = Duration::from_secs(60);

/// Rounds of scans between two looks at an older process whose size keeps changing, as any heap does.
pub(super) const SCANS_BETWEEN_MAPS: u64 = 4;

/// Rounds of scans after which a map is read whatever its process looks like.
const SCANS_UNTIL_CERTAIN: u64 = 128;

/// What is remembered of a process.
#[derive(Debug)]
pub(super) struct Process {
    start_ticks: u64,
    image: Image,
    virtual_bytes: u64,
    /// Number of the scan that has read its map.
    read_at: u64,
    pub(super) found: Found,
}

/// What a process has mapped.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) libraries: BTreeSet<LibraryId>,
    /// Which of its mappings is which library.
    pub(super) settled: Vec<(Mapping, LibraryId)>,
    /// Why a TLS library of another kind cannot be read, if there is one.
    pub(super) other: Option<Label>,
    /// Why there may be a library that is not in `libraries`.
    pub(super) trouble: Option<String>,
}

impl Found {
    /// Whether as much can be seen.
    pub(super) fn shows_as(&self, other: &Self) -> bool {
        (&self.libraries, &self.other, &self.trouble) == (&other.libraries, &other.other, &other.trouble)
    }
}

impl Process {
    pub(super) fn new(stat: &Stat, scans: u64, found: Found) -> Self {
        let Stat { start_ticks, image, virtual_bytes, .. } = *stat;
        Self { start_ticks, image, virtual_bytes, read_at: scans, found }
    }

    /// It no longer has this library: what stands in the library's place is found when its map is read again.
    pub(super) fn lose(&mut self, library: LibraryId) {
        self.found.libraries.remove(&library);
        self.found.settled.retain(|(_, settled)| *settled != library);
        self.virtual_bytes = u64::MAX;
    }

    /// Whether its map has to be read again.
    pub(super) fn is_outdated(&self, stat: &Stat, scans: u64) -> bool {
        let resized = self.virtual_bytes != stat.virtual_bytes;
        // Trouble may pass: a file that was being written is whole at last.
        let wanting = resized || self.found.trouble.is_some();
        let age = scans.saturating_sub(self.read_at);
        self.is_another(stat)
            || wanting && age >= SCANS_BETWEEN_MAPS
            || resized && stat.age() < YOUNG
            || age >= SCANS_UNTIL_CERTAIN
    }

    /// Whether the number has gone to another process, or the process to another program.
    pub(super) fn is_another(&self, stat: &Stat) -> bool {
        self.start_ticks != stat.start_ticks || self.image != stat.image
    }
}
