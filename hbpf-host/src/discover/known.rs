//! What is known by name, and what is remembered of files.

use std::collections::HashMap;

use hbpf_core::label::Label;

use super::LibraryId;
use super::elf::Refusal;
use super::mapped::{FileKey, Mapped, Stamp};

/// Files remembered at a time, nearly all of them programs without TLS inside: a host has some hundreds in use.
const MAX_FILES: usize = 4096;

/// TLS libraries that are recognised by name and not probed: the beginning of the name, and what users call it.
const UNPROBED: [(&[u8], &str); 5] = [
    (b"libjvm.so", "Java with TLS of its own"),
    (b"libwolfssl.so", "wolfSSL"),
    (b"libmbedtls.so", "Mbed TLS"),
    (b"libs2n.so", "s2n-tls"),
    (b"libconscrypt", "Conscrypt"),
];

/// Other libraries that carry OpenSSL within in some builds, with its symbols exported, and Python's gRPC, which has BoringSSL without.
const CARRIERS: [&[u8]; 4] = [b"libnode.so", b"libpython3", b"_ssl.", b"cygrpc."];

/// The last part of a path.
pub(super) fn basename(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// `libssl.so.3`, `libssl-1a2b3c4d.so.1.1` (Python wheels), `libgnutls.so.30`, `libnspr4.so`, and what else begins so.
pub(super) fn is_tls_library(name: &[u8]) -> bool {
    // NSS's plaintext passes NSPR, which builds of browsers have within NSS.
    const BEGINNINGS: [&[u8]; 5] = [b"libssl", b"libgnutls.", b"libgnutls-", b"libnspr4.", b"libnss3."];
    let is_named = BEGINNINGS.iter().any(|beginning| name.starts_with(beginning));
    is_named && name.windows(3).any(|part| part == b".so") && unprobed(name).is_none()
}

/// Whether a library may have functions of TLS that are probed.
pub(super) fn may_speak_tls(name: &[u8]) -> bool {
    is_tls_library(name) || CARRIERS.iter().any(|carrier| name.starts_with(carrier))
}

/// What a TLS library that is not probed is called.
pub(super) fn unprobed(name: &[u8]) -> Option<&'static str> {
    UNPROBED.iter().find(|(beginning, _)| name.starts_with(beginning)).map(|(_, name)| *name)
}

/// The version in a library's own name: `1.1` of `libssl.so.1.1`.
pub(super) fn version(soname: &[u8]) -> Option<Label> {
    const BEFORE: &[u8] = b".so.";
    let at = soname.windows(BEFORE.len()).position(|part| part == BEFORE)?;
    let version = &soname[at + BEFORE.len()..];
    let is_version = version.first()?.is_ascii_digit() && version.iter().all(|b| b.is_ascii_digit() || *b == b'.');
    is_version.then(|| Label::from_bytes(version))
}

/// What a Go program says of the Go that has made it: its buildinfo, in the form that it has from Go 1.18 on (`debug/buildinfo`).
pub(super) fn go_version(buildinfo: &[u8]) -> Option<Label> {
    const MAGIC: &[u8] = b"\xff Go buildinf:";
    /// The flag of this form, and where the string is then, behind its length.
    const FLAGS_AT: usize = 15;
    const INLINE: u8 = 2;
    const STRING_AT: usize = 32;
    /// Lengths up to this take one byte.
    const MAX_LEN: u8 = 0x7f;
    let is_known = buildinfo.starts_with(MAGIC) && buildinfo.get(FLAGS_AT)? & INLINE != 0;
    let len = *buildinfo.get(STRING_AT).filter(|len| is_known && **len <= MAX_LEN)?;
    let version = buildinfo.get(STRING_AT + 1..)?.get(..usize::from(len))?;
    version.starts_with(b"go").then(|| Label::from_bytes(version))
}

/// What was found out about files, so that each is read once.
#[derive(Debug, Default)]
pub(super) struct Files(HashMap<FileKey, Remembered>);

#[derive(Debug)]
struct Remembered {
    stamp: Stamp,
    verdict: Verdict,
    /// Number of the scan that has last met the file.
    met_at: u64,
}

#[derive(Debug)]
enum Verdict {
    Library(LibraryId),
    Nothing,
    Unreadable(Label),
    Refused(Refusal),
}

/// What is known of a file.
pub(super) enum Finding {
    Library(LibraryId),
    /// No TLS library.
    Nothing,
    /// One inside that cannot be probed, and why.
    Unreadable(Label),
    Refused(Refusal),
    /// It must be looked into. If it was written to since it was last looked into, it may take a library's place.
    New {
        replaces: Option<LibraryId>,
    },
}

