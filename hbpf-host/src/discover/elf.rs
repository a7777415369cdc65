//! Reads out of an ELF file where its TLS functions are.
//!
//! The file belongs to someone else and may lie about everything. It is read, never mapped (a mapped file that shrinks
//! kills its reader), what is read is bounded, and no loop is longer than what was read.

use std::cell::Cell;
use std::io::{Read, Seek};
use std::ops::Range;

use hbpf_core::label::Label;
use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, Rela, SectionHeader, SectionTable, Sym};
use object::{NativeEndian, ReadCache, ReadCacheOps, ReadRef};

/// Largest file that is looked into. Programs with a TLS library inside have up to 400 MiB, most of which is data.
const MAX_FILE_BYTES: u64 = 1024 * 1024 * 1024;

/// Most that is kept of one file while it is looked into. The dynamic symbols of node take 10 MiB, the table of functions of a
/// large Go program 40 MiB.
const MAX_READ_BYTES: u64 = 64 * 1024 * 1024;

/// Most places taken from one file: each function may be exported under a few versions.
const MAX_PLACES: usize = 32;

/// Most program headers: the kernel runs no program with more than a page of them, and libraries have about ten.
const MAX_SEGMENTS: usize = 128;

/// Most notes looked at for the build id; files have up to five.
const MAX_NOTES: usize = 32;

/// Largest table of relocations that is looked through. That of libssl's imports has 30 KiB, that of a large Go program whose
/// place in memory is not fixed some MiB.
const MAX_RELOCATION_BYTES: u64 = 16 * 1024 * 1024;

/// Longest name that a library may have for itself.
const MAX_SONAME_BYTES: usize = 64;

/// What the names of aws-lc's functions begin with, where it is in a program of Rust, and the most bytes of the version behind it.
const AWS_LC: &[u8] = b"aws_lc_";
const MAX_VERSION_BYTES: usize = 24;

/// Longest build id kept: the usual ones are SHA-1.
const MAX_BUILD_ID_BYTES: usize = 32;

use super::inside::{self, Inside, Piece, Pieces};
use super::placement::{self, Code, Export, Place};
use super::{go, known};

#[cfg(target_arch = "x86_64")]
const MACHINE: elf::Machine = elf::EM_X86_64;
#[cfg(target_arch = "aarch64")]
const MACHINE: elf::Machine = elf::EM_AARCH64;

/// A function that is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Symbol {
    /// `SSL_read`
    SslRead,
    /// `SSL_read_ex`
    SslReadEx,
    /// `SSL_write`
    SslWrite,
    /// `SSL_write_ex`
    SslWriteEx,
    /// `SSL_write_ex2`, OpenSSL 3.3 and later.
    SslWriteEx2,
    /// `SSL_free`
    SslFree,
    /// `SSL_new`
    SslNew,
    /// `gnutls_record_recv`
    GnutlsRecv,
    /// `gnutls_record_send`
    GnutlsSend,
    /// `gnutls_record_send2`, GnuTLS 3.6.3 and later.
    GnutlsSend2,
    /// `gnutls_deinit`
    GnutlsDeinit,
    /// `PR_Read` of NSPR, over which NSS lays TLS, as all that follow.
    NsprRead,
    /// `PR_Recv`
    NsprRecv,
    /// `PR_Write`
    NsprWrite,
    /// `PR_Send`
    NsprSend,
    /// `PR_Close`
    NsprClose,
    /// `crypto/tls.(*Conn).Read` of Go, behind the look at its stack.
    GoRead,
    /// A `ret` of it.
    GoReadReturn,
    /// The same where arguments are on the stack (Go 1.16 and before).
    GoReadReturnOnStack,
    /// `crypto/tls.(*Conn).Write`, behind the look at its stack.
    GoWrite,
    /// The same where arguments are on the stack.
    GoWriteOnStack,
    /// `crypto/tls.(*Conn).Close` and the functions that begin a connection, behind the look at their stacks.
    GoForget,
    /// The same where arguments are on the stack.
    GoForgetOnStack,
    /// `EVP_AEAD_CTX_init` of aws-lc, as all that follow.
    AeadInit,
    /// `EVP_AEAD_CTX_init_with_direction`
    AeadInitWithDirection,
    /// `EVP_AEAD_CTX_cleanup`
    AeadCleanup,
    /// `EVP_AEAD_CTX_free`
    AeadFree,
    /// `EVP_AEAD_CTX_seal`
    AeadSeal,
    /// `EVP_AEAD_CTX_seal_scatter`
    AeadSealScatter,
    /// `EVP_AEAD_CTX_open`
    AeadOpen,
    /// `EVP_AEAD_CTX_open_gather`
    AeadOpenGather,
}

