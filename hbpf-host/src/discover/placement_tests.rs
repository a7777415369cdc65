//! Functions made of a few bytes each, and whatever TLS libraries there are here.

use std::path::{Path, PathBuf};

use super::*;
use crate::discover::elf;

const BASE: u64 = 0x1000;
/// Room for each function.
const ROOM: u64 = 0x40;

const READ: u64 = 0;
const READ_EX: u64 = 1;
const PEEK: u64 = 2;
const INTERNAL: u64 = 3;
const OTHER: u64 = 4;
const WRITE: u64 = 5;
const WRITE_EX: u64 = 6;
const WRITE_EX2: u64 = 7;
const STUB: u64 = 8;

const SLOT: u64 = 0x9000;

const SUB_24: &[u8] = &[0x48, 0x83, 0xec, 0x18];
const SUB_8: &[u8] = &[0x48, 0x83, 0xec, 0x08];
/// `test %edx,%edx; js 0` (to the next instruction: both ways are one)
const CHECK: &[u8] = &[0x85, 0xd2, 0x78, 0x00];
const MOV_RSP_RCX: &[u8] = &[0x48, 0x89, 0xe1];
const MOV_RSP_R8: &[u8] = &[0x49, 0x89, 0xe0];
const MOV_RCX_R8: &[u8] = &[0x49, 0x89, 0xc8];
const MOV_RSI_RCX: &[u8] = &[0x48, 0x89, 0xf1];
const MOV_RDX_RSI: &[u8] = &[0x48, 0x89, 0xd6];
const MOVSLQ_EDX: &[u8] = &[0x48, 0x63, 0xd2];
const XOR_ECX: &[u8] = &[0x31, 0xc9];
const CALL_RAX: &[u8] = &[0xff, 0xd0];
const PUSH_R15: &[u8] = &[0x41, 0x57];
const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
const TEST_RDI: &[u8] = &[0x48, 0x85, 0xff];
const JE: &[u8] = &[0x74, 0x10];
const RET: &[u8] = &[0xc3];

/// Functions by their numbers; of two with one number the later lies over the earlier.
type Functions = Vec<(u64, Vec<Part>)>;

/// A file that is nothing but these functions.
struct Image(Vec<u8>);

impl Code for Image {
    fn bytes(&self, address: u64, len: u64) -> Option<&[u8]> {
        let from = self.offset(address)? as usize;
        Some(&self.0[from..self.0.len().min(from + len as usize)])
    }

    fn imported(&self, slot: u64) -> Option<Symbol> {
        (slot == SLOT).then_some(Symbol::SslWriteEx2)
    }

    fn offset(&self, address: u64) -> Option<u64> {
        address.checked_sub(BASE).filter(|offset| *offset < self.0.len() as u64)
    }
}

