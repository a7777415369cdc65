//! Where in a library the probes go.
//!
//! A probe costs a trap per call, and far more where the kernel must single-step the instruction under it than where it
//! emulates it. Exported functions often begin with instructions of the dear kind. But in most builds `SSL_read` and
//! `SSL_read_ex` do no more than call one function with the same arguments, which begins with a `push`, and that one says
//! the end of a stream apart from a failure. So the code is read, and that function is probed in place of both where the
//! instructions prove that it is one; likewise for writing. What is not proved is probed at the exported functions.
//!
//! This is known for x86_64 only; elsewhere the exported functions are taken as they are.

use std::collections::BTreeMap;

use iced_x86::{
    Code as Opcode, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

use super::elf::Symbol;

/// Longest instruction there is.
const INSTRUCTION_BYTES: u64 = 15;

/// Instructions looked at per function, those that are met by several ways counted each time. `SSL_read` has about forty.
const MAX_STEPS: usize = 512;

/// Instructions that are passed over in search of one that the kernel emulates: `endbr64`, a test or two.
const MAX_PASSED_OVER: usize = 4;

/// A place for the probes of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The function whose arguments are to be found there.
    pub symbol: Symbol,
    /// Where in the file.
    pub offset: u64,
    /// Whether it is not the exported function but the one that does its work, and that of its like. It returns 1 where
    /// it has succeeded, and 0 at the end of a stream.
    pub internal: bool,
    /// Whether the kernel emulates the instruction there.
    pub emulated: bool,
}

/// An exported function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Export {
    pub(super) symbol: Symbol,
    pub(super) address: u64,
    pub(super) size: u64,
}

/// A file's code.
pub(super) trait Code {
    /// Bytes of code from this address on, at most `len`; `None` where there is none.
    fn bytes(&self, address: u64, len: u64) -> Option<&[u8]>;

    /// The function whose address the loader writes there, if it is one that is probed.
    fn imported(&self, slot: u64) -> Option<Symbol>;

    /// Where in the file the code at this address is.
    fn offset(&self, address: u64) -> Option<u64>;
}