impl Symbol {
    /// All of them.
    pub const ALL: [Self; 31] = [
        Self::SslRead,
        Self::SslReadEx,
        Self::SslWrite,
        Self::SslWriteEx,
        Self::SslWriteEx2,
        Self::SslFree,
        Self::SslNew,
        Self::GnutlsRecv,
        Self::GnutlsSend,
        Self::GnutlsSend2,
        Self::GnutlsDeinit,
        Self::NsprRead,
        Self::NsprRecv,
        Self::NsprWrite,
        Self::NsprSend,
        Self::NsprClose,
        Self::GoRead,
        Self::GoReadReturn,
        Self::GoReadReturnOnStack,
        Self::GoWrite,
        Self::GoWriteOnStack,
        Self::GoForget,
        Self::GoForgetOnStack,
        Self::AeadInit,
        Self::AeadInitWithDirection,
        Self::AeadCleanup,
        Self::AeadFree,
        Self::AeadSeal,
        Self::AeadSealScatter,
        Self::AeadOpen,
        Self::AeadOpenGather,
    ];

    /// Its name in the library.
    pub fn name(self) -> &'static str {
        match self {
            Self::SslRead => "SSL_read",
            Self::SslReadEx => "SSL_read_ex",
            Self::SslWrite => "SSL_write",
            Self::SslWriteEx => "SSL_write_ex",
            Self::SslWriteEx2 => "SSL_write_ex2",
            Self::SslFree => "SSL_free",
            Self::SslNew => "SSL_new",
            Self::GnutlsRecv => "gnutls_record_recv",
            Self::GnutlsSend => "gnutls_record_send",
            Self::GnutlsSend2 => "gnutls_record_send2",
            Self::GnutlsDeinit => "gnutls_deinit",
            Self::NsprRead => "PR_Read",
            Self::NsprRecv => "PR_Recv",
            Self::NsprWrite => "PR_Write",
            Self::NsprSend => "PR_Send",
            Self::NsprClose => "PR_Close",
            Self::GoRead | Self::GoReadReturn | Self::GoReadReturnOnStack => "crypto/tls.(*Conn).Read",
            Self::GoWrite | Self::GoWriteOnStack => "crypto/tls.(*Conn).Write",
            Self::GoForget | Self::GoForgetOnStack => "crypto/tls.(*Conn).Close",
            Self::AeadInit => "EVP_AEAD_CTX_init",
            Self::AeadInitWithDirection => "EVP_AEAD_CTX_init_with_direction",
            Self::AeadCleanup => "EVP_AEAD_CTX_cleanup",
            Self::AeadFree => "EVP_AEAD_CTX_free",
            Self::AeadSeal => "EVP_AEAD_CTX_seal",
            Self::AeadSealScatter => "EVP_AEAD_CTX_seal_scatter",
            Self::AeadOpen => "EVP_AEAD_CTX_open",
            Self::AeadOpenGather => "EVP_AEAD_CTX_open_gather",
        }
    }

    /// The one whose name, with the zero that ends it, begins these bytes. aws-lc puts its version before its names
    /// (`aws_lc_0_47_0_EVP_AEAD_CTX_seal`); in BoringSSL, which has the same functions, others show more.
    fn at(bytes: &[u8]) -> Option<Self> {
        let name = match bytes.strip_prefix(AWS_LC) {
            Some(rest) => {
                let version = rest.iter().take(MAX_VERSION_BYTES).position(u8::is_ascii_uppercase)?;
                Some(&rest[version..]).filter(|name| name.starts_with(b"EVP_AEAD_CTX_"))?
            }
            None if [&b"SSL_"[..], b"gnutls_", b"PR_"].iter().any(|family| bytes.starts_with(family)) => bytes,
            None => return None,
        };
        let begins =
            |symbol: &Self| name.strip_prefix(symbol.name().as_bytes()).is_some_and(|rest| rest.first() == Some(&0));
        Self::ALL.into_iter().find(begins)
    }
}

