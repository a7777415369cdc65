//! `/proc/PID/maps`: what files a process has mapped as code.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::process::files;

/// Longest map that is read. A browser's has 300 KB; one with 65,530 mappings (the default limit) has about 6 MB, and
/// libraries stand at its end.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Read at a time.
const BLOCK_BYTES: usize = 64 * 1024;

/// Most paths of executable mappings that are kept, in bytes. Programs have some hundred such mappings at most.
const MAX_PATH_BYTES: usize = 1024 * 1024;

/// The executable mappings of a process.
pub(crate) struct Maps {
    pub(crate) executable: Vec<Mapping>,
    /// Whether there may be more.
    pub(crate) truncated: bool,
}

/// One executable mapping of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Where in the file it begins.
    pub(crate) offset: u64,
    /// Major and minor number, as the kernel prints them here (not always what `stat` says).
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    /// As the process sees it.
    pub(crate) path: Vec<u8>,
    /// Whether the path no longer leads to the file.
    pub(crate) deleted: bool,
}

impl Mapping {
    /// Whether this is `earlier` still, seen again: a mapping keeps its file, though the file may lose its name.
    pub(crate) fn is_as_before(&self, earlier: &Self) -> bool {
        let same_place = (self.start, self.end, self.offset) == (earlier.start, earlier.end, earlier.offset);
        same_place && (self.device, self.inode, &self.path) == (earlier.device, earlier.inode, &earlier.path)
    }
}

impl Maps {
    pub(crate) fn read(root: &Path, pid: u32) -> std::io::Result<Self> {
        Self::read_from(files::open(&files::process(root, pid).join("maps"))?)
    }

    pub(crate) fn read_from(map: impl Read) -> std::io::Result<Self> {
        let mut maps = Self { executable: Vec::new(), truncated: false };
        let mut left = MAX_PATH_BYTES;
        let mut lines = BufReader::with_capacity(BLOCK_BYTES, map.take(MAX_BYTES));
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            // Where the reading stopped, the last line is cut and its path not to be trusted.
            let Some(whole) = line.strip_suffix(b"\n") else {
                maps.truncated = lines.get_ref().limit() == 0;
                break;
            };
            if let Some(mapping) = parse(whole) {
                let Some(rest) = left.checked_sub(mapping.path.len()) else {
                    maps.truncated = true;
                    break;
                };
                left = rest;
                maps.executable.push(mapping);
            }
            line.clear();
        }
        Ok(maps)
    }
}

/// `START-END PERMS OFFSET MAJOR:MINOR INODE PATH`
fn parse(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut field = || {
        let end = rest.iter().position(|byte| *byte == b' ')?;
        let (field, behind) = rest.split_at(end);
        rest = behind.trim_ascii_start();
        Some(field)
    };
    let range = field()?;
    let permissions = field()?;
    if permissions.get(2) != Some(&b'x') {
        return None;
    }
    let offset = hexadecimal(field()?)?;
    let (major, minor) = split(field()?, b':')?;
    let inode = files::number(field()?)?;
    if rest.first() != Some(&b'/') {
        return None;
    }
    let (start, end) = split(range, b'-')?;
    let (path, deleted) = match rest.strip_suffix(b" (deleted)") {
        Some(path) => (path, true),
        None => (rest, false),
    };
    Some(Mapping {
        start: hexadecimal(start)?,
        end: hexadecimal(end)?,
        offset,
        device: (hexadecimal(major)?.try_into().ok()?, hexadecimal(minor)?.try_into().ok()?),
        inode,
        path: unescape(path),
        deleted,
    })
}