/// Finds the places for these functions. `peeks` are those of `SSL_peek` and its like, which must not be probed.
pub(super) fn places(exports: &[Export], peeks: &[Export], code: &dyn Code) -> Vec<Place> {
    let reader = if cfg!(target_arch = "x86_64") { internal_read(exports, peeks, code) } else { None };
    let writer = if cfg!(target_arch = "x86_64") { internal_write(exports, code) } else { None };
    // One that does both would not be told apart.
    let is_odd = reader.zip(writer).is_some_and(|(reader, writer)| reader == writer.1);
    let (reader, writer) = if is_odd { (None, None) } else { (reader, writer) };

    let place = |symbol, address, internal| {
        let (address, emulated) = cheapest(code, address);
        code.offset(address).map(|offset| Place { symbol, offset, internal, emulated })
    };
    let replaced = |symbol| match symbol {
        Symbol::SslRead | Symbol::SslReadEx => reader.is_some(),
        Symbol::SslWrite | Symbol::SslWriteEx | Symbol::SslWriteEx2 => writer.is_some(),
        Symbol::SslFree
        | Symbol::SslNew
        | Symbol::GnutlsRecv
        | Symbol::GnutlsSend
        | Symbol::GnutlsSend2
        | Symbol::GnutlsDeinit
        | Symbol::NsprRead
        | Symbol::NsprRecv
        | Symbol::NsprWrite
        | Symbol::NsprSend
        | Symbol::NsprClose
        | Symbol::GoRead
        | Symbol::GoReadReturn
        | Symbol::GoReadReturnOnStack
        | Symbol::GoWrite
        | Symbol::GoWriteOnStack
        | Symbol::GoForget
        | Symbol::GoForgetOnStack
        | Symbol::AeadInit
        | Symbol::AeadInitWithDirection
        | Symbol::AeadCleanup
        | Symbol::AeadFree
        | Symbol::AeadSeal
        | Symbol::AeadSealScatter
        | Symbol::AeadOpen
        | Symbol::AeadOpenGather => false,
    };
    let exported = exports.iter().filter(|export| !replaced(export.symbol));
    let exported = exported.filter_map(|export| place(export.symbol, export.address, false));
    let reader = reader.and_then(|address| place(Symbol::SslReadEx, address, true));
    let writer = writer.and_then(|(symbol, address)| place(symbol, address, true));
    let mut places: Vec<Place> = exported.chain(reader).chain(writer).collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// `ssl_read_internal(ssl, buffer, length, *moved)`, if `SSL_read` and `SSL_read_ex` call it and `SSL_peek` does not.
fn internal_read(exports: &[Export], peeks: &[Export], code: &dyn Code) -> Option<u64> {
    let plain = lead(code, the(exports, Symbol::SslRead)?)?;
    let extended = lead(code, the(exports, Symbol::SslReadEx)?)?;
    let agree = plain.target == extended.target
        && plain.passes([Value::Argument(0), Value::Argument(1), Value::Length, Value::Stack])
        && extended.passes([0, 1, 2, 3].map(Value::Argument));
    let target = plain.function().filter(|_| agree)?;
    // It may have the work done through a pointer, but this function is never called so.
    let differs = |peek: &Export| {
        walk(code, *peek).is_some_and(|walk| walk.calls.values().all(|call| call.target != plain.target))
    };
    (!peeks.is_empty() && peeks.iter().all(differs) && !is_exported(exports, target)).then_some(target)
}

/// `ssl_write_internal` likewise, with the exported function that has the same arguments: those of `SSL_write_ex`, or from
/// OpenSSL 3.3 on, with flags, those of `SSL_write_ex2`.
fn internal_write(exports: &[Export], code: &dyn Code) -> Option<(Symbol, u64)> {
    let plain = lead(code, the(exports, Symbol::SslWrite)?)?;
    let extended = lead(code, the(exports, Symbol::SslWriteEx)?)?;
    let of_plain = [Value::Argument(0), Value::Argument(1), Value::Length];
    let target = plain.function().filter(|target| plain.passes(of_plain) && !is_exported(exports, *target))?;
    if !exports.iter().any(|export| export.symbol == Symbol::SslWriteEx2) {
        let agree = plain.target == extended.target
            && plain.arguments[3] == Value::Stack
            && extended.passes([0, 1, 2, 3].map(Value::Argument));
        return agree.then_some((Symbol::SslWriteEx, target));
    }
    let second = the(exports, Symbol::SslWriteEx2)?;
    let of_second = lead(code, second)?;
    let leads_there = match extended.target {
        Target::Function(address) => address == target || address == second.address,
        Target::Slot(slot) => code.imported(slot) == Some(Symbol::SslWriteEx2),
    };
    let agree = plain.target == of_second.target
        && plain.arguments[3..] == [Value::Zero, Value::Stack]
        && of_second.passes([0, 1, 2, 3, 4].map(Value::Argument))
        && leads_there
        && extended.passes([
            Value::Argument(0),
            Value::Argument(1),
            Value::Argument(2),
            Value::Zero,
            Value::Argument(3),
        ]);
    agree.then_some((Symbol::SslWriteEx2, target))
}

/// The only function of that name.
fn the(exports: &[Export], symbol: Symbol) -> Option<Export> {
    let mut named = exports.iter().filter(|export| export.symbol == symbol);
    let first = *named.next()?;
    named.all(|other| other.address == first.address).then_some(first)
}

fn is_exported(exports: &[Export], address: u64) -> bool {
    exports.iter().any(|export| export.address == address)
}

/// The first place, at the function's beginning or little behind it, at which the kernel emulates the instruction and
/// nothing that a probe looks at has changed: the stack pointer still points to the return address, and the arguments
/// are where they were. Every call comes past it. Without one, the beginning.
fn cheapest(code: &dyn Code, entry: u64) -> (u64, bool) {
    if cfg!(not(target_arch = "x86_64")) {
        return (entry, false);
    }
    let mut address = entry;
    let mut info = InstructionInfoFactory::new();
    for _ in 0..=MAX_PASSED_OVER {
        let Some(instruction) = decode(code, address) else { break };
        if is_emulated(&instruction) {
            return (address, true);
        }
        let used = info.info(&instruction);
        let changes = used.used_registers().iter().any(|used| {
            let register = used.register().full_register();
            let matters = matches!(register, Register::RSP | Register::R9) || ARGUMENTS.contains(&register);
            writes(used.access()) && matters
        });
        let stores = used.used_memory().iter().any(|used| writes(used.access()));
        if instruction.flow_control() != FlowControl::Next || changes || stores {
            break;
        }
        address = instruction.next_ip();
    }
    (entry, false)
}

/// Whether every kernel that runs our programs emulates it (arch/x86/kernel/uprobes.c): jumps, relative calls, pushes of
/// a register, and the one-byte nop.
pub(super) fn is_emulated(instruction: &Instruction) -> bool {
    match instruction.code() {
        Opcode::Push_r64 => instruction.len() <= 2,
        Opcode::Jmp_rel8_64 => instruction.len() == 2,
        Opcode::Jmp_rel32_64 | Opcode::Call_rel32_64 => instruction.len() == 5,
        Opcode::Nopd => instruction.len() == 1,
        _ if instruction.is_jcc_short() => instruction.len() == 2,
        _ if instruction.is_jcc_near() => instruction.len() == 6,
        _ => false,
    }
}

/// What a register holds, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// The function's own argument.
    Argument(u8),
    /// Its third one, an `int`, widened.
    Length,
    Zero,
    /// An address on the stack.
    Stack,
    Unknown,
}