/// What a file is to us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inspection {
    /// Functions and their offsets in the file, sorted; empty unless plaintext can be read and written there.
    pub(crate) symbols: Vec<(Symbol, u64)>,
    /// Where to probe them, sorted.
    pub(crate) places: Vec<Place>,
    pub(crate) build_id: Option<Vec<u8>>,
    pub(crate) soname: Option<Vec<u8>>,
    /// What the library inside is called, as far as that is known.
    pub(crate) version: Option<Label>,
    /// Why it speaks TLS in a way that cannot be read, if that is so.
    pub(crate) unreadable: Option<String>,
}

/// Why a file cannot be looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("is larger than {} MiB", MAX_FILE_BYTES / 1024 / 1024)]
    TooLarge,
    #[error("is built for another architecture")]
    OtherMachine,
    #[error("has no readable ELF headers or dynamic symbols")]
    Malformed,
}

/// Finds the probed functions in a file of this size: among its symbols, or in a program without these by other means.
pub(crate) fn inspect(mut file: impl Read + Seek, size: u64) -> Result<Inspection, Refusal> {
    if size > MAX_FILE_BYTES {
        return Err(Refusal::TooLarge);
    }
    let (found, pieces) = inspect_with(&mut file, size, &[])?;
    if found.symbols.iter().any(|(symbol, _)| *symbol == Symbol::AeadSeal) {
        let rustls = inside::rustls(&mut file, &pieces).map_err(|_| Refusal::Malformed)?;
        let version = rustls.as_deref().map(Label::new);
        return Ok(Inspection { version, ..found });
    }
    let is_program = found.soname.is_none();
    if !is_program || !found.symbols.is_empty() || found.unreadable.is_some() {
        return Ok(found);
    }
    match inside::look(&mut file, &pieces) {
        Ok(Inside::Functions(name, functions)) => {
            let exports: Vec<_> =
                functions.into_iter().map(|(symbol, address)| Export { symbol, address, size: 0 }).collect();
            let (found, _) = inspect_with(&mut file, size, &exports)?;
            Ok(Inspection { version: Some(Label::new(&name)), ..found })
        }
        Ok(Inside::Unreadable(why)) => Ok(Inspection { unreadable: Some(why), ..found }),
        Ok(Inside::Nothing) => Ok(found),
        Err(_) => Err(Refusal::Malformed),
    }
}

/// The same with functions that are known already, and with what is mapped of the file when it runs.
fn inspect_with(file: impl Read + Seek, size: u64, known: &[Export]) -> Result<(Inspection, Pieces), Refusal> {
    let cache = ReadCache::new(file);
    let left = Cell::new(MAX_READ_BYTES);
    let data = Bounded { data: &cache, left: &left };
    let header: &FileHeader64<NativeEndian> = match data.read_at(0) {
        Ok(header) => header,
        Err(()) => return Err(Refusal::Malformed),
    };
    let ident = header.e_ident();
    if ident.magic != elf::ELFMAG {
        return Err(Refusal::Malformed);
    }
    let is_native = header.is_supported() && header.endian().is_ok_and(|order: NativeEndian| order == NativeEndian);
    if !is_native || header.e_machine(NativeEndian) != MACHINE {
        return Err(Refusal::OtherMachine);
    }
    read(header, data, size, known).map_err(|_| Refusal::Malformed)
}

fn read<'data>(
    header: &FileHeader64<NativeEndian>,
    data: impl ReadRef<'data>,
    size: u64,
    known: &[Export],
) -> object::Result<(Inspection, Pieces)> {
    let endian = NativeEndian;
    let segments = header.program_headers(endian, data)?;
    let segments = &segments[..segments.len().min(MAX_SEGMENTS)];
    let sections = header.sections(endian, data)?;
    let soname = soname(&sections, data);
    let mut found = Inspection { build_id: build_id(segments, data), soname, ..Inspection::default() };
    let text = Text { sections: &sections, segments, data, size };
    let (mut exports, mut peeks) = exports(&sections, data, elf::SHT_DYNSYM)?;
    exports.extend_from_slice(known);
    if !text.has_tls(&exports) && found.soname.is_none() {
        if let Some(go) = text.go() {
            found.version = go.version;
            match go.places {
                Some(places) => {
                    found.symbols = places.iter().map(|place| (place.symbol, place.offset)).collect();
                    found.places = places;
                }
                None => found.unreadable = Some(GO_UNREADABLE.to_owned()),
            }
            return Ok((found, Pieces::default()));
        }
        // A program's own functions are among the symbols that it does not need to run.
        (exports, peeks) = self::exports(&sections, data, elf::SHT_SYMTAB).unwrap_or_default();
    }
    exports.retain(|export| text.offset(export.address).is_some());
    if !text.has_tls(&exports) {
        exports.clear();
    }
    let offset = |export: &Export| text.offset(export.address).map(|offset| (export.symbol, offset));
    found.symbols = exports.iter().filter_map(offset).collect();
    found.symbols.sort_unstable();
    found.symbols.dedup();
    found.places = placement::places(&exports, &peeks, &text);
    Ok((found, pieces(segments, size)))
}