fn split(field: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = field.iter().position(|byte| *byte == separator)?;
    Some((&field[..at], &field[at + 1..]))
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The kernel escapes a newline in a path, and nothing else.
fn unescape(path: &[u8]) -> Vec<u8> {
    const NEWLINE: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some(&byte) = rest.first() {
        let (byte, length) = if rest.starts_with(NEWLINE) { (b'\n', NEWLINE.len()) } else { (byte, 1) };
        plain.push(byte);
        rest = &rest[length..];
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executable(text: &[u8]) -> Vec<Mapping> {
        Maps::read_from(text).unwrap().executable
    }

    #[test]
    fn executable_mappings_of_files_are_found() {
        let text = b"55d0c9a00000-55d0c9a02000 r--p 00000000 fd:01 131 /usr/bin/x\n\
            7f1c2a000000-7f1c2a0a0000 r-xp 00020000 fe:1f 4711                       /lib/a b\\012c/libssl.so.3\n\
            7f1c2b000000-7f1c2b0a0000 r-xp 00000000 00:2b 99 /tmp/libssl.so.1.1 (deleted)\n\
            7ffd5c3f0000-7ffd5c3f2000 r-xp 00000000 00:00 0                          [vdso]\n\
            7f0000000000-7f0000001000 rwxp 00000000 00:00 0\n";
        let found = executable(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].start, found[0].end, found[0].offset), (0x7f1c2a000000, 0x7f1c2a0a0000, 0x20000));
        assert_eq!((found[0].device, found[0].inode, found[0].deleted), ((0xfe, 0x1f), 4711, false));
        assert_eq!(found[0].path, b"/lib/a b\nc/libssl.so.3");
        assert_eq!((found[1].path.as_slice(), found[1].deleted), (&b"/tmp/libssl.so.1.1"[..], true));
    }

    #[test]
    fn junk_is_passed_over() {
        let good = b"7f1c2a000000-7f1c2a0a0000 r-xp 00020000 fe:1f 4711 /libssl.so.3\n";
        let junk: [&[u8]; 9] = [
            b"",
            b"\n\n\n",
            b"\xff\xfe\x00\n",
            b"- r-xp 0 : 0 /x\n",
            b"g-h r-xp 0 0:0 0 /x\n",
            b"1-2 r-xp 0 0:0 -1 /x\n",
            b"11111111111111111-2 r-xp 0 0:0 1 /x\n",
            b"1-2 r-xp 0 fffffffff:0 1 /x\n",
            b"1-2 r-x",
        ];
        for bytes in junk {
            assert_eq!(executable(bytes), [], "{}", String::from_utf8_lossy(bytes));
            assert_eq!(executable(&[bytes, b"\n", good].concat()).len(), 1);
        }
        assert_eq!(executable(&vec![b'x'; BLOCK_BYTES * 3]), []);
    }

    #[test]
    fn a_line_cut_by_the_limit_is_not_taken() {
        let text = b"1000-2000 r-xp 00000000 fd:01 1 /libssl.so.3\n3000-4000 r-xp 00000000 fd:01 2 /libssl.so";
        assert_eq!(executable(text).len(), 1);
    }

    #[test]
    fn more_than_the_limit_is_not_read() {
        let line = b"1000-2000 rw-p 00000000 00:00 0 \n";
        let endless = || std::iter::repeat_n(&line[..], MAX_BYTES as usize / line.len() + 2).flatten().copied();
        let maps = Maps::read_from(&endless().collect::<Vec<u8>>()[..]).unwrap();
        assert!(maps.truncated && maps.executable.is_empty());

        let line = format!("1000-2000 r-xp 00000000 fd:01 1 /{}\n", "x".repeat(4000));
        let maps = Maps::read_from(line.repeat(1000).as_bytes()).unwrap();
        assert!(maps.truncated);
        assert_eq!(maps.executable.len(), MAX_PATH_BYTES / 4001);
    }

    #[test]
    fn a_library_behind_65_thousand_mappings_is_found() {
        let many: String = (1..65_530).map(|at| format!("{at:x}000-{at:x}fff rw-p 00000000 00:00 0 \n")).collect();
        let maps = format!("{many}7f1c2a000000-7f1c2a0a0000 r-xp 00020000 fe:1f 4711 /libssl.so.3\n");
        let maps = Maps::read_from(maps.as_bytes()).unwrap();
        assert_eq!((maps.executable.len(), maps.truncated), (1, false));
    }
}
