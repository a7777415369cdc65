//! The AEAD functions of aws-lc in a stripped program, told by the errors that they report.
//!
//! A function that reports an error passes the name of its source file, which stands in the program once, its library's number
//! and a reason (`OPENSSL_PUT_ERROR`). No other function of that file reports the same reasons, whatever compiler has made it.
//! Where functions begin is written for those who unwind the stack (`.eh_frame_hdr`, Linux Standard Base 5.0, 10.6.2), and stays
//! when a program is stripped. Each function must be there once, or none is taken. x86_64 only.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};

use iced_x86::{Code as Opcode, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use memchr::{memchr_iter, memmem};

use super::elf::Symbol;
use super::inside::{Piece, search};

/// The source file, as it ends in every build.
pub(super) const SOURCE: &[u8] = b"crypto/fipsmodule/cipher/aead.c\0";

/// `ERR_LIB_CIPHER`
const LIBRARY: u32 = 30;

/// `CIPHER_R_...`
const BAD_DECRYPT: u32 = 101;
const CTRL_NOT_IMPLEMENTED: u32 = 104;
const INVALID_OPERATION: u32 = 112;
const TOO_LARGE: u32 = 117;
const UNSUPPORTED_KEY_SIZE: u32 = 120;
const NO_DIRECTION_SET: u32 = 124;

/// The reason that tells a function, and one by which another is told that may have it inside.
const TOLD_BY: [(Symbol, u32, Option<u32>); 6] = [
    (Symbol::AeadInit, NO_DIRECTION_SET, None),
    (Symbol::AeadInitWithDirection, UNSUPPORTED_KEY_SIZE, Some(NO_DIRECTION_SET)),
    (Symbol::AeadSeal, TOO_LARGE, None),
    (Symbol::AeadSealScatter, INVALID_OPERATION, None),
    (Symbol::AeadOpen, BAD_DECRYPT, None),
    (Symbol::AeadOpenGather, CTRL_NOT_IMPLEMENTED, Some(BAD_DECRYPT)),
];

/// Most places that pass the file's name, most functions of a program, and the longest function that is looked at. There are about ten
/// such places; large programs have half a million functions.
const MAX_PLACES: usize = 64;
const MAX_FUNCTIONS: u32 = 4 * 1024 * 1024;
const MAX_FUNCTION_BYTES: u64 = 4096;

/// `EVP_AEAD_CTX_cleanup` and `EVP_AEAD_CTX_free` report nothing. They are as long as this at the most, and no farther from the rest of the
/// file than so many functions.
const MAX_CLEANUP_BYTES: u64 = 128;
const NEAR: usize = 6;

/// Finds the functions, by their addresses. `source_at` is where the source file's name is.
pub(super) fn functions(
    file: &mut (impl Read + Seek),
    pieces: &[Piece],
    unwind: &Piece,
    source_at: u64,
    left: &mut u64,
) -> std::io::Result<Option<Vec<(Symbol, u64)>>> {
    if cfg!(not(target_arch = "x86_64")) {
        return Ok(None);
    }
    let mut places = BTreeSet::new();
    for piece in pieces.iter().filter(|piece| piece.is_code) {
        search(file, piece, left, &mut |bytes, address| note_places(bytes, address, source_at, &mut places))?;
    }
    let Some(starts) = starts(file, unwind, left)? else { return Ok(None) };
    let mut program = Program { file, pieces, starts };
    // Each function once.
    let reporting: BTreeSet<usize> = places.iter().filter_map(|place| program.function_at(*place)).collect();
    let mut found = Vec::new();
    for index in reporting {
        let Some(function) = program.look(index)? else { continue };
        let reports = |reason| function.is_of_library && function.reasons.contains(&reason);
        let is = |(_, reason, other): &(Symbol, u32, Option<u32>)| reports(*reason) && !other.is_some_and(reports);
        found.extend(TOLD_BY.into_iter().filter(is).map(|(symbol, _, _)| (symbol, index)));
    }
    let is_once = |symbol| found.iter().filter(|(other, _)| *other == symbol).count() == 1;
    if !TOLD_BY.iter().all(|(symbol, _, _)| is_once(*symbol)) {
        return Ok(None);
    }
    let indices = found.iter().map(|(_, index)| *index);
    let (first, last) = (indices.clone().min().unwrap_or(0), indices.max().unwrap_or(0));
    let near = first.saturating_sub(NEAR)..last.saturating_add(NEAR + 1).min(first + MAX_PLACES);
    let mut cleaning = Vec::new();
    for index in near {
        // One too many does no harm, but for those above: what it is called with is no context that is known.
        let is_another = found.iter().any(|(_, other)| *other == index);
        if !is_another && program.look(index)?.is_some_and(|function| function.cleans) {
            cleaning.push((Symbol::AeadCleanup, index));
        }
    }
    if cleaning.is_empty() {
        return Ok(None);
    }
    found.append(&mut cleaning);
    Ok(Some(found.into_iter().map(|(symbol, index)| (symbol, program.starts[index])).collect()))
}

/// Notes where in these bytes of code an address is taken: relative to the instruction, or as it is.
fn note_places(bytes: &[u8], address: u64, taken: u64, places: &mut BTreeSet<u64>) {
    let mut note = |at: usize| {
        if places.len() < MAX_PLACES {
            places.insert(address.wrapping_add(at as u64));
        }
    };
    // lea r64, [rip + displacement]
    for at in memchr_iter(0x8d, bytes) {
        let Some([rex, _, form, displacement @ ..]) =
            at.checked_sub(1).and_then(|at| bytes.get(at..)?.first_chunk::<7>())
        else {
            continue;
        };
        let end = address.wrapping_add(at as u64 + 6);
        let target = end.wrapping_add_signed(i32::from_le_bytes(*displacement).into());
        if rex & 0xf8 == 0x48 && form & 0xc7 == 0x05 && target == taken {
            note(at);
        }
    }
    // mov r32, immediate
    let Ok(low) = u32::try_from(taken) else { return };
    for at in memmem::find_iter(bytes, &low.to_le_bytes()) {
        if at.checked_sub(1).is_some_and(|at| bytes[at] & 0xf8 == 0xb8) {
            note(at);
        }
    }
}

/// Where all functions begin, sorted; `None` where that is not written in the usual form.
fn starts(file: &mut (impl Read + Seek), unwind: &Piece, left: &mut u64) -> std::io::Result<Option<Vec<u64>>> {
    /// Version; how the pointer to the frames, the number of entries and the entries are written: in four bytes each, the
    /// entries relative to where the table begins.
    const HEAD: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
    const HEAD_BYTES: u64 = 12;
    const ENTRY_BYTES: u64 = 8;
    file.seek(SeekFrom::Start(unwind.offset))?;
    let mut head = [0; HEAD_BYTES as usize];
    if file.by_ref().take(HEAD_BYTES).read_exact(&mut head).is_err() || head[..4] != HEAD {
        return Ok(None);
    }
    let count = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    let bytes = u64::from(count) * ENTRY_BYTES;
    if count > MAX_FUNCTIONS || bytes > unwind.len.saturating_sub(HEAD_BYTES) || bytes > *left {
        return Ok(None);
    }
    *left -= bytes;
    let mut table = Vec::with_capacity(bytes as usize);
    file.by_ref().take(bytes).read_to_end(&mut table)?;
    let (entries, _) = table.as_chunks::<{ ENTRY_BYTES as usize }>();
    let start =
        |[a, b, c, d, ..]: &[u8; 8]| unwind.address.wrapping_add_signed(i32::from_le_bytes([*a, *b, *c, *d]).into());
    let mut starts: Vec<u64> = entries.iter().map(start).collect();
    starts.sort_unstable();
    starts.dedup();
    Ok(Some(starts))
}

/// A program that is looked into.
struct Program<'a, F> {
    file: &'a mut F,
    pieces: &'a [Piece],
    /// Where its functions begin.
    starts: Vec<u64>,
}

