//! `/proc/PID/maps`: what files a process has mapped as code.

use std::path::Path;

use crate::process::files;

/// Longest map that is read. A browser's has 300 KB; a process can have 65,530 mappings (the default limit) with a path
/// of 4 KiB each.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The executable mappings of a process.
pub(crate) struct Maps {
    bytes: Vec<u8>,
    /// Whether there are more than were read.
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
        let contents = files::read(&files::process(root, pid).join("maps"), MAX_BYTES)?;
        Ok(Self { bytes: contents.bytes, truncated: contents.truncated })
    }

    pub(crate) fn executable(&self) -> impl Iterator<Item = Mapping> {
        // Where the reading stopped, the last line is cut and its path not to be trusted.
        let whole = match self.bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => &self.bytes[..end],
            None => &[],
        };
        files::lines(whole).filter_map(parse)
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
        Maps { bytes: text.to_vec(), truncated: false }.executable().collect()
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
        assert_eq!(executable(&vec![b'x'; MAX_BYTES]), []);
    }

    #[test]
    fn a_line_cut_by_the_limit_is_not_taken() {
        let text = b"1000-2000 r-xp 00000000 fd:01 1 /libssl.so.3\n3000-4000 r-xp 00000000 fd:01 2 /libssl.so";
        assert_eq!(executable(text).len(), 1);
    }

    #[test]
    fn more_than_the_limit_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("5")).unwrap();
        let line = format!("1000-2000 r-xp 00000000 fd:01 1 /{}\n", "x".repeat(4000));
        std::fs::write(dir.path().join("5/maps"), line.repeat(MAX_BYTES / line.len() + 2)).unwrap();
        let maps = Maps::read(dir.path(), 5).unwrap();
        assert!(maps.truncated);
        assert_eq!(maps.executable().count(), MAX_BYTES / line.len());
    }
}