enum Part {
    Bytes(&'static [u8]),
    /// `call` or `jmp` to a function.
    To(u8, u64),
    /// `jmp *SLOT(%rip)`
    ToSlot,
}
use Part::{Bytes, To, ToSlot};

const CALL: u8 = 0xe8;
const JMP: u8 = 0xe9;

fn at(function: u64) -> u64 {
    BASE + function * ROOM
}

impl Image {
    fn new(functions: Functions) -> Self {
        let mut bytes = vec![0xcc; 9 * ROOM as usize];
        for (function, parts) in functions {
            let mut address = at(function);
            for part in parts {
                let relative = |to: u64, behind: u64| (to.wrapping_sub(behind) as u32).to_le_bytes();
                let piece = match part {
                    Bytes(bytes) => bytes.to_vec(),
                    To(how, function) => [&[how][..], &relative(at(function), address + 5)].concat(),
                    ToSlot => [&[0xff, 0x25][..], &relative(SLOT, address + 6)].concat(),
                };
                let from = (address - BASE) as usize;
                bytes[from..from + piece.len()].copy_from_slice(&piece);
                address += piece.len() as u64;
            }
        }
        Self(bytes)
    }
}

fn export(symbol: Symbol, function: u64) -> Export {
    Export { symbol, address: at(function), size: ROOM }
}

fn peek() -> Export {
    export(Symbol::SslRead, PEEK)
}

fn int_caller(target: u64) -> Vec<Part> {
    [SUB_24, CHECK, MOV_RSP_RCX, MOVSLQ_EDX].map(Bytes).into_iter().chain([To(CALL, target), Bytes(RET)]).collect()
}

fn size_caller(target: u64) -> Vec<Part> {
    vec![Bytes(SUB_8), To(CALL, target), Bytes(RET)]
}

/// Functions for reading, as most builds have them.
fn reading() -> Functions {
    vec![
        (READ, int_caller(INTERNAL)),
        (READ_EX, size_caller(INTERNAL)),
        (PEEK, int_caller(OTHER)),
        (INTERNAL, vec![Bytes(PUSH_R15), Bytes(RET)]),
    ]
}

fn read_exports() -> [Export; 2] {
    [export(Symbol::SslRead, READ), export(Symbol::SslReadEx, READ_EX)]
}

#[test]
fn what_both_ways_of_reading_lead_to_is_probed_in_their_place() {
    let found = places(&read_exports(), &[peek()], &Image::new(reading()));
    let offset = at(INTERNAL) - BASE;
    let expected = [Place { symbol: Symbol::SslReadEx, offset, internal: true, emulated: true }];
    assert_eq!(found, expected);
    let inlined = [reading(), vec![(PEEK, vec![Bytes(SUB_8), Bytes(CALL_RAX), Bytes(RET)])]].concat_parts();
    assert_eq!(places(&read_exports(), &[peek()], &Image::new(inlined)), expected, "the peek does it by itself");
}

#[test]
fn what_is_not_proved_is_probed_at_the_exported_functions() {
    let with_read = |parts: Vec<Part>| [reading(), vec![(READ, parts)]].concat_parts();
    let with_read_ex = |parts: Vec<Part>| [reading(), vec![(READ_EX, parts)]].concat_parts();
    let cases: Vec<(&str, Functions)> = vec![
        ("they lead to different functions", with_read_ex(size_caller(OTHER))),
        ("the peek leads there", [reading(), vec![(PEEK, int_caller(INTERNAL))]].concat_parts()),
        (
            "the peek may lead there",
            [reading(), vec![(PEEK, vec![Bytes(JE), To(CALL, INTERNAL), Bytes(CALL_RAX), Bytes(RET)])]].concat_parts(),
        ),
        (
            "the length is not returned on the stack",
            with_read(vec![Bytes(MOV_RSI_RCX), Bytes(MOVSLQ_EDX), To(CALL, INTERNAL), Bytes(RET)]),
        ),
        ("the buffer is another", with_read_ex(vec![Bytes(MOV_RDX_RSI), To(CALL, INTERNAL), Bytes(RET)])),
        (
            "the buffer is another on one way",
            with_read_ex(vec![Bytes(&[0x74, 0x03]), Bytes(MOV_RDX_RSI), To(CALL, INTERNAL), Bytes(RET)]),
        ),
        ("there is a second call", with_read_ex(vec![To(CALL, OTHER), To(CALL, INTERNAL), Bytes(RET)])),
        ("there is a call to anywhere", with_read_ex(vec![To(CALL, INTERNAL), Bytes(CALL_RAX), Bytes(RET)])),
        ("there is no call", with_read(vec![Bytes(RET)])),
        ("it ends in an instruction that traps", with_read(vec![Bytes(&[0x0f, 0x0b])])),
    ];
    for (case, functions) in cases {
        let found = places(&read_exports(), &[peek()], &Image::new(functions));
        assert_eq!(found.len(), 2, "{case}");
        assert!(found.iter().all(|place| !place.internal), "{case}");
    }
    let image = Image::new(reading());
    assert!(places(&read_exports(), &[], &image).iter().all(|place| !place.internal), "there is no peek to compare");
    let exported =
        [export(Symbol::SslRead, READ), export(Symbol::SslReadEx, READ_EX), export(Symbol::SslNew, INTERNAL)];
    assert!(places(&exported, &[peek()], &image).iter().all(|place| !place.internal), "it is exported itself");
    let twice = [export(Symbol::SslRead, READ), export(Symbol::SslReadEx, READ_EX), export(Symbol::SslRead, PEEK)];
    assert!(places(&twice, &[peek()], &image).iter().all(|place| !place.internal), "there are two of one name");
}

trait Concat {
    fn concat_parts(self) -> Functions;
}

impl Concat for [Functions; 2] {
    fn concat_parts(self) -> Functions {
        self.into_iter().flatten().collect()
    }
}

#[test]
fn writing_with_flags_leads_there_directly_and_through_the_loaders_table() {
    let write = |target| {
        let before = [SUB_24, CHECK, XOR_ECX, MOVSLQ_EDX, MOV_RSP_R8].map(Bytes).into_iter();
        before.chain([To(CALL, target), Bytes(RET)]).collect::<Vec<_>>()
    };
    let extended = |to| vec![Bytes(ENDBR64), Bytes(MOV_RCX_R8), Bytes(XOR_ECX), to];
    let exports =
        [export(Symbol::SslWrite, WRITE), export(Symbol::SslWriteEx, WRITE_EX), export(Symbol::SslWriteEx2, WRITE_EX2)];
    for (through, is_internal) in [(WRITE_EX2, true), (INTERNAL, true), (STUB, true), (OTHER, false)] {
        let image = Image::new(vec![
            (WRITE, write(INTERNAL)),
            (WRITE_EX, extended(To(JMP, through))),
            (WRITE_EX2, size_caller(INTERNAL)),
            (STUB, vec![Bytes(ENDBR64), ToSlot]),
            (INTERNAL, vec![Bytes(ENDBR64), Bytes(PUSH_R15), Bytes(RET)]),
        ]);
        let found = places(&exports, &[], &image);
        if is_internal {
            let offset = at(INTERNAL) - BASE + ENDBR64.len() as u64;
            assert_eq!(found, [Place { symbol: Symbol::SslWriteEx2, offset, internal: true, emulated: true }]);
        } else {
            assert_eq!(found.len(), 3, "SSL_write_ex leads elsewhere");
        }
    }
    let image = Image::new(vec![
        (WRITE, int_caller(INTERNAL)),
        (WRITE_EX, size_caller(INTERNAL)),
        (INTERNAL, vec![Bytes(PUSH_R15)]),
    ]);
    let found = places(&exports[..2], &[], &image);
    assert!(
        matches!(found[..], [Place { symbol: Symbol::SslWriteEx, internal: true, emulated: true, .. }]),
        "{found:?}"
    );
}

#[test]
fn a_probe_sits_on_an_emulated_instruction_where_nothing_has_changed_before_it() {
    let cases: [(&[&[u8]], Option<u64>); 8] = [
        (&[PUSH_R15], Some(0)),
        (&[ENDBR64, PUSH_R15], Some(4)),
        (&[TEST_RDI, JE], Some(3)),
        (&[SUB_24, PUSH_R15], None),
        (&[ENDBR64, SUB_24], None),
        (&[MOV_RDX_RSI, PUSH_R15], None),
        (&[RET, PUSH_R15], None),
        (&[ENDBR64, ENDBR64, ENDBR64, ENDBR64, ENDBR64, PUSH_R15], None),
    ];
    for (parts, expected) in cases {
        let image = Image::new(vec![(READ, parts.iter().copied().map(Bytes).collect())]);
        let place = (at(READ) + expected.unwrap_or(0), expected.is_some());
        assert_eq!(cheapest(&image, at(READ)), place, "{parts:x?}");
    }
}

#[test]
fn junk_leads_nowhere() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..2000 {
        let bytes = std::iter::repeat_with(|| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // Mostly instructions that go somewhere.
            [random as u8, 0xe8, 0x74, 0xeb, 0x00, 0x0f, 0x48, 0x89][random as usize >> 32 & 7]
        });
        let image = Image(bytes.take(9 * ROOM as usize).collect());
        let exports =
            [read_exports().to_vec(), vec![export(Symbol::SslWrite, WRITE), export(Symbol::SslWriteEx, WRITE_EX)]];
        for place in places(&exports.concat(), &[peek()], &image) {
            assert!(place.offset < image.0.len() as u64);
        }
    }
}

