//! `/proc/PID/mountinfo`, line by line.

use super::files;

/// A mount. Names are as they stand in the file: see [`unescape`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount<'a> {
    pub(crate) id: u64,
    /// Major and minor number.
    pub(crate) device: (u32, u32),
    /// What of the file system is mounted.
    pub(crate) root: &'a [u8],
    /// Where.
    pub(crate) point: &'a [u8],
    /// Such as `ext4`.
    pub(crate) file_system: &'a [u8],
    /// Of the file system, not of the mount.
    pub(crate) options: Option<&'a [u8]>,
}

impl<'a> Mount<'a> {
    /// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [OPTIONAL..] - FILE-SYSTEM SOURCE OPTIONS`
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = files::fields(line);
        let id = files::number(fields.next()?)?;
        let device = fields.nth(1)?;
        let colon = device.iter().position(|byte| *byte == b':')?;
        let device = (files::number(&device[..colon])?, files::number(&device[colon + 1..])?);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let file_system = fields.next()?;
        Some(Self { id, device, root, point, file_system, options: fields.nth(1) })
    }
}

/// Undoes the octal numbers that stand for blanks and the like.
pub(crate) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, behind)) = rest.split_first() {
        match behind {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', behind @ ..] if byte == b'\\' => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = behind;
            }
            _ => {
                plain.push(byte);
                rest = behind;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_and_without_optional_fields() {
        let line = b"41 31 0:38 /a /sys/fs/cgroup/unified\\040two rw,relatime shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.id, mount.device, mount.root), (41, (0, 38), &b"/a"[..]));
        assert_eq!((mount.file_system, mount.options), (&b"cgroup2"[..], Some(&b"rw,nsdelegate"[..])));
        assert_eq!(unescape(mount.point), b"/sys/fs/cgroup/unified two");
        assert_eq!(Mount::parse(b"1 1 0:20 / / rw - tmpfs").unwrap().options, None);
    }

    #[test]
    fn what_is_no_mount_is_none() {
        for line in [
            "",
            "junk",
            "43 x 0:47",
            "44 1 0:48 / /d rw - ",
            "44 1 0:48 / /d rw",
            "44 1 048 / /d rw - xfs",
            "-1 1 0:4 / / - x",
        ] {
            assert_eq!(Mount::parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn only_octal_numbers_of_three_digits_are_undone() {
        assert_eq!(unescape(br"a\040b\134"), br"a b\");
        assert_eq!(unescape(br"\9\1\77\400\"), br"\9\1\77\400\");
    }
}