/// Registers by their numbers.
type Values = [Value; 16];

/// The registers of the first five arguments, in their order.
const ARGUMENTS: [Register; 5] = [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8];

/// Registers that a call leaves as they were.
const KEPT: [Register; 7] =
    [Register::RBX, Register::RBP, Register::RSP, Register::R12, Register::R13, Register::R14, Register::R15];

/// Where a function leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Function(u64),
    /// A function of which the loader writes the address there.
    Slot(u64),
}

/// The only call that a function makes, besides calls through the loader's table (which report errors).
#[derive(Clone, Copy, Debug)]
struct Lead {
    target: Target,
    arguments: [Value; 5],
}

impl Lead {
    fn function(&self) -> Option<u64> {
        match self.target {
            Target::Function(address) => Some(address),
            Target::Slot(_) => None,
        }
    }

    fn passes<const N: usize>(&self, expected: [Value; N]) -> bool {
        self.arguments[..N] == expected
    }
}

/// Where a function leads, if it makes only one call.
fn lead(code: &dyn Code, function: Export) -> Option<Lead> {
    let walk = walk(code, function).filter(|walk| !walk.is_lost)?;
    let mut calls = walk.calls.into_values();
    calls.next().filter(|_| calls.next().is_none())
}

/// Follows all ways through a function; `None` if that cannot be done.
fn walk(code: &dyn Code, function: Export) -> Option<Walk<'_>> {
    let mut values = [Value::Unknown; 16];
    ARGUMENTS.iter().zip(0..).for_each(|(register, number)| values[register.number()] = Value::Argument(number));
    values[Register::RSP.number()] = Value::Stack;
    let within = function.address..function.address.checked_add(function.size)?;
    let (seen, calls) = (BTreeMap::new(), BTreeMap::new());
    let mut walk = Walk { code, within, seen, calls, is_lost: false, ways: vec![(function.address, values)] };
    let mut steps = MAX_STEPS;
    while let Some((address, values)) = walk.ways.pop() {
        steps = steps.checked_sub(1)?;
        walk.step(address, values)?;
    }
    Some(walk)
}

/// A walk through a function.
struct Walk<'a> {
    code: &'a dyn Code,
    within: std::ops::Range<u64>,
    seen: BTreeMap<u64, Values>,
    calls: BTreeMap<u64, Lead>,
    /// Whether something is called that is not known.
    is_lost: bool,
    ways: Vec<(u64, Values)>,
}

impl Walk<'_> {
    /// Takes one instruction, with what the registers hold before it.
    fn step(&mut self, address: u64, values: Values) -> Option<()> {
        let before = match self.seen.get(&address) {
            None => values,
            Some(seen) => {
                let both = merged(seen, &values);
                if both == *seen {
                    return Some(());
                }
                both
            }
        };
        self.seen.insert(address, before);
        let instruction = decode(self.code, address)?;
        let next = instruction.next_ip();
        match instruction.flow_control() {
            FlowControl::Next => self.go_on(next, after(&instruction, before)),
            FlowControl::ConditionalBranch => {
                let target = instruction.near_branch_target();
                // The part of a function that is hardly ever needed may lie elsewhere: what is there is not followed.
                self.within.contains(&target).then_some(())?;
                self.go_on(target, before);
                self.go_on(next, before);
            }
            FlowControl::UnconditionalBranch => {
                let target = instruction.near_branch_target();
                if self.within.contains(&target) {
                    self.go_on(target, before);
                } else {
                    let target = slot(self.code, target).map_or(Target::Function(target), Target::Slot);
                    self.note(address, target, &before);
                }
            }
            FlowControl::Call => {
                let target = instruction.near_branch_target();
                if slot(self.code, target).is_none() {
                    self.note(address, Target::Function(target), &before);
                }
                self.go_on(next, after_call(before));
            }
            FlowControl::IndirectCall if instruction.is_ip_rel_memory_operand() => self.go_on(next, after_call(before)),
            FlowControl::IndirectBranch if instruction.is_ip_rel_memory_operand() => {
                self.note(address, Target::Slot(instruction.memory_displacement64()), &before);
            }
            FlowControl::IndirectCall => {
                self.is_lost = true;
                self.go_on(next, after_call(before));
            }
            FlowControl::IndirectBranch => self.is_lost = true,
            FlowControl::Return | FlowControl::Exception => {}
            _ => return None,
        }
        Some(())
    }

    /// Behind a function's last instruction is the end of a way: it was a call that does not return.
    fn go_on(&mut self, address: u64, values: Values) {
        if self.within.contains(&address) {
            self.ways.push((address, values));
        }
    }

    fn note(&mut self, site: u64, target: Target, values: &Values) {
        let arguments = ARGUMENTS.map(|register| values[register.number()]);
        self.calls.insert(site, Lead { target, arguments });
    }
}