/// TLS libraries on this machine, and those that `HBPF_TLS_LIBRARIES` names.
fn real_files() -> Vec<PathBuf> {
    let named = std::env::var_os("HBPF_TLS_LIBRARIES").unwrap_or_default();
    let fixed = ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/usr/lib64/libssl.so.3", "/usr/bin/node"].map(PathBuf::from);
    std::env::split_paths(&named).chain(fixed).filter(|path| path.is_file()).collect()
}

#[test]
fn in_real_libraries_places_are_what_a_look_at_the_bytes_says() {
    for path in real_files() {
        let bytes = std::fs::read(&path).unwrap();
        let found = elf::inspect(std::io::Cursor::new(&bytes), bytes.len() as u64).unwrap();
        println!("{}: {:?}", path.display(), found.places);
        let has = |symbol| found.places.iter().any(|place| place.symbol == symbol);
        assert!(has(Symbol::SslRead) || has(Symbol::SslReadEx), "{}", path.display());
        assert!(has(Symbol::SslWrite) || has(Symbol::SslWriteEx) || has(Symbol::SslWriteEx2), "{}", path.display());
        for place in found.places.iter().filter(|place| place.emulated) {
            let at = &bytes[place.offset as usize..];
            let is_push = matches!(at, [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..]);
            let is_jump = matches!(at, [0x70..=0x7f | 0xeb | 0xe9, ..] | [0x0f, 0x80..=0x8f, ..]);
            assert!(is_push || is_jump, "{}: {place:?}", path.display());
        }
        expect_target_of_read_ex(&path, &bytes, &found);
    }
}

/// Where `SSL_read_ex` is nothing but a call, what it calls is probed.
fn expect_target_of_read_ex(path: &Path, bytes: &[u8], found: &elf::Inspection) {
    let Some((_, offset)) = found.symbols.iter().find(|(symbol, _)| *symbol == Symbol::SslReadEx) else { return };
    let mut at = *offset as usize;
    if bytes[at..].starts_with(ENDBR64) {
        at += ENDBR64.len();
    }
    let Some(call) = bytes[at..].strip_prefix(SUB_8).and_then(|rest| rest.strip_prefix(&[CALL])) else { return };
    let distance = i32::from_le_bytes(*call.first_chunk().unwrap());
    let target = (at + SUB_8.len() + 5).checked_add_signed(distance as isize).unwrap() as u64;
    let places: Vec<_> =
        found.places.iter().filter(|place| place.symbol == Symbol::SslReadEx && place.internal).collect();
    // OpenSSL 4's SSL_read does more before it gets there.
    let does_more = found.places.iter().any(|place| place.symbol == Symbol::SslRead);
    assert!(
        does_more || places.len() == 1 && (target..target + 8).contains(&places[0].offset),
        "{}: {target:#x}, {:?}",
        path.display(),
        found.places
    );
}