/// What is seen of a function.
struct Function {
    /// It passes the library's number, where that is passed.
    is_of_library: bool,
    /// Numbers that it passes where a reason is passed.
    reasons: BTreeSet<u32>,
    /// It has something done through a pointer, and clears one: what frees a context, if it is short.
    cleans: bool,
}

impl<F: Read + Seek> Program<'_, F> {
    /// The function that has this address.
    fn function_at(&self, address: u64) -> Option<usize> {
        self.starts.partition_point(|start| *start <= address).checked_sub(1)
    }

    /// Reads a function, up to where the next begins; `None` where there is none.
    fn look(&mut self, index: usize) -> std::io::Result<Option<Function>> {
        let Some(start) = self.starts.get(index).copied() else { return Ok(None) };
        let end = self.starts.get(index + 1).copied().unwrap_or(u64::MAX);
        let len = (end - start).min(MAX_FUNCTION_BYTES);
        let holds = |piece: &&Piece| piece.is_code && start.checked_sub(piece.address).is_some_and(|at| at < piece.len);
        let Some(piece) = self.pieces.iter().find(holds) else { return Ok(None) };
        let Some(offset) = piece.offset.checked_add(start - piece.address) else { return Ok(None) };
        self.file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::with_capacity(len as usize);
        self.file.by_ref().take(len).read_to_end(&mut bytes)?;
        let decoder = Decoder::with_ip(64, &bytes, start, DecoderOptions::NONE);
        let (mut is_of_library, mut reasons) = (false, BTreeSet::new());
        let (mut calls_pointer, mut clears) = (false, false);
        for instruction in decoder.into_iter().take_while(|instruction| !instruction.is_invalid()) {
            is_of_library |= number(&instruction, Register::EDI) == Some(LIBRARY);
            reasons.extend(number(&instruction, Register::EDX));
            calls_pointer |= instruction.flow_control() == FlowControl::IndirectCall;
            clears |= clears_pointer(&instruction);
        }
        let cleans = calls_pointer && clears && len <= MAX_CLEANUP_BYTES;
        Ok(Some(Function { is_of_library, reasons, cleans }))
    }
}