/// Said of a Go program with TLS inside that is built in a way which is not known.
const GO_UNREADABLE: &str = "its crypto/tls, of Go, does not look as hbpf knows it";

/// What is mapped of the file when it runs, and not written to.
fn pieces(segments: &[Segment], size: u64) -> Pieces {
    let endian = NativeEndian;
    let is_read =
        |segment: &&Segment| segment.p_type(endian) == elf::PT_LOAD && !segment.p_flags(endian).contains(elf::PF_W);
    let piece = |segment: &Segment| {
        let offset = segment.p_offset(endian);
        Piece {
            offset,
            len: segment.p_filesz(endian).min(size.saturating_sub(offset)),
            address: segment.p_vaddr(endian),
            is_code: segment.p_flags(endian).contains(elf::PF_X),
        }
    };
    let unwind = segments.iter().find(|segment| segment.p_type(endian) == elf::PT_GNU_EH_FRAME);
    Pieces { mapped: segments.iter().filter(is_read).map(piece).collect(), unwind: unwind.map(piece) }
}

/// A program made by Go that uses its TLS.
struct GoProgram {
    version: Option<Label>,
    /// `None` where it cannot be read.
    places: Option<Vec<Place>>,
}

type Header = FileHeader64<NativeEndian>;
type Segment = elf::ProgramHeader64<NativeEndian>;
type Section = elf::SectionHeader64<NativeEndian>;
type Sections<'data, R> = SectionTable<'data, Header, R>;

/// Probed functions, and those of `SSL_peek` and its like.
type Exports = (Vec<Export>, Vec<Export>);

fn exports<'data, R: ReadRef<'data>>(
    sections: &Sections<'data, R>,
    data: R,
    kind: elf::SectionType,
) -> object::Result<Exports> {
    let endian = NativeEndian;
    let Some((names, table)) = symbols(sections, data, kind)? else { return Ok(Exports::default()) };
    let (mut exports, mut peeks) = Exports::default();
    for symbol in table {
        let Some(name) = names.get(symbol.st_name(endian) as usize..) else { continue };
        let is_peek = name.starts_with(b"SSL_peek\0") || name.starts_with(b"SSL_peek_ex\0");
        let (list, found) = match Symbol::at(name) {
            Some(found) => (&mut exports, found),
            None if is_peek => (&mut peeks, Symbol::SslRead),
            None => continue,
        };
        // An indirect function's value is its resolver, which transfers no data.
        let is_here = symbol.st_type() == elf::STT_FUNC && symbol.st_shndx(endian) != elf::SHN_UNDEF;
        if is_here && list.len() < MAX_PLACES {
            list.push(Export { symbol: found, address: symbol.st_value(endian), size: symbol.st_size(endian) });
        }
    }
    Ok((exports, peeks))
}

/// Names and symbols. Names are compared in place: looking for the end of each would be quadratic in a table without
/// zeros.
#[expect(clippy::type_complexity, reason = "a pair of slices")]
fn symbols<'data, R: ReadRef<'data>>(
    sections: &Sections<'data, R>,
    data: R,
    kind: elf::SectionType,
) -> object::Result<Option<(&'data [u8], &'data [elf::Sym64<NativeEndian>])>> {
    let endian = NativeEndian;
    let Some(table) = sections.iter().find(|section| section.sh_type(endian) == kind) else {
        return Ok(None);
    };
    let names = sections.section(table.link(endian))?.data(endian, data)?;
    Ok(Some((names, table.data_as_array(endian, data)?)))
}

