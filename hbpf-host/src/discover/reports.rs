//! The AEAD functions of aws-lc in a stripped program, told by the errors that they report.
//!
//! A function that reports an error passes the name of its source file, which stands in the program once, its library's number
//! and a reason (`OPENSSL_PUT_ERROR`). No other function of that file reports the same reasons, whatever compiler has made it.
//! Where functions begin is written for those who unwind the stack (`.eh_frame_hdr`, Linux Standard Base 5.0, 10.6.2), which stays when a
//! program is stripped. Some have none: there a function begins where more than one call leads, or a call and a jump. It ends where nothing leads
//! farther. Each must be there once, or none is taken. x86_64 only.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use iced_x86::{Code as Opcode, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use memchr::{memchr_iter, memchr2_iter, memmem};

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

/// Most places that pass the file's name; there are about ten.
const MAX_PLACES: usize = 64;

/// The places lie no farther apart than that: they are of one file.
const MAX_SPREAD: u64 = 64 * 1024;

/// The longest function that is looked at, and how far from those places others are looked for.
const MAX_FUNCTION_BYTES: u64 = 4096;

/// Most functions of a program; large ones have half a million.
const MAX_FUNCTIONS: u32 = 4 * 1024 * 1024;

/// So many calls and jumps lead to a function, at the least: what looks like one and is none leads to any place once.
const CALLED: usize = 2;

/// `EVP_AEAD_CTX_cleanup` and `EVP_AEAD_CTX_free` report nothing. They are no longer than this.
const MAX_CLEANUP_BYTES: u64 = 128;

/// Finds the functions, by their addresses. `unwind` is what says where functions begin, and `source_at` where the source file's name is.
pub(super) fn functions(
    file: &mut (impl Read + Seek),
    pieces: &[Piece],
    unwind: Option<&Piece>,
    source_at: u64,
    left: &mut u64,
) -> std::io::Result<Option<Vec<(Symbol, u64)>>> {
    if cfg!(not(target_arch = "x86_64")) {
        return Ok(None);
    }
    let code = || pieces.iter().filter(|piece| piece.is_code);
    let mut places = BTreeSet::new();
    for piece in code() {
        search(file, piece, left, &mut |bytes, address| note_places(bytes, address, source_at, &mut places))?;
    }
    let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(None) };
    let near = first.saturating_sub(MAX_FUNCTION_BYTES)..last.saturating_add(MAX_FUNCTION_BYTES);
    if near.end - near.start > MAX_SPREAD {
        return Ok(None);
    }
    let mut starts = match unwind {
        Some(unwind) => described(file, unwind, &near, left)?,
        None => BTreeSet::new(),
    };
    if starts.is_empty() {
        let mut called = BTreeMap::<u64, Called>::new();
        for piece in code() {
            search(file, piece, left, &mut |bytes, address| note_called(bytes, address, &near, &mut called))?;
        }
        starts = called.into_iter().filter(|(_, called)| called.is_function()).map(|(start, _)| start).collect();
    }
    let mut found = Vec::new();
    for start in &starts {
        let Some(function) = look(file, pieces, *start, &starts)? else { continue };
        let reports = |reason| function.is_of_library && function.reasons.contains(&reason);
        let is = |(_, reason, other): &(Symbol, u32, Option<u32>)| reports(*reason) && !other.is_some_and(reports);
        let takes_name = places.range(*start..function.end).next().is_some();
        let told = TOLD_BY.iter().filter(|told| takes_name && is(told)).map(|(symbol, _, _)| *symbol);
        // One that cleans up reports nothing. One too many does no harm: what it is called with is no context that is known.
        found
            .extend(told.chain((!takes_name && function.cleans).then_some(Symbol::AeadCleanup)).map(|it| (it, *start)));
    }
    let how_often = |symbol| found.iter().filter(|(other, _)| *other == symbol).count();
    let are_all_there = TOLD_BY.iter().all(|(symbol, _, _)| how_often(*symbol) == 1);
    Ok((are_all_there && how_often(Symbol::AeadCleanup) > 0).then_some(found))
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