/// The number that an instruction puts into this register.
fn number(instruction: &Instruction, register: Register) -> Option<u32> {
    let puts = instruction.mnemonic() == Mnemonic::Mov && instruction.op1_kind() == OpKind::Immediate32;
    (puts && instruction.op0_register() == register).then(|| instruction.immediate32())
}

/// Whether it clears what a register points to.
fn clears_pointer(instruction: &Instruction) -> bool {
    instruction.code() == Opcode::Mov_rm64_imm32
        && instruction.op0_kind() == OpKind::Memory
        && instruction.memory_base().is_gpr64()
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == 0
        && instruction.immediate32to64() == 0
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::io::Cursor;

    use super::*;

    const CODE_AT: u64 = 0x20_0000;
    const SOURCE_AT: u64 = 0x10_0040;
    const UNWIND_AT: u64 = 0x30_0000;

    /// A function that reports these reasons, at this address.
    fn reporting(address: u64, library: u32, reasons: &[u32]) -> Vec<u8> {
        let mut code = vec![0x55];
        for reason in reasons {
            let number = |opcode: u8, value: u32| [&[opcode][..], &value.to_le_bytes()].concat();
            code.extend([number(0xbf, library), number(0xba, *reason)].concat());
            let end = address + code.len() as u64 + 7;
            let displacement = i32::try_from(SOURCE_AT as i64 - end as i64).unwrap();
            code.extend([&[0x48, 0x8d, 0x0d][..], &displacement.to_le_bytes()].concat());
        }
        code.push(0xc3);
        code
    }

    /// push rbx; mov rbx, rdi; mov rax, [rdi]; call [rax + 32]; mov qword [rbx], 0; pop rbx; ret
    const CLEANUP: [u8; 19] =
        [0x53, 0x48, 0x89, 0xfb, 0x48, 0x8b, 0x07, 0xff, 0x50, 0x20, 0x48, 0xc7, 0x03, 0, 0, 0, 0, 0x5b, 0xc3];

    /// Functions in this order, each with its reasons; one without cleans up.
    fn found_in(functions: &[&[u32]], library: u32) -> Option<Vec<(Symbol, u64)>> {
        let (mut code, mut table) = (Vec::new(), vec![1, 0x1b, 0x03, 0x3b, 0, 0, 0, 0]);
        table.extend(u32::try_from(functions.len()).unwrap().to_le_bytes());
        for reasons in functions {
            let address = CODE_AT + code.len() as u64;
            code.extend(if reasons.is_empty() { CLEANUP.to_vec() } else { reporting(address, library, reasons) });
            code.resize(code.len().next_multiple_of(64), 0xcc);
            table.extend(i32::try_from(address as i64 - UNWIND_AT as i64).unwrap().to_le_bytes());
            table.extend([0; 4]);
        }
        let end = table.len() as u64;
        let pieces = [Piece { offset: end, len: code.len() as u64, address: CODE_AT, is_code: true }];
        let unwind = Piece { offset: 0, len: end, address: UNWIND_AT, is_code: false };
        let mut file = Cursor::new([table, code].concat());
        super::functions(&mut file, &pieces, &unwind, SOURCE_AT, &mut { 1 << 20 }).unwrap()
    }

    const INIT: &[u32] = &[NO_DIRECTION_SET];
    const WITH_DIRECTION: &[u32] = &[UNSUPPORTED_KEY_SIZE];
    const SEAL: &[u32] = &[TOO_LARGE, 103, 115];
    const SCATTER: &[u32] = &[115, INVALID_OPERATION];
    const OPEN: &[u32] = &[115, BAD_DECRYPT, 103];
    const GATHER: &[u32] = &[115, CTRL_NOT_IMPLEMENTED];
    const BOTH_OPEN: &[u32] = &[115, BAD_DECRYPT, 103, CTRL_NOT_IMPLEMENTED];

    #[test]
    fn each_function_is_told_by_its_reasons() {
        // Where one is compiled into another it reports the same, too.
        for open in [OPEN, BOTH_OPEN] {
            let found = found_in(&[&[], INIT, WITH_DIRECTION, SEAL, SCATTER, open, GATHER], LIBRARY).unwrap();
            let symbols: Vec<Symbol> = found.iter().map(|(symbol, _)| *symbol).collect();
            let told = TOLD_BY.into_iter().map(|(symbol, _, _)| symbol);
            assert_eq!(symbols, told.chain([Symbol::AeadCleanup]).collect::<Vec<_>>());
            assert_eq!(found[0].1, CODE_AT + 64);
            assert_eq!(found.last(), Some(&(Symbol::AeadCleanup, CODE_AT)));
        }
    }

    #[test]
    fn what_is_there_twice_or_not_at_all_is_not_taken() {
        for functions in [
            &[INIT, WITH_DIRECTION, SEAL, SCATTER, OPEN, GATHER][..],
            &[&[], INIT, WITH_DIRECTION, SEAL, SEAL, SCATTER, OPEN, GATHER],
            &[&[], INIT, WITH_DIRECTION, SEAL, SCATTER, BOTH_OPEN],
            &[],
        ] {
            assert_eq!(found_in(functions, LIBRARY), None, "{functions:?}");
        }
        let another = [&[][..], INIT, WITH_DIRECTION, SEAL, SCATTER, OPEN, GATHER];
        assert_eq!(found_in(&another, LIBRARY + 1), None, "errors of another library");
    }

    #[test]
    fn tables_that_lie_do_no_harm() {
        let unwind = Piece { offset: u64::MAX - 8, len: u64::MAX, address: u64::MAX, is_code: false };
        let code = Piece { offset: u64::MAX - 8, len: u64::MAX, address: 0, is_code: true };
        let mut lie = vec![1, 0x1b, 0x03, 0x3b, 0, 0, 0, 0, 2, 0, 0, 0];
        lie.extend([0xff; 16]);
        for unwind in [unwind, Piece { offset: 0, ..unwind }] {
            let found = super::functions(&mut Cursor::new(&lie), &[code], &unwind, SOURCE_AT, &mut { 1 << 20 });
            assert!(matches!(found, Ok(None) | Err(_)));
        }
    }
}