/// The code of a file.
struct Text<'a, 'data, R: ReadRef<'data>> {
    sections: &'a Sections<'data, R>,
    segments: &'a [Segment],
    data: R,
    size: u64,
}

impl<'data, R: ReadRef<'data>> Text<'_, 'data, R> {
    /// Whether plaintext can be read and written at these functions.
    fn has_tls(&self, exports: &[Export]) -> bool {
        let has =
            |symbol| exports.iter().any(|export| export.symbol == symbol && self.offset(export.address).is_some());
        let families: [&[Symbol]; 4] = [
            &[Symbol::SslRead, Symbol::SslWrite],
            &[Symbol::GnutlsRecv, Symbol::GnutlsSend],
            &[Symbol::NsprRead, Symbol::NsprRecv, Symbol::NsprWrite, Symbol::NsprSend],
            &[Symbol::AeadInitWithDirection, Symbol::AeadSeal, Symbol::AeadOpenGather],
        ];
        families.iter().any(|family| family.iter().all(|symbol| has(*symbol)))
    }

    /// What Go has left in the file, if it was made by Go and uses its TLS.
    fn go(&self) -> Option<GoProgram> {
        let endian = NativeEndian;
        let section = |names: &[&str]| {
            let found = names.iter().find_map(|name| self.sections.section_by_name(endian, name.as_bytes()));
            found.map(|(_, section)| section)
        };
        let build = section(&[".go.buildinfo"])?.data(endian, self.data).ok()?;
        // In programs whose place in memory is not fixed it has the second name, or none: another linker has put it with others.
        let held = section(&[".gopclntab", ".data.rel.ro.gopclntab", ".data.rel.ro"])?;
        let bytes = held.data(endian, self.data).ok()?;
        let at = go::find_table(bytes)?;
        let table = &bytes[at..];
        if !go::uses_tls(table)? {
            return None;
        }
        // Where its code begins the table says, or, from Go 1.26 on, what describes the program; and nearly always that is where
        // the section begins. The functions' own beginnings tell whether it is true.
        let told = self.pointer(held, bytes, at as u64 + go::TEXT_AT).filter(|_| go::tells_text(table));
        let module = section(&[".go.module"]);
        let described =
            module.and_then(|module| self.pointer(module, module.data(endian, self.data).ok()?, go::MODULE_TEXT_AT));
        let begins = section(&[".text"]).map(|text| text.sh_addr(endian));
        let places = [told, described, begins].into_iter().flatten().find_map(|text| go::places(table, text, self));
        Some(GoProgram { version: known::go_version(build), places })
    }

    /// The pointer at a place in a section, of which these are the bytes, as it is when the program runs (but for where all of it
    /// lies); `None` for none.
    fn pointer(&self, section: &Section, bytes: &[u8], at: u64) -> Option<u64> {
        let endian = NativeEndian;
        let value = u64::from_ne_bytes(*bytes.get(usize::try_from(at).ok()?..)?.first_chunk()?);
        if value != 0 {
            return Some(value);
        }
        let relocation = self.relocation(section.sh_addr(endian).checked_add(at)?)?;
        u64::try_from(relocation.r_addend(endian)).ok()
    }

    /// What the loader does at this address.
    fn relocation(&self, address: u64) -> Option<&elf::Rela64<NativeEndian>> {
        let endian = NativeEndian;
        let is_table = |section: &&Section| {
            section.sh_type(endian) == elf::SHT_RELA && section.sh_size(endian) <= MAX_RELOCATION_BYTES
        };
        self.sections.iter().filter(is_table).find_map(|section| {
            let (relocations, _) = section.rela(endian, self.data).ok()??;
            relocations.iter().find(|relocation| relocation.r_offset(endian) == address)
        })
    }
}

impl<'data, R: ReadRef<'data>> Code for Text<'_, 'data, R> {
    fn bytes(&self, address: u64, len: u64) -> Option<&[u8]> {
        let offset = self.offset(address)?;
        self.data.read_bytes_at(offset, len.min(self.size - offset)).ok()
    }

    fn imported(&self, slot: u64) -> Option<Symbol> {
        let endian = NativeEndian;
        let relocation = self.relocation(slot)?;
        let (names, symbols) = symbols(self.sections, self.data, elf::SHT_DYNSYM).ok()??;
        let symbol = symbols.get(relocation.r_sym(endian, false) as usize)?;
        Symbol::at(names.get(symbol.st_name(endian) as usize..)?)
    }