/// Which functions within the range are described; none where that is not written in the usual form.
fn described(
    file: &mut (impl Read + Seek),
    unwind: &Piece,
    near: &Range<u64>,
    left: &mut u64,
) -> std::io::Result<BTreeSet<u64>> {
    /// Version; how the pointer to the frames, the number of entries and the entries are written: in four bytes each, the
    /// entries relative to where the table begins.
    const HEAD: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
    const HEAD_BYTES: u64 = 12;
    const ENTRY_BYTES: u64 = 8;
    file.seek(SeekFrom::Start(unwind.offset))?;
    let mut head = [0; HEAD_BYTES as usize];
    if file.by_ref().take(HEAD_BYTES).read_exact(&mut head).is_err() || head[..4] != HEAD {
        return Ok(BTreeSet::new());
    }
    let count = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    let len = u64::from(count) * ENTRY_BYTES;
    if count > MAX_FUNCTIONS || len > unwind.len.saturating_sub(HEAD_BYTES) || len > *left {
        return Ok(BTreeSet::new());
    }
    *left -= len;
    let mut table = Vec::with_capacity(len as usize);
    file.by_ref().take(len).read_to_end(&mut table)?;
    let (entries, _) = table.as_chunks::<{ ENTRY_BYTES as usize }>();
    let start =
        |[a, b, c, d, ..]: &[u8; 8]| unwind.address.wrapping_add_signed(i32::from_le_bytes([*a, *b, *c, *d]).into());
    Ok(entries.iter().map(start).filter(|start| near.contains(start)).collect())
}

/// From where an address is called, and jumped to. What lies in two of the parts that are searched is met twice.
#[derive(Default)]
struct Called {
    calls: BTreeSet<u64>,
    jumps: BTreeSet<u64>,
}

impl Called {
    /// Jumps alone may be those of a loop.
    fn is_function(&self) -> bool {
        !self.calls.is_empty() && self.calls.len() + self.jumps.len() >= CALLED
    }
}

/// Notes which addresses within the range are called in these bytes of code, and from where.
fn note_called(bytes: &[u8], address: u64, near: &Range<u64>, called: &mut BTreeMap<u64, Called>) {
    // call displacement; jmp displacement
    for at in memchr2_iter(0xe8, 0xe9, bytes) {
        let Some(displacement) = bytes.get(at + 1..).and_then(<[u8]>::first_chunk) else { continue };
        let end = address.wrapping_add(at as u64 + 5);
        let target = end.wrapping_add_signed(i32::from_le_bytes(*displacement).into());
        if near.contains(&target) {
            let Called { calls, jumps } = called.entry(target).or_default();
            let from = if bytes[at] == 0xe8 { calls } else { jumps };
            if from.len() < CALLED {
                from.insert(end);
            }
        }
    }
}

/// What is seen of a function.
struct Function {
    /// Behind its last instruction.
    end: u64,
    /// It passes the library's number, where that is passed.
    is_of_library: bool,
    /// Numbers that it passes where a reason is passed.
    reasons: BTreeSet<u32>,
    /// It has something done through a pointer, and clears one: what frees a context, if it is short.
    cleans: bool,
}

/// Reads a function, up to where nothing leads farther; `None` where there is none.
fn look(
    file: &mut (impl Read + Seek),
    pieces: &[Piece],
    start: u64,
    starts: &BTreeSet<u64>,
) -> std::io::Result<Option<Function>> {
    let holds = |piece: &&Piece| piece.is_code && start.checked_sub(piece.address).is_some_and(|at| at < piece.len);
    let Some(piece) = pieces.iter().find(holds) else { return Ok(None) };
    let Some(offset) = piece.offset.checked_add(start - piece.address) else { return Ok(None) };
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::with_capacity(MAX_FUNCTION_BYTES as usize);
    file.by_ref().take(MAX_FUNCTION_BYTES).read_to_end(&mut bytes)?;
    let mut function = Function { end: start, is_of_library: false, reasons: BTreeSet::new(), cleans: false };
    let (mut calls_pointer, mut clears) = (false, false);
    // The farthest place that a jump leads to.
    let mut farthest = start;
    let mut before = Instruction::default();
    for instruction in &mut Decoder::with_ip(64, &bytes, start, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            break;
        }
        function.end = instruction.next_ip();
        function.is_of_library |= number(&before, &instruction, Register::RDI) == Some(LIBRARY);
        function.reasons.extend(number(&before, &instruction, Register::RDX));
        before = instruction;
        calls_pointer |= instruction.flow_control() == FlowControl::IndirectCall;
        clears |= clears_pointer(&instruction);
        let target = instruction.near_branch_target();
        match instruction.flow_control() {
            FlowControl::ConditionalBranch => farthest = farthest.max(target),
            // Else it is a call in a jump's clothes.
            FlowControl::UnconditionalBranch if !starts.contains(&target) && target < start + MAX_FUNCTION_BYTES => {
                farthest = farthest.max(target);
            }
            _ => {}
        }
        let goes_on = matches!(
            instruction.flow_control(),
            FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall | FlowControl::ConditionalBranch
        );
        if !goes_on && function.end > farthest {
            break;
        }
    }
    function.cleans = calls_pointer && clears && function.end - start <= MAX_CLEANUP_BYTES;
    Ok(Some(function))
}

