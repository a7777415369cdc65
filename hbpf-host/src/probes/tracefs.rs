//! Tracepoints as the kernel describes them: which there are, and what their records look like.
//!
//! The form of a description is that of the kernel's `Documentation/trace/events.rst`.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::mount;
use crate::process::files;

/// Where it is mounted, if it is.
const MOUNTED: &str = "/sys/kernel/tracing";

/// Longest description: some have a hundred fields, and long instructions how to print them.
const MAX_DESCRIPTION_BYTES: usize = 64 * 1024;

/// The tracing file system.
pub(super) struct Tracefs(OwnedFd);

/// A tracepoint.
#[derive(Debug, PartialEq)]
pub(super) struct Event {
    /// As `perf_event_open` wants it.
    pub(super) id: u64,
    fields: HashMap<String, Field>,
}

/// Where a field lies in the record, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Field {
    offset: u32,
    size: u32,
}

impl Tracefs {
    /// A mount of it, else one of our own that nobody else sees.
    pub(super) fn open() -> Result<Self, nix::Error> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mounted = open(MOUNTED, flags, Mode::empty()).map(Self).ok();
        match mounted.filter(|mounted| mounted.read("events/header_page").is_some()) {
            Some(mounted) => Ok(mounted),
            None => mount::detached(c"tracefs").map(Self),
        }
    }

    /// The tracepoint with this name; `None` where the kernel has none, or it cannot be read.
    pub(super) fn event(&self, category: &str, name: &str) -> Option<Event> {
        let id = self.read(&format!("events/{category}/{name}/id"))?;
        let format = self.read(&format!("events/{category}/{name}/format"))?;
        Some(Event { id: files::number(id.trim_ascii())?, fields: parse(&format) })
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = File::from(openat(self.0.as_fd(), path, flags, Mode::empty()).ok()?);
        let mut bytes = Vec::new();
        file.take(MAX_DESCRIPTION_BYTES as u64).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

impl Event {
    /// Where a field of this many bytes lies; `None` where there is none of that name and size.
    pub(super) fn offset(&self, name: &str, size: u32) -> Option<u32> {
        self.fields.get(name).filter(|field| field.size == size).map(|field| field.offset)
    }

    /// Where a field of at least this many bytes begins.
    pub(super) fn offset_of_text(&self, name: &str, least: u32) -> Option<u32> {
        self.fields.get(name).filter(|field| field.size >= least).map(|field| field.offset)
    }
}

/// The fields of a record: lines such as `field:char rwbs[10];\toffset:34;\tsize:10;\tsigned:0;`.
fn parse(description: &[u8]) -> HashMap<String, Field> {
    let field = |line: &[u8]| {
        let line = std::str::from_utf8(line).ok()?;
        let mut parts = line.split(';').map(str::trim);
        let declaration = parts.next()?.strip_prefix("field:")?;
        let of = |part: Option<&str>, what: &str| part?.strip_prefix(what)?.parse().ok();
        let (offset, size) = (of(parts.next(), "offset:")?, of(parts.next(), "size:")?);
        let name = declaration.rsplit([' ', '*']).next()?;
        let name = name.split('[').next().unwrap_or(name);
        Some((name.to_owned(), Field { offset, size }))
    };
    files::lines(description).filter_map(field).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DESCRIPTION: &[u8] = b"name: block_io_start\nID: 2102\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
        \tfield:dev_t dev;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:sector_t sector;\toffset:16;\tsize:8;\tsigned:0;\n\
        \tfield:char rwbs[10];\toffset:34;\tsize:10;\tsigned:0;\n\
        \tfield:const void * skaddr;\toffset:48;\tsize:8;\tsigned:0;\n\
        \tfield:__data_loc char[] cmd;\toffset:60;\tsize:4;\tsigned:0;\n\
        \tfield:broken;\toffset:x;\tsize:4;\n\
        \nprint fmt: \"field:no no;\toffset:1;\", REC->dev\n";

    #[test]
    fn fields_are_found_by_name_and_size() {
        let event = Event { id: 2102, fields: parse(DESCRIPTION) };
        assert_eq!((event.offset("dev", 4), event.offset("dev", 8), event.offset("broken", 4)), (Some(8), None, None));
        assert_eq!((event.offset("sector", 8), event.offset("skaddr", 8)), (Some(16), Some(48)));
        assert_eq!((event.offset_of_text("rwbs", 2), event.offset_of_text("rwbs", 11)), (Some(34), None));
        assert_eq!((event.offset("cmd", 4), event.fields.len()), (Some(60), 6));
    }

    proptest! {
        #[test]
        fn anything_may_be_in_the_file(at in 0..DESCRIPTION.len(), byte: u8, length in 0..DESCRIPTION.len()) {
            let mut bytes = DESCRIPTION.to_vec();
            bytes[at] = byte;
            bytes.truncate(length);
            prop_assert!(parse(&bytes).len() <= 8);
        }
    }
}