    fn offset(&self, address: u64) -> Option<u64> {
        file_offset(self.segments, address, self.size)
    }
}

/// Where in the file the code at this address is; `None` where it is not code, or not in the file.
fn file_offset(segments: &[Segment], address: u64, size: u64) -> Option<u64> {
    let endian = NativeEndian;
    segments.iter().find_map(|segment| {
        let is_code = segment.p_type(endian) == elf::PT_LOAD && segment.p_flags(endian).contains(elf::PF_X);
        let within = address.checked_sub(segment.p_vaddr(endian))?;
        if !is_code || within >= segment.p_filesz(endian) {
            return None;
        }
        segment.p_offset(endian).checked_add(within).filter(|offset| *offset < size)
    })
}

fn build_id<'data>(segments: &[Segment], data: impl ReadRef<'data>) -> Option<Vec<u8>> {
    let endian = NativeEndian;
    let mut left = MAX_NOTES;
    for segment in segments {
        let Ok(Some(mut notes)) = segment.notes(endian, data) else { continue };
        while let Ok(Some(note)) = notes.next() {
            left = left.checked_sub(1)?;
            if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
                let id = note.desc();
                return Some(id[..id.len().min(MAX_BUILD_ID_BYTES)].to_vec());
            }
        }
    }
    None
}

fn soname<'data, R: ReadRef<'data>>(sections: &Sections<'data, R>, data: R) -> Option<Vec<u8>> {
    let endian = NativeEndian;
    let (entries, names) = sections.dynamic(endian, data).ok()??;
    let entry = entries.iter().find(|entry| entry.tag(endian) == elf::DT_SONAME)?;
    let names = sections.section(names).ok()?.data(endian, data).ok()?;
    let name = names.get(usize::try_from(entry.val(endian)).ok()?..)?;
    let name = &name[..name.len().min(MAX_SONAME_BYTES)];
    Some(name.split(|byte| *byte == 0).next()?.to_vec()).filter(|name| !name.is_empty())
}

/// A file of which at most so much is read. [`ReadCache`] keeps all that it has read, so this bounds memory too.
struct Bounded<'data, R: ReadCacheOps> {
    data: &'data ReadCache<R>,
    left: &'data Cell<u64>,
}

// Derived, they would ask the same of the file.
impl<R: ReadCacheOps> Clone for Bounded<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R: ReadCacheOps> Copy for Bounded<'_, R> {}

impl<R: ReadCacheOps> Bounded<'_, R> {
    fn take(self, bytes: u64) -> Result<(), ()> {
        self.left.set(self.left.get().checked_sub(bytes).ok_or(())?);
        Ok(())
    }
}