/// The number that an instruction puts into this register, or two of them by way of the stack, which is shorter.
fn number(before: &Instruction, instruction: &Instruction, register: Register) -> Option<u32> {
    if instruction.op0_register().full_register() != register {
        return None;
    }
    match instruction.mnemonic() {
        Mnemonic::Mov if instruction.op1_kind() == OpKind::Immediate32 => Some(instruction.immediate32()),
        Mnemonic::Pop if before.code() == Opcode::Pushq_imm8 => u32::try_from(before.immediate8to64()).ok(),
        _ => None,
    }
}

/// Whether it clears what a register points to.
fn clears_pointer(instruction: &Instruction) -> bool {
    let is_cleared = match instruction.code() {
        Opcode::Mov_rm64_imm32 => instruction.immediate32to64() == 0,
        Opcode::And_rm64_imm8 => instruction.immediate8to64() == 0,
        _ => false,
    };
    is_cleared
        && instruction.op0_kind() == OpKind::Memory
        && instruction.memory_base().is_gpr64()
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == 0
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
            // One number goes by way of the stack: push library; pop rdi; mov edx, reason
            code.extend([0x6a, library.to_le_bytes()[0], 0x5f]);
            code.extend([&[0xba][..], &reason.to_le_bytes()].concat());
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

    /// Functions in this order, each with its reasons, and one that calls them all; one without reasons cleans up.
    fn found_in(functions: &[&[u32]], library: u32) -> Option<Vec<(Symbol, u64)>> {
        let (mut code, mut starts, mut table) = (Vec::new(), Vec::new(), vec![1, 0x1b, 0x03, 0x3b, 0, 0, 0, 0]);
        table.extend(u32::try_from(functions.len()).unwrap().to_le_bytes());
        for reasons in functions {
            let address = CODE_AT + code.len() as u64;
            starts.extend([address; CALLED]);
            table.extend(i32::try_from(address as i64 - UNWIND_AT as i64).unwrap().to_le_bytes());
            table.extend([0; 4]);
            code.extend(if reasons.is_empty() { CLEANUP.to_vec() } else { reporting(address, library, reasons) });
            code.resize(code.len().next_multiple_of(64), 0xcc);
        }
        for start in starts {
            let end = CODE_AT + code.len() as u64 + 5;
            let displacement = i32::try_from(start as i64 - end as i64).unwrap();
            code.extend([&[0xe8][..], &displacement.to_le_bytes()].concat());
        }
        let pieces = [Piece { offset: 0, len: code.len() as u64, address: CODE_AT, is_code: true }];
        let unwind = Piece { offset: code.len() as u64, len: table.len() as u64, address: UNWIND_AT, is_code: false };
        let mut file = Cursor::new([code, table].concat());
        let mut find = |unwind| super::functions(&mut file, &pieces, unwind, SOURCE_AT, &mut { 1 << 20 }).unwrap();
        let found = find(Some(&unwind));
        assert_eq!(find(None), found, "by what describes functions, and by who calls them");
        found
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
            assert_eq!(symbols, [Symbol::AeadCleanup].into_iter().chain(told).collect::<Vec<_>>());
            assert_eq!((found[0].1, found[1].1), (CODE_AT, CODE_AT + 64));
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
    fn a_function_ends_where_nothing_leads_farther() {
        // jz +1; ret; mov edi, 30; ret; and what is no part of it.
        let code = [&[0x74, 0x01, 0xc3, 0xbf, 30, 0, 0, 0, 0xc3][..], &[0xba, 117, 0, 0, 0]].concat();
        let pieces = [Piece { offset: 0, len: code.len() as u64, address: CODE_AT, is_code: true }];
        let function = look(&mut Cursor::new(code), &pieces, CODE_AT, &BTreeSet::new()).unwrap().unwrap();
        assert_eq!((function.end, function.is_of_library, function.reasons.len()), (CODE_AT + 9, true, 0));
    }

    #[test]
    fn pieces_that_lie_do_no_harm() {
        let code = Piece { offset: u64::MAX - 8, len: u64::MAX, address: u64::MAX - 2, is_code: true };
        for piece in [code, Piece { offset: 0, ..code }, Piece { offset: 0, address: 0, ..code }] {
            let bytes = [0x48, 0x8d, 0x0d, 0, 0, 0, 0, 0xe8, 0xf0, 0xff, 0xff, 0xff].repeat(8);
            for source_at in [7, 19, u64::MAX] {
                let mut file = Cursor::new(&bytes);
                let found = super::functions(&mut file, &[piece], Some(&piece), source_at, &mut { 1 << 20 });
                assert!(matches!(found, Ok(None) | Err(_)));
            }
        }
    }
}