/// What is certain of the registers whichever way was taken.
fn merged(one: &Values, other: &Values) -> Values {
    std::array::from_fn(|register| if one[register] == other[register] { one[register] } else { Value::Unknown })
}

fn after_call(mut values: Values) -> Values {
    let kept = KEPT.map(Register::number);
    (0..values.len()).filter(|register| !kept.contains(register)).for_each(|lost| values[lost] = Value::Unknown);
    values
}

/// What the registers hold after an instruction that goes on to the next.
fn after(instruction: &Instruction, before: Values) -> Values {
    let mut values = before;
    for used in InstructionInfoFactory::new().info(instruction).used_registers() {
        let register = used.register().full_register();
        // The stack pointer points to the stack whatever is done to it.
        if writes(used.access()) && register.is_gpr64() && register != Register::RSP {
            values[register.number()] = Value::Unknown;
        }
    }
    let to = instruction.op0_register();
    let known = (instruction.op0_kind() == OpKind::Register && to != Register::RSP && (to.is_gpr64() || to.is_gpr32()))
        .then(|| result(instruction, &before))
        .flatten();
    if let Some(value) = known {
        values[to.full_register().number()] = value;
    }
    values
}

/// What a register holds after an instruction that wrote all of it, where that is known.
fn result(instruction: &Instruction, before: &Values) -> Option<Value> {
    let from = instruction.op1_register();
    let is_register = instruction.op1_kind() == OpKind::Register && (from.is_gpr64() || from.is_gpr32());
    let held = || before[from.full_register().number()];
    match instruction.mnemonic() {
        Mnemonic::Mov if is_register && from.is_gpr64() => Some(held()),
        Mnemonic::Mov | Mnemonic::Movsxd if is_register => match held() {
            Value::Argument(2) | Value::Length => Some(Value::Length),
            Value::Zero => Some(Value::Zero),
            _ => None,
        },
        Mnemonic::Mov if !is_register && instruction.op1_kind() != OpKind::Memory => {
            instruction.try_immediate(1).is_ok_and(|value| value == 0).then_some(Value::Zero)
        }
        Mnemonic::Xor | Mnemonic::Sub if is_register && from == instruction.op0_register() => Some(Value::Zero),
        Mnemonic::Lea => {
            let base = instruction.memory_base();
            let on_stack = base.is_gpr64() && before[base.number()] == Value::Stack;
            (on_stack && instruction.memory_index() == Register::None).then_some(Value::Stack)
        }
        _ => None,
    }
}

fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// Where the loader writes the address of the function that a stub jumps to, if there is a stub.
fn slot(code: &dyn Code, address: u64) -> Option<u64> {
    let mut instruction = decode(code, address)?;
    if instruction.code() == Opcode::Endbr64 {
        instruction = decode(code, instruction.next_ip())?;
    }
    let jumps = instruction.flow_control() == FlowControl::IndirectBranch && instruction.is_ip_rel_memory_operand();
    jumps.then(|| instruction.memory_displacement64())
}

pub(super) fn decode(code: &dyn Code, address: u64) -> Option<Instruction> {
    let bytes = code.bytes(address, INSTRUCTION_BYTES)?;
    let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

#[cfg(all(test, target_arch = "x86_64"))]
#[path = "placement_tests.rs"]
mod tests;