impl<'data, R: ReadCacheOps> ReadRef<'data> for Bounded<'data, R> {
    fn len(self) -> Result<u64, ()> {
        self.data.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'data [u8], ()> {
        self.take(size)?;
        self.data.read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'data [u8], ()> {
        // The cache stops after 4 KiB without the delimiter.
        self.take(range.end.saturating_sub(range.start).min(4096))?;
        self.data.read_bytes_at_until(range, delimiter)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn inspect_bytes(bytes: &[u8]) -> Result<Inspection, Refusal> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        inspect(&file, bytes.len() as u64)
    }

    /// A library with TLS functions where there is one, else this very program.
    fn sample() -> Vec<u8> {
        let libraries = ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/usr/lib/aarch64-linux-gnu/libssl.so.3"];
        let found = libraries.iter().find_map(|path| std::fs::read(path).ok());
        found.unwrap_or_else(|| std::fs::read("/proc/self/exe").unwrap())
    }

    #[test]
    fn what_is_no_elf_is_refused() {
        assert_eq!(inspect_bytes(b""), Err(Refusal::Malformed));
        assert_eq!(inspect_bytes(&[0; 4096]), Err(Refusal::Malformed));
        assert_eq!(inspect_bytes(b"\x7fELF"), Err(Refusal::Malformed));
        let mut sample = sample();
        sample[18] ^= 0x55;
        assert_eq!(inspect_bytes(&sample), Err(Refusal::OtherMachine));
        let empty = tempfile::tempfile().unwrap();
        assert_eq!(inspect(&empty, MAX_FILE_BYTES + 1), Err(Refusal::TooLarge));
    }

    #[test]
    fn an_empty_file_of_great_size_is_not_read_whole() {
        let mut header = sample();
        header.truncate(64);
        // Section headers said to be as many as can be, anywhere in a file that is one hole.
        header[40..48].copy_from_slice(&64u64.to_ne_bytes());
        header[60..62].copy_from_slice(&0u16.to_ne_bytes());
        let mut section = [0; 64];
        section[32..40].copy_from_slice(&(MAX_FILE_BYTES / 64 - 2).to_ne_bytes());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[header.as_slice(), &section].concat()).unwrap();
        file.set_len(MAX_FILE_BYTES).unwrap();
        assert_eq!(inspect(&file, MAX_FILE_BYTES), Err(Refusal::Malformed));
    }

    #[test]
    fn a_file_that_lies_gives_at_most_places_within_its_code() {
        let sample = sample();
        let true_places = inspect_bytes(&sample).unwrap().symbols;
        // Everything that leads to other things: headers at the beginning and at the end, and symbols in between.
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as usize % below
        };
        for round in 0..400 {
            let mut bytes = sample.clone();
            for _ in 0..8 {
                let at = match round % 3 {
                    0 => next(1024),
                    1 => bytes.len() - 1 - next(2048),
                    _ => next(64 * 1024),
                };
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff, next(256) as u8][next(6)];
            }
            if round % 5 == 0 {
                bytes.truncate(next(sample.len()));
            }
            if let Ok(found) = inspect_bytes(&bytes) {
                assert!(found.symbols.len() <= MAX_PLACES);
                assert!(found.symbols.iter().all(|(_, offset)| *offset < bytes.len() as u64));
            }
        }
        assert_eq!(inspect_bytes(&sample).unwrap().symbols, true_places);
    }

    #[test]
    fn places_must_be_code_within_the_file() {
        let endian = NativeEndian;
        let segment = |flags, offset: u64, address: u64, size: u64| {
            let (segment, _) = object::from_bytes::<Segment>(&[0; size_of::<Segment>()]).unwrap();
            let mut segment = *segment;
            segment.p_type.set(endian, elf::PT_LOAD);
            segment.p_flags.set(endian, flags);
            segment.p_offset.set(endian, offset);
            segment.p_vaddr.set(endian, address);
            segment.p_filesz.set(endian, size);
            segment
        };
        let segments = [segment(elf::PF_R, 0, 0, 0x1000), segment(elf::PF_R | elf::PF_X, 0x1000, 0x40_1000, 0x1000)];
        assert_eq!(file_offset(&segments, 0x40_1010, 0x2000), Some(0x1010));
        assert_eq!(file_offset(&segments, 0x10, 0x2000), None, "data");
        assert_eq!(file_offset(&segments, 0x40_2000, 0x4000), None, "behind the segment");
        assert_eq!(file_offset(&segments, 0x40_1010, 0x1000), None, "behind the file");
        let overflowing = [segment(elf::PF_X, u64::MAX, 0x1000, 0x1000)];
        assert_eq!(file_offset(&overflowing, 0x1010, u64::MAX), None);
    }

    #[test]
    fn names_match_whole() {
        assert_eq!(Symbol::at(b"SSL_read\0"), Some(Symbol::SslRead));
        assert_eq!(Symbol::at(b"SSL_write_ex2\0x"), Some(Symbol::SslWriteEx2));
        assert_eq!(Symbol::at(b"aws_lc_0_47_0_EVP_AEAD_CTX_seal\0"), Some(Symbol::AeadSeal));
        assert_eq!(Symbol::at(b"aws_lc_fips_0_13_7_EVP_AEAD_CTX_open_gather\0"), Some(Symbol::AeadOpenGather));
        for other in [
            &b"SSL_read"[..],
            b"SSL_reader\0",
            b"xSSL_read\0",
            b"SSL_\0",
            b"",
            b"SSL_peek\0",
            b"EVP_AEAD_CTX_seal\0",
            b"aws_lc_0_47_0_SSL_read\0",
            b"aws_lc_0_47_0_EVP_AEAD_CTX_new\0",
            b"aws_lc_",
            b"aws_lc_0_0_0_0_0_0_0_0_0_0_0_0_0_0_EVP_AEAD_CTX_seal\0",
        ] {
            assert_eq!(Symbol::at(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