impl Files {
    pub(super) fn look_up(&mut self, mapped: &Mapped, scan: u64) -> Finding {
        let Some(file) = self.0.get_mut(&mapped.key) else {
            return Finding::New { replaces: None };
        };
        file.met_at = scan;
        match (&file.verdict, file.stamp == mapped.stamp) {
            (Verdict::Library(id), true) => Finding::Library(*id),
            (Verdict::Nothing, true) => Finding::Nothing,
            (Verdict::Unreadable(why), true) => Finding::Unreadable(why.clone()),
            (Verdict::Refused(refusal), true) => Finding::Refused(*refusal),
            (Verdict::Library(id), false) => Finding::New { replaces: Some(*id) },
            (_, false) => Finding::New { replaces: None },
        }
    }

    pub(super) fn remember_library(&mut self, mapped: &Mapped, id: LibraryId, scan: u64) {
        self.remember(mapped, Verdict::Library(id), scan);
    }

    pub(super) fn remember_nothing(&mut self, mapped: &Mapped, scan: u64) {
        self.remember(mapped, Verdict::Nothing, scan);
    }

    pub(super) fn remember_unreadable(&mut self, mapped: &Mapped, why: Label, scan: u64) {
        self.remember(mapped, Verdict::Unreadable(why), scan);
    }

    pub(super) fn remember_refused(&mut self, mapped: &Mapped, refusal: Refusal, scan: u64) {
        self.remember(mapped, Verdict::Refused(refusal), scan);
    }

    /// Forgets all files that are this library.
    pub(super) fn forget(&mut self, library: LibraryId) {
        self.0.retain(|_, file| !matches!(file.verdict, Verdict::Library(id) if id == library));
    }

    fn remember(&mut self, mapped: &Mapped, verdict: Verdict, scan: u64) {
        if self.0.len() >= MAX_FILES {
            self.make_room();
        }
        let remembered = Remembered { stamp: mapped.stamp, verdict, met_at: scan };
        self.0.insert(mapped.key, remembered);
    }

    /// Forgets the half of the files that was met least recently, but no library while it is in use: it must not be
    /// reported twice. Twins of libraries may go, since they are found to be twins again.
    fn make_room(&mut self) {
        let mut met: Vec<u64> = self.0.values().map(|file| file.met_at).collect();
        met.sort_unstable();
        let middle = met[met.len() / 2];
        let mut kept = std::collections::HashSet::new();
        self.0.retain(|_, file| match file.verdict {
            Verdict::Library(id) => kept.insert(id) || file.met_at > middle,
            Verdict::Nothing | Verdict::Unreadable(_) | Verdict::Refused(_) => file.met_at > middle,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::mapped::tests::mapped;
    use super::*;

    #[test]
    fn libraries_are_known_by_name() {
        for name in [
            "libssl.so",
            "libssl.so.3",
            "libssl-35ec4a18.so.1.1",
            "libssl3-x64.so",
            "libssl.3.so",
            "libgnutls.so.30",
            "libnspr4.so",
        ] {
            assert!(is_tls_library(name.as_bytes()), "{name}");
            assert!(may_speak_tls(name.as_bytes()), "{name}");
        }
        for name in ["libssl", "libcrypto.so.3", "xlibssl.so", "libssl.a", "libgnutlsxx.so.30", "libs2n.so", ""] {
            assert!(!is_tls_library(name.as_bytes()), "{name}");
        }
        assert_eq!(unprobed(b"libs2n.so"), Some("s2n-tls"));
        assert_eq!(unprobed(b"libssl.so.3"), None);
        assert_eq!(basename(b"/usr/lib/libssl.so.3"), b"libssl.so.3");
        assert_eq!(basename(b""), b"");
    }

    #[test]
    fn the_version_is_in_the_name() {
        for (soname, expected) in [
            ("libssl.so.3", Some("3")),
            ("libssl.so.1.1", Some("1.1")),
            ("libssl-35ec4a18.so.1.1", Some("1.1")),
            ("libssl.so", None),
            ("libssl.so.", None),
            ("libssl.so.x\u{1b}[2J", None),
            ("", None),
        ] {
            assert_eq!(version(soname.as_bytes()).as_ref().map(Label::as_str), expected, "{soname}");
        }
    }

    #[test]
    fn memory_of_files_is_bounded_and_keeps_libraries() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::default();
        let library = mapped(dir.path(), 1);
        files.remember_library(&library, LibraryId(7), 0);
        for inode in 2..MAX_FILES as u64 * 3 {
            files.remember_nothing(&mapped(dir.path(), inode), inode);
            assert!(files.0.len() <= MAX_FILES);
        }
        assert!(matches!(files.look_up(&library, 1), Finding::Library(LibraryId(7))));
    }
}
